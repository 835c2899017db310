"""Decisions: the choices between algorithms that a store's rows hold, with what each would cost."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from statistics import median
from typing import TypeAlias

from latte_cli.algorithms import Algorithm
from latte_cli.devices import Device
from latte_cli.layers import Convolution, Phase
from latte_cli.lookup import Timing, combine_passes, fits_workspace
from latte_cli.measure import Evidence, Measurement
from latte_cli.tasks import Question, Settings, Task


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One convolution's phase under some settings on a device: the algorithms that ran there, and those refused.

    Where nothing is known but who won, `wins` says how often, of the `candidates` there are; `heuristic` is what a
    library's own would take.
    """

    device: Device
    settings: Settings
    layer: Convolution
    phase: Phase
    timings: tuple[Timing, ...] = ()
    refused: tuple[Algorithm, ...] = ()
    wins: tuple[tuple[Algorithm, int], ...] = ()
    candidates: tuple[Algorithm, ...] = ()
    heuristic: Algorithm | None = None

    @cached_property
    def times_s(self) -> dict[Algorithm, float]:
        """Seconds of each algorithm that ran."""
        return {timing.task.algorithm: timing.device_s for timing in self.timings}

    @property
    def ran(self) -> tuple[Algorithm, ...]:
        """The algorithms that may be chosen."""
        return tuple(self.times_s) or self.candidates

    @property
    def tried_algorithms(self) -> tuple[Algorithm, ...]:
        """Every algorithm with a row, whatever became of it."""
        return (*self.ran, *self.refused)

    @cached_property
    def best(self) -> Algorithm:
        """The fastest algorithm, or the one that won most often."""
        if not self.times_s:
            return max(self.wins, key=lambda pair: (pair[1], pair[0].name))[0]
        return min(self.times_s, key=lambda algorithm: (self.times_s[algorithm], algorithm.name))

    @property
    def count(self) -> int:
        """How many rows say who won; a decision by times counts once."""
        return sum(count for _, count in self.wins) or 1

    def share(self, algorithm: Algorithm) -> float:
        """How often `algorithm` won: 0 or 1 by times."""
        if self.times_s:
            return float(self.times_s.get(algorithm) == self.times_s[self.best])
        return dict(self.wins).get(algorithm, 0) / self.count

    @cached_property
    def shape(self) -> tuple[object, ...]:
        """The layer's sizes but its batch and bias: decisions of equal shape tell too much about each other."""
        return tuple(value for name, value in vars(self.layer).items() if name in _SHAPE)

    @property
    def key(self) -> "DecisionKey":
        """What tells decisions apart."""
        return self.device.slug, self.settings, self.layer, self.phase

    def within(self, limit_bytes: int) -> "Decision":
        """The choice among the algorithms whose workspace fits the limit."""
        return replace(self, timings=tuple(timing for timing in self.timings if fits_workspace(timing, limit_bytes)))

    def complete_with(self, earlier: "Decision") -> "Decision":
        """This one with what was timed only earlier, at the speed that the others of both have now."""
        both = [algorithm for algorithm in self.times_s if algorithm in earlier.times_s]
        if not both:
            return self
        ratio = median(self.times_s[algorithm] / earlier.times_s[algorithm] for algorithm in both)
        missing = (timing for timing in earlier.timings if timing.task.algorithm not in self.times_s)
        filled = (replace(timing, device_s=ratio * timing.device_s) for timing in missing)
        needed = {timing.task.algorithm: timing.workspace_bytes for timing in earlier.timings}  # looked at once only
        own = (
            timing
            if timing.workspace_bytes is not None
            else replace(timing, workspace_bytes=needed.get(timing.task.algorithm))
            for timing in self.timings
        )
        return replace(self, timings=(*own, *filled), refused=earlier.refused)


_SHAPE = {field.name for field in fields(Convolution)} - {"batch", "bias"}

DecisionKey: TypeAlias = tuple[str, Settings, Convolution, Phase]


def by_pass(measurements: Iterable[Measurement]) -> tuple[list[Decision], dict[DecisionKey, Decision]]:
    """The choices as the first pass of a sweep knows them, and as later passes do, for those that have one.

    Where later passes judge less than half of them, all passes together are the first, and there are no later ones.
    """
    _, first, later = by_pass_and_part([list(measurements)])
    return first, later


def by_pass_and_part(
    parts: Iterable[Sequence[Measurement]],
) -> tuple[list[Decision], list[Decision], dict[DecisionKey, Decision]]:
    """The choices as all passes of a sweep know them, as the first does, and as later ones do, where there are any.

    No choice may have rows in two `parts`; one part at a time is held in memory. Where later passes judge less than
    half of the choices, all passes together are the first, and there are no later ones.
    """
    known: list[Decision] = []
    first: list[Decision] = []
    judges: dict[DecisionKey, Decision] = {}
    for rows in parts:
        own, own_first, own_judges = _by_pass(rows)
        known += own
        first += own_first
        judges |= own_judges
        del rows  # before the next ones are read
    return (known, first, judges) if 2 * len(judges) >= len(first) else (known, known, {})


def _by_pass(rows: Sequence[Measurement]) -> tuple[list[Decision], list[Decision], dict[DecisionKey, Decision]]:
    known = decisions(rows)
    again = [row for row in rows if row.sweep_pass > 0 and row.evidence is not Evidence.LABEL]
    if not again:
        return known, known, {}
    first = decisions(row for row in rows if row.sweep_pass == 0 or row.evidence is Evidence.LABEL)
    earlier = {decision.key: decision for decision in first}
    later = {decision.key: decision for decision in decisions(again, least=1)}
    return known, first, {key: own.complete_with(earlier[key]) for key, own in later.items() if key in earlier}


def decisions(measurements: Iterable[Measurement], *, least: int = 2) -> list[Decision]:
    """The choices there are: convolutions of which at least two (or `least`) algorithms ran, their passes combined, or
    of which it is known who won among several."""
    devices: dict[str, Device] = {}
    rows: defaultdict[DecisionKey, list[Measurement]] = defaultdict(list)
    wins: defaultdict[DecisionKey, Counter[Algorithm]] = defaultdict(Counter)
    answers: dict[DecisionKey, str] = {}
    for row in measurements:
        task = row.task
        if isinstance(task.layer, Convolution):
            devices[row.device.slug] = row.device
            key = (row.device.slug, task.settings, task.layer, task.phase)
            if isinstance(task, Question):
                if row.ranking:
                    answers[key] = row.ranking[0]
            elif row.evidence is Evidence.LABEL:
                wins[key][task.algorithm] += 1
            else:
                rows[key].append(row)
    found = [_timed_decision(devices[key[0]], key, each) for key, each in rows.items()]
    found = [decision for decision in found if len(decision.timings) >= least]
    timed = {decision.key for decision in found}
    found += _labelled_decisions(devices, {key: each for key, each in wins.items() if key not in timed})
    if not answers:
        return found
    return [replace(decision, heuristic=_algorithm_named(decision, answers.get(decision.key))) for decision in found]


def _timed_decision(device: Device, key: DecisionKey, rows: Iterable[Measurement]) -> Decision:
    _, settings, layer, phase = key
    rows = tuple(rows)
    timings = tuple(combine_passes(rows))
    tried = {row.task.algorithm for row in rows if isinstance(row.task, Task)}
    refused = tried - {timing.task.algorithm for timing in timings}
    return Decision(
        device=device,
        settings=settings,
        layer=layer,
        phase=phase,
        timings=timings,
        refused=tuple(sorted(refused, key=str)),
    )


def _labelled_decisions(
    devices: Mapping[str, Device], wins: Mapping[DecisionKey, Counter[Algorithm]]
) -> Iterator[Decision]:
    """Decisions by who won; the candidates are all that win somewhere under the same settings."""
    classes: defaultdict[tuple[str, Settings, Phase], set[Algorithm]] = defaultdict(set)
    for (slug, settings, _, phase), each in wins.items():
        classes[slug, settings, phase].update(each)
    for (slug, settings, layer, phase), each in wins.items():
        candidates = classes[slug, settings, phase]
        if len(candidates) > 1:
            yield Decision(
                device=devices[slug],
                settings=settings,
                layer=layer,
                phase=phase,
                wins=tuple(sorted(each.items())),
                candidates=tuple(sorted(candidates)),
            )


def _algorithm_named(decision: Decision, name: str | None) -> Algorithm | None:
    return next((algorithm for algorithm in decision.tried_algorithms if algorithm.name == name), None)
