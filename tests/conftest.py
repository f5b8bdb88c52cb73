"""Every test starts from an empty cache: a cached result would hide what broke."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported

import pytest
from hypothesis import settings

# The same examples each time (a failure repeats itself), and no deadline: the machine has other
# work to do.
settings.register_profile("book", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("book")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLFC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLFC_PROGRESS", raising=False)
