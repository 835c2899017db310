"""Variants: one step of a network under several strategies and limits, each on the same timings."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from math import inf

from latte_cli.errors import LatteError, unknown
from latte_cli.estimator.calibration import Calibration
from latte_cli.estimator.candidates import KnownTimings, candidates_for
from latte_cli.estimator.choices import selections
from latte_cli.estimator.composition import (
    Row,
    StepCalls,
    compose_rows,
    compose_step,
    missing_name,
    plain_name,
    waiting_share,
    workspaces_of,
)
from latte_cli.estimator.diagnostics import Diagnostic, diagnose, how_to_measure
from latte_cli.estimator.limits import DoesNotFit, least_workspaces, own_workspaces, workspace_limits
from latte_cli.estimator.memory import CallPosition, returned_bytes
from latte_cli.estimator.models import Models
from latte_cli.estimator.predictions import Predictions
from latte_cli.estimator.records import Estimate
from latte_cli.estimator.searches import RepeatingStep, repeating_candidates, search_cost
from latte_cli.layers import Convolution, Optimizer, Phase
from latte_cli.lookup import Timing
from latte_cli.network import Network
from latte_cli.network.training import folded_norms
from latte_cli.operations import asked_name
from latte_cli.printable import few
from latte_cli.profiles import spec_here
from latte_cli.strategies import Candidates, Limits, Need, Selection, Strategy, fixed_name, repeats


class Variants:
    """Prices the `calls` of a step, of which timings are `known`; `models` tell of the others."""

    def __init__(self, calls: StepCalls, known: KnownTimings, models: Models, calibration: Calibration) -> None:
        self._calls, self._known, self._models, self._calibration = calls, known, models, calibration
        self._predictions = Predictions(models)
        self._composed: dict[tuple[object, ...], Estimate] = {}
        self._live_bytes = calls.memory.live_bytes()

    def estimate(self, strategy: Strategy, limits: Limits, *, allow_unknown: bool = False) -> Estimate:
        """The step as `strategy` has it run under these limits; raises as `Estimator.estimate` does."""
        self._check_memory(limits)
        selected = self._selections(strategy, limits)
        key = (strategy.name, *(one.algorithm for one in selected))
        if key not in self._composed:  # under other limits the same algorithms may be taken
            self._composed[key] = self._compose(strategy, selected, allow_unknown)
        timings = [one.timing for one in selected if one.timing]
        found = self._with_beside(replace(self._composed[key], limits=limits), strategy, selected)
        warnings = tuple(self._diagnostics(found, strategy, timings))
        return replace(found, warnings=warnings, single_way=self._known.alone)

    def _with_beside(self, found: Estimate, strategy: Strategy, selected: Sequence[Selection]) -> Estimate:
        """The estimate with what searching costs, and what results that repeat cost."""
        if strategy.search is None and all(one.timing is None or repeats(one.timing) for one in selected):
            return found
        candidates = self._candidates(strategy, found.limits)
        kept, determinism = repeating_candidates(candidates, selected), None
        if kept is not None:
            again = selections(strategy, kept, self._predictions)
            calls = sum(one.algorithm != other.algorithm for one, other in zip(selected, again, strict=True))
            determinism = RepeatingStep(step_s=self._compose(strategy, again, True).step_s, calls=calls)
        return replace(found, search=search_cost(strategy, candidates), determinism=determinism)

    def rows(self, strategy: Strategy, limits: Limits) -> list[Row]:
        """The rows of the calls; raises LatteError for what can be neither looked up nor predicted."""
        rows, missing = self._rows(self._selections(strategy, limits))
        if missing:
            raise self._nothing_known_of(missing)
        return rows

    def least_workspaces(self) -> dict[CallPosition, int]:
        """The workspace of each call with the algorithm that needs the least, where it is known."""
        own = own_workspaces(self._calls.works, self._models.device.kind, self._models.lookup.precision)
        return own | least_workspaces(self._calls.costly, self._known, self._predictions)

    def workspaces(self, found: Estimate) -> dict[CallPosition, int]:
        """The workspace of each call of `found`, an estimate of this step, where it is known."""
        return workspaces_of(self._calls, found.parts, self._models.device, found.settings)

    def _check_memory(self, limits: Limits) -> None:
        if limits.memory_bytes is not None and self._least_bytes > limits.memory_bytes:
            raise DoesNotFit(self._calls.network, self._least_bytes, limits.memory_bytes)

    @cached_property
    def _least_bytes(self) -> int:
        return self._calls.memory.with_workspaces(self.least_workspaces()).peak.live_bytes

    def _selections(self, strategy: Strategy, limits: Limits) -> list[Selection]:
        self._check_name(strategy)
        return selections(strategy, self._candidates(strategy, limits), self._predictions)

    def _candidates(self, strategy: Strategy, limits: Limits) -> list[Candidates]:
        works = self._calls.costly
        pairs = [work.pair for work in works]
        calls = list(zip(pairs, workspace_limits(works, self._live_bytes, limits), strict=True))
        return candidates_for(calls, strategy.need, self._known, self._predictions)

    def _rows(self, selected: Sequence[Selection]) -> tuple[list[Row], tuple[str, ...]]:
        return compose_rows(self._calls, selected, self._models.lookup.layout, self._calibration)

    def _compose(self, strategy: Strategy, selected: Sequence[Selection], allow_unknown: bool) -> Estimate:
        rows, names = self._rows(selected)
        missing = (*names, *(f"operator {name}" for name in self._calls.network.unknown))
        if missing and not allow_unknown:
            raise self._nothing_known_of(missing)
        missing = (*missing, *self._calls.network.unpriced)
        return compose_step(
            self._calls,
            rows,
            missing,
            self._calibration,
            device=self._models.device,
            strategy=strategy.name,
            estimator=self._models.estimator,
            settings=self._models.lookup.settings(),
            transfer_s=self._transfer_s(self._calls.network),
        )

    def _transfer_s(self, network: Network) -> float | None:
        if not self._models.device.kind.own_memory:
            return None
        pair = (network.transfer(), Phase.FORWARD)
        found = self._models.lookup.measured_timings((pair,)).get(pair) or self._models.lookup.interpolate(pair)
        return found[0].device_s if found else None

    def _diagnostics(self, found: Estimate, strategy: Strategy, timings: Sequence[Timing]) -> Iterator[Diagnostic]:
        device = self._models.device
        return diagnose(
            timings,
            strategy=strategy,
            limits=found.limits,
            kind=device.kind,
            missing=len(found.missing),
            turned=len({name for (name, _), timing in self._calls.turned.items() if timing is None}),
            versions=self._known.versions,
            unselected=strategy.need is Need.SELECTION and self._unselected,
            alone=self._known.alone,
            needed_bytes=found.memory_bytes,
            memory_share=found.memory_bytes / (device.memory_bytes or inf),
            norms_folded=folded_norms(found.network),
            waiting_share=waiting_share(found.parts, found.step_s, device.kind),
            returned_bytes=self._returned_bytes,
            unpriced_checkpoints=self._calls.unpriced_checkpoints,
            run_spread=found.real_steps.spread if found.real_steps and found.real_steps.own else None,
        )

    @cached_property
    def _returned_bytes(self) -> int:
        if self._calls.step.rest.keeps_gradients:
            return 0
        precision = self._models.lookup.precision
        return returned_bytes(self._calls.network, self._calls.memory.timeline, precision)

    @cached_property
    def _unselected(self) -> bool:
        """Whether there are convolutions without timings, and no selector to choose for them; a sheet has no choice."""
        pairs = {work.pair for work in self._calls.works if isinstance(work.layer, Convolution)}
        known = pairs <= self._known.timings.keys() or self._models.sheet is not None
        return not known and self._models.selector is None

    def _check_name(self, strategy: Strategy) -> None:
        """An algorithm that is fixed by name must be one that the device has run."""
        name = fixed_name(strategy.name)
        timings = (timing for found in self._known.timings.values() for timing in found)
        if name is None or name.upper() in {timing.task.algorithm.name.upper() for timing in timings}:
            return
        names = {timing.task.algorithm.name for timing in self._models.lookup.everything()}
        if name.upper() not in {known.upper() for known in names}:
            raise unknown("algorithm", name, names)

    def _nothing_known_of(self, missing: Sequence[str]) -> LatteError:
        updates = [
            asked_name(work.layer.function)
            for work in self._calls.works
            if isinstance(work.layer, Optimizer) and missing_name(work) in missing
        ]
        device, works = self._models.device, self._calls.works
        words = {missing_name(work): plain_name(work, self._calls.step) for work in works}
        named = list(dict.fromkeys(words.get(name, name) for name in missing))
        elsewhere = spec_here(device, self._models.lookup.settings().threads) is None
        return LatteError(
            f"`{device.slug}` has no measurements that tell the time of {few(named)}",
            hint=f"{how_to_measure(device.kind, updates, elsewhere=elsewhere)}; `--allow-unknown` leaves them out",
        )
