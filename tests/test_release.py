"""What a release needs: a wheel that works alone, one version everywhere, pinned requirements."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import llfc_lib

ROOT = Path(__file__).resolve().parents[1]

#: Used by somebody who has the wheel and no checkout: embedded data, training, comparison.
USE = """
import sys
import llfc_lib
from llfc_lib.compare import compare
from llfc_lib.data import load
from llfc_lib.training.checkpoints import Checkpoint
from llfc_lib.training.loop import fit, new_network
from llfc_lib.training.recipe import Recipe

assert llfc_lib.__file__.startswith(sys.argv[1]), llfc_lib.__file__
data = load("digits")
recipe = Recipe("mine", "mlp", "digits", 1, 60, "adam", 1e-3, model_args=(("hidden", 16),))
nets = [new_network(recipe, data) for _ in "AB"]
start = Checkpoint(nets[0].state_dict())
for net, branch in zip(nets, "AB"):
    net.load_state_dict(fit(start, recipe, data, (0, branch), 1).model)
print(compare(*nets, data.loader(first=100), matching=None, draws=1))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools leaves its build folder beside the source
    source.mkdir()
    for name in ("llfc_lib", "book", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", folder, source], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_whole_library_and_its_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "llfc_lib").rglob("*.py")} <= set(names)
    assert "llfc_lib/py.typed" in names and any(name.endswith("licenses/LICENSE") for name in names)
    assert not [
        name for name in names if not re.match(r"llfc_lib[/-]", name) or "__pycache__" in name
    ]


def test_the_library_works_from_the_wheel_with_embedded_data(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "site"),
        "LLFC_CACHE": str(tmp_path / "cache"),
        "LLFC_DATA": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "site")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "barrier" in done.stdout


def test_one_version_everywhere():
    project = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[
        1
    ]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+), (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert llfc_lib.__version__ == project == citation["version"] == newest[1]
    assert str(citation["date-released"]) == newest[2]
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)


def test_requirements_are_pinned_exactly():
    lines = [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert lines[:2] == ["-e .", "-e ./book"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines[2:])
