"""Two clocks: the host asks for the calls of a step one after the other, and the device carries them out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, Protocol, TypeVar

from latte_cli.estimator.steps import ACCUMULATION, LOSS, UPDATE
from latte_cli.layers import Phase


class ClockedCall(Protocol):
    """A call of a step, made `count` times: its seconds on the device, and its launch overhead."""

    @property
    def name(self) -> str:
        """The node's name, or LOSS, UPDATE or ACCUMULATION."""

    @property
    def phase(self) -> Phase:
        """Forward, or one of the backward phases, or update."""

    @property
    def again(self) -> bool:
        """Whether the backward pass makes it, although its phase is forward."""

    @property
    def device_s(self) -> float:
        """Seconds on the device."""

    @property
    def host_s(self) -> float:
        """Seconds until the host can ask for the next call."""

    @property
    def count(self) -> int:
        """How often a step makes it."""


Call_ = TypeVar("Call_", bound=ClockedCall)


@dataclass(frozen=True, kw_only=True)
class Spans:
    """The seconds of the parts of a step; `other_s` is the loss, and adding gradients up."""

    forward_s: float = 0.0
    backward_s: float = 0.0
    update_s: float = 0.0
    other_s: float = 0.0

    @property
    def step_s(self) -> float:
        """All of them together."""
        return self.forward_s + self.backward_s + self.update_s + self.other_s


@dataclass(frozen=True, kw_only=True)
class Scheduled(Generic[Call_]):
    """One time that a step makes `call`, in seconds since the step began.

    The host asks for it from `asked_s` on, and the device carries it out from `start_s` to `end_s`.
    """

    call: Call_
    asked_s: float
    start_s: float
    end_s: float


def one_clock(calls: Iterable[ClockedCall]) -> Spans:
    """Calls that the host itself carries out, as on a CPU: the sums of their times."""
    spent = _no_time()
    for call in calls:
        spent[_part(call)] += call.count * call.device_s
    return Spans(**spent)


def two_clocks(calls: Sequence[ClockedCall], *, asked_at_once: bool = False) -> Spans:
    """Calls that a device queues, as `schedule_calls` has them.

    What a call adds to the device's clock, with the waiting before it, is its part's.
    """
    spent = _no_time()
    before_s = 0.0
    for _, times in groupby(schedule_calls(calls, asked_at_once=asked_at_once), key=lambda each: id(each.call)):
        *_, last = times
        spent[_part(last.call)] += last.end_s - before_s
        before_s = last.end_s
    return Spans(**spent)


def schedule_calls(calls: Sequence[Call_], *, asked_at_once: bool = False) -> Iterator[Scheduled[Call_]]:
    """The calls of a step in their order: each begins when the one before has ended and the host has asked for it.

    A step begins with an empty queue, as one does whose loss was read. `asked_at_once`, as by a CUDA graph or where
    the host is the device, asking costs nothing.
    """
    host_s = device_s = 0.0
    for call in in_order(calls):
        for _ in range(call.count):
            asked_s = host_s
            host_s += 0.0 if asked_at_once else call.host_s
            start_s = max(device_s, host_s)
            device_s = start_s + call.device_s
            yield Scheduled(call=call, asked_s=asked_s, start_s=start_s, end_s=device_s)


def _no_time() -> dict[str, float]:
    return dict.fromkeys(("forward_s", "backward_s", "update_s", "other_s"), 0.0)


def _part(call: ClockedCall) -> str:
    if call.name == UPDATE:
        return "update_s"
    if call.name in (LOSS, ACCUMULATION):
        return "other_s"
    return "forward_s" if _is_forward(call) else "backward_s"


def _is_forward(call: ClockedCall) -> bool:
    """Whether it is a call of the forward pass."""
    return call.phase is Phase.FORWARD and not call.again


def in_order(calls: Sequence[Call_]) -> Iterator[Call_]:
    """Forward through the network, the loss, backward from its end, and what is done with the gradients."""
    own = [call for call in calls if call.name not in (LOSS, UPDATE, ACCUMULATION)]
    yield from (call for call in own if _is_forward(call))
    yield from (call for call in calls if call.name == LOSS)
    yield from (call for call in reversed(own) if not _is_forward(call))
    yield from (call for call in calls if call.name in (UPDATE, ACCUMULATION))
