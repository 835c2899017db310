"""Buffers: the clock of a federation without rounds (FedBuff), whose server waits for no device."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from latte_cli.federated.study.availability import Availability, Presence
from latte_cli.federated.study.clock import Deck, Share, Tick, take_until


@dataclass(frozen=True, order=True)
class _Training:
    """A device's training until `end_s`: so many `steps` from the model after `version` aggregations, maybe `lost`."""

    end_s: float
    device: int
    steps: int
    version: int
    lost: bool


def schedule_buffers(
    shares: Mapping[int, Share],
    availability: Availability,
    *,
    per_round: int,
    buffer: int,
    rounds: int,
    seed: int,
    budget_s: float = inf,
) -> tuple[Tick, ...]:
    """The aggregations of a federation in which `per_round` (0: all) of the devices with a share train at any time.

    Whoever is done returns its work, and the next of the deck that does not train yet begins from the model of then.
    Once `buffer` have returned, the server aggregates them: that is a tick, which has lasted since the one before.
    There begin at most as many trainings as in so many `rounds`, and no tick begins after `budget_s`. Devices that are
    off do not begin, and who goes off is lost. What happens by chance depends on the seed, the device and how many
    trainings began before.
    """
    at_once = min(per_round or len(shares), len(shares))
    return take_until(budget_s, _aggregations(_trainings(shares, availability, at_once, buffer, rounds, seed), buffer))


def _trainings(
    shares: Mapping[int, Share], availability: Availability, at_once: int, buffer: int, rounds: int, seed: int
) -> Iterator[_Training]:
    """The trainings in the order in which they end."""
    deck, presence = Deck(sorted(shares), at_once, seed), Presence(availability.available, seed)
    idle, running, now_s, begun, returned = set(shares), list[_Training](), 0.0, 0, 0
    while True:
        left = min(at_once - len(running), rounds * at_once - begun)
        for device in deck.draw(left, presence.among(idle, now_s)):
            factor, lost = availability.chance(begun, device, seed)
            time_s, steps = shares[device].work(factor, first=False)
            gone_s = 0.0 if lost else presence.left_s(device, now_s)
            heappush(
                running,
                _Training(now_s + min(time_s, gone_s), device, steps, returned // buffer, lost=gone_s < time_s),
            )
            idle.remove(device)
            begun, left = begun + 1, left - 1
        next_s = presence.first_s(idle, now_s) if left > 0 else inf  # all that are on have begun
        if not running and next_s == inf:
            return
        if not running or next_s < running[0].end_s:
            now_s = next_s
            continue
        ended = heappop(running)
        idle.add(ended.device)
        now_s, returned = ended.end_s, returned + (not ended.lost)
        yield ended


def _aggregations(trainings: Iterator[_Training], buffer: int) -> Iterator[Tick]:
    began_s, ended = 0.0, list[_Training]()
    for each in trainings:
        ended.append(each)
        done = [training for training in ended if not training.lost]
        if len(done) < buffer:
            continue
        yield Tick(
            duration_s=each.end_s - began_s,
            done=tuple(training.device for training in done),
            late=(),
            gone=tuple(training.device for training in ended if training.lost),
            waited_s=0.0,
            steps=tuple(training.steps for training in done),
            versions=tuple(training.version for training in done),
        )
        began_s, ended = each.end_s, []
