"""Layers that go over their inputs element by element."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self

from latte_cli.layers.base import NOTHING, POINTWISE, Layer, LayoutNeeds, Saved, Shaped, elements
from latte_cli.layers.shapes import Shape, broadcast
from latte_cli.phases import Phase

_SAVING_OUTPUT = frozenset(("relu", "sigmoid", "tanh", "exp", "sqrt", "tan", "reciprocal", "hardmax"))
_SAVING_NOTHING = frozenset(
    (
        *("floor", "ceil", "round", "sign", "neg", "not"),
        *("add_constant", "subtract_constant", "multiply_constant", "divide_constant", "mean_constant"),
    )
)
"""Activations whose derivative torch takes from the output, or that have a constant one; the others keep the input."""

_SCALING = frozenset(("multiply_constant", "divide_constant"))
"""Those whose constant has a gradient that depends on the input."""

_LINEAR = frozenset(("add", "subtract", "mean"))
"""Operations whose gradient does not depend on what they combine."""


@dataclass(frozen=True, kw_only=True)
class Activation(Shaped):
    """An element-wise non-linearity with one input, such as `relu`, `gelu` or `sigmoid`."""

    kind: ClassVar[str] = "activation"
    code: ClassVar[int] = 4

    function: str

    @property
    def layout_needs(self) -> LayoutNeeds:
        return POINTWISE

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """By `trains` the constant that it combines its input with is a parameter, which then needs the input."""
        if self.function in _SAVING_NOTHING:
            return Saved(inputs=(0,)) if trains and self.function in _SCALING else NOTHING
        if not any(flows):
            return NOTHING
        if self.function in _SAVING_OUTPUT:
            return Saved(output=True)
        return Saved(
            inputs=() if self.function == "shrink" else (0,),
            elements=prod(self.shape) if self.function == "softsign" else 0,
            other_bytes=2 * prod(self.shape) if self.function == "shrink" else 0,
        )

    @property
    def passes_gradient(self) -> bool:
        return self.function == "add_constant"


@dataclass(frozen=True, kw_only=True)
class Dropout(Shaped):
    """Dropout in training mode; the time does not depend on its rate.

    With `features` a channel of a sample is left out as a whole, as `Dropout2d` does.
    """

    kind: ClassVar[str] = "dropout"
    code: ClassVar[int] = 5

    features: bool = False

    @property
    def layout_needs(self) -> LayoutNeeds:
        return POINTWISE

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """Its mask, in bytes where mask and product are one call."""
        if self.features:
            return Saved(elements=prod(self.shape[:2]))
        count = prod(self.shape)
        return Saved(other_bytes=count) if fused else Saved(elements=count)


@dataclass(frozen=True, kw_only=True)
class Elementwise(Layer):
    """`add`, `multiply` and the like of two or more activations, broadcast against each other."""

    kind: ClassVar[str] = "elementwise"
    code: ClassVar[int] = 9

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

    @property
    def passes_gradient(self) -> bool:
        return self.operation == "add" and all(shape == self.output_shape for shape in self.shapes)

    @property
    def layout_needs(self) -> LayoutNeeds:
        return POINTWISE

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """The operands that a gradient needs, and what came before the last of more than two."""
        if self.operation in _LINEAR or len(self.shapes) < 2 or not any(flows):
            return NOTHING
        if self.operation == "where":
            return Saved(other_bytes=elements(self.shapes[0]))
        inputs: set[int] = set()
        made: set[int] = set()
        last = len(self.shapes) - 1
        for at in range(1, last + 1):
            left, right, result = self._step_saves(any(flows[:at]), flows[at])
            inputs |= {at} if right else set()
            (made if at > 1 else inputs).update({at - 1} if left else ())
            made |= {at} if result else set()
        return Saved(
            inputs=tuple(sorted(inputs)),
            output=last in made,
            elements=sum(elements(broadcast(*self.shapes[: at + 1])) for at in made - {last}),
        )

    def _step_saves(self, before: bool, here: bool) -> tuple[bool, bool, bool]:
        """Whether one of its steps keeps what came before, its own operand, its result; by where gradients flow."""
        if self.operation == "prelu":
            return before or here, before or here, False
        if self.operation == "multiply":
            return here, before, False
        if self.operation in ("divide", "modulo"):
            return here, here or (before and self.operation == "divide"), False
        return before or here, before or here, self.operation == "power" and (before or here)

    def flops(self, phase: Phase) -> int:
        return super().flops(phase) * max(1, len(self.shapes) - 1)

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        return replace(self, shapes=tuple(tuple(shape) for shape in inputs))
