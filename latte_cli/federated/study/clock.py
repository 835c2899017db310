"""The virtual clock: how long each round of a federation takes, and whose work is in it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, exp, inf

import numpy as np

from latte_cli.allocator.pacing import Deadline
from latte_cli.federated.participation import participants


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a device spends on all its work of a round: `round_s`, in which each of `steps` takes `step_s`.

    `first_s` and `first_step_s` are those of the first time that it takes part. `deadline` says what becomes of work
    that takes longer than `limit_s`; the first time is not lost where it was to take longer.
    """

    round_s: float
    step_s: float
    steps: int
    first_s: float
    first_step_s: float
    limit_s: float = inf
    deadline: Deadline = Deadline.DROP

    def work(self, factor: float, *, first: bool) -> tuple[float, int]:
        """The seconds and steps of a round in which everything takes `factor` times as long as estimated."""
        whole_s, step_s = (self.first_s, self.first_step_s) if first else (self.round_s, self.step_s)
        over_s = factor * whole_s - self.limit_s
        if self.deadline is not Deadline.PARTIAL or over_s <= 0:
            return factor * whole_s, self.steps
        undone = min(self.steps - 1, ceil(over_s / (factor * step_s)))
        return factor * (whole_s - undone * step_s), self.steps - undone

    def lost_after_s(self, *, first: bool) -> float:
        """How long a round may last for its work to count."""
        if self.deadline is not Deadline.DROP or (first and self.first_s > self.limit_s):
            return inf
        return self.limit_s


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A round: it lasts `duration_s`; `done` have returned in time, `late` ones not, `gone` ones were lost on the way.

    `steps` are those that each device of `done` trained. `waited_s` is the sum over the devices that are not gone of
    what they waited for the round's end.
    """

    duration_s: float
    done: tuple[int, ...]
    late: tuple[int, ...]
    gone: tuple[int, ...]
    waited_s: float
    steps: tuple[int, ...] = ()


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
    shares: Mapping[int, Share],
    availability: Availability,
    *,
    per_round: int,
    rounds: int,
    seed: int,
    budget_s: float = inf,
) -> tuple[Tick, ...]:
    """The rounds of a federation of the devices that have a share, of which `per_round` (0: all) take part in each.

    There are at most `rounds`, and none begins after `budget_s`. What happens by chance depends on the seed, the round
    and the device, so that it is the same for all methods.
    """
    found, passed_s = list[Tick](), 0.0
    for each in _ticks(shares, availability, per_round, rounds, seed):
        if passed_s >= budget_s:
            break
        found.append(each)
        passed_s += each.duration_s
    return tuple(found)


def _ticks(
    shares: Mapping[int, Share], availability: Availability, per_round: int, rounds: int, seed: int
) -> Iterator[Tick]:
    devices, returned = sorted(shares), set[int]()
    for number in range(rounds):
        seconds, steps, limits, gone = dict[int, float](), dict[int, int](), dict[int, float](), set[int]()
        for device in (devices[at] for at in participants(len(devices), per_round, number, seed)):
            factor, lost = _chance(availability, number, device, seed)
            first = device not in returned
            seconds[device], steps[device] = shares[device].work(factor, first=first)
            limits[device] = shares[device].lost_after_s(first=first)
            if lost:
                gone.add(device)
        found = tick(seconds, limits, gone)
        returned |= set(found.done)
        yield replace(found, steps=tuple(steps[device] for device in found.done))


def _chance(availability: Availability, number: int, device: int, seed: int) -> tuple[float, bool]:
    """How many times as long as estimated the device takes, and whether it is lost."""
    if not availability.noise and not availability.dropout:
        return 1.0, False
    random = np.random.default_rng((seed, number, device))
    return exp(availability.noise * random.standard_normal()), bool(random.random() < availability.dropout)
