"""What a model file holds, as an activation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self

from latte_cli.layers.base import ANYHOW, NOTHING, Layer, LayoutNeeds, Saved
from latte_cli.layers.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class Stored(Layer):
    """A stored tensor as an activation, for layers that combine it with others: costs nothing.

    It is a parameter where it is `trained`. Its gradient and its storage are those of the parameter.
    """

    kind: ClassVar[str] = "stored"
    code: ClassVar[int] = 21
    operations_per_element: ClassVar[int] = 0
    free: ClassVar[bool] = True
    least_size: ClassVar[int] = 0

    shape: Shape
    trained: bool = True

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ()

    @property
    def output_shape(self) -> Shape:
        return self.shape

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,) if self.trained else ()

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return NOTHING

    @property
    def made_channels(self) -> int:
        """Those of a tensor with one dimension that is not 1, such as a scale of channels."""
        return prod(self.shape) if self.trained and self.shape and max(self.shape) == prod(self.shape) else 0

    @property
    def channel_axis(self) -> int:
        return self.shape.index(max(self.shape)) if self.shape else 0

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        if out_channels is None:
            return self
        axis = self.channel_axis
        return replace(self, shape=(*self.shape[:axis], out_channels, *self.shape[axis + 1 :]))
