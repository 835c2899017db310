"""Whole networks: real training steps in a separate process, timed part by part."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeAlias

from latte_cli import child
from latte_cli.backends.contract import Facts, Failed, OutOfMemory, Sample, Unsupported
from latte_cli.backends.torch.training import Mark, NetworkTraining, RunRequest
from latte_cli.devices import Kind, kind_of_torch
from latte_cli.layers import Layer, Phase, Whole
from latte_cli.tasks import Settings, Task

_WARM_UPS = 3  # chosen: the first steps allocate and let the libraries choose
_MOST_KEPT = 40  # chosen: samples enough for a median and its spread, in rows that stay small
_LIMIT_S = 40.0  # chosen: for a new process to import torch and to build the network; the steps' own time comes on top
_SLOWER = 5.0  # chosen: a step may take so much longer than expected on a busy machine; the first ones do
_PATIENCE = 2.0  # chosen: how many times the seconds until its deadline a process may take, and at least so many:
_SHORTEST_S = 5.0
_SECONDS_HERE = 0.3  # chosen: shorter than the 1 s of a separate process, whose heap has to settle first

PARTS = ("forward_s", "backward_s", "update_s", "step_s")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The seconds of each step and of its parts, on the device's clock.

    `update_s` holds the dropping of the gradients too, `step_s` the loss as well; `host` has what the host took to ask
    for each of them, by the same names; `faults` are the page faults of a step.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    update_s: tuple[float, ...]
    step_s: tuple[float, ...]
    host: Mapping[str, tuple[float, ...]]
    faults: float = 0.0
    calls: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def median(self, part: str) -> float:
        """The median of one of PARTS on the device's clock."""
        return statistics.median(getattr(self, part))

    def host_median(self, part: str) -> float:
        """The median of one of PARTS on the host's clock."""
        return statistics.median(self.host[part])


class Runs:
    """Whole networks as tasks on `device`: each is run once for all its phases.

    On a CPU in a separate process, whose heap is that of a training script.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._last: tuple[Layer, Settings] | None = None
        self._served: set[Phase] = set()

    def prepare(self, task: Task) -> "RunSteps":
        """The steps of the network that `task` names; raises Unsupported, OutOfMemory or Failed."""
        key = (task.layer, task.settings)
        if key != self._last or task.phase in self._served:
            assert isinstance(task.layer, Whole)
            settings = task.settings
            run = RunRequest(
                model=task.layer.name,
                batch_size=task.layer.batch,
                image_size=task.layer.size,
                device=self._device,
                threads=settings.threads,
                precision=settings.precision,
                layout=settings.layout,
                most=_MOST_KEPT,
            )
            apart = not _kind_of(self._device).own_memory
            self._steps, self._last = run_apart(run) if apart else run_here(replace(run, seconds=_SECONDS_HERE)), key
            self._served.clear()
        self._served.add(task.phase)
        part = {Phase.FORWARD: "forward_s", Phase.BACKWARD: "backward_s", Phase.UPDATE: "update_s"}[task.phase]
        return RunSteps(getattr(self._steps, part), self._steps.host[part])


class RunSteps:
    """One part of steps that were made."""

    cache_state = "whole_network"

    def __init__(self, device_s: Sequence[float], host_s: Sequence[float]) -> None:
        self._times_s = list(zip(device_s, host_s, strict=True))
        self._warm = False

    def samples(self, count: int) -> list[Sample]:
        """The first step for a warm-up, then all that followed."""
        times, self._warm = (self._times_s if self._warm else self._times_s[:1]), True
        return [Sample(device_s=device_s, host_s=host_s) for device_s, host_s in times]

    def facts(self) -> Facts:
        return Facts()


def _kind_of(device: str) -> Kind:
    """The kind of a device as torch names it, as in `cuda:0`; without torch, which only a run itself needs."""
    return kind_of_torch(device.partition(":")[0])


def run_apart(run: RunRequest, expected_s: float = 0.0) -> Steps:
    """`run` in a new process, whose heap is that of a training script a few steps after its start.

    A step is `expected_s` seconds long. Raises Unsupported, OutOfMemory or Failed.
    """
    try:
        return steps_from(child.ask(f"{__name__}:answer", asdict(run), limit_s=limit_s(run, expected_s)))
    except child.TimedOut as exc:
        raise Failed(str(exc)) from exc
    except child.Ended as exc:
        if exc.killed:
            raise OutOfMemory(child.meaning(exc.code)) from exc
        if exc.code <= 0:
            raise Failed(str(exc)) from exc
        raise (OutOfMemory if "memory" in exc.last.lower() else Unsupported)(exc.last[-200:]) from exc


def limit_s(run: RunRequest, expected_s: float) -> float:
    """How many seconds a process may take for `run`, whose steps take `expected_s` seconds each."""
    if run.deadline is not None:
        return max(_SHORTEST_S, _PATIENCE * (run.deadline - time.time()))
    steps = _WARM_UPS + run.least * (1 + run.calls)
    return _LIMIT_S + max(10 * run.seconds, _SLOWER * steps * expected_s)


def answer(body: Mapping[str, Any]) -> dict[str, Any]:
    """What `run_apart` asks a separate process to run."""
    return asdict(run_here(RunRequest(**body)))


def steps_from(body: Mapping[str, Any]) -> Steps:
    """The inverse of `asdict` through JSON."""
    times: dict[str, Any] = {name: tuple(body[name]) for name in PARTS}
    host = {name: tuple(found) for name, found in body["host"].items()}
    calls = {name: (forward_s, backward_s) for name, (forward_s, backward_s) in body["calls"].items()}
    return Steps(**times, host=host, faults=body["faults"], calls=calls)


def run_here(run: RunRequest) -> Steps:
    """`run` in this process; raises what torch and LATTE raise."""
    training = NetworkTraining(run)

    def step(mark: Mark) -> None:
        training.step(mark)

    if not _kind_of(run.device).queued:
        timed = _time_steps(step, run, host_marks)
    else:
        timed = _time_steps(_capture(step) if run.cuda_graph else step, run, _DeviceMarks())
    return replace(timed, calls=_calls(training, run)) if run.calls else timed


def _calls(training: NetworkTraining, run: RunRequest) -> dict[str, tuple[float, float]]:
    """The median seconds of each node, forward and backward, in steps in which every node marks its time.

    A node's backward pass begins when the gradient of its output is there, and ends when that of another node's is.
    """
    rows = [_one(training, run) for _ in range(_WARM_UPS + run.least)][_WARM_UPS:]
    names = [node.name for node in training.network.nodes]
    return {
        name: (
            statistics.median(row.get((at, _FORWARD), 0.0) for row in rows),
            statistics.median(row.get((at, _BACKWARD), 0.0) for row in rows),
        )
        for at, name in enumerate(names)
    }


_FORWARD, _BACKWARD, _START, _OTHER = "forward", "backward", "start", "other"
_Key: TypeAlias = tuple[int, str]


def _one(training: NetworkTraining, run: RunRequest) -> dict[_Key, float]:
    """The seconds of each node and direction in one step."""
    clock = _DeviceClock() if _kind_of(run.device).queued else _HostClock()
    marks: list[_Key] = []

    def note(key: _Key) -> None:
        marks.append(key)
        clock.mark()

    def after(at: int, result: Any) -> None:
        note((at, _FORWARD))
        if getattr(result, "grad_fn", None) is not None:
            result.grad_fn.register_prehook(lambda gradients: note((at, _BACKWARD)))

    training.step(lambda: note((-1, _START if not marks else _OTHER)), after)
    found: dict[_Key, float] = {}
    for (key, later), lasting_s in zip(pairwise(marks), clock.lasting_s(), strict=True):
        # A forward mark ends its node, a backward one begins it.
        whose = later if later[1] == _FORWARD else key if key[1] == _BACKWARD else (-1, _OTHER)
        found[whose] = found.get(whose, 0.0) + lasting_s
    return found


class _HostClock:
    """The host's clock at marks."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def mark(self) -> None:
        self._times.append(time.perf_counter())

    def lasting_s(self) -> list[float]:
        """Seconds between each mark and the next."""
        return [b - a for a, b in pairwise(self._times)]


class _DeviceClock:
    """The current GPU's clock at marks."""

    def __init__(self) -> None:
        self._events: list[Any] = []

    def mark(self) -> None:
        import torch

        create: Callable[..., Any] = torch.cuda.Event
        self._events.append(create(enable_timing=True))
        self._events[-1].record()

    def lasting_s(self) -> list[float]:
        """Seconds between each mark and the next, once the GPU has done all."""
        import torch

        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(self._events)]


StepFunction: TypeAlias = Callable[[Mark], None]
Clocks: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""The device's clock at each mark, and the host's."""


def _time_steps(step: StepFunction, run: RunRequest, clock: Callable[[StepFunction], Clocks]) -> Steps:
    """Repeat `step`, which marks its start, and the ends of clearing, forward, loss, backward and update."""
    for number in range(_WARM_UPS):
        if number == 0 or not _is_late(run):
            step(lambda: None)
    rows: list[Clocks] = []
    start, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    while len(rows) < run.least or (time.perf_counter() - start < run.seconds and len(rows) < run.most):
        rows.append(clock(step))
        if _is_late(run):
            break
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    device, host = (parts_of([row[index] for row in rows]) for index in (0, 1))
    return Steps(**device, host=host, faults=faults / len(rows), calls={})


def _is_late(run: RunRequest) -> bool:
    return run.deadline is not None and time.time() > run.deadline


def parts_of(rows: Sequence[Sequence[float]]) -> dict[str, tuple[float, ...]]:
    """The seconds of each part of each step, from the marks."""
    parts = [[b - a for a, b in pairwise(marks)] for marks in rows]
    return {
        "forward_s": tuple(part[1] for part in parts),
        "backward_s": tuple(part[3] for part in parts),
        "update_s": tuple(part[0] + part[4] for part in parts),
        "step_s": tuple(sum(part) for part in parts),
    }


def host_marks(step: StepFunction) -> Clocks:
    """The host's clock at each mark of one `step`, which has no other."""
    marks: list[float] = []
    step(lambda: marks.append(time.perf_counter()))
    return marks, marks


class _DeviceMarks:
    """A step on a device whose queue is empty when it begins."""

    def __init__(self) -> None:
        self._events: list[Any] = []

    def __call__(self, step: StepFunction) -> Clocks:
        import torch

        create: Callable[..., Any] = torch.cuda.Event
        host: list[float] = []

        def mark() -> None:
            if len(host) == len(self._events):
                self._events.append(create(enable_timing=True))
            self._events[len(host)].record()
            host.append(time.perf_counter())

        torch.cuda.synchronize()
        step(mark)
        torch.cuda.synchronize()
        return [self._events[0].elapsed_time(event) / 1e3 for event in self._events[: len(host)]], host


def _capture(step: StepFunction) -> StepFunction:
    """`step` as one CUDA graph, all of whose time counts as forward."""
    import torch

    def nothing() -> None: ...

    create: Callable[[], Any] = torch.cuda.Stream
    side = create()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            step(nothing)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(nothing)

    def replay(mark: Mark) -> None:
        mark()
        mark()
        graph.replay()
        for _ in range(4):
            mark()

    return replay
