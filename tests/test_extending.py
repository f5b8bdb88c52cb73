"""The examples of the page "Extending" run as they are printed, each from one file of its own."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llfc_lib.matching import METHODS, check_symmetry
from llfc_lib.metrics import METRICS
from llfc_lib.models import MODELS

PAGE = Path(__file__).parents[1] / "book" / "extending.md"
BLOCK = re.compile(
    r"```\{code-block\} python\n:caption: (?P<caption>[^\n]+)\n:name: (?P<name>[^\n]+)\n\n"
    r"(?P<code>.*?)```",
    re.DOTALL,
)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Any:
    """The names that the page's examples end with, its files imported from a folder of a user's."""
    folder = tmp_path_factory.mktemp("mine")
    blocks = list(BLOCK.finditer(PAGE.read_text()))
    assert len(blocks) == PAGE.read_text().count("```{code-block}") == 6
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for block in blocks:
            if block["caption"].endswith(".py"):  # a file; what uses it comes after
                module = Path(block["caption"]).stem
                (folder / f"{module}.py").write_text(block["code"])
                vars(importlib.import_module(module))
            else:
                exec(compile(block["code"], block["name"], "exec"), names)
        yield names
    for registry, name in ((MODELS, "tanh_mlp"), (METRICS, "linear_cka"), (METHODS, "by bias")):
        registry._entries.pop(name)
    for module in ("tanh_mlp", "cka", "by_bias"):
        sys.modules.pop(module, None)


def test_an_architecture_is_trained_matched_and_measured(page):
    found = page["found"]
    assert page["trained"].history[-1]["test_error"] < 0.2
    sites = {row.site for row in found.rows if row.quantity == "cos_ratio"}
    assert sites == {"FC 1", "logits"} and set(found.permutations) and found.matching == "weight"


def test_a_metric_is_measured_by_its_name_beside_others(page):
    similarity, rows = page["similarity"], page["rows"]
    assert {row.quantity for row in rows} > {"linear_cka", "cos_ratio"}
    for site in ("FC 1", "logits"):
        assert similarity[site, "shuffled"] < 0.3 < 0.5 < similarity[site, ""] <= 1
    cka = sys.modules["cka"].cka
    x, q = torch.randn(50, 4, dtype=torch.float64), torch.linalg.qr(torch.randn(4, 4))[0].double()
    assert cka(x, 3 * x @ q + 1) == pytest.approx(1)  # invariant to rotation, scale and shift
    one, two = torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([[1.0], [1.0], [-2.0]])
    assert cka(one, two) == 0  # orthogonal after centring
    assert cka(one, one + two) == pytest.approx(0.25)  # 2^2 / (2 * 8)


def test_a_matching_method_is_chosen_by_its_name(page):
    by_bias, by_weight = page["by_bias_found"], page["by_weight_found"]
    a, b = page["a"], page["b"]
    (name,) = by_bias.permutations
    moved = b.fc.bias[by_bias.permutations[name]]
    assert torch.equal(moved.argsort(), a.fc.bias.argsort())
    x, _ = next(iter(page["data"].loader("test", 8)))
    check_symmetry(b, by_bias.symmetry, x, by_bias.permutations)
    assert by_weight.attempts[by_weight.chosen].objective > by_bias.attempts[0].objective


def test_what_is_not_registered_is_refused_by_name(page):
    for use, word in (
        (lambda: MODELS.get("tanh_mpl"), "tanh_mpl"),
        (lambda: page["measure"](page["a"], page["b"], [], ["linear_kca"]), "linear_kca"),
        (lambda: page["compare"](page["a"], page["b"], [], matching="by bais"), "by bais"),
    ):
        with pytest.raises(ValueError, match=f"unknown .* '{word}'; choose one of"):
            use()


def test_the_files_of_the_page_are_as_lint_wants_them(page):
    for module in ("tanh_mlp", "cka", "by_bias"):
        file = sys.modules[module].__file__
        for command in (["format", "--check"], ["check", "--select", "E,F,I,D100,D103"]):
            config = ["--config", str(PAGE.parents[1] / "pyproject.toml")]
            ruff = [sys.executable, "-m", "ruff", *command, *config, file]
            done = subprocess.run(ruff, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
