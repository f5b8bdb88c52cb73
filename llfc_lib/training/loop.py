"""The training loop: from a checkpoint to a later one, to the same bits however often it was
interrupted on the way.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_lib.data import Dataset
from llfc_lib.data.augment import Augmenter, Resampler, augmenter_for
from llfc_lib.models import build
from llfc_lib.progress import Progress
from llfc_lib.streams import generator, seed_of
from llfc_lib.training.checkpoints import Checkpoint
from llfc_lib.training.recipe import Recipe

#: "lecun normal" is drawn here, the others by the networks themselves.
INITS = ("PyTorch default", "kaiming normal", "lecun normal")


def new_network(recipe: Recipe, data: Dataset, seed: int = 0) -> nn.Module:
    """The recipe's network as initialised by ``seed``; the global generator is left as it was.

    ValueError for data that are normalised in another way than the recipe wants, or an unknown
    initialisation.

    Source: B.1; initial draws, which it leaves out, by the recipe.
    """
    if recipe.init not in INITS:
        raise ValueError(
            f"recipe {recipe.name!r}: init = {recipe.init!r} is not built yet; there are {INITS}"
        )
    if data.normalisation != recipe.normalise:
        raise ValueError(
            f"recipe {recipe.name!r} wants {recipe.normalise}, {data.name} comes with"
            f" {data.normalisation}; use data.normalised({recipe.normalise!r})"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "init"))
        network = build(recipe.model, data.image_shape, data.classes, **dict(recipe.model_args))
        if recipe.init == "lecun normal":
            _lecun_normal(network)
        return network


def _lecun_normal(network: nn.Module) -> None:
    """Variance 1 / fan-in, cut off at two standard deviations (of the normal that has .8796 of
    itself left), no biases: what flax draws by default, and so Ainsworth et al."""
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            std = layer.weight[0].numel() ** -0.5 / 0.87962566103423978
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def make_optimiser(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Adam or SGD in the fused kernels of torch: one call a step instead of several a parameter.

    ValueError for another optimiser.

    Source: B.1.
    """
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    how: Any = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": fused}
    if recipe.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), **how)
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=recipe.momentum, **how)
    raise ValueError(f"unknown optimiser {recipe.optimiser!r}; choose 'adam' or 'sgd'")


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The rate at ``epoch`` (a fraction counts steps): warm-up, then constant, steps or cosine.

    Source: B.1.
    """
    if epoch < recipe.warmup:
        return 1e-6 + (recipe.lr - 1e-6) * epoch / recipe.warmup
    if recipe.schedule == "steps":
        return recipe.lr * 0.1 ** sum(epoch >= drop for drop in recipe.drops)
    if recipe.schedule == "cosine":
        share = (epoch - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1)
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))
    return recipe.lr


def speedups(recipe: Recipe, device: torch.device | str) -> tuple[str, ...]:
    """Those of ``recipe.speedups`` that this machine can use: they change rounding and time, not
    the recipe.

    "channels last" memory; "bf16 autocast" of the forward pass, in training only, where the
    processor has bf16; "compiled" by torch.compile where there is a C++ compiler.
    """
    if torch.device(device).type == "cpu":
        has = torch.cpu.get_capabilities()
        bf16 = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
    else:
        bf16 = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
    can = {
        "channels last": True,
        "bf16 autocast": bf16,
        "compiled": shutil.which(os.environ.get("CXX", "g++")) is not None,
    }
    return tuple(name for name in recipe.speedups if can[name])


def train_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, autocast: bool = False
) -> Tensor:
    """One step on a batch; returns (summed loss, wrong answers) on the device, without waiting for
    it.

    Source: B.1.
    """
    with torch.autocast(x.device.type, torch.bfloat16) if autocast else nullcontext():
        logits = model(x)
    loss = F.cross_entropy(logits.float(), y)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return torch.stack(
        (loss.detach() * len(y), (logits.detach().argmax(1) != y).sum().to(loss.dtype))
    )


def train_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    data: Dataset,
    recipe: Recipe,
    epoch: int,
    stream: tuple[object, ...],
    augmenter: Augmenter | Resampler | None = None,
    autocast: bool = False,
) -> Tensor:
    """One epoch over ``data`` in the order that ``stream`` draws; returns (mean loss, error) of the
    steps.

    Source: B.1.
    """
    device, n = data.x_train.device, len(data.y_train)
    torch.manual_seed(seed_of(*stream, epoch, "dropout"))
    order = torch.randperm(n, generator=generator(*stream, epoch, "order")).to(device)
    draws: Any = augmenter.draw(*stream, epoch) if augmenter else None  # the augmenter's own
    model.train()
    total = torch.zeros(2, device=device)
    for start in range(0, n, recipe.batch):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, epoch + start / n)
        index = order[start : start + recipe.batch]
        x = data.normalise(augmenter.batch(index, draws) if augmenter else data.x_train[index])
        total += train_step(model, optimiser, x, data.y_train[index], autocast)
    return total / n


@torch.no_grad()
def evaluate(model: nn.Module, data: Dataset, split: str = "test") -> Tensor:
    """(mean cross-entropy in nats, error as a fraction), two numbers, on ``split``, in evaluation
    mode.

    Source: Err of Definition 1 (A.1).
    """
    model.eval()
    total, n = torch.zeros(2, device=data.x_test.device), 0
    for x, y in data.loader(split):
        logits = model(x)
        total = total + torch.stack(
            (F.cross_entropy(logits, y, reduction="sum"), (logits.argmax(1) != y).sum())
        )
        n += len(y)
    return total / n


def prepare(
    model: nn.Module, recipe: Recipe, data: Dataset, fast: Sequence[str]
) -> tuple[nn.Module, Augmenter | Resampler | None]:
    """What :func:`train_epoch` trains in place of ``model`` (the same weights), and the
    augmentation, if there is one.
    """
    if "channels last" in fast:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lacks it
    # static shapes: the full batch and the last partial one are compiled once each
    learner: Any = torch.compile(model, dynamic=False) if "compiled" in fast else model
    return learner, augmenter_for(data.x_train, recipe.augment)


def fit(
    start: Checkpoint,
    recipe: Recipe,
    data: Dataset,
    stream: tuple[object, ...],
    until: int,
    device: torch.device | str = "cpu",
    save: Callable[[Checkpoint], None] = lambda checkpoint: None,
    title: str = "",
) -> Checkpoint:
    """Train from ``start`` to epoch ``until`` on draws of ``stream``; ``save`` is called after
    every epoch.

    ``start`` is not changed. Continuing a checkpoint on the stream it was trained on gives the bits
    of a run that was never interrupted. Every epoch's entry in the history names the speed-ups it
    was computed with. FloatingPointError where the loss is no longer a number.
    """
    data, fast = data.to(device), speedups(recipe, device)
    model = new_network(recipe, data).to(device)
    model.load_state_dict(start.model)
    learner, augmenter = prepare(model, recipe, data, fast)
    optimiser = make_optimiser(recipe, model)
    _restore(optimiser, start.optimiser)
    history = list(start.history)
    checkpoint = start
    with Progress(title or recipe.name, until, done=start.epoch) as bar:
        for epoch in range(start.epoch, until):
            began = time.perf_counter()
            train = train_epoch(
                learner, optimiser, data, recipe, epoch, stream, augmenter, "bf16 autocast" in fast
            ).tolist()
            seconds = time.perf_counter() - began
            test = evaluate(model, data).tolist()
            if not math.isfinite(train[0]):
                raise FloatingPointError(
                    f"{title or recipe.name}: the loss is {train[0]} in epoch {epoch + 1}; "
                    f"lower the learning rate ({recipe.lr})"
                )
            history.append(
                {
                    "epoch": epoch + 1,
                    "train_loss": train[0],
                    "train_error": train[1],
                    "test_loss": test[0],
                    "test_error": test[1],
                    "seconds": round(seconds, 3),
                }
                | ({"speedups": ", ".join(fast)} if fast else {})
            )
            checkpoint = Checkpoint(
                {k: _plain(v) for k, v in model.state_dict().items()},
                _flatten(optimiser),
                epoch + 1,
                list(history),
            )
            save(checkpoint)
            bar.advance(f"training loss {train[0]:.4f}, test error {100 * test[1]:.2f} %")
    return checkpoint


def _plain(value: Tensor) -> Tensor:
    """A copy on the CPU in the usual memory order."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _flatten(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}/{name}": _plain(value)
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def _restore(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split("/", 1)
        like = parameters[int(index)]
        # fused kernels walk through memory: a buffer must lie in the order of its parameter
        restored = value.clone()
        if value.shape == like.shape:
            restored = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = restored
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )
