"""Layers that go over their inputs element by element."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from latte_cli.layers.base import Layer, Phase, Shaped
from latte_cli.layers.shapes import Shape, broadcast


@dataclass(frozen=True, kw_only=True)
class Activation(Shaped):
    """An element-wise non-linearity with one input, such as `relu`, `gelu` or `sigmoid`."""

    kind: ClassVar[str] = "activation"

    function: str


@dataclass(frozen=True, kw_only=True)
class Dropout(Shaped):
    """Dropout in training mode; the time does not depend on its rate."""

    kind: ClassVar[str] = "dropout"


@dataclass(frozen=True, kw_only=True)
class Elementwise(Layer):
    """`add`, `multiply` and the like of two or more activations, broadcast against each other."""

    kind: ClassVar[str] = "elementwise"

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

    def flops(self, phase: Phase) -> int:
        return super().flops(phase) * max(1, len(self.shapes) - 1)

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, shapes=tuple(tuple(shape) for shape in inputs))
