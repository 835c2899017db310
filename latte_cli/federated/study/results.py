"""Results: each method tuned on separate seeds, its runs with the others, and their medians and ranges."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from statistics import median
from typing import TypeVar

import numpy as np

from latte_cli.errors import LatteError
from latte_cli.federated.study.document import Scenario, Tuning
from latte_cli.federated.study.methods import METHODS
from latte_cli.federated.study.runs import MethodRun, Planned, Workshop
from latte_cli.federated.study.shares import TunedOption, tuning_options


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A quantity over seeds; infinite where it was not reached by as many as that takes."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> "Spread":
        """That of `values`, of which there is at least one."""
        found = sorted(values)
        return Spread(median=median(found), low=found[0], high=found[-1])


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a method did in a scenario with the `option` it was tuned to; None where no device can take part at any."""

    scenario: str
    method: str
    option: TunedOption | None
    runs: tuple[MethodRun, ...]

    def time_s(self, accuracy: float) -> Spread:
        """When the accuracy was reached."""
        return Spread.of(run.time_s(accuracy) for run in self.runs)

    def count_reaching(self, accuracy: float) -> int:
        """How many runs reached the accuracy."""
        return sum(run.time_s(accuracy) < inf for run in self.runs)

    @property
    def accuracy(self) -> Spread:
        """The accuracy in the end."""
        return Spread.of(run.accuracy for run in self.runs)

    @property
    def personal(self) -> Spread | None:
        """The accuracy of devices' own models in the end."""
        found = [run.personal for run in self.runs if run.personal is not None]
        return Spread.of(found) if found else None

    @property
    def lowest_tenth(self) -> Spread | None:
        """The accuracy in the end on the mixes of classes of the tenth of devices for which it is lowest."""
        found = [run.lowest_tenth for run in self.runs if run.lowest_tenth is not None]
        return Spread.of(found) if found else None

    @property
    def devices(self) -> Spread:
        """How many devices can take part at all."""
        return Spread.of(float(run.devices) for run in self.runs)

    @property
    def idle(self) -> Spread:
        """The share of their time that devices waited."""
        return Spread.of(run.idle for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class Band:
    """A method's accuracy over virtual time, from its first to its last moment: the median of its runs, and their
    range."""

    method: str
    times_s: tuple[float, ...]
    median: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


Option = TypeVar("Option")

Report = Callable[[str, int, int, float], None]
"""Hears of progress: what is done, how many of how many runs, and how far the run is that is being made (0 to 1)."""


def results(
    workshop: Workshop,
    *,
    seeds: Sequence[int],
    methods: Sequence[str],
    report: Report = lambda what, done, of, share: None,
) -> list[Result]:
    """The results of `methods` in each scenario of the workshop's study with these `seeds`, in their order."""
    study = workshop.study
    workshop.check_fleets(seeds)
    cells = [(scenario, name) for scenario in study.scenarios for name in methods]
    tuned = _tune(workshop, cells, report)
    wanted = [
        workshop.plan_run(name, scenario, option, seed)
        for scenario, name in cells
        if (option := tuned[scenario.name, name]) is not None
        for seed in seeds
    ]
    made: dict[tuple[str, str], list[MethodRun]] = {}
    for planned, run in _make_runs(workshop, wanted, len(wanted), "runs", report):
        made.setdefault((planned.scenario.name, planned.method.name), []).append(run)
    return [
        Result(
            scenario=scenario.name,
            method=name,
            option=tuned[scenario.name, name],
            runs=tuple(made.get((scenario.name, name), ())),
        )
        for scenario, name in cells
    ]


def _tune(
    workshop: Workshop, cells: Sequence[tuple[Scenario, str]], report: Report
) -> Mapping[tuple[str, str], TunedOption | None]:
    """The best option of each method in each scenario; None where none of them lets any device take part."""
    tuning = workshop.study.tuning
    choices = {name: tuning_options(METHODS[name], workshop.study) for _, name in cells}
    found = {(scenario.name, name): choices[name][0] for scenario, name in cells if len(choices[name]) == 1}
    tried: dict[tuple[str, str], list[tuple[TunedOption, MethodRun]]] = {}
    wanted = [(scenario, name) for scenario, name in cells if len(choices[name]) > 1]

    def planned_runs() -> Iterator[Planned]:
        for scenario, name in wanted:
            runs = tried.setdefault((scenario.name, name), [])
            for option, seed in product(choices[name], tuning.seeds):
                within_s = _longest_s(runs, tuning)
                yield workshop.plan_run(name, scenario, option, seed, until=tuning.target, within_s=within_s)

    count = len(tuning.seeds) * sum(len(choices[name]) for _, name in wanted)
    for planned, run in _make_runs(workshop, planned_runs(), count, "tuning", report):
        tried[planned.scenario.name, planned.method.name].append((planned.option, run))
    return found | {cell: best_option(runs, tuning.target) if runs else None for cell, runs in tried.items()}


def _longest_s(tried: Sequence[tuple[TunedOption, MethodRun]], tuning: Tuning) -> float:
    """How long a run may take to the target for its option to be the best yet; infinite while none is known.

    An option's time is the median of its seeds'. Of an odd number of them a run that takes longer than the best median
    leaves the median of its option above it, whatever else it is; of an even number one that takes twice as long does.
    """
    times = defaultdict[TunedOption, list[float]](list)
    for option, run in tried:
        times[option].append(run.time_s(tuning.target))
    best_s = min((median(each) for each in times.values() if len(each) == len(tuning.seeds)), default=inf)
    return best_s if len(tuning.seeds) % 2 else 2 * best_s


def best_option(tried: Sequence[tuple[Option, MethodRun]], target: float) -> Option:
    """The option whose runs reached `target` first, by their median; where none did, the most accurate one."""
    runs: dict[Option, list[MethodRun]] = {}
    for option, run in tried:
        runs.setdefault(option, []).append(run)

    def worth(option: Option) -> tuple[float, float]:
        times = (run.time_s(target) for run in runs[option])
        return -median(times), median(max(run.accuracies) for run in runs[option])

    return max(runs, key=worth)


def _make_runs(
    workshop: Workshop, wanted: Iterable[Planned], count: int, what: str, report: Report
) -> Iterator[tuple[Planned, MethodRun]]:
    """The `count` runs, one after the other, but those without devices; reports how many are done."""
    for done, planned in enumerate(wanted):
        rounds = len(planned.ticks)

        def advance(number: int, done: int = done, rounds: int = rounds) -> None:
            report(what, done, count, number / rounds)

        try:
            if planned.shared.shares:
                yield planned, workshop.run(planned, advance)
        except LatteError as exc:
            where = f"`{planned.method.name}` in scenario `{planned.scenario.name}`"
            raise LatteError(f"{where}: {exc.message}", hint=exc.hint, exit_code=exc.exit_code) from exc
        report(what, done + 1, count, 0.0)


def bands(found: Sequence[Result]) -> dict[str, list[Band]]:
    """For each scenario the accuracy of its methods over virtual time."""
    panels: dict[str, list[Band]] = {}
    for result in found:
        band = [_band(result)] if result.runs else []
        panels.setdefault(result.scenario, []).extend(band)
    return panels


def _band(result: Result) -> Band:
    """Between evaluations an accuracy stays as it is; the band ends with the shortest run."""
    end_s = min(run.times_s[-1] for run in result.runs)
    times = np.unique([time_s for run in result.runs for time_s in run.times_s if time_s <= end_s])
    at = np.array([_held_accuracies(run, times) for run in result.runs])
    return Band(
        method=result.method,
        times_s=tuple(times.tolist()),
        median=tuple(np.median(at, axis=0).tolist()),
        low=tuple(at.min(axis=0).tolist()),
        high=tuple(at.max(axis=0).tolist()),
    )


def _held_accuracies(run: MethodRun, times: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> "list[float]":
    indices = np.searchsorted(np.array(run.times_s), times, side="right") - 1
    return [run.accuracies[index] for index in indices.tolist()]
