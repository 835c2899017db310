"""What every kind of layer has: shapes, FLOPs, bytes and the direct workload C."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod
from typing import ClassVar, Self, TypeAlias

from latte_cli.errors import LatteError
from latte_cli.layers.shapes import Shape
from latte_cli.phases import Phase

_LARGEST_DIMENSION = 2**40  # chosen: products of a few stay finite as floats; no memory holds more

INDEX_BYTES = 8  # torch keeps places in tensors as 64-bit integers


WHOLE = (Phase.FORWARD, Phase.BACKWARD)
SPLIT = (Phase.FORWARD, Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER)


def elements(*shapes: Shape) -> int:
    """How many numbers tensors of these shapes hold."""
    return sum(prod(shape) for shape in shapes)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a layer keeps of its forward pass until its backward pass.

    Its inputs in the places `inputs` and its `output`, which take nothing more where they are there anyway; `elements`
    more of the activations' type, and `other_bytes` of types that are the same in each precision.
    """

    inputs: tuple[int, ...] = ()
    output: bool = False
    elements: int = 0
    other_bytes: int = 0


NOTHING = Saved()


class StrideOrder(StrEnum):
    """How a layer lays what it writes."""

    END_TO_END = "end to end"
    AS_READ = "as read"
    AS_ALL_READ = "as all read"


@dataclass(frozen=True, kw_only=True)
class LayoutNeeds:
    """What a layer needs of how its first input lies, and how it lays what it writes, as torch's operators on a CPU do.

    With `channels_last` it also takes images, and volumes, whose channels lie next to each other, and writes such ones;
    with `rows` it takes any layout whose first two dimensions are one. It makes copies of others that lie end to end:
    one for its `forward` call and one for its `backward` call, or one that is `kept` between them instead of the input.
    With `gradient` it copies a gradient that lies otherwise than its output. Its output lies end to end, in `order` as
    the input that is as large, or with channels last where all inputs lie so.
    """

    channels_last: bool = False
    rows: bool = False
    forward: bool = False
    backward: bool = False
    kept: bool = False
    gradient: bool = False
    order: StrideOrder = StrideOrder.END_TO_END

    @property
    def copies(self) -> bool:
        """Whether it makes copies of inputs that lie otherwise."""
        return self.forward or self.backward or self.kept


ANYHOW = LayoutNeeds()
POINTWISE = LayoutNeeds(order=StrideOrder.AS_READ)
"""What goes over its inputs number by number, in whichever order they lie."""


def others_of(flows: Sequence[bool]) -> tuple[int, ...]:
    """The factors of a product that the gradients of its other factors need."""
    return tuple(place for place in range(len(flows)) if any(flows[:place]) or any(flows[place + 1 :]))


Gemm: TypeAlias = tuple[int, int, int]
"""The sizes m, n, k of a product of matrices (m, k) by (k, n)."""


def gemm_of(phase: Phase, rows: int, wide: int, deep: int) -> Gemm:
    """The product of a layer that multiplies (rows, deep) inputs by (deep, wide) weights in its forward pass."""
    if phase is Phase.BACKWARD_DATA:
        return rows, deep, wide
    return (wide, deep, rows) if phase is Phase.BACKWARD_FILTER else (rows, wide, deep)


@dataclass(frozen=True, kw_only=True)
class Layer(ABC):
    """One operation with all its sizes; equal layers take the same time.

    Every number is an integer of at least 0; LatteError is raised for sizes that make no tensor. Only layers that
    compute nothing may have empty tensors (`least_size` 0). `code` is the number by which what is fitted knows the
    kind: it never changes, and a new kind takes the next.
    """

    kind: ClassVar[str]
    code: ClassVar[int]
    phases: ClassVar[tuple[Phase, ...]] = WHOLE
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
    @abstractmethod
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the activations it reads, batch first."""

    @property
    @abstractmethod
    def output_shape(self) -> Shape:
        """Shape of the activation it writes."""

    @property
    @abstractmethod
    def layout_needs(self) -> LayoutNeeds:
        """What it needs of how its inputs lie; ANYHOW where torch takes them as they lie (torch 2.13)."""

    @abstractmethod
    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """What autograd keeps for its backward pass.

        `trains` says whether the layer trains a parameter. `flows` says for each input whether it takes a gradient. At
        least one of them is true. `fused` says that the layer runs on a GPU, which computes in one call what a CPU
        computes in several.
        """

    def saved_count(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> int:
        """How many tensors autograd saves for its backward pass, parameters and buffers among them.

        The arguments are those of `saved_tensors`. A layer whose call saves more than its `Saved` holds says so
        itself (torch 2.13, as `torch.autograd.graph.saved_tensors_hooks` counts them).
        """
        saved = self.saved_tensors(trains=trains, flows=flows, fused=fused)
        beside = (saved.output, saved.elements > 0, saved.other_bytes > 0)
        return len(saved.inputs) + sum(beside) + bool(self.parameter_shapes and any(flows))

    def backward_growth(self, *, trains: bool, flows: Sequence[bool]) -> int | None:
        """The most numbers that its backward pass holds on a CPU beyond what it saved; None where it is measured.

        They are of the activations' type. The gradient that arrives and those that the pass leaves are among them. What
        was saved is freed on the way, which makes them fewer. `trains` and `flows` are those of `saved_tensors`.
        """
        return None

    def workspace_numbers(self, phase: Phase) -> int:
        """The numbers that a call needs for itself on a CPU, for where its workspace was not measured."""
        return 0

    @property
    def variant(self) -> str:
        """The name of what it computes among the layers of its kind; empty where there is only one."""
        return getattr(self, "function", "") or getattr(self, "operation", "")

    @property
    def untrainable(self) -> str:
        """Why torch refuses to run it in training mode at these sizes; empty where it does not (torch 2.13)."""
        return ""

    @property
    def reduction(self) -> int:
        """How many numbers go into one result."""
        return max(1, elements(*self.input_shapes) // max(1, elements(self.output_shape)))

    def gemm(self, phase: Phase) -> Gemm | None:
        """The matrix product behind `phase`; None where there is none."""
        return None

    @property
    def trained_tensors(self) -> int:
        """How many tensors it trains."""
        return len(self.parameter_shapes)

    @property
    def made_channels(self) -> int:
        """How many channels it makes itself; 0 where they are its input's."""
        return 0

    @property
    def channel_axis(self) -> int:
        """The dimension of its output that its channels lie along, where it makes some."""
        return len(self.output_shape) - 1

    @property
    def shares_storage(self) -> bool:
        """Whether its output lies where its first input does."""
        return False

    @property
    def passes_gradient(self) -> bool:
        """Whether the gradient of its output is that of an input, the same tensor."""
        return False

    @property
    def makes_all_gradients(self) -> bool:
        """Whether its backward call makes its first input's gradient also where nobody needs it."""
        return False

    @property
    def buffer_bytes(self) -> int:
        """What it keeps from step to step and does not train, in the same types for each precision."""
        return 0

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        """Shapes of what it trains, weights first."""
        return ()

    @property
    def parameters(self) -> int:
        """How many numbers it trains."""
        return elements(*self.parameter_shapes)

    @property
    def workload(self) -> int:
        """The direct workload C: multiply-accumulates of one forward pass (0 for layers that do none)."""
        return 0

    def flops(self, phase: Phase) -> int:
        """Floating-point operations of `phase`, a multiply-accumulate counting as two."""
        if phase not in self.phases:
            return 0
        return 2 * self.workload or self.operations_per_element * elements(self.output_shape)

    def measured_as(self, phase: Phase) -> "tuple[Layer, Phase]":
        """The layer and the phase of it that are timed for `phase`."""
        return self, phase

    def elements_moved(self, phase: Phase) -> int:
        """Elements read plus elements written, each tensor once."""
        if phase not in self.phases or self.free:
            return 0
        ins, out, own = elements(*self.input_shapes), elements(self.output_shape), self.parameters
        if phase is Phase.BACKWARD:
            return out + 2 * ins + 2 * own
        return ins + out + own

    def bytes_moved(self, phase: Phase, element_bytes: int) -> int:
        """Bytes read plus bytes written at `element_bytes` an element, each tensor once."""
        return element_bytes * self.elements_moved(phase)

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        """The same layer for other input shapes and, where it makes channels, another number of them.

        Raises LatteError where the layer has no such form.
        """
        raise LatteError(f"a {self.kind} layer cannot be resized", hint="keep its input at full width")


@dataclass(frozen=True, kw_only=True)
class Shaped(Layer):
    """A layer with one input that keeps its shape."""

    shape: Shape

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    @property
    def output_shape(self) -> Shape:
        return self.shape

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, shape=tuple(inputs[0]))
