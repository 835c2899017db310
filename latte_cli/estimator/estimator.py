"""The estimator: a network's calls priced on one device, whoever chooses their algorithms, under any limits."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import hypot, inf
from typing import TYPE_CHECKING, Protocol

from latte_cli import rates
from latte_cli.algorithms import Algorithm
from latte_cli.devices import Device
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.estimator.calibration import Calibration, calibrated, calibration_pairs
from latte_cli.estimator.clocks import one_clock, two_clocks
from latte_cli.estimator.doubts import Warn, doubts, how_to_measure
from latte_cli.estimator.intervals import intervals
from latte_cli.estimator.memory import Memory, Place, memory, moment_of
from latte_cli.estimator.records import LOOKUP, Estimate, LayerTime
from latte_cli.estimator.steps import LOSS, UPDATE, Step, Work, training_step
from latte_cli.layers import Convolution, Phase
from latte_cli.lookup import Lookup, Pair, Source, Timing, workspace_bytes
from latte_cli.network import Network
from latte_cli.network.training import folded_norms
from latte_cli.store import Store
from latte_cli.strategies import (
    NO_LIMITS,
    OWN,
    Call,
    Limits,
    Query,
    Strategy,
    by_name,
    fixed_name,
    framework_default,
    ranked,
)
from latte_cli.tasks import Layout, Precision, Task

if TYPE_CHECKING:
    from latte_cli.selector import Preferences, Selector
    from latte_cli.time_model import TimeModel

CALIBRATED = (LOOKUP, "xgboost")
"""The estimators that add up layers as they were measured, and so are held against whole networks."""

NO_ALGORITHM = Algorithm(library="", name="none")
"""What computes a layer that costs nothing."""


class Predicting(Protocol):
    """What predicts the times of tasks."""

    def predicted(self, tasks: Sequence[Task], device: Device) -> dict[Task, Timing]:
        """A timing of each task that it can say something of."""


class DoesNotFit(LatteError):
    """A step that needs more memory than the limit, whatever algorithms are taken; `least_bytes` is what it needs."""

    def __init__(self, network: Network, least_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"a step of `{network.name}` at batch {network.batch_size} needs at least {least_bytes / 2**20:,.0f} MiB "
            f"of memory, more than the limit of {limit_bytes / 2**20:,.0f} MiB",
            hint="a smaller `--batch-size` or a sub-model (`latte allocate`) needs less; `--accumulate` makes up for a "
            "small batch",
            exit_code=ExitCode.EXCEEDED,
        )
        self.least_bytes = least_bytes


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What does not depend on who chooses: a step's calls, their timings known and predicted, and the memory held."""

    network: Network
    step: Step
    works: tuple[Work, ...]
    known: dict[Pair, tuple[Timing, ...]]
    memory: Memory
    live: dict[Place, int]
    versions: int
    predicted: dict[tuple[Pair, Algorithm], Timing | None] = field(default_factory=dict)
    candidates: dict[Pair, tuple[Timing, ...]] = field(default_factory=dict)
    preferences: dict[Pair, "Preferences"] = field(default_factory=dict)
    least: list[int] = field(default_factory=list)
    made: dict[tuple[object, ...], tuple[Estimate, Sequence[Timing]]] = field(default_factory=dict)

    @cached_property
    def alone(self) -> int:
        """How many phases of convolutions were timed as the framework runs them, and in no other way."""
        return sum(
            isinstance(layer, Convolution) and all(timing.task.algorithm in OWN for timing in timings)
            for (layer, _), timings in self.known.items()
        )


class Estimator:
    """Estimates networks on one device; what was read of the store is kept between networks.

    `threads` None takes whichever number has most rows, `calibration` None that of the device's own rows; `strategy`
    and `limits` are for `estimate`; `note` hears what takes a while.
    Raises LatteError for a device or a strategy there is none of.
    """

    def __init__(
        self,
        store: Store,
        slug: str,
        *,
        precision: Precision = Precision.FP32,
        layout: Layout = Layout.NCHW,
        threads: int | None = None,
        strategy: str = "latte",
        estimator: str = LOOKUP,
        limits: Limits = NO_LIMITS,
        calibration: Calibration | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._store, self._slug, self._note = store, slug, note
        self.device = store.device(slug)
        self.estimator = estimator
        self._strategy, self._limits = by_name(strategy), limits
        self._lookup = Lookup(store, slug, precision=precision, layout=layout, threads=threads)
        self._unselected = False
        self._calibration = calibration or Calibration()
        self._uncalibrated = calibration is None and estimator in CALIBRATED

    @property
    def calibration(self) -> Calibration:
        """What the device's rows tell of calls within networks."""
        if self._uncalibrated:
            self._measured(calibration_pairs(self.device.kind))
        return self._calibration

    def estimate(self, network: Network, step: Step | str = "sgd", allow_unknown: bool = False) -> Estimate:
        """Estimate a training step of `network`, or one with the optimizer that `step` names.

        Raises LatteError for a layer that can be neither looked up nor predicted, unless `allow_unknown`, and
        DoesNotFit.
        """
        return next(self.variants(network, step, allow_unknown))

    def variants(
        self,
        network: Network,
        step: Step | str = "sgd",
        allow_unknown: bool = False,
        *,
        strategies: Sequence[Strategy] = (),
        limits: Sequence[Limits] = (),
    ) -> Iterator[Estimate]:
        """The same step under each of the strategies and, for each, each of the limits; default: the estimator's own.

        A strategy chooses on the same timings each time. Raises as `estimate` does; of several limits those that the
        step does not fit are left out.
        """
        step = Step(optimizer=step) if isinstance(step, str) else step
        if step.cuda_graph and not self.device.kind.captures_graphs:
            raise LatteError(
                f"`{self._slug}` runs no CUDA graphs", hint="leave out `--cuda-graph`", exit_code=ExitCode.USAGE
            )
        prepared = self._prepared(network, step)
        refused: DoesNotFit | None = None
        made = 0
        for strategy in strategies or (self._strategy,):
            for one in limits or (self._limits,):
                try:
                    yield self._priced(prepared, strategy, one, allow_unknown)
                    made += 1
                except DoesNotFit as exc:
                    refused = exc
        if refused and not made:
            raise refused

    def calls(self, network: Network, step: Step, works: Sequence[Work]) -> list[LayerTime]:
        """The rows of `works`, calls of sub-models of `network`, as the estimator's strategy has them run in a step.

        The limit of a call's workspace holds; that of the memory, which is one of whole steps, does not. Raises
        LatteError for what can be neither looked up nor predicted.
        """
        prepared = self._of_works(network, step, works, Memory(timeline=()))
        limits = Limits(workspace_bytes=self._limits.workspace_bytes)
        calls = self._calls(prepared, [work for work in works if not work.layer.free], limits)
        choices, confidences = self._choices(prepared, self._strategy, calls)
        rows, missing = self._rows(prepared, calls, choices, confidences)
        if missing:
            raise self._missing(missing)
        return [part for part, _ in rows]

    def _prepared(self, network: Network, step: Step) -> _Prepared:
        works = tuple(training_step(network, step))
        return self._of_works(network, step, works, memory(network, step, self._lookup.precision))

    def _of_works(self, network: Network, step: Step, works: Sequence[Work], held: Memory) -> _Prepared:
        pairs = tuple(dict.fromkeys(work.pair for work in works if not work.layer.free))
        known = self._measured(pairs)
        known |= {pair: found for pair in pairs if pair not in known and (found := self._lookup.interpolated(pair))}
        rankings = self._lookup.rankings(known)
        known = {pair: tuple(ranked(timings, rankings[pair])) for pair, timings in known.items()}
        return _Prepared(
            network=network,
            step=step,
            works=tuple(works),
            known=known,
            memory=held,
            live=held.live_bytes(),
            versions=len(self._lookup.versions()),
        )

    def _priced(self, prepared: _Prepared, strategy: Strategy, limits: Limits, allow_unknown: bool) -> Estimate:
        self._unselected = False
        works = [work for work in prepared.works if not work.layer.free]
        calls = self._calls(prepared, works, limits)
        choices, confidences = self._choices(prepared, strategy, calls)
        key = (strategy.name, *choices)
        if key not in prepared.made:
            prepared.made[key] = self._made(prepared, strategy, calls, choices, confidences, allow_unknown)
        made, timings = prepared.made[key]  # under other limits the choices may be the same
        return replace(made, limits=limits, warnings=tuple(self._doubts(prepared, made, timings, strategy, limits)))

    def _made(
        self,
        prepared: _Prepared,
        strategy: Strategy,
        calls: Sequence[Call],
        choices: Sequence[Algorithm],
        confidences: Mapping[Call, float],
        allow_unknown: bool,
    ) -> tuple[Estimate, Sequence[Timing]]:
        """The estimate for these choices, without its doubts, and the timings that it rests on."""
        priced, names = self._rows(prepared, calls, choices, confidences)
        missing = (*names, *(f"operator {name}" for name in prepared.network.unknown))
        if missing and not allow_unknown:
            raise self._missing(missing)
        return self._composed(prepared, strategy, priced, missing), [timing for _, timing in priced if timing]

    def _rows(
        self,
        prepared: _Prepared,
        calls: Sequence[Call],
        choices: Sequence[Algorithm],
        confidences: Mapping[Call, float],
    ) -> tuple[list[tuple[LayerTime, Timing | None]], tuple[str, ...]]:
        """The row of each call with the timing that it rests on, and the names of those that have none."""
        found = zip(calls, self._timings(prepared, calls, choices), strict=True)
        priced, names = [], []
        for work in prepared.works:
            call, timing = (None, None) if work.layer.free else next(found)
            if call and not timing:
                names.append(f"{work.name} {work.phase} ({work.layer.kind})")
                continue
            confidence = confidences.get(call) if call else None
            priced.append((self._part(prepared.step, work, timing, confidence), timing))
        return priced, tuple(dict.fromkeys(names))

    def _doubts(
        self, prepared: _Prepared, made: Estimate, timings: Sequence[Timing], strategy: Strategy, limits: Limits
    ) -> Iterator[Warn]:
        spent_s = sum(part.count * part.device_s for part in made.parts)
        waiting = 1 - spent_s / made.step_s if self.device.kind.queued and made.step_s else 0.0
        return doubts(
            timings,
            strategy=strategy,
            limits=limits,
            kind=self.device.kind,
            missing=len(made.missing),
            versions=prepared.versions,
            unselected=self._unselected,
            alone=prepared.alone,
            needed_bytes=made.memory_bytes,
            memory_share=made.memory_bytes / (self.device.memory_bytes or inf),
            norms_folded=folded_norms(made.network),
            waiting_share=waiting,
        )

    # What each call may take, what is chosen for it, how long that takes

    def _calls(self, prepared: _Prepared, works: Sequence[Work], limits: Limits) -> list[Call]:
        """The calls with the workspace that each may take: what one call may, and what is free at that point."""
        if limits.memory_bytes is None:
            return [Call(pair=work.pair, limit_bytes=limits.workspace_bytes) for work in works]
        if self._least_bytes(prepared) > limits.memory_bytes:
            raise DoesNotFit(prepared.network, self._least_bytes(prepared), limits.memory_bytes)
        live, most = prepared.live, limits.memory_bytes
        cap = most if limits.workspace_bytes is None else limits.workspace_bytes
        return [Call(pair=work.pair, limit_bytes=min(cap, most - live.get(_place(work), 0))) for work in works]

    def _least_bytes(self, prepared: _Prepared) -> int:
        """The least that the step holds at its peak, if each call takes the algorithm with the least workspace."""
        if not prepared.least:
            prepared.least.append(prepared.memory.with_workspaces(self._least_workspaces(prepared)).peak.live_bytes)
        return prepared.least[0]

    def _least_workspaces(self, prepared: _Prepared) -> dict[Place, int]:
        works = [work for work in prepared.works if work.name not in (LOSS, UPDATE)]
        known = {
            (work.name, work.phase): min(map(workspace_bytes, timings))
            for work in works
            if (timings := prepared.known.get(work.pair))
        }
        others = [work for work in works if work.pair not in prepared.known and isinstance(work.layer, Convolution)]
        if not others or self._selector is None:
            return known
        preferences = self._preferences(prepared, self._selector, [work.pair for work in others])
        learned = {
            (work.name, work.phase): min(preferences[work.pair].workspaces().values(), default=0) for work in others
        }
        return known | learned

    def _choices(
        self, prepared: _Prepared, strategy: Strategy, calls: Sequence[Call]
    ) -> tuple[Sequence[Algorithm], Mapping[Call, float]]:
        """What the strategy takes, and the selector's confidence in the choices that it was asked for."""
        self._check_name(strategy, prepared)
        confidences: dict[Call, float] = {}
        query = Query(
            calls=calls,
            timings=prepared.known,
            precision=self._lookup.precision,
            select=lambda untimed: self._selected(prepared, untimed, confidences),
            predict=lambda pairs: self._candidates(prepared, pairs),
            run_before=self._lookup.run_before,
            lists=self._lookup.engine_lists(prepared.known),
        )
        return strategy.choose(query), confidences

    def _timings(self, prepared: _Prepared, calls: Sequence[Call], choices: Sequence[Algorithm]) -> list[Timing | None]:
        """Each call's timing: measured, else interpolated, else predicted; or predicted by the estimator's rule."""
        if self.estimator != LOOKUP:
            wanted = [(call.pair, algorithm) for call, algorithm in zip(calls, choices, strict=True)]
            predicted = self._predicted(wanted, self._rule)
            return [predicted.get(one) for one in wanted]
        found = [
            _of(prepared.known.get(call.pair, ()), algorithm) for call, algorithm in zip(calls, choices, strict=True)
        ]
        wanted = [
            (call.pair, algorithm)
            for call, algorithm, timing in zip(calls, choices, found, strict=True)
            if timing is None
        ]
        fresh = [one for one in dict.fromkeys(wanted) if one not in prepared.predicted]
        if fresh:
            predicted = self._with_workspaces(prepared, self._predicted(fresh, self._time_model))
            prepared.predicted.update({one: predicted.get(one) for one in fresh})
        return [
            timing or prepared.predicted.get((call.pair, algorithm))
            for call, algorithm, timing in zip(calls, choices, found, strict=True)
        ]

    def _measured(self, pairs: Sequence[Pair]) -> dict[Pair, tuple[Timing, ...]]:
        """The measured timings of `pairs`; the first reading brings the calibration too, if it is used."""
        beside = calibration_pairs(self.device.kind) if self._uncalibrated else ()
        found = self._lookup.measured(pairs, beside)
        if self._uncalibrated:
            self._calibration, self._uncalibrated = calibrated(found, self.device.kind), False
        return {pair: found[pair] for pair in pairs if pair in found}

    def _selected(
        self, prepared: _Prepared, calls: Sequence[Call], confidences: dict[Call, float]
    ) -> Sequence[Algorithm]:
        """What the selector prefers among what fits each call; how sure it is goes into `confidences`."""
        if self._selector is None:
            self._unselected = True
            return framework_default(calls)
        preferences = self._preferences(prepared, self._selector, [call.pair for call in calls])
        choices = []
        for call in calls:
            algorithm, confidence = preferences[call.pair].best(call.limit_bytes)
            confidences[call] = confidence
            choices.append(algorithm)
        return choices

    def _preferences(
        self, prepared: _Prepared, selector: "Selector", pairs: Sequence[Pair]
    ) -> dict[Pair, "Preferences"]:
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in prepared.preferences]
        if fresh:
            ranked = selector.rank(fresh, self._lookup.settings(), self.device)
            prepared.preferences.update(zip(fresh, ranked, strict=True))
        return prepared.preferences

    @cached_property
    def _selector(self) -> "Selector | None":
        from latte_cli import selector

        return selector.find(self._store, self._slug)

    def _candidates(self, prepared: _Prepared, pairs: Sequence[Pair]) -> dict[Pair, tuple[Timing, ...]]:
        """Predicted timings of every algorithm that ran layers of a pair's sort, with the workspaces it may take."""
        fresh = [pair for pair in pairs if pair not in prepared.candidates]
        wanted = [(pair, algorithm) for pair in fresh for algorithm in sorted(self._lookup.run_before(pair))]
        predicted = self._predicted(wanted, self._time_model) if wanted else {}
        found: dict[Pair, list[Timing]] = {pair: [] for pair in fresh}
        for (pair, _), timing in self._with_workspaces(prepared, predicted).items():
            found[pair].append(timing)
        rankings = self._lookup.rankings(found)
        prepared.candidates.update({pair: tuple(ranked(timings, rankings[pair])) for pair, timings in found.items()})
        return {pair: prepared.candidates[pair] for pair in pairs}

    def _with_workspaces(
        self, prepared: _Prepared, predicted: dict[tuple[Pair, Algorithm], Timing]
    ) -> dict[tuple[Pair, Algorithm], Timing]:
        """Predicted timings with the workspaces that the selector has learned, where there is one."""
        pairs = [pair for pair, _ in predicted if isinstance(pair[0], Convolution)]
        if not pairs or self._selector is None:
            return predicted
        preferences = self._preferences(prepared, self._selector, pairs)
        needs = {pair: preferences[pair].workspaces() for pair in dict.fromkeys(pairs)}
        return {
            (pair, algorithm): replace(timing, workspace_bytes=needs.get(pair, {}).get(algorithm))
            for (pair, algorithm), timing in predicted.items()
        }

    def _predicted(
        self, wanted: Sequence[tuple[Pair, Algorithm]], model: "Predicting | None"
    ) -> dict[tuple[Pair, Algorithm], Timing]:
        if not wanted or model is None:
            return {}
        settings = self._lookup.settings()
        tasks = {
            (pair, algorithm): Task(layer=pair[0], phase=pair[1], algorithm=algorithm, settings=settings)
            for pair, algorithm in wanted
        }
        predicted = model.predicted(tuple(tasks.values()), self.device)
        return {one: predicted[task] for one, task in tasks.items() if task in predicted}

    @cached_property
    def _rule(self) -> "Predicting | None":
        """What the estimator's name stands for, fitted on the device's rows under these settings."""
        if self.estimator in rates.AMOUNTS:
            rows = [timing for timing in self._lookup.everything() if self._lookup.matches(timing.task)]
            return rates.fit(rates.AMOUNTS[self.estimator], [row for row in rows if not row.task.layer.free])
        if self._time_model and self.estimator == "roofline":
            return self._time_model.roofline
        return self._time_model

    @cached_property
    def _time_model(self) -> "TimeModel | None":
        from latte_cli.time_model import time_model

        return time_model(self._store, self._slug, self._lookup.everything, self._note)

    def _check_name(self, strategy: Strategy, prepared: _Prepared) -> None:
        """An algorithm that is fixed by name must be one that the device has run."""
        name = fixed_name(strategy.name)
        timings = (timing for found in prepared.known.values() for timing in found)
        if name is None or name.upper() in {timing.task.algorithm.name.upper() for timing in timings}:
            return
        names = {timing.task.algorithm.name for timing in self._lookup.everything()}
        if name.upper() not in {known.upper() for known in names}:
            raise unknown("algorithm", name, names)

    def _missing(self, missing: Sequence[str]) -> LatteError:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        return LatteError(
            f"`{self._slug}` has nothing to price {some} with",
            hint=f"{how_to_measure(self.device.kind)}; `--allow-unknown` leaves them out",
        )

    # Calls become a step

    def _part(self, step: Step, work: Work, timing: Timing | None, confidence: float | None) -> LayerTime:
        """The row of one call, as it takes within a step; a layer that only changes the shape takes no time."""
        calibration = Calibration() if step.cuda_graph else self._calibration  # a graph has no gaps between its calls
        if timing is None:
            return LayerTime(
                device_s=0.0,
                host_s=0.0,
                low_s=0.0,
                high_s=0.0,
                low_80_s=0.0,
                high_80_s=0.0,
                name=work.name,
                layer=work.layer,
                phase=work.phase,
                algorithm=NO_ALGORITHM,
                layout=self._lookup.layout,
                workspace_bytes=0,
                source=Source.MEASURED,
                count=work.count,
            )
        factor = calibration.factor(work.name, work.phase, timing.device_s)
        return LayerTime(
            name=work.name,
            layer=work.layer,
            phase=work.phase,
            algorithm=timing.task.algorithm,
            layout=self._lookup.layout,
            device_s=factor * timing.device_s,
            host_s=calibration.host_factor(work.phase) * timing.host_s,
            low_s=factor * timing.low_s,
            high_s=factor * timing.high_s,
            low_80_s=factor * timing.low_80_s,
            high_80_s=factor * timing.high_80_s,
            workspace_bytes=timing.workspace_bytes,
            source=timing.source,
            count=work.count,
            power_w=timing.power_w,
            confidence=confidence,
            notes=timing.notes,
        )

    def _transfer_s(self, network: Network) -> float | None:
        pair = (network.transfer(), Phase.FORWARD)
        if not self.device.kind.own_memory:
            return None
        found = self._lookup.measured((pair,)).get(pair) or self._lookup.interpolated(pair)
        return found[0].device_s if found else None

    def _composed(
        self,
        prepared: _Prepared,
        strategy: Strategy,
        priced: Sequence[tuple[LayerTime, Timing | None]],
        missing: tuple[str, ...],
    ) -> Estimate:
        network, step = prepared.network, prepared.step
        parts = tuple(part for part, _ in priced)
        queued = self.device.kind.queued
        spans = two_clocks(parts, asked_at_once=step.cuda_graph) if queued else one_clock(parts)
        step_s = spans.forward_s + spans.backward_s + spans.update_s + spans.other_s
        waiting = 1 - sum(part.count * part.device_s for part in parts) / step_s if queued and step_s else 0.0
        spread = hypot(self._calibration.spread, waiting * self._calibration.host_spread)
        (low_s, high_s), (low_80_s, high_80_s) = intervals(priced, step_s, spread)
        held = prepared.memory.with_workspaces(_workspaces(parts))
        return Estimate(
            device=self.device,
            network=network,
            strategy=strategy.name,
            settings=self._lookup.settings(),
            step=step,
            parts=parts,
            forward_s=spans.forward_s,
            backward_s=spans.backward_s,
            update_s=spans.update_s,
            other_s=spans.other_s,
            step_low_s=low_s,
            step_high_s=high_s,
            step_low_80_s=low_80_s,
            step_high_80_s=high_80_s,
            memory=held,
            transfer_s=self._transfer_s(network),
            estimator=self.estimator,
            missing=missing,
        )


def _of(timings: Iterable[Timing], algorithm: Algorithm) -> Timing | None:
    return next((timing for timing in timings if timing.task.algorithm == algorithm), None)


def _place(work: Work) -> Place:
    return work.name, moment_of(work.phase)


def _workspaces(parts: Iterable[LayerTime]) -> dict[Place, int]:
    return {
        (part.name, part.phase): part.workspace_bytes
        for part in parts
        if part.workspace_bytes and part.name not in (LOSS, UPDATE)
    }
