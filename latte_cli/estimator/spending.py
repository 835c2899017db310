"""Spending: some seconds of measuring, on the calls of a step whose uncertainty weighs most in it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import median

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.devices import Device
from latte_cli.estimator.intervals import errs_with
from latte_cli.estimator.records import Estimate
from latte_cli.estimator.steps import step_calls
from latte_cli.estimator.worth import UncertainCall, worth_measuring
from latte_cli.layers import Checkpoint, Optimizer, Phase
from latte_cli.lookup import Pair, Source
from latte_cli.optimizers import measured_name
from latte_cli.store import Writer
from latte_cli.suites import Drawn
from latte_cli.sweep import Budget, Sweep
from latte_cli.tasks import Task
from latte_cli.worker import Order, Worker

_OVERHEAD_S = 0.02  # chosen: what it takes to prepare a call, until the first ones tell
_LEFT_SHARE = 0.1  # half of a measured call's interval over its time: one pass leaves 0.05 (see lookup), twice that
_OF_UNKNOWN = 3.0  # chosen: a call of which nothing is known may take this many times what the device's peaks say
_YARDSTICK_SHARE = 0.35  # chosen: of the seconds, for what tells of every network; the rest is for this one


@dataclass(kw_only=True)
class Spending:
    """What is measured with `worker` into `writer` until `seconds` have passed since `start`.

    `calls` counts what was measured; `progress` hears the seconds that have passed, and of what.
    """

    worker: Worker
    writer: Writer
    start: float
    seconds: float
    origin: str = ""
    progress: Callable[[float, str], None] = lambda passed, label: None
    clock: Callable[[], float] = time.monotonic
    calls: int = 0
    _overheads_s: list[float] = field(default_factory=list)

    @property
    def passed_s(self) -> float:
        """The seconds that have passed."""
        return self.clock() - self.start

    @property
    def left_s(self) -> float:
        """The seconds that are left."""
        return self.seconds - self.passed_s

    def on_yardstick(self, drawn: Drawn) -> None:
        """Measure `drawn`, for a share of the seconds that are left."""
        sweep = Sweep(self.worker, drawn.wanted, phases=tuple(Phase), origin=self.origin)

        def progress(_: int, label: str) -> None:
            self.progress(self.passed_s, label)

        limit = Budget(seconds=_YARDSTICK_SHARE * self.left_s, together=True)
        self.calls += sum(sweep.run(self.writer, limit, progress=progress, clock=self.clock).rows.values())
        self.writer.seal()

    def on_step(self, estimates: Sequence[Estimate]) -> None:
        """Measure the calls of `estimates` that weigh most, each once."""
        calls, measured = uncertain_calls(estimates), list[UncertainCall]()
        while self.left_s > 0:
            overhead_s = median(self._overheads_s) if self._overheads_s else _OVERHEAD_S
            call = next(worth_measuring(calls, self.left_s, measured=measured, overhead_s=overhead_s), None)
            if call is None:
                break
            measured.append(call)
            self._measure(call.task)
        self.writer.seal()

    def _measure(self, task: Task) -> None:
        kind, best_s = self.worker.device.kind, None
        layouts = {settings.layout: settings for settings in self.worker.settings}
        task = replace(task, settings=layouts.get(task.settings.layout, self.worker.settings[0]))
        for number in range(kind.rounds):
            begun = self.clock()
            row = self.worker.measure(
                Order(task=task, sweep_pass=number, best_s=best_s, plan=kind.sampling, origin=self.origin)
            )
            self.writer.append(row)
            self.calls += number == 0
            self.progress(self.passed_s, f"{task.layer.kind} {task.phase}")
            if row.seconds is None:
                return
            best_s = row.seconds
            spent_s = sum(row.device_times_s)
            self._overheads_s.append(max(0.0, self.clock() - begun - spent_s))


def uncertain_calls(estimates: Iterable[Estimate]) -> list[UncertainCall]:
    """The calls of `estimates` that were not measured, each once, with what it takes to measure them."""
    found: dict[Task, UncertainCall] = {}
    for estimate in estimates:
        for call in (*_unknown(estimate), *_estimated(estimate)):
            before = found.get(call.task)
            if before is None or before.half_s < call.half_s:
                found[call.task] = call
    return list(found.values())


def _estimated(estimate: Estimate) -> Iterator[UncertainCall]:
    """The calls that were predicted, or lie between neighbours; those of one task together."""
    halves_s: dict[Task, float] = {}
    calls: dict[Task, UncertainCall] = {}
    for part in estimate.parts:
        if part.source is Source.MEASURED or part.layer.free or isinstance(part.layer, Checkpoint):
            continue
        layer, phase = part.layer.measured_as(part.phase)
        task = Task(layer=layer, phase=phase, algorithm=part.algorithm, settings=estimate.settings)
        halves_s[task] = halves_s.get(task, 0.0) + part.count * (part.high_s - part.low_s) / 2
        calls[task] = UncertainCall(
            task=task,
            half_s=halves_s[task],
            cost_s=_cost_s(estimate.device, part.device_s),
            left_s=min(1.0, _LEFT_SHARE * 2 * part.device_s / (part.high_s - part.low_s)) * halves_s[task],
            group=errs_with(part),
            alike=part.alike,
        )
    yield from calls.values()


def _unknown(estimate: Estimate) -> Iterator[UncertainCall]:
    """The calls of which nothing is known, as uncertain as the whole step."""
    device = estimate.device
    known = {part.layer.measured_as(part.phase) for part in estimate.parts}
    pairs: dict[Pair, None] = {}
    for work in step_calls(estimate.network, estimate.step, fused=device.kind.queued):
        layer, phase = work.pair
        if isinstance(layer, Optimizer):
            layer = replace(layer, function=measured_name(layer.function, on_gpu=device.kind.own_memory))
        if not layer.free and not isinstance(layer, Checkpoint) and (layer, phase) not in known:
            pairs[layer, phase] = None
    for layer, phase in pairs:
        time_s = _OF_UNKNOWN * _least_s(device, (layer, phase))
        task = Task(layer=layer, phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=estimate.settings)
        yield UncertainCall(task=task, half_s=max(estimate.step_s, time_s), cost_s=_cost_s(device, time_s), group=task)


def _least_s(device: Device, pair: Pair) -> float:
    """What the device's peaks say that a call takes at least; 0 where they are not known."""
    layer, phase = pair
    flops_s = layer.flops(phase) / device.peak_flop_per_s if device.peak_flop_per_s else 0.0
    bytes_s = layer.bytes_moved(phase, 4) / device.bandwidth_bytes_per_s if device.bandwidth_bytes_per_s else 0.0
    return flops_s + bytes_s


def _cost_s(device: Device, time_s: float) -> float:
    """The seconds of calling that a measurement takes, without what prepares it."""
    plan = device.kind.sampling
    samples = min(plan.most, max(plan.least, ceil(plan.enough_s / max(time_s, 1e-9))))
    return device.kind.rounds * (plan.warm_ups + samples) * time_s
