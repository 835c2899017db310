"""Layer times become the time of a step, an epoch and a round, with an interval on each."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import hypot, inf, log, sqrt
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from latte_cli import rates
from latte_cli.algorithms import Algorithm
from latte_cli.backends import Device
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.estimator.calibration import Calibration, calibrated, calibration_pairs
from latte_cli.estimator.clocks import one_clock, two_clocks
from latte_cli.estimator.doubts import Warn, doubts
from latte_cli.estimator.memory import Memory, memory
from latte_cli.estimator.steps import ACCUMULATION, LOSS, LOSSES, OPTIMIZERS, UPDATE, Step, Work, training_step
from latte_cli.layers import Layer, Phase
from latte_cli.lookup import Z80, Z95, Lookup, NotProfiled, Pair, Source, Timing, profile
from latte_cli.network import Network, load
from latte_cli.network.training import folded_norms
from latte_cli.schedule import Schedule
from latte_cli.store import Store, open_store
from latte_cli.strategies import Query, by_name, fixed_name, framework_default
from latte_cli.tasks import Layout, Precision, Settings, Task

if TYPE_CHECKING:
    from latte_cli.selector import Selector
    from latte_cli.time_model import TimeModel

__all__ = [
    "ACCUMULATION",
    "ESTIMATORS",
    "LOSS",
    "LOSSES",
    "OPTIMIZERS",
    "UPDATE",
    "Estimate",
    "Estimator",
    "LayerTime",
    "Memory",
    "Source",
    "Step",
    "Warn",
    "check_names",
    "estimated",
]

LOOKUP = "lookup"
ESTIMATORS = (LOOKUP, "xgboost", "roofline", *rates.AMOUNTS)
"""Where times come from: `lookup` takes what was measured, else between neighbours, else what `xgboost` predicts; the
others predict everything."""

CALIBRATED = (LOOKUP, "xgboost")
"""The estimators that add up layers as they were measured, and so are held against whole networks."""

NO_ALGORITHM = Algorithm(library="", name="none")
"""What computes a layer that costs nothing."""

_COMMON_SPREAD = 0.05  # a whole model against itself, minutes later: facts of the reference machine


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """The time of one phase of one node, in seconds, with its 95 and 80 % intervals; a step does it `count` times."""

    name: str
    layer: Layer
    phase: Phase
    algorithm: Algorithm
    layout: Layout
    device_s: float
    host_s: float
    low_s: float
    high_s: float
    low_80_s: float
    high_80_s: float
    workspace_bytes: int | None
    source: Source
    count: int = 1
    power_w: float | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The time of a training step of `network` on `device`; times in seconds, memory in bytes.

    `parts` holds a row per node and phase, the loss and the update included; `missing` names what could not be priced.
    The step's intervals cover 95 and 80 % of steps measured on that device. `transfer_s` is the copy of a batch to a
    GPU, which overlaps with the step before if the data loader pins its memory; None where it was not measured.
    """

    device: Device
    network: Network
    strategy: str
    settings: Settings
    step: Step
    parts: tuple[LayerTime, ...]
    forward_s: float
    backward_s: float
    update_s: float
    other_s: float
    step_low_s: float
    step_high_s: float
    step_low_80_s: float
    step_high_80_s: float
    memory: Memory
    transfer_s: float | None = None
    estimator: str = LOOKUP
    missing: tuple[str, ...] = ()
    warnings: tuple[Warn, ...] = ()

    @property
    def step_s(self) -> float:
        """One training step: forward, loss, backward and update."""
        return self.forward_s + self.backward_s + self.update_s + self.other_s

    @property
    def optimizer(self) -> str:
        """The name of the optimizer."""
        return self.step.optimizer

    @property
    def memory_bytes(self) -> int:
        """The most bytes that the step holds at once."""
        return self.memory.peak.live_bytes

    @property
    def energy_j(self) -> float | None:
        """The energy of a step on the device, in joules: the mean power around its calls, by their time, for as long
        as the step takes; None where it was not read for most of that time."""
        known = [(part.count * part.device_s, part.power_w) for part in self.parts if part.power_w is not None]
        known_s, total_s = sum(time_s for time_s, _ in known), sum(part.count * part.device_s for part in self.parts)
        if not known_s or known_s < total_s / 2:
            return None
        return self.step_s * sum(time_s * power_w for time_s, power_w in known) / known_s

    @property
    def samples_per_step(self) -> int:
        """The samples that one update learns from."""
        return self.network.batch_size * self.step.accumulate

    def epoch_s(self, samples: int) -> float:
        """One pass over `samples` samples; the last, smaller batch counts as a whole one."""
        return (Schedule(samples=samples).epoch_steps(self.samples_per_step) or 0) * self.step_s


class Predicting(Protocol):
    """What predicts the times of tasks."""

    def predicted(self, tasks: Sequence[Task], device: Device) -> dict[Task, Timing]:
        """A timing of each task that it can say something of."""


class Estimator:
    """Estimates networks on one device under one strategy; what was read of the store is kept between networks.

    `threads` None takes whichever number has most rows, `calibration` None that of the device's own rows; `note` hears
    what takes a while. Raises LatteError for a device or a strategy there is none of.
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
        workspace_limit_bytes: int | None = None,
        calibration: Calibration | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._store, self._slug, self._note = store, slug, note
        self.device = store.device(slug)
        self.strategy, self.estimator = strategy, estimator
        self._choose = by_name(strategy)
        self._limit = workspace_limit_bytes
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

        Raises LatteError for a layer that can be neither looked up nor predicted, unless `allow_unknown`.
        """
        step = Step(optimizer=step) if isinstance(step, str) else step
        if step.cuda_graph and self.device.kind != "cuda":
            raise LatteError(f"`{self._slug}` runs no CUDA graphs", exit_code=ExitCode.USAGE)
        works = tuple(training_step(network, step))
        pairs = tuple(dict.fromkeys(work.pair for work in works if not work.layer.free))
        timings = self._timings(pairs)
        priced = [work for work in works if work.layer.free or work.pair in timings]
        unpriced = (work for work in works if not work.layer.free and work.pair not in timings)
        names = dict.fromkeys(f"{work.name} {work.phase} ({work.layer.kind})" for work in unpriced)
        missing = (*names, *(f"operator {name}" for name in network.unknown))
        if missing and not allow_unknown:
            raise self._missing(missing)
        calibration = Calibration() if step.cuda_graph else self._calibration  # a graph has no gaps between its calls
        parts = tuple(_part(work, timings.get(work.pair), self._lookup.layout, calibration) for work in priced)
        return self._composed(network, step, parts, timings, missing)

    def _timings(self, pairs: Sequence[Pair]) -> dict[Pair, Timing]:
        """Each pair's timing under the strategy: measured, else interpolated, else predicted."""
        self._unselected = False
        known = self._measured(pairs)
        self._check_name(timing for found in known.values() for timing in found)
        known |= {pair: found for pair in pairs if pair not in known and (found := self._lookup.interpolated(pair))}
        choices = self._choose(
            Query(
                pairs=pairs,
                timings=known,
                workspace_limit_bytes=self._limit,
                select=self._selected,
                run_before=self._lookup.run_before,
            )
        )
        if self.estimator != LOOKUP:
            return self._predicted(choices, self._rule)
        chosen = {pair: _of(known.get(pair, ()), algorithm) for pair, algorithm in choices.items()}
        untimed = {pair: choices[pair] for pair in pairs if chosen[pair] is None}
        predicted = self._predicted(untimed, self._time_model) if untimed else {}
        return {pair: timing for pair in pairs if (timing := chosen[pair] or predicted.get(pair))}

    def _measured(self, pairs: Sequence[Pair]) -> dict[Pair, tuple[Timing, ...]]:
        """The measured timings of `pairs`; the first reading brings the calibration too, if it is used."""
        beside = calibration_pairs(self.device.kind) if self._uncalibrated else ()
        found = self._lookup.measured(pairs, beside)
        if self._uncalibrated:
            self._calibration, self._uncalibrated = calibrated(found, self.device.kind), False
        return {pair: found[pair] for pair in pairs if pair in found}

    def _selected(self, pairs: Sequence[Pair]) -> Sequence[Algorithm]:
        if self._selector is None:
            self._unselected = True
            return framework_default(pairs)
        choices = self._selector.choose(pairs, self._lookup.settings(), self.device, workspace_limit_bytes=self._limit)
        return [choice.algorithm for choice in choices]

    @cached_property
    def _selector(self) -> "Selector | None":
        from latte_cli import selector

        return selector.find(self._store, self._slug)

    def _predicted(self, choices: Mapping[Pair, Algorithm], model: "Predicting | None") -> dict[Pair, Timing]:
        if not choices or model is None:
            return {}
        settings = self._lookup.settings()
        tasks = {
            pair: Task(layer=pair[0], phase=pair[1], algorithm=algorithm, settings=settings)
            for pair, algorithm in choices.items()
        }
        predicted = model.predicted(tuple(tasks.values()), self.device)
        return {pair: predicted[task] for pair, task in tasks.items() if task in predicted}

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

    def _check_name(self, timings: Iterable[Timing]) -> None:
        """An algorithm that is fixed by name must be one that the device has run."""
        name = fixed_name(self.strategy)
        if name is None or name.upper() in {timing.task.algorithm.name.upper() for timing in timings}:
            return
        names = {timing.task.algorithm.name for timing in self._lookup.everything()}
        if name.upper() not in {known.upper() for known in names}:
            raise unknown("algorithm", name, names)

    def _missing(self, missing: Sequence[str]) -> LatteError:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        return LatteError(
            f"`{self._slug}` has nothing to price {some} with",
            hint="`latte profile --suite network FILE` measures a model's layers; --allow-unknown leaves them out",
        )

    def _transfer_s(self, network: Network) -> float | None:
        pair = (network.transfer(), Phase.FORWARD)
        if self.device.kind != "cuda":
            return None
        found = self._lookup.measured((pair,)).get(pair) or self._lookup.interpolated(pair)
        return found[0].device_s if found else None

    def _composed(
        self,
        network: Network,
        step: Step,
        parts: tuple[LayerTime, ...],
        timings: Mapping[Pair, Timing],
        missing: tuple[str, ...],
    ) -> Estimate:
        queued = self.device.kind == "cuda"
        spans = two_clocks(parts, asked_at_once=step.cuda_graph) if queued else one_clock(parts)
        step_s = spans.forward_s + spans.backward_s + spans.update_s + spans.other_s
        waiting = 1 - sum(part.count * part.device_s for part in parts) / step_s if queued and step_s else 0.0
        spread = hypot(self._calibration.spread, waiting * self._calibration.host_spread)
        (low_s, high_s), (low_80_s, high_80_s) = _intervals(parts, timings, step_s, spread)
        held = memory(network, step, self._lookup.precision, _workspaces(parts))
        return Estimate(
            device=self.device,
            network=network,
            strategy=self.strategy,
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
            warnings=tuple(
                doubts(
                    [timing for part in parts if (timing := timings.get((part.layer, part.phase)))],
                    strategy=self.strategy,
                    workspace_limit_bytes=self._limit,
                    missing=len(missing),
                    versions=len(self._lookup.versions()),
                    unselected=self._unselected,
                    memory_share=held.peak.live_bytes / (self.device.memory_bytes or inf),
                    norms_folded=folded_norms(network),
                    waiting_share=waiting,
                )
            ),
        )


def _of(timings: Iterable[Timing], algorithm: Algorithm) -> Timing | None:
    return next((timing for timing in timings if timing.task.algorithm == algorithm), None)


def _part(work: Work, timing: Timing | None, layout: Layout, calibration: Calibration) -> LayerTime:
    """The row of one call, as it takes within a step; a layer that only changes the shape takes no time."""
    host_factor = calibration.host_factor(work.phase)
    factor = calibration.factor(work.name, work.phase, timing.device_s) if timing else 1.0

    def scaled(seconds: Callable[[Timing], float]) -> float:
        return factor * seconds(timing) if timing else 0.0

    return LayerTime(
        name=work.name,
        layer=work.layer,
        phase=work.phase,
        algorithm=timing.task.algorithm if timing else NO_ALGORITHM,
        layout=layout,
        device_s=scaled(lambda timing: timing.device_s),
        host_s=host_factor * timing.host_s if timing else 0.0,
        low_s=scaled(lambda timing: timing.low_s),
        high_s=scaled(lambda timing: timing.high_s),
        low_80_s=scaled(lambda timing: timing.low_80_s),
        high_80_s=scaled(lambda timing: timing.high_80_s),
        workspace_bytes=timing.workspace_bytes if timing else 0,
        source=timing.source if timing else Source.MEASURED,
        count=work.count,
        power_w=timing.power_w if timing else None,
    )


def _workspaces(parts: Iterable[LayerTime]) -> dict[tuple[str, Phase], int]:
    return {(part.name, part.phase): part.workspace_bytes for part in parts if part.workspace_bytes}


Interval: TypeAlias = tuple[float, float]
Bound: TypeAlias = Callable[[LayerTime], float]


def _intervals(
    parts: Sequence[LayerTime], timings: Mapping[Pair, Timing], total: float, calibrated: float
) -> tuple[Interval, Interval]:
    """The step's 95 and 80 % intervals: T ∓ sqrt(Σ h² + (z d T)²).

    h is half the interval of what errs together: all calls of one layer and phase, which share their rows, and the
    predictions of one kind and phase, which share a model; of these h² = a (Σ hᵢ)² + (1 - a) Σ hᵢ², where a is the
    share of the variance that neighbours have in common. d is what moves every layer alike: the deviation of the
    logarithm of the reference kernel's drift, at least 5 %, and that of the calibration networks, `calibrated`, with
    the host's for the share of the step in which a GPU waits for it.
    """
    if not parts:
        return (0.0, 0.0), (0.0, 0.0)
    common = hypot(_common_spread(timings.values()), calibrated)

    def interval(z: float, low: Bound, high: Bound) -> Interval:
        below = _halves(parts, timings, lambda part: part.device_s - low(part))
        above = _halves(parts, timings, lambda part: high(part) - part.device_s)
        return max(0.0, total - hypot(below, z * common * total)), total + hypot(above, z * common * total)

    wide = interval(Z95, lambda part: part.low_s, lambda part: part.high_s)
    return wide, interval(Z80, lambda part: part.low_80_s, lambda part: part.high_80_s)


def _halves(parts: Sequence[LayerTime], timings: Mapping[Pair, Timing], half: Callable[[LayerTime], float]) -> float:
    """The root of the sum of h² (see `_intervals`), where `half` is a call's own."""
    groups: defaultdict[object, defaultdict[Layer, float]] = defaultdict(lambda: defaultdict(float))
    alike: dict[object, float] = {}
    for part in parts:
        key = (part.layer.kind if part.source is Source.PREDICTED else part.layer, part.phase)
        groups[key][part.layer] += part.count * half(part)
        timing = timings.get((part.layer, part.phase))
        alike[key] = timing.alike if timing else 1.0
    return sqrt(
        sum(
            alike[key] * sum(halves.values()) ** 2 + (1 - alike[key]) * sum(h**2 for h in halves.values())
            for key, halves in groups.items()
        )
    )


def _common_spread(timings: Iterable[Timing]) -> float:
    logs = [log(drift) for timing in timings for drift in timing.drift if drift > 0]
    if not logs:
        return _COMMON_SPREAD
    mean = fmean(logs)
    return max(_COMMON_SPREAD, sqrt(fmean((value - mean) ** 2 for value in logs)))


AUTO = "auto"
"""Stands for whichever measured layout is fastest."""


def estimated(
    store: Store,
    slug: str,
    network: Network,
    *,
    precision: str = Precision.FP32,
    layout: str = Layout.NCHW,
    threads: int | None = None,
    strategy: str = "latte",
    estimator: str = LOOKUP,
    workspace_limit_bytes: int | None = None,
    optimizer: str = "sgd",
    loss: str = "cross-entropy",
    accumulate: int = 1,
    cuda_graph: bool = False,
    allow_unknown: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Estimate:
    """One network on one device, all choices by name; with the layout `auto` in the measured one that is fastest.

    Raises LatteError for a name there is none of (exit code 2), and as Estimator does.
    """
    check_names(precision, layout, strategy, optimizer, loss, estimator)
    step = Step(optimizer=optimizer, loss=loss, accumulate=accumulate, cuda_graph=cuda_graph)
    found: list[Estimate] = []
    refused: NotProfiled | None = None
    for one in Layout if layout == AUTO else (Layout(layout),):
        one_layout = Estimator(
            store,
            slug,
            precision=Precision(precision),
            layout=one,
            threads=threads,
            strategy=strategy,
            estimator=estimator,
            workspace_limit_bytes=workspace_limit_bytes,
            note=note,
        )
        try:
            found.append(one_layout.estimate(network, step, allow_unknown))
        except NotProfiled as exc:
            refused = refused or exc
    if refused and not found:
        raise refused
    return min(found, key=lambda estimate: (len(estimate.missing), estimate.step_s))


def estimate(
    model: Network | Path | str,
    *,
    device: str | None = None,
    store: str | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    **choices: Any,
) -> Estimate:
    """Estimate a training step of `model`, a file or a network, on a profiled `device` (default: this machine).

    `choices` are those of `estimated`. Raises LatteError for what is not there.
    """
    opened = open_store(store)
    network = model if isinstance(model, Network) else load(model, batch_size=batch_size)
    return estimated(opened, profile(opened, device, threads), network, threads=threads, **choices)


def check_names(
    precision: str, layout: str, strategy: str, optimizer: str, loss: str = "none", estimator: str = LOOKUP
) -> None:
    """Raise LatteError, with a near match, for a name there is none of."""
    by_name(strategy)
    for what, name, known in (
        ("precision", precision, tuple(Precision)),
        ("layout", layout, (*Layout, AUTO)),
        ("optimizer", optimizer, tuple(OPTIMIZERS)),
        ("loss", loss, LOSSES),
        ("estimator", estimator, ESTIMATORS),
    ):
        if name not in known:
            raise unknown(what, name, known)
