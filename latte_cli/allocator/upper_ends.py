"""Upper ends of steps: the end of a step's 95 % interval from what its calls add up to."""

from dataclasses import dataclass
from math import hypot, sqrt
from typing import TypeVar

import numpy as np

from latte_cli.allocator.cells import Array, CostTable, StepSums

Amount = TypeVar("Amount", float, Array)


@dataclass(frozen=True, kw_only=True)
class CallTime:
    """The seconds of a call, all times that a step makes it, and how far above them it may be (`half_s`).

    Calls with the same `errs_with` err together: of their variance they have the share `alike` in common.
    """

    seconds: float
    half_s: float = 0.0
    alike: float = 1.0
    errs_with: object = None


@dataclass(frozen=True, kw_only=True)
class UpperEnd:
    """The upper end of a step's interval, U = s (r T + sqrt(B² + (c r T)²)); `ratio`, `common`, `scale` are r, c, s.

    T is the sum of the calls' seconds, B² the sum of the squares of what errs together (see `intervals` of the
    estimator).
    """

    ratio: float = 1.0
    common: float = 0.0
    scale: float = 1.0

    @staticmethod
    def from_estimate(seconds: float, squares: float, step_s: float, high_s: float) -> "UpperEnd":
        """The one whose step, with this T and B², takes `step_s` on average and `high_s` at its upper end."""
        common = sqrt(max(0.0, (high_s - step_s) ** 2 - squares)) / step_s
        scale = high_s / (step_s + hypot(sqrt(squares), common * step_s))
        return UpperEnd(ratio=step_s / seconds, common=common, scale=scale)

    def seconds(self, seconds: Amount, squares: Amount) -> Amount:
        """U for these T and B²."""
        mean_s = self.ratio * seconds
        found: Amount = self.scale * (mean_s + (squares + (self.common * mean_s) ** 2) ** 0.5)
        return found

    def of(self, table: CostTable, here: StepSums) -> Array:
        """What each cell of the table adds to U in steps near `here`, but for a constant.

        Of a square (h + Σ others)², h² + 2 h Σ others counts, with the others as they are here.
        """
        step_s, squared = table.step(here)
        above_s = sqrt(squared + (self.common * self.ratio * step_s) ** 2)
        mean_s = self.ratio * (table.amounts[:, 0] + table.update.slope_s * table.amounts[:, 1])
        if not above_s:
            return self.scale * mean_s
        halves = table.halves_s.tocsr(copy=True)
        others = np.maximum(here.halves_s[halves.indices] - halves.data, 0.0)
        halves.data = halves.data * (halves.data + 2 * others) * table.shares[halves.indices]
        squares = np.asarray(halves.sum(axis=1)).ravel()
        squares += 2 * self.common**2 * self.ratio * step_s * mean_s
        found: Array = self.scale * (mean_s + squares / (2 * above_s))
        return found
