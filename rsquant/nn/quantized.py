"""Convolution and linear layers whose weights, and inputs if asked, are quantized."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsquant.nn.active import WIDTH
from rsquant.nn.padded import PaddedConv2d, pads_of
from rsquant.quantizers import (
    InputQuantizer,
    NestedWeights,
    WeightQuantizer,
    make_activations,
    make_weights,
)
from rsquant.quantizers.calls import PerCall
from rsquant.quantizers.grid import limits
from rsquant.quantizers.registry import DEFAULT

# Quantized weights by number of bits; 0 where a layer has one number.
Held = dict[int, Tensor]


class _Quantized:
    """What QuantConv2d and QuantLinear share: when weights are quantized, and reuse of the result.

    `held` are quantized weights to compute with, by the number of bits in force: within one
    training step they are the same for all resolutions, so they are quantized (and the basis moved)
    once. They belong to the thread that set them, and to recomputations of its calls.

    `parts` are, of a network with several widths, how many output channels and how many input
    channels (of a group) of the weights each width uses: the first ones (see `widths`).
    """

    weight: Tensor
    weight_quantizer: WeightQuantizer | None
    input_quantizer: InputQuantizer | None

    def _add_quantizers(
        self,
        wbits: int,
        abits: int,
        signed_input: bool,
        grid: str,
        quantizer: str,
        weight_norm: str,
    ) -> None:
        weight_limit, input_limit = limits(grid, wbits)
        self.weight_quantizer = self.input_quantizer = None
        if wbits != 32:
            outputs = self.weight.shape[0]
            self.weight_quantizer = make_weights(
                quantizer, outputs, wbits, weight_limit, weight_norm
            )
            self.weight_quantizer.start_from(self.weight)
        if abits != 32:
            self.input_quantizer = make_activations(quantizer, abits, signed_input, input_limit)
        self.held = PerCall(None)
        self.parts: dict[float, tuple[int, int]] | None = None

    def restart_weight_quantizer(self) -> None:
        """Make the weight quantizer anew for the weights there are now, and start from them."""
        old = self.weight_quantizer
        if old is not None:
            outputs = self.weight.shape[0]
            new: WeightQuantizer
            if isinstance(old, NestedWeights):
                new = NestedWeights(outputs, old.nested, old.grid)
                new.only = old.only
            else:
                new = make_weights(old.kind, outputs, old.bits, old.grid, old.weight_norm)
            new.to(self.weight.device).start_from(self.weight)
            self.weight_quantizer = new.train(old.training)
        self.held = PerCall(None)

    def fit_weight_quantizer(self) -> None:
        """Fit the weight quantizer to the weights there are now, as closely as it can."""
        if self.weight_quantizer is not None:
            self.weight_quantizer.fit(self.weight)
        self.held = PerCall(None)

    def quantized_weight(self) -> Tensor:
        """The weights the layer computes with: levels of the basis, or the weights themselves."""
        held = self.held_weight()
        if held is not None:
            return held
        return self.weight if self.weight_quantizer is None else self.weight_quantizer(self.weight)

    def held_weight(self) -> Tensor | None:
        """The quantized weights of this step, of the bits in force; None where none are held."""
        held: Held | None = self.held.value
        return None if held is None else held[self._bits_in_force]

    def weights_to_hold(self, wanted: Collection[int] = ()) -> Held:
        """The weights the layer computes with, for `held`; in training the basis moves.

        Args:
            wanted: numbers of bits, of a layer that has several; none: all of them.
        """
        held: Held | None = self.held.value
        if held is not None:
            return held
        nested = self.weight_quantizer
        if isinstance(nested, NestedWeights) and nested.only is None:
            bits = [k for k in nested.nested if not wanted or k in wanted]
            return nested.at_each(self.weight, bits)
        return {self._bits_in_force: self.quantized_weight()}

    @property
    def _bits_in_force(self) -> int:
        nested = self.weight_quantizer
        return nested.active_bits if isinstance(nested, NestedWeights) else 0

    def weights_in_force(self) -> tuple[Tensor, Tensor | None]:
        """The quantized weights and the bias, of the width in force."""
        weight = self.quantized_weight()
        bias: Tensor | None = self.bias  # type: ignore[attr-defined]
        width = WIDTH.value
        if self.parts is None or width is None:
            return weight, bias
        outputs, inputs = self.parts[width]
        return weight[:outputs, :inputs], None if bias is None else bias[:outputs]

    def quantized_input(self, x: Tensor) -> Tensor:
        return x if self.input_quantizer is None else self.input_quantizer(x)


class QuantConv2d(PaddedConv2d, _Quantized):
    """Conv2d on quantized weights and, if `abits` is not 32, inputs.

    Takes PaddedConv2d's arguments. wbits and abits are 1 to 4, or 32 to leave that side in float32;
    grid is none, fine or coarse (see `quantizers.grid`); quantizer is a registered name;
    weight_norm is none, std or mean-abs (see `quantizers.weight_norm`).
    """

    def __init__(
        self,
        *args: object,
        wbits: int,
        abits: int = 32,
        signed_input: bool = False,
        grid: str = "none",
        quantizer: str = DEFAULT,
        weight_norm: str = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._add_quantizers(wbits, abits, signed_input, grid, quantizer, weight_norm)

    @classmethod
    def from_float(
        cls,
        conv: nn.Conv2d,
        wbits: int,
        abits: int = 32,
        signed_input: bool = False,
        grid: str = "none",
        quantizer: str = DEFAULT,
        weight_norm: str = "none",
    ) -> QuantConv2d:
        """The same convolution, quantized; its levels start from its weights."""
        new = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            pads=pads_of(conv),
            wbits=wbits,
            abits=abits,
            signed_input=signed_input,
            grid=grid,
            quantizer=quantizer,
            weight_norm=weight_norm,
        )
        new.weight, new.bias = conv.weight, conv.bias
        if new.weight_quantizer is not None:
            new.weight_quantizer.start_from(conv.weight)
        return new.to(conv.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantized_input(x)
        weight, bias = self.weights_in_force()
        groups, channels = self.groups, self.in_channels
        narrower = weight.shape[:2] != self.weight.shape[:2]
        if narrower:  # a depthwise convolution then has fewer groups
            channels = x.shape[1]
            groups = channels // weight.shape[1]
        if torch.is_grad_enabled() and crashes_backward(self, channels):
            # The same sum over the pixels that the stride keeps.
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
            return functional.conv2d(x, weight, bias, groups=groups)
        if narrower:
            return functional.conv2d(
                x, weight, bias, self.stride, self.padding, self.dilation, groups
            )
        return self._conv_forward(x, weight, bias)


class QuantLinear(nn.Linear, _Quantized):
    """Linear on quantized weights and, if `abits` is not 32, inputs; see QuantConv2d."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        wbits: int,
        abits: int = 32,
        signed_input: bool = False,
        grid: str = "none",
        quantizer: str = DEFAULT,
        weight_norm: str = "none",
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self._add_quantizers(wbits, abits, signed_input, grid, quantizer, weight_norm)

    @classmethod
    def from_float(
        cls,
        linear: nn.Linear,
        wbits: int,
        abits: int = 32,
        signed_input: bool = False,
        grid: str = "none",
        quantizer: str = DEFAULT,
        weight_norm: str = "none",
    ) -> QuantLinear:
        """The same layer, quantized; its levels start from its weights."""
        new = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            wbits=wbits,
            abits=abits,
            signed_input=signed_input,
            grid=grid,
            quantizer=quantizer,
            weight_norm=weight_norm,
        )
        new.weight, new.bias = linear.weight, linear.bias
        if new.weight_quantizer is not None:
            new.weight_quantizer.start_from(linear.weight)
        return new.to(linear.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.quantized_input(x), *self.weights_in_force())


def crashes_backward(conv: nn.Conv2d, in_channels: int | None = None) -> bool:
    """Whether a convolution is strided 1x1 on fewer channels than a vector register holds.

    The backward pass of oneDNN then corrupts memory for channels_last inputs (torch 2.15, 2 to 7
    channels on AVX2; 16 is the widest register). QuantConv2d has a way round it.
    """
    pointwise = conv.kernel_size == (1, 1) and conv.padding in ((0, 0), 0) and not pads_of(conv)
    channels = conv.in_channels if in_channels is None else in_channels
    return pointwise and conv.stride != (1, 1) and channels < 16


QUANTIZED_LAYERS = (QuantConv2d, QuantLinear)
