"""Runs: a method in a scenario with a seed, as a training that several runs may share, and its time on the clock."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from hashlib import sha256
from itertools import accumulate, product
from math import inf, isfinite, isinf
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from latte_cli.allocator import SubModel
from latte_cli.errors import LatteError
from latte_cli.federated import device, models
from latte_cli.federated.data import Examples
from latte_cli.federated.settings import FINAL_SHARE, FederationSettings
from latte_cli.federated.study import files
from latte_cli.federated.study.buffers import schedule_buffers
from latte_cli.federated.study.clock import DeviceWork, Tick, schedule_rounds
from latte_cli.federated.study.document import Scenario, Study, of_seed
from latte_cli.federated.study.files import RUNS, TRAININGS, Files
from latte_cli.federated.study.learners import Federation, device_accuracies, learner, personal_accuracy
from latte_cli.federated.study.methods import METHODS, Learning, StudyMethod
from latte_cli.federated.study.shares import ScenarioPrices, Shared, TunedOption
from latte_cli.federated.training import evaluate_network
from latte_cli.layers import Norm
from latte_cli.network import Network
from latte_cli.store import Store

_VERSION = 3
"""Goes up with every change of what trainings and runs compute, so that older files are left alone."""

_LATER: Mapping[str, Any] = {"proximal": 0.0, "buffer": 0, "over_selection": 1.0, "available": None}
"""Fields that came after files had been written, with the value that changes nothing, which no key depends on."""

_STATISTICS = 512  # chosen: four of the batches below
"""Examples that batch norms' statistics are estimated from before evaluating."""

_EVALUATED = 128  # chosen: fills a CPU's threads
"""The batch size of evaluations, which is only a matter of time."""

Advance = Callable[[int], None]
"""Hears how many rounds were trained."""


_Record = TypeVar("_Record")


@dataclass(frozen=True, kw_only=True)
class TrainingHistory:
    """The accuracies and losses (None: no number) of the network after some `rounds` (0: before the first).

    `personal` is the mean accuracy of devices' own models, where they have them; `failed` counts trainings of devices
    that came to nothing, the first for this `reason`. `by_device` is how good the network is in the end on each
    device's own mix of classes.
    """

    rounds: tuple[int, ...]
    accuracies: tuple[float, ...]
    losses: tuple[float | None, ...]
    personal: float | None
    failed: int
    reason: str = ""
    by_device: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MethodRun:
    """A method's accuracy over virtual time: `times_s` are the ends of the rounds whose `accuracies` are known.

    `idle` is the share of their time that devices waited; `late` and `gone` count trainings lost to the end of a round
    and to drop-outs and devices that went off; `devices` could take part at all. `by_device` is as in TrainingHistory.
    `void` counts rounds that changed nothing.
    """

    times_s: tuple[float, ...]
    accuracies: tuple[float, ...]
    idle: float
    late: int
    gone: int
    failed: int
    devices: int
    personal: float | None = None
    reason: str = ""
    by_device: tuple[float, ...] = ()
    void: int = 0

    @property
    def lowest_tenth(self) -> float | None:
        """The mean accuracy of the tenth of devices for whose mix of classes the network is worst; at least one."""
        if not self.by_device:
            return None
        worst = sorted(self.by_device)[: max(1, len(self.by_device) // 10)]
        return sum(worst) / len(worst)

    @property
    def accuracy(self) -> float:
        """The accuracy in the end."""
        return self.accuracies[-1]

    def time_s(self, accuracy: float) -> float:
        """When `accuracy` was reached first; infinite where it never was."""
        pairs = zip(self.times_s, self.accuracies, strict=True)
        return next((time_s for time_s, found in pairs if found >= accuracy), inf)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run that can be made: what each device does, the rounds on the clock, and the keys of its two files.

    It ends as soon as it is at the accuracy `until`, if that is given.
    """

    method: StudyMethod
    scenario: Scenario
    option: TunedOption
    seed: int
    shared: Shared
    ticks: tuple[Tick, ...]
    configuration: Mapping[str, Any]
    training: Mapping[str, Any]
    slow_from: int | None = None
    until: float | None = None

    @cached_property
    def key(self) -> str:
        """The name of the run's file."""
        return files.configuration_key(self.configuration)

    @cached_property
    def training_key(self) -> str:
        """The name of the file of its training."""
        return files.configuration_key(self.training)


class Workshop:
    """Plans and makes the runs of a study; what is in the folder is not made again.

    Raises LatteError as Prices does, and for data and a model that cannot be trained so.
    """

    def __init__(self, study: Study, store: Store, folder: Path) -> None:
        self.study = study
        self.prices = ScenarioPrices(study, store)
        self._runs, self._trainings = Files(folder, RUNS), Files(folder, TRAININGS)
        self._fleets = lru_cache(maxsize=None)(self._fleet)
        self._source = _digest(study.settings, self.prices.network)

    def plan_run(
        self,
        name: str,
        scenario: Scenario,
        option: TunedOption,
        seed: int,
        *,
        until: float | None = None,
        within_s: float = inf,
    ) -> Planned:
        """The run of the method `name` in a scenario, tuned to `option`.

        It ends at the accuracy `until`, if given, and with the round in which `within_s` are over.
        """
        method, settings = METHODS[name], self.study.settings
        fleet = self._fleets(scenario, seed)
        shared, budget_s = fleet.share_out(method, option), self.study.budget * fleet.slowest_s
        ticks = self._schedule(scenario, option, seed, shared, budget_s)
        slow_from = _first_slow(ticks, budget_s) if settings.final_rate < 1 else None
        ticks = ticks[: _rounds_within(ticks, within_s)]
        training = self._training_configuration(method, scenario, option, seed, shared, ticks, slow_from)
        training |= {} if until is None else {"until": until}
        configuration = {
            "version": _VERSION,
            "method": name,
            "scenario": _plain(asdict(scenario)),
            "option": _plain(asdict(option)),
            "seed": seed,
            "training": files.configuration_key(training),
            "limit_s": shared.limit_s,
            "seconds": {str(at): [each.round_s, each.first_s] for at, each in shared.shares.items()},
        }
        return Planned(
            method=method,
            scenario=scenario,
            option=option,
            seed=seed,
            shared=shared,
            ticks=ticks,
            configuration=configuration,
            training=training,
            slow_from=slow_from,
            until=until,
        )

    def _schedule(
        self, scenario: Scenario, option: TunedOption, seed: int, shared: Shared, budget_s: float
    ) -> tuple[Tick, ...]:
        settings = self.study.settings
        if option.buffer:
            schedule = partial(schedule_buffers, buffer=option.buffer)
        else:
            least_share = self.study.least_share
            schedule = partial(schedule_rounds, over_selection=option.over_selection, least_share=least_share)
        return schedule(
            shared.shares,
            scenario.availability,
            per_round=settings.per_round,
            rounds=settings.rounds,
            seed=seed,
            budget_s=budget_s,
        )

    def _every(self, option: TunedOption, devices: int) -> int:
        """After how many rounds, or aggregations of as many trainings, the network is evaluated."""
        if not option.buffer:
            return self.study.every
        return max(1, round(self.study.every * (self.study.settings.per_round or devices) / option.buffer))

    def _fleet(self, scenario: Scenario, seed: int) -> Any:
        try:
            return self.prices.fleet(scenario, [len(each) for each in self._examples(scenario, seed)])
        except LatteError as exc:
            message = f"scenario `{scenario.name}`: {exc.message}"
            raise LatteError(message, hint=exc.hint, exit_code=exc.exit_code) from exc

    def check_fleets(self, seeds: Sequence[int]) -> None:
        """Raise LatteError where the data cannot be spread over the devices of a scenario with one of the seeds.

        These are the tuning's too; nothing has been trained by then.
        """
        for scenario, seed in product(self.study.scenarios, (*self.study.tuning.seeds, *seeds)):
            self._fleets(scenario, seed)

    def _examples(self, scenario: Scenario, seed: int) -> Sequence[Examples]:
        settings, count = of_seed(self.study, seed), len(scenario.devices)
        nodes = ({"partition-id": at, "num-partitions": count} for at in range(count))
        return [device.device_examples(node, settings, self.prices.network)[0] for node in nodes]

    # Trainings

    def _training_configuration(
        self,
        method: StudyMethod,
        scenario: Scenario,
        option: TunedOption,
        seed: int,
        shared: Shared,
        ticks: Sequence[Tick],
        slow_from: int | None,
    ) -> dict[str, Any]:
        settings, rooted = self._with_roots(self._settings(method, option, seed))
        used = sorted({at for tick in ticks if not tick.void for at in tick.done})
        ordered = method.learning is Learning.ORDERED
        return {
            "version": _VERSION,
            "model": sha256(self.prices.model).hexdigest(),
            "small": dict(shared.small.widths) if shared.small else None,
            "data": {
                "source": self._source,
                "held_out": settings.held_out,
                "partition": settings.partition,
                "alpha": settings.alpha,
                "classes_each": settings.classes_each,
                "devices": len(scenario.devices),
            },
            "recipe": _plain(asdict(settings.recipe)),
            "batch": settings.batch,
            "seed": seed,
            "learning": method.learning,
            "channels": settings.method,
            "rule": settings.rule,
            "rooted": rooted,
            "by_data": method.by_data,
            "levels": [dict(each.widths) for each in self.prices.levels] if ordered else None,
            "sub_models": {str(at): _parts(shared.sub_models[at]) for at in used},
            "rounds": [None if tick.void else [_numbers(work) for work in tick.work] for tick in ticks],
            "server_momentum": settings.server_momentum,
            "slow_from": slow_from,
            "final_rate": settings.final_rate if slow_from is not None else 1.0,
            "every": self._every(option, len(shared.shares)),
        }

    def _settings(self, method: StudyMethod, option: TunedOption, seed: int) -> FederationSettings:
        """The settings that the method trains with: the study's own for LATTE's."""
        settings = replace(of_seed(self.study, seed), proximal=option.proximal)
        if method.channels is None:
            return settings
        return replace(settings, method=method.channels, rule=method.rule, masked=method.masked, scaled=method.scaled)

    def _with_roots(self, settings: FederationSettings) -> tuple[FederationSettings, bool]:
        """The settings, and whether sub-models are scaled by roots: where they are to be scaled and there are no norms,
        without which dividing by the share itself makes narrow ones diverge."""
        rooted = settings.scaled and not any(isinstance(layer, Norm) for layer in self.prices.network.layers)
        return (replace(settings, scaled=False), True) if rooted else (settings, False)

    def train(self, planned: Planned, advance: Advance = lambda rounds: None) -> TrainingHistory:
        """The run's training: what is in the folder, else made and written there."""
        known = self._trainings.read(planned.training_key)
        if known is None:
            found = self._make(planned, advance)
            known = {"training": asdict(found), "configuration": planned.training}
            self._trainings.write(planned.training_key, known)
        return _record(TrainingHistory, known["training"])

    def _make(self, planned: Planned, advance: Advance) -> TrainingHistory:
        settings, rooted = self._with_roots(self._settings(planned.method, planned.option, planned.seed))
        small = planned.shared.small
        whole = self.prices.network
        network = small.of(whole) if small else whole
        federation = Federation(
            network=network,
            settings=settings,
            method=planned.method,
            examples=self._examples(planned.scenario, planned.seed),
            sub_models=planned.shared.sub_models,
            rooted=rooted,
            levels=self.prices.levels if planned.method.learning is Learning.ORDERED else (),
            last_use={begun: number for number, tick in enumerate(planned.ticks) for begun in tick.versions},
        )
        training, held_out = device.whole(of_seed(self.study, planned.seed), whole)
        statistics = training.take(np.arange(min(_STATISTICS, len(training))))
        wide = models.network_from(self.prices.model, batch=_EVALUATED)
        wide = small.of(wide) if small else wide
        learning, failures = learner(federation), list[str]()
        scores = [(0, evaluate_network(wide, learning.whole, held_out, statistics=statistics))]
        every = self._every(planned.option, len(planned.shared.shares))
        for number, tick in enumerate(planned.ticks, start=1):
            slow = planned.slow_from is not None and number > planned.slow_from
            rate = settings.final_rate if slow else 1.0
            failed = [] if tick.void else learning.round(number - 1, tick.work, rate)
            failures += [reason for _, reason in failed]
            if number % every == 0 or number == len(planned.ticks):
                scores.append((number, evaluate_network(wide, learning.whole, held_out, statistics=statistics)))
            advance(number)
            if planned.until is not None and scores[-1][1].accuracy >= planned.until:
                break
        return TrainingHistory(
            rounds=tuple(number for number, _ in scores),
            accuracies=tuple(score.accuracy for _, score in scores),
            losses=tuple(score.loss if isfinite(score.loss) else None for _, score in scores),
            personal=personal_accuracy(learning, federation, held_out),
            failed=len(failures),
            reason=failures[0] if failures else "",
            by_device=device_accuracies(federation.examples, scores[-1][1].by_class),
        )

    # Runs

    def run(self, planned: Planned, advance: Advance = lambda rounds: None) -> MethodRun:
        """The run: what is in the folder, else made and written there."""
        known = self._runs.read(planned.key)
        if known is None:
            found = on_clock(self.train(planned, advance), planned.ticks, len(planned.shared.shares))
            known = {"run": asdict(found), "configuration": planned.configuration}
            self._runs.write(planned.key, known)
        return _record(MethodRun, known["run"])


def _first_slow(ticks: Sequence[Tick], budget_s: float) -> int:
    """The index of the first round with the final learning rate."""
    ends = [0.0, *accumulate(tick.duration_s for tick in ticks)]
    whole_s = min(budget_s, ends[-1])
    return next((at for at, began_s in enumerate(ends) if began_s >= (1 - FINAL_SHARE) * whole_s), len(ticks))


def _rounds_within(ticks: Sequence[Tick], within_s: float) -> int:
    """How many rounds begin before `within_s`."""
    begins = accumulate((tick.duration_s for tick in ticks[:-1]), initial=0.0)
    return sum(begun_s < within_s for begun_s in begins) if ticks else 0


def on_clock(training: TrainingHistory, ticks: Sequence[Tick], devices: int) -> MethodRun:
    """The accuracies of a training at the ends of its rounds."""
    ends = [0.0, *accumulate(tick.duration_s for tick in ticks)]
    there_s = sum((tick.duration_s - tick.off_s) * (len(tick.done) + len(tick.late)) for tick in ticks)
    return MethodRun(
        times_s=tuple(ends[number] for number in training.rounds),
        accuracies=training.accuracies,
        idle=sum(tick.waited_s for tick in ticks) / there_s if there_s else 0.0,
        late=sum(len(tick.late) for tick in ticks),
        gone=sum(len(tick.gone) for tick in ticks),
        failed=training.failed,
        devices=devices,
        personal=training.personal,
        reason=training.reason,
        by_device=training.by_device,
        void=sum(tick.void for tick in ticks),
    )


def _record(kind: Callable[..., _Record], fields: Mapping[str, Any]) -> _Record:
    """The record with these fields, as JSON has them."""
    return kind(**{name: tuple(each) if isinstance(each, list) else each for name, each in fields.items()})


def _digest(settings: FederationSettings, network: Network) -> str:
    """What the data are called in configurations: a name that packages ship, else the hash of what is in the folder."""
    if not Path(settings.data).is_dir():
        return settings.data
    training, _ = device.whole(replace(settings, held_out=0.0), network)
    clients = b"" if training.clients is None else training.clients.tobytes()
    return sha256(training.images.tobytes() + training.labels.tobytes() + clients).hexdigest()


def _numbers(work: DeviceWork) -> list[int]:
    return [work.device, work.steps, *([] if work.version is None else [work.version])]


def _parts(sub_model: SubModel) -> dict[str, Any]:
    return {"widths": dict(sub_model.widths), "dropped": list(sub_model.dropped)}


def _plain(value: Any) -> Any:
    """`value` as JSON has it: tuples as lists, what is infinite as None; without fields of _LATER that are not used."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if name not in _LATER or each != _LATER[name]}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and isinf(value) else value
