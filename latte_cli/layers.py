"""Layers: what a network is made of, with their output shapes, FLOPs, bytes and direct workload C."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from math import prod
from typing import Any, ClassVar, Self, TypeAlias, get_origin

from latte_cli.errors import LatteError

Shape: TypeAlias = tuple[int, ...]

_LARGEST_DIMENSION = 2**40


class Phase(StrEnum):
    """A part of a training step; a layer without a split backward has the one phase `backward`."""

    FORWARD = "forward"
    BACKWARD_DATA = "backward_data"
    BACKWARD_FILTER = "backward_filter"
    BACKWARD = "backward"
    UPDATE = "update"


_WHOLE = (Phase.FORWARD, Phase.BACKWARD)
_SPLIT = (Phase.FORWARD, Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER)


def _elements(*shapes: Shape) -> int:
    return sum(prod(shape) for shape in shapes)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation with all its sizes; equal layers take the same time.

    Every number is an integer of at least 0; LatteError is raised for sizes that make no tensor. Only layers that
    compute nothing may have empty tensors (`least_size` 0).
    """

    kind: ClassVar[str] = ""
    phases: ClassVar[tuple[Phase, ...]] = _WHOLE
    operations_per_element: ClassVar[int] = 1
    free: ClassVar[bool] = False
    least_size: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for shape in (*self.input_shapes, self.output_shape, *self.parameter_shapes):
            whole = all(isinstance(size, int) and self.least_size <= size < _LARGEST_DIMENSION for size in shape)
            self._check(whole, f"a tensor of {shape}")

    def _check_axes(self, *axes: int, rank: int) -> None:
        self._check(all(-rank <= axis < rank for axis in axes), f"axes {axes} in {rank} dimensions")

    def _check(self, holds: bool, problem: str) -> None:
        if not holds:
            raise LatteError(
                f"a {self.kind} layer cannot have {problem}", hint="check the model's shapes and the batch size"
            )

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the activations it reads, batch first."""
        raise NotImplementedError

    @property
    def output_shape(self) -> Shape:
        """Shape of the activation it writes."""
        raise NotImplementedError

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        """Shapes of what it trains, weights first."""
        return ()

    @property
    def parameters(self) -> int:
        """How many numbers it trains."""
        return _elements(*self.parameter_shapes)

    @property
    def workload(self) -> int:
        """The direct workload C: multiply-accumulates of one forward pass (0 for layers that do none)."""
        return 0

    def flops(self, phase: Phase) -> int:
        """Floating-point operations of `phase`, a multiply-accumulate counting as two."""
        if phase not in self.phases:
            return 0
        return 2 * self.workload or self.operations_per_element * _elements(self.output_shape)

    def elements_moved(self, phase: Phase) -> int:
        """Elements read plus elements written, each tensor once."""
        if phase not in self.phases or self.free:
            return 0
        ins, out, own = _elements(*self.input_shapes), _elements(self.output_shape), self.parameters
        if phase is Phase.BACKWARD:
            return out + 2 * ins + 2 * own
        return ins + out + own

    def bytes_moved(self, phase: Phase, element_bytes: int) -> int:
        """Bytes read plus bytes written at `element_bytes` an element, each tensor once."""
        return element_bytes * self.elements_moved(phase)

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        """The same layer for other input shapes and, where it makes channels, another number of them.

        Raises LatteError where the layer has no such form.
        """
        raise LatteError(f"a {self.kind} layer cannot be resized", hint="keep its input at full width")


@dataclass(frozen=True, kw_only=True)
class Convolution(Layer):
    """A convolution (cross-correlation) with 1 to 3 spatial dimensions.

    `input`, `kernel` and the like have one number per spatial dimension. For a transposed convolution `input` is
    the input of its forward pass, and `output_padding` extends the end of its output.
    """

    kind: ClassVar[str] = "convolution"
    phases: ClassVar[tuple[Phase, ...]] = _SPLIT

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

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        batch, in_channels, *spatial = inputs[0]
        groups, wide = self.groups, out_channels or self.out_channels
        if groups == self.in_channels > 1:
            groups, wide = in_channels, self.out_channels // self.in_channels * in_channels
        elif groups > 1:
            wide = max(groups, wide // groups * groups)
        return replace(
            self, batch=batch, in_channels=in_channels, out_channels=wide, groups=groups, input=tuple(spatial)
        )


@dataclass(frozen=True, kw_only=True)
class Linear(Layer):
    """A fully connected layer (ONNX Gemm) over `rows` rows."""

    kind: ClassVar[str] = "linear"
    phases: ClassVar[tuple[Phase, ...]] = _SPLIT

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
    def workload(self) -> int:
        return self.rows * self.in_features * self.out_features

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        rows, in_features = prod(inputs[0][:-1]), inputs[0][-1]
        return replace(self, rows=rows, in_features=in_features, out_features=out_channels or self.out_features)


@dataclass(frozen=True, kw_only=True)
class MatMul(Layer):
    """`batch` products of (m, k) by (k, n) matrices, both of them activations."""

    kind: ClassVar[str] = "matmul"

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
    def workload(self) -> int:
        return self.batch * self.m * self.k * self.n

    def flops(self, phase: Phase) -> int:
        return super().flops(phase) * (2 if phase is Phase.BACKWARD else 1)


@dataclass(frozen=True, kw_only=True)
class _Shaped(Layer):
    """A layer with one input that keeps its shape."""

    shape: Shape

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @property
    def output_shape(self) -> Shape:
        return self.shape

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, shape=tuple(inputs[0]))


@dataclass(frozen=True, kw_only=True)
class Norm(_Shaped):
    """A normalisation: `batch`, `layer`, `group`, `instance`, `rms` or `lrn`, in training mode.

    `span` is the number of groups of a group norm, of trailing dimensions of a layer or rms norm, or of channels
    that a local response norm looks at.
    """

    kind: ClassVar[str] = "norm"
    operations_per_element: ClassVar[int] = 5

    function: str
    span: int = 1
    affine: bool = True

    def __post_init__(self) -> None:
        self._check(self.span > 0, f"a span of {self.span}")
        if self.function in ("layer", "rms"):
            self._check(self.span <= len(self.shape), f"{self.span} trailing dimensions in {self.shape}")
        elif self.function == "group":
            fits = len(self.shape) > 1 and self.shape[1] % self.span == 0
            self._check(fits, f"{self.span} groups of channels in {self.shape}")
        super().__post_init__()

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        if not self.affine or self.function == "lrn":
            return ()
        over_rows = self.function in ("layer", "rms")
        own = self.shape[-self.span :] if over_rows else self.shape[1:2]
        return (own,) if self.function == "rms" else (own, own)


@dataclass(frozen=True, kw_only=True)
class Activation(_Shaped):
    """An element-wise non-linearity with one input, such as `relu`, `gelu` or `sigmoid`."""

    kind: ClassVar[str] = "activation"

    function: str


@dataclass(frozen=True, kw_only=True)
class Dropout(_Shaped):
    """Dropout in training mode; the time does not depend on its rate."""

    kind: ClassVar[str] = "dropout"


@dataclass(frozen=True, kw_only=True)
class Softmax(_Shaped):
    """Softmax (or, with `log`, its logarithm) along `axis`."""

    kind: ClassVar[str] = "softmax"
    operations_per_element: ClassVar[int] = 3

    axis: int = -1
    log: bool = False

    def __post_init__(self) -> None:
        self._check_axes(self.axis, rank=len(self.shape))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class SoftmaxCrossEntropy(Layer):
    """The training loss over `rows` rows of `classes` scores."""

    kind: ClassVar[str] = "softmax_cross_entropy"
    operations_per_element: ClassVar[int] = 4

    rows: int
    classes: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.rows, self.classes),)

    @property
    def output_shape(self) -> Shape:
        return ()

    def flops(self, phase: Phase) -> int:
        return self.operations_per_element * self.rows * self.classes if phase in self.phases else 0

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, rows=prod(inputs[0][:-1]), classes=inputs[0][-1])


@dataclass(frozen=True, kw_only=True)
class Pool(Layer):
    """Maximum or average pooling over 1 to 3 spatial dimensions; a global pool's kernel is its input."""

    kind: ClassVar[str] = "pool"

    function: str
    batch: int
    channels: int
    input: Shape
    kernel: Shape
    stride: Shape = ()
    dilation: Shape = ()
    pad_before: Shape = ()
    pad_after: Shape = ()
    ceil: bool = False
    count_padding: bool = False

    def __post_init__(self) -> None:
        rank = len(self.input)
        self._check(1 <= rank <= 3, f"{rank} spatial dimensions (1 to 3 are known)")
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
    def whole(self) -> bool:
        """Whether it pools each channel to a single number."""
        return self.kernel == self.input and not any((*self.pad_before, *self.pad_after))

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.batch, self.channels, *self.input),)

    @property
    def output_shape(self) -> Shape:
        return (self.batch, self.channels, *self.output)

    def flops(self, phase: Phase) -> int:
        return super().flops(phase) * prod(self.kernel)

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        batch, channels, *spatial = inputs[0]
        return replace(self, batch=batch, channels=channels, input=tuple(spatial))


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


@dataclass(frozen=True, kw_only=True)
class Concat(Layer):
    """Activations laid end to end along `axis`."""

    kind: ClassVar[str] = "concat"
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

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, shapes=tuple(tuple(shape) for shape in inputs))


@dataclass(frozen=True, kw_only=True)
class Reduce(_Shaped):
    """`mean`, `sum`, `max` … over `axes`, which are kept with size 1 where `keep` is set."""

    kind: ClassVar[str] = "reduce"

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

    def flops(self, phase: Phase) -> int:
        return _elements(self.shape) if phase in self.phases else 0


@dataclass(frozen=True, kw_only=True)
class Copy(Layer):
    """A rearrangement that moves data: `transpose` (with its `order`), `pad`, `slice`, `expand` …."""

    kind: ClassVar[str] = "copy"
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

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
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

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        shape = tuple(inputs[0])
        return replace(self, shape=shape, output=scaled_reshape(self.shape, self.output, shape))


@dataclass(frozen=True, kw_only=True)
class Optimizer(Layer):
    """One optimizer step (`sgd`, `momentum`, `adam`, `adamw`) over a network's parameters, gradients then dropped."""

    kind: ClassVar[str] = "optimizer"
    phases: ClassVar[tuple[Phase, ...]] = (Phase.UPDATE,)

    function: str
    tensors: int
    elements: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.elements,),)

    @property
    def output_shape(self) -> Shape:
        return (self.elements,)

    def elements_moved(self, phase: Phase) -> int:
        """Weights and states read and written, gradients read."""
        states = {"momentum": 1, "adam": 2, "adamw": 2}.get(self.function, 0)
        return (3 + 2 * states) * self.elements if phase in self.phases else 0


@dataclass(frozen=True, kw_only=True)
class Embedding(Layer):
    """`rows` look-ups in a trained table of `entries` vectors of `width`."""

    kind: ClassVar[str] = "embedding"
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

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, rows=prod(inputs[0]), width=out_channels or self.width)


@dataclass(frozen=True, kw_only=True)
class Recurrent(Layer):
    """One recurrent layer, `lstm`, `gru` or `rnn`, over `steps` steps in one or two `directions`.

    It reads (steps, batch, inputs) and writes the hidden states (steps, directions, batch, hidden).
    """

    kind: ClassVar[str] = "recurrent"

    function: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    directions: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        self._check(self.function in _GATES, f"the function `{self.function}`")
        self._check(self.directions in (1, 2), f"{self.directions} directions")
        super().__post_init__()

    @property
    def gates(self) -> int:
        """How many products of a step's input and hidden state there are."""
        return _GATES[self.function]

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.steps, self.batch, self.inputs),)

    @property
    def output_shape(self) -> Shape:
        return (self.steps, self.directions, self.batch, self.hidden)

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        """Weights of the input and of the hidden state, then both biases as one, gates end to end."""
        rows = self.gates * self.hidden
        weights = ((self.directions, rows, self.inputs), (self.directions, rows, self.hidden))
        return (*weights, (self.directions, 2 * rows)) if self.bias else weights

    @property
    def workload(self) -> int:
        each = self.gates * self.hidden * (self.inputs + self.hidden)
        return self.steps * self.batch * self.directions * each

    def flops(self, phase: Phase) -> int:
        return super().flops(phase) * (2 if phase is Phase.BACKWARD else 1)

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        steps, batch, features = inputs[0]
        return replace(self, steps=steps, batch=batch, inputs=features, hidden=out_channels or self.hidden)


_GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@dataclass(frozen=True, kw_only=True)
class Attention(Layer):
    """Scaled dot-product attention as one call: softmax(q kᵀ) v, with `causal` or an added `mask` or neither.

    Queries are (batch, heads, queries, width), keys (batch, key_heads, keys, width), values
    (batch, key_heads, keys, value_width); `mask` is the shape of the mask, () for none.
    """

    kind: ClassVar[str] = "attention"

    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    causal: bool = False
    mask: Shape = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.heads % self.key_heads == 0, f"{self.heads} heads on {self.key_heads} heads of keys")

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        shapes = (
            (self.batch, self.heads, self.queries, self.width),
            (self.batch, self.key_heads, self.keys, self.width),
            (self.batch, self.key_heads, self.keys, self.value_width),
        )
        return (*shapes, self.mask) if self.mask else shapes

    @property
    def output_shape(self) -> Shape:
        return (self.batch, self.heads, self.queries, self.value_width)

    @property
    def workload(self) -> int:
        return self.batch * self.heads * self.queries * self.keys * (self.width + self.value_width)

    def flops(self, phase: Phase) -> int:
        """Two products forward; backward computes the scores again and then four products."""
        if phase is Phase.BACKWARD:
            products = 3 * self.width + 2 * self.value_width
            return 2 * self.batch * self.heads * self.queries * self.keys * products
        return super().flops(phase)

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        (batch, heads, queries, width), (_, key_heads, keys, _), (*_, value_width) = inputs[:3]
        return replace(
            self,
            batch=batch,
            heads=heads,
            key_heads=key_heads,
            queries=queries,
            keys=keys,
            width=width,
            value_width=value_width,
            mask=tuple(inputs[3]) if self.mask else (),
        )


@dataclass(frozen=True, kw_only=True)
class Other(Layer):
    """An operation that none of the other kinds describes, by its name and the shapes that it reads and writes."""

    kind: ClassVar[str] = "other"
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


@dataclass(frozen=True, kw_only=True)
class Transfer(Layer):
    """A batch's copy from the host's memory to a device's own; `elements` of a model's activation type."""

    kind: ClassVar[str] = "transfer"
    phases: ClassVar[tuple[Phase, ...]] = (Phase.FORWARD,)
    operations_per_element: ClassVar[int] = 0

    elements: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.elements,),)

    @property
    def output_shape(self) -> Shape:
        return (self.elements,)


@dataclass(frozen=True, kw_only=True)
class Whole(Layer):
    """A standard network that is run as a whole, all its layers one after the other, to hold their sum against.

    `name` is the zoo's, `batch` images have `size` pixels a side.
    """

    kind: ClassVar[str] = "network"
    phases: ClassVar[tuple[Phase, ...]] = (Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE)

    name: str
    batch: int
    size: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.batch, 3, self.size, self.size),)

    @property
    def output_shape(self) -> Shape:
        return self.input_shapes[0]


LAYERS: tuple[type[Layer], ...] = (
    Convolution,
    Linear,
    MatMul,
    Norm,
    Activation,
    Dropout,
    Softmax,
    SoftmaxCrossEntropy,
    Pool,
    Elementwise,
    Concat,
    Reduce,
    Copy,
    View,
    Optimizer,
    Embedding,
    Recurrent,
    Attention,
    Other,
    Transfer,
    Whole,
)
"""Every layer kind; what is fitted knows a kind by its place here."""

_BY_KIND = {layer.kind: layer for layer in LAYERS}


def broadcast(*shapes: Shape) -> Shape:
    """The common shape by numpy's rules; raises LatteError where there is none."""
    rank = max(len(shape) for shape in shapes)
    columns = zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True)
    sizes = []
    for column in columns:
        wide = set(column) - {1}
        if len(wide) > 1:
            raise LatteError(f"shapes {', '.join(map(str, shapes))} do not broadcast")
        sizes.append(wide.pop() if wide else 1)
    return tuple(sizes)


def reshape_runs(shape: Shape, output: Shape) -> tuple[tuple[slice, slice], ...]:
    """The shortest runs of dimensions of `shape` and of `output`, a reshape of it, that hold the same elements.

    Raises LatteError where there are none.
    """
    runs: list[tuple[slice, slice]] = []
    i = j = 0
    while i < len(shape) or j < len(output):
        first_in, first_out = i, j
        a = shape[i] if i < len(shape) else 1
        b = output[j] if j < len(output) else 1
        i, j = min(i + 1, len(shape)), min(j + 1, len(output))
        while a != b:
            if a < b and i < len(shape):
                a, i = a * shape[i], i + 1
            elif b < a and j < len(output):
                b, j = b * output[j], j + 1
            else:
                raise LatteError(f"cannot resize a reshape of {shape} to {output}")
        runs.append((slice(first_in, i), slice(first_out, j)))
    return tuple(runs)


def scaled_reshape(shape: Shape, output: Shape, scaled: Shape) -> Shape:
    """What `output`, a reshape of `shape`, becomes for an input of another size `scaled`.

    Within a run (see `reshape_runs`) the first output dimension that can takes the change. Raises LatteError where
    none can.
    """
    result: list[int] = []
    for ins, outs in reshape_runs(shape, output):
        result += _scaled_run(output[outs], prod(shape[ins]), prod(scaled[ins]))
    return tuple(result)


def _scaled_run(sizes: Shape, before: int, after: int) -> list[int]:
    if before == after:
        return list(sizes)
    for at in sorted(range(len(sizes)), key=lambda index: sizes[index] == 1):
        if sizes[at] * after % before == 0 and sizes[at] * after // before > 0:
            return [*sizes[:at], sizes[at] * after // before, *sizes[at + 1 :]]
    raise LatteError(f"cannot resize a reshape that splits {before} into {sizes} to {after}")


@lru_cache(maxsize=65536)
def layer_text(layer: Layer) -> str:
    """The canonical text of a layer: compact JSON, the same for equal layers in every process.

    Fields at their default are left out, so that a field added later changes no text already written.
    """
    values = ((field, getattr(layer, field.name)) for field in fields(layer))
    body = {field.name: value for field, value in values if value != field.default}
    return json.dumps({"kind": layer.kind, **body}, separators=(",", ":"))


@lru_cache(maxsize=65536)
def layer_from_text(text: str) -> Layer:
    """The layer that `layer_text` wrote; raises LatteError for any other text."""
    try:
        body = json.loads(text)
        layer = _BY_KIND[body.pop("kind")]
        types = {field.name: get_origin(field.type) or field.type for field in fields(layer)}
        return layer(**{name: _typed(_tupled(value), types[name]) for name, value in body.items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise LatteError(f"not a layer: {text[:80]}", hint="was it written by a newer version?") from exc


def _tupled(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(_tupled(item) if isinstance(item, list) else _typed(item, int) for item in value)


def _typed(value: Any, kind: object) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of {kind}")
    return value
