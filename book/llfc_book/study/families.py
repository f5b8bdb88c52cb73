"""What a pair is: two children of one start, two independent networks put in order, or two networks
followed through their training. A setting names its family, and the family answers for it.
"""

from typing import ClassVar, Protocol

Member = tuple[int, str]  # seed and branch of a network
MATCHED_PAIRS = 3  # of each setting that is matched, where there is room


class Plan(Protocol):
    """How a setting's pairs are measured, as far as it decides which networks they need."""

    @property
    def control(self) -> bool:
        """Whether beside an independent network."""


class Setting(Protocol):
    """A setting (:class:`llfc_book.study.settings.Setting`), as far as a family looks at it."""

    @property
    def matching(self) -> str:
        """The method that brings its networks together."""

    @property
    def plan(self) -> Plan:
        """How its pairs are measured."""


class Family:
    """``name`` as settings say it; ``needs_order``: B's units are put in an order that the
    setting's method finds first; ``shares_trunk``: A and B are one network up to the epoch of
    spawning.
    """

    name: ClassVar[str]
    needs_order: ClassVar[bool] = False
    shares_trunk: ClassVar[bool] = False

    def members(self, setting: Setting, pair: int) -> dict[str, Member]:
        """The networks that a pair needs, by what they are in it."""
        raise NotImplementedError

    def method(self, setting: Setting) -> str:
        """How the two come together, in the word of records."""
        return "none"


class Spawned(Family):
    """Pair k is children A and B of seed k. Its control is A of seed k beside A of seed k + 1: two
    independently initialised networks, so n pairs need 2n + 1 networks. Neighbouring controls share
    a network. A plan without a control has none: spawned at epoch 0, a pair is not connected.
    """

    name = "spawned"
    shares_trunk = True

    def members(self, setting: Setting, pair: int) -> dict[str, Member]:
        two = {"A": (pair, "A"), "B": (pair, "B")}
        return {**two, "independent": (pair + 1, "A")} if setting.plan.control else two

    def method(self, setting: Setting) -> str:
        return "spawning"


class Matched(Family):
    """Pair k is the networks of seeds 2k and 2k + 1, B with its units in the order that the
    matching found. Its controls are the same two before matching, and A beside the next pair's A,
    the last beside the first.
    """

    name = "matched"
    needs_order = True

    def members(self, setting: Setting, pair: int) -> dict[str, Member]:
        two = {"A": (2 * pair, "A"), "B": (2 * pair + 1, "A")}
        other = (2 * ((pair + 1) % MATCHED_PAIRS), "A")
        return {**two, "independent": other} if setting.plan.control else two

    def method(self, setting: Setting) -> str:
        return setting.matching


class Swept(Family):
    """Networks that are trained where they are measured, after every epoch of interest."""

    name = "swept"

    def members(self, setting: Setting, pair: int) -> dict[str, Member]:
        return {}


class Independent(Family):
    """Networks that are trained alone, for a matched setting to make pairs of."""

    name = "independent"

    def members(self, setting: Setting, pair: int) -> dict[str, Member]:
        return {}


FAMILIES: dict[str, Family] = {f.name: f for f in (Spawned(), Matched(), Swept(), Independent())}
