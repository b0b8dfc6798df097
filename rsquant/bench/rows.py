"""What the benchmarks find, a row per figure: tables and JSON files are made from these.

In a JSON file a row is an object with these names; a field that has no value there is null.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NetworkRow:
    """A whole network in one engine at one size.

    Attributes:
        engine: its name in `engines`. arch, wbits, abits: the network that was asked for.
        resolution: side of the images in pixels. batch: images per call.
        threads: None on a GPU.
        median_ms, q1_ms, q3_ms: milliseconds per batch. samples: how many were timed.
        speedup: against the device's reference in the same setting; None without it.
        file_bytes: of the file it runs, None for an engine that runs none.
        peak_rss_bytes: of a process that runs the file alone (`memory`); None on a GPU.
        load_ms: the best of three loads of a file in the cache until the size can be run: on the
            CPU on one thread, on a GPU with kernels compiled and tuned; None without a file.
        switch_ms: how much longer a call takes after one at another size; packed networks.
        width: of a network of several widths this one's, a share of the channels.
    """

    engine: str
    arch: str
    wbits: int
    abits: int
    resolution: int
    batch: int
    threads: int | None
    median_ms: float
    q1_ms: float
    q3_ms: float
    samples: int
    speedup: float | None
    file_bytes: int | None
    peak_rss_bytes: int | None
    load_ms: float | None
    switch_ms: float | None
    width: float = 1.0


@dataclass(frozen=True, kw_only=True)
class CudaNetworkRow(NetworkRow):
    """The same on a GPU.

    Attributes:
        activation_bytes, value_bytes, form: see `engines.base.CudaRun`.
    """

    activation_bytes: int
    value_bytes: int | None
    form: str


@dataclass(frozen=True, kw_only=True)
class SwitchRow:
    """An engine at one size, called after a call at the same size and after one at another.

    Attributes:
        way: how it holds its sizes: "one session" for all, a session for each that are "all open",
            or one at a time, "reload"ed from its file.
        median_ms, q1_ms, q3_ms: milliseconds per batch after the same size.
        switched_ms, switched_q1_ms, switched_q3_ms: after another, opening included.
        switch_ms: median of how much longer a call takes after another size than the next one.
        file_bytes: of all files that are needed for these sizes.
    """

    engine: str
    way: str
    arch: str
    wbits: int
    abits: int
    resolution: int
    batch: int
    threads: int
    median_ms: float
    q1_ms: float
    q3_ms: float
    switched_ms: float
    switched_q1_ms: float
    switched_q3_ms: float
    switch_ms: float
    samples: int
    file_bytes: int


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """A convolution of a network.

    Attributes:
        layer: the first of its form. kernel: "3x3". stride: of both axes.
        resolution: of the image. output: side of the map.
        ms: of the fastest round.
    """

    arch: str
    layer: str
    in_channels: int
    out_channels: int
    kernel: str
    stride: int
    resolution: int
    output: int
    ms: float


@dataclass(frozen=True, kw_only=True)
class CpuLayerRow(LayerRow):
    """A convolution by one kernel of an instruction set, on one thread.

    Attributes:
        algorithm: the kernel's name.
        gmacs, median_gmacs: 1e9 multiply-adds a second, of the fastest round and of the median.
        bound_gmacs: what the arithmetic units can do. share_of_bound: of `gmacs`.
    """

    isa: str
    algorithm: str
    gmacs: float
    median_gmacs: float
    bound_gmacs: float
    share_of_bound: float


@dataclass(frozen=True, kw_only=True)
class ProfileRow:
    """A step of a packed network on the CPU, or the whole call.

    Attributes:
        layer: the step's name. op: the operation's; "copy" of the image, "call" is all.
        kernel: of a convolution. form: kernel and stride of a convolution, and what is written.
        macs: multiply-adds. bytes: the fewest to be read and written, weights as in the file.
        ms, median_ms: the fastest and the median of many calls.
        share: of `median_ms` in the sum of all steps'.
        bound_ms: the time of these products or of these bytes alone, whichever is longer.
        bound: what the products are made of, as `bench kernels` has it ("bytes", "words", "bits",
            "pair" of planes, "sums" of bytes), or "copy"; "all": the sum.
        share_of_bound: bound_ms / ms.
    """

    arch: str
    wbits: int
    abits: int
    resolution: int
    threads: int
    isa: str
    layer: str
    op: str
    kernel: str | None
    form: str
    macs: int
    bytes: int
    ms: float
    median_ms: float
    share: float
    bound_ms: float
    bound: str
    share_of_bound: float


@dataclass(frozen=True, kw_only=True)
class CudaLayerRow(LayerRow):
    """A convolution in one engine on a GPU.

    Attributes:
        epilogue: what `gpu` fuses: "add" a float value, store "float", store "codes".
        form: which form of the engine was the fastest.
        median_ms: everything comes from memory. warm_ms: from the cache. samples: of the first.
        macs: multiply-adds. bytes: the fewest that have to be moved.
        tmacs, gbytes_per_s: of `median_ms`; None where noise ate a very short time.
        copy_gbytes_per_s, peak_tmacs: the bounds: a copy, a matrix product of the engine's type.
        share_of_bytes, share_of_operations: of these bounds.
        speedup: against cudnn_bf16; None without it.
    """

    batch: int
    epilogue: str
    engine: str
    form: str
    median_ms: float
    warm_ms: float
    samples: int
    macs: int
    bytes: int
    tmacs: float | None
    gbytes_per_s: float | None
    copy_gbytes_per_s: float
    peak_tmacs: float | None
    share_of_bytes: float | None
    share_of_operations: float | None
    speedup: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """A training step of one network.

    Attributes:
        engine: train_wWaA, train_float, or train_NAME of another quantizer. resolutions: of the
            step, in pixels.
        amp: bfloat16 where autocast chooses it.
        threads: None on a GPU. fastest_ms: of the fastest step.
        ratio: of the median to train_float's.
        peak_bytes: the most memory that a step adds to weights, gradients and momentum; None where
            the system does not tell.
    """

    engine: str
    arch: str
    wbits: int
    abits: int
    resolutions: tuple[int, ...]
    batch: int
    amp: bool
    median_ms: float
    q1_ms: float
    q3_ms: float
    samples: int
    ratio: float
    threads: int | None = None
    fastest_ms: float | None = None
    peak_bytes: int | None = None
