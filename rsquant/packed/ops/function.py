"""An elementwise function: sigmoid, SiLU, GELU and others, by table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rsquant.packed import functions
from rsquant.packed.fields import FieldError, Fields
from rsquant.packed.functions import FUNCTIONS, Table
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values
from rsquant.packed.ops.epilogue import Epilogue, EpilogueSpec, json_with_epilogue
from rsquant.packed.plan import LAST_VALUE

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program

# What torch calls them: modules, functions and methods.
_NAMES = {
    "ELU": "elu",
    "CELU": "celu",
    "GELU": "gelu",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "LeakyReLU": "leaky_relu",
    "LogSigmoid": "logsigmoid",
    "Mish": "mish",
    "SELU": "selu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Tanh": "tanh",
}
_ALSO = {"absolute": "abs", "log_sigmoid": "logsigmoid", "special_expit": "sigmoid"}
_IN_NN = (
    *("celu", "celu_", "elu", "elu_", "gelu", "hardsigmoid", "hardswish", "leaky_relu"),
    *("leaky_relu_", "logsigmoid", "mish", "selu", "selu_", "sigmoid", "silu", "softplus", "tanh"),
)
_IN_TORCH = (
    *("abs", "abs_", "absolute", "celu", "celu_", "selu", "selu_", "sigmoid", "sigmoid_"),
    *("tanh", "tanh_", "special.expit"),
)
_METHODS = ("abs", "abs_", "absolute", "absolute_", "sigmoid", "sigmoid_", "tanh", "tanh_")


@dataclass(frozen=True)
class FunctionSpec(OpSpec):
    """y = f(x) of each number, of codes or float values; y ends in an epilogue.

    Attributes:
        function: one of `packed.functions.FUNCTIONS`.
        parameters: its own.
    """

    OP = "function"
    SINCE = 4
    TORCH: ClassVar[tuple[str, ...]] = (
        *(f"torch.nn.{name}" for name in _NAMES),
        *(f"torch.nn.functional.{name}" for name in _IN_NN),
        *(f"torch.{name}" for name in _IN_TORCH),
        *(f".{name}" for name in _METHODS),
    )

    name: str
    input: int
    function: str
    parameters: tuple[float, ...]
    epilogue: EpilogueSpec

    @classmethod
    def read(cls, fields: Fields, name: str) -> FunctionSpec:
        function = fields.text("function")
        if function not in FUNCTIONS:
            raise FieldError(
                f"{fields.where}: 'function' must be one of {', '.join(FUNCTIONS)}, "
                f"got {function!r:.40}"
            )
        limits = FUNCTIONS[function].limits
        parameters = fields.reals("parameters", len(limits), len(limits))
        for value, (low, high) in zip(parameters, limits, strict=True):
            if not low <= value <= high:
                raise FieldError(
                    f"{fields.where}: 'parameters' of {function} must be from {low:g} to {high:g}, "
                    f"got {value:g}"
                )
        value = fields.integer("input", 1, LAST_VALUE)
        return cls(name, value, function, parameters, EpilogueSpec.read(fields))

    def to_json(self) -> dict[str, Any]:
        return json_with_epilogue(self, self.epilogue.KEEPS)

    @classmethod
    def trace(cls, call: Any) -> Any:
        function = _NAMES.get(call.what, call.what.rstrip("_"))
        function = _ALSO.get(function, function)
        parameters: tuple[Any, ...] = ()
        if function in ("elu", "celu"):
            parameters = (call.argument(1, "alpha", 1.0),)
        elif function == "leaky_relu":
            parameters = (call.argument(1, "negative_slope", 0.01),)
        elif function == "softplus":
            parameters = (call.argument(1, "beta", 1.0),)
            # Beyond it torch returns x; softplus is x there to 3e-7 / beta.
            if call.argument(2, "threshold", 20.0) < 15:
                call.refuse("has a threshold below 15, where softplus is not x", "use 20")
        elif function == "gelu" and call.argument(1, "approximate", "none") == "tanh":
            function = "gelu_tanh"
        for value, (low, high) in zip(parameters, FUNCTIONS[function].limits, strict=True):
            if type(value) not in (int, float) or not low <= value <= high:
                call.refuse(
                    f"has the parameter {value}, known are numbers from {low:g} to {high:g}"
                )
        source = call.input()
        given = tuple(float(value) for value in parameters)
        return call.op(cls.OP, (source,), pixels=source.pixels, function=function, parameters=given)

    @classmethod
    def lower(cls, op: Any, to: Any) -> FunctionSpec:
        value = to.stored(op.inputs[0], op.name)
        name = to.name(op.name)
        return cls(name, value, epilogue=to.epilogue(op, op.only_user), **op.fields)

    def check(self, checker: Checker) -> None:
        source = checker.read_map(self.input)
        self.epilogue.check(checker, source.channels)

    def build(self, builder: Builder) -> FunctionStep:
        source = builder.values[self.input]
        table = functions.table(self.function, self.parameters)
        bytes_: NDArray[np.float32] | None = None
        if source.kind == "codes":
            index = builder.packed.values[self.input].quantizer
            assert index is not None
            quantizer = builder.packed.plan.quantizers[index]
            bytes_ = functions.of_codes(
                self.function, self.parameters, quantizer.scale, quantizer.zero
            )
            bound = usual = float(np.abs(bytes_).max())
        else:
            bound = table.largest(builder.bounds[self.input])
            usual = table.largest(builder.ranges[self.input])
        builder.finite(bound)
        ones = np.ones(source.channels)
        epilogue = self.epilogue.build(
            builder,
            ones,
            0 * ones,
            bound * ones,
            usual * ones,
            (source.height, source.width),
            integers=False,
        )
        return FunctionStep(self.name, self.input, source.channels, table, bytes_, epilogue)


@dataclass(frozen=True)
class FunctionStep(Step):
    """y = f(x), then an epilogue of y.

    Attributes:
        table: for float values.
        codes: (256,) float32, y by byte, where the input is codes.
    """

    name: str
    input: int
    channels: int
    table: Table
    codes: NDArray[np.float32] | None
    epilogue: Epilogue

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input, *self.epilogue.reads)

    @property
    def writes(self) -> tuple[int, ...]:
        return self.epilogue.writes

    @property
    def in_place(self) -> tuple[int, int] | None:
        return self.epilogue.in_place

    def run(self, program: Program, values: Values) -> None:
        x = values[self.input]
        self.epilogue.run(self.table(x) if self.codes is None else self.codes[x], values)

    def bind_cpu(self, to: Any) -> None:
        to.program.function(
            input=self.input,
            low=self.table.low,
            step=self.table.step,
            value=self.table.value if self.codes is None else self.codes,
            slope=self.table.slope,
            curve=self.table.curve,
            tables=to.tables(self.epilogue, self.channels),
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.function import function

        x, basis = to.values[self.input], to.basis(self.input)
        value = self.table.value if self.codes is None else self.codes
        of = to.kept(self.name, value, self.table.slope, self.table.curve)
        tables = to.tables(self.epilogue)
        targets = to.targets(self.epilogue)
        return GpuCall(
            lambda: function(
                x, self.channels, self.table.low, self.table.step, of, tables, basis, *targets
            ),
            tables.nbytes + sum(array.nbytes for array in of),
        )
