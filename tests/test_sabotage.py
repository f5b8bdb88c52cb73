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
from llfc_lib.experiments import catalogue
from llfc_lib.metrics import LLFC, Barrier, Commutativity, SameWeights, Stitching, Transfer, WeakAdditivity
from llfc_lib.theory.decomposition import Decomposition
from llfc_lib.theory.lemma import Margins

ROOT = Path(__file__).resolve().parents[1]

#: Where something is noticed: the chapter, and what the cells hold that are needed beside the first two (parameters and imports).
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
    "decomposition": ("A2_decomposition", ('here.live("decomposition")', 'here.check("decomposition", live)')),
    "convolutional": ("A2_decomposition", ('here.live("decomposition", of=',)),
    "simulation": ("A2_decomposition", ("decomposition.simulate()",)),
    "theorem": ("A2_theorem", ("proofs.constructed(",)),
    "normalisation": ("A2_theorem", ("proofs.normalised(",)),
    "steps": ("A3_assignment", ("identities.deviations(cases)",)),
    "tiny": ("A3_assignment", ("tiny_draws(", "assignment.coupling(")),
    "assignment": ("A3_assignment", ("assignment.solved(",)),
}


SPECTRA = ("W", "W_living", "H", "Hc", "Hc_living")


def of_spectra(*whose: str, what: tuple[str, ...] = ("sigma", "stable_rank", "stable_rank_share")) -> tuple[str, ...]:
    return tuple(f"{quantity}_{of}" for quantity in what for of in whose)


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
     ("return ratio(qq, 0.25 *", "return ratio(qq, 0.5 *", "commutativity", ("Commutativity", "dist_com")),
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
     ("(b + alpha * (a - b))", "(b + alpha * (a + b))", "lmc", ("error_barrier_chord", "loss_barrier_chord")),
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
     ("MATCH_TOLERANCE:\n            return t", "MATCH_TOLERANCE:\n            return high", "decomposition", ("matched_scale", "t")),
     ("target = float(one_minus_cos(*features).mean())",
      "target = float(one_minus_cos(*features).amax())", "decomposition", ("displacement_null",))),
    ("metrics/measure.py",
     ("return self.a if alpha else self.b", "return self.b if alpha else self.a", "decomposition", ("measure",)),
     ("(self.m2 / (self.n - 1)).sqrt()", "(self.m2 / self.n).sqrt()", "llfc", ("standard deviation over images",)),
     ("delta * (n / total)", "delta * (n / self.n)", "llfc", ("mean over batches",)),
     ("(self.n * n / total)", "(n * n / total)", "llfc", ("standard deviation over batches",)),
     ("std, self.n, **where", "std, self.n + 1, **where", "llfc", ("number of images",))),
    ("metrics/spectra.py",
     ("matrix.double().flatten(1))", "matrix.double().flatten(1).abs())", "spectra", ("singular_values", "weight_spectra", *of_spectra("W", "W_living"))),
     ("values.square().sum() / values[0].square()", "values.sum() / values[0].square()", "spectra",
      ("stable_rank", *of_spectra(*SPECTRA, what=("stable_rank", "stable_rank_share")))),
     ("(h != 0).movedim", "(h == 0).movedim", "spectra", of_spectra("W_living")),
     ("h - h.mean(1, keepdim=True)", "h - 0.5 * h.mean(1, keepdim=True)", "spectra", ("feature_spectra", *of_spectra("Hc", "Hc_living"))),
     ("kept[node].append(h.flatten(1)", "kept[node].append(h.flatten(1).sqrt()", "spectra", of_spectra("H")),
     ("rng.permutation(unit)", "unit", "spectra", ("features of shuffled images",)),
     ("float(alive.sum()), n=len(h)", "float(len(alive)), n=len(h)", "spectra", ("living_units",))),
    ("theory/decomposition.py",
     ('"ee": dot(e, e)', '"ee": 2 * dot(e, e)', "decomposition",
      ("Decomposition", "e_over_m", "e_over_d", "c", "turned_over_d", "bound", "origin_relu", "origin_commutativity",
       *(f"{what}_{part}" for what in ("share", "turned") for part in ("carried", "commutativity", "relu")))),
     ("slope * parts[key]", "parts[key]", "decomposition", ("identity_error", "share_carried")),
     ('size {name}": dot(value, value)', 'size {name}": dot(value, e)', "decomposition", ("bound",)),
     ("n=torch.tensor(float(step.a.numel()))", "n=torch.tensor(float(len(step.a)))", "decomposition", ("flips", "active")),
     ('"ee": dot(e, e)', '"ee": dot(e, split.mean)', "convolutional",
      ("share_skipped", "turned_skipped", *(f"{what}_{part}" for what in ("share", "turned", "origin") for part in ("normalisation", "pooling")))),
     ("pick(value, at_z), t)", "pick(value, at_z), 1 - t)", "convolutional", ("what pooling carries",)),
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
     ("linear_sum_assignment(reduced, maximize=True)", "linear_sum_assignment(reduced)", "orders", ("weight_matching",)),
     ("_inner(a, sym.apply(b, permutations), sym.trained)", "_inner(a, b, sym.trained)", "orders", ("objective",))),
    ("matching/activation.py",
     ("(a.T @ b).double()", "(a.T @ a).double()", "orders", ("activation_matching",)),
     ("int((self.bb == 0).sum())", "int((self.bb != 0).sum())", "orders", ("dead_units",))),
    ("matching/straight_through.py",
     ("else gradient / 2", "else -gradient / 2", "orders", ("straight_through", "sweeps", "assignments", "changed")),
     ("(value + moved[name]) / 2", "(value - moved[name]) / 2", "orders", ("held_out_loss",)),
     ("found.matchings += 1", "found.matchings += 2", "orders", ("matchings",))),
    ("matching/joint.py",
     ("@ gram * (layer.a - w)", "@ gram * (layer.a + w)", "joint", ("Residual", "residual", "residual_share", "over_minimum", "rank", "at_minimum")),
     ("(self.state_a[name] - moved[name])", "(self.state_a[name] + moved[name])", "joint",
      (*(f"factor_weights{which}" for which in ("", "_share", "_after_first", "_after_first_share")),
       *(f"factor {quantity}" for quantity in ("over_minimum", "rank", "at_minimum")))),
     ("[3].trace()", "[2].trace()", "joint", ("factor_features", "factor_features_share")),
     ("quadratic - _apart(linear)", "quadratic + _apart(linear)", "joint", ("local_search", "swaps", "swaps_tried"))),
    ("experiments/joint.py",
     ('("converged", s.converged)', '("converged", not s.converged)', "joint", ("converged",)),
     ("b.state_dict(), p, images)", "b.state_dict(), {}, images)", "joint", ("loss_half_way",)),
     (".argmax(2) != y)", ".argmax(2) == y)", "joint", ("tiny_error",))),
    ("experiments/matched.py",
     ("permutations), 0.5))", "permutations), 0.25))", "orders", ("half_way_loss",)),),
) for old, new, check, of in several]


#: What no chapter measures when it is executed, and why. Whatever comes to be noticed leaves this list.
OPEN = {
    "Row": "holds a number, measures none",
    **dict.fromkeys(("Coherence", "Connected", "Linearity", "StitchedExcess", "closeness", "linearity"),
                    "no page shows them yet: tests/test_second_edition.py holds them against the record"),
    **dict.fromkeys((f"{what}_other" for what in ("share", "turned", "origin")), "no network of the book has such a node of its own"),
}
#: What measures with one metric and does no more.
PLAIN = {"llfc": LLFC, "barrier": Barrier, "commutativity": Commutativity, "same_weights": SameWeights, "stitching": Stitching,
         "weak_additivity": WeakAdditivity}
CONTROL = "nothing"  # is wrong in this copy
WHERE = "assert Path(llfc_lib.__file__).resolve().parents[1] == Path().resolve().parent"
#: What is held against a record is noticed on one pair, and without partners displaced at random, if it is not about these.
ONE_PAIR = 'from llfc_lib.training import recipes\nrecipes.PAIRS["smoke"].update(dict.fromkeys(recipes.PAIRS["smoke"], 1))'
NOT_DISPLACED = "from llfc_lib.experiments import pairs\npairs.DISPLACED.clear()"
#: How a chapter says that its numbers are others: nbval's comparison, an assertion, or rows that no record has.
NOTICED = re.compile(r"Cell outputs differ|^AssertionError\b|^RecordError: \d+ of \d+ numbers measured now are not in the record", re.M)


@dataclass(frozen=True)
class Outcome:
    """What nbval says of each of the ``cells`` that fail (by number)."""

    cells: int
    failures: Mapping[int, str]


@cache
def quantities() -> frozenset[str]:
    """All that any metric yields, and what is on record of matchings and splits; a spectrum and its quantiles by its name."""
    def rows(a: nn.Module, b: nn.Module, images: list) -> list[metrics.Row]:
        every = (LLFC(pre=True, raw=True), Commutativity(), WeakAdditivity(), SameWeights(), Stitching(raw=True), Transfer(),
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
    named = {row.quantity for row in found} | catalogue.FOUND | catalogue.JOINT | catalogue.DECOMPOSED
    return frozenset(name.partition("/")[0] for name in named)


def sabotaged(sabotage: Sabotage) -> str:
    source = (ROOT / "llfc_lib" / sabotage.file).read_text()
    assert source.count(sabotage.old) == 1, f"{sabotage.file} has {source.count(sabotage.old)} times\n{sabotage.old}"
    return source.replace(sabotage.old, sabotage.new)


def cut_down(check: str) -> nbformat.NotebookNode:
    """The chapter's cells as they are committed, those that ``check`` needs, behind one that asks where the library comes from.

    What measures live measures one pair. Its cells assert; what they show then counts fewer numbers, and is not compared.
    """
    chapter, texts = CHECKS[check]
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for text in texts:
        assert sum(text in cell.source for cell in code[2:]) == 1, f"{chapter} has no cell, or several, with {text!r}"
    first = nbformat.v4.new_code_cell(f"from pathlib import Path\nimport llfc_lib\n{WHERE}", execution_count=1)
    notebook.cells = [first, *code[:2], *(cell for cell in code[2:] if any(text in cell.source for text in texts))]
    if any("here.check(" in cell.source for cell in notebook.cells):
        first.source += f"\n{ONE_PAIR}" + f"\n{NOT_DISPLACED}" * (check != "lmc of one start")
        for cell in notebook.cells:
            cell.metadata.setdefault("tags", []).append("nbval-ignore-output")
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
    covered = {name for sabotage in SABOTAGES for name in sabotage.of}
    there = quantities() | set(metrics.__all__) | {"activation_matching", "weight_matching", "straight_through", "Residual", "local_search"}
    assert sorted(there - covered - set(OPEN) - set(PLAIN)) == []
    assert sorted(covered & set(OPEN)) == sorted(set(OPEN) - there) == []
    assert set(PLAIN) <= there and {"Decomposition", "Margins"} <= covered
    assert len({sabotage.id for sabotage in SABOTAGES}) == len(SABOTAGES)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_function_only_measures_with_its_metric(name):
    tree = ast.parse(inspect.getsource(getattr(metrics, name))).body[0]
    *docstring, last = tree.body
    assert len(docstring) == 1 and isinstance(last, ast.Return)
    assert ast.unparse(last).startswith(f"return measure(a, b, loader, [{PLAIN[name].__name__}(")
