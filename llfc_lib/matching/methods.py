"""Matching methods by name. A method is one file, which registers what runs it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from llfc_lib.matching.symmetry import Symmetry
from llfc_lib.metrics.measure import Loader
from llfc_lib.registry import Registry


@dataclass
class Found:
    """``permutations`` of B's units by name (new unit i is old unit p[i]), and the ``objective``
    that the method maximises. ``optimal``: no other seed finds a higher one.
    """

    permutations: dict[str, Tensor]
    objective: float
    optimal: ClassVar[bool] = False


class Method(Protocol):
    """What is registered: it matches B to A. ``loader`` gives (images, labels) anew each time it is
    gone through, ``seed`` names the draws; a method that needs neither ignores them.
    """

    def __call__(
        self, sym: Symmetry, a: nn.Module, b: nn.Module, loader: Loader, seed: object, **args: Any
    ) -> Found: ...


METHODS: Registry[Method] = Registry("matching")
