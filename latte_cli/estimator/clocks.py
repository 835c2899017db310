"""Two clocks: the host asks for the calls of a step one after the other, and the device carries them out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, Protocol, TypeVar

from latte_cli.estimator.steps import ACCUMULATION, LOSS
from latte_cli.layers import Phase
from latte_cli.waits import Waits


class ClockedCall(Protocol):
    """A call of a step, made `count` times: its seconds on the device, and its launch overhead."""

    @property
    def name(self) -> str:
        """The node's name, or one of BESIDE."""

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

    @property
    def waits(self) -> Waits:
        """When the host waits for the device."""


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


def two_clocks(calls: Sequence[ClockedCall], *, asked_at_once: bool = False, log_every: int = 1) -> Spans:
    """Calls that a device queues, as `schedule_calls` has them: the mean of `log_every` steps.

    What a call adds to the device's clock, with the waiting before it, is its part's. After the last of these steps the
    loss is read back, so that the next begins with an empty queue; before that the host runs ahead.
    """
    sums, spans = _no_time(), Spans()
    ends = (0.0, 0.0)
    for step in range(log_every):
        last = spans
        spans, ends = _one_step(calls, asked_at_once, ends)
        left = log_every - step
        repeats = step > 0 and _alike(spans, last)
        for part in sums:
            sums[part] += getattr(spans, part) * (left if repeats else 1)
        if repeats:
            break
    return Spans(**{part: total / log_every for part, total in sums.items()})


_SAME = 1e-9  # chosen: far below what a clock tells, far above what rounding adds up to


def _alike(first: Spans, second: Spans) -> bool:
    """Whether two steps after each other take the same, part by part: then all that follow do."""
    return all(abs(getattr(first, part) - getattr(second, part)) <= _SAME * first.step_s for part in _no_time())


def _one_step(
    calls: Sequence[ClockedCall], asked_at_once: bool, began: tuple[float, float]
) -> tuple[Spans, tuple[float, float]]:
    """The parts of one step that began when host and device were there, and when they are through with it."""
    spent = _no_time()
    ends = began
    for _, times in groupby(_schedule_from(calls, asked_at_once, began), key=lambda each: id(each[0].call)):
        before_s = ends[1]
        *_, (last, ends) = times
        spent[_part(last.call)] += last.end_s - before_s
    return Spans(**spent), ends


def schedule_calls(calls: Sequence[Call_], *, asked_at_once: bool = False) -> Iterator[Scheduled[Call_]]:
    """The calls of a step in their order: each begins when the one before has ended and the host has launched it.

    A step begins with an empty queue, as one does whose loss was read. `asked_at_once`, as by a CUDA graph or where
    the host is the device, asking costs nothing.
    """
    for scheduled, _ in _schedule_from(calls, asked_at_once, (0.0, 0.0)):
        yield scheduled


def _schedule_from(
    calls: Sequence[Call_], asked_at_once: bool, began: tuple[float, float]
) -> Iterator[tuple[Scheduled[Call_], tuple[float, float]]]:
    """Each call as it is scheduled, and the clocks of host and device after it."""
    host_s, device_s = began
    for call in in_order(calls):
        for _ in range(call.count):
            if call.waits is not Waits.NEVER and not asked_at_once:
                host_s = max(host_s, device_s)
            asked_s = host_s
            if call.waits is Waits.THROUGHOUT and not asked_at_once:
                start_s = host_s
                host_s = device_s = start_s + max(call.host_s, call.device_s)
            else:
                host_s += 0.0 if asked_at_once else call.host_s
                start_s = max(device_s, host_s)
                device_s = start_s + call.device_s
            yield Scheduled(call=call, asked_s=asked_s, start_s=start_s, end_s=device_s), (host_s, device_s)


def _no_time() -> dict[str, float]:
    return dict.fromkeys(("forward_s", "backward_s", "update_s", "other_s"), 0.0)


def _part(call: ClockedCall) -> str:
    if call.phase is Phase.UPDATE:
        return "update_s"
    if call.name in (LOSS, ACCUMULATION):
        return "other_s"
    return "forward_s" if _is_forward(call) else "backward_s"


def _is_forward(call: ClockedCall) -> bool:
    """Whether it is a call of the forward pass."""
    return call.phase is Phase.FORWARD and not call.again


def in_order(calls: Sequence[Call_]) -> Iterator[Call_]:
    """Forward through the network, the loss, backward from its end, and what is done with the gradients."""
    last = [call for call in calls if call.phase is Phase.UPDATE or call.name == ACCUMULATION]
    own = [call for call in calls if call.phase is not Phase.UPDATE and call.name not in (LOSS, ACCUMULATION)]
    yield from (call for call in own if _is_forward(call))
    yield from (call for call in calls if call.name == LOSS)
    yield from (call for call in reversed(own) if not _is_forward(call))
    yield from last
