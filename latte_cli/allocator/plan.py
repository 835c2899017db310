"""Plans: which sub-model each class of a fleet trains, in which rounds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from latte_cli.allocator.pricing import Price, Round
from latte_cli.allocator.sub_models import SubModel
from latte_cli.errors import LatteError
from latte_cli.estimator import Diagnostic
from latte_cli.fleet import Fleet, FleetClass

Priced: TypeAlias = Sequence[tuple[FleetClass, Sequence[Round]]]
"""Each class with the rounds of the whole catalogue."""


@dataclass(frozen=True, kw_only=True)
class PlannedDevice:
    """What a device of the class `fleet_class` trains: `sub_model`, or nothing where none meets the round duration.

    Its round takes `round_s`, with 95 % between `low_s` and `high_s`. `least_s` is the shortest round duration that
    the class can meet at all; None where no sub-model fits its memory, and where nobody has priced them all.
    `found_s` is then the shortest that was found, if it was looked for. `memory_bytes` is the need of its sub-model;
    without one, the least need of those that were priced. `sheet_share` is that of its round.
    """

    fleet_class: FleetClass
    device: str
    sub_model: SubModel | None
    round_s: float | None
    low_s: float | None
    high_s: float | None
    memory_bytes: int
    least_s: float | None
    found_s: float | None = None
    sheet_share: float = 0.0
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether there is a sub-model for it."""
        return self.sub_model is not None

    @property
    def meets_s(self) -> float | None:
        """A round duration that the class is known to meet, the shortest of them; None where none is known."""
        return self.found_s if self.least_s is None else self.least_s


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
    def count(self) -> int:
        """The devices of the fleet."""
        return sum(each.fleet_class.count for each in self.devices)

    def trained_on(self, slug: str) -> list[tuple[int, SubModel]]:
        """The sub-models that classes with this device train, each once at each of their batch sizes."""
        own = [each for each in self.devices if each.device == slug]
        found = {
            (each.fleet_class.batch, each.sub_model.widths, each.sub_model.dropped): each.sub_model
            for each in own
            if each.sub_model
        }
        return [(batch, sub_model) for (batch, _, _), sub_model in found.items()]

    @property
    def training_devices(self) -> int:
        """The devices that have a sub-model."""
        return sum(each.fleet_class.count for each in self.devices if each.feasible)

    @property
    def least_s(self) -> float | None:
        """The shortest round duration that every class is known to meet, None where for one none is known."""
        found = [device.meets_s for device in self.devices]
        return None if None in found else max((each for each in found if each is not None), default=None)

    @property
    def idle_share(self) -> float:
        """The share of the round duration that the devices that take part wait, as expected."""
        waits = [
            (each.fleet_class.count, max(0.0, 1 - each.round_s / self.round_duration_s))
            for each in self.devices
            if each.round_s is not None
        ]
        devices = sum(count for count, _ in waits)
        return sum(count * wait for count, wait in waits) / devices if devices else 0.0


def largest(rounds: Iterable[Round], duration_s: float) -> Round | None:
    """The round with most parameters among those that meet `duration_s`; None where none does.

    Of equally large ones it is the one with the shorter round, then the one that comes first.
    """
    meeting = (each for each in rounds if each.meets(duration_s))
    return max(meeting, key=lambda each: (each.sub_model.parameters, -(each.high_s or 0.0)), default=None)


def price_classes(
    sub_models: Sequence[SubModel], fleet: Fleet, price: Price, done: Callable[[int, str], None] = lambda *_: None
) -> Priced:
    """Each class of `fleet` with its rounds of all `sub_models`; `done` hears how many classes are, and of the last.

    Raises LatteError for an empty catalogue, and what `price` raises.
    """
    if not sub_models:
        raise LatteError("there is no sub-model to allocate", hint="name at least one width, as in `--widths 1,0.5`")
    found = []
    for number, fleet_class in enumerate(fleet.classes, start=1):
        found.append((fleet_class, [price(each, fleet_class) for each in sub_models]))
        done(number, fleet_class.name)
    return found


def plan_of(priced: Priced, round_duration_s: float) -> Plan:
    """The plan in which each class gets the `largest` of its rounds; all have those of one catalogue."""
    return Plan(
        round_duration_s=round_duration_s,
        sub_models=tuple(each.sub_model for each in priced[0][1]),
        devices=tuple(plan_device(each, rounds, largest(rounds, round_duration_s)) for each, rounds in priced),
    )


def allocate(sub_models: Sequence[SubModel], fleet: Fleet, price: Price, round_duration_s: float) -> Plan:
    """The plan for `fleet`: each class gets the `largest` of its rounds, each with one of `sub_models`.

    Raises LatteError as `price_classes` does.
    """
    return plan_of(price_classes(sub_models, fleet, price), round_duration_s)


def plan_device(
    fleet_class: FleetClass,
    rounds: Sequence[Round],
    best: Round | None,
    *,
    complete: bool = True,
    found_s: float | None = None,
) -> PlannedDevice:
    """What the class does: the round `best` of `rounds`, or nothing for None.

    Unless `rounds` are `complete`, the class may meet a shorter round duration than any of them.
    """
    least = min((each.memory_bytes for each in rounds), default=0)
    timed = [each.high_s for each in rounds if each.high_s is not None] if complete else []
    return PlannedDevice(
        fleet_class=fleet_class,
        device=rounds[0].device,
        sub_model=best.sub_model if best else None,
        round_s=best.round_s if best else None,
        low_s=best.low_s if best else None,
        high_s=best.high_s if best else None,
        memory_bytes=best.memory_bytes if best else least,
        least_s=min(timed, default=None),
        found_s=found_s,
        sheet_share=(best or rounds[0]).sheet_share,
        warnings=best.warnings if best else (),
    )
