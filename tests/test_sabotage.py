"""The regression net: whatever is measured, a wrong factor or a lost term in it turns a chapter
red.

One small error at a time is put into a copy of the library, and nbval re-executes the cells of the
chapter that should notice it.
"""

import ast
import importlib.util
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
from xml.etree import ElementTree

import nbformat
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

#: Where something is noticed: the chapter, and what the cells hold that are needed beside the first
#: two (parameters and imports).
CHECKS = {
    "lmc": ("B1_matching", ('here.live("lmc_perm")', 'here.check("lmc_perm", live)')),
    "lmc of one start": ("B1_settings", ('here.check("lmc_mlp"',)),
    "orders": ("B1_matching", ('here.orders("mlp_mnist_perm")',)),
    "llfc": ("B2_llfc_perm", ('here.live("fig12")', 'here.check("fig12"')),
    "commutativity": ("B3_commutativity_perm", ('here.live("fig17")', 'here.check("fig17"')),
    "stitching": ("B4_stitching_perm", ('here.live("stitch_perm")', 'here.check("stitch_perm"')),
    "strong": ("B5_rebasin", ('here.live("strong")', 'here.check("strong"')),
    "spectra": ("B5_rebasin", ('here.live("fig20")', 'here.live("fig21")')),
    "joint": ("B5_rebasin", ('here.live("joint")',)),
    "lemma": ("A1_lemma", ('here.live("lemma")', 'here.check("lemma"')),
    "tight": ("A1_lemma", ("proofs.tight()",)),
    "factor": ("A1_lemma", ("proofs.factor()",)),
    "no llfc": ("A1_lemma", ("proofs.no_llfc(",)),
    "decomposition": (
        "A2_decomposition",
        ('here.live("decomposition")', 'here.check("decomposition", live)'),
    ),
    "convolutional": ("A2_decomposition", ('here.live("decomposition", of=',)),
    "simulation": ("A2_decomposition", ("decomposition.simulate()",)),
    "theorem": ("A2_theorem", ("proofs.constructed(",)),
    "normalisation": ("A2_theorem", ("proofs.normalised(",)),
    "steps": ("A3_assignment", ("identities.deviations(cases)",)),
    "tiny": ("A3_assignment", ("tiny_draws(", "assignment.coupling(")),
    "assignment": ("A3_assignment", ("assignment.solved(",)),
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
    **dict.fromkeys(
        ("Coherence",),
        "no page shows it yet: tests/test_second_edition.py holds it against the record",
    ),
    **dict.fromkeys(
        (f"{what}_other" for what in ("share", "turned", "origin")),
        "no network of the book has such a node of its own",
    ),
}
CONTROL = "nothing"  # is wrong in this copy
WHERE = """assert Path(llfc_lib.__file__).resolve().parents[1] == Path().resolve().parent
assert Path(llfc_book.__file__).resolve().parents[2] == Path().resolve().parent"""
#: What is held against a record is noticed on one pair, and without partners displaced at random,
#: if it is not about these.
ONE_PAIR = """from llfc_book.study import settings
settings.PAIRS["smoke"].update(dict.fromkeys(settings.PAIRS["smoke"], 1))"""
NOT_DISPLACED = "from llfc_book.study.measures import pair\npair.DISPLACED.clear()"
#: How a chapter says that its numbers are others: nbval's comparison, an assertion, or rows that no
#: record has.
NOTICED = re.compile(
    r"Cell outputs differ|^AssertionError\b|^RecordError: \d+ of \d+ numbers measured now are not"
    r" in the record",
    re.M,
)


@dataclass(frozen=True)
class Outcome:
    """What nbval says of each of the ``cells`` that fail (by number)."""

    cells: int
    failures: Mapping[int, str]


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
    named = (
        {row.quantity for row in found} | catalogue.FOUND | catalogue.JOINT | catalogue.DECOMPOSED
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


def cut_down(check: str) -> nbformat.NotebookNode:
    """The chapter's cells as they are committed, those that ``check`` needs, behind one that asks
    where the library comes from.

    What measures live measures one pair. Its cells assert; what they show then counts fewer
    numbers, and is not compared.
    """
    chapter, texts = CHECKS[check]
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for text in texts:
        assert sum(text in cell.source for cell in code[2:]) == 1, (
            f"{chapter} has no cell, or several, with {text!r}"
        )
    first = nbformat.v4.new_code_cell(
        f"from pathlib import Path\nimport llfc_book\nimport llfc_lib\n{WHERE}", execution_count=1
    )
    notebook.cells = [
        first,
        *code[:2],
        *(cell for cell in code[2:] if any(text in cell.source for text in texts)),
    ]
    if any("here.check(" in cell.source for cell in notebook.cells):
        first.source += f"\n{ONE_PAIR}" + f"\n{NOT_DISPLACED}" * (check != "lmc of one start")
        for cell in notebook.cells:
            cell.metadata.setdefault("tags", []).append("nbval-ignore-output")
    return notebook


def lay_out(folder: Path, packages: Path, check: str, sabotage: Sabotage | None = None) -> None:
    """What a chapter needs to be executed: packages of its own, with one error or none, the
    records and the networks.
    """
    shutil.copytree(packages, folder)
    if sabotage is not None:
        place = source_of(sabotage.module).relative_to(ROOT)
        (folder / place).write_text(sabotaged(sabotage))
    for part in ("data", "records", "endpoints"):
        (folder / "book" / part).symlink_to(ROOT / "book" / part)
    (folder / "notebooks").mkdir()
    nbformat.write(cut_down(check), folder / "notebooks" / f"{CHECKS[check][0]}.ipynb")


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory) -> Mapping[str, Outcome]:
    """What becomes of a chapter under each sabotage that is asked for, and under none: one run of
    nbval, a kernel for each.
    """
    library, folder = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("copies")
    for package in ("llfc_lib", "book/llfc_book"):
        source, ignored = ROOT / package, shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, library / package, ignore=ignored)
    subprocess.run([sys.executable, "-m", "compileall", "-q", library])
    asked = [
        item.callspec.params["sabotage"]
        for item in request.session.items
        if item.path == Path(__file__) and "sabotage" in item.fixturenames
    ]
    names = {f"s{k:03}": sabotage for k, sabotage in enumerate(asked)}
    for name, sabotage in names.items():
        tree = ast.parse(source_of(sabotage.module).read_text())
        if len(alike_in(tree, sabotage.old)) == 1:  # else its test says so
            lay_out(folder / name, library, sabotage.check, sabotage)
    lay_out(folder / CONTROL, library, "strong")
    shutil.copy(ROOT / "notebooks" / "conftest.py", folder)
    report = folder / "report.xml"
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--color=no",
            "-p",
            "no:cacheprovider",
            "-p",
            "forked_kernels",
            "-n",
            "2",
            "--dist",
            "loadfile",
            f"--rootdir={folder}",
            "--nbval",
            "--nbval-current-env",
            f"--junitxml={report}",
            folder,
        ],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "tests"),
            "OMP_NUM_THREADS": "1",
            "LLFC_CACHE": "../cache",  # from a kernel's folder, so each copy has its own
        },
    )
    assert report.exists(), run.stdout + run.stderr
    cases: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        told = "".join(
            text
            for kind in ("failure", "error")
            for found in case.iter(kind)
            for text in found.itertext()
        )
        cases.setdefault(case.get("classname").partition(".")[0], []).append(
            re.sub(r"#x1B\[[\d;]*m", "", told)
        )
    return {
        name if name == CONTROL else names[name].id: Outcome(
            len(told), {k: text for k, text in enumerate(told) if text}
        )
        for name, told in cases.items()
    }


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: s.id)
def test_a_chapter_notices(sabotage, outcomes):
    sabotaged(sabotage)
    failures = outcomes[sabotage.id].failures
    assert failures, f"{CHECKS[sabotage.check][0]} stays green"
    first = min(failures)
    assert first > 2, f"not even its first cells run:\n{failures[first]}"
    assert NOTICED.search(failures[first]), failures[first]
    told = "".join(failures.values())
    if "live numbers differ from the record" in told:  # which says what differs
        assert [
            q
            for q in sabotage.of
            if q in quantities() and not re.search(rf"(?<![\w-]){re.escape(q)}(?![\w-])", told)
        ] == [], told


def test_a_copy_without_sabotage_passes(outcomes):
    assert outcomes[CONTROL] == Outcome(3 + len(CHECKS["strong"][1]), {})


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
