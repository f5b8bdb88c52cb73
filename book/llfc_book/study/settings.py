"""Every setting of B.1 as data, in one place, and how the profiles scale it down.

A value that the appendix does not print has an entry in ``choices`` that says where ours comes
from; every other value is printed in the section named. Nothing else in the library knows a
hyper-parameter.
"""

from dataclasses import replace
from typing import Any

from llfc_lib.training.recipe import Recipe

FRANKLE = "our choice: the authors' code (zzp1012/LLFC) and Frankle et al. use it"
AINSWORTH = "our choice: the code of Ainsworth et al. (samuela/git-re-basin) uses it"


_MLP_CHOICES = {
    "weight_decay": (
        "our choice: none; the authors' script defaults to 1e-4 and the appendix is silent"
    ),
    "schedule": (
        "our choice: constant; the authors' drops at epochs 80 and 120 never come within 30"
    ),
    "normalise": "our choice: the authors' loader (zzp1012/LLFC) uses it",
    "augment": "our choice: none, as in the authors' loader",
    "init": "our choice: the authors' code uses it",
}
_CONV_CHOICES = {
    "batch": FRANKLE,
    "normalise": "our choice: the authors' loader (zzp1012/LLFC) uses it",
    "init": (
        "our choice: the authors' code (He's normal draw: fan-out for VGG-16, fan-in for ResNet-20)"
    ),
}
_VGG_CHOICES = {
    **_CONV_CHOICES,
    "model_args": (
        "our choice: batch normalisation and three classifier layers with dropout, as in the"
        " authors' code and as the rows FC 1 and FC 2 of Table 2 imply; Frankle et al. have one"
        " linear layer"
    ),
}
_RESNET_CHOICES = {
    **_CONV_CHOICES,
    "model_args": (
        "our choice: shortcuts that pad with zeros (option A), as in the authors' code; "
        "Frankle et al. project (option B)"
    ),
}
_FAST = ("channels last", "bf16 autocast")
KEPT = (
    0,
    1,
    2,
    5,
    12,
    24,
)  # epochs after which networks with layer norm are matched and their rank is taken (B.5)

RECIPES = {
    r.name: r
    for r in (
        Recipe(
            "mlp_mnist_spawn",
            "B.1.1",
            "MLP, MNIST, spawning",
            "mlp",
            "mnist",
            epochs=30,
            batch=60,
            optimiser="adam",
            lr=1.2e-4,
            model_args=(("hidden", 512),),
            spawn_epoch=0,
            choices=_MLP_CHOICES,
        ),
        Recipe(
            "mlp_mnist_spawn_lr1.2e-3",
            "B.1.1",
            "MLP, MNIST, spawning, learning rate 1.2e-3",
            "mlp",
            "mnist",
            epochs=30,
            batch=60,
            optimiser="adam",
            lr=1.2e-3,
            model_args=(("hidden", 512),),
            spawn_epoch=0,
            choices={
                **_MLP_CHOICES,
                "lr": (
                    "our variant: 1.2e-4 may be a slip for the 1.2e-3 that Frankle and Carbin "
                    "give for an MLP with batches of 60"
                ),
            },
        ),
        Recipe(
            "vgg16_cifar10_spawn",
            "B.1.1",
            "VGG-16, CIFAR-10, spawning",
            "vgg16",
            "cifar10",
            epochs=160,
            batch=128,
            optimiser="sgd",
            lr=0.1,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="steps",
            drops=(80, 120),
            augment=("crop", "flip"),
            init="kaiming normal",
            spawn_epoch=5,
            speedups=_FAST,
            choices=_VGG_CHOICES,
        ),
        Recipe(
            "resnet20_cifar10_spawn",
            "B.1.1",
            "ResNet-20, CIFAR-10, spawning",
            "resnet20",
            "cifar10",
            epochs=160,
            batch=128,
            optimiser="sgd",
            lr=0.1,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="steps",
            drops=(80, 120),
            augment=("crop", "flip"),
            init="kaiming normal",
            spawn_epoch=5,
            speedups=(*_FAST, "compiled"),
            choices=_RESNET_CHOICES,
        ),
        Recipe(
            "resnet50_tinyimagenet_spawn",
            "B.1.1",
            "ResNet-50, Tiny-ImageNet, spawning",
            "resnet50",
            "tiny_imagenet_50",
            epochs=90,
            batch=128,
            optimiser="sgd",
            lr=0.4,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="steps",
            drops=(30, 60, 80),
            warmup=5,
            augment=("crop", "flip"),
            init="kaiming normal",
            spawn_epoch=14,
            speedups=_FAST,
            shipped="none",
            choices={
                **_CONV_CHOICES,
                "batch": "our choice: the appendix and the authors' code name none",
                "normalise": (
                    "our choice: measured on the training images; the authors' code has no loader"
                    " of Tiny-ImageNet"
                ),
                "init": "our choice: He's normal draw (fan-in), as for ResNet-20",
                "augment": (
                    "our choice: crops of 64 pixels after padding by 8; the appendix says 32"
                    " pixels, the images have 64"
                ),
                "data": "our choice: 50 of the 200 classes, as many as can be trained on",
            },
        ),
        Recipe(
            "mlp_mnist_perm",
            "B.1.2",
            "MLP, MNIST, permutation",
            "mlp",
            "mnist",
            epochs=100,
            batch=500,
            optimiser="adam",
            lr=1e-3,
            model_args=(("hidden", 512),),
            normalise="pixels in [0, 1]",
            init="lecun normal",
            choices={
                "epochs": AINSWORTH,
                "batch": AINSWORTH,
                "schedule": AINSWORTH,
                "weight_decay": AINSWORTH,
                "normalise": AINSWORTH,
                "augment": AINSWORTH,
                "init": AINSWORTH,
            },
        ),
        Recipe(
            "mlp_cifar10_perm",
            "B.1.2",
            "MLP, CIFAR-10, permutation",
            "mlp",
            "cifar10",
            epochs=100,
            batch=100,
            optimiser="sgd",
            lr=0.1,
            model_args=(("hidden", 512),),
            momentum=0.9,
            weight_decay=5e-4,
            schedule="cosine",
            warmup=1,
            augment=("resized crop", "flip", "rotate"),
            normalise="ImageNet mean and std",
            init="lecun normal",
            choices={
                name: AINSWORTH
                for name in (
                    "epochs",
                    "batch",
                    "momentum",
                    "weight_decay",
                    "schedule",
                    "warmup",
                    "augment",
                    "normalise",
                    "init",
                )
            },
        ),
        Recipe(
            "resnet20x32_cifar10_perm",
            "B.1.2",
            "ResNet-20 (32x, LayerNorm), CIFAR-10, permutation",
            "resnet20_ln",
            "cifar10",
            epochs=250,
            batch=100,
            optimiser="sgd",
            lr=0.1,
            model_args=(("width", 512),),
            momentum=0.9,
            weight_decay=5e-4,
            schedule="cosine",
            warmup=1,
            augment=("resized crop", "flip", "rotate"),
            normalise="ImageNet mean and std",
            init="lecun normal",
            speedups=(*_FAST, "compiled"),
            kept=KEPT,
            shipped="none",
            choices={
                **{name: AINSWORTH for name in ("epochs", "batch", "normalise", "init")},
                "model_args": (
                    "our choice: shortcuts by 3 x 3 convolutions where the stride is not 1, layer"
                    " norm over channels with 1e-6, as in the code of Ainsworth et al."
                    " (samuela/git-re-basin)"
                ),
            },
        ),
    )
}

#: When must one spawn? The same setting, forked after other epochs; 5 is the paper's. Name to
#: epoch.
SPAWN_AT = {f"resnet20_cifar10_spawn_at{k}": k for k in (0, 1, 2, 3, 5, 10)}
RECIPES |= {
    name: replace(
        RECIPES["resnet20_cifar10_spawn"],
        name=name,
        spawn_epoch=k,
        title=f"ResNet-20, CIFAR-10, spawning after epoch {k}",
        choices={**_RESNET_CHOICES, "spawn_epoch": "our variant: the appendix gives 5"},
    )
    for name, k in SPAWN_AT.items()
}

#: The layer-norm ResNet-20 of other widths, in units of He's 16 channels; the appendix has 32. Name
#: to that factor.
LAYER_NORM = {f"resnet20x{m:g}_cifar10_perm": m for m in (0.25, 0.5, 1, 2, 4)}
RECIPES |= {
    name: replace(
        RECIPES["resnet20x32_cifar10_perm"],
        name=name,
        title=f"ResNet-20 ({m:g}x, LayerNorm), CIFAR-10, permutation",
        model_args=(("width", int(16 * m)),),
        shipped={2: "every", 4: "none"}.get(m, "small"),
        choices={
            **RECIPES["resnet20x32_cifar10_perm"].choices,
            "model_args": f"our variant: {m:g}x; 32x in the appendix",
        },
    )
    for name, m in LAYER_NORM.items()
}
#: The appendix' warm-up of one epoch and weight decay of 5e-4 are those of the paper of Ainsworth
#: et al.; their code has others.
LAYER_NORM_BY_CODE = "resnet20x0.5_cifar10_perm_code"
RECIPES[LAYER_NORM_BY_CODE] = replace(
    RECIPES["resnet20x0.5_cifar10_perm"],
    name=LAYER_NORM_BY_CODE,
    warmup=5,
    weight_decay=1e-4,
    title=(
        "ResNet-20 (0.5x, LayerNorm), CIFAR-10, permutation, warm-up and weight decay of the code"
    ),
    choices={
        **RECIPES["resnet20x0.5_cifar10_perm"].choices,
        **{
            key: (
                "our variant: as the code of Ainsworth et al. (samuela/git-re-basin); "
                "the appendix gives 1 epoch and 5e-4"
            )
            for key in ("warmup", "weight_decay")
        },
    },
)

#: How B.1.2 brings independent networks together; every method is a setting of its own. Name to
#: (recipe, method).
MATCHED = {
    f"{base}_{method}": (base, method)
    for base in ("mlp_mnist_perm", "mlp_cifar10_perm")
    for method in ("activation", "weight", "ste")
}
#: Weight matching of independent networks of the spawning chapters (B.1.2: VGG does not reach LMC
#: by permutation).
MATCHED_SPAWNED = {
    f"{base}_weight": (base, "weight") for base in ("vgg16_cifar10_spawn", "resnet20_cifar10_spawn")
}
#: Weight matching of ResNet-20 with layer norm, the only way in which B.1.2 matches it.
MATCHED_LAYER_NORM = {
    f"{base}_weight": (base, "weight")
    for base in (*LAYER_NORM, LAYER_NORM_BY_CODE, "resnet20x32_cifar10_perm")
}
#: All of them.
BY_PERMUTATION = {**MATCHED, **MATCHED_SPAWNED, **MATCHED_LAYER_NORM}
_METHODS = {
    "activation": "activation matching",
    "weight": "weight matching",
    "ste": "straight-through estimator",
}
_MATCHING = {
    "activation": {"matching_args": (("images", "all of the training set"),)},
    "weight": {"matching_args": (("seeds", 5),)},
    "ste": {
        "matching_args": (
            ("epochs", 25),
            ("batch", 1000),
            ("lr", 1e-2),
            ("momentum", 0.9),
            ("held_out", 5000),
        )
    },
}
_MATCHING_CHOICES = {
    "activation": {
        "matching_args": (
            "our choice: uncentred products over the training set without augmentation, as the code"
            " of Ainsworth et al."
        )
    },
    "weight": {
        "matching_args": (
            "our choice: five orders of visiting, the one with the lowest training loss half-way is"
            " taken"
        )
    },
    "ste": {
        "matching_args": (
            "our choice: the code of Ainsworth et al. (samuela/git-re-basin), but 25 epochs in"
            " place of 250, and the best iterate chosen on 5,000 held-out training images"
        )
    },
}
RECIPES |= {
    name: replace(
        RECIPES[base],
        name=name,
        base=base,
        section="B.1.2",
        title=f"{RECIPES[base].title.removesuffix(', permutation')}, {_METHODS[method]}",
        matching=method,
        **_MATCHING[method],
        choices={**RECIPES[base].choices, **_MATCHING_CHOICES[method]},
    )
    for name, (base, method) in BY_PERMUTATION.items()
}
# between networks with running statistics the interpolated ones make nearly every order look as bad
RECIPES |= {
    name: replace(
        RECIPES[name],
        matching_args=(("seeds", 5), ("statistics", "recomputed")),
        choices={
            **RECIPES[name].choices,
            "matching_args": (
                "our choice: five orders of visiting, the one with the lowest training loss"
                " half-way, statistics recomputed, is taken"
            ),
        },
    )
    for name in MATCHED_SPAWNED
}

#: When do permutations fail (B.5)? The MNIST MLP of other widths, matched after epochs
#: :data:`WIDTH_EPOCHS`. Name to width.
WIDTHS = {f"mlp_mnist_width{w}": w for w in (16, 32, 64, 128, 256, 512, 1024)}
WIDTH_EPOCHS = (0, 1, 2, 5, 15)
RECIPES |= {
    name: replace(
        RECIPES["mlp_mnist_perm"],
        name=name,
        title=f"MLP of width {w}, MNIST, permutation",
        model_args=(("hidden", w),),
        epochs=WIDTH_EPOCHS[-1],
        choices={
            **RECIPES["mlp_mnist_perm"].choices,
            "model_args": "our variant: 512 in the appendix",
            "epochs": "our variant: 100 elsewhere",
        },
    )
    for name, w in WIDTHS.items()
}

# Profiles. `paper` is B.1 as printed; the others scale it down, here and nowhere else.

PROFILES = ("smoke", "lite", "paper")

_DIGITS = {"data": "digits", "speedups": ()}
_SMOKE_MLP = {**_DIGITS, "model_args": (("hidden", 64),), "epochs": 20}
_SMOKE_CONV = {**_DIGITS, "batch": 32, "epochs": 15, "spawn_epoch": 2}
_SMOKE_RESNET = {
    **_SMOKE_CONV,
    "model_args": (("width", 4),),
    "drops": (8, 12),
    "augment": ("crop",),
}
_SMOKE_LAYER_NORM = {
    **_DIGITS,
    "batch": 32,
    "lr": 0.02,
    "epochs": 10,
    "kept": (0, 1, 2, 10),
    "augment": ("resized crop", "rotate"),
    "normalise": "pixels in [0, 1]",
}
# The children stop after 40 epochs, drops at the same halves and quarters; the trunk keeps its 5.
_LITE_CONV = {"epochs": 40, "drops": (20, 30)}
_SPAWN_AT_SCALE = {"model_args": (("width", 8),), "epochs": 12, "drops": (6, 9)}

SCALE: dict[str, dict[str, dict[str, Any]]] = {
    # embedded data, seconds; the MLP's learning rate is raised tenfold: an epoch has 22 steps, not
    # 1,000
    "smoke": {
        "mlp_mnist_spawn": {**_SMOKE_MLP, "lr": 1.2e-3},
        # on 8 x 8 pixels most of VGG-16 sees a single one: with SGD it does not leave chance within
        # seconds
        "vgg16_cifar10_spawn": {
            **_SMOKE_CONV,
            "model_args": (("width", 8),),
            "drops": (9, 12),
            "augment": (),
            "optimiser": "adam",
            "lr": 2e-3,
            "momentum": 0.0,
            "weight_decay": 0.0,
        },
        "resnet20_cifar10_spawn": _SMOKE_RESNET,
        **{
            name: {key: value for key, value in _SMOKE_RESNET.items() if key != "spawn_epoch"}
            for name in SPAWN_AT
        },
        "mlp_mnist_perm": {**_SMOKE_MLP, "batch": 60},
        **{name: {**_DIGITS, "batch": 60} for name, w in WIDTHS.items() if w <= 128},
        "mlp_cifar10_perm": {
            **_SMOKE_MLP,
            "batch": 60,
            "augment": ("resized crop", "rotate"),
            "normalise": "pixels in [0, 1]",
        },
        **{
            f"resnet20x{m}_cifar10_perm": {**_SMOKE_LAYER_NORM, "model_args": (("width", width),)}
            for m, width in (("0.25", 4), ("1", 8))
        },
        "resnet50_tinyimagenet_spawn": {
            **_SMOKE_CONV,
            "model_args": (("width", 8),),
            "batch": 100,
            "epochs": 16,
            "lr": 0.05,
            "warmup": 1,
            "drops": (10, 13, 15),
            "spawn_epoch": 3,
            "augment": (),
            "shipped": "small",
        },
    },
    "lite": {  # real data, fewer epochs; VGG-16 a quarter as wide, classifier included
        "mlp_mnist_spawn": {"epochs": 6},
        "mlp_mnist_spawn_lr1.2e-3": {"epochs": 6},
        "resnet20_cifar10_spawn": _LITE_CONV,
        "vgg16_cifar10_spawn": {**_LITE_CONV, "model_args": (("width", 16),)},
        **{name: _SPAWN_AT_SCALE for name in SPAWN_AT},
        "mlp_mnist_perm": {"epochs": 10},
        "mlp_cifar10_perm": {"epochs": 10},
        # the cosine falls to 0 within the 24 epochs; the warm-up stays as long as it is
        **{name: {"epochs": KEPT[-1]} for name in (*LAYER_NORM, LAYER_NORM_BY_CODE)},
        # a fifth of the epochs, each of the schedule's as well
        "resnet50_tinyimagenet_spawn": {
            "epochs": 18,
            "warmup": 1,
            "drops": (6, 12, 16),
            "spawn_epoch": 3,
        },
    },
    "paper": {
        "resnet20x32_cifar10_perm": {},
        "mlp_mnist_perm": {},
        **{name: {} for name in WIDTHS},
        "mlp_cifar10_perm": {},
        "mlp_mnist_spawn": {},
        "mlp_mnist_spawn_lr1.2e-3": {},
        "resnet20_cifar10_spawn": {},
    },
}

_SMOKE_STE = (("epochs", 3), ("batch", 200), ("lr", 1e-2), ("momentum", 0.9), ("held_out", 200))
for _profile, _scale in SCALE.items():  # matched networks are scaled as they were trained
    for _name, (_base, _method) in BY_PERMUTATION.items():
        if _base in _scale:
            _scale[_name] = {
                **_scale[_base],
                **(
                    {"matching_args": _SMOKE_STE} if (_profile, _method) == ("smoke", "ste") else {}
                ),
            }

#: Pairs of ResNet-20 with layer norm, by its width in units of 16 channels.
PAIRS_OF_WIDTH = {0.25: 3, 0.5: 3, 1: 3, 2: 2, 4: 1}
_WIDE = {
    **{f"{name}_weight": m for name, m in LAYER_NORM.items()},
    f"{LAYER_NORM_BY_CODE}_weight": 0.5,
}

#: Independently initialised pairs of each recipe. Recipes without an entry have no results yet.
PAIRS = {
    "smoke": {
        "mlp_mnist_spawn": 2,
        "vgg16_cifar10_spawn": 1,
        "resnet20_cifar10_spawn": 1,
        **{name: 1 for name in SPAWN_AT},
        **{name: 2 for name in MATCHED},
        **{name: 1 for name in MATCHED_SPAWNED},
        "resnet20x0.25_cifar10_perm_weight": 1,
        "resnet20x1_cifar10_perm_weight": 1,
        "resnet50_tinyimagenet_spawn": 1,
        **{name: 1 for name, w in WIDTHS.items() if w <= 128},
    },
    "lite": {
        "mlp_mnist_spawn": 3,
        "mlp_mnist_spawn_lr1.2e-3": 1,
        "resnet20_cifar10_spawn": 3,
        "vgg16_cifar10_spawn": 2,
        **{name: PAIRS_OF_WIDTH[m] for name, m in _WIDE.items()},
        "resnet50_tinyimagenet_spawn": 1,
        **{name: 2 for name in SPAWN_AT},
        "vgg16_cifar10_spawn_weight": 1,
        "resnet20_cifar10_spawn_weight": 2,
    },
    "paper": {
        "mlp_mnist_spawn": 10,
        "mlp_mnist_spawn_lr1.2e-3": 3,
        "resnet20_cifar10_spawn": 1,
        **{name: 3 for name in (*MATCHED, *WIDTHS)},
        "resnet20x32_cifar10_perm_weight": 1,
    },
}


_REFERENCES = ("closeness", "connected", "coherence", "weights")

#: What the queue does first: a profile, recipes, and which parts of their pairs (None: all that no
#: line before names). Within a line all first pairs, then all second ones, and so on.
QUEUE: tuple[tuple[str, tuple[str, ...], tuple[str, ...] | None], ...] = (
    ("smoke", tuple(PAIRS["smoke"]), None),
    (
        "lite",
        (
            "resnet20x0.25_cifar10_perm_weight",
            "resnet20x0.5_cifar10_perm_weight",
            f"{LAYER_NORM_BY_CODE}_weight",
        ),
        None,
    ),
    ("paper", ("resnet20_cifar10_spawn",), None),
    ("lite", ("resnet20x1_cifar10_perm_weight", "resnet20x2_cifar10_perm_weight"), None),
    ("paper", ("mlp_mnist_spawn", "mlp_mnist_spawn_lr1.2e-3", *MATCHED), _REFERENCES),
    (
        "lite",
        ("resnet20_cifar10_spawn", "vgg16_cifar10_spawn", *MATCHED_SPAWNED, *SPAWN_AT),
        _REFERENCES,
    ),
    ("lite", ("resnet50_tinyimagenet_spawn",), None),
    ("lite", ("resnet20x4_cifar10_perm_weight",), None),
    ("paper", ("mlp_mnist_spawn", "mlp_mnist_spawn_lr1.2e-3"), None),
    ("lite", ("resnet20_cifar10_spawn", "vgg16_cifar10_spawn"), None),
    ("paper", (*MATCHED, *WIDTHS), None),
    ("lite", (*MATCHED_SPAWNED, *SPAWN_AT), None),
    ("lite", ("mlp_mnist_spawn", "mlp_mnist_spawn_lr1.2e-3"), None),
)


def check_profile(profile: str) -> str:
    """``profile`` itself. ValueError for a name that is none of :data:`PROFILES`.

    Source: this book.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; choose one of {list(PROFILES)}")
    return profile


def recipe(name: str, profile: str = "paper") -> Recipe:
    """The recipe ``name`` as ``profile`` scales it. ValueError for an unknown one or one without
    that profile.

    Source: B.1, scaled down by this book.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; choose one of {list(RECIPES)}")
    if name not in SCALE[check_profile(profile)]:
        raise ValueError(
            f"recipe {name!r} has no profile {profile!r} yet; there are {sorted(SCALE[profile])}"
        )
    return replace(RECIPES[name], **SCALE[profile][name])


def reductions(name: str, profile: str) -> str:
    """In words, what ``profile`` changes in the recipe: to be printed beside its figures. Empty for
    nothing.

    Source: this book.
    """
    full, scale = RECIPES[name], SCALE[check_profile(profile)][name]
    changes = [
        f"{TOLD.get(key, key.replace('_', ' '))} {_plain(key, getattr(full, key))} ->"
        f" {_plain(key, value)}"
        for key, value in scale.items()
        if key not in ("speedups", "kept", "shipped") and getattr(full, key) != value
    ]
    if full.kept and full.warmup and "epochs" in scale and "warmup" not in scale:
        changes.append(f"warm-up as long as it is ({full.warmup} of {scale['epochs']} epochs)")
    return "; ".join(changes)


TOLD = {"model_args": "network", "spawn_epoch": "spawned after epoch", "lr": "learning rate"}


def _plain(key: str, value: Any) -> str:
    if value == ():
        return "as printed" if key == "model_args" else "none"
    if isinstance(value, tuple):
        return ", ".join(f"{v[0]} {v[1]}" if isinstance(v, tuple) else str(v) for v in value)
    return str(value)
