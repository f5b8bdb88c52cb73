"""Where things lie on this machine. Environment variables override each place.

Source: this book.
"""

import os
from pathlib import Path

from llfc_lib import ROOT

RECORDS = ROOT / "book" / "records"
ENDPOINTS = ROOT / "book" / "endpoints"
UNFINISHED = ROOT / "book" / "unfinished"


def cache_dir() -> Path:
    """Folder of checkpoints and finished units: ``$LLFC_CACHE``, else ``~/.cache/llfc-book``."""
    return Path(os.environ.get("LLFC_CACHE") or Path.home() / ".cache" / "llfc-book")


def data_dir() -> Path:
    """Folder of ``<name>.npz`` archives: ``$LLFC_DATA``, else ``~/.cache/llfc-book/data``."""
    return Path(os.environ.get("LLFC_DATA") or Path.home() / ".cache" / "llfc-book" / "data")


def writable(folder: Path) -> Path:
    """Make ``folder`` and return it; one that cannot be written to is a PermissionError that says
    what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"cannot write to {folder} ({error.strerror}); set LLFC_CACHE to a folder that you can"
            " write to"
        ) from error
    return folder


def atomic_write(path: Path, content: bytes) -> None:
    """Write ``content`` so that a kill at any moment leaves the old file or the new one, never half
    of one.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
