"""What the appendix claims, as data: one entry a claim, in our own words, with the numbers it prints."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """``rule`` names a function of :mod:`llfc_lib.report.verdicts`; ``numbers`` are what the paper prints, if any.

    ``extension``: the appendix says this of other networks; ours is an addition.
    """

    id: str
    section: str
    source: str
    statement: str
    paper: str
    experiment: str
    rule: str
    chapter: str
    recipe: str = "mlp_mnist_spawn"
    numbers: tuple[float, ...] = ()
    extension: bool = False


#: Table 1 of the appendix, in percent: the two networks, and B above A's first layers.
TABLE_1 = {"A": 1.9, "B": 1.77, "FC 1": 2.69, "FC 2": 2.11, "FC 3": 1.92}
_ENDS, _STITCHED = (TABLE_1["A"], TABLE_1["B"]), tuple(TABLE_1[site] for site in ("FC 1", "FC 2", "FC 3"))

CLAIMS = (
    Claim("lmc", "B.1", "B.1.1", "Children spawned from a common initialisation are linearly connected.",
          "LMC holds", "lmc_mlp", "connected", "B1_settings"),
    Claim("endpoints", "B.1", "Table 1", "Errors of the two networks of Table 1.", f"A {_ENDS[0]} %, B {_ENDS[1]} %",
          "tab1", "endpoints", "B1_settings", numbers=_ENDS),
    Claim("rate", "B.1", "B.1.1", "The printed learning rate, 1.2e-4, gives the printed errors.",
          f"1.2e-4; mean of A and B {sum(_ENDS) / 2:.3f} %", "lmc_mlp", "learning_rate", "B1_settings", numbers=_ENDS),
    Claim("cosine", "B.2", "Figure 8",
          "$1-\\mathrm{cosine}_\\alpha$ is close to 0 compared with the baseline $1-\\mathrm{cosine}_{A,B}$.",
          "close to 0 compared with the baseline", "fig08", "cosine", "B2_llfc"),
    Claim("coefficient", "B.2", "Figure 8", "$\\mathrm{coef}_\\alpha$ is close to 1, so $c$ may be taken as 1.",
          "close to 1 in most cases", "fig08", "coefficient", "B2_llfc"),
    Claim("commutativity", "B.3", "Figures 16 to 18",
          "$\\mathrm{Dist}_{com}$ is negligible compared with $\\mathrm{Dist}_W$ and $\\mathrm{Dist}_H$.",
          "negligible (for VGG-16 and matched MLPs)", "com_mlp", "commutativity", "B3_commutativity", extension=True),
    Claim("additivity", "B.3", "Definition 3", "The ReLUs of both networks are weakly additive.",
          "a condition of Theorem 1", "com_mlp", "additivity", "B3_commutativity", extension=True),
    Claim("stitched", "B.4", "Table 1", "Stitched errors at FC 1, FC 2 and FC 3.", ", ".join(map(str, _STITCHED)) + " %",
          "tab1", "stitched_numbers", "B4_stitching", numbers=_STITCHED),
    Claim("resembles", "B.4", "Table 1", "Stitched networks err about as rarely as A and B do.",
          "closely resemble the errors of A and B", "tab1", "resembles", "B4_stitching"),
)
