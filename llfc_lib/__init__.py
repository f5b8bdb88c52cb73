"""Layerwise Linear Feature Connectivity: models, training, metrics, and the records behind the
book.
"""

from pathlib import Path

__version__ = "0.1.0"

#: The checkout: records and shipped endpoints are read from here, never from the working directory.
ROOT = Path(__file__).resolve().parent.parent
