"""The regression net: whatever is measured, a wrong factor or a lost term in it is noticed by the
live check of a page.

One small error at a time is put into a module of the packages, and the check that should notice it
is run in a process of its own.
"""

import ast
import importlib.util
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import forked
import pytest
from llfc_book.appendix.lemma import Margins
from llfc_book.study import catalogue
from nets import conv, loader, mlp, near
from torch import nn

from llfc_lib import metrics
from llfc_lib.metrics import METRICS, Barrier

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
NONE = [Sabotage("", "", "", check, (f"no sabotage of {check}",)) for check in CHECKS]


#: What no chapter measures when it is executed, and why. Whatever comes to be noticed leaves this
#: list.
OPEN = {
    "METRICS": "names metrics, measures none",
    "Row": "holds a number, measures none",
    **dict.fromkeys(
        (
            "Coherence",
            "coherence",
            "commutator_energy",
            "energy_alignment",
            "shuffle_energy",
            "sign_energy",
        ),
        "tests/test_second_edition.py sabotages it against the record",
    ),
    **dict.fromkeys(("WeakAdditivity", "dist_add", "t"), "no page tells it any more"),
    **dict.fromkeys(
        (f"{what}_other" for what in ("share", "turned", "origin")),
        "no network of the book has such a node of its own",
    ),
}
#: What is held against a record is noticed on one pair.
BEGIN = """
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
        made = [METRICS.get(name) for name in METRICS.names()]
        library = [make() for make in made if make.__module__.startswith("llfc_lib")]
        return metrics.measure(a, b, images, [*library, Margins()])

    a, b, images, pixels = mlp(0), near(mlp(0), 1), loader(), loader(shape=(2, 6, 6))
    found = rows(a, b, images)
    found += metrics.displacement_null(a, b, images, lambda: [Barrier()], "rotation", draws=1)
    found += metrics.weight_spectra(a, b, living=metrics.living_units(a, images))
    found += metrics.feature_spectra(a, images)
    a.fc1.bias.data[:] = -100.0  # no unit responds
    found += rows(a, b, images) + rows(conv(0), conv(1), pixels)
    layers = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    pooled = nn.Sequential(*layers, nn.Linear(24, 5)).double().eval()
    found += rows(pooled, near(pooled, 1), pixels)
    named = {row.quantity for row in found}.union(
        *(catalogue.QUANTITIES[name] for name in ("matching", "joint minimum", "split"))
    )
    return frozenset(name.partition("/")[0] for name in named)


def sabotaged(sabotage: Sabotage) -> str:
    """The module's source with ``new`` in the one place of its syntax tree that reads ``old``;
    nothing where there is no module.
    """
    if not sabotage.module:
        return ""
    tree = ast.parse(Path(importlib.util.find_spec(sabotage.module).origin).read_text())
    sought, new = ast.dump(parsed(sabotage.old)), parsed(sabotage.new)
    alike = [node for node in ast.walk(tree) if ast.dump(node) == sought]
    if len(alike) != 1:
        raise ValueError(f"{sabotage.module} has {len(alike)} times\n{sabotage.old}")

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return new if node is alike[0] else self.generic_visit(node)

    return ast.unparse(Replace().visit(tree))


def parsed(text: str) -> ast.AST:
    """An expression, or a statement that is none."""
    (statement,) = ast.parse(text).body
    return statement.value if isinstance(statement, ast.Expr) else statement


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory) -> Mapping[str, str]:
    """What the check of each sabotage that is asked for says under it."""
    jobs = {}
    for item in request.session.items:
        if item.path == Path(__file__) and hasattr(item, "callspec"):
            asked = item.callspec.params["sabotage"]
            code = BEGIN.format(check=CHECKS[asked.check])
            with suppress(ValueError):  # its test says so
                source = sabotaged(asked)
                cache = tmp_path_factory.mktemp("cache")
                jobs[asked.id] = ROOT, cache, code, asked.module, source
    with forked.context().Pool(2, maxtasksperchild=1) as pool:
        told = pool.starmap_async(forked.run, jobs.values(), chunksize=1).get(timeout=1800)
    return dict(zip(jobs, told))


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


@pytest.mark.parametrize("sabotage", NONE, ids=lambda s: s.check)
def test_without_sabotage_a_check_passes(sabotage, outcomes):
    assert outcomes[sabotage.id].splitlines()[-1] == "passed", outcomes[sabotage.id]


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
