"""The round duration where it is not known: what each one keeps of the model, and how long devices wait in it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from latte_cli.allocator.plan import largest
from latte_cli.allocator.pricing import Round
from latte_cli.errors import ExitCode, LatteError
from latte_cli.fleet import FleetClass


@dataclass(frozen=True, kw_only=True)
class Point:
    """A round duration, and what comes of it.

    `capacity` is the mean share of the model's parameters that the devices train, `floor` the least share of any
    device (both 0 for one without a sub-model), `idle` the mean share of the round that those that train wait, and
    `taking_part` the share of the devices that train.
    """

    round_duration_s: float
    capacity: float
    floor: float
    idle: float
    taking_part: float


Priced = Sequence[tuple[FleetClass, Sequence[Round]]]
"""Each class with the rounds of the whole catalogue."""


def curve(priced: Priced) -> list[Point]:
    """The points where what some class trains changes, in the order of their durations."""
    durations = sorted({each.high_s for _, rounds in priced for each in rounds if each.high_s is not None})
    return [point(priced, duration_s) for duration_s in durations]


def point(priced: Priced, duration_s: float) -> Point:
    """What comes of rounds of `duration_s`."""
    whole = max(each.sub_model.parameters for _, rounds in priced for each in rounds)
    counts, shares, waits = [], [], []
    for fleet_class, rounds in priced:
        best = largest(rounds, duration_s)
        counts.append(fleet_class.count)
        shares.append(best.sub_model.parameters / whole if best else 0.0)
        waits.append(max(0.0, 1 - best.round_s / duration_s) if best and best.round_s is not None else None)
    devices = sum(counts)
    training = sum(count for count, wait in zip(counts, waits, strict=True) if wait is not None)
    waited = sum(count * wait for count, wait in zip(counts, waits, strict=True) if wait is not None)
    return Point(
        round_duration_s=duration_s,
        capacity=sum(count * share for count, share in zip(counts, shares, strict=True)) / devices,
        floor=min(shares),
        idle=waited / training if training else 0.0,
        taking_part=training / devices,
    )


def shortest(points: Iterable[Point], *, capacity: float = 0.0, floor: float = 0.0) -> Point:
    """The point with the shortest rounds that keeps this mean and this least share.

    All devices take part that can at all. Raises LatteError (code 3) where there is none.
    """
    points = _with_all(points)
    for each in points:
        if each.capacity >= capacity - 1e-9 and each.floor >= floor - 1e-9:
            return each
    most = max(points, key=lambda each: each.floor if floor else each.capacity, default=None)
    what, wanted = ("every device", floor) if floor else ("the devices on average", capacity)
    reached = (most.floor if floor else most.capacity) if most else 0.0
    raise LatteError(
        f"no round duration lets {what} train {wanted:.0%} of the parameters: at most {reached:.0%} fit the memory",
        hint="a smaller `batch` needs less memory; so do smaller sub-models (`--widths`)",
        exit_code=ExitCode.EXCEEDED,
    )


def busiest(points: Iterable[Point], idle: float) -> Point:
    """The point that keeps most among those where all take part that can, and wait at most `idle`.

    Raises LatteError (code 3) where there is none.
    """
    among = _with_all(points)
    fitting = [each for each in among if each.idle <= idle]
    if fitting:
        return max(fitting, key=lambda each: (each.capacity, -each.round_duration_s))
    least = min((each.idle for each in among), default=1.0)
    raise LatteError(
        f"devices wait more than {idle:.0%} of a round at any round duration: at least {least:.0%}",
        hint="more `--widths` leave less to wait for, and `--fine` still less",
        exit_code=ExitCode.EXCEEDED,
    )


def _with_all(points: Iterable[Point]) -> list[Point]:
    """The points where all take part that ever do."""
    points = list(points)
    most = max((each.taking_part for each in points), default=0.0)
    return [each for each in points if each.taking_part == most]
