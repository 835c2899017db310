"""Look-ups in a trained table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self

from latte_cli.layers.base import ANYHOW, Layer, LayoutNeeds, Saved
from latte_cli.layers.shapes import Shape
from latte_cli.phases import Phase


@dataclass(frozen=True, kw_only=True)
class Embedding(Layer):
    """`rows` look-ups in a trained table of `entries` vectors of `width`."""

    kind: ClassVar[str] = "embedding"
    code: ClassVar[int] = 15
    phases: ClassVar[tuple[Phase, ...]] = (Phase.FORWARD, Phase.BACKWARD_FILTER)
    operations_per_element: ClassVar[int] = 0

    rows: int
    entries: int
    width: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.rows,),)

    @property
    def output_shape(self) -> Shape:
        return (self.rows, self.width)

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        return ((self.entries, self.width),)

    def elements_moved(self, phase: Phase) -> int:
        """Indices, and rows read and written; backward also writes the whole table's gradient."""
        if phase not in self.phases:
            return 0
        moved = self.rows + 2 * self.rows * self.width
        return moved + self.parameters if phase is Phase.BACKWARD_FILTER else moved

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return Saved(inputs=(0,) if trains else ())

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, rows=prod(inputs[0]), width=out_channels or self.width)
