"""Layers that make fewer numbers of many: pools over windows, reductions over dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from operator import gt
from typing import ClassVar, Self

from latte_cli.layers.base import (
    ANYHOW,
    INDEX_BYTES,
    NOTHING,
    POINTWISE,
    Layer,
    LayoutNeeds,
    Saved,
    Shaped,
    elements,
)
from latte_cli.layers.shapes import Shape
from latte_cli.phases import Phase


@dataclass(frozen=True, kw_only=True)
class Pool(Layer):
    """Maximum or average pooling over 1 to 3 spatial dimensions; a global pool's kernel is its input.

    `adaptive` are the spatial output sizes of a pool whose windows torch places so that they have these, and that may
    have different sizes; its kernel is the largest window.
    """

    kind: ClassVar[str] = "pool"
    code: ClassVar[int] = 8

    function: str
    batch: int
    channels: int
    input: Shape
    kernel: Shape = ()
    stride: Shape = ()
    dilation: Shape = ()
    pad_before: Shape = ()
    pad_after: Shape = ()
    ceil: bool = False
    count_padding: bool = False
    adaptive: Shape = ()

    def __post_init__(self) -> None:
        rank = len(self.input)
        self._check(1 <= rank <= 3, f"{rank} spatial dimensions (1 to 3 are known)")
        if self.adaptive:
            known = len(self.adaptive) == rank and min(self.adaptive) > 0 and self.function in ("max", "average")
            self._check(known, f"windows of different sizes to {self.adaptive} by {self.function}")
            object.__setattr__(self, "kernel", tuple(map(max, self._windows)))
        for name, value in {"stride": 1, "dilation": 1, "pad_before": 0, "pad_after": 0}.items():
            if not getattr(self, name):
                object.__setattr__(self, name, (value,) * rank)
            sizes = getattr(self, name)
            self._check(len(sizes) == rank and min(sizes) >= value, f"{name} {sizes}")
        self._check(len(self.kernel) == rank and min(self.kernel) > 0, f"kernel {self.kernel}")
        super().__post_init__()

    @property
    def output(self) -> Shape:
        """Spatial output sizes; with `ceil` a last window that starts inside the input or its left pad counts."""
        if self.adaptive:
            return self.adaptive
        sizes = []
        for i, k, s, d, before, after in zip(
            self.input, self.kernel, self.stride, self.dilation, self.pad_before, self.pad_after, strict=True
        ):
            span = i + before + after - d * (k - 1) - 1
            size = (-(-span // s) if self.ceil else span // s) + 1
            if self.ceil and (size - 1) * s >= i + before:
                size -= 1
            sizes.append(size)
        return tuple(sizes)

    @property
    def _windows(self) -> tuple[Shape, ...]:
        """The sizes of adaptive windows by dimension: one from floor(at · in / out) to ceil((at + 1) · in / out)."""
        sizes = zip(self.input, self.adaptive, strict=True)
        return tuple(tuple(-(-(at + 1) * i // o) - at * i // o for at in range(o)) for i, o in sizes)

    @property
    def whole(self) -> bool:
        """Whether it pools each channel to a single number."""
        return not self.adaptive and self.kernel == self.input and not any((*self.pad_before, *self.pad_after))

    @property
    def reach(self) -> Shape:
        """The spatial sizes of what the windows read."""
        if self.adaptive:
            return self.input
        sizes = zip(self.output, self.kernel, self.stride, self.dilation, strict=True)
        return tuple((o - 1) * s + d * (k - 1) + 1 for o, k, s, d in sizes)

    @property
    def torch_pads(self) -> bool:
        """Whether torch's own pool has this padding: as much on both sides, at most half a window; none for lp."""
        if self.adaptive:
            return True
        if self.function == "lp":
            return not (self.ceil or any((*self.pad_before, *self.pad_after)))
        if self.function == "average" and len(self.input) == 3 and any(map(gt, self.kernel, self.input)):
            return False  # avg_pool3d alone refuses windows larger than the input without its padding
        narrow = all(2 * pad <= kernel for pad, kernel in zip(self.pad_before, self.kernel, strict=True))
        return self.whole or (self.pad_before == self.pad_after and narrow)

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.batch, self.channels, *self.input),)

    @property
    def output_shape(self) -> Shape:
        return (self.batch, self.channels, *self.output)

    @property
    def layout_needs(self) -> LayoutNeeds:
        lines = len(self.input) < 3
        if self.adaptive:
            return LayoutNeeds(channels_last=lines, forward=lines, gradient=True)
        if self.whole and not (self.function == "max" and lines):
            return ANYHOW
        return LayoutNeeds(channels_last=self.function == "max" or lines, forward=self.torch_pads, gradient=True)

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """Its input, or the copy of it that is padded where torch's own pool cannot pad so; places of maxima."""
        out, read = prod(self.output_shape), self.batch * self.channels * prod(self.reach)
        kept = Saved(inputs=(0,)) if self.torch_pads else Saved(elements=read)
        if self.function == "max":
            return replace(kept, other_bytes=INDEX_BYTES * out)
        if self.function == "lp":  # powers, and four steps from their means to the norm
            return replace(kept, elements=kept.elements + read + 4 * out)
        return NOTHING if self.whole else kept

    @property
    def reduction(self) -> int:
        return prod(self.kernel)

    def flops(self, phase: Phase) -> int:
        if self.adaptive and phase in self.phases:
            return self.batch * self.channels * prod(map(sum, self._windows))
        return super().flops(phase) * prod(self.kernel)

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        batch, channels, *spatial = inputs[0]
        return replace(self, batch=batch, channels=channels, input=tuple(spatial))


@dataclass(frozen=True, kw_only=True)
class Reduce(Shaped):
    """`mean`, `sum`, `max` … over `axes`, which are kept with size 1 where `keep` is set."""

    kind: ClassVar[str] = "reduce"
    code: ClassVar[int] = 11

    operation: str
    axes: tuple[int, ...]
    keep: bool = True

    def __post_init__(self) -> None:
        self._check_axes(*self.axes, rank=len(self.shape))
        super().__post_init__()

    @property
    def output_shape(self) -> Shape:
        axes = {axis % len(self.shape) for axis in self.axes}
        sizes = [1 if axis in axes else size for axis, size in enumerate(self.shape)]
        return tuple(size for axis, size in enumerate(sizes) if self.keep or axis not in axes)

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW if self.axes else POINTWISE

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        if self.operation in ("mean", "sum") or not self.axes:
            return NOTHING
        if self.operation == "log_sum":
            return Saved(elements=elements(self.output_shape))
        return Saved(inputs=(0,), output=self.operation != "sum_square")

    def flops(self, phase: Phase) -> int:
        return elements(self.shape) if phase in self.phases else 0
