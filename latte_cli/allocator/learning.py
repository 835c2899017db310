"""Learning from rounds: a device's own measured steps correct the prices of its later rounds."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, isfinite, log, sqrt
from statistics import fmean

import numpy as np

from latte_cli.allocator.pricing import Round
from latte_cli.lookup import Z95

LATEST = 20  # chosen: long enough for a mean, short enough to follow a device whose load changes
"""So many rounds of a device count, the latest ones."""

MOST_SDS = 4.0  # chosen: a normal is further out once in 16,000 times, so that the price or what is said is wrong
"""A ratio counts up to so many standard deviations of its price; what is further out counts as this."""

ALIKE = 0.3
"""The share of the variance of log(measured / estimated) that the sub-models of a device have in common.

Measured: `benchmarks/sub_models_alike.py`, 17 sub-models of two networks, in units of their intervals.
"""

ALIKE_BY_SHEET = 0.8
"""That share where a data sheet tells the times: most of the error is the machine's own clock and host. Two networks
measured on a GPU bring the mean error of others from 18 to 8 % (docs/datasheets.md), which leaves (8 / 18)² = 0.2 of
the variance; two measurements leave 1 - 2 a² / (1 + a) of it, 0.2 for a = 0.86. Rounded down."""

ROUND_SPREAD = 0.05
"""The deviation of log(mean step) from round to round before rounds say it: that of a whole model against itself,
minutes later, as in the estimator's intervals. 90 % of the rounds in docs/allocation-rounds.md are within 0.047."""

_SPREAD_ROUNDS = 2.0  # chosen: a deviation of two rounds of one's own counts as much
_MOST_SD = 1.0  # chosen: a price that may be off by more than seven times says nothing


@dataclass(frozen=True, kw_only=True)
class StepPrice:
    """The mean time of a step in seconds, and its 95 % interval.

    `alike` is the share of its error's variance that it has in common with prices of the device's other sub-models.
    """

    step_s: float
    low_s: float
    high_s: float
    alike: float = ALIKE

    @property
    def sd(self) -> float:
        """The standard deviation of its logarithm: log(high / low) / (2 · 1.96), by the upper half where low is 0."""
        if not 0 < self.step_s <= self.high_s < float("inf"):
            return 0.0
        wide = log(self.high_s / self.low_s) / 2 if self.low_s > 0 else log(self.high_s / self.step_s)
        return min(_MOST_SD, wide / Z95)


@dataclass(frozen=True, kw_only=True)
class MeasuredSteps:
    """What a device measured in a round: `steps` of a sub-model, of `step_s` on average, with the deviation `spread_s`.

    `price` is what was estimated for such a step before anything was measured. `parameters` are the sub-model's.
    """

    sub_model: str
    parameters: int
    steps: int
    step_s: float
    spread_s: float
    price: StepPrice

    @property
    def log_ratio(self) -> float:
        """The logarithm of the measured over the estimated time."""
        return log(self.step_s) - log(self.price.step_s)

    @property
    def counted(self) -> float:
        """The logarithm, of which no more than MOST_SDS standard deviations of the price count."""
        most = MOST_SDS * self.price.sd
        return min(most, max(-most, self.log_ratio))


def most_spread_s(steps: int, step_s: float) -> float:
    """The largest standard deviation that so many times of at least 0 with the mean `step_s` can have, in seconds."""
    return step_s * sqrt(max(1, steps - 1))


def step_price(found: Round) -> StepPrice | None:
    """The price of a step of the round; None where it has no steps with times."""
    if not found.steps or found.step_s is None or found.low_s is None or found.high_s is None:
        return None
    low_s, high_s = ((end - found.sending_s) / found.steps for end in (found.low_s, found.high_s))
    alike = ALIKE + found.sheet_share * (ALIKE_BY_SHEET - ALIKE)
    price = StepPrice(step_s=found.step_s, low_s=max(0.0, low_s), high_s=max(found.step_s, high_s), alike=alike)
    return price if price.step_s > 0 and isfinite(price.high_s) else None


def correct_rounds(rounds: Sequence[Round], measured: Iterable[MeasuredSteps]) -> tuple[Round, ...]:
    """The `rounds` of a device, their steps corrected by what it `measured` in rounds before; sending stays as it is.

    θ_k = log(true / estimated mean step) of the sub-model k has the prior N(0, τ_k²), where τ_k is `StepPrice.sd`, and
    cov(θ_j, θ_k) = sqrt(a_j a_k) τ_j τ_k, where a is the `alike` of a price. A round of k measures y = θ_k + ε,
    ε ~ N(0, v). With c_j = cov(θ_j, θ of what was measured), C the covariance of these and V their noise,

        θ_j | y ~ N(c_j (C + V)⁻¹ y, τ_j² - c_j (C + V)⁻¹ c_j).

    For the sub-model that was measured alone these are 1/σ² = 1/τ² + n/v and μ = σ² n ȳ/v: the normal distribution
    with known variance (Gelman et al., Bayesian Data Analysis, 3rd ed., ch. 2.5; for several sub-models Rasmussen and
    Williams, Gaussian Processes, eqs. 2.23 and 2.24). A step takes e^μ times its estimate. Its 95 % interval is that of
    a later round (the posterior predictive), e^(μ ± 1.96 sqrt(σ² + s²)); since that of the price is of a round too, the
    new one is no wider, unless rounds differ by more than the price says.

    v is the larger of s² and (spread / step)² / steps. s² is the variance from round to round, (2 · ROUND_SPREAD² +
    Σ (y - ȳ_k)²) / (2 + Σ (n_k - 1)): the scaled inverse-χ² posterior (ch. 2.6), by the device's own rounds.

    Without a measurement the rounds are returned as they are. Where `rounds` have the sub-model that was measured, the
    ratio is to their estimate, else to the one that was recorded.
    """
    prices = {(each.sub_model.id, each.sub_model.parameters): step_price(each) for each in rounds}
    seen = [_as_priced(each, prices.get((each.sub_model, each.parameters))) for each in measured]
    if not seen:
        return tuple(rounds)
    posterior = _Posterior(seen)
    return tuple(
        _correct_round(each, posterior, prices[each.sub_model.id, each.sub_model.parameters]) for each in rounds
    )


def _as_priced(found: MeasuredSteps, price: StepPrice | None) -> MeasuredSteps:
    return found if price is None else replace(found, price=price)


def _correct_round(found: Round, posterior: "_Posterior", price: StepPrice | None) -> Round:
    if price is None:
        return found
    mean, sd = posterior.of((found.sub_model.id, found.sub_model.parameters), price)
    step_s, sending_s = price.step_s * exp(mean), found.sending_s
    low_s, high_s = step_s * exp(-Z95 * sd), step_s * exp(Z95 * sd)
    return replace(
        found,
        step_s=step_s,
        step_high_s=high_s,
        round_s=found.steps * step_s + sending_s,
        low_s=found.steps * low_s + sending_s,
        high_s=found.steps * high_s + sending_s,
    )


class _Posterior:
    """What is known of log(true / estimated) of a device's sub-models after its measurements."""

    def __init__(self, measured: Sequence[MeasuredSteps]) -> None:
        by_key = defaultdict[tuple[str, int], list[MeasuredSteps]](list)
        for each in measured:
            by_key[each.sub_model, each.parameters].append(each)
        logs = {key: [each.counted for each in found] for key, found in by_key.items()}
        self._round_variance = _round_variance(logs.values())
        self._keys = list(by_key)
        self._taus = np.array([found[0].price.sd for found in by_key.values()])
        means, variances = [], []
        for key, found in by_key.items():
            weights = np.array([1 / max(self._round_variance, _mean_variance(each)) for each in found])
            means.append(float(weights @ logs[key] / weights.sum()))
            variances.append(float(1 / weights.sum()))
        self._roots = np.sqrt([found[0].price.alike for found in by_key.values()])
        alike = np.outer(self._roots, self._roots)
        np.fill_diagonal(alike, 1.0)
        covariance = alike * np.outer(self._taus, self._taus) + np.diag(variances)
        self._inverse = np.linalg.inv(covariance)
        self._weighed = self._inverse @ np.array(means)

    def of(self, key: tuple[str, int], price: StepPrice) -> tuple[float, float]:
        """The mean for a sub-model of this `price`, and the deviation of a later round."""
        tau = price.sd
        same = np.array([each == key for each in self._keys])
        alike = np.where(same, 1.0, sqrt(price.alike) * self._roots)
        shared = tau * alike * self._taus
        variance = max(0.0, tau**2 - float(shared @ self._inverse @ shared))
        later = min(variance + self._round_variance, max(tau**2, self._round_variance))
        return float(shared @ self._weighed), sqrt(later)


def _round_variance(logs: Iterable[Sequence[float]]) -> float:
    """s²: how much the mean step varies from round to round."""
    squares, rounds = _SPREAD_ROUNDS * ROUND_SPREAD**2, _SPREAD_ROUNDS
    for each in logs:
        mean = fmean(each)
        squares += sum((value - mean) ** 2 for value in each)
        rounds += len(each) - 1
    return squares / rounds


def _mean_variance(found: MeasuredSteps) -> float:
    """The variance of the logarithm of a round's mean step, by the spread of its steps."""
    return (found.spread_s / found.step_s) ** 2 / found.steps
