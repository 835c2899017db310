"""Spending: some seconds of measuring, on the calls of a step whose uncertainty weighs most in it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import median

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.devices import Device
from latte_cli.estimator.intervals import errs_with
from latte_cli.estimator.records import Estimate
from latte_cli.estimator.steps import step_calls
from latte_cli.estimator.worth import UncertainCall, worth_measuring
from latte_cli.layers import Checkpoint, Layer, Optimizer, Phase, Whole
from latte_cli.lookup import Pair, Source
from latte_cli.measure import Measurement
from latte_cli.optimizers import measured_name
from latte_cli.real_steps import Subject, run_steps
from latte_cli.store import Writer
from latte_cli.suites import Drawn, with_calibration
from latte_cli.sweep import Budget, Sweep
from latte_cli.tasks import Task
from latte_cli.worker import Order, Worker

_OVERHEAD_S = 0.02  # chosen: what it takes to prepare a call, until the first ones tell
_ERROR = 0.1  # half of a measured call's interval over its time: twice the 0.05 between passes (see lookup)
_OF_UNKNOWN = 3.0  # chosen: a call of which nothing is known may take this many times what the device's peaks say
_YARDSTICK_SHARE = 0.25  # chosen: of the seconds, for what tells of every network; the rest is for this one
_LEAST_YARDSTICK_S = 0.5  # chosen: some ten calls, where opening the device has taken all the time
_UNCALIBRATED = (
    0.15  # of a step: by how much, on average, calibration moved 39 steps of 13 networks on two cores (0.13)
)
_CALIBRATED = 0.06  # of a step: what it left of that
_WHOLE_S = 4.0  # chosen: what running a network whole takes, most of it to import torch in a separate process
_START_S = 3.0  # chosen: what a separate process takes to import torch
_STEPS = 3  # the fewest that are worth it: a first one, which allocates, and two that are timed
_MOST_RUNS = 8  # chosen: a minute's worth of runs; the median of more moves little
_STEPS_S = (0.5, 4.0)  # chosen: how long it makes steps at least and at most, if there are seconds enough
_STEPS_SHARE = 0.2  # chosen: of the seconds that are left, for steps


@dataclass(kw_only=True)
class Spending:
    """What is measured with `worker` into `writer` until `seconds` have passed since `start`.

    `subject` is the network of the step, if it can be run whole here; it may take `memory_share` of the device's
    memory. `earlier` are the rows that the device has, to which new ones are added; `calls` counts what was measured,
    `steps` the steps that were run; `progress` hears the seconds that have passed, and of what.
    """

    worker: Worker
    writer: Writer
    start: float
    seconds: float
    origin: str = ""
    subject: Subject | None = None
    memory_share: float = 0.5
    progress: Callable[[float, str], None] = lambda passed, label: None
    clock: Callable[[], float] = time.monotonic
    earlier: list[Measurement] = field(default_factory=list)
    calls: int = 0
    steps: int = 0
    _runs: bool = True
    _overheads_s: list[float] = field(default_factory=list)

    @property
    def passed_s(self) -> float:
        """The seconds that have passed."""
        return self.clock() - self.start

    @property
    def left_s(self) -> float:
        """The seconds that are left."""
        return self.seconds - self.passed_s

    def append(self, measurement: Measurement) -> None:
        """Keep a row."""
        self.writer.append(measurement)
        self.earlier.append(measurement)
        self.calls += measurement.sweep_pass == 0

    def on_yardstick(self, drawn: Drawn) -> None:
        """Measure `drawn` for a share of the seconds that are left, a moment at least: without it nothing is known.

        Where the network itself is run next, which tells more of it, a moment is enough.
        """
        share = 0.0 if self._can_run else _YARDSTICK_SHARE
        self._sweep(drawn, max(_LEAST_YARDSTICK_S, share * self.left_s))
        self.writer.seal()

    def on_step(self, estimates: Sequence[Estimate]) -> None:
        """Measure what tells most of `estimates`: steps of their network, and the calls that weigh most, each once.

        Real steps come first, and again at the end for as long as there are seconds: how fast the machine is differs
        from one minute to the next. Where the network cannot be run, another one calibrates the sums.
        """
        ran = self._run_steps(estimates)
        self._on_calls(estimates, [] if ran else self._calibration_layers(estimates))
        while self._run_steps(estimates):
            pass
        self.writer.seal()

    def _run_steps(self, estimates: Sequence[Estimate]) -> bool:
        """Run the network whole if it fits the device's memory and what is left of the seconds, unless it was run often
        enough."""
        step = max(estimates, key=lambda each: each.step_s, default=None)
        if step is None or self.subject is None or not self._can_run:
            return False
        settings, whole = self.worker.settings[0], self.subject.whole
        rows = [row for row in self.earlier if row.task.layer == whole and row.task.settings == settings]
        done = {row.sweep_pass for row in rows}
        memory_bytes = self.worker.device.memory_bytes
        fits = not memory_bytes or step.memory_bytes <= self.memory_share * memory_bytes
        cost_s = _START_S + _STEPS * step.step_s
        if len(done) >= _MOST_RUNS or not fits or cost_s > self.left_s:
            return False
        self.progress(self.passed_s, "real steps")
        shortest_s, longest_s = _STEPS_S
        try:
            rows = run_steps(
                self.subject,
                settings,
                self.worker.device,
                number=max(done, default=-1) + 1,
                origin=self.origin,
                seconds=min(max(shortest_s, _STEPS_SHARE * self.left_s), longest_s),
                left_s=self.left_s,
            )
        except (Unsupported, OutOfMemory, Failed):
            self._runs = False
            return False
        self.writer.extend(rows)
        self.earlier.extend(rows)
        self.steps += len(rows[0].device_times_s)
        self.progress(self.passed_s, "real steps")
        return True

    def _on_calls(self, estimates: Sequence[Estimate], layers: Sequence[Layer]) -> None:
        """Measure the calls of `estimates` that weigh most, each once; and `layers`, of a network that calibrates."""
        calls, measured = uncertain_calls(estimates), list[UncertainCall]()
        whole = self._calibration_call(estimates, layers)
        while self.left_s > 0:
            known = [*calls, *whole(self._overhead_s)]
            call = next(worth_measuring(known, self.left_s, measured=measured, overhead_s=self._overhead_s), None)
            if call is None:
                break
            measured.append(call)
            if isinstance(call.task.layer, Whole):
                self._sweep(self._calibration(), self.left_s)
            else:
                self._measure(call.task)

    @property
    def _can_run(self) -> bool:
        """Whether the network can be run, as far as is known; a GPU's steps have two clocks (see `Estimator`)."""
        return self.subject is not None and self._runs and not self.worker.device.kind.queued

    @property
    def _overhead_s(self) -> float:
        return median(self._overheads_s) if self._overheads_s else _OVERHEAD_S

    def _calibration(self) -> Drawn:
        """A network that is run whole, and its layers."""
        return with_calibration(Drawn(wanted=()), self.worker.device.kind, count=1)

    def _calibration_layers(self, estimates: Sequence[Estimate]) -> list[Layer]:
        """The layers of a network that calibrates, itself among them; none where one was run, or nothing is known."""
        layers = [item.layer for item in self._calibration().wanted] if estimates else []
        done = {row.task.layer for row in self.earlier if row.task.settings == self.worker.settings[0]}
        return [] if any(isinstance(layer, Whole) and layer in done for layer in layers) else layers

    def _calibration_call(
        self, estimates: Sequence[Estimate], layers: Sequence[Layer]
    ) -> Callable[[float], list[UncertainCall]]:
        """Running a network whole as a call to choose, for what a call takes to be prepared; none without layers."""
        wholes = [layer for layer in layers if isinstance(layer, Whole)]
        if not wholes:
            return lambda overhead_s: []
        done = {row.task.layer for row in self.earlier if row.task.settings == self.worker.settings[0]}
        step_s = max(estimate.step_s for estimate in estimates)
        tasks = sum(len(layer.phases) for layer in layers if layer not in done)
        task = Task(layer=wholes[0], phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT, settings=self.worker.settings[0])

        def call(overhead_s: float) -> list[UncertainCall]:
            cost_s = _WHOLE_S + tasks * (overhead_s + _OVERHEAD_S)
            half_s, error_s = _UNCALIBRATED * step_s, _CALIBRATED * step_s
            return [UncertainCall(task=task, half_s=half_s, error_s=error_s, cost_s=cost_s, group=task)]

        return call

    def _sweep(self, drawn: Drawn, seconds: float) -> None:
        """Measure what `drawn` has, but for what was measured, for so long at most."""
        begun = self.clock()
        sweep = Sweep(self.worker, drawn.wanted, phases=tuple(Phase), earlier=self.earlier, origin=self.origin)

        def progress(_: int, label: str) -> None:
            self.progress(self.passed_s, label)

        limit = Budget(seconds=seconds, together=True)
        if rows := sum(sweep.run(self, limit, progress=progress, clock=self.clock).rows.values()):
            self._overheads_s.append((self.clock() - begun) / rows)

    def _measure(self, task: Task) -> None:
        kind, best_s = self.worker.device.kind, None
        layouts = {settings.layout: settings for settings in self.worker.settings}
        task = replace(task, settings=layouts.get(task.settings.layout, self.worker.settings[0]))
        for number in range(kind.rounds):
            begun = self.clock()
            row = self.worker.measure(
                Order(task=task, sweep_pass=number, best_s=best_s, plan=kind.sampling, origin=self.origin)
            )
            self.append(row)
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
        for call in (*_unknown_calls(estimate), *_estimated_calls(estimate)):
            before = found.get(call.task)
            if before is None or before.half_s < call.half_s:
                found[call.task] = call
    return list(found.values())


def _estimated_calls(estimate: Estimate) -> Iterator[UncertainCall]:
    """The calls that were predicted, or lie between neighbours; those of one task together."""
    halves_s: dict[Task, float] = {}
    calls: dict[Task, UncertainCall] = {}
    for part in estimate.parts:
        if part.source is Source.MEASURED or part.layer.free or isinstance(part.layer, Checkpoint):
            continue
        layer, phase = part.layer.measured_as(part.phase)
        task = Task(layer=layer, phase=phase, algorithm=part.algorithm, settings=estimate.settings)
        half_s = min(estimate.step_s, part.count * (part.high_s - part.low_s) / 2)  # far beyond what is known: endless
        halves_s[task] = halves_s.get(task, 0.0) + half_s
        calls[task] = UncertainCall(
            task=task,
            half_s=halves_s[task],
            cost_s=_cost_s(estimate.device, part.device_s),
            error_s=halves_s[task] / half_s * _ERROR * part.count * part.device_s,
            group=errs_with(part),
            alike=part.alike,
        )
    yield from calls.values()


def _unknown_calls(estimate: Estimate) -> Iterator[UncertainCall]:
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
