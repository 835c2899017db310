"""Upper ends of steps: what each call adds to the upper end of a step's 95 % interval."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import hypot, sqrt
from typing import TypeAlias

from latte_cli.layers import Layer, Phase


@dataclass(frozen=True, kw_only=True)
class CallTime:
    """The seconds of a call, all times that a step makes it, and how far above them it may be (`half_s`).

    Calls with the same `errs_with` err together: of their variance they have the share `alike` in common.
    """

    seconds: float
    half_s: float = 0.0
    alike: float = 1.0
    errs_with: object = None


Call: TypeAlias = tuple[Layer, Phase]

Weigh: TypeAlias = Callable[[Layer, CallTime], float]
"""What a call of the layer counts for in a sum."""


def mean_seconds(layer: Layer, time: CallTime) -> float:
    """A call counts for its seconds."""
    return time.seconds


class UpperEnd:
    """The upper end of a step's interval, U = s (r T + sqrt(B² + (c r T)²)), seen from the step that makes the `calls`.

    T is the sum of the calls and B² the sum of what errs together (see `intervals` of the estimator). U is convex, and
    twice as long for twice the calls. So the sum of what calls `weigh` is U for this step, and at most U for any other.
    """

    def __init__(
        self, calls: Iterable[tuple[Layer, CallTime]], *, ratio: float = 1.0, common: float = 0.0, scale: float = 1.0
    ) -> None:
        """`ratio`, `common` and `scale` are r, c and s."""
        calls = list(calls)
        self._factors = {"ratio": ratio, "common": common, "scale": scale}
        self._ratio, self._common, self._scale = ratio, common, scale
        self._together, self._of_layers = _halves(calls)
        self._step_s = ratio * sum(time.seconds for _, time in calls)
        self.spread_s = _spread(calls, self._together, self._of_layers)
        self._above_s = hypot(self.spread_s, common * self._step_s)

    @staticmethod
    def from_estimate(calls: Iterable[tuple[Layer, CallTime]], step_s: float, high_s: float) -> "UpperEnd":
        """The one whose step takes `step_s` on average, and `high_s` at its upper end."""
        calls = list(calls)
        ratio, spread_s = step_s / sum(time.seconds for _, time in calls), UpperEnd(calls).spread_s
        common = sqrt(max(0.0, (high_s - step_s) ** 2 - spread_s**2)) / step_s
        scale = high_s / (step_s + hypot(spread_s, common * step_s))
        return UpperEnd(calls, ratio=ratio, common=common, scale=scale)

    def seen_from(self, calls: Iterable[tuple[Layer, CallTime]]) -> "UpperEnd":
        """The same upper end, seen from the step that makes these calls."""
        return UpperEnd(calls, **self._factors)

    def weigh(self, layer: Layer, time: CallTime) -> float:
        """What a call of the layer adds to the upper end, in seconds."""
        mean_s = self._ratio * time.seconds
        if not self._above_s:
            return self._scale * mean_s
        errs = time.alike * self._together.get(time.errs_with, 0.0)
        errs += (1 - time.alike) * self._of_layers.get((time.errs_with, layer), 0.0)
        further_s = (time.half_s * errs + self._common**2 * self._step_s * mean_s) / self._above_s
        return self._scale * (mean_s + further_s)


def _halves(calls: Iterable[tuple[Layer, CallTime]]) -> tuple[dict[object, float], dict[object, float]]:
    """The sums of how far calls may be above their times: of those that err together, and of each layer among them."""
    together, of_layers = defaultdict[object, float](float), defaultdict[object, float](float)
    for layer, time in calls:
        together[time.errs_with] += time.half_s
        of_layers[time.errs_with, layer] += time.half_s
    return together, of_layers


def _spread(
    calls: Iterable[tuple[Layer, CallTime]], together: dict[object, float], of_layers: dict[object, float]
) -> float:
    """B: as Σ half · (its share of what errs together), which is B² where all calls are counted."""
    return sqrt(
        sum(
            time.half_s * (time.alike * together[time.errs_with] + (1 - time.alike) * of_layers[time.errs_with, layer])
            for layer, time in calls
        )
    )
