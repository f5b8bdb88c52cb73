"""The regression net: whatever is measured, a wrong factor or a lost term in it turns a chapter red.

One small error at a time is put into a copy of the library, and nbval re-executes the cells of the chapter that should notice it.
"""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
import torch
from nets import conv, loader, mlp, near
from torch import nn

from llfc_lib import metrics
from llfc_lib.metrics import LLFC, Barrier, Commutativity, SameWeights, Stitching, Transfer, WeakAdditivity
from llfc_lib.theory.decomposition import Decomposition
from llfc_lib.theory.lemma import Margins

ROOT = Path(__file__).resolve().parents[1]

#: Where something is noticed: the chapter, and what the cells hold that are needed beside the first two (parameters and imports).
CHECKS = {
    "lmc": ("B1_matching", ('here.live("lmc_perm")', 'here.check("lmc_perm"')),
    "lmc of one start": ("B1_settings", ('here.check("lmc_mlp"',)),
    "matching": ("B1_matching", ("perceptron = symmetry(", "matched.find(")),
    "llfc": ("B2_llfc_perm", ('here.live("fig12")', 'here.check("fig12"')),
    "commutativity": ("B3_commutativity_perm", ('here.live("fig17")', 'here.check("fig17"')),
    "stitching": ("B4_stitching_perm", ('here.live("stitch_perm")', 'here.check("stitch_perm"')),
    "strong": ("B5_rebasin", ('here.live("strong")', 'here.check("strong"')),
    "lemma": ("A1_lemma", ('here.live("lemma")', 'here.check("lemma"')),
    "tight": ("A1_lemma", ("proofs.tight()",)),
    "factor": ("A1_lemma", ("proofs.factor()",)),
    "no llfc": ("A1_lemma", ("proofs.no_llfc(",)),
    "decomposition": ("A2_decomposition", ('here.live("decomposition")', 'here.check("decomposition"')),
    "simulation": ("A2_decomposition", ("decomposition.simulate()",)),
    "theorem": ("A2_theorem", ("proofs.constructed(",)),
    "normalisation": ("A2_theorem", ("proofs.normalised(",)),
    "steps": ("A3_assignment", ("identities.deviations(cases)",)),
    "tiny": ("A3_assignment", ("tiny_draws(", "assignment.coupling(")),
    "assignment": ("A3_assignment", ("assignment.solved(",)),
}


@dataclass(frozen=True)
class Sabotage:
    """``new`` for ``old`` in a file of the library makes ``of`` wrong (public names, and quantities of rows); ``check`` notices."""

    file: str
    old: str
    new: str
    check: str
    of: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{Path(self.file).stem}: {', '.join(self.of)}"


SABOTAGES = [Sabotage(file, old, new, check, of) for file, *several in (
    ("metrics/llfc.py",
     ("_one_minus_cos(aa, ad, dd))\n            self",
      "_one_minus_cos(aa, 2 * ad, dd))\n            self", "no llfc", ("LLFC", "1-cos_AB")),
     ("add(_one_minus_cos(mm, me, ee))", "add(_one_minus_cos(mm, -me, ee))", "no llfc", ("1-cos_alpha",)),
     ("ends.amin(0)", "ends.amax(0)", "no llfc", ("1-cos_alpha of the nearest endpoint",)),
     ("ratio(mean, base)", "ratio(base, mean)", "no llfc", ("cos_ratio",)),
     ("value = -me / torch", "value = 1 - me / torch", "tight", ("1-coef_alpha",)),
     ("if alpha >= 0.5 else", "if alpha < 0.5 else", "llfc", ("1-coef_alpha of the nearest endpoint",)),
     ("(f - m) ** 2, 2 * f * m", "(f - m) ** 2, f * m", "llfc", ("set_1-cos_alpha",)),
     ('ratio(s["fm"], s["ff"])', 'ratio(s["fm"], s["mm"])', "factor", ("set_c",)),
     ("(aa == 0) | (bb == 0)", "(aa >= 0) | (bb == 0)", "llfc", ("zero_features",))),
    ("metrics/commutativity.py",
     ("return 0.25 * (max(pp", "return 0.5 * (max(pp", "commutativity", ("Commutativity", "dist_com")),
     ("for w in (w_a, w_b, w_a - w_b))", "for w in (w_a, w_b, w_a + w_b))", "commutativity", ("dist_W", "dist_com by formula")),
     ("dd=dot(d_h, d_h))", "dd=dot(d_h, h_a))", "commutativity", ("dist_H",)),
     ("torch.from_numpy(drawn)",
      "torch.from_numpy(drawn[::-1].copy())", "strong", ("dist_com, dist_transfer and dist_weights of shuffled units",))),
    ("metrics/additivity.py",
     ("torch.relu(x) + torch.relu(y)", "torch.relu(x) - torch.relu(y)", "commutativity", ("WeakAdditivity", "dist_add")),
     ("[:, None] + shift) % n", "[:, None] + 0 * shift) % n", "commutativity", ("dist_add of shuffled images",))),
    ("metrics/strong.py",
     ("m.apply(other - own, h)", "m.apply(other - 0.5 * own, h)", "strong", ("SameWeights", "dist_weights")),),
    ("metrics/stitching.py",
     ("d_h = other - own", "d_h = other - 0.5 * own", "strong", ("Transfer", "dist_transfer")),
     ("top.run_from(node, bottom[node])", "top.run_from(node, -bottom[node])", "stitching", ("Stitching", "stitched_error"))),
    ("metrics/barrier.py",
     ("logits.argmax(1) != batch.y", "logits.argmax(1) == batch.y", "tight", ("Barrier", "error")),
     ('reduction="sum")', 'reduction="mean")', "lmc", ("loss",)),
     ("- 0.5 * (a + b)", "- 0.5 * (a - b)", "no llfc", ("error_barrier", "loss_barrier")),
     ("(b + alpha * (a - b))", "(a + alpha * (b - a))", "lmc", ("error_barrier_chord", "loss_barrier_chord")),
     ("differ = batch.a[self.output].argmax(1) != batch.b",
      "differ = batch.a[self.output].argmin(1) != batch.b", "lmc", ("disagreement",))),
    ("models/weights.py",
     ("norm(a[n].double() - b[n].double() for n in names)",
      "norm(a[n].double() + b[n].double() for n in names)", "lmc", ("weight_distance",)),),
    ("metrics/displacement.py",
     ("q * np.sign(np.diag(r))", "q", "decomposition", ("turned at random",)),
     ("numpy_generator(*key, kind, name).permutation(difference.ravel())",
      "difference.ravel()[::-1].copy()", "lmc of one start", ("entries at random",)),
     ("np.linalg.norm(difference) /", "difference.size /", "decomposition", ("Gaussian at random",)),
     ("value.double() + t * moved", "value.double() - t * moved", "decomposition", ("displace",)),
     ("t = math.sqrt(low * high)", "t = high", "decomposition", ("matched_scale", "t")),
     ("target = float(one_minus_cos(*features).mean())",
      "target = float(one_minus_cos(*features).amax())", "decomposition", ("displacement_null",))),
    ("metrics/measure.py",
     ("return self.a if alpha else self.b", "return self.b if alpha else self.a", "decomposition", ("measure",)),
     ("(self.m2 / (self.n - 1)).sqrt()", "(self.m2 / self.n).sqrt()", "llfc", ("standard deviation over images",))),
    ("theory/decomposition.py",
     ('"ee": dot(e, e)', '"ee": 2 * dot(e, e)', "decomposition",
      ("Decomposition", "e_over_m", "e_over_d", "c", "turned_over_d", "bound", "origin_relu", "origin_commutativity",
       *(f"{what}_{part}" for what in ("share", "turned") for part in ("carried", "commutativity", "relu")))),
     ("slope * parts[key]", "parts[key]", "decomposition", ("identity_error", "share_carried")),
     ('size {name}": dot(value, value)', 'size {name}": dot(value, e)', "decomposition", ("bound",)),
     ("n=torch.tensor(float(step.a.numel()))", "n=torch.tensor(float(len(step.a)))", "decomposition", ("flips", "active")),
     ("moved=dot(delta, delta)", "moved=dot(delta, step.a)", "decomposition", ("flipped", "passed")),
     ("d_h, h = h_a - h_b,", "d_h, h = h_a + h_b,", "decomposition", ("moved", "fresh", "aligned"))),
    ("theory/construct.py",
     ("m.apply(w_a - w_b, h_a[m.input] - h_b[m.input])",
      "m.apply(w_a - w_b, h_a[m.input] + h_b[m.input])", "normalisation", ("conditions",)),),
    ("theory/generic.py",
     ("4 / 3 * sum(flips[:k]) / k", "2 / 3 * sum(flips[:k]) / k", "simulation", ("gaussian_ratio",)),),
    ("theory/lemma.py",
     ("2 * worse", "worse", "tight", ("Margins", "twice_epsilon")),
     ("own[:, 0] - others.amax(1)", "own[:, 0] - others.amin(1)", "lemma",
      ("error_either", "error_between", "error_mean_logits", "twice_epsilon", "not_certified", "not_certified_scaled")),
     ("> 2**0.5 * e", "> e", "lemma", ("not_certified",))),
    ("theory/identities.py",
     ("(1.0, 1.0, -2.0), _split", "(1.0, 1.0, 2.0), _split", "steps", ("deviation",)),),
    ("theory/assignment.py",
     ("- 2 * self.cross", "- self.cross", "tiny", ("objective", "interaction_share")),
     ("quadratic - 2 * c[", "quadratic - c[", "assignment", ("qap_values",))),
    ("matching/weight.py",
     ("linear_sum_assignment(reduced, maximize=True)", "linear_sum_assignment(reduced)", "matching", ("weight_matching",)),),
) for old, new, check, of in several]


#: What no chapter measures when it is executed, and why. Whatever comes to be noticed leaves this list.
OPEN = {
    "Row": "holds a number, measures none",
    **dict.fromkeys(("dist_com_cosine", "dist_W_cosine", "dist_H_cosine"), "an option that no chapter takes"),
    **dict.fromkeys(("living_units", "singular_values", "stable_rank", "feature_spectra", "weight_spectra", *(
        f"{what}_{of}" for what in ("sigma", "stable_rank", "stable_rank_share") for of in ("W", "W_living", "H", "Hc", "Hc_living"))),
        "B5_rebasin draws records of it"),
    **dict.fromkeys((f"size_{part}" for part in ("carried", "commutativity", "relu", "normalisation", "pooling")),
                    "goes into the bound of A2_decomposition, as a row into no record"),
    **dict.fromkeys((f"{what}_{part}" for what in ("share", "turned", "origin") for part in ("normalisation", "pooling")),
                    "of convolutional networks, which A2_decomposition draws records of and own_networks prints"),
}
#: What measures with one metric and does no more.
PLAIN = {"llfc": LLFC, "barrier": Barrier, "commutativity": Commutativity, "same_weights": SameWeights, "stitching": Stitching,
         "weak_additivity": WeakAdditivity}
CONTROL = "nothing"  # is wrong in this copy
WHERE = "assert Path(llfc_lib.__file__).resolve().parents[1] == Path().resolve().parent"
#: How a chapter says that its numbers are others: nbval's comparison, an assertion, or rows that no record has.
NOTICED = re.compile(r"Cell outputs differ|^AssertionError\b|^RecordError: \d+ of \d+ numbers measured now are not in the record", re.M)


@dataclass(frozen=True)
class Outcome:
    """What nbval says of each of the ``cells`` that fail (by number)."""

    cells: int
    failures: Mapping[int, str]


@cache
def quantities() -> frozenset[str]:
    """All that any metric yields, without the shares of a spectrum."""
    def rows(a: nn.Module, b: nn.Module, images: list) -> list[metrics.Row]:
        every = (LLFC(pre=True, raw=True), Commutativity(cosine=True), WeakAdditivity(), SameWeights(), Stitching(raw=True), Transfer(),
                 Barrier(), Decomposition(), Margins())
        return metrics.measure(a, b, images, every)

    a, b, images = mlp(0), near(mlp(0), 1), loader()
    found = rows(a, b, images) + metrics.displacement_null(a, b, images, lambda: [Barrier()], "rotation", draws=1)
    found += metrics.weight_spectra(a, b, living=metrics.living_units(a, images)) + metrics.feature_spectra(a, images)
    a.fc1.bias.data[:] = -100.0  # no unit responds
    found += rows(a, b, images) + rows(conv(0), conv(1), loader(shape=(2, 6, 6)))
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5)).double().eval()
    found += rows(pooled, near(pooled, 1), loader(shape=(2, 6, 6)))
    return frozenset(row.quantity.partition("/")[0] for row in found)


def sabotaged(sabotage: Sabotage) -> str:
    source = (ROOT / "llfc_lib" / sabotage.file).read_text()
    assert source.count(sabotage.old) == 1, f"{sabotage.file} has {source.count(sabotage.old)} times\n{sabotage.old}"
    return source.replace(sabotage.old, sabotage.new)


def cut_down(check: str) -> nbformat.NotebookNode:
    """The chapter's cells as they are committed, those that ``check`` needs, behind one that asks where the library comes from."""
    chapter, texts = CHECKS[check]
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for text in texts:
        assert sum(text in cell.source for cell in code[2:]) == 1, f"{chapter} has no cell, or several, with {text!r}"
    first = nbformat.v4.new_code_cell(f"from pathlib import Path\nimport llfc_lib\n{WHERE}", execution_count=1)
    notebook.cells = [first, *code[:2], *(cell for cell in code[2:] if any(text in cell.source for text in texts))]
    return notebook


def lay_out(folder: Path, library: Path, check: str, sabotage: Sabotage | None = None) -> None:
    """What a chapter needs to be executed: a library of its own, with one error or none, the records and the networks."""
    shutil.copytree(library, folder / "llfc_lib")
    if sabotage is not None:
        (folder / "llfc_lib" / sabotage.file).write_text(sabotaged(sabotage))
    (folder / "book").mkdir()
    for part in ("records", "endpoints"):
        (folder / "book" / part).symlink_to(ROOT / "book" / part)
    (folder / "notebooks").mkdir()
    nbformat.write(cut_down(check), folder / "notebooks" / f"{CHECKS[check][0]}.ipynb")


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory) -> Mapping[str, Outcome]:
    """What becomes of a chapter under each sabotage that is asked for, and under none: one run of nbval, a kernel for each."""
    library, folder = tmp_path_factory.mktemp("library") / "llfc_lib", tmp_path_factory.mktemp("copies")
    shutil.copytree(ROOT / "llfc_lib", library, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", library])
    asked = [item.callspec.params["sabotage"] for item in request.session.items
             if item.path == Path(__file__) and "sabotage" in item.fixturenames]
    names = {f"s{k:03}": sabotage for k, sabotage in enumerate(asked)}
    for name, sabotage in names.items():
        if sabotage.old in (ROOT / "llfc_lib" / sabotage.file).read_text():  # else its test says so
            lay_out(folder / name, library, sabotage.check, sabotage)
    lay_out(folder / CONTROL, library, "strong")
    shutil.copy(ROOT / "notebooks" / "conftest.py", folder)
    report = folder / "report.xml"
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "-p", "forked_kernels",
                          f"--rootdir={folder}", "--nbval", "--nbval-current-env", f"--junitxml={report}", folder], capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"})
    assert report.exists(), run.stdout + run.stderr
    cases: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        told = "".join(text for kind in ("failure", "error") for found in case.iter(kind) for text in found.itertext())
        cases.setdefault(case.get("classname").partition(".")[0], []).append(re.sub(r"#x1B\[[\d;]*m", "", told))
    return {name if name == CONTROL else names[name].id: Outcome(len(told), {k: text for k, text in enumerate(told) if text})
            for name, told in cases.items()}


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
        assert [q for q in sabotage.of if q in quantities() and not re.search(rf"(?<![\w-]){re.escape(q)}(?![\w-])", told)] == [], told


def test_a_copy_without_sabotage_passes(outcomes):
    assert outcomes[CONTROL] == Outcome(3 + len(CHECKS["strong"][1]), {})


def test_whatever_is_measured_is_sabotaged():
    """A new metric, or a new quantity of an old one, needs a line above."""
    covered, there = {name for sabotage in SABOTAGES for name in sabotage.of}, quantities() | set(metrics.__all__)
    assert sorted(there - covered - set(OPEN) - set(PLAIN)) == []
    assert sorted(covered & set(OPEN)) == sorted(set(OPEN) - there) == []
    assert set(PLAIN) <= there and {"Decomposition", "Margins", "weight_matching"} <= covered
    assert len({sabotage.id for sabotage in SABOTAGES}) == len(SABOTAGES)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_function_only_measures_with_its_metric(name):
    tree = ast.parse(inspect.getsource(getattr(metrics, name))).body[0]
    *docstring, last = tree.body
    assert len(docstring) == 1 and isinstance(last, ast.Return)
    assert ast.unparse(last).startswith(f"return measure(a, b, loader, [{PLAIN[name].__name__}(")
