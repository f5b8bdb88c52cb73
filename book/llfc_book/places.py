"""Where the book's files lie. The cache's place can be named by an environment variable."""

import os
from pathlib import Path

#: The checkout: records and shipped endpoints are read from here, never from the working directory.
ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "book" / "data"
RECORDS = ROOT / "book" / "records"
ENDPOINTS = ROOT / "book" / "endpoints"
UNFINISHED = ROOT / "book" / "unfinished"


def cache_dir() -> Path:
    """Folder of checkpoints and finished units: ``$LLFC_CACHE``, else ``~/.cache/llfc-book``."""
    return Path(os.environ.get("LLFC_CACHE") or Path.home() / ".cache" / "llfc-book")
