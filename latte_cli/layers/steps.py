"""What a training step does besides a network's layers, and whole networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from latte_cli.layers.base import ANYHOW, NOTHING, Layer, LayoutNeeds, Saved, elements
from latte_cli.layers.shapes import Shape
from latte_cli.operations import OPERATIONS
from latte_cli.optimizers import OPTIMIZERS
from latte_cli.phases import Phase


@dataclass(frozen=True, kw_only=True)
class Optimizer(Layer):
    """One step of an optimizer, `function`, over a network's parameters, gradients then dropped.

    Or an operation of `OPERATIONS` over all of them. `shapes` are those of the parameters, for an optimizer whose
    states depend on them.
    """

    kind: ClassVar[str] = "optimizer"
    code: ClassVar[int] = 14
    phases: ClassVar[tuple[Phase, ...]] = (Phase.UPDATE,)

    function: str
    tensors: int
    elements: int
    shapes: tuple[Shape, ...] = ()

    def __post_init__(self) -> None:
        self._check(self.function in OPTIMIZERS or self.function in OPERATIONS, f"the function `{self.function}`")
        factored = self.function in OPTIMIZERS and OPTIMIZERS[self.function].factored
        held = (len(self.shapes), elements(*self.shapes)) == (self.tensors, self.elements)
        self._check(held if factored else not self.shapes, f"parameters of the shapes {self.shapes[:3]}")
        super().__post_init__()

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.elements,),)

    @property
    def output_shape(self) -> Shape:
        return (self.elements,)

    @property
    def trained_tensors(self) -> int:
        return self.tensors

    def elements_moved(self, phase: Phase) -> int:
        """Weights and states read and written, gradients read; or what the operation moves."""
        if phase not in self.phases:
            return 0
        if self.function in OPERATIONS:
            return OPERATIONS[self.function].moved * self.elements
        return 3 * self.elements + 2 * OPTIMIZERS[self.function].state_numbers(self.shapes or ((self.elements,),))

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return NOTHING


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Layer):
    """The call of `torch.utils.checkpoint` for a region that saves `tensors` tensors, without what the region computes.

    Forward it keeps the state of the random numbers and packs what the region saves. Backward it restores that state,
    packs what the second run saves, ends that run early and unpacks what is used (torch 2.13, `use_reentrant` False).
    """

    kind: ClassVar[str] = "checkpoint"
    code: ClassVar[int] = 22
    phases: ClassVar[tuple[Phase, ...]] = (Phase.FORWARD, Phase.BACKWARD)
    operations_per_element: ClassVar[int] = 0

    tensors: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.tensors,),)

    @property
    def output_shape(self) -> Shape:
        return (self.tensors,)

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return NOTHING


CHECKPOINTS = (Checkpoint(tensors=1), Checkpoint(tensors=33))
"""The calls that a sweep times; chosen: the cost is linear in the tensors, and 32 of them cost a few times the rest."""


@dataclass(frozen=True, kw_only=True)
class Transfer(Layer):
    """A batch's copy from the host's memory to a device's own; `elements` of a model's activation type."""

    kind: ClassVar[str] = "transfer"
    code: ClassVar[int] = 19
    phases: ClassVar[tuple[Phase, ...]] = (Phase.FORWARD,)
    operations_per_element: ClassVar[int] = 0

    elements: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.elements,),)

    @property
    def output_shape(self) -> Shape:
        return (self.elements,)

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return NOTHING


@dataclass(frozen=True, kw_only=True)
class Whole(Layer):
    """A network that is run as a whole, all its layers one after the other, to hold their sum against.

    `name` is the zoo's, `batch` images have `size` pixels a side. For a user's model `name` is the digest of its
    structure (`network.structure`) and `size` is 0.
    """

    kind: ClassVar[str] = "network"
    code: ClassVar[int] = 20
    phases: ClassVar[tuple[Phase, ...]] = (Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE)

    name: str
    batch: int
    size: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.batch, 3, self.size, self.size),) if self.size else ((self.batch,),)

    @property
    def output_shape(self) -> Shape:
        return self.input_shapes[0]

    @property
    def layout_needs(self) -> LayoutNeeds:
        return ANYHOW

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        return NOTHING
