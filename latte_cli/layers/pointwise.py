"""Layers that go over their inputs element by element."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self

from latte_cli.layers.base import NOTHING, Layer, Phase, Saved, Shaped
from latte_cli.layers.shapes import Shape, broadcast

_SAVING_OUTPUT = frozenset(("relu", "sigmoid", "tanh", "exp", "sqrt", "selu", "elu", "celu", "reciprocal", "hardmax"))
_SAVING_NOTHING = frozenset(
    (
        *("floor", "ceil", "round", "sign", "neg", "not"),
        *("add_constant", "subtract_constant", "multiply_constant", "divide_constant"),
    )
)
"""Activations whose derivative torch takes from the output, or that have a constant one; the others keep the input."""

_LINEAR = frozenset(("add", "subtract", "mean"))
"""Operations whose gradient does not depend on what they combine."""


@dataclass(frozen=True, kw_only=True)
class Activation(Shaped):
    """An element-wise non-linearity with one input, such as `relu`, `gelu` or `sigmoid`."""

    kind: ClassVar[str] = "activation"
    code: ClassVar[int] = 4

    function: str

    def saved(self, *, trains: bool, flows: bool) -> Saved:
        if not flows or self.function in _SAVING_NOTHING:
            return NOTHING
        return Saved(output=True) if self.function in _SAVING_OUTPUT else Saved(inputs=True)

    @property
    def passes_gradient(self) -> bool:
        return self.function == "add_constant"


@dataclass(frozen=True, kw_only=True)
class Dropout(Shaped):
    """Dropout in training mode; the time does not depend on its rate."""

    kind: ClassVar[str] = "dropout"
    code: ClassVar[int] = 5

    def saved(self, *, trains: bool, flows: bool) -> Saved:
        return Saved(elements=prod(self.shape))  # its mask


@dataclass(frozen=True, kw_only=True)
class Elementwise(Layer):
    """`add`, `multiply` and the like of two or more activations, broadcast against each other."""

    kind: ClassVar[str] = "elementwise"
    code: ClassVar[int] = 9

    operation: str
    shapes: tuple[Shape, ...]

    def __post_init__(self) -> None:
        self._check(bool(self.shapes), "no inputs")
        super().__post_init__()

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return self.shapes

    @property
    def output_shape(self) -> Shape:
        return broadcast(*self.shapes)

    @property
    def passes_gradient(self) -> bool:
        return self.operation == "add" and all(shape == self.output_shape for shape in self.shapes)

    def saved(self, *, trains: bool, flows: bool) -> Saved:
        return Saved(inputs=flows and self.operation not in _LINEAR)

    def flops(self, phase: Phase) -> int:
        return super().flops(phase) * max(1, len(self.shapes) - 1)

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, shapes=tuple(tuple(shape) for shape in inputs))
