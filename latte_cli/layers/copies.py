"""Layers that compute nothing: data laid elsewhere, or seen in another shape."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self

from latte_cli.layers.base import ANYHOW, INDEX_BYTES, NOTHING, Layer, LayoutNeeds, Saved, StrideOrder
from latte_cli.layers.shapes import Shape, scaled_reshape


@dataclass(frozen=True, kw_only=True)
class Concat(Layer):
    """Activations laid end to end along `axis`."""

    kind: ClassVar[str] = "concat"
    code: ClassVar[int] = 10
    operations_per_element: ClassVar[int] = 0

    shapes: tuple[Shape, ...]
    axis: int = 1

    def __post_init__(self) -> None:
        self._check(bool(self.shapes), "no inputs")
        self._check_axes(self.axis, rank=len(self.shapes[0]))
        super().__post_init__()

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return self.shapes

    @property
    def output_shape(self) -> Shape:
        first, rank = self.shapes[0], len(self.shapes[0])
        axis = self.axis % rank
        for shape in self.shapes:
            alike = len(shape) == rank and all(
                a == b for i, (a, b) in enumerate(zip(first, shape, strict=True)) if i != axis
            )
            self._check(alike, f"inputs of {first} and {shape}")
        return (*first[:axis], sum(shape[axis] for shape in self.shapes), *first[axis + 1 :])

    @property
    def layout_needs(self) -> LayoutNeeds:
        return LayoutNeeds(order=StrideOrder.AS_ALL_READ)

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return NOTHING

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, shapes=tuple(tuple(shape) for shape in inputs))


@dataclass(frozen=True, kw_only=True)
class Copy(Layer):
    """A rearrangement that moves data: `transpose` (with its `order`), `pad`, `slice`, `expand` …."""

    kind: ClassVar[str] = "copy"
    code: ClassVar[int] = 12
    operations_per_element: ClassVar[int] = 0
    least_size: ClassVar[int] = 0

    operation: str
    shape: Shape
    output: Shape
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.operation == "transpose":
            whole = sorted(self.order) == list(range(len(self.shape)))
            fits = whole and self.output == tuple(self.shape[axis] for axis in self.order)
            self._check(fits, f"{self.shape} in the order {self.order} as {self.output}")
        super().__post_init__()

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @property
    def output_shape(self) -> Shape:
        return self.output

    @property
    def layout_needs(self) -> LayoutNeeds:
        if self.operation == "resize":
            return LayoutNeeds(channels_last=True)
        orders = {"pad": StrideOrder.AS_ALL_READ, "cast": StrideOrder.AS_READ}
        return LayoutNeeds(order=orders.get(self.operation, StrideOrder.END_TO_END))

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        if self.operation != "gather":
            return NOTHING
        gathered = (out for size, out in zip(self.shape, self.output, strict=False) if size != out)
        return Saved(other_bytes=INDEX_BYTES * next(gathered, 0))

    @property
    def shares_storage(self) -> bool:
        return self.operation in ("transpose", "slice", "split", "expand")

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        shape = tuple(inputs[0])
        if self.operation == "transpose":
            return replace(self, shape=shape, output=tuple(shape[axis] for axis in self.order))
        sizes = list(zip(self.shape, shape, self.output, strict=False))
        self._check(
            len(self.shape) == len(shape) == len(self.output) and all(old in (new, out) for old, new, out in sizes),
            f"an input of {shape} for its {self.shape} to {self.output} ({self.operation})",
        )
        return replace(self, shape=shape, output=tuple(out if old == new else new for old, new, out in sizes))


@dataclass(frozen=True, kw_only=True)
class View(Layer):
    """Another shape for the same data (reshape, flatten, squeeze, identity): costs nothing."""

    kind: ClassVar[str] = "view"
    code: ClassVar[int] = 13
    operations_per_element: ClassVar[int] = 0
    free: ClassVar[bool] = True
    least_size: ClassVar[int] = 0

    shape: Shape
    output: Shape

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(prod(self.shape) == prod(self.output), f"{self.shape} seen as {self.output}")

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @property
    def output_shape(self) -> Shape:
        return self.output

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return NOTHING

    @property
    def shares_storage(self) -> bool:
        return True

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        shape = tuple(inputs[0])
        return replace(self, shape=shape, output=scaled_reshape(self.shape, self.output, shape))
