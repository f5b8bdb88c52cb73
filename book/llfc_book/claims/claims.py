"""What the appendix claims, as data: one entry a claim, in our own words, with the numbers it
prints.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """``rule`` names a function of :mod:`llfc_book.claims.verdicts`; ``numbers`` are what the paper
    prints, if any.

    ``extension``: the appendix says this of other networks; ours is an addition. ``shown`` is the
    label of the figure or table of the chapter that shows it.
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
    shown: str = ""


def _sites(kind: str, groups: dict[int, int], values: str) -> dict[str, float]:
    names = [
        f"{kind} {group}-{number}"
        for group, count in groups.items()
        for number in range(1, count + 1)
    ]
    return dict(zip(names, map(float, values.split()), strict=True))


#: The printed tables, in percent: the two networks, and B above A's first layers.
TABLES: dict[str, dict[str, float]] = {
    "tab1": {"A": 1.9, "B": 1.77, "FC 1": 2.69, "FC 2": 2.11, "FC 3": 1.92},
    "tab2": {
        "A": 6.87,
        "B": 7.1,
        **_sites(
            "Conv",
            {1: 2, 2: 2, 3: 3, 4: 3, 5: 3},
            "7.2 8.43 8.39 9.91 11.84 9.55 8.22 7.61 6.99 7.05 6.91 6.88 6.88",
        ),
        "FC 1": 7.07,
        "FC 2": 6.92,
    },
    "tab3": {
        "A": 8.69,
        "B": 8.58,
        **_sites(
            "Block", {1: 3, 2: 3, 3: 3}, "10.88 10.57 13.35 10.64 10.74 10.55 12.27 11.8 8.99"
        ),
    },
}
_ENDS = {name: (table["A"], table["B"]) for name, table in TABLES.items()}
_STITCHED = {
    name: tuple(value for site, value in table.items() if site not in "AB")
    for name, table in TABLES.items()
}


def _spawned(
    network: str, title: str, recipe: str, llfc: str, com: str, tab: str, figure: str
) -> tuple[Claim, ...]:
    """The claims that the appendix repeats for each spawned convolutional network."""
    ends, number = _ENDS[tab], tab[-1]
    own = {"recipe": recipe}
    return (
        Claim(
            f"lmc_{network}",
            "B.1",
            "B.1.1",
            f"{title}: children spawned after epoch 5 are linearly connected.",
            "LMC holds",
            f"lmc_{network}",
            "connected",
            "B1_training_conv",
            shown=f"fig-lmc-{network}",
            **own,
        ),
        Claim(
            f"endpoints_{network}",
            "B.1",
            f"Table {number}",
            f"Errors of the two networks of Table {number} ({title}).",
            f"A {ends[0]} %, B {ends[1]} %",
            tab,
            "endpoints",
            "B1_training_conv",
            numbers=ends,
            shown=f"fig-train-{network}",
            **own,
        ),
        Claim(
            f"cosine_{network}",
            "B.2",
            figure,
            f"{title}: $1-\\mathrm{{cosine}}_\\alpha$ is close to 0 compared with the baseline "
            "$1-\\mathrm{cosine}_{A,B}$.",
            "close to 0 compared with the baseline",
            llfc,
            "cosine",
            "B2_llfc_conv",
            shown=f"fig-llfc-{network}",
            **own,
        ),
        Claim(
            f"coefficient_{network}",
            "B.2",
            figure,
            f"{title}: $\\mathrm{{coef}}_\\alpha$ is close to 1.",
            "close to 1 in most cases",
            llfc,
            "coefficient",
            "B2_llfc_conv",
            shown=f"fig-llfc-{network}",
            **own,
        ),
        Claim(
            f"commutativity_{network}",
            "B.3",
            "Figure 16" if network == "vgg16" else "Figures 16 to 18",
            f"{title}: $\\mathrm{{Dist}}_{{com}}$ is negligible compared with $\\mathrm{{Dist}}_W$"
            " and $\\mathrm{Dist}_H$.",
            "negligible" + ("" if network == "vgg16" else " (for VGG-16 and matched MLPs)"),
            com,
            "commutativity",
            "B3_commutativity_conv",
            extension=network != "vgg16",
            shown=f"fig-commutativity-{network}",
            **own,
        ),
        Claim(
            f"additivity_{network}",
            "B.3",
            "Definition 3",
            f"{title}: the ReLUs of both networks are weakly additive.",
            "a condition of Theorem 1",
            com,
            "additivity",
            "B3_commutativity_conv",
            extension=True,
            shown=f"fig-additivity-{network}",
            **own,
        ),
        Claim(
            f"stitched_{network}",
            "B.4",
            f"Table {number}",
            f"Stitched errors of {title}.",
            f"{min(_STITCHED[tab])} to {max(_STITCHED[tab])} %",
            tab,
            "stitched_numbers",
            "B4_stitching_conv",
            numbers=_STITCHED[tab],
            shown=f"fig-stitch-{network}",
            **own,
        ),
        Claim(
            f"profile_{network}",
            "B.4",
            f"Table {number}",
            f"{title}: the stitched error rises and falls over the layers as printed.",
            "highest at " + max(list(TABLES[tab])[2:], key=TABLES[tab].get),
            tab,
            "profile",
            "B4_stitching_conv",
            shown=f"fig-excess-{network}",
            **own,
        ),
        Claim(
            f"resembles_{network}",
            "B.4",
            f"Table {number}",
            f"Stitched {title} err about as rarely as A and B do.",
            "closely resemble the errors of A and B",
            tab,
            "resembles",
            "B4_stitching_conv",
            shown=f"fig-stitch-{network}",
            **own,
        ),
        Claim(
            f"transfer_{network}",
            "B.4",
            "B.4",
            f"{title}: $W_BH_A\\approx W_BH_B$ at every layer.",
            "stitching gives insight towards it",
            tab,
            "transfer",
            "B4_stitching_conv",
            shown=f"fig-transfer-{network}",
            **own,
        ),
    )


_METHODS = {
    "activation": "activation matching",
    "weight": "weight matching",
    "ste": "the straight-through estimator",
}
_MATCHED_FIGURES = {
    "mnist": {"activation": ("fig12", "fig17"), "weight": ("fig12", "fig17"), "ste": ("fig14", "")},
    "cifar10": {
        "activation": ("fig13", "fig18"),
        "weight": ("fig13", "fig18"),
        "ste": ("fig14", ""),
    },
}


def _matched(network: str, method: str) -> tuple[Claim, ...]:
    """The claims that the appendix makes of MLPs brought together by one method."""
    own, key = {"recipe": f"mlp_{network}_perm_{method}"}, f"{network}_{method}"
    who = f"MLPs on {'MNIST' if network == 'mnist' else 'CIFAR-10'}, {_METHODS[method]}"
    llfc, com = _MATCHED_FIGURES[network][method]
    figure, pair = f"Figure {llfc[-2:]}", f"{network}-{method}"
    claims = [
        Claim(
            f"lmc_{key}",
            "B.1",
            "B.1.2",
            f"{who}: the two networks are linearly connected.",
            "modes that satisfy LMC are found",
            "lmc_perm",
            "connected",
            "B1_matching",
            shown=f"fig-matched-{network}",
            **own,
        ),
        Claim(
            f"cosine_{key}",
            "B.2",
            figure,
            f"{who}: $1-\\mathrm{{cosine}}_\\alpha$ is close to 0 compared with the baseline "
            "$1-\\mathrm{cosine}_{A,B}$.",
            "close to 0 compared with the baseline",
            llfc,
            "cosine",
            "B2_llfc_perm",
            shown=f"fig-llfc-perm-{pair}",
            **own,
        ),
        Claim(
            f"coefficient_{key}",
            "B.2",
            figure,
            f"{who}: $\\mathrm{{coef}}_\\alpha$ is close to 1.",
            "close to 1 in most cases",
            llfc,
            "coefficient",
            "B2_llfc_perm",
            shown=f"fig-llfc-perm-{pair}",
            **own,
        ),
    ]
    if com:
        extension = key == "mnist_weight"
        strong = f"fig-strong-{pair}" * (
            key != "cifar10_activation"
        )  # one figure for each claim that B.5 is about
        claims += [
            Claim(
                f"commutativity_{key}",
                "B.3",
                f"Figure {com[-2:]}",
                f"{who}: $\\mathrm{{Dist}}_{{com}}$ is negligible compared with "
                "$\\mathrm{Dist}_W$ and $\\mathrm{Dist}_H$.",
                "negligible" + " (for activation matching)" * extension,
                com,
                "commutativity",
                "B3_commutativity_perm",
                extension=extension,
                shown=f"fig-commutativity-perm-{pair}",
                **own,
            ),
            Claim(
                f"resembles_{key}",
                "B.4",
                "B.4",
                f"{who}: stitched networks err about as rarely as A and B do.",
                "closely resemble the errors of A and B (for spawned networks)",
                "stitch_perm",
                "resembles",
                "B4_stitching_perm",
                extension=True,
                shown=f"fig-stitch-{pair}",
                **own,
            ),
            Claim(
                f"strong_features_{key}",
                "B.5",
                "B.5",
                f"{who}: $W_AH_A=W_AH_B$ and $W_BH_B=W_BH_A$.",
                "what the permutation is to satisfy",
                "strong",
                "transfer",
                "B5_rebasin",
                shown=strong,
                **own,
            ),
            Claim(
                f"strong_weights_{key}",
                "B.5",
                "B.5",
                f"{who}: $W_AH_A=W_BH_A$ and $W_BH_B=W_AH_B$.",
                "what the permutation is to satisfy",
                "strong",
                "same_weights",
                "B5_rebasin",
                shown=strong,
                **own,
            ),
        ]
    return tuple(claims)


def _low_rank(network: str) -> tuple[Claim, ...]:
    own, who = (
        {"recipe": f"mlp_{network}_perm_weight"},
        f"MLPs on {'MNIST' if network == 'mnist' else 'CIFAR-10'}",
    )
    return (
        Claim(
            f"low_rank_weights_{network}",
            "B.5",
            "Figure 20",
            f"{who}: the weights are approximately of low rank.",
            "approximately low-rank",
            "fig20",
            "low_rank_weights",
            "B5_rebasin",
            shown=f"fig-spectra-w-{network}",
            **own,
        ),
        Claim(
            f"low_rank_features_{network}",
            "B.5",
            "Figure 21",
            f"{who}: the activations are approximately of low rank.",
            "approximately low-rank",
            "fig21",
            "low_rank_features",
            "B5_rebasin",
            extension=network == "mnist",
            shown=f"fig-spectra-h-{network}",
            **own,
        ),
        # added after the run, which showed how many units of the networks on CIFAR-10 respond to no
        # image
        Claim(
            f"low_rank_living_weights_{network}",
            "B.5",
            "Figure 20",
            f"{who}: the weights between living units are approximately of low rank.",
            "approximately low-rank",
            "fig20",
            "low_rank_living_weights",
            "B5_rebasin",
            extension=True,
            shown=f"tbl-living-{network}",
            **own,
        ),
        Claim(
            f"low_rank_living_features_{network}",
            "B.5",
            "Figure 21",
            f"{who}: the activations of living units are approximately of low rank.",
            "approximately low-rank",
            "fig21",
            "low_rank_living_features",
            "B5_rebasin",
            extension=True,
            shown=f"tbl-living-{network}",
            **own,
        ),
    )


CLAIMS = (
    Claim(
        "lemma",
        "A.1",
        "Lemma 1",
        "The error between two networks is at most twice the larger of theirs, where LLFC holds"
        " (here: about).",
        "at most $2\\epsilon$",
        "lemma",
        "lemma_bound",
        "A1_lemma",
        recipe="",
    ),
    Claim(
        "lmc",
        "B.1",
        "B.1.1",
        "Children spawned from a common initialisation are linearly connected.",
        "LMC holds",
        "lmc_mlp",
        "connected",
        "B1_settings",
        shown="fig-lmc-mlp",
    ),
    Claim(
        "endpoints",
        "B.1",
        "Table 1",
        "Errors of the two networks of Table 1.",
        f"A {_ENDS['tab1'][0]} %, B {_ENDS['tab1'][1]} %",
        "tab1",
        "endpoints",
        "B1_settings",
        numbers=_ENDS["tab1"],
        shown="fig-train-mlp",
    ),
    Claim(
        "rate",
        "B.1",
        "B.1.1",
        "The printed learning rate, 1.2e-4, gives the printed errors.",
        f"1.2e-4; mean of A and B {sum(_ENDS['tab1']) / 2:.3f} %",
        "lmc_mlp",
        "learning_rate",
        "B1_settings",
        numbers=_ENDS["tab1"],
        shown="fig-train-mlp",
    ),
    Claim(
        "cosine",
        "B.2",
        "Figure 8",
        "$1-\\mathrm{cosine}_\\alpha$ is close to 0 compared with the baseline"
        " $1-\\mathrm{cosine}_{A,B}$.",
        "close to 0 compared with the baseline",
        "fig08",
        "cosine",
        "B2_llfc",
        shown="fig-llfc-mnist",
    ),
    Claim(
        "coefficient",
        "B.2",
        "Figure 8",
        "$\\mathrm{coef}_\\alpha$ is close to 1, so $c$ may be taken as 1.",
        "close to 1 in most cases",
        "fig08",
        "coefficient",
        "B2_llfc",
        shown="fig-llfc-mnist",
    ),
    Claim(
        "commutativity",
        "B.3",
        "Figures 16 to 18",
        "$\\mathrm{Dist}_{com}$ is negligible compared with $\\mathrm{Dist}_W$ and"
        " $\\mathrm{Dist}_H$.",
        "negligible (for VGG-16 and matched MLPs)",
        "com_mlp",
        "commutativity",
        "B3_commutativity",
        extension=True,
        shown="fig-commutativity-mlp",
    ),
    Claim(
        "additivity",
        "B.3",
        "Definition 3",
        "The ReLUs of both networks are weakly additive.",
        "a condition of Theorem 1",
        "com_mlp",
        "additivity",
        "B3_commutativity",
        extension=True,
        shown="fig-additivity-mlp",
    ),
    Claim(
        "stitched",
        "B.4",
        "Table 1",
        "Stitched errors at FC 1, FC 2 and FC 3.",
        ", ".join(map(str, _STITCHED["tab1"])) + " %",
        "tab1",
        "stitched_numbers",
        "B4_stitching",
        numbers=_STITCHED["tab1"],
        shown="fig-stitch-mlp",
    ),
    Claim(
        "resembles",
        "B.4",
        "Table 1",
        "Stitched networks err about as rarely as A and B do.",
        "closely resemble the errors of A and B",
        "tab1",
        "resembles",
        "B4_stitching",
        shown="fig-stitch-mlp",
    ),
    *_spawned("vgg16", "VGG-16", "vgg16_cifar10_spawn", "fig09", "fig16", "tab2", "Figure 9"),
    *_spawned(
        "resnet20",
        "ResNet-20",
        "resnet20_cifar10_spawn",
        "fig10",
        "com_resnet20",
        "tab3",
        "Figure 10",
    ),
    Claim(
        "separates",
        "B.3",
        "Figure 19",
        "ResNet-20: $\\mathrm{Dist}_{com}$ of connected networks is far below that of independent"
        " ones.",
        "$\\mathrm{Dist}_{com,LMC}$ is negligible beside $\\mathrm{Dist}_{com,not\\ LMC}$",
        "fig19",
        "separates",
        "B3_commutativity_conv",
        recipe="resnet20_cifar10_spawn",
        shown="fig-connected-or-not",
    ),
    *(
        claim
        for network in ("mnist", "cifar10")
        for method in _METHODS
        for claim in _matched(network, method)
    ),
    *_low_rank("mnist"),
    *_low_rank("cifar10"),
    *(
        Claim(
            f"joint_{network}",
            "B.5",
            "A.3, B.5",
            f"MLPs on {title}: activation and weight matching come near the permutation that "
            "commutes best, jointly over all layers.",
            "interpreted as guaranteeing commutativity",
            "joint",
            "joint",
            "B5_rebasin",
            extension=True,
            shown="fig-joint",
            recipe=f"mlp_{network}_perm_weight",
        )
        for network, title in (("mnist", "MNIST"), ("cifar10", "CIFAR-10"))
    ),
    Claim(
        "widths",
        "B.5",
        "B.5",
        "Permutations fail for narrow networks and early in training, because their weights are not"
        " of low rank.",
        "low rank makes networks matchable",
        "widths",
        "widths",
        "B5_rebasin",
        recipe="",
        shown="fig-widths",
    ),
    Claim(
        "vgg_perm",
        "B.1",
        "B.1.2",
        "VGG-16 of different initialisation is not linearly connected by a permutation.",
        "unable to achieve LMC, so not used",
        "vgg_perm",
        "not_connected",
        "B1_matching",
        recipe="vgg16_cifar10_spawn_weight",
        shown="fig-matched-vgg16",
    ),
    Claim(
        "cooccurs",
        "B.2",
        "B.2",
        "LLFC co-occurs with linear mode connectivity.",
        "consistently co-occurs",
        "cooccur",
        "cooccurs",
        "B2_llfc_conv",
        recipe="",
        shown="fig-cooccur",
    ),
    Claim(
        "spawn_epoch",
        "B.1",
        "B.1.1",
        "Spawning after epoch 5 makes children of ResNet-20 linearly connected.",
        "after training 5 epochs",
        "spawn_epoch",
        "spawn_epoch",
        "B1_training_conv",
        recipe="",
        shown="fig-spawn-epoch",
    ),
)
