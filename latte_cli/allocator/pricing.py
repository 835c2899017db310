"""Prices: how long a round with a sub-model takes on a device of a class, and what it needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from latte_cli.allocator.sub_models import SubModel
from latte_cli.errors import LatteError
from latte_cli.estimator import (
    LOOKUP,
    Diagnostic,
    DoesNotFit,
    Estimate,
    Estimator,
    Limits,
    Memory,
    Source,
    check_names,
)
from latte_cli.fleet import FleetClass
from latte_cli.network import Network, load
from latte_cli.profiles import device_of, resolve_profile
from latte_cli.store import Store


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round of a device with `sub_model`: seconds with their 95 % interval, and the bytes that a step holds.

    All its work is `steps` of `step_s` on average; `sending_s` is the rest. Without a time, its steps do not fit the
    memory. `sheet_share` is the share of a step's time that a data sheet tells. `warnings` are the estimate's.
    """

    sub_model: SubModel
    device: str
    memory_bytes: int
    round_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    step_high_s: float | None = None
    step_s: float | None = None
    steps: int = 0
    sending_s: float = 0.0
    limit_bytes: int | None = None
    sheet_share: float = 0.0
    warnings: tuple[Diagnostic, ...] = ()

    def meets(self, duration_s: float) -> bool:
        """Whether it fits the memory and its upper end is within `duration_s`."""
        return self.high_s is not None and self.high_s <= duration_s


Price: TypeAlias = Callable[[SubModel, FleetClass], Round]
"""The round of a device of the class with the sub-model."""


def round_of(sub_model: SubModel, fleet_class: FleetClass, estimate: Estimate) -> Round:
    """The round whose steps are as estimated at the class's batch size; without times where they exceed its memory."""
    limit_bytes = fleet_class.memory_bytes or estimate.device.memory_bytes
    if limit_bytes is not None and estimate.memory_bytes > limit_bytes:
        return Round(sub_model=sub_model, device=estimate.device.slug, memory_bytes=estimate.memory_bytes)
    count = sub_model.parameters
    return Round(
        sub_model=sub_model,
        device=estimate.device.slug,
        memory_bytes=estimate.memory_bytes,
        round_s=fleet_class.round_s(estimate.step_s, count),
        low_s=fleet_class.round_s(estimate.step_low_s, count),
        high_s=fleet_class.round_s(estimate.step_high_s, count),
        step_high_s=estimate.step_high_s,
        step_s=estimate.step_s,
        steps=fleet_class.steps,
        sending_s=fleet_class.round_s(0.0, count),
        limit_bytes=limit_bytes,
        sheet_share=estimate.share_from(Source.DATA_SHEET),
        warnings=(*estimate.warnings, *_memory_doubts(limit_bytes)),
    )


def _memory_doubts(limit_bytes: int | None) -> tuple[Diagnostic, ...]:
    if limit_bytes is not None:
        return ()
    message = "its memory is not known, so nothing bounds the sub-model; say `memory:` in the fleet file"
    return (Diagnostic(code="unknown_memory", message=message),)


class Pricer:
    """Prices sub-models: cuts the model to each, and asks the estimator of the class."""

    def __init__(
        self,
        read: Callable[[int], Network],
        estimator: Callable[[FleetClass], Estimator],
        *,
        optimizer: str = "sgd",
        allow_unknown: bool = False,
    ) -> None:
        """`read` gives the model at a batch size, `estimator` the one for a class's device, memory and settings.

        Both are asked once for what is the same; `whole` is `read` with what was read kept.
        """
        self._optimizer, self._allow_unknown = optimizer, allow_unknown
        self._made = estimator
        self._estimators: dict[object, Estimator] = {}
        self.whole = lru_cache(maxsize=None)(read)
        self._estimates: dict[object, tuple[Estimate, float] | int] = {}

    def __call__(self, sub_model: SubModel, fleet_class: FleetClass) -> Round:
        """The round; LatteErrors name the class and the sub-model."""
        try:
            estimator = self.estimator(fleet_class)
            key = (estimator, fleet_class.batch, self.optimizer(fleet_class), sub_model.widths, sub_model.dropped)
            if key not in self._estimates:
                self._estimates[key] = self._estimate(estimator, sub_model, fleet_class)
            found = self._estimates[key]
            if isinstance(found, int):
                return Round(sub_model=sub_model, device=estimator.device.slug, memory_bytes=found)
            estimate, sheet_share = found
            return replace(round_of(sub_model, fleet_class, estimate), sheet_share=sheet_share)
        except LatteError as exc:
            where = f"class `{fleet_class.name}`, sub-model `{sub_model.id}`"
            raise LatteError(f"{where}: {exc.message}", hint=exc.hint, exit_code=exc.exit_code) from exc

    def _estimate(
        self, estimator: Estimator, sub_model: SubModel, fleet_class: FleetClass
    ) -> tuple[Estimate, float] | int:
        """The estimate without its rows, and its share of a data sheet; the least memory where it does not fit."""
        whole, optimizer = self.whole(fleet_class.batch), self.optimizer(fleet_class)
        network = sub_model.of(whole)
        try:
            found = estimator.estimate(network, optimizer, self._allow_unknown, cut_from=whole)
        except DoesNotFit as exc:
            return exc.least_bytes
        sheet_share = found.share_from(Source.DATA_SHEET)
        return replace(found, parts=(), memory=Memory(timeline=(found.memory.peak,))), sheet_share

    def optimizer(self, fleet_class: FleetClass) -> str:
        """The name of the optimizer that the class trains with."""
        return fleet_class.optimizer or self._optimizer

    def estimator(self, fleet_class: FleetClass) -> Estimator:
        """The estimator of the class; raises LatteError for an unknown name in its settings."""
        strategy = fleet_class.strategy or "latte"
        check_names(fleet_class.precision, fleet_class.layout, strategy, self.optimizer(fleet_class))
        key = (
            fleet_class.device,
            fleet_class.threads,
            fleet_class.precision,
            fleet_class.layout,
            fleet_class.strategy,
            fleet_class.memory_bytes,
        )
        if key not in self._estimators:
            self._estimators[key] = self._made(fleet_class)
        return self._estimators[key]


def estimator_of(
    store: Store,
    slug: str,
    fleet_class: FleetClass,
    *,
    strategy: str = "latte",
    estimator: str = LOOKUP,
    limits: Limits | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Estimator:
    """The estimator of a class on the profile `slug`; `strategy` is for a class that names none."""
    return Estimator(
        store,
        slug,
        precision=fleet_class.precision,
        layout=fleet_class.layout,
        threads=fleet_class.threads,
        strategy=fleet_class.strategy or strategy,
        estimator=estimator,
        limits=limits or Limits(),
        note=note,
    )


def class_estimator(
    store: Store,
    fleet_class: FleetClass,
    *,
    strategy: str = "latte",
    estimator: str = LOOKUP,
    note: Callable[[str], None] = lambda text: None,
) -> Estimator:
    """The estimator of a class on the profile that its device names, with its memory as the limit of a step.

    Raises LatteError for a profile that is not in the store.
    """
    slug = resolve_profile(store, fleet_class.device, fleet_class.threads)
    limits = Limits(memory_bytes=fleet_class.memory_bytes or device_of(store, slug).memory_bytes)
    return estimator_of(store, slug, fleet_class, strategy=strategy, estimator=estimator, limits=limits, note=note)


def pricer_of(
    model: Path,
    store: Store,
    *,
    strategy: str = "latte",
    optimizer: str = "sgd",
    sizes: Mapping[str, int] | None = None,
    batch_axis: int | None = None,
    allow_unknown: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Pricer:
    """Prices sub-models of a model file by the profiles in a store, the memory of each class as its limit.

    `strategy` and `optimizer` are for classes that name none; `sizes`, `batch_axis`, `allow_unknown` and `note` are
    those of `load` and Estimator. Each price raises the LatteErrors of both.
    """

    return Pricer(
        lambda batch: load(model, batch_size=batch, batch_axis=batch_axis, sizes=sizes, allow_unknown=allow_unknown),
        lambda each: class_estimator(store, each, strategy=strategy, note=note),
        optimizer=optimizer,
        allow_unknown=allow_unknown,
    )
