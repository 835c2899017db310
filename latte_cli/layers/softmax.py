"""Softmax, and the loss that contains it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self

from latte_cli.layers.base import ANYHOW, Layer, LayoutNeeds, Saved, Shaped
from latte_cli.layers.shapes import Shape
from latte_cli.phases import Phase


@dataclass(frozen=True, kw_only=True)
class Softmax(Shaped):
    """Softmax (or, with `log`, its logarithm) along `axis`."""

    kind: ClassVar[str] = "softmax"
    code: ClassVar[int] = 6
    operations_per_element: ClassVar[int] = 3

    axis: int = -1
    log: bool = False

    def __post_init__(self) -> None:
        self._check_axes(self.axis, rank=len(self.shape))
        super().__post_init__()

    @property
    def layout_needs(self) -> LayoutNeeds:
        return LayoutNeeds(forward=True, gradient=True)

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return Saved(output=True)

    @property
    def reduction(self) -> int:
        return self.shape[self.axis] if self.shape else 1


@dataclass(frozen=True, kw_only=True)
class SoftmaxCrossEntropy(Layer):
    """The training loss over `rows` rows of `classes` scores."""

    kind: ClassVar[str] = "softmax_cross_entropy"
    code: ClassVar[int] = 7
    operations_per_element: ClassVar[int] = 4

    rows: int
    classes: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.rows, self.classes),)

    @property
    def output_shape(self) -> Shape:
        return ()

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """The logarithms of the shares."""
        return Saved(elements=self.rows * self.classes)

    def flops(self, phase: Phase) -> int:
        return self.operations_per_element * self.rows * self.classes if phase in self.phases else 0

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, rows=prod(inputs[0][:-1]), classes=inputs[0][-1])
