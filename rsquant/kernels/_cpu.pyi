from numpy import float32, float64, int64
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
    top: float,
    out: NDArray[float32],
    threads: int,
) -> None: ...
