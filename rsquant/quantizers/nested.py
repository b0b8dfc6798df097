"""One set of weights at several numbers of bits: the first vectors of a basis are a quantizer too.

A basis v_1 > v_2 > .. > v_K > 0 of an output channel is kept dominant, v_k >= v_(k+1) + .. + v_K.
Then levels ascend as their signs do, read as digits with v_1's first. So the levels of K bits with
the same first k signs lie next to each other, and where two such groups of parents P < Q meet, with
r = v_(k+1) + .. + v_K, the threshold is

    ((P + r) + (Q - r)) / 2 = (P + Q) / 2

the one between the levels P and Q of k bits. The nearest level of the first k vectors thus has the
first k signs of the nearest level of all K: bit planes of fewer bits are the first planes of more.

The basis minimises the squared errors of all its numbers of bits together. With the counts n_l and
sums s_l of the levels of K bits (qem), those of k bits are sums over groups, so

    sum_k |x - B_k v_(1..k)|^2    gives    (c_max(i,j) (B'B)_ij) v = c_j (B'x)_j

c_j: how many of the numbers of bits use vector j. On normal weights, for 4, 2 and 1 bits: an error
of 0.118 of the power at 2 bits, as a quantizer of its own (0.118), where a basis fitted for 4 bits
alone has 0.141; at 4 bits 0.020, where that one has 0.012. A scale is left out of the account: the
BatchNorms behind the layer, which each setting has for itself, take it.

Activations are quantized as they are computed and never stored, so each number of bits has a basis
for itself (`SwitchedActivations`).

Source: LQ-Nets (arXiv 1807.10029), section 3; nesting is rsquant's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rsquant.errors import ConfigError
from rsquant.kernels.integer_bases import EXACT, integer_bases
from rsquant.quantizers import codes, qem
from rsquant.quantizers.base import (
    ActivationQuantizer,
    InputQuantizer,
    IntegerForm,
    WeightQuantizer,
)
from rsquant.quantizers.calls import PerCall, basis_of, check_forward, recomputing
from rsquant.quantizers.lq import INITIAL_SPREAD, MOMENTUM
from rsquant.quantizers.rounding import round_weights

# Bits of weights and activations in force; None: the most there are.
BITS = PerCall(None)
# So that float32 sums of a basis ascend as their signs do.
_SLACK = 1.0 + 2.0**-10
_ROUNDS = 50
_SCALES = (0.75, 1.0, 1.5, 2.0)


def dominant(basis: Tensor) -> Tensor:
    """The basis, largest first, each at least the sum of those behind it, (..., K) float32."""
    ordered = basis.abs().sort(dim=-1, descending=True).values.clamp_min(1e-12)
    vectors = [ordered[..., -1]]
    rest = vectors[0]
    for vector in ordered[..., :-1].flip(-1).unbind(-1):
        vectors.append(torch.maximum(vector, rest * _SLACK))
        rest = rest + vectors[-1]
    return torch.stack(vectors[::-1], -1)


def snap_dominant(basis: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The nearest dominant basis of integers, and its scale.

    Up to a limit of 15 all are compared; beyond, one within a few steps of `limit`'s is taken.

    Args:
        basis: (..., K) float32, dominant.
        limit: largest sum of the integers, at least 2**K - 1.
    Returns:
        p: (..., K) int64. scale: (...) float32, not negative.
    """
    v = basis.double()
    if limit <= EXACT:
        every = torch.tensor(integer_bases(v.shape[-1], limit, True)[0].T, device=v.device)
        tails = every.flip(-1).cumsum(-1).flip(-1) - every
        every = every[(every >= tails).all(-1)]
        directions = every / every.norm(dim=-1, keepdim=True)
        p = every[(v.unsqueeze(-2) * directions).sum(-1).argmax(-1)]
    else:
        room = limit - 2 * v.shape[-1]
        p = torch.round(v * (room / v.sum(-1, keepdim=True)))
        columns = list(p.unbind(-1))
        rest = columns[-1]
        for k in range(len(columns) - 2, -1, -1):
            columns[k] = torch.maximum(columns[k], rest)
            rest = rest + columns[k]
        p = torch.stack(columns, -1)
    scale = (p * v).sum(-1) / p.square().sum(-1).clamp_min(1.0)
    return p.long(), scale.float()


def _signs(bits: int, device: torch.device) -> Tensor:
    """(2**bits, bits) float32 in {-1, +1}: digits of each level, the first vector's first."""
    return codes.patterns(bits, signed=True).flip(-1).to(device)


class NestedWeights(WeightQuantizer):
    """LQ weights at several numbers of bits, over one basis; `forward` uses the bits in force.

    In training the basis moves once per step, by the errors of all its numbers of bits.

    Args:
        out_channels: O.
        nested: numbers of bits, each 1 to 4 and once; the most first.
        grid: as of `LQWeightQuantizer`, of the most bits.

    Attributes:
        only: the number of bits of a network cut down to one setting; None: the one in force.
    """

    kind = "lq"
    basis: Tensor
    uses: Tensor

    def __init__(self, out_channels: int, nested: Sequence[int], grid: int | None = None) -> None:
        super().__init__(max(nested), grid)
        self.nested = tuple(sorted(nested, reverse=True))
        self.only: int | None = None
        self.register_buffer("basis", self._initial(torch.ones(out_channels)))
        uses = [sum(k >= j for k in self.nested) for j in range(1, self.bits + 1)]
        self.register_buffer("uses", torch.tensor(uses).double(), persistent=False)

    def _initial(self, spread: Tensor) -> Tensor:
        powers = 0.5 ** torch.arange(self.bits, device=spread.device)
        return spread.unsqueeze(1) * powers * INITIAL_SPREAD

    @property
    def active_bits(self) -> int:
        """How many vectors are used."""
        if self.only is not None:
            return self.only
        return self.bits if BITS.value is None else int(BITS.value[0])

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        """Start the basis from the weights' own spread, (O, ...) floats, per channel."""
        spread = weight.flatten(1).float().square().mean(1).sqrt()
        self.basis.copy_(dominant(self._initial(spread.clamp_min(1e-6))))

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """QEM on the weights until it stands still, from the best of some scales per channel."""
        self.start_from(weight)
        rows, start = weight.flatten(1).float(), self.basis.clone()
        least = self._errors(rows, start)
        for scale in _SCALES:
            basis = start * scale
            for _ in range(_ROUNDS):
                fitted = dominant(self._fitted(*self._counted(rows, basis, None), basis).float())
                moved = (fitted - basis).norm() / fitted.norm().clamp_min(1e-30)
                basis = fitted
                if moved < 1e-3:
                    break
            errors = self._errors(rows, basis)
            better = errors < least
            self.basis.copy_(torch.where(better.unsqueeze(1), basis, self.basis))
            least = torch.where(better, errors, least)

    def _errors(self, rows: Tensor, basis: Tensor) -> Tensor:
        """Squared errors of each channel, of all numbers of bits together, float64."""
        sums = [
            (rows - round_weights(rows, *self._bounds(basis, k, self.grid))[0])
            .double()
            .square()
            .sum(1)
            for k in self.nested
        ]
        return torch.stack(sums).sum(0)

    def _counted(self, rows: Tensor, basis: Tensor, grid: int | None) -> tuple[Tensor, Tensor]:
        _, counts, sums = round_weights(rows, *self._bounds(basis, self.bits, grid))
        return counts, sums

    def _fitted(self, counts: Tensor, sums: Tensor, basis: Tensor) -> Tensor:
        signs = _signs(self.bits, basis.device)
        assert isinstance(self.uses, Tensor)
        return qem.fit_basis(counts, sums, signs, basis, qem.WEIGHT_RIDGE, self.uses)

    def _bounds(self, basis: Tensor, bits: int, limit: int | None) -> tuple[Tensor, Tensor]:
        """Levels (O, L) and thresholds (O, L - 1) of so many bits, ascending."""
        vectors, scale = basis, None
        if limit is not None:
            integers, scale = snap_dominant(basis, limit)
            vectors = integers.float()

        def levels(bits: int) -> Tensor:
            # Sums of integers are exact, so that equal levels stay equal.
            found = (vectors[:, None, :bits] * _signs(bits, basis.device)).sum(-1)
            return found if scale is None else found * scale.unsqueeze(-1)

        # The very thresholds of the most bits: no weight may change sides by rounding.
        step = 2 ** (self.bits - bits)
        return levels(bits), codes.thresholds(levels(self.bits))[:, step - 1 :: step].contiguous()

    def levels(self) -> Tensor:
        """(O, L) float32, ascending, of the bits in force."""
        return self._bounds(self.basis, self.active_bits, self.grid)[0]

    def thresholds(self) -> Tensor:
        return self._bounds(self.basis, self.active_bits, self.grid)[1]

    def has_own_thresholds(self) -> bool:
        return False  # they are the middles, but for rounding

    def on_grid(self) -> IntegerForm:
        """Its basis is the first integers of that of the most bits, with the same scale."""
        assert self.grid is not None
        p, scale = snap_dominant(self.basis, self.grid)
        bits = self.active_bits
        p = p[:, :bits]
        # Digit j, of vector j, is the highest but j of a level's number.
        numbers = torch.arange(2**bits, device=p.device)
        patterns = sum(((numbers >> (bits - 1 - j)) & 1) << j for j in range(bits))
        assert isinstance(patterns, Tensor)
        return IntegerForm(2 * p, -p.sum(-1), scale, patterns.expand(len(p), -1))

    def forward(self, weight: Tensor) -> Tensor:
        """Quantize (O, ...) floats at the bits in force; in training, move the basis.

        Gradient: straight through (identity).
        """
        bits = self.active_bits
        return self.at_each(weight, (bits,))[bits]

    def at_each(self, weight: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        """The weights quantized at several numbers of bits; in training the basis moves once.

        Args:
            weight: (O, ...).
            wanted: each of `nested`.
        Returns:
            Shape and dtype of `weight`, by bits. Gradient: straight through.
        """
        moves = self.training and not recomputing()
        if moves:
            check_forward(type(self).__name__)
        basis = basis_of(self, self.basis).float()
        values, results = weight.float(), {}
        counted: tuple[Tensor, Tensor] | None = None
        for bits in wanted:
            with torch.no_grad():
                bounds = self._bounds(basis, bits, self.grid)
            rounded, counts, sums = round_weights(values, *bounds)
            results[bits] = rounded.to(weight.dtype)
            if bits == self.bits:
                counted = counts, sums
        if moves:
            with torch.no_grad():
                if counted is None:
                    counted = self._counted(values, basis, self.grid)
                fitted = self._fitted(*counted, self.basis)
                moved = MOMENTUM * self.basis + (1 - MOMENTUM) * fitted
                self.basis.copy_(dominant(moved.float()))
        return results

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "nested": list(self.nested)}

    def extra_repr(self) -> str:
        return f"out_channels={len(self.basis)}, nested={self.nested}, grid={self.grid}"


class SwitchedActivations(InputQuantizer):
    """An activation quantizer for each number of bits; the one in force runs.

    Args:
        quantizers: by bits.
    """

    def __init__(self, quantizers: Mapping[int, ActivationQuantizer]) -> None:
        super().__init__()
        self.at = nn.ModuleDict({str(bits): one for bits, one in quantizers.items()})
        self.most = str(max(quantizers))

    @property
    def in_force(self) -> ActivationQuantizer:
        key = self.most if BITS.value is None else str(BITS.value[1])
        found = self.at[key]
        assert isinstance(found, ActivationQuantizer)
        return found

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.in_force(x)
        return result


def check_nestable(quantizer: str, norm: str = "none") -> None:
    """Raise ConfigError for quantizers whose weights have no nested form."""
    if quantizer != "lq" or norm != "none":
        what = f"quantizer '{quantizer}'" if norm == "none" else f"weight_norm '{norm}'"
        raise ConfigError(
            f"bits: several settings of bits share the vectors of an LQ basis, which {what} has "
            "not; use quantizer 'lq' without weight_norm, or one setting of bits"
        )
