"""Sweeps: which tasks to measure in which order; goes on where it stopped, ends when the budget does."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from statistics import median
from typing import Protocol

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm, known
from latte_cli.layers import Layer, Phase
from latte_cli.measure import Mark, Measurement, Outcome, Sampling
from latte_cli.tasks import Task
from latte_cli.worker import Order, Worker

_CHUNK = 64
_REPEAT_WITHIN = 1.5
_QUIET_SHARE = 0.1


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
    """A layer to measure and how deep."""

    layer: Layer
    depth: Depth = Depth.USUAL


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a sweep may last (None: until it is done) and how many passes it makes; `together` measures all
    layers by default before any alternative, otherwise chunk by chunk."""

    seconds: float | None = None
    passes: int = 1
    together: bool = False


@dataclass(kw_only=True)
class Summary:
    """What a sweep did: new rows by outcome, rows that were there already, whether the first pass is complete."""

    rows: dict[Outcome, int] = field(default_factory=lambda: defaultdict(int))
    resumed: int = 0
    left: int = 0
    waited_s: float = 0.0
    marked: int = 0


class Sink(Protocol):
    """Where rows go."""

    def append(self, measurement: Measurement) -> None:
        """Keep `measurement`; it must not be lost after this returns."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    task: Task
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
        self._best: dict[tuple[Layer, Phase], float] = {}
        self._last: dict[str, Measurement] = {}
        self._tasks = self._expanded(wanted, frozenset(phases))
        self._left = {task.id for tasks in self._tasks for task in tasks}
        self._size, ids = len(self._left), frozenset(self._left)
        for row in earlier:
            if row.task.id in ids:
                self._note(row)

    @property
    def size(self) -> int:
        """The tasks of one pass."""
        return self._size

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
            if row.marks and Mark.DISTURBED in row.marks:
                summary.waited_s += min(quiet_s, clock() - before)
            sink.append(row)
            self._note(row)
            summary.rows[row.outcome] += 1
            summary.marked += bool(row.marks)
            progress(self._size - len(self._left), _label(step.task))
        summary.left = len(self._left)
        return summary

    def _expanded(self, wanted: Sequence[Wanted], phases: frozenset[Phase]) -> list[list[Task]]:
        """For each wanted layer its tasks, the framework's own choice first."""
        unique = list({item.layer: item for item in wanted}.values())
        pairs = [(item, phase) for item in unique for phase in item.layer.phases if phase in phases]
        found = self._worker.candidates([(item.layer, phase) for item, phase in pairs])
        tasks: dict[Layer, list[Task]] = {item.layer: [] for item in unique}
        for (item, phase), algorithms in zip(pairs, found, strict=True):
            tasks[item.layer] += [
                Task(layer=item.layer, phase=phase, algorithm=algorithm, settings=self._worker.settings)
                for algorithm in algorithms
                if _depth(algorithm) <= item.depth
            ]
        return list(tasks.values())

    def _steps(self, budget: Budget) -> Iterator[_Step]:
        """First every task once, defaults of a chunk before its alternatives; then what deserves another look."""
        chunk = len(self._tasks) if budget.together else _CHUNK
        for start in range(0, len(self._tasks), max(1, chunk)):
            tasks = [task for layer in self._tasks[start : start + chunk] for task in layer]
            for own_choice in (True, False):
                for task in tasks:
                    if (task.algorithm == FRAMEWORK_DEFAULT) is own_choice and (task.id, 0) not in self._done:
                        yield _Step(task=task, sweep_pass=0)
        for number in range(1, max(budget.passes, 2)):
            everything = number < budget.passes
            for task in [task for layer in self._tasks for task in layer]:
                if (task.id, number) not in self._done and self._again(task, everything):
                    yield _Step(task=task, sweep_pass=number)

    def _again(self, task: Task, everything: bool) -> bool:
        """Whether another pass over `task` can change a choice or a total."""
        row = self._last.get(task.id)
        if row is None or row.outcome is not Outcome.OK or Mark.CUT in row.marks:
            return False
        close = median(self._times[task.id]) <= _REPEAT_WITHIN * self._best[task.layer, task.phase]
        return (close or task.algorithm == FRAMEWORK_DEFAULT) and (everything or bool(row.marks))

    def _order(self, step: _Step, quiet_s: float) -> Order:
        return Order(
            task=step.task,
            sweep_pass=step.sweep_pass,
            best_s=self._best.get((step.task.layer, step.task.phase)),
            quiet_s=quiet_s,
            plan=Sampling(),
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
            key = (task.layer, task.phase)
            self._best[key] = min(row.seconds, self._best.get(key, row.seconds))


def _depth(algorithm: Algorithm) -> Depth:
    if algorithm == FRAMEWORK_DEFAULT:
        return Depth.DEFAULT
    about = known(algorithm)
    return Depth.ALL if about is not None and about.rarely_wins else Depth.USUAL


def _label(task: Task) -> str:
    return f"{task.layer.kind} {task.phase}"
