from typing import Any

from numpy import float32, float64, int8, int16, int64, uint8
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
def clip_gradient(
    isa: str,
    grad: NDArray[float32],
    x: NDArray[float32],
    bottom: float,
    top: float,
    out: NDArray[float32],
    threads: int,
) -> None: ...
def peak(isa: str, mix: str) -> float: ...
def all_conv_kernels(isa: str) -> list[str]: ...
def conv_kernels(isa: str, geometry: list[int]) -> list[str]: ...
def low_memory(isa: str, kernel: str) -> bool: ...

class Source: ...

def planes(planes: NDArray[uint8], basis: NDArray[int16], offset: NDArray[int8]) -> Source: ...
def words(levels: NDArray[int16]) -> Source: ...

class Prepared:
    @property
    def bytes(self) -> int: ...

def prepare(
    isa: str, kernel: str, geometry: list[int], pixel_bytes: int, source: Source
) -> Prepared: ...

class Workspace:
    def __init__(self, threads: int) -> None: ...
    @property
    def bytes(self) -> int: ...

class Tables:
    def __init__(self, **tables: Any) -> None: ...

class Program:
    def __init__(self, isa: str, workspace: Workspace) -> None: ...
    def value(self, kind: str, channels: int, height: int, width: int, fill: int) -> int: ...
    def conv(
        self,
        kernel: str,
        geometry: list[int],
        inverse_step: float,
        input: int,
        prepared: Prepared | None,
        source: Source,
        tables: Tables,
    ) -> None: ...
    def map(self, input: int, tables: Tables) -> None: ...
    def max_pool(self, input: int, output: int, geometry: list[int]) -> None: ...
    def average_pool(
        self,
        input: int,
        output: int,
        scale: NDArray[float32],
        shift: NDArray[float32],
        low: float,
        high: float,
    ) -> None: ...
    def linear(
        self,
        input: int,
        output: int,
        limit: int,
        weight: NDArray[int8],
        scale: NDArray[float32],
        bias: NDArray[float32],
    ) -> None: ...
    def finish(self) -> None: ...
    def run(
        self,
        images: NDArray[uint8],
        result: int,
        logits: NDArray[float32],
        seconds: NDArray[float64] | None,
    ) -> None: ...
    def inspect(self, image: NDArray[uint8], id: int, out: NDArray[Any]) -> None: ...
    @property
    def steps(self) -> int: ...
