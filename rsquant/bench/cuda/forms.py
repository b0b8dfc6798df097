"""What a convolution of a network has to do: its shape, multiply-adds and bytes."""

from __future__ import annotations

from dataclasses import dataclass

from rsquant.packed.fields import Pair
from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.program import Program

# The program's image has a fourth channel that is ours, not the network's.
_IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class Form:
    """A convolution's shape. `epilogue` names what is fused behind it: "codes", "float", "add"."""

    batch: int
    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    height: int
    width: int
    out_height: int
    out_width: int
    epilogue: str

    @property
    def macs(self) -> int:
        """Multiply-adds: output values times products of each, padding included."""
        products = self.kernel[0] * self.kernel[1] * self.in_channels // self.groups
        return self.batch * self.out_height * self.out_width * self.out_channels * products

    def bytes(self, input_size: int, weight_size: int, output_size: int, bias_size: int) -> int:
        """Fewest bytes through memory: input, weights and bias read once, output written once.

        A strided 1x1 convolution need not read the pixels that it leaves out.

        Args:
            *_size: bytes of one value of each.
        """
        height, width = self.height, self.width
        if self.kernel == (1, 1):
            height, width = self.out_height, self.out_width
        read = self.batch * height * width * self.in_channels
        weights = self.kernel[0] * self.kernel[1] * self.in_channels // self.groups
        written = self.batch * self.out_height * self.out_width * self.out_channels
        return (
            read * input_size
            + self.out_channels * (weights * weight_size + bias_size)
            + written * output_size
        )


def form_of(program: Program, step: ConvStep, batch: int) -> Form:
    """The form of one step of a program."""
    epilogue = step.epilogue
    source = program.values[step.input]
    written = epilogue.codes if epilogue.codes is not None else epilogue.keep
    target = program.values[written or 0]
    fused = [
        name
        for name, value in (
            ("add", epilogue.add),
            (program.values[epilogue.keep or 0].kind, epilogue.keep),
            ("codes", epilogue.codes),
        )
        if value is not None
    ]
    # cuDNN pads alike on both sides: where ours does not, the larger gives as many outputs.
    top, left, bottom, right = step.padding
    padding = max(top, bottom), max(left, right)
    return Form(
        batch,
        _IMAGE_CHANNELS if step.input == 0 else step.in_channels,
        step.out_channels,
        step.kernel,
        step.stride,
        padding,
        step.dilation,
        step.groups,
        source.height,
        source.width,
        target.height,
        target.width,
        " ".join(fused),
    )
