"""Allocation: each class of a fleet gets the largest sub-model whose estimated round meets the round duration."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from latte_cli.errors import LatteError
from latte_cli.estimator import Estimate, Estimator, Warn, check_names
from latte_cli.fleet import Fleet, FleetClass
from latte_cli.network import Network
from latte_cli.network.channels import channel_groups, sub_model


@dataclass(frozen=True, kw_only=True)
class SubModel:
    """An entry of the catalogue: a share `width` of every channel group, which leaves it `widths` channels."""

    id: str
    width: float
    widths: tuple[tuple[str, int], ...]
    parameters: int


Price: TypeAlias = Callable[[SubModel, FleetClass], Estimate]
"""The estimate of a training step of a sub-model, read at the class's batch size, on a device of the class."""


@dataclass(frozen=True, kw_only=True)
class PlannedDevice:
    """What a device of the class `fleet_class` trains: `sub_model`, or nothing where none meets the round duration.

    Its round takes `round_s`, with 95 % between `low_s` and `high_s`. `least_s` is the shortest round duration that
    the class can meet at all, None where no sub-model fits its memory. `memory_bytes` is the need of its sub-model;
    without one, the least need of any.
    """

    fleet_class: FleetClass
    device: str
    sub_model: SubModel | None
    round_s: float | None
    low_s: float | None
    high_s: float | None
    memory_bytes: int
    least_s: float | None
    warnings: tuple[Warn, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether there is a sub-model for it."""
        return self.sub_model is not None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which sub-model each class of a fleet trains in rounds of `round_duration_s`."""

    round_duration_s: float
    sub_models: tuple[SubModel, ...]
    devices: tuple[PlannedDevice, ...]

    @property
    def feasible(self) -> bool:
        """Whether every class has a sub-model."""
        return all(device.feasible for device in self.devices)

    @property
    def least_s(self) -> float | None:
        """The shortest round duration that every class can meet, None where one never can."""
        found = [device.least_s for device in self.devices]
        return None if None in found else max((least for least in found if least is not None), default=None)


def catalogue(network: Network, widths: Iterable[float]) -> tuple[SubModel, ...]:
    """The sub-models of `network` of these uniform widths, largest first; equal ones are there once.

    Raises LatteError as `channels.sub_model` does; the width 1 alone suits every network.
    """
    ordered = sorted(set(widths), reverse=True)
    groups = channel_groups(network) if any(width < 1 for width in ordered) else ()
    found: dict[tuple[tuple[str, int], ...], SubModel] = {}
    for width in ordered:
        parameters = sub_model(network, width).parameters
        kept = tuple((group.name, group.width(width)) for group in groups)
        found.setdefault(kept, SubModel(id=f"w{width:.12g}", width=width, widths=kept, parameters=parameters))
    return tuple(found.values())


def allocate(sub_models: Sequence[SubModel], fleet: Fleet, price: Price, round_duration_s: float) -> Plan:
    """The plan for `fleet`: each class gets the sub-model with most parameters whose round, at the upper end of its
    interval, takes at most `round_duration_s` and whose training step fits the memory.

    Of equally large ones it gets the one with the shorter round, then the one that comes first. Raises LatteError
    for an empty catalogue, and what `price` raises.
    """
    if not sub_models:
        raise LatteError("there is no sub-model to allocate", hint="name at least one width, as in `--widths 1,0.5`")
    devices = tuple(_planned(sub_models, each, price, round_duration_s) for each in fleet.classes)
    return Plan(round_duration_s=round_duration_s, sub_models=tuple(sub_models), devices=devices)


@dataclass(frozen=True, kw_only=True)
class _Round:
    """A round of one class with one sub-model."""

    sub_model: SubModel
    estimate: Estimate
    round_s: float
    low_s: float
    high_s: float


def _planned(
    sub_models: Sequence[SubModel], fleet_class: FleetClass, price: Price, round_duration_s: float
) -> PlannedDevice:
    rounds = [_round(each, fleet_class, price(each, fleet_class)) for each in sub_models]
    device = rounds[0].estimate.device
    limit = fleet_class.memory_bytes or device.memory_bytes
    fitting = [each for each in rounds if limit is None or each.estimate.memory_bytes <= limit]
    meeting = [each for each in fitting if each.high_s <= round_duration_s]
    best = max(meeting, key=lambda each: (each.sub_model.parameters, -each.high_s), default=None)
    least_bytes = min(each.estimate.memory_bytes for each in rounds)
    return PlannedDevice(
        fleet_class=fleet_class,
        device=device.slug,
        sub_model=best.sub_model if best else None,
        round_s=best.round_s if best else None,
        low_s=best.low_s if best else None,
        high_s=best.high_s if best else None,
        memory_bytes=best.estimate.memory_bytes if best else least_bytes,
        least_s=min((each.high_s for each in fitting), default=None),
        warnings=(*(best.estimate.warnings if best else ()), *_memory_doubts(limit)),
    )


def _round(sub_model: SubModel, fleet_class: FleetClass, estimate: Estimate) -> _Round:
    """The steps of the class's schedule, then the parameters down and up."""

    def round_s(step_s: float) -> float:
        found = fleet_class.schedule.round_s(step_s, fleet_class.batch, sub_model.parameters)
        assert found is not None
        return found

    return _Round(
        sub_model=sub_model,
        estimate=estimate,
        round_s=round_s(estimate.step_s),
        low_s=round_s(estimate.step_low_s),
        high_s=round_s(estimate.step_high_s),
    )


def _memory_doubts(limit: int | None) -> tuple[Warn, ...]:
    if limit is not None:
        return ()
    message = "its memory is not known, so nothing bounds the sub-model; say `memory:` in the fleet file"
    return (Warn(code="unknown_memory", message=message),)


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
        """`read` gives the model at a batch size, `estimator` the one for a class's device and settings.

        Both are asked once for what is the same; `whole` is `read` with what was read kept.
        """
        self._optimizer, self._allow_unknown = optimizer, allow_unknown
        self._estimator = estimator
        self._estimators: dict[object, Estimator] = {}
        self.whole = lru_cache(maxsize=None)(read)
        self._cut = lru_cache(maxsize=None)(lambda batch, width: sub_model(self.whole(batch), width))

    def __call__(self, entry: SubModel, fleet_class: FleetClass) -> Estimate:
        """The estimate; LatteErrors name the class and the sub-model."""
        optimizer = fleet_class.optimizer or self._optimizer
        try:
            check_names(fleet_class.precision, fleet_class.layout, fleet_class.strategy or "latte", optimizer)
            network = self._cut(fleet_class.batch, entry.width)
            return self._for(fleet_class).estimate(network, optimizer, self._allow_unknown)
        except LatteError as exc:
            where = f"class `{fleet_class.name}`, sub-model `{entry.id}`"
            raise LatteError(f"{where}: {exc.message}", hint=exc.hint, exit_code=exc.exit_code) from exc

    def _for(self, fleet_class: FleetClass) -> Estimator:
        key = (
            fleet_class.device,
            fleet_class.threads,
            fleet_class.precision,
            fleet_class.layout,
            fleet_class.strategy,
        )
        if key not in self._estimators:
            self._estimators[key] = self._estimator(fleet_class)
        return self._estimators[key]
