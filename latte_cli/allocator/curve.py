"""The round duration where it is not known: what each one keeps of the model, and how long devices wait in it."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor as rounded_down

from latte_cli.allocator.plan import Priced, largest
from latte_cli.errors import ExitCode, LatteError


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
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


def curve(priced: Priced, parameters: int | None = None) -> list[CurvePoint]:
    """The points where what some class trains changes, in the order of their durations.

    The model has `parameters`; unless they are given, the largest sub-model is the whole of it.
    """
    durations = sorted({each.high_s for _, rounds in priced for each in rounds if each.high_s is not None})
    return [point(priced, duration_s, parameters) for duration_s in durations]


def point(priced: Priced, duration_s: float, parameters: int | None = None) -> CurvePoint:
    """What comes of rounds of `duration_s`; `parameters` as for `curve`."""
    whole = parameters or max(each.sub_model.parameters for _, rounds in priced for each in rounds)
    counts, trained, waits = [], [], []
    for fleet_class, rounds in priced:
        best = largest(rounds, duration_s)
        counts.append(fleet_class.count)
        trained.append(best.sub_model.parameters if best else 0)
        waits.append(max(0.0, 1 - best.round_s / duration_s) if best and best.round_s is not None else None)
    devices = sum(counts)
    training = sum(count for count, wait in zip(counts, waits, strict=True) if wait is not None)
    waited = sum(count * wait for count, wait in zip(counts, waits, strict=True) if wait is not None)
    return CurvePoint(
        round_duration_s=duration_s,
        capacity=sum(count * each for count, each in zip(counts, trained, strict=True)) / (devices * whole),
        floor=min(trained) / whole,
        idle=waited / training if training else 0.0,
        taking_part=training / devices,
    )


def shortest_point(points: Iterable[CurvePoint], *, capacity: float = 0.0, floor: float = 0.0) -> CurvePoint:
    """The point with the shortest rounds that keeps this mean and this least share.

    All devices take part that can at all. Raises LatteError (code 3) where there is none.
    """
    points = _with_all(points)
    for each in points:
        if each.capacity >= capacity and each.floor >= floor:
            return each
    most = max(points, key=lambda each: each.floor if floor else each.capacity, default=None)
    what, wanted = ("every device", floor) if floor else ("the devices on average", capacity)
    reached = (most.floor if floor else most.capacity) if most else 0.0
    raise LatteError(
        f"no round duration lets {what} train {_percent(wanted)} of the parameters, with one width for all channel "
        f"groups: at most {_percent(reached)} fit the memory",
        hint="a smaller `batch` needs less memory; other `--widths` may come nearer",
        exit_code=ExitCode.EXCEEDED,
    )


def busiest(points: Iterable[CurvePoint], idle: float, *, fine: bool = False) -> CurvePoint:
    """The point that keeps most among those where all take part that can, and wait at most `idle`.

    Raises LatteError (code 3) where there is none; its advice is for a plan whose widths are `fine`, or are not.
    """
    among = _with_all(points)
    fitting = [each for each in among if each.idle <= idle]
    if fitting:
        return max(fitting, key=lambda each: (each.capacity, -each.round_duration_s))
    if not among:
        raise LatteError(
            "no sub-model fits the memory of any device",
            hint="a smaller `batch` or narrower `--widths` need less",
            exit_code=ExitCode.EXCEEDED,
        )
    finer = "a `--round-duration` instead of `--max-idle`" if fine else "`--fine` with a `--round-duration`"
    raise LatteError(
        f"with one width for all channel groups, devices wait more than {_percent(idle)} of a round at any duration in "
        f"which all train that can: at least {_percent(min(each.idle for each in among))}",
        hint=f"more `--widths` may leave less to wait for, and {finer} still less",
        exit_code=ExitCode.EXCEEDED,
    )


def _with_all(points: Iterable[CurvePoint]) -> list[CurvePoint]:
    """The points where all take part that ever do."""
    points = list(points)
    most = max((each.taking_part for each in points), default=0.0)
    return [each for each in points if each.taking_part == most]


def _percent(share: float) -> str:
    """Rounded down, so that what is too little does not look enough."""
    return f"{rounded_down(round(1e5 * share, 6)) / 1e3:g}%"
