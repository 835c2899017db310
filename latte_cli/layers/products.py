"""Products of matrices: of activations with weights, and with each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self

from latte_cli.layers.base import ANYHOW, SPLIT, Gemm, Layer, LayoutNeeds, Saved, gemm_of, others_of
from latte_cli.layers.shapes import Shape
from latte_cli.phases import Phase


@dataclass(frozen=True, kw_only=True)
class Linear(Layer):
    """A fully connected layer (ONNX Gemm) over `rows` rows."""

    kind: ClassVar[str] = "linear"
    code: ClassVar[int] = 1
    phases: ClassVar[tuple[Phase, ...]] = SPLIT

    rows: int
    in_features: int
    out_features: int
    bias: bool = True

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.rows, self.in_features),)

    @property
    def output_shape(self) -> Shape:
        return (self.rows, self.out_features)

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        weight = (self.out_features, self.in_features)
        return (weight, (self.out_features,)) if self.bias else (weight,)

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return Saved(inputs=(0,) if trains else ())

    @property
    def reduction(self) -> int:
        return self.in_features

    def gemm(self, phase: Phase) -> Gemm:
        return gemm_of(phase, self.rows, self.out_features, self.in_features)

    @property
    def made_channels(self) -> int:
        return self.out_features

    @property
    def workload(self) -> int:
        return self.rows * self.in_features * self.out_features

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        rows, in_features = prod(inputs[0][:-1]), inputs[0][-1]
        return replace(self, rows=rows, in_features=in_features, out_features=out_channels or self.out_features)


@dataclass(frozen=True, kw_only=True)
class MatMul(Layer):
    """`batch` products of (m, k) by (k, n) matrices, both of them activations.

    Its backward pass is two products; `backward_data` is that for the gradient of the left matrices alone, and
    `backward_filter` that of the right ones, each of which is timed as the product that it is.
    """

    kind: ClassVar[str] = "matmul"
    code: ClassVar[int] = 2

    batch: int = 1
    m: int
    k: int
    n: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.batch, self.m, self.k), (self.batch, self.k, self.n))

    @property
    def output_shape(self) -> Shape:
        return (self.batch, self.m, self.n)

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return Saved(inputs=others_of(flows))

    @property
    def reduction(self) -> int:
        return self.k

    def gemm(self, phase: Phase) -> Gemm:
        """Of either pass; the two products backward are as large."""
        return self.m, self.n, self.k

    @property
    def workload(self) -> int:
        return self.batch * self.m * self.k * self.n

    def measured_as(self, phase: Phase) -> tuple[Layer, Phase]:
        if phase is Phase.BACKWARD_DATA:
            return replace(self, k=self.n, n=self.k), Phase.FORWARD
        if phase is Phase.BACKWARD_FILTER:
            return replace(self, m=self.k, k=self.m), Phase.FORWARD
        return self, phase

    def flops(self, phase: Phase) -> int:
        _, timed = self.measured_as(phase)
        return super().flops(timed) * (2 if phase is Phase.BACKWARD else 1)

    def elements_moved(self, phase: Phase) -> int:
        """Each of the three products reads two of the same three tensors and writes the third."""
        _, timed = self.measured_as(phase)
        return super().elements_moved(timed)
