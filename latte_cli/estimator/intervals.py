"""Intervals: how far a step may be from its estimate, by the interval of each call."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import hypot, log, sqrt
from statistics import fmean
from typing import TypeAlias

from latte_cli.estimator.records import LayerTime
from latte_cli.layers import Checkpoint, Layer
from latte_cli.lookup import Z80, Z95, Source, Timing

COMMON_SPREAD = 0.05  # a whole model against itself, minutes later: facts of the reference machine

Interval: TypeAlias = tuple[float, float]
StepPart: TypeAlias = tuple[LayerTime, Timing | None]
"""A call's row, and the timing that it was made from."""

Bound: TypeAlias = Callable[[LayerTime], float]


def intervals(
    parts: Sequence[StepPart], total: float, calibrated: float, unsure: Sequence[StepPart]
) -> tuple[Interval, Interval]:
    """The step's 95 and 80 % intervals: T ∓ sqrt(Σ h² + (z d T)²), the sum over the calls that are `unsure`.

    h is half the interval of what errs together: all calls of one layer and phase, which share their rows, and the
    predictions of one kind and phase, which share a model; of these h² = a (Σ hᵢ)² + (1 - a) Σ hᵢ², where a is the
    share of the variance that neighbours have in common. d is what moves every layer alike: the deviation of the
    logarithm of the reference kernel's drift, at least 5 %, and that of the calibration networks or of the network's
    own steps, `calibrated`, with the host's for the share of the step in which a GPU waits for it. The framework's own
    calls of a network that was run whole are not unsure: their sum is known.
    """
    if not parts:
        return (0.0, 0.0), (0.0, 0.0)
    common = hypot(_common_spread(timing for _, timing in parts if timing), calibrated)

    def interval(z: float, low: Bound, high: Bound) -> Interval:
        below = _halves(unsure, lambda part: part.device_s - low(part))
        above = _halves(unsure, lambda part: high(part) - part.device_s)
        return max(0.0, total - hypot(below, z * common * total)), total + hypot(above, z * common * total)

    wide = interval(Z95, lambda part: part.low_s, lambda part: part.high_s)
    return wide, interval(Z80, lambda part: part.low_80_s, lambda part: part.high_80_s)


def errs_with(part: LayerTime) -> object:
    """What the calls have in common whose errors have a cause in common: a layer's rows, or a model's predictions."""
    alike = part.source in (Source.PREDICTED, Source.DATA_SHEET) or isinstance(part.layer, Checkpoint)
    return part.layer.kind if alike else part.layer, part.phase


def _halves(parts: Sequence[StepPart], half: Callable[[LayerTime], float]) -> float:
    """The root of the sum of h² (see `intervals`), where `half` is a call's own."""
    groups: defaultdict[object, defaultdict[Layer, float]] = defaultdict(lambda: defaultdict(float))
    alike: dict[object, float] = {}
    for part, timing in parts:
        key = errs_with(part)
        groups[key][part.layer] += part.count * half(part)
        alike[key] = timing.alike if timing else 1.0
    return sqrt(
        sum(
            alike[key] * sum(halves.values()) ** 2 + (1 - alike[key]) * sum(h**2 for h in halves.values())
            for key, halves in groups.items()
        )
    )


def _common_spread(timings: Iterable[Timing]) -> float:
    once = {id(timing): timing.drift for timing in timings}
    logs = [log(drift) for each in once.values() for drift in each if drift > 0]
    if not logs:
        return COMMON_SPREAD
    mean = fmean(logs)
    return max(COMMON_SPREAD, sqrt(fmean((value - mean) ** 2 for value in logs)))
