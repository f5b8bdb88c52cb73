"""The system's Chromium, which prints the book and looks at its pages in the tests."""

import os
import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no Chromium: apt-get install chromium, or name one in LLFC_CHROMIUM"


def chromium() -> str | None:
    """Its path, if there is one: ``$LLFC_CHROMIUM``, else the first on the PATH."""
    return os.environ.get("LLFC_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
