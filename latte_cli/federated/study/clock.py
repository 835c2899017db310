"""The virtual clock: how long each round of a federation takes, and whose work is in it."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, repeat
from math import ceil, inf

from latte_cli.allocator.pacing import Deadline
from latte_cli.federated.participation import participants
from latte_cli.federated.study.availability import Availability, Presence


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
class DeviceWork:
    """What a device returns: what it learned in `steps` from the server's model after `version` rounds (None: all)."""

    device: int
    steps: int
    version: int | None = None


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A round: it lasts `duration_s`; `done` have returned in time, `late` ones not, `gone` ones were lost on the way.

    `steps` are those that each device of `done` trained, and `versions` the rounds that were over when it began, where
    these are not all before this one. `waited_s` is the sum over the devices that are not gone of what they waited for
    the round's end. In the first `off_s` seconds no device was on. A `void` round changes nothing on the server, since
    too few devices have returned.
    """

    duration_s: float
    done: tuple[int, ...]
    late: tuple[int, ...]
    gone: tuple[int, ...]
    waited_s: float
    steps: tuple[int, ...] = ()
    versions: tuple[int, ...] = ()
    off_s: float = 0.0
    void: bool = False

    @property
    def work(self) -> tuple[DeviceWork, ...]:
        """What the devices return, in the order of `done`."""
        found = zip(self.done, self.steps, self.versions or repeat(None, len(self.done)), strict=True)
        return tuple(DeviceWork(device=device, steps=steps, version=version) for device, steps, version in found)


class Deck:
    """Draws devices in the order of `participants`, whose rounds follow each other, and passes over some of them."""

    def __init__(self, devices: Sequence[int], per_round: int, seed: int) -> None:
        self._dealt = (devices[at] for number in count() for at in participants(len(devices), per_round, number, seed))

    def draw(self, most: int, among: Collection[int]) -> list[int]:
        """The next devices `among` those that can take part, at most so many, in the order of their numbers."""
        found = list[int]()
        while len(found) < min(most, len(among)):
            device = next(self._dealt)
            if device in among and device not in found:
                found.append(device)
        return sorted(found)


def tick(
    seconds: Mapping[int, float], limits: Mapping[int, float], gone: Mapping[int, float], *, enough: int = 0
) -> Tick:
    """The round in which devices take these `seconds`; it ends when the last is done, or at the limit of a late one.

    The server waits for those that are `gone` as many seconds as are given there, since it knows then that they are.
    Where `enough` is given, the round ends when so many have returned, and the others are late.
    """
    end_s = _return_s(seconds, limits, gone, enough)
    limits = {device: min(limit_s, end_s) for device, limit_s in limits.items()}
    gone = {device: gone_s for device, gone_s in gone.items() if gone_s <= end_s}
    there = {device: time_s for device, time_s in seconds.items() if device not in gone}
    late = tuple(device for device, time_s in there.items() if time_s > limits[device])
    ends = [*(min(time_s, limits[device]) for device, time_s in there.items()), *gone.values()]
    duration_s = max(ends, default=0.0)
    return Tick(
        duration_s=duration_s,
        done=tuple(device for device in there if device not in late),
        late=late,
        gone=tuple(device for device in seconds if device in gone),
        waited_s=sum(max(0.0, duration_s - time_s) for time_s in there.values()),
    )


def _return_s(
    seconds: Mapping[int, float], limits: Mapping[int, float], gone: Mapping[int, float], enough: int
) -> float:
    """When `enough` devices have returned in time; infinite where they never have, or where it is 0."""
    in_time = sorted(time_s for device, time_s in seconds.items() if device not in gone and time_s <= limits[device])
    return in_time[enough - 1] if 0 < enough <= len(in_time) else inf


def schedule_rounds(
    shares: Mapping[int, Share],
    availability: Availability,
    *,
    per_round: int,
    rounds: int,
    seed: int,
    budget_s: float = inf,
    over_selection: float = 1.0,
    least_share: float = 0.0,
) -> tuple[Tick, ...]:
    """The rounds of a federation of the devices that have a share, of which `per_round` (0: all) take part in each.

    There are at most `rounds`, and none begins after `budget_s`. A round begins when at least one device is on, and
    those that are off take no part. Who goes off in a round is lost, which the server notices when it happens. What
    happens by chance depends on the seed, the round and the device, so that it is the same for all methods.

    The server draws `over_selection` times as many devices, and a round ends when `per_round` have returned. It is void
    where less than the `least_share` of the devices drawn have. (Bonawitz et al., 2019, "Towards Federated Learning at
    Scale: System Design", draw 1.3 times as many, and abandon such rounds.)
    """
    drawn = ceil(round(over_selection * per_round, 9))  # 1.1 times 10 is a little more than 11
    enough = per_round if drawn > per_round else 0
    return take_until(budget_s, _ticks(shares, availability, drawn, rounds, seed, enough, least_share))


def take_until(budget_s: float, ticks: Iterable[Tick]) -> tuple[Tick, ...]:
    """Those of the ticks, one after the other, that begin before `budget_s` is over."""
    found, passed_s = list[Tick](), 0.0
    for each in ticks:
        if passed_s >= budget_s:
            break
        found.append(each)
        passed_s += each.duration_s
    return tuple(found)


def _ticks(
    shares: Mapping[int, Share],
    availability: Availability,
    drawn: int,
    rounds: int,
    seed: int,
    enough: int,
    least_share: float,
) -> Iterator[Tick]:
    deck, presence = Deck(sorted(shares), drawn, seed), Presence(availability.available, seed)
    now_s, returned = 0.0, set[int]()
    for number in range(rounds):
        seconds, steps, limits, gone = dict[int, float](), dict[int, int](), dict[int, float](), dict[int, float]()
        begin_s = presence.first_s(shares, now_s) if shares else now_s
        for device in deck.draw(drawn or len(shares), presence.among(shares, begin_s)):
            factor, lost = availability.chance(number, device, seed)
            first = device not in returned
            seconds[device], steps[device] = shares[device].work(factor, first=first)
            limits[device] = shares[device].lost_after_s(first=first)
            gone_s = 0.0 if lost else presence.left_s(device, begin_s)
            if gone_s < min(seconds[device], limits[device]):
                gone[device] = gone_s
        found = tick(seconds, limits, gone, enough=enough)
        void = len(found.done) < round(least_share * len(seconds), 9)
        returned |= set() if void else set(found.done)
        off_s, now_s = begin_s - now_s, begin_s + found.duration_s
        steps_done = tuple(steps[device] for device in found.done)
        yield replace(found, duration_s=off_s + found.duration_s, off_s=off_s, void=void, steps=steps_done)
