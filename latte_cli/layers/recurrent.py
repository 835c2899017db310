"""Recurrent layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import ClassVar, Self

from latte_cli.layers.base import Layer, LayoutNeeds, Saved
from latte_cli.layers.shapes import Shape
from latte_cli.phases import Phase

_PAGE_BYTES = 4096  # what oneDNN aligns the parts of its workspace to
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}  # blocks of rows in torch's `weight_ih_l0`


def _padded_row(row: int) -> int:
    """The length that oneDNN gives rows of 32-bit numbers, against aliases in the cache."""
    whole = -(-row // 16) * 16
    return whole + 16 if whole % 256 == 0 else whole


@dataclass(frozen=True, kw_only=True)
class Recurrent(Layer):
    """One recurrent layer, `lstm`, `gru` or `rnn`, over `steps` steps in one or two `directions`.

    It reads (steps, batch, inputs) and writes the hidden states (steps, directions, batch, hidden). With `initial` it
    also reads the states before the first step, (directions, batch, hidden) each, of which an LSTM has two. With
    `peepholes` an LSTM's gates see its cell through separate weights.
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

    @property
    def layout_needs(self) -> LayoutNeeds:
        return LayoutNeeds(kept=True, gradient=self.function == "lstm")

    def saved_tensors(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> Saved:
        """On a GPU the library's reserve; on a CPU oneDNN's workspace for an LSTM, each step's gates for the others."""
        inputs = tuple(range(len(self.input_shapes)))
        states = prod(self.output_shape)
        one = self.batch * self.directions * self.hidden
        first = 0 if self.initial else one
        if fused:
            return Saved(inputs=inputs, output=True, elements=(self.gates + (self.function == "lstm")) * states)
        if self.function == "lstm":
            return self._saved_by_onednn(inputs, 2 * first + 2 * one)
        if not trains:
            return Saved(elements=(2 * self.gates if self.function == "gru" else 1) * states)
        if self.function == "gru":
            return Saved(inputs=inputs, elements=(2 * self.gates + 1) * states - one + first)
        return Saved(inputs=inputs, elements=states + first)

    def saved_count(self, *, trains: bool, flows: Sequence[bool], fused: bool) -> int:
        """Those of one call for each direction of an LSTM or on a GPU; those of each step for the others on a CPU."""
        if fused or self.function == "lstm":
            return 11 * self.directions
        if trains:
            each = (9 if self.function == "gru" else 3) * self.steps + sum(flows)
        else:
            each = 8 * self.steps - 1 if self.function == "gru" else 2 * self.steps
            each += sum(flows) if any(flows[1:]) else 0
        return each * self.directions

    @property
    def makes_all_gradients(self) -> bool:
        """The calls of oneDNN for an LSTM do."""
        return self.function == "lstm"

    def backward_growth(self, *, trains: bool, flows: Sequence[bool]) -> int | None:
        """Of a GRU or an RNN, whose backward pass torch computes step by step; oneDNN computes that of an LSTM."""
        return None if self.function == "lstm" else max(self._growths(trains, flows))

    def workspace_numbers(self, phase: Phase) -> int:
        """Forward a GRU or an RNN has the gates of all steps at once; oneDNN does so in an LSTM's backward pass.

        oneDNN also lays an LSTM's weights anew (torch 2.13; tests/test_occupancy.py).
        """
        at_once = self.steps * self.batch * self.gates * self.hidden
        if self.function == "lstm":
            return sum(map(prod, self.parameter_shapes)) + (at_once if phase is Phase.BACKWARD else 0)
        return at_once if phase is Phase.FORWARD else 0

    def _growths(self, trains: bool, flows: Sequence[bool]) -> Iterator[int]:
        """What each part of the backward pass holds (torch 2.13; tests/test_memory_saved.py).

        It goes through the steps of one direction after the other, from the last. Each step frees what it saved and
        leaves the gradients of its gates, which are put together at the end for the product with all inputs.
        """
        one, last, gru = self.batch * self.hidden, self.steps - 1, self.function == "gru"
        arriving, gates = prod(self.output_shape), self.gates * one
        weight, bias, all_gates = (trains * size for size in self._gradient_sizes)
        saved = (2 * self.gates + trains if gru else 1) * one
        inputs, now = flows[0] * prod(self.input_shapes[0]), arriving
        for direction in range(self.directions):
            final = direction == self.directions - 1
            for step, alike in self._steps_back:
                freed = arriving if final and step == max(0, last - 1) else 0
                in_products = (2 if step == 0 else 1) - (2 if step == last else 0)
                yield now + (gates + ((step == 0) - 2 * (last == 0)) * one if gru else one)
                yield now + weight + bias + in_products * one - (freed if gru or last == 0 else 0)
                if step == 1:  # the first two gradients of a weight are added into a third
                    yield now - freed + 2 * weight - ((4 if gru else 0) + (step == last) * (1 if gru else 2)) * one
                now += alike * (gates - saved) - freed
                now += weight + bias if step == 0 else 0
                now += ((step == 0) - (step == last)) * one  # the gradient of the hidden state
            now += (not gru or self.directions > 1) * trains * (gru - final * self.directions) * one  # first states
            yield now + self.steps * gates
            now += inputs + all_gates + bias
            yield now
            now -= self.steps * gates
            yield now + direction * inputs

    @property
    def _steps_back(self) -> Iterator[tuple[int, int]]:
        """The steps whose gradients grow otherwise than in the step before, each with how many are like it."""
        first = sorted({*range(min(4, self.steps)), *range(max(0, self.steps - 3), self.steps)})
        return ((step, after - step) for step, after in pairwise((*first, self.steps)))

    @property
    def _gradient_sizes(self) -> tuple[int, int, int]:
        """Numbers of the hidden state's weight, of a bias and of the inputs' weight, in one direction."""
        rows = self.gates * self.hidden
        return rows * self.hidden, rows * self.bias, rows * self.inputs

    def _saved_by_onednn(self, inputs: tuple[int, ...], ends: int) -> Saved:
        """Its workspace for each direction, states before and after; without biases also its copies of the weights.

        Both directions are joined after they were computed, so that each direction's own states are kept.
        """
        kept = ends + (prod(self.output_shape) if self.directions > 1 else 0)
        if not self.bias:
            kept += prod(self.parameter_shapes[0]) + prod(self.parameter_shapes[1])
        spaces = self.directions * self._onednn_workspace_bytes
        return Saved(inputs=inputs, output=self.directions == 1, elements=kept, other_bytes=spaces)

    @property
    def _onednn_workspace_bytes(self) -> int:
        """The workspace of an LSTM in oneDNN 3: gates, hidden states, and states and their gradients in turn.

        Rows are padded to 64 bytes, and once more where they are a multiple of 256 numbers; each part to whole pages.
        """
        wide, steps = _padded_row(max(self.inputs, self.hidden)), 2 * (self.steps + 1)
        parts = [self.steps * _padded_row(self.gates * self.hidden), self.steps * _padded_row(self.hidden)]
        parts += [steps * wide] * 3 + [steps * self.hidden] * 2
        return sum(-(-4 * self.batch * part // _PAGE_BYTES) * _PAGE_BYTES for part in parts)

    @property
    def workload(self) -> int:
        each = self.gates * self.hidden * (self.inputs + self.hidden)
        return self.steps * self.batch * self.directions * each

    def flops(self, phase: Phase) -> int:
        return super().flops(phase) * (2 if phase is Phase.BACKWARD else 1)

    def resize(self, inputs: Sequence[Shape], out_channels: int | None = None) -> Self:
        steps, batch, features = inputs[0]
        return replace(self, steps=steps, batch=batch, inputs=features, hidden=out_channels or self.hidden)
