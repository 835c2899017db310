"""Recurrent layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self

from latte_cli.layers.base import Layer, Phase, Saved
from latte_cli.layers.shapes import Shape

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@dataclass(frozen=True, kw_only=True)
class Recurrent(Layer):
    """One recurrent layer, `lstm`, `gru` or `rnn`, over `steps` steps in one or two `directions`.

    It reads (steps, batch, inputs) and writes the hidden states (steps, directions, batch, hidden). With `initial` it
    also reads the states before the first step, (directions, batch, hidden) each, of which an LSTM has two. With
    `peepholes` an LSTM's gates see its cell through weights of their own.
    """

    kind: ClassVar[str] = "recurrent"
    code: ClassVar[int] = 16

    function: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    directions: int = 1
    bias: bool = True
    initial: bool = False
    peepholes: bool = False

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
        states = (2 if self.function == "lstm" else 1) if self.initial else 0
        return ((self.steps, self.batch, self.inputs), *((self.directions, self.batch, self.hidden),) * states)

    @property
    def output_shape(self) -> Shape:
        return (self.steps, self.directions, self.batch, self.hidden)

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        """Weights of the input and of the hidden state, then both biases as one, gates end to end, then peepholes."""
        rows = self.gates * self.hidden
        weights = ((self.directions, rows, self.inputs), (self.directions, rows, self.hidden))
        biases = ((self.directions, 2 * rows),) if self.bias else ()
        return (*weights, *biases, *(((self.directions, 3 * self.hidden),) if self.peepholes else ()))

    def saved(self, *, trains: bool, flows: bool) -> Saved:
        return Saved(inputs=True, output=True, elements=self.gates * prod(self.output_shape))

    @property
    def workload(self) -> int:
        each = self.gates * self.hidden * (self.inputs + self.hidden)
        return self.steps * self.batch * self.directions * each

    def flops(self, phase: Phase) -> int:
        return super().flops(phase) * (2 if phase is Phase.BACKWARD else 1)

    def resized(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        steps, batch, features = inputs[0]
        return replace(self, steps=steps, batch=batch, inputs=features, hidden=out_channels or self.hidden)
