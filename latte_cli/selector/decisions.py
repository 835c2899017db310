"""Decisions: the choices between algorithms that a store's rows hold, with what each would cost."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from latte_cli.algorithms import HEURISTIC, Algorithm
from latte_cli.backends import Device
from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.lookup import Timing, combined
from latte_cli.measure import Evidence, Measurement
from latte_cli.tasks import Settings


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
    def tried(self) -> tuple[Algorithm, ...]:
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

    @property
    def shape(self) -> Layer:
        """The layer up to its batch and bias: decisions of equal shape tell too much about each other."""
        return replace(self.layer, batch=1, bias=False)


Key: TypeAlias = tuple[str, Settings, Convolution, Phase]


def decisions(measurements: Iterable[Measurement]) -> list[Decision]:
    """The choices there are: convolutions of which at least two algorithms ran, their passes combined, or of which it
    is known who won among several."""
    devices: dict[str, Device] = {}
    rows: defaultdict[Key, list[Measurement]] = defaultdict(list)
    wins: defaultdict[Key, Counter[Algorithm]] = defaultdict(Counter)
    answers: dict[Key, str] = {}
    for row in measurements:
        task = row.task
        if isinstance(task.layer, Convolution):
            devices[row.device.slug] = row.device
            key = (row.device.slug, task.settings, task.layer, task.phase)
            if row.evidence is not Evidence.LABEL:
                rows[key].append(row)
            elif task.algorithm != HEURISTIC:
                wins[key][task.algorithm] += 1
            elif row.ranking:
                answers[key] = row.ranking[0]
    found = [_timed(devices[key[0]], key, each) for key, each in rows.items()]
    found = [decision for decision in found if len(decision.timings) > 1]
    timed = {_key(decision) for decision in found}
    found += _labelled(devices, {key: each for key, each in wins.items() if key not in timed})
    return [replace(decision, heuristic=_named(decision, answers.get(_key(decision)))) for decision in found]


def _key(decision: Decision) -> Key:
    return decision.device.slug, decision.settings, decision.layer, decision.phase


def _timed(device: Device, key: Key, rows: Iterable[Measurement]) -> Decision:
    _, settings, layer, phase = key
    rows = tuple(rows)
    timings = tuple(combined(rows))
    refused = {row.task.algorithm for row in rows} - {timing.task.algorithm for timing in timings}
    return Decision(
        device=device,
        settings=settings,
        layer=layer,
        phase=phase,
        timings=timings,
        refused=tuple(sorted(refused, key=str)),
    )


def _labelled(devices: Mapping[str, Device], wins: Mapping[Key, Counter[Algorithm]]) -> Iterator[Decision]:
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


def _named(decision: Decision, name: str | None) -> Algorithm | None:
    return next((algorithm for algorithm in decision.tried if algorithm.name == name), None)
