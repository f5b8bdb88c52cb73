"""What stands as printed: one function a statement, which computes it."""

import itertools
import math

import numpy as np
import torch
from torch import nn

from llfc_book.claims import verdicts
from llfc_book.claims.claims import TABLES
from llfc_book.claims.errata import examples as ex
from llfc_book.claims.errata.examples import GRB, OLTH
from llfc_book.claims.errata.listing import STANDING, Evidence, Standing, standing
from llfc_book.study.settings import RECIPES
from llfc_lib.data.augment import DEGREES, ZOOM
from llfc_lib.metrics.spectra import stable_rank


@standing(
    "A.1",
    "A1_lemma",
    "both networks right: so is the interpolation; $\\mathrm{Err}(\\alpha "
    "f_A+(1-\\alpha)f_B)\\le\\mathrm{Err}_A+\\mathrm{Err}_B\\le2\\epsilon$",
)
def union_bound() -> Evidence:
    labels, broken, above = np.zeros(200, int), 0, 0
    sets = [*itertools.product(range(ex.DRAWS), (0.1, 0.5, 0.8))]
    for draw, alpha in sets:
        a, b = (ex.draw("bound", draw, k, shape=(5, 200)) for k in (0, 1))
        mixed, one, other = (ex.error(f, labels) for f in (alpha * a + (1 - alpha) * b, a, b))
        broken += int((mixed & ~(one | other)).sum())
        above += mixed.mean() > one.mean() + other.mean() or mixed.mean() > 2 * max(
            one.mean(), other.mean()
        )
    return Evidence(
        broken == above == 0,
        f"{broken} exceptions among {len(sets) * len(labels):,} images, {above} among {len(sets)}"
        " sets",
    )


@standing("A.1", "A1_lemma", r"$2\epsilon$ cannot be improved")
def attained() -> Evidence:
    a, b = np.ones(20), np.ones(20)
    a[0] = b[1] = -3
    found = ((a + b) / 2 < 0).mean() / (a < 0).mean()
    return Evidence(found == 2, f"error half-way over $\\epsilon$: {found:g}")


def _chain(line: str) -> Evidence:
    """One displayed line of the proof of Theorem 1, for the exact pair, at every layer and three
    alphas.
    """
    x, nets = ex.exact_pair()
    h_a, h_b = ex.forward(nets["A"], x), ex.forward(nets["B"], x)
    pairs = []
    for layer, alpha in itertools.product(range(3), (0.25, 0.5, 0.8)):
        mixed, rest, (a, b) = (
            ex.between(nets["A"], nets["B"], alpha),
            1 - alpha,
            (h_a[layer], h_b[layer]),
        )
        (w_a, s), (w_b, t), middle = nets["A"][layer], nets["B"][layer], mixed[layer]
        aa, ab, ba, bb = (ex.affine(w, bias, h) for w, bias in ((w_a, s), (w_b, t)) for h in (a, b))
        straight, last = alpha * aa + rest * bb, layer == 2
        activation = (lambda z: z) if last else ex.relu
        pairs.append(
            {
                "commutativity": (w_a @ a + w_b @ b, w_a @ b + w_b @ a),
                "biases": (aa + bb, ab + ba),
                "times": (alpha * rest * (aa + bb), alpha * rest * (ab + ba)),
                "squares": (straight, alpha**2 * aa + rest**2 * bb + alpha * rest * (ab + ba)),
                "in theta": (ex.affine(*middle, a), alpha * aa + rest * ba),
                "in H": (ex.affine(w_a, s, alpha * a + rest * b), alpha * aa + rest * ab),
                "subsequently": (
                    straight,
                    alpha * ex.affine(*middle, a) + rest * ex.affine(*middle, b),
                ),
                "subsequently, last": (straight, ex.affine(*middle, alpha * a + rest * b)),
                "additivity": (
                    aa if last else ex.relu(aa + bb),
                    aa if last else ex.relu(aa) + ex.relu(bb),
                ),
                "rectified": (activation(straight), alpha * activation(aa) + rest * activation(bb)),
                "equation 10": (
                    alpha * h_a[layer + 1] + rest * h_b[layer + 1],
                    activation(ex.affine(*middle, alpha * a + rest * b)),
                ),
                "conclusion": (
                    alpha * h_a[layer + 1] + rest * h_b[layer + 1],
                    ex.forward(mixed, x)[layer + 1],
                ),
            }[line]
        )
    return ex.same(*pairs)


for _name, _line, _printed in (
    (
        "definition_4",
        "commutativity",
        "Definition 4 can hold exactly for different networks: first line of the proof",
    ),
    ("biases", "biases", "second line: biases may be added on both sides"),
    ("both_sides", "times", r"third line, times $\alpha(1-\alpha)$"),
    ("squares", "squares", r"fourth line, since $\alpha-\alpha^2=\alpha(1-\alpha)$"),
    ("affine_in_weights", "in theta", r"$\tilde g$ is affine in $\theta$ (with $H^{(\ell-1)}$)"),
    ("affine_in_features", "in H", r"$\tilde g$ respects affine combinations of $H$"),
    ("subsequently", "subsequently", '"Subsequently", first equality'),
    ("subsequently_last", "subsequently, last", '"Subsequently", second equality'),
    ("definition_3", "additivity", r"Definition 3 can hold with it ($\ell<L$)"),
    ("additivity_for_all_alpha", "rectified", r"weak additivity for all $\alpha$"),
    ("equation_10", "equation 10", "equation (10)"),
    (
        "theorem_1",
        "conclusion",
        r"the recursion and the conclusion of Theorem 1 (with $c=1$), layer by layer",
    ),
):
    STANDING.append(Standing(_name, "A.2", _printed, lambda line=_line: _chain(line), "A2_theorem"))


def _assignment(line: str) -> Evidence:
    """One step of A.3, for random layers and all permutations; steps that drop a constant must
    differ by that constant alone.
    """
    pairs = []
    for draw in range(3):
        layer = w_a, w_b, h_a, h_b = ex.layer(draw)
        first, reduced, second, left = [], [], [], []
        for p, q in itertools.product(ex.permutations(4), ex.permutations(3)):
            x, y = ex.x_and_y(layer, p, q)
            gram, product, own = w_a.T @ w_a, h_a @ h_b.T, h_b @ h_b.T
            if line == "expanded":
                pairs.append(
                    (
                        (w_a - q @ w_b @ p.T) @ (h_a - p @ h_b),
                        w_a @ h_a - q @ w_b @ p.T @ h_a - w_a @ p @ h_b + q @ w_b @ h_b,
                    )
                )
            if line == "last":
                inner = ((w_a @ h_a - w_a @ p @ h_b) @ (w_b @ p.T @ h_a - w_b @ h_b).T * q).sum()
                pairs.append(((x * y).sum() + 1e3, inner + 1e3))  # sums may be near 0
            first.append((x**2).sum())
            reduced.append(np.trace(p.T @ gram @ p @ own) - 2 * np.trace(p.T @ gram @ product))
            second.append((y**2).sum())
            left.append(
                np.trace(p @ w_b.T @ w_b @ p.T @ h_a @ h_a.T)
                - 2 * np.trace(p @ w_b.T @ w_b @ product.T)
            )
        if line == "first":
            pairs.append((np.array(first), np.array(reduced) + ((w_a @ h_a) ** 2).sum()))
        if line == "second":
            pairs.append((np.array(second), np.array(left) + ((w_b @ h_b) ** 2).sum()))
    return ex.same(*pairs)


for _name, _line, _printed in (
    ("expansion", "expanded", "the product of differences, multiplied out"),
    (
        "first_term",
        "first",
        (
            "the first term as two traces in Koopmans and Beckmann's form, up to a constant (six"
            " lines)"
        ),
    ),
    ("second_term", "second", "the second term likewise (seven lines); $P^{(\\ell)}$ drops out"),
    ("last_term", "last", r"the last term as an inner product with $P^{(\ell)}$"),
):
    STANDING.append(
        Standing(_name, "A.3", _printed, lambda line=_line: _assignment(line), "A3_assignment")
    )


@standing(
    "A.3",
    "A3_assignment",
    '$L-1$ problems "in parallel", with $P^{(0)}=I$: each term has one $P^{(\\ell-1)}$ of its own',
)
def separate_problems() -> Evidence:
    layers = ex.layer(1), ex.layer(2)
    terms = [
        np.array([(ex.x_and_y(layer, p, np.eye(3))[0] ** 2).sum() for p in ex.permutations(4)])
        for layer in layers
    ]
    jointly = min(a + b for a in terms[0] for b in terms[1])
    return ex.same(
        (jointly, sum(term.min() for term in terms)),
        what="joint minimum and sum of minima differ by",
    )


@standing(
    "B.1",
    "B1_settings",
    "three hidden layers of 512 units; ResNet-20 has 20 layers; VGG-16 has 16; 32 times the width",
)
def sizes() -> Evidence:
    nets = ex.networks()
    linear = [m.out_features for m in nets["mlp"].modules() if isinstance(m, nn.Linear)]
    depth = {
        name: sum(isinstance(m, nn.Linear | nn.Conv2d) for m in nets[name].modules())
        for name in ("resnet20", "vgg16")
    }
    width = dict(RECIPES["resnet20x32_cifar10_perm"].model_args)["width"]
    return Evidence(
        linear == [512] * 3 + [10] and depth == {"resnet20": 20, "vgg16": 16} and width == 32 * 16,
        f"{linear}, {depth['resnet20']}, {depth['vgg16']}, {width}/16",
    )


@standing(
    "B.1",
    "B1_settings",
    f"VGG-16 and ResNet-20: optimiser, rate, decay, drops and epochs are Frankle et al.'s ({OLTH}, "
    "`models/cifar_resnet.py:136-149` and the same in `models/cifar_vgg.py`)",
)
def frankles_optimiser() -> Evidence:
    code = {
        "optimiser": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "drops": (80, 120),
        "epochs": 160,
    }
    same = [ex.fields(f"{net}_cifar10_spawn", *code) == code for net in ("vgg16", "resnet20")]
    return Evidence(all(same), f"{len(code)} of {len(code)} values, {sum(same)} of 2 networks")


@standing(
    "B.1",
    "B1_settings",
    f"ResNet-50: rate, warm-up, drops, epochs and decay are Frankle et al.'s for ImageNet ({OLTH}, "
    "`models/imagenet_resnet.py:121-138`)",
)
def frankles_imagenet() -> Evidence:
    code = {"lr": 0.4, "warmup": 5, "drops": (30, 60, 80), "epochs": 90, "weight_decay": 1e-4}
    return Evidence(
        ex.fields("resnet50_tinyimagenet_spawn", *code) == code,
        f"{len(code)} of {len(code)} values",
    )


@standing(
    "B.1",
    "B1_settings",
    f"MLPs to be permuted: Adam 1e-3, SGD 0.1; ResNet-20: rate, momentum, zoom, rotation ({GRB},"
    " `src/*_train.py`)",
)
def ainsworths_rates() -> Evidence:
    names = ("mlp_mnist_perm", "mlp_cifar10_perm", "resnet20x32_cifar10_perm")
    found = [(RECIPES[name].optimiser, RECIPES[name].lr) for name in names]
    return Evidence(
        found == [("adam", 1e-3), ("sgd", 0.1), ("sgd", 0.1)]
        and (ZOOM, DEGREES) == ((0.8, 1.2), 30),
        ", ".join(f"{optimiser} {rate:g}" for optimiser, rate in found)
        + f"; {ZOOM[0]} to {ZOOM[1]}, ±{DEGREES:g}°",
    )


@standing("B.1", "B1_matching", "VGG models do not reach LMC by a permutation")
def no_vgg() -> Evidence:
    found = ex.verdict("vgg_perm")
    return Evidence(
        found.agreement == verdicts.REPRODUCED,
        f"{found.ours} ({found.profile}, {found.pairs} pair)",
    )


@standing(
    "B.2",
    "B2_llfc",
    r"under LLFC $1-\mathrm{cosine}_\alpha=0$ whatever $c>0$, and coef (corrected) is $1/c$: the"
    r" projected length is "
    r"$\langle f_\alpha,m\rangle/\|m\|$",
)
def cosine_and_coefficient() -> Evidence:
    mean = ex.draw("coefficient", shape=(9,))
    cosine, coef = [], []
    for c in (0.5, 1.0, 3.0):
        f = mean / c
        cosine.append(f @ mean / np.linalg.norm(f) / np.linalg.norm(mean))
        coef.append(c * np.linalg.norm(f) * cosine[-1] / np.linalg.norm(mean))
    return ex.same(
        (cosine, [1.0] * 3),
        (coef, [1.0] * 3),
        what="$\\mathrm{cosine}$ and $c\\,\\mathrm{coef}$ differ from 1 by",
    )


@standing(
    "B.2",
    "B2_llfc",
    r"figures of $\mathbb E[1-\mathrm{coef}]$ show what the text says of $\mathbb"
    r" E[\mathrm{coef}]$; $\alpha$ belongs to "
    "$A$ in every formula",
)
def same_expectation() -> Evidence:
    coef = 1 + 0.1 * ex.draw("expectation", shape=(100,))
    return ex.same(((1 - coef).mean(), 1 - coef.mean()))


@standing(
    "B.2",
    "B2_llfc",
    '"Figures 8 to 13 and 15", with nine networks and methods; Figure 14 is STE; "Figures 8 to 15"'
    " are all of LLFC",
)
def figures_of_llfc() -> Evidence:
    listed = (
        {(ex.MNIST, m) for m in ("spawning", "activation", "weight")}
        | {(ex.CIFAR, m) for m in ("activation", "weight")}
        | {
            (net, "spawning")
            for net in ("VGG-16, CIFAR-10", "ResNet-20, CIFAR-10", "ResNet-50, Tiny-ImageNet")
        }
        | {("ResNet-20 (32x), CIFAR-10", "weight")}
    )
    shown, ste = ex.captioned(*range(8, 14), 15), {method for _, method in ex.captioned(14)}
    whole = [figure for figure, (what, _) in ex.CAPTIONS.items() if what == "LLFC"]
    return Evidence(
        listed == shown and ste == {"STE"} and whole == list(range(8, 16)),
        f"{len(listed & shown)} of {len(listed | shown)} in both",
    )


@standing("B.3", "B3_commutativity", '"Figures 16 to 18", with four networks and methods')
def figures_of_dist() -> Evidence:
    listed = {
        ("VGG-16, CIFAR-10", "spawning"),
        (ex.MNIST, "activation"),
        (ex.CIFAR, "activation"),
        (ex.CIFAR, "weight"),
    }
    return Evidence(
        listed == ex.captioned(16, 17, 18),
        f"{len(listed & ex.captioned(16, 17, 18))} of {len(listed)} in both",
    )


@standing(
    "B.3", "B3_commutativity", "the condition is satisfied at the first layer, where $H_A=H_B=X$"
)
def first_layer() -> Evidence:
    x, nets = ex.exact_pair()
    a, b = (ex.forward(nets[name], x)[0] for name in "AB")
    (w_a, _), (w_b, _) = nets["A"][0], nets["B"][0]
    return ex.same((w_a @ a + w_b @ b, w_a @ b + w_b @ a), (a, b))


@standing("B.3", "B3_commutativity_conv", "a convolution is $WH$ as well (footnote 8)")
def convolution() -> Evidence:
    w, h = (
        torch.tensor(ex.draw("conv", "w", shape=(4, 3, 3, 3))),
        torch.tensor(ex.draw("conv", "h", shape=(2, 3, 6, 6))),
    )
    product = w.flatten(1) @ nn.functional.unfold(h, 3, padding=1)
    return ex.same((nn.functional.conv2d(h, w, padding=1).flatten(2).numpy(), product.numpy()))


@standing(
    "B.4", "B4_stitching", r"$B_{>\ell}\circ A_{\le\ell}$ is $B$ at $\ell=0$ and $A$ at $\ell=L$"
)
def ends_of_stitching() -> Evidence:
    x, nets = ex.exact_pair()
    stitched = [ex.forward(nets["A"][:k] + nets["B"][k:], x)[-1] for k in (0, 3)]
    return ex.same(*zip(stitched, (ex.forward(nets[name], x)[-1] for name in "BA")))


@standing(
    "B.4",
    "B4_stitching",
    "Tables 1 and 2: every layer but the last, above which the stitched network is $A$ (FC 3 of"
    " Table 1 is the third of four linear layers); Table 3: every block",
)
def rows_of_tables() -> Evidence:
    counts = [len(printed) - 2 for printed in TABLES.values()]
    nets = ex.networks()
    maps = [
        sum(isinstance(m, nn.Linear | nn.Conv2d) for m in nets[name].modules()) - 1
        for name in ("mlp", "vgg16")
    ]
    blocks = sum(type(m).__name__.endswith("Block") for m in nets["resnet20"].modules())
    return Evidence(
        counts == [*maps, blocks], f"{counts} entries for {[*maps, blocks]} layers or blocks"
    )


@standing("B.4", "B4_stitching", "all errors are whole numbers of 10,000 test images")
def whole_images() -> Evidence:
    values = [value for printed in TABLES.values() for value in printed.values()]
    whole = sum(math.isclose(100 * value, round(100 * value), rel_tol=1e-9) for value in values)
    return Evidence(whole == len(values), f"{whole} of {len(values)}")


@standing("B.4", "B1_settings", "errors of the MLPs in Table 1")
def errors_of_table_1() -> Evidence:
    found = ex.verdict("endpoints")
    return Evidence(
        found.agreement == verdicts.REPRODUCED,
        f"printed {TABLES['tab1']['A']} and {TABLES['tab1']['B']} %; ours {found.ours}",
    )


def _strong(which: str) -> Evidence:
    """Either form of B.5 makes the definition hold, and keeps its form when B is permuted; built to
    hold exactly.
    """
    w, h = ex.draw("strong", which, shape=(3, 5)), ex.draw("strong", "h", shape=(5, 7))
    p, q = np.eye(5)[[3, 0, 4, 1, 2]], np.eye(3)[[2, 0, 1]]
    if which == "features":  # H_A - H_B in the null space of both weights
        null = np.linalg.svd(np.vstack([w[:2], w[:2] * 2]))[2][2:]
        w_a, w_b, h_a, h_b = (
            w[:2].repeat(2, 0)[:3],
            np.vstack([w[:2] * 2, w[:1]]),
            h,
            h + null.T @ ex.draw("strong", "n", shape=(3, 7)),
        )
        forms = (w_a @ h_a, w_a @ h_b), (w_b @ h_b, w_b @ h_a)
    else:  # features of rank 2, and weights that differ beside them
        basis = np.linalg.qr(h)[0]
        h_a, h_b = basis[:, :2] @ h[:2], basis[:, :2] @ h[1:3]
        w_a, w_b = w, w + ex.draw("strong", "d", shape=(3, 3)) @ basis[:, 2:].T
        forms = (w_a @ h_a, w_b @ h_a), (w_b @ h_b, w_a @ h_b)
    before_w, before_h = q.T @ w_b @ p, p.T @ h_b  # the B whose permutation is w_b, h_b
    if which == "features":
        zeros = w_a @ (h_a - p @ before_h), q @ before_w @ (before_h - p.T @ h_a)
    else:
        turned = q @ before_w @ p.T
        zeros = (w_a - turned) @ h_a, (turned - w_a) @ p @ before_h
    differ = min(ex.off(w_a, w_b), ex.off(h_a, h_b))
    found = ex.same(
        *forms,
        (w_a @ h_a + w_b @ h_b, w_a @ h_b + w_b @ h_a),
        *((1 + zero, np.ones_like(zero)) for zero in zeros),
    )
    return Evidence(
        found.holds_as_printed and differ > 0.1, f"{found.numbers}; networks by {differ:.3g}"
    )


for _name, _which, _printed in (
    (
        "features_form",
        "features",
        (
            "$W_AH_A=W_AH_B\\wedge W_BH_B=W_BH_A$ implies Definition 4; the displayed condition on"
            " $P^{(\\ell-1)}$ is the same for the permuted $B$"
        ),
    ),
    (
        "weights_form",
        "weights",
        "$W_AH_A=W_BH_A\\wedge W_BH_B=W_AH_B$ likewise, with $P^{(\\ell)}$ and $P^{(\\ell-1)}$",
    ),
):
    STANDING.append(
        Standing(_name, "B.5", _printed, lambda which=_which: _strong(which), "B5_rebasin")
    )


@standing(
    "B.5",
    "B5_rebasin",
    "a low rank of $W$ leaves $WX=0$ more solutions: $n-\\mathrm{rank}\\,W$ dimensions",
)
def null_space() -> Evidence:
    found = {}
    for rank in (1, 3, 5):
        w = ex.draw("null", "u", shape=(6, rank)) @ ex.draw("null", "v", shape=(rank, 6))
        found[rank] = int((np.linalg.svd(w, compute_uv=False) < 1e-10).sum())
    return Evidence(
        found == {rank: 6 - rank for rank in found},
        "rank and dimension, $n=6$: "
        + ", ".join(f"{rank} and {free}" for rank, free in found.items()),
    )


@standing("B.5", "B5_rebasin", r"$\mathrm{srnk}(W)=\|W\|_F^2/\|W\|_2^2$, between 1 and the rank")
def stable_rank_formula() -> Evidence:
    w = ex.draw("rank", shape=(5, 8))
    ours, printed = stable_rank(torch.tensor(w)), np.linalg.norm(w) ** 2 / np.linalg.norm(w, 2) ** 2
    one, full = stable_rank(torch.tensor(np.outer(w[0], w[1]))), stable_rank(torch.eye(5))
    return ex.same(([ours, one, full], [printed, 1, 5]))


@standing(
    "B.5",
    "B5_rebasin",
    "wider networks have a smaller share of salient singular values (here: stable rank over $n$ of"
    " MNIST MLPs after 15 epochs)",
)
def wider_is_lower() -> Evidence:
    mean = ex.ranks()[15]
    return Evidence(
        mean.is_monotonic_decreasing,
        ", ".join(f"{width}: {rank:.3f}" for width, rank in mean.items()),
    )


@standing(
    "B.5",
    "B5_rebasin",
    "stable ranks are significantly smaller after training than after an epoch (here: over $n$,"
    " MNIST MLPs, after 1 and 15 epochs; in wide networks, as printed, not in the narrowest)",
)
def trained_is_lower() -> Evidence:
    mean = ex.ranks()
    wide = mean[mean.index >= 256]
    words = (
        f"{width}: {mean.loc[width, 1]:.3f} and {mean.loc[width, 15]:.3f}"
        for width in (1024, 512, 256, 16)
    )
    return Evidence(
        bool((wide[15] < 0.5 * wide[1]).all() and mean.loc[16, 15] > mean.loc[16, 1]),
        "; ".join(words),
    )


@standing(
    "throughout",
    "ledger",
    "every figure from 8 to 22 and every table from 1 to 3 is referred to in the text",
)
def all_referred_to() -> Evidence:
    said = {
        *range(8, 16),
        *range(16, 19),
        19,
        20,
        21,
        22,
    }  # the ranges and numbers of B.2, B.3 and B.5
    return Evidence(
        said == set(ex.CAPTIONS) and len(TABLES) == 3,
        f"{len(said & set(ex.CAPTIONS))} of {len(ex.CAPTIONS)} figures, {len(TABLES)} tables",
    )
