"""Layerwise Linear Feature Connectivity: models, training, matching, and metrics of pairs of networks."""

__version__ = "0.1.0"
