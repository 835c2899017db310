"""Operations that no other kind describes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from latte_cli.layers.base import ANYHOW, Layer, LayoutNeeds, Saved
from latte_cli.layers.shapes import Shape

_CHOICES = ("gather", "gather_elements", "gather_nd")
"""Operations that take entries of their first input by the places in their second."""

_LINEAR = ("as_strided", "col2im", "cum_sum", "diag_embed", "diagonal", "im2col", "rot90", "unfold")
"""Operations of one input whose gradient depends on shapes alone (torch's derivatives.yaml)."""


@dataclass(frozen=True, kw_only=True)
class Other(Layer):
    """An operation that none of the other kinds describes, by its name and the shapes that it reads and writes."""

    kind: ClassVar[str] = "other"
    code: ClassVar[int] = 18
    least_size: ClassVar[int] = 0

    operation: str
    shapes: tuple[Shape, ...]
    output: Shape

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return self.shapes

    @property
    def output_shape(self) -> Shape:
        return self.output

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """The places of a choice of entries, nothing of a linear operation; of others all that they could need."""
        if self.operation in _LINEAR:
            return Saved()
        if self.operation in _CHOICES:
            return Saved(inputs=tuple(range(1, len(self.shapes))))
        return Saved(inputs=tuple(range(len(self.shapes))), output=True)
