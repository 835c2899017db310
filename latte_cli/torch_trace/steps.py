"""Steps: a trace's events as the outermost calls of each training step, in the order in which the host made them."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from latte_cli.torch_trace.events import Category, Event, ProfilerTrace

_STEP = "ProfilerStep#"
_EVALUATED = "autograd::engine::evaluate_function: "
_WAITING = ("synchronize", "memcpy")  # parts of the names of runtime calls in which the host may wait for the device


class Role(Enum):
    """What a call of the host is for, as far as its event says."""

    OPERATOR = auto()
    BACKWARD = auto()
    UPDATE = auto()
    CLEAR = auto()
    LOADING = auto()


_ROLES = {
    "autograd::engine::evaluate_function: ": Role.BACKWARD,
    "Optimizer.step#": Role.UPDATE,
    "Optimizer.zero_grad#": Role.CLEAR,
    "enumerate(DataLoader)#": Role.LOADING,
}
"""Beginnings of the names of events that show their role."""


@dataclass(slots=True)
class HostCall:
    """An outermost call of the host in a step, with the events that lie in it.

    `device_s` is the time of the kernels that it launched, `kernels` these with when they were launched. `waited_s` is
    how long the host waited for the device, `charged_s` its time from the end of the call before to the call's own.
    """

    role: Role
    event: Event
    inner: list[Event] = field(default_factory=list)
    device_s: float = 0.0
    kernels: list[tuple[Event, float]] = field(default_factory=list)
    waited_s: float = 0.0
    charged_s: float = 0.0

    @property
    def name(self) -> str:
        """The operator, without its namespace and the `_` of what works in place; of backward the node's class."""
        if self.role is Role.BACKWARD:
            return self.event.name.removeprefix(_EVALUATED)
        return operator_name(self.event)

    @property
    def recorded(self) -> int:
        """How many events the profiler recorded on the host for it."""
        return 1 + len(self.inner)


def operator_name(event: Event) -> str:
    """`aten::relu_` as `relu`."""
    return event.name.rpartition("::")[2].rstrip("_")


@dataclass(kw_only=True)
class TracedStep:
    """A step's calls in order, and its length; `whole_s` is from the first call's start to the last call's end."""

    calls: list[HostCall]
    lasting_s: float

    @property
    def whole_s(self) -> float:
        """What its calls charge, all together."""
        return sum(call.charged_s for call in self.calls)


def traced_steps(trace: ProfilerTrace) -> list[TracedStep]:
    """The training steps of a trace: those that the profiler was told of, else from update to update."""
    threads = _host_threads(trace.events)
    calls = sorted(_calls(trace.events, threads), key=lambda call: call.event.start_s)
    _add_kernels(calls, trace.events)
    return [_charge(own, lasting_s) for own, lasting_s in _by_step(calls, trace.events)]


def _host_threads(events: Iterable[Event]) -> set[str]:
    """The thread that runs forward, and those that run backward."""
    spent: Counter[str] = Counter()
    backward = set()
    for event in events:
        if event.name.startswith(_STEP):
            spent[event.thread] += 1 << 40  # the thread that counts steps is the one that makes them
        elif event.category is Category.OPERATOR and event.name.startswith(_EVALUATED):
            backward.add(event.thread)
        elif event.category is Category.OPERATOR:
            spent[event.thread] += 1
    forward = {spent.most_common(1)[0][0]} if spent else set()
    return forward | backward


def _role_of(event: Event) -> Role | None:
    for start, role in _ROLES.items():
        if event.name.startswith(start):
            return role
    return Role.OPERATOR if event.category is Category.OPERATOR and not event.name.startswith(_STEP) else None


def _calls(events: Iterable[Event], threads: set[str]) -> Iterator[HostCall]:
    """The outermost calls of each of the threads, with what lies in them."""
    running: dict[str, HostCall] = {}
    for event in events:
        if event.thread not in threads or event.category not in (Category.OPERATOR, Category.ANNOTATION):
            continue
        role = _role_of(event)
        if role is None:
            continue
        outer = running.get(event.thread)
        if outer and event.start_s < outer.event.end_s:
            outer.inner.append(event)
            continue
        running[event.thread] = HostCall(role, event)
        yield running[event.thread]


def _add_kernels(calls: Sequence[HostCall], events: Iterable[Event]) -> None:
    """Give each call the kernels whose launches lie in it."""
    by_thread: defaultdict[str, list[HostCall]] = defaultdict(list)
    for call in calls:
        by_thread[call.event.thread].append(call)
    starts = {thread: [call.event.start_s for call in own] for thread, own in by_thread.items()}
    launched: dict[int, tuple[HostCall, float]] = {}
    kernels = []
    for event in events:
        if event.category is Category.KERNEL:
            kernels.append(event)
        elif event.category is Category.LAUNCH and event.thread in starts:
            place = bisect_right(starts[event.thread], event.start_s) - 1
            call = by_thread[event.thread][max(0, place)]
            if place >= 0 and event.start_s < call.event.end_s:
                if event.correlation >= 0:
                    launched[event.correlation] = call, event.start_s
                if any(word in event.name.lower() for word in _WAITING):
                    call.waited_s += event.lasting_s
    for kernel in kernels:
        if kernel.correlation in launched:
            call, at_s = launched[kernel.correlation]
            call.device_s += kernel.lasting_s
            call.kernels.append((kernel, at_s))


def _by_step(calls: Sequence[HostCall], events: Iterable[Event]) -> Iterator[tuple[list[HostCall], float]]:
    """The calls of each step, and how long it lasted."""
    marks = [event for event in events if event.name.startswith(_STEP)]
    starts = [call.event.start_s for call in calls]
    for mark in marks:
        if own := list(calls[bisect_left(starts, mark.start_s) : bisect_left(starts, mark.end_s)]):
            yield own, mark.lasting_s
    if marks:
        return
    own = []
    for place, call in enumerate(calls):
        own.append(call)
        ends = call.role is Role.UPDATE and any(later.role is Role.OPERATOR for later in calls[place + 1 : place + 9])
        if ends or place == len(calls) - 1:
            yield own, own[-1].event.end_s - own[0].event.start_s
            own = []


def _charge(calls: list[HostCall], lasting_s: float) -> TracedStep:
    """A step whose calls are charged with the host's time from one end to the next."""
    before_s = calls[0].event.start_s
    for call in calls:
        call.charged_s = max(0.0, call.event.end_s - before_s)
        before_s = max(before_s, call.event.end_s)
    return TracedStep(calls=calls, lasting_s=lasting_s)
