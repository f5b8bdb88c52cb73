"""The straight-through estimator (Ainsworth et al., 2023, section 3.3): permutations learned for a
low loss half-way.

As in the second version of the authors' code, which made the CIFAR-10 curves, but for one slip:
there, "best" is another name of the last iterate.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_lib.matching.methods import METHODS, Found
from llfc_lib.matching.symmetry import Symmetry
from llfc_lib.matching.weight import MAX_SWEEPS, Matching, weight_matching
from llfc_lib.metrics.measure import Loader
from llfc_lib.models.view import copy_of
from llfc_lib.models.weights import check_same_shapes
from llfc_lib.progress import Progress


@dataclass
class StraightThrough:
    """``best``: the iterate with the lowest loss half-way on the held-out images, ``last``: the
    last one. ``history`` has that loss before the first step and after every epoch. ``matchings``,
    ``sweeps`` and ``assignments`` count the work.

    Source: Ainsworth et al. (2023), section 3.3; B.2, Figure 14.
    """

    best: dict[str, Tensor]
    last: dict[str, Tensor]
    history: list[float] = field(default_factory=list)
    matchings: int = 0
    sweeps: int = 0
    assignments: int = 0
    changed: int = 0  # steps whose permutations differ from those of the step before


def straight_through(
    sym: Symmetry,
    a: nn.Module,
    b: nn.Module,
    batches: Loader,
    held_out: Loader,
    epochs: int,
    lr: float = 1e-2,
    momentum: float = 0.9,
    seed: object = 0,
    max_sweeps: int = MAX_SWEEPS,
    title: str = "straight-through",
) -> StraightThrough:
    """Minimise the loss of (A + pi(B)) / 2 over pi, a step a batch; ``batches`` is gone through
    once an epoch.

    A surrogate of A's shape starts at A. A step matches B to it (:func:`weight_matching`, from the
    last permutations), and moves it by SGD along the gradient that the loss has at pi(B), as if
    pi(B) were the surrogate itself. So the first iterate is plain weight matching. ``held_out``
    (images of the training set that ``batches`` leaves out) chooses the best. Networks are used in
    evaluation mode. ValueError for networks of different shape or no batches.

    Source: Ainsworth et al. (2023), section 3.3, and the second version of their code; B.2, Figure
    14.
    """
    a, b = copy_of(a).eval(), copy_of(b).eval()
    state_a, state_b = a.state_dict(), b.state_dict()
    check_same_shapes(state_a, state_b)
    middle = copy_of(a).requires_grad_(True)
    parameters = dict(middle.named_parameters())
    # a tied parameter is learned once, and matched by every name
    named = {id(value): name for name, value in parameters.items()}
    names = {
        name: named[id(value)] for name, value in middle.named_parameters(remove_duplicate=False)
    }
    surrogate = {name: value.detach().clone() for name, value in a.named_parameters()}
    optimiser = torch.optim.SGD(
        [nn.Parameter(v) for v in surrogate.values()], lr=lr, momentum=momentum
    )
    learned = dict(zip(surrogate, optimiser.param_groups[0]["params"], strict=True))
    found, lowest = StraightThrough({}, {}), float("inf")

    def match(step: int, last: Matching | None) -> Matching:
        found.matchings += 1
        reference = {**state_a, **{name: learned[first].detach() for name, first in names.items()}}
        new = weight_matching(
            sym,
            reference,
            state_b,
            (seed, step),
            None if last is None else last.permutations,
            max_sweeps=max_sweeps,
            prices=None if last is None else last.prices,
        )
        found.sweeps += new.sweeps
        found.assignments += new.assignments
        found.changed += last is not None and any(
            not torch.equal(p, last.permutations[n]) for n, p in new.permutations.items()
        )
        return new

    def stand_half_way() -> None:
        moved = sym.apply(state_b, matching.permutations)
        middle.load_state_dict(
            {
                name: (value + moved[name]) / 2 if value.is_floating_point() else value
                for name, value in state_a.items()
            }
        )

    def judge() -> None:
        nonlocal lowest
        total, n = 0.0, 0
        with torch.no_grad():
            for x, y in held_out:
                total, n = total + float(F.cross_entropy(middle(x), y, reduction="sum")), n + len(y)
        if not n:
            raise ValueError("there are no held-out images to choose the best iterate by")
        found.history.append(total / n)
        found.last = {name: p.clone() for name, p in matching.permutations.items()}
        if total / n < lowest:
            lowest, found.best = total / n, found.last

    step = 0
    matching = match(step, None)
    stand_half_way()
    judge()
    with Progress(title, epochs) as bar:
        for _ in range(epochs):
            before = step
            for x, y in batches:
                loss = F.cross_entropy(middle(x), y)
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for name, gradient in zip(parameters, gradients, strict=True):
                    # pi(B) makes up half of the network
                    learned[name].grad = None if gradient is None else gradient / 2
                optimiser.step()
                step += 1
                matching = match(step, matching)
                stand_half_way()
            if step == before:
                raise ValueError(
                    "there are no batches to learn from; is the loader an iterator already used up?"
                )
            judge()
            bar.advance(f"loss half-way on held-out images {found.history[-1]:.4f}")
    return found


@METHODS.register("ste")
def _match(
    sym: Symmetry,
    a: nn.Module,
    b: nn.Module,
    loader: Loader,
    seed: object = 0,
    held_out: Loader | None = None,
    epochs: int = 5,
    **args: Any,
) -> Found:
    """The best iterate; without images ``held_out``, it is chosen on those that it learned from."""
    chosen_on = loader if held_out is None else held_out
    found = straight_through(sym, a, b, loader, chosen_on, epochs, seed=seed, **args)
    return Found(found.best, -min(found.history))
