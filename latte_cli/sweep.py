"""Sweeps: which tasks to measure in which order; goes on where it stopped, ends when the budget does."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from math import ceil
from random import Random
from statistics import median
from typing import Protocol

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm, known_algorithm
from latte_cli.devices import Device
from latte_cli.engines import rankers
from latte_cli.layers import Convolution, Layer, Phase, Whole
from latte_cli.measure import Measurement, Outcome, QualityFlag
from latte_cli.precisions import Layout
from latte_cli.tasks import Question, Settings, Task
from latte_cli.worker import Order, Worker

_CHUNK = 64  # chosen: a budget that ends early has then cut off the alternatives of a network's worth of layers
_REPEAT_WITHIN = 1.5  # chosen: far beyond the 3 to 7 % by which a layer differs between passes (see lookup)
_OVER_PEAK = 3.3  # fitted to the reference profile: times what a call takes at the device's peaks
_WHOLE_S = 4.0  # chosen: what running a network whole takes, most of it to import torch in a separate process
_QUIET_SHARE = 0.1  # chosen: of a sweep's time, what waiting for others to leave the cores may cost it


class Depth(IntEnum):
    """Which algorithms of a layer are measured."""

    DEFAULT = 0
    """The framework's own choice."""
    USUAL = 1
    """All that win somewhere on this kind of device."""
    ALL = 2
    """The slow families too."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A layer to measure and how deep; in `layout` alone, or in all layouts of the sweep."""

    layer: Layer
    depth: Depth = Depth.USUAL
    layout: Layout | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a sweep may last (None: until it is done) and how many passes it makes, the first `rounds` of them layer
    by layer with the algorithms in another order each time; `together` measures all layers by default before any
    alternative, otherwise chunk by chunk."""

    seconds: float | None = None
    passes: int = 1
    rounds: int = 1
    together: bool = False

    @property
    def all_passes(self) -> int:
        """How many passes there are at most, that over noisy rows included."""
        return max(self.passes, self.rounds + 1)


@dataclass(kw_only=True)
class Summary:
    """What a sweep did: new rows by outcome, rows that were there already, whether the first pass is complete.

    Of `choices` different convolutions, whatever their batch, two algorithms or more were timed.
    """

    rows: dict[Outcome, int] = field(default_factory=lambda: defaultdict(int))
    resumed: int = 0
    left: int = 0
    waited_s: float = 0.0
    marked: int = 0
    choices: int = 0


class Sink(Protocol):
    """Where rows go."""

    def append(self, measurement: Measurement) -> None:
        """Keep `measurement`; it must not be lost after this returns."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    task: Task | Question
    sweep_pass: int


class Sweep:
    """A sweep of `wanted` layers in `phases` by `worker`.

    `earlier` are the rows the store already holds for the device: they are not measured again.
    """

    def __init__(
        self,
        worker: Worker,
        wanted: Sequence[Wanted],
        *,
        phases: Iterable[Phase],
        earlier: Iterable[Measurement] = (),
        origin: str = "",
    ) -> None:
        self._worker, self._origin = worker, origin
        self._done: set[tuple[str, int]] = set()
        self._times: dict[str, list[float]] = defaultdict(list)
        self._best: dict[tuple[Layer, Phase, Settings], float] = {}
        self._last: dict[str, Measurement] = {}
        self._tasks = self._expand(wanted, frozenset(phases))
        self._left = {task.id for tasks in self._tasks for task in tasks}
        self._size, ids = len(self._left), frozenset(self._left)
        for row in earlier:
            if row.task.id in ids:
                self._note(row)

    @property
    def size(self) -> int:
        """The tasks of one pass."""
        return self._size

    @property
    def left(self) -> int:
        """The tasks of one pass that were not measured yet."""
        return len(self._left)

    def forecast_s(self, budget: Budget) -> tuple[float, float]:
        """About how many seconds the rest of the first pass takes, and all passes; the budget's seconds do not count.

        By the device's peaks. A later pass is taken to measure one algorithm of each layer, phase and settings.
        """
        device, rounds = self._worker.device, budget.rounds
        tasks = [task for tasks in self._tasks for task in tasks]
        first_s = sum(_forecast_row_s(task, device) for task in tasks if task.id in self._left)
        later_s = sum(_forecast_row_s(task, device) for task in tasks if _is_default(task))
        more = max(0, budget.passes - rounds)
        return rounds * first_s, rounds * first_s + more * later_s

    def run(
        self,
        sink: Sink,
        budget: Budget,
        *,
        progress: Callable[[int, str], None] = lambda done, label: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Summary:
        """Measure until done or out of budget; each row is in `sink` before the next task starts."""
        summary, start = Summary(), clock()
        summary.resumed = self._size - len(self._left)
        for step in self._steps(budget):
            passed = clock() - start
            if budget.seconds is not None and passed >= budget.seconds:
                break
            quiet_s = min(1.0, max(0.0, _QUIET_SHARE * (passed + 5.0) - summary.waited_s))
            before = clock()
            row = self._worker.measure(self._order(step, quiet_s))
            if row.flags and QualityFlag.DISTURBED in row.flags:
                summary.waited_s += min(quiet_s, clock() - before)
            sink.append(row)
            self._note(row)
            summary.rows[row.outcome] += 1
            summary.marked += bool(row.flags)
            progress(self._size - len(self._left), _label(step.task))
        summary.left = len(self._left)
        summary.choices = self._choices()
        return summary

    def _choices(self) -> int:
        """How many different convolutions there are of which at least two algorithms were timed."""
        timed = Counter(_choice(task) for tasks in self._tasks for task in tasks if self._times.get(task.id))
        layers = (layer for (layer, _, _), count in timed.items() if count > 1 and isinstance(layer, Convolution))
        return len({replace(layer, batch=1, bias=False) for layer in layers})

    def _expand(self, wanted: Sequence[Wanted], phases: frozenset[Phase]) -> list[list[Task | Question]]:
        """For each wanted layer and settings its tasks, the framework's own choice first, then what to ask of them."""
        unique = {(item.layer, settings): item for item in wanted for settings in self._settings_of(item)}
        asked = [
            (item, phase, settings)
            for (_, settings), item in unique.items()
            for phase in item.layer.phases
            if phase in phases
        ]
        found = self._worker.candidates([(item.layer, phase, settings) for item, phase, settings in asked])
        tasks: dict[tuple[Layer, Settings], list[Task | Question]] = defaultdict(list)
        for (item, phase, settings), algorithms in zip(asked, found, strict=True):
            tasks[item.layer, settings] += [
                Task(layer=item.layer, phase=phase, algorithm=algorithm, settings=settings)
                for algorithm in algorithms
                if _depth(algorithm) <= item.depth
            ]
            if item.depth >= Depth.USUAL:
                tasks[item.layer, settings] += [
                    Question(layer=item.layer, phase=phase, ranker=ranker, settings=settings)
                    for ranker in rankers(algorithms)
                ]
        return list(tasks.values())

    def _settings_of(self, item: Wanted) -> list[Settings]:
        """The settings to measure a layer in, each once."""
        settings = self._worker.settings
        return list(dict.fromkeys(replace(one, layout=item.layout or one.layout) for one in settings))

    def _steps(self, budget: Budget) -> Iterator[_Step]:
        """First every task in its rounds, defaults of a chunk before alternatives; then what deserves another look."""
        for group in self._groups(budget):
            for number in range(budget.rounds):
                for task in _in_round(group, number):
                    if (task.id, number) not in self._done and (number == 0 or self._ran(task)):
                        yield _Step(task=task, sweep_pass=number)
        for number in range(budget.rounds, budget.all_passes):
            everything = number < budget.passes
            for task in [task for tasks in self._tasks for task in tasks]:
                if (task.id, number) not in self._done and self._again(task, everything):
                    yield _Step(task=task, sweep_pass=number)

    def _groups(self, budget: Budget) -> Iterator[list[Task | Question]]:
        """The tasks that are measured round by round before any other: those of one layer, where there are rounds."""
        if budget.rounds > 1 and not budget.together:
            yield from self._tasks
            return
        chunk = len(self._tasks) if budget.together else _CHUNK
        for start in range(0, len(self._tasks), max(1, chunk)):
            for own_choice in (True, False):
                for tasks in self._tasks[start : start + chunk]:
                    yield [task for task in tasks if _is_default(task) is own_choice]

    def _ran(self, task: Task | Question) -> bool:
        """Whether `task` was timed, and not given up as slow."""
        row = self._last.get(task.id)
        return row is not None and row.seconds is not None and QualityFlag.CUT not in row.flags

    def _again(self, task: Task | Question, everything: bool) -> bool:
        """Whether another pass over `task` can change a choice or a total."""
        if not self._ran(task):
            return False
        close = median(self._times[task.id]) <= _REPEAT_WITHIN * self._best[_choice(task)]
        return (close or _is_default(task)) and (everything or bool(self._last[task.id].flags))

    def _order(self, step: _Step, quiet_s: float) -> Order:
        return Order(
            task=step.task,
            sweep_pass=step.sweep_pass,
            best_s=self._best.get(_choice(step.task)),
            quiet_s=quiet_s,
            plan=self._worker.device.kind.sampling,
            origin=self._origin,
        )

    def _note(self, row: Measurement) -> None:
        task = row.task
        self._done.add((task.id, row.sweep_pass))
        if row.sweep_pass == 0:
            self._left.discard(task.id)
        self._last[task.id] = row
        if row.seconds is not None:
            self._times[task.id].append(row.seconds)
            key = _choice(task)
            self._best[key] = min(row.seconds, self._best.get(key, row.seconds))


def time_tasks(
    worker: Worker,
    tasks: Iterable[Task],
    sink: Sink,
    *,
    origin: str = "",
    progress: Callable[[int, str], None] = lambda done, label: None,
) -> None:
    """Time `tasks` under the worker's settings, whatever was measured before, into `sink`."""
    kind, best = worker.device.kind, dict[tuple[Layer, Phase, Settings], float]()
    for done, each in enumerate(tasks, start=1):
        task = replace(each, settings=worker.settings[0])
        for number in range(kind.rounds):
            best_s = best.get(_choice(task))
            order = Order(task=task, sweep_pass=number, best_s=best_s, plan=kind.sampling, origin=origin)
            row = worker.measure(order)
            sink.append(row)
            if row.seconds is None:
                break
            best[_choice(task)] = min(row.seconds, best_s or row.seconds)
        progress(done, _label(task))


def _forecast_row_s(task: Task | Question, device: Device) -> float:
    """About how long it takes to measure a task once, in seconds."""
    kind, plan = device.kind, device.kind.sampling
    if isinstance(task, Question):
        return kind.preparing_s
    if isinstance(task.layer, Whole):
        return _WHOLE_S
    flops_s = task.layer.flops(task.phase) / device.peak_flop_per_s if device.peak_flop_per_s else 0.0
    moved = task.layer.bytes_moved(task.phase, task.settings.precision.element_bytes)
    bytes_s = moved / device.bandwidth_bytes_per_s if device.bandwidth_bytes_per_s else 0.0
    time_s = _OVER_PEAK * (flops_s + bytes_s)
    enough = ceil(plan.enough_s / time_s) if time_s and not plan.confidence else plan.least
    return kind.preparing_s + (plan.warm_ups + min(plan.most, max(plan.least, enough))) * time_s


def _is_default(task: Task | Question) -> bool:
    return isinstance(task, Task) and task.algorithm == FRAMEWORK_DEFAULT


def _depth(algorithm: Algorithm) -> Depth:
    if algorithm == FRAMEWORK_DEFAULT:
        return Depth.DEFAULT
    about = known_algorithm(algorithm)
    return Depth.ALL if about is not None and about.rarely_wins else Depth.USUAL


def _choice(task: Task | Question) -> tuple[Layer, Phase, Settings]:
    """What the algorithms of `task` and of others compete for."""
    return task.layer, task.phase, task.settings


def _in_round(tasks: Sequence[Task | Question], number: int) -> Sequence[Task | Question]:
    """`tasks` as they come, so that the first sets what is slow, and in another order in each later round."""
    return sorted(tasks, key=lambda task: Random(f"{task.id} {number}").random()) if number else tasks


def _label(task: Task | Question) -> str:
    return f"{task.layer.kind} {task.phase}"
