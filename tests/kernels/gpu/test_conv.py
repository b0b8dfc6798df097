"""The GPU's convolution against `kernels.reference`, exactly."""

import dataclasses

import numpy as np
import pytest
import torch
from code_bytes import levels_of

from rsquant.errors import ConfigError
from rsquant.kernels import reference
from rsquant.kernels.gpu import epilogue, weights, words
from rsquant.kernels.gpu.conv import convolve
from rsquant.kernels.gpu.conv_tiles import Geometry, Tile, tiles

# The interpreter's time goes with the number of programs and steps, not with their size.
SMALL = Tile(64, 32, 64, 4, 2)


class Layer:
    """A random convolution with its epilogue, and what the specification makes of it."""

    def __init__(
        self,
        seed=0,
        *,
        n=2,
        size=(4, 5),
        channels=20,
        outputs=24,
        kernel=(3, 3),
        stride=(1, 1),
        padding=(1, 1),
        dilation=(1, 1),
        groups=1,
        basis=(1, 2),
        weight_bits=2,
        out_basis=(2, 3),
        fill=0,
        add=False,
        keep=False,
        codes=True,
        relu=True,
        image=False,
        largest_weight=32639,
        floats=False,
    ):
        rng = self.rng = np.random.default_rng(seed)
        self.fill, self.groups, self.dilation = fill, groups, dilation
        self.stride, self.padding, self.out_basis = stride, padding, out_basis
        shape = (outputs, *kernel, channels // groups)
        self.weight_basis = self.weight_offset = None
        if image:
            self.basis = ()
            self.x = rng.integers(0, 256, (n, *size, 4)).astype(np.uint8)
            self.levels = rng.integers(-largest_weight, largest_weight, shape, endpoint=True)
            self.levels.flat[:2] = largest_weight, -largest_weight
        else:
            self.basis = () if floats else basis
            self.x = rng.choice(levels_of(basis), (n, *size, channels))
            self.weight_basis = rng.integers(-20, 21, (outputs, weight_bits)).astype(np.int16)
            self.weight_offset = rng.integers(-40, 41, outputs).astype(np.int8)
            self.bits = rng.integers(0, 2, (*shape, weight_bits))
            self.weigh()
        self.correction = (fill * self.levels.sum((1, 2, 3))).astype(np.int32)
        self.floats, self.inverse_step, self.limit = floats, 0.0, 0
        if floats:
            taps = self.levels[0].size
            self.limit = reference.fixed_limit(taps, int(np.abs(self.levels).max()))
            self.inverse_step = float(np.float32(self.limit / 3))
            # Some beyond the limit, some halfway between two integers.
            self.x = rng.normal(0, 1.5, self.x.shape).astype(np.float32)
            self.x[rng.random(self.x.shape) < 0.1] *= 1e3
            halves = (rng.integers(-9, 9, self.x.shape) + 0.5) / self.inverse_step
            self.x = np.where(rng.random(self.x.shape) < 0.1, halves, self.x).astype(np.float32)
        self.sum()
        spread = float(np.abs(self.acc).max())
        self.scale = rng.normal(0, 1 / spread, outputs).astype(np.float32)
        self.shift = rng.normal(0, 0.3, outputs).astype(np.float32)
        self.add = rng.normal(0, 1, self.acc.shape).astype(np.float32) if add else None
        self.keep, self.relu, self.clip = keep, relu, 0.8
        self.integer = codes and not (add or keep)
        self.sign = rng.choice([-1, 1], outputs).astype(np.int8)
        self.out_levels = levels_of(out_basis) if codes else np.zeros(0, np.uint8)
        count = max(len(self.out_levels) - 1, 0)
        if self.integer:
            found = rng.integers(-spread / 2, spread / 2, (count, outputs))
            self.thresholds = np.sort(found, axis=0).astype(np.int32)
        else:
            self.thresholds = np.sort(rng.normal(0, 1, (count, outputs)), axis=0).astype(np.float32)

    def weigh(self):
        parts = self.bits * self.weight_basis[:, None, None, None].astype(np.int64)
        self.levels = parts.sum(-1) + self.weight_offset[:, None, None, None]

    def sum(self):
        x = self.x
        if self.floats:
            x = reference.fixed_point(x, self.inverse_step, self.limit)
        raw = reference.conv_accumulators(
            x, self.levels, self.stride, self.padding, self.dilation, self.groups, self.fill
        )
        self.acc = raw - self.correction

    def expected(self):
        """keep and codes, None where there are none."""
        v = reference.affine(self.acc, self.scale, self.shift)
        if self.add is not None:
            v = v + self.add
        keep = reference.clamp(v, self.relu, self.clip) if self.keep else None
        if not len(self.out_levels):
            return keep, None
        compared = self.acc if self.integer else v
        return keep, reference.to_codes(compared, self.thresholds, self.sign, self.out_levels)

    def computed(self, device, tile=SMALL):
        """The same from the kernel."""
        n, height, width, channels = self.x.shape
        field = words.field_bits(len(self.basis)) if self.basis else words.BYTE_FIELD
        field = words.FLOAT_FIELD if self.floats else field
        tables = epilogue.tables(
            self.scale,
            self.shift,
            self.sign,
            self.thresholds,
            self.out_levels,
            self.relu,
            self.clip,
            self.integer,
            device,
        )
        prepared = weights.prepare(
            self.levels,
            self.weight_basis,
            self.weight_offset,
            self.correction,
            self.groups,
            field,
            tables.field,
            device,
        )
        form = Geometry(
            n,
            height,
            width,
            channels,
            *self.acc.shape[1:],
            self.levels.shape[1:3],
            self.stride,
            self.padding,
            self.dilation,
        )
        self.tiles = list(tiles(form, prepared, field, tables.field))
        fields = self.x
        if self.basis:
            field_of = words.field_of_byte(self.basis)
            fields = np.vectorize(field_of.get)(self.x)
        if self.floats:
            x = torch.from_numpy(self.x).to(device)
        else:
            x = words.pack(torch.from_numpy(fields.astype(np.int64)), field).to(device)
        outside = None
        if self.fill:
            pixel = torch.full((channels,), field_of[self.fill])
            outside = words.pack(pixel, field).to(device)
        add = None if self.add is None else torch.from_numpy(self.add).to(device)
        keep = torch.full(self.acc.shape, torch.nan, device=device) if self.keep else None
        codes = None
        if tables.bits:
            width_out = words.words_of(self.acc.shape[3], tables.field)
            codes = torch.full(
                (*self.acc.shape[:3], width_out), -1, dtype=torch.int32, device=device
            )
        basis = words.field_basis(self.basis)
        convolve(
            form,
            x,
            prepared,
            tables,
            tile,
            basis,
            field,
            outside,
            add,
            keep,
            codes,
            self.inverse_step,
            self.limit,
        )
        found = None
        if codes is not None:
            bits = words.unpack(codes.cpu(), self.acc.shape[3], tables.field).numpy()
            worth = words.field_basis(self.out_basis)
            found = sum(q * (bits >> k & 1) for k, q in enumerate(worth))
            beyond = words.unpack(codes.cpu(), codes.shape[-1] * 32 // tables.field, tables.field)
            assert not beyond[..., self.acc.shape[3] :].any(), "fields beyond the last channel"
        return None if keep is None else keep.cpu().numpy(), found

    def check(self, device, tile=SMALL):
        for expected, computed in zip(self.expected(), self.computed(device, tile), strict=True):
            if expected is None:
                assert computed is None
            else:
                np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize(
    ("channels", "outputs"),
    [(1, 1), (15, 16), (16, 17), (17, 1), (31, 64), (32, 15), (33, 33), (64, 32), (65, 65)],
)
def test_channels_around_the_words(gpu, channels, outputs):
    Layer(channels, channels=channels, outputs=outputs).check(gpu)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((1, 1), (1, 1), (0, 0), (1, 1)),
        ((1, 1), (2, 2), (0, 0), (1, 1)),
        ((3, 3), (2, 2), (1, 1), (1, 1)),
        ((3, 3), (1, 1), (2, 2), (2, 2)),
        ((5, 2), (2, 1), (0, 1), (1, 2)),
        ((7, 7), (2, 2), (3, 3), (1, 1)),
    ],
)
@pytest.mark.parametrize("channels", [12, 64])
def test_every_form_of_window(gpu, kernel, stride, padding, dilation, channels):
    Layer(
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        channels=channels,
        size=(6, 7),
    ).check(gpu)


@pytest.mark.parametrize(
    "tile",
    [
        Tile(32, 32, 64, 4, 2),
        Tile(64, 64, 64, 4, 2),
        Tile(32, 128, 64, 4, 2),
        Tile(64, 256, 128, 4, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_width_of_tile_and_both_forms_of_weights(gpu, tile, packed):
    tile = dataclasses.replace(tile, packed=packed)
    Layer(channels=64, outputs=70, add=True, keep=True, kernel=(1, 2)).check(gpu, tile)
    Layer(channels=40, outputs=70, kernel=(1, 1), padding=(0, 0)).check(gpu, tile)


@pytest.mark.parametrize(
    ("basis", "weight_bits", "out_basis"),
    [
        ((5,), 1, (3,)),
        ((5,), 2, (4, 3)),
        ((1, 2), 1, (3, 4, 5)),
        ((4, 3), 2, (8, 4, 2, 1)),
        ((4, 3), 3, (1,)),
        ((1, 2, 4), 4, (1, 2)),
        ((3, 4, 5), 3, (3, 4, 5)),
        ((3, 4, 5), 2, (2,)),
        ((1, 2, 4, 8), 4, (1, 2, 4, 8)),
        ((9, 9, 1, 0), 1, (2, 3)),
    ],
)
def test_every_number_of_bits(gpu, basis, weight_bits, out_basis):
    layer = Layer(basis=basis, weight_bits=weight_bits, out_basis=out_basis, kernel=(2, 2))
    layer.check(gpu)
    if weight_bits <= words.field_bits(len(basis)):
        layer.check(gpu, dataclasses.replace(SMALL, packed=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("channels", [16, 21, 64])
def test_pixels_outside_may_have_any_level(gpu, channels, packed):
    layer = Layer(basis=(3, 5), fill=5, channels=channels)
    layer.check(gpu, dataclasses.replace(SMALL, packed=packed))


@pytest.mark.parametrize(
    ("groups", "channels", "outputs"),
    [(2, 64, 64), (4, 64, 32), (32, 128, 128), (20, 20, 20), (3, 24, 48), (8, 64, 64)],
)
@pytest.mark.parametrize("codes", [True, False])
def test_groups_and_depthwise_convolutions(gpu, groups, channels, outputs, codes):
    Layer(
        groups=groups,
        channels=channels,
        outputs=outputs,
        codes=codes,
        keep=not codes,
        n=1,
    ).check(gpu)


@pytest.mark.parametrize("largest", [32639, 32767])
@pytest.mark.parametrize("kernel", [(7, 7), (3, 3)])
def test_the_image_has_16_bit_weights(gpu, largest, kernel):
    Layer(
        image=True,
        channels=4,
        outputs=20,
        kernel=kernel,
        stride=(2, 2),
        size=(9, 8),
        padding=(kernel[0] // 2,) * 2,
        largest_weight=largest,
    ).check(gpu)


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "groups"),
    [
        (1, 1, (1, 1), 1, 1),
        (15, 16, (3, 3), 1, 1),
        (16, 17, (1, 1), 2, 1),
        (17, 15, (3, 2), 2, 1),
        (63, 33, (1, 1), 1, 1),
        (64, 64, (1, 1), 1, 1),
        (65, 20, (1, 1), 1, 1),
        (24, 48, (3, 3), 1, 3),
        (20, 20, (3, 3), 1, 20),
    ],
)
@pytest.mark.parametrize("codes", [False, True])
def test_floats_are_multiplied_in_fixed_point(
    gpu, channels, outputs, kernel, stride, groups, codes
):
    Layer(
        floats=True,
        channels=channels,
        outputs=outputs,
        kernel=kernel,
        stride=(stride, stride),
        padding=tuple(k // 2 for k in kernel),
        groups=groups,
        codes=codes,
        keep=not codes,
    ).check(gpu)


@pytest.mark.parametrize("weight", [1, 127])
def test_floats_at_the_limit_give_the_largest_sums(gpu, weight):
    layer = Layer(
        floats=True,
        channels=1024,
        outputs=16,
        weight_bits=1,
        kernel=(1, 1),
        padding=(0, 0),
        codes=False,
        keep=True,
    )
    layer.levels[:] = weight * np.sign(layer.levels + 0.5)
    layer.levels[0], layer.levels[1] = weight, -weight
    layer.weight_basis[:], layer.weight_offset[:] = 2 * weight, -weight
    layer.limit = reference.fixed_limit(1024, weight)
    layer.inverse_step = 1.0
    layer.x[:] = 1e30
    layer.x[0, ..., ::2] = -np.inf
    layer.x[0, 0] = np.inf
    layer.sum()
    assert layer.acc.max() == -layer.acc.min() == 1024 * weight * layer.limit
    layer.check(gpu)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(("keep", "codes"), [(True, False), (True, True), (False, True)])
@pytest.mark.parametrize("relu", [False, True])
def test_every_form_of_epilogue(gpu, add, keep, codes, relu):
    Layer(add=add, keep=keep, codes=codes, relu=relu).check(gpu)


def test_the_largest_sum_that_fits_32_bits(gpu):
    layer = Layer(basis=(63, 64), channels=512, weight_bits=1, n=1, size=(3, 3), outputs=16)
    layer.x[:] = 127
    layer.levels[:] = 127 * np.sign(layer.levels + 0.5).astype(np.int64)
    layer.weight_basis[:], layer.weight_offset[:] = 254, -127
    layer.levels[0] = 127
    acc = reference.conv_accumulators(layer.x, layer.levels, (1, 1), (1, 1))
    layer.acc, layer.correction = acc, np.zeros(16, np.int32)
    assert acc.max() == 9 * 512 * 127 * 127
    layer.check(gpu)


@pytest.mark.parametrize("seed", range(8))
def test_random_forms_with_every_eligible_tile(gpu, seed):
    rng = np.random.default_rng(100 + seed)
    groups = int(rng.choice([1, 1, 1, 2]))
    bits = int(rng.integers(1, 5))
    layer = Layer(
        seed,
        n=int(rng.integers(1, 3)),
        size=tuple(rng.integers(4, 9, 2)),
        channels=int(rng.integers(1, 40)) * groups,
        outputs=int(rng.integers(1, 40)) * groups,
        kernel=tuple(int(k) for k in rng.integers(1, 4, 2)),
        stride=tuple(int(s) for s in rng.integers(1, 3, 2)),
        groups=groups,
        basis=tuple(int(q) for q in rng.integers(1, 30, bits)),
        weight_bits=int(rng.integers(1, 5)),
        add=bool(rng.integers(2)),
        keep=bool(rng.integers(2)),
    )
    layer.check(gpu)
    assert layer.tiles
    for tile in layer.tiles[-2:]:
        layer.check(gpu, tile)


@pytest.mark.parametrize("basis", [(1,), (3, 5), (0, 4), (3, 4, 5), (7, 7, 7), (1, 2, 4, 8)])
def test_a_basis_is_found_in_its_levels(basis):
    assert epilogue.basis_of_levels(levels_of(basis), len(basis)) == tuple(sorted(basis))


def test_wide_groups_fill_whole_words():
    assert weights.wide_groups(32, 4, 4, 16, 16) == 8
    assert weights.wide_groups(64, 1, 1, 16, 16) == 4
    assert weights.wide_groups(2, 32, 32, 16, 16) == 2
    assert weights.wide_groups(3, 8, 8, 16, 16) == 1
    assert weights.wide_groups(32, 4, 4, 16, 1) == 8


def test_a_tile_is_read_back_from_its_name():
    for tile in (SMALL, Tile(128, 256, 64, 8, 3, True)):
        assert Tile.parse(str(tile)) == tile
    with pytest.raises(ValueError):
        Tile.parse("128x64x64 w4 s3 float")


def test_an_input_beyond_32_bit_offsets_is_refused():
    layer = Layer()

    class Huge:
        def numel(self):
            return 2**31

    form = Geometry(1, 1, 1, 4, 1, 1, 4, (1, 1), (1, 1), (0, 0), (1, 1))
    with pytest.raises(ConfigError, match="smaller batch"):
        convolve(form, Huge(), None, None, SMALL, layer.basis, 2, None, None, None, None)
