"""The virtual clock: how long each round of a federation takes, and whose work is in it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import exp, inf

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a device spends on a round: `round_s`, and `first_s` the first time that it takes part.

    From the second time on its work is lost where it takes longer than `limit_s`.
    """

    round_s: float
    first_s: float
    limit_s: float = inf


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A round: it lasts `duration_s`; `done` have returned in time, `late` ones not, `gone` ones were lost on the way.

    `waited_s` is the sum over the devices that are not gone of what they waited for the round's end.
    """

    duration_s: float
    done: tuple[int, ...]
    late: tuple[int, ...]
    gone: tuple[int, ...]
    waited_s: float


@dataclass(frozen=True, kw_only=True)
class Availability:
    """What happens to devices by chance.

    A round of a device takes exp(`noise` · z) times as long as estimated, with z drawn from the normal distribution;
    with the probability `dropout` the device is gone before it returns anything.
    """

    noise: float = 0.0
    dropout: float = 0.0


def tick(seconds: Mapping[int, float], limits: Mapping[int, float], gone: Collection[int]) -> Tick:
    """The round in which devices take these `seconds`; it ends when the last is done, or at the limit of a late one.

    The server knows at once who is gone, and waits for nobody of these.
    """
    there = {device: time_s for device, time_s in seconds.items() if device not in gone}
    late = tuple(device for device, time_s in there.items() if time_s > limits[device])
    duration_s = max((min(time_s, limits[device]) for device, time_s in there.items()), default=0.0)
    return Tick(
        duration_s=duration_s,
        done=tuple(device for device in there if device not in late),
        late=late,
        gone=tuple(device for device in seconds if device in gone),
        waited_s=sum(max(0.0, duration_s - time_s) for time_s in there.values()),
    )


def schedule_rounds(
    shares: Mapping[int, Share], availability: Availability, *, devices: int, per_round: int, rounds: int, seed: int
) -> tuple[Tick, ...]:
    """The rounds of a federation of `devices`, of which `per_round` (0: all) are drawn for each.

    Those without a share are drawn too, and do nothing. Draws and availability depend on the seed, the round and
    the device, so that they are the same for all methods.
    """
    return tuple(_ticks(shares, availability, devices, per_round, rounds, seed))


def _ticks(
    shares: Mapping[int, Share], availability: Availability, devices: int, per_round: int, rounds: int, seed: int
) -> Iterator[Tick]:
    returned: set[int] = set()
    for number in range(rounds):
        drawn = [device for device in participants(devices, per_round, number, seed) if device in shares]
        seconds, limits, gone = {}, {}, set()
        for device in drawn:
            factor, lost = _chance(availability, number, device, seed)
            own = shares[device]
            seconds[device] = (own.round_s if device in returned else own.first_s) * factor
            limits[device] = own.limit_s if device in returned or own.first_s <= own.limit_s else inf
            if lost:
                gone.add(device)
        found = tick(seconds, limits, gone)
        returned |= set(found.done)
        yield found


def participants(devices: int, per_round: int, number: int, seed: int) -> list[int]:
    """The devices drawn for the round `number` (from 0), in order, as a federation on Flower draws them."""
    if not per_round or per_round >= devices:
        return list(range(devices))
    chosen = np.random.default_rng((seed, number + 1)).choice(devices, per_round, replace=False)
    return sorted(chosen.tolist())


def _chance(availability: Availability, number: int, device: int, seed: int) -> tuple[float, bool]:
    """How many times as long as estimated the device takes, and whether it is lost."""
    if not availability.noise and not availability.dropout:
        return 1.0, False
    random = np.random.default_rng((seed, number, device))
    return exp(availability.noise * random.standard_normal()), bool(random.random() < availability.dropout)
