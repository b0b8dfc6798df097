from collections.abc import Callable, Sequence
from typing import Any

from numpy import float32, float64, int8, int16, int64, uint8, uint16
from numpy.typing import NDArray

def instruction_sets() -> list[tuple[str, str]]: ...
def quantize_stats(
    isa: str,
    x: NDArray[float32],
    levels: NDArray[float32],
    thresholds: NDArray[float32],
    out: NDArray[float32],
    counts: NDArray[int64],
    sums: NDArray[float64],
    threads: int,
) -> None: ...
def quantize_stats_inside(
    isa: str,
    x: NDArray[float32],
    levels: NDArray[float32],
    thresholds: NDArray[float32],
    bottom: float,
    top: float,
    rectified: bool,
    out: NDArray[float32],
    inside: NDArray[uint16],
    counts: NDArray[int64],
    sums: NDArray[float64],
    threads: int,
) -> None: ...
def quantize_rows(
    isa: str,
    x: NDArray[float32],
    levels: NDArray[float32],
    thresholds: NDArray[float32],
    out: NDArray[float32],
    counts: NDArray[int64],
    sums: NDArray[float64],
    threads: int,
) -> None: ...
def mask_gradient(
    isa: str,
    grad: NDArray[float32],
    inside: NDArray[uint16],
    out: NDArray[float32],
    threads: int,
) -> None: ...
def clip_gradient(
    isa: str,
    grad: NDArray[float32],
    x: NDArray[float32],
    bottom: float,
    top: float,
    out: NDArray[float32],
    threads: int,
) -> None: ...
def crop(
    isa: str,
    image: NDArray[uint8],
    resized: tuple[int, int],
    start: tuple[int, int],
    out: NDArray[uint8],
) -> None: ...
def peak(isa: str, mix: str, threads: int = 1) -> float: ...
def sums_limit(isa: str) -> int: ...
def copy_speed(block: int, threads: int = 1) -> float: ...
def trim() -> None: ...
def all_conv_kernels(isa: str) -> list[str]: ...
def conv_kernels(isa: str, form: ConvForm) -> list[str]: ...
def low_memory(isa: str, kernel: str) -> bool: ...
def has_small_layout(isa: str, kernel: str, form: ConvForm, pixel_bytes: int) -> bool: ...

class ConvForm:
    def __init__(
        self,
        *,
        groups: int,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        input_limit: int,
        weight_limit: int,
        real: bool,
        weight_bits: int,
        input_basis: Sequence[int],
    ) -> None: ...

class Source: ...

def planes(planes: NDArray[uint8], basis: NDArray[int16], offset: NDArray[int8]) -> Source: ...
def words(levels: NDArray[int16]) -> Source: ...

class Prepared:
    @property
    def bytes(self) -> int: ...

class Request:
    def __init__(
        self, *, kernel: str, form: ConvForm, pixel_bytes: int, source: Source
    ) -> None: ...

class Layouts:
    def __init__(self, *, isa: str, requests: Sequence[Request]) -> None: ...
    @property
    def prepared(self) -> list[Prepared]: ...
    def prepare(self, *, threads: int) -> None: ...

class Workspace:
    def __init__(self, threads: int, low_memory: bool = False) -> None: ...
    @property
    def bytes(self) -> int: ...

class Tables:
    def __init__(self, **tables: Any) -> None: ...

class Program:
    def __init__(self, isa: str, workspace: Workspace) -> None: ...
    def value(self, *, kind: str, channels: int, height: int, width: int, fill: int) -> int: ...
    # A method per operation, in kernels/cpu/ops, with named arguments only.
    def __getattr__(self, operation: str) -> Callable[..., None]: ...
    def finish(self) -> None: ...
    def run(
        self,
        images: NDArray[uint8],
        result: int,
        logits: NDArray[float32],
        seconds: NDArray[float64] | None,
    ) -> None: ...
    def inspect(self, image: NDArray[uint8], value: int, out: NDArray[Any]) -> None: ...
    @property
    def steps(self) -> int: ...
