"""A network that can be run at several resolutions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rsquant.errors import ModelError
from rsquant.nn.active import ActiveSetting, side_of
from rsquant.nn.classifier import reset_classifier
from rsquant.nn.conversion import Conversion
from rsquant.nn.copying import copied
from rsquant.nn.inputs import complaint
from rsquant.nn.integer.byte_scale import ByteScale
from rsquant.nn.integer.layers import IntegerImageConv
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.precision import FLOAT, LayerBits, LayerQuantizer, Precision, Precisions
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.reparametrized import check_no_weight_hooks, reparametrizations
from rsquant.quantizers import ActivationQuantizer
from rsquant.quantizers.calls import using
from rsquant.settings import Bits, Setting, Variant, bits_names, distinct, variant_of

# What a ModelSpec names a network that was given to `convert`.
CUSTOM = "custom"


@dataclass(frozen=True)
class ModelSpec:
    """What a network is, enough to build it again; stored in every checkpoint.

    `layer_bits` and `layer_quantizer` are what layers have whose names match; see `precision`.
    `bits` are those of several settings, the costliest first, which has `wbits` and `abits`, and
    `widths` their shares of the channels, 1 first; empty where there is one.
    """

    arch: str
    wbits: int
    abits: int
    resolutions: tuple[int, ...]
    num_classes: int
    width: int = 64
    stem: str = "imagenet"
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    grid: str = "none"
    block: str = "auto"
    quantizer: str = "lq"
    task: str = "classification"
    layer_bits: tuple[LayerBits, ...] = ()
    layer_quantizer: tuple[LayerQuantizer, ...] = ()
    integer: bool = False
    weight_norm: str = "none"
    bits: tuple[Bits, ...] = ()
    widths: tuple[float, ...] = ()

    @property
    def several(self) -> bool:
        """Whether it is a network of several settings that differ in more than their sizes."""
        return bool(self.bits or self.widths)

    def columns(self, variant: Variant) -> dict[str, Any]:
        """Width and bits as columns of a table, as far as the network has several of them."""
        width = {"width": variant.width} if self.widths else {}
        bits = {"bits": bits_names([variant.bits])} if self.bits and variant.bits else {}
        return width | bits

    @property
    def precisions(self) -> Precisions:
        """What each layer has."""
        default = Precision(self.wbits, self.abits, self.quantizer, self.weight_norm)
        return Precisions(default, self.layer_bits, self.layer_quantizer)

    @property
    def low_bit_weights(self) -> bool:
        """Whether any layer has them."""
        return min([self.wbits, *(p.wbits or FLOAT for p in self.layer_bits)]) < FLOAT

    @property
    def low_bit_activations(self) -> bool:
        """Whether any layer reads them."""
        return min([self.abits, *(p.abits or FLOAT for p in self.layer_bits)]) < FLOAT

    @property
    def low_bit(self) -> bool:
        """Whether both are there, which packed networks compute with."""
        return self.low_bit_weights and self.low_bit_activations

    @property
    def file_stem(self) -> str:
        """For names of files: resnet18_w2a2, or resnet18_w2a2_mixed where layers differ.

        Of several settings all of them: resnet18_x1_x0_5_w4a4_w2a2.
        """
        arch = self.arch.replace(":", "_").replace("/", "_")
        arch += "".join(f"_x{width:g}" for width in self.widths).replace(".", "_")
        kind = "_integer" if self.integer else ""
        bits = "_".join(f"w{w}a{a}" for w, a in self.bits) or f"w{self.wbits}a{self.abits}"
        return f"{arch}_{bits}{kind}{'_mixed' if self.is_mixed else ''}"

    @property
    def is_mixed(self) -> bool:
        """Whether layers have bits or quantizers that are not the network's."""
        return bool(self.layer_bits or self.layer_quantizer)

    @property
    def bits_text(self) -> str:
        """W2A2, or W2A2 (layer4.*=4/4, weight norm std), W4A4 W2A2 (widths 1, 0.5)."""
        parts = [*map(str, (*self.layer_bits, *self.layer_quantizer))]
        if self.widths:
            parts.append(f"widths {', '.join(f'{width:g}' for width in self.widths)}")
        if self.weight_norm != "none":
            parts.append(f"weight norm {self.weight_norm}")
        others = ", ".join(parts)
        integer = " integer" if self.integer else ""
        bits = " ".join(f"W{w}A{a}" for w, a in self.bits) or f"W{self.wbits}A{self.abits}"
        return f"{bits}{integer}" + (f" ({others})" if others else "")


class SwitchableNetwork(nn.Module):
    """Shared convolutions, classifier and bases; one BatchNorm per resolution.

    Calling it picks the BatchNorms of the input's height and width; sizes that were not trained
    interpolate between their neighbours (evaluation only). `at(size)` says which instead.

    Threads may call one network at different sizes: `at` and `weights_quantized_once` act in the
    thread that enters them, as torch.no_grad does. Training moves statistics and bases, which are
    shared, so only one thread may do that.

    Args:
        body: the network; its SwitchableBatchNorm2d layers share `active`.
        active: the settings and which of them is in use.
        spec: what to build it from again.
        stride: pixels of the image per pixel of the last map, each way; the smallest input.

    Attributes:
        conversion: what `convert` quantized, kept and left; None for rsquant's own networks.
        forms: of a network with several widths, by width, the fields of its ModelSpec that another
            network has which is made at that width.
    """

    def __init__(
        self, body: nn.Module, active: ActiveSetting, spec: ModelSpec, stride: int = 1
    ) -> None:
        super().__init__()
        self.body = body
        self.active = active
        self.spec = spec
        self.stride = stride
        self.conversion: Conversion | None = None
        self.forms: Mapping[float, Mapping[str, Any]] = {}
        # "all": every resolution's forward moves the activation bases; "largest": only the first.
        self.basis_updates = "all"
        self._pinned_for_replica: float | None = None

    def __repr__(self) -> str:
        """One line; `network.body` shows the layers."""
        spec, parameters = self.spec, sum(p.numel() for p in self.parameters())
        sizes = ", ".join(map(str, self.resolutions))
        return (
            f"SwitchableNetwork({spec.arch} {spec.bits_text} at {sizes} pixels, "
            f"{spec.num_classes} classes, {parameters / 1e6:.2f} M parameters; layers: .body)"
        )

    @property
    def spec(self) -> ModelSpec:
        """What to build it from again."""
        return self._spec

    @spec.setter
    def spec(self, spec: ModelSpec) -> None:
        self._spec = spec
        for module in self.body.modules():
            if isinstance(module, IntegerImageConv):
                module.normalised_by(spec.mean, spec.std)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Trained sizes in pixels, largest first, one per path; all different or all the same."""
        return self.active.resolutions

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What it was trained as: a row of every BatchNorm table each, costliest first."""
        return self.active.settings

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Widths and bits of its settings, the costliest first."""
        return self.active.variants

    def variant(self, width: float | None = None, bits: Bits | None = None) -> Variant:
        """Its setting of this width and these bits, whatever the size; None: the costliest's.

        Raises:
            ModelError: it has none.
        """
        if not self.spec.bits and bits == (self.spec.wbits, self.spec.abits):
            bits = None
        return variant_of(self.variants, width, bits)

    @property
    def dtype(self) -> torch.dtype:
        """What images must have: the dtype of the first parameter."""
        return next((p.dtype for p in self.body.parameters()), torch.float32)

    def single_precision(self) -> SwitchableNetwork:
        """Itself, or a float32 copy of a network that was cast to another dtype."""
        tensors = [*self.parameters(), *self.buffers()]
        if all(t.dtype == torch.float32 for t in tensors if t.is_floating_point()):
            return self
        return copied(self).float()

    def one_path_per_size(self) -> SwitchableNetwork:
        """The network to deploy: itself where all resolutions differ.

        Of a network with several paths at one size, a copy with the first path's BatchNorms alone.
        """
        rows = distinct(self.settings)
        if len(rows) == len(self.settings):
            return self
        network = copied(self)
        network.active.settings = tuple(self.settings[row] for row in rows)
        network.spec = replace(self.spec, resolutions=network.resolutions)
        for module in network.modules():
            if isinstance(module, (SwitchableBatchNorm2d, ByteScale)):
                module.keep_rows(rows)
        return network

    @contextmanager
    def at(
        self, size: float, bits: Bits | None = None, width: float | None = None
    ) -> Iterator[SwitchableNetwork]:
        """Use this size's BatchNorms inside the block, whatever the input's size.

        Args:
            bits: of weights and activations, of a trained setting; None: the costliest one's.
            width: share of the channels, of a trained setting; None: all.
        """
        with self.active.at(size, bits, width):
            yield self

    def forward(
        self, images: Tensor, bits: Bits | None = None, width: float | None = None
    ) -> Tensor:
        """(N, 3, H, W), normalised, float32 or what it was cast to -> the task's output.

        Of classification: logits (N, classes), of the same dtype.

        Args:
            bits, width: as of `at`; inside of `at` leave them out.

        Raises:
            ModelError: images of another dtype or shape, which the network does not take.
        """
        if self.active.pinned is not None and bits is None and width is None:
            return self._run(images)
        pinned = self.active.pinned or self._pinned_for_replica
        with self.active.at(pinned or side_of(images), bits, width):
            return self._run(images)

    def _run(self, images: Tensor) -> Tensor:
        try:
            logits: Tensor = self.body(images)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if (line := complaint(images, self.dtype, error)) is None:
                raise
            raise ModelError(line) from error
        return logits

    def _replicate_for_data_parallel(self) -> SwitchableNetwork:
        # torch.nn.DataParallel runs replicas in threads of their own.
        if self.spec.several:
            raise ModelError(
                "torch.nn.DataParallel runs replicas in threads of their own, which do not know "
                "the width and bits in force; use one device"
            )
        if self.spec.integer:
            raise ModelError(
                "torch.nn.DataParallel copies modules one by one, and those of an integer network "
                "refer to each other; use one device"
            )
        replica: SwitchableNetwork = super()._replicate_for_data_parallel()
        replica._pinned_for_replica = self.active.pinned
        return replica

    def reset_classifier(self, classes: int | Sequence[str]) -> None:
        """Give the network a new, untrained classifier for other classes, in place.

        Every head (the layers between whose outputs and the logits there is no other Conv2d or
        Linear) gets new weights, low-bit where the old ones were, and `spec` the new classes. Make
        the optimizer afterwards: parameters are other ones.

        Args:
            classes: how many, or their names.
        Raises:
            ConfigError: none, too many, or a name twice.
            ModelError: the network computes more with its logits, or a head is of a class of its
                own; nothing is changed then.
        """
        reset_classifier(self, classes)

    def forward_all(
        self, images: Sequence[Tensor], rows: Sequence[int] | None = None
    ) -> list[Tensor]:
        """One batch at all settings; weights are quantized, and their bases moved, once.

        Args:
            images: of each of `resolutions`, one per path, (N, 3, R, R).
            rows: of `settings`, ascending: those to run; None: all.
        Returns:
            An output for each, in the same order; of classification logits (N, classes).
        """
        got = tuple(side_of(x) for x in images)
        if got != self.resolutions:
            raise ModelError(
                f"forward_all: needs one batch per resolution {self.resolutions}, largest first, "
                f"got sizes {got}"
            )
        activations = [m for m in self.modules() if isinstance(m, ActivationQuantizer)]
        logits = []
        seen: set[int | None] = set()
        with self.weights_quantized_once(rows):
            for row in range(len(self.settings)) if rows is None else rows:
                # Each number of bits has bases for itself, which its costliest setting moves.
                abits = bits[1] if (bits := self.settings[row].bits) else None
                still = abits in seen and self.basis_updates != "all"
                seen.add(abits)
                stopped = [(q.still, True) for q in activations if still]
                with using(stopped), self.active.at_row(row):
                    logits.append(self(images[self.images_of(row)]))
        return logits

    def images_of(self, row: int) -> int:
        """Which of `resolutions` a setting has: paths at one size have images of their own."""
        if len(self.settings) == len(self.resolutions):
            return row
        return self.resolutions.index(self.settings[row].size)

    @contextmanager
    def weights_quantized_once(self, rows: Sequence[int] | None = None) -> Iterator[None]:
        """Quantize every layer's weights now and reuse them inside the block, in this thread.

        Args:
            rows: of `settings`, whose bits are used inside; None: all.
        """
        layers = [m for m in self.modules() if isinstance(m, QUANTIZED_LAYERS)]
        if any(one.by_hook for layer in layers for one in reparametrizations(layer)):
            # Their hooks have not run yet, so the weights are those of the step before.
            check_no_weight_hooks(self.body, "training")
        pairs = [self.settings[row].bits for row in (() if rows is None else rows)]
        wanted = {pair[0] for pair in pairs if pair is not None}
        with using([(layer.held, layer.weights_to_hold(wanted)) for layer in layers]):
            yield
