"""Layerwise Linear Feature Connectivity: models, training, matching, metrics of pairs."""

__version__ = "0.1.0"
