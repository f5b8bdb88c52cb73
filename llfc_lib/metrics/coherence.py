"""What |dW dH|^2 of commutativity (Definition 4) is made of: energy at the same units, and units
that act together.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from llfc_lib.metrics.measure import METRICS, Batch, Pair, Sums, dot, ratio
from llfc_lib.metrics.rows import Row
from llfc_lib.models.view import LinearMap

# numbers in the patches held at once: 8 MB in float64, of which products need several copies
PATCHES = 2**20


@METRICS.register("coherence")
class Coherence:
    """V = |dW dH|^2 over the whole set beside what it would be by chance, for every map but the
    first; biases left out.

    dW = W_A - W_B, dH = H_A - H_B; a unit is a feature of a linear map, an input channel of a
    convolution. Quantities:

    - "commutator_energy": V.
    - "sign_energy": E_s = sum over units u of |dW_u dH_u|^2 (dW_u * dH_u for a convolution), the
      expectation of V when each unit of dH is given a random sign.
    - "shuffle_energy": the expectation of V when the units of dH stand in a uniformly random order
      against dW. Exact, not drawn.
    - "coherence": V / E_s, above 1 where what units contribute adds up, below 1 where it cancels.
    - "energy_alignment": E_s / shuffle_energy, above 1 where units whose weights differ are those
      whose features do.

    ``n`` counts images. Energies are sums over images and outputs, in the squared units of the
    pre-activations. Coherence times alignment is V over the shuffle; 0 / 0 counts as 0.

    Source: Definition 4.
    """

    def start(self, pair: Pair) -> None:
        self.maps = [m for m in pair.a.maps if not m.first]
        pair.want(*(m.input for m in self.maps))
        self.d_w = {m.name: pair.state_a[m.weight] - pair.state_b[m.weight] for m in self.maps}
        self.sums = {m.name: Sums() for m in self.maps}
        self.n = 0

    def update(self, batch: Batch) -> None:
        for m in self.maps:
            d_w, d_h = self.d_w[m.name], batch.a[m.input] - batch.b[m.input]
            z = m.apply(d_w, d_h)
            self.sums[m.name].add(energy=dot(z, z))
            positions = z[0, 0].numel() if m.unit_axis == 1 else 1
            for patches in _patches(m, d_w, d_h, positions):
                total = patches.sum(1)
                self.sums[m.name].add(
                    own=torch.einsum("rcti,rcui->ctu", patches, patches),
                    whole=torch.einsum("rti,rui->tu", total, total),
                )
        self.n += len(batch.y)

    def rows(self) -> list[Row]:
        rows = []
        for m in self.maps:
            sums = self.sums[m.name]
            own, whole = sums.total["own"], sums.total["whole"]
            by_sign, by_order = expectations(self.d_w[m.name], own, whole)
            found = {
                "commutator_energy": sums["energy"],
                "sign_energy": by_sign,
                "shuffle_energy": by_order,
                "coherence": ratio(sums["energy"], by_sign),
                "energy_alignment": ratio(by_sign, by_order),
            }
            rows += [
                Row(quantity, value, n=self.n, site=m.name) for quantity, value in found.items()
            ]
        return rows


def expectations(d_w: Tensor, own: Tensor, whole: Tensor) -> tuple[float, float]:
    """The expectations of |dW dH|^2 under random signs of the C units of dH, and under a random
    order of them.

    ``d_w``: outputs x (inputs of a group) x the kernel's taps, in any number of dimensions, one tap
    for a linear map. ``own`` (C x taps x taps, float64): for every unit, products of its patches
    with each other, summed over images and positions. ``whole`` (taps x taps): the same of the
    patches summed over units.

    With G_cd = W_c' W_d and K_cd alike of patches, |dW dH|^2 = sum over c, d of <G_cd, K_cd>. Signs
    leave c = d. In a random order each unit is as likely as any other to meet W_c, each ordered
    pair to meet (W_c, W_d): means of K.
    """
    n, taps = own.shape[:2]
    w = d_w.double().reshape(n // d_w.shape[1], -1, d_w.shape[1], taps)  # group, output, input, tap
    gram = torch.einsum("goct,gocu->gctu", w, w).reshape(n, taps, taps)
    total = w.sum(2)
    trace_w, trace_h = gram.sum(0), own.sum(0)
    # group by group, since inputs of different groups share no output
    off_w, off_h = torch.einsum("got,gou->tu", total, total) - trace_w, whole - trace_h
    by_order = dot(trace_w, trace_h) / n + (dot(off_w, off_h) / (n * (n - 1)) if n > 1 else 0.0)
    # of squares: rounding must not make it negative
    return float(dot(gram, own)), max(float(by_order), 0.0)


def _patches(m: LinearMap, d_w: Tensor, d_h: Tensor, positions: int) -> Iterator[Tensor]:
    """What the map sees of every unit of ``d_h``, in pieces: rows x units x taps x ``positions``,
    float64.

    Rows are images; for a linear map whatever it treats alike, tokens for instance.
    """
    if m.unit_axis == -1:
        units = d_h.shape[-1]
        for h in d_h.reshape(-1, units).split(max(1, PATCHES // units)):
            yield h.double().reshape(-1, units, 1, 1)
        return
    units, kernel = d_h.shape[1], d_w.shape[2:]
    groups, taps = units // d_w.shape[1], kernel.numel()
    # One output a tap: the map itself picks patches, whatever its stride, dilation and padding. It
    # takes as many channels as it has groups and keeps them apart, so that many of them pass as one
    # image.
    one_each = torch.eye(taps, dtype=d_h.dtype, device=d_h.device).repeat(groups, 1)
    pick = one_each.reshape(groups * taps, 1, *kernel)
    for h in d_h.split(max(1, PATCHES // (units * taps * positions))):
        picked = m.apply(pick, h.reshape(-1, groups, *h.shape[2:]))
        yield picked.double().reshape(len(h), units, taps, positions)
