"""Which tile each convolution is cut up in on this GPU: the fastest measured, or the default."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
from triton.runtime.errors import OutOfResources

from rsquant.kernels.gpu.conv_tiles import Geometry, Tile, tiles
from rsquant.kernels.gpu.epilogue import Tables
from rsquant.kernels.gpu.weights import Weights
from rsquant.runtime import tuning

# A change of the kernels that may change what is fastest takes a new number.
VERSION = 1
_ROUNDS, _RUNS = 3, 5


class TileChoice:
    """The tiles known for a device; new ones are measured where `tune`, and written by `save`."""

    def __init__(self, device: torch.device, tune: bool) -> None:
        self.device, self.tune = device, tune and device.type == "cuda"
        self._known = tuning.read()
        self._new: tuning.Choices = {}

    def tile(
        self,
        form: Geometry,
        weights: Weights,
        tables: Tables,
        in_field: int,
        add: bool,
        launch: Callable[[Tile], None],
    ) -> Tile:
        """The tile to use for a convolution: the known one, else the fastest, else the first."""
        eligible = list(tiles(form, weights, in_field, tables.field))
        key = self._key(form, weights, tables, in_field, add)
        known = {str(tile): tile for tile in eligible}.get(self._known.get(key, ""))
        if known is not None:
            return known
        if not self.tune:
            return eligible[0]
        best = min(eligible, key=lambda tile: _milliseconds(launch, tile, self.device))
        self._known[key] = self._new[key] = str(best)
        return best

    def save(self) -> None:
        """Write new choices to the file."""
        if self._new:
            tuning.write(self._new)
            self._new = {}

    def _key(
        self, form: Geometry, weights: Weights, tables: Tables, in_field: int, add: bool
    ) -> str:
        name = self.device.type
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        numbers = (
            form.batch,
            form.height,
            form.width,
            form.channels,
            form.out_channels,
            *form.kernel,
            *form.stride,
            *form.padding,
            *form.dilation,
            weights.groups,
            weights.bits,
            in_field,
            tables.field,
            int(tables.integer),
            int(add),
        )
        versions = f"{VERSION}|{triton.__version__}"
        return f"gpu {versions}|{name}|{'-'.join(map(str, numbers))}"


def _milliseconds(launch: Callable[[Tile], None], tile: Tile, device: torch.device) -> float:
    """Shortest time of some rounds; infinite where the tile does not fit the device."""
    try:
        launch(tile)
    except OutOfResources:
        return float("inf")
    times = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(torch.cuda.current_stream(device))
        for _ in range(_RUNS):
            launch(tile)
        end.record(torch.cuda.current_stream(device))
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)
