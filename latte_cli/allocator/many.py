"""Fleets of many devices: each with its own samples, rates and memory, priced by class and allocated in arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latte_cli.allocator.pricing import Round
from latte_cli.allocator.sub_models import SubModel
from latte_cli.fleet import FleetClass

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CELLS = 1 << 18  # of a table of devices by sub-models, held at once: 2 MiB, what the caches of a core hold
NONE = -1
"""Means no sub-model."""


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Devices by columns of one length: the class of each, by its index in the fleet, and what is its own.

    Of the mappings, by the names of a class's fields, each column holds numbers, not a number where the class's holds.
    """

    classes: Integers
    own: Mapping[str, Floats]

    def of(self, fleet_class: FleetClass, chosen: Integers) -> Iterator[tuple[str, Floats]]:
        """The numbers of the devices `chosen`, of this class, by field."""
        for name in OWN:
            value = getattr(fleet_class, name)
            column = np.full(len(chosen), np.nan if value is None else float(value))
            if name in self.own:
                given = self.own[name][chosen]
                column = np.where(np.isnan(given), column, given)
            yield name, column

    @property
    def unable(self) -> NDArray[np.bool_]:
        """Which devices have no data, or no network, and so nothing to do."""
        found: NDArray[np.bool_] = np.zeros(len(self.classes), bool)
        for name in ABLE_ABOVE_0:
            if name in self.own:
                found |= self.own[name] == 0
        return found


OWN = ("samples", "up_bit_per_s", "down_bit_per_s", "overhead_s", "memory_bytes")
"""The fields of a class that a device may set itself."""

ABLE_ABOVE_0 = ("samples", "up_bit_per_s", "down_bit_per_s")
"""Those of which a device that has 0 cannot take part."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """For each device the index of its sub-model in `sub_models`, or NONE, and its round: seconds, and their interval.

    `least_s` is the shortest round that it can meet, not a number where nothing fits its memory. `unable` devices have
    no data or no network, and so no sub-model.
    """

    sub_models: tuple[SubModel, ...]
    chosen: Integers
    round_s: Floats
    low_s: Floats
    high_s: Floats
    memory_bytes: Floats
    least_s: Floats
    unable: NDArray[np.bool_]

    @property
    def left_out(self) -> int:
        """How many devices have no sub-model although they could take part."""
        return int(((self.chosen == NONE) & ~self.unable).sum())

    @property
    def too_small(self) -> int:
        """How many of them have too little memory for any."""
        return int(((self.chosen == NONE) & ~self.unable & np.isnan(self.least_s)).sum())


def assign(
    fleet: Sequence[FleetClass], rounds: Sequence[Sequence[Round]], devices: Devices, duration_s: float
) -> Assignment:
    """The largest sub-model for each device whose round meets `duration_s` and whose step fits the memory.

    `rounds` are, for each class of `fleet`, those of the same catalogue.
    """
    sub_models = tuple(each.sub_model for each in rounds[0])
    count = len(devices.classes)
    columns = [np.full(count, np.nan) for _ in range(5)]
    chosen = np.full(count, NONE, dtype=np.int64)
    unable = devices.unable
    order = np.argsort(devices.classes, kind="stable")
    starts = np.searchsorted(devices.classes[order], np.arange(len(fleet) + 1))
    for index, fleet_class in enumerate(fleet):
        own = order[starts[index] : starts[index + 1]]
        own = own[~unable[own]]
        table = _Table(fleet_class, rounds[index], dict(devices.of(fleet_class, own)))
        step = max(1, _CELLS // max(1, len(table.indices)))
        for at in range(0, len(own), step):
            part = own[at : at + step]
            found, values = table.best(dict(devices.of(fleet_class, part)), duration_s)
            chosen[part] = found
            for column, value in zip(columns, values, strict=True):
                column[part] = value
    return Assignment(
        sub_models=sub_models,
        chosen=chosen,
        round_s=columns[0],
        low_s=columns[1],
        high_s=columns[2],
        memory_bytes=columns[3],
        least_s=columns[4],
        unable=unable,
    )


class _Table:
    """The sub-models that devices of a class may be given, by columns, largest first; of equal ones the quicker first.

    Left out are those that take every one of these devices at least as long as a larger one, and as much memory.
    """

    def __init__(self, fleet_class: FleetClass, rounds: Sequence[Round], own: Mapping[str, Floats]) -> None:
        self._class = fleet_class
        timed = [(at, each) for at, each in enumerate(rounds) if each.high_s is not None]
        timed.sort(key=lambda pair: (-pair[1].sub_model.parameters, pair[1].high_s))
        self.indices = np.array([at for at, _ in timed], dtype=np.int64)
        self._parameters = np.array([each.sub_model.parameters for _, each in timed], dtype=float)
        self._memory = np.array([each.memory_bytes for _, each in timed], dtype=float)
        self._steps = [np.array([_step_s(each, name, fleet_class) for _, each in timed]) for name in _ENDS]
        if len(timed) > 1 and len(own["samples"]):
            self._keep(self._worth(self._of(own)[0].min(), self._of(own)[1].max()))

    def _keep(self, which: NDArray[np.bool_]) -> None:
        self.indices, self._parameters, self._memory = (
            each[which] for each in (self.indices, self._parameters, self._memory)
        )
        self._steps = [each[which] for each in self._steps]

    def _worth(self, fewest_steps: float, most_each_s: float) -> NDArray[np.bool_]:
        """Which are quicker, for some device, than every larger one that takes no more memory."""
        step_s = self._steps[-1]
        slower_s = fewest_steps * (step_s[None] - step_s[:, None])  # of the second of a pair, in computing
        moved_s = most_each_s * (self._parameters[:, None] - self._parameters[None])  # of the first, in moving
        beaten = (slower_s >= moved_s) & (self._memory[:, None] <= self._memory[None])
        worth: NDArray[np.bool_] = ~np.triu(beaten, 1).any(axis=0)
        return worth

    def _of(self, own: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        """The steps of devices, and the seconds that each of them moves a parameter."""
        bits = self._class.schedule.parameter_bits(1)
        steps = self._class.epochs * np.ceil(own["samples"] / self._class.batch)
        return steps, bits / own["up_bit_per_s"] + bits / own["down_bit_per_s"]

    def best(self, own: Mapping[str, Floats], duration_s: float) -> tuple[Integers, tuple[Floats, ...]]:
        """For devices with these numbers: the indices of their sub-models, and round, low, high, memory and least."""
        devices = len(own["samples"])
        if not len(self.indices):
            nothing = np.full(devices, np.nan)
            return np.full(devices, NONE, dtype=np.int64), (nothing,) * 5
        steps, each_s = self._of(own)
        fits = ~(self._memory[None] > own["memory_bytes"][:, None])
        high_s = steps[:, None] * self._steps[2][None]
        high_s += each_s[:, None] * self._parameters[None]
        high_s += own["overhead_s"][:, None]
        high_s[~fits] = np.inf
        least_s = high_s.min(axis=1)
        meets = high_s <= duration_s
        first = meets.argmax(axis=1)
        found = meets[np.arange(devices), first]
        moving_s = each_s * self._parameters[first] + own["overhead_s"]
        times = [np.where(found, steps * step_s[first] + moving_s, np.nan) for step_s in self._steps]
        memory_bytes = np.where(found, self._memory[first], np.nan)
        least_s = np.where(np.isinf(least_s), np.nan, least_s)
        return np.where(found, self.indices[first], NONE), (*times, memory_bytes, least_s)


_ENDS = ("round_s", "low_s", "high_s")


def _step_s(each: Round, name: str, fleet_class: FleetClass) -> float:
    """Seconds of a step, taken back from the round's."""
    found = getattr(each, name)
    return float((found - fleet_class.round_s(0.0, each.sub_model.parameters)) / fleet_class.steps)
