"""Convolutions, transposed ones among them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import ClassVar, Self

from latte_cli.layers.base import SPLIT, Gemm, Layer, LayoutNeeds, Saved, gemm_of
from latte_cli.layers.shapes import Shape
from latte_cli.phases import Phase


@dataclass(frozen=True, kw_only=True)
class Convolution(Layer):
    """A convolution (cross-correlation) with 1 to 3 spatial dimensions.

    `input`, `kernel` and the like have one number per spatial dimension. For a transposed convolution `input` is
    the input of its forward pass, and `output_padding` extends the end of its output.
    """

    kind: ClassVar[str] = "convolution"
    code: ClassVar[int] = 0
    phases: ClassVar[tuple[Phase, ...]] = SPLIT

    batch: int
    in_channels: int
    out_channels: int
    groups: int = 1
    input: Shape
    kernel: Shape
    stride: Shape = ()
    dilation: Shape = ()
    pad_before: Shape = ()
    pad_after: Shape = ()
    transposed: bool = False
    output_padding: Shape = ()
    bias: bool = False

    def __post_init__(self) -> None:
        rank = len(self.input)
        defaults = {"stride": 1, "dilation": 1, "pad_before": 0, "pad_after": 0, "output_padding": 0}
        for name, value in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, (value,) * rank)
        self._check(1 <= rank <= 3, f"{rank} spatial dimensions (1 to 3 are known)")
        for name in ("kernel", *defaults):
            sizes = getattr(self, name)
            self._check(len(sizes) == rank, f"{name} {sizes} for {rank} spatial dimensions")
            self._check(all(size >= defaults.get(name, 1) for size in sizes), f"{name} {sizes}")
        self._check(self.groups > 0, f"{self.groups} groups")
        split = self.in_channels % self.groups or self.out_channels % self.groups
        self._check(not split, f"{self.in_channels} -> {self.out_channels} channels in {self.groups} groups")
        super().__post_init__()

    @cached_property
    def output(self) -> Shape:
        """Spatial output sizes: floor((in + pads - dilation (kernel - 1) - 1) / stride) + 1, or its transpose."""
        sizes = zip(
            self.input,
            self.kernel,
            self.stride,
            self.dilation,
            (before + after for before, after in zip(self.pad_before, self.pad_after, strict=True)),
            self.output_padding,
            strict=True,
        )
        if self.transposed:
            return tuple((i - 1) * s - p + d * (k - 1) + o + 1 for i, k, s, d, p, o in sizes)
        return tuple((i + p - d * (k - 1) - 1) // s + 1 for i, k, s, d, p, _ in sizes)

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.batch, self.in_channels, *self.input),)

    @property
    def output_shape(self) -> Shape:
        return (self.batch, self.out_channels, *self.output)

    @property
    def weight_shape(self) -> Shape:
        """`(out, in / groups, *kernel)`, or `(in, out / groups, *kernel)` for a transposed convolution."""
        first, second = self.out_channels, self.in_channels
        if self.transposed:
            first, second = second, first
        return (first, second // self.groups, *self.kernel)

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        return (self.weight_shape, (self.out_channels,)) if self.bias else (self.weight_shape,)

    @property
    def layout_needs(self) -> LayoutNeeds:
        copies = self.symmetric or self.transposed  # what is padded on one side is a copy already
        return LayoutNeeds(channels_last=len(self.input) > 1, forward=copies, backward=copies, gradient=True)

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """Its input whatever is trained; padding on one side is a copy of the input, which is kept instead."""
        if self.symmetric or self.transposed:
            return Saved(inputs=(0,))
        pads = zip(self.input, self.pad_before, self.pad_after, strict=True)
        padded = prod(size + abs(before - after) for size, before, after in pads)
        return Saved(elements=self.batch * self.in_channels * padded)

    def saved_count(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> int:
        """Its input and its weight, whichever gradients are needed."""
        return 2

    @property
    def reduction(self) -> int:
        return self.in_channels // self.groups * prod(self.kernel)

    @property
    def im2col(self) -> tuple[int, int, int]:
        """Rows, channels out of a group, and columns of its unfolded input; a transposed one seen from its output."""
        positions = prod(self.input if self.transposed else self.output)
        wide, deep = self.out_channels // self.groups, self.in_channels // self.groups
        if self.transposed:
            wide, deep = deep, wide
        return self.batch * positions, wide, deep * prod(self.kernel)

    def gemm(self, phase: Phase) -> Gemm:
        """The product of one group, in im2col form."""
        return gemm_of(self.computed_as(phase), *self.im2col)

    @property
    def made_channels(self) -> int:
        return self.out_channels if self.groups != self.in_channels or self.groups == 1 else 0

    @property
    def channel_axis(self) -> int:
        return 1

    @property
    def workload(self) -> int:
        positions = prod(self.input if self.transposed else self.output)
        return self.batch * positions * prod(self.weight_shape)

    @property
    def depthwise(self) -> bool:
        """Whether each group reads one channel and writes one."""
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def symmetric(self) -> bool:
        """Whether the padding is the same on both sides, which most libraries ask for."""
        return self.pad_before == self.pad_after

    def computed_as(self, phase: Phase) -> Phase:
        """Which convolution computes `phase`: a transposed layer runs forward as backward data, and the other way."""
        swapped = {Phase.FORWARD: Phase.BACKWARD_DATA, Phase.BACKWARD_DATA: Phase.FORWARD}
        return swapped.get(phase, phase) if self.transposed else phase

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        batch, in_channels, *spatial = inputs[0]
        groups, wide = self.groups, out_channels or self.out_channels
        if groups == self.in_channels > 1:
            groups, wide = in_channels, self.out_channels // self.in_channels * in_channels
        elif groups > 1:
            wide = max(groups, wide // groups * groups)
        return replace(
            self, batch=batch, in_channels=in_channels, out_channels=wide, groups=groups, input=tuple(spatial)
        )
