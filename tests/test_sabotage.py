"""The regression net: whatever is measured, a wrong factor or a lost term in it is noticed by the
live check of a page.

One small error at a time is put into a copy of both packages, and the check that should notice it
is run on that.
"""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from llfc_book.appendix.lemma import Margins
from llfc_book.study import catalogue
from nets import conv, loader, mlp, near
from torch import nn

from llfc_lib import metrics
from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Commutativity,
    SameWeights,
    Stitching,
    Transfer,
    WeakAdditivity,
)
from llfc_lib.metrics.decomposition import Decomposition

ROOT = Path(__file__).resolve().parents[1]

#: Where something is noticed: what a page does, folded, when it is executed.
CHECKS = {
    "lmc": 'here.checked("lmc_perm")',
    "lmc of one start": 'here.checked("lmc_mlp")',
    "orders": 'here.check("lmc_perm", here.orders("mlp_mnist_perm"), "orders")',
    "llfc": 'here.checked("fig12")',
    "commutativity": 'here.checked("fig17")',
    "stitching": 'here.checked("stitch_perm")',
    "strong": 'here.checked("strong")',
    "spectra": (
        "told = []\nfor name in ('fig20', 'fig21'):\n    try:\n        here.checked(name)\n"
        "    except AssertionError as error:\n        told.append(str(error))\n"
        "assert not told, ''.join(told)"
    ),
    "joint": 'here.checked("joint")',
    "lemma": 'here.checked("lemma")',
    "decomposition": 'here.checked("decomposition")',
    "convolutional": (
        'here.checked("decomposition", of=("vgg16_cifar10_spawn", "resnet20_cifar10_spawn"))'
    ),
    "theorem": 'findings.tell("A2_theorem")',
    "derivation": 'findings.tell("A3_assignment")',
}


@dataclass(frozen=True)
class Sabotage:
    """``new`` for ``old``, a part of one module's syntax tree, makes ``of`` wrong.

    ``of`` are public names, and quantities of rows.
    """

    module: str
    old: str
    new: str
    check: str
    of: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.module.rpartition('.')[2]}: {', '.join(self.of)}"


SABOTAGES = [
    Sabotage(**entry | {"of": tuple(entry["of"])})
    for entry in tomllib.loads((Path(__file__).parent / "sabotages.toml").read_text())["sabotage"]
]


#: What no chapter measures when it is executed, and why. Whatever comes to be noticed leaves this
#: list.
OPEN = {
    "METRICS": "names metrics, measures none",
    "Row": "holds a number, measures none",
    "Coherence": "tests/test_second_edition.py sabotages it against the record",
    **dict.fromkeys(("WeakAdditivity", "dist_add", "t"), "no page tells it any more"),
    **dict.fromkeys(
        (f"{what}_other" for what in ("share", "turned", "origin")),
        "no network of the book has such a node of its own",
    ),
}
#: Runs one check after the other in a process of its own, forked from one that has imported all
#: but the two packages: each job is a folder with copies of these, and a line of code.
RUNNER = """
import importlib, json, os, sys, traceback

for name in ("torch._dynamo", "torch.func", "torch.fx", "pandas", "scipy.optimize", "scipy.stats",
             "safetensors.torch", "sklearn.datasets", "matplotlib.backends.backend_agg", "tqdm"):
    importlib.import_module(name)
jobs, running = json.load(sys.stdin), {}
while jobs or running:
    while jobs and len(running) < 2:
        folder, code = jobs.pop()
        if (child := os.fork()) == 0:
            told = open(os.path.join(folder, "told"), "w")
            os.dup2(told.fileno(), 1), os.dup2(told.fileno(), 2)
            try:
                os.chdir(folder)
                os.environ["LLFC_CACHE"] = os.path.join(folder, "cache")
                sys.path[:0] = [folder, os.path.join(folder, "book")]
                exec(code, {})
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            print("passed", flush=True)
            os._exit(0)
        running[child] = folder
    child, _ = os.wait()
    running.pop(child)
"""
#: What is held against a record is noticed on one pair.
BEGIN = """
import llfc_book, llfc_lib
assert llfc_lib.__file__.startswith({folder!r}) and llfc_book.__file__.startswith({folder!r})
from llfc_book import findings
from llfc_book.chapter import Chapter
from llfc_book.study import settings
settings.PAIRS["smoke"].update(dict.fromkeys(settings.PAIRS["smoke"], 1))
here = Chapter("smoke", False, "cpu")
print("ready")
{check}
"""
#: How a check says that its numbers are others: an assertion, a sentence that no longer stands, or
#: rows that no record has.
NOTICED = re.compile(
    r"^AssertionError\b|no longer stands|^llfc_book.records.RecordError: \d+ of \d+ numbers"
    r"|^RuntimeError: f\(pi\(B\)\) differs",
    re.M,
)


@cache
def quantities() -> frozenset[str]:
    """All that any metric yields, and what is on record of matchings and splits; a spectrum and its
    quantiles by its name.
    """

    def rows(a: nn.Module, b: nn.Module, images: list) -> list[metrics.Row]:
        every = (
            LLFC(pre=True, raw=True),
            Commutativity(),
            WeakAdditivity(),
            SameWeights(),
            Stitching(raw=True),
            Transfer(),
            Barrier(),
            Decomposition(),
            Margins(),
        )
        return metrics.measure(a, b, images, every)

    a, b, images = mlp(0), near(mlp(0), 1), loader()
    found = rows(a, b, images) + metrics.displacement_null(
        a, b, images, lambda: [Barrier()], "rotation", draws=1
    )
    found += metrics.weight_spectra(
        a, b, living=metrics.living_units(a, images)
    ) + metrics.feature_spectra(a, images)
    a.fc1.bias.data[:] = -100.0  # no unit responds
    found += rows(a, b, images) + rows(conv(0), conv(1), loader(shape=(2, 6, 6)))
    torch.manual_seed(0)
    pooled = (
        nn.Sequential(
            nn.Conv2d(2, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 5),
        )
        .double()
        .eval()
    )
    found += rows(pooled, near(pooled, 1), loader(shape=(2, 6, 6)))
    named = {row.quantity for row in found}.union(
        *(catalogue.QUANTITIES[name] for name in ("matching", "joint minimum", "split"))
    )
    return frozenset(name.partition("/")[0] for name in named)


def source_of(module: str) -> Path:
    return Path(importlib.util.find_spec(module).origin)


def sabotaged(sabotage: Sabotage) -> str:
    """The module's source with ``new`` in the one place of its syntax tree that reads ``old``."""
    tree = ast.parse(source_of(sabotage.module).read_text())
    alike, new = alike_in(tree, sabotage.old), parsed(sabotage.new)
    assert len(alike) == 1, f"{sabotage.module} has {len(alike)} times\n{sabotage.old}"

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return new if node is alike[0] else self.generic_visit(node)

    return ast.unparse(Replace().visit(tree))


def alike_in(tree: ast.AST, text: str) -> list[ast.AST]:
    sought = ast.dump(parsed(text))
    return [node for node in ast.walk(tree) if ast.dump(node) == sought]


def parsed(text: str) -> ast.AST:
    """An expression, or a statement that is none."""
    (statement,) = ast.parse(text).body
    return statement.value if isinstance(statement, ast.Expr) else statement


def lay_out(folder: Path, packages: Path, sabotage: Sabotage | None = None) -> None:
    """Packages of its own, with one error or none, the records and the networks."""
    shutil.copytree(packages, folder)
    if sabotage is not None:
        place = source_of(sabotage.module).relative_to(ROOT)
        (folder / place).write_text(sabotaged(sabotage))
    for part in ("data", "records", "endpoints"):
        (folder / "book" / part).symlink_to(ROOT / "book" / part)


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory) -> Mapping[str, str]:
    """What each check says under each sabotage that is asked for, and (by the check's name) under
    none.
    """
    library, folder = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("copies")
    for package in ("llfc_lib", "book/llfc_book"):
        source, ignored = ROOT / package, shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, library / package, ignore=ignored)
    subprocess.run([sys.executable, "-m", "compileall", "-q", library])
    asked = {
        item.callspec.params["sabotage"].id: item.callspec.params["sabotage"]
        for item in request.session.items
        if item.path == Path(__file__) and "sabotage" in getattr(item, "fixturenames", ())
    }
    jobs, places = [], {}
    for name, sabotage in [*asked.items(), *((check, None) for check in CHECKS)]:
        copy, check = folder / f"s{len(places):03}", sabotage.check if sabotage else name
        tree = ast.parse(source_of(sabotage.module).read_text()) if sabotage else None
        if sabotage and len(alike_in(tree, sabotage.old)) != 1:
            continue  # its test says so
        lay_out(copy, library, sabotage)
        places[name] = copy / "told"
        code = BEGIN.format(folder=str(copy), check=CHECKS[check])
        jobs.append((str(copy), code))
    run = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""},
    )
    assert run.returncode == 0, run.stderr
    return {name: place.read_text() for name, place in places.items()}


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: s.id)
def test_a_check_notices(sabotage, outcomes):
    sabotaged(sabotage)
    told = outcomes[sabotage.id]
    assert told.startswith("ready"), f"it does not even begin:\n{told}"
    assert NOTICED.search(told), told
    if "live numbers differ from the record" in told:  # which says what differs
        assert [
            q
            for q in sabotage.of
            if q in quantities() and not re.search(rf"(?<![\w-]){re.escape(q)}(?![\w-])", told)
        ] == [], told


@pytest.mark.parametrize("check", CHECKS)
def test_a_copy_without_sabotage_passes(check, outcomes):
    assert outcomes[check].splitlines()[-1] == "passed", outcomes[check]


def test_whatever_is_measured_is_sabotaged():
    """A new metric, or a new quantity of an old one, needs a line above."""
    covered = {name for sabotage in SABOTAGES for name in sabotage.of}
    there = (
        quantities()
        | set(metrics.__all__)
        | {"activation_matching", "weight_matching", "straight_through", "Residual", "local_search"}
    )
    assert sorted(there - covered - set(OPEN)) == []
    assert sorted(covered & set(OPEN)) == sorted(set(OPEN) - there) == []
    assert {"Decomposition", "Margins"} <= covered
    assert len({sabotage.id for sabotage in SABOTAGES}) == len(SABOTAGES)
