"""Batches: the largest one that fits, the one that keeps a wished batch, and where a larger one gains nothing."""

from collections.abc import Callable, Sequence
from math import inf

from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator.records import Estimate

LEAST_GAIN = 0.05  # chosen: what a larger batch has to gain in samples per second to be worth its memory
MOST_TRIED = 2**20  # chosen: a batch that no device trains


def largest_batch(needed_bytes: Callable[[int], float], limit_bytes: int) -> int:
    """A batch that fits a limit while the next larger one does not, at most MOST_TRIED; 0 where not even one fits.

    `needed_bytes` is what a step at a batch needs, infinity where it cannot be had. It grows nearly in a
    straight line, which says where to look next.
    """
    below, above = (0, -inf), (MOST_TRIED + 1, inf)
    guess = 1
    while above[0] - below[0] > 1:
        needed = needed_bytes(guess)
        if needed <= limit_bytes:
            below = (guess, needed)
        else:
            above = (guess, needed)
        guess = _between(below, above, limit_bytes)
    return below[0]


def _between(below: tuple[int, float], above: tuple[int, float], limit_bytes: int) -> int:
    """Where to look next: on the line between two batches where one fits, else at four times the batch."""
    (low, low_bytes), (high, high_bytes) = below, above
    if high > MOST_TRIED:
        return min(4 * low, high - 1)
    if low == 0 or high_bytes == inf:
        return (low + high) // 2
    guess = low + (limit_bytes - low_bytes) / (high_bytes - low_bytes) * (high - low)
    margin = (high - low) // 8  # neither end may stay for ever
    return int(min(max(guess, low + margin, low + 1), high - margin, high - 1))


def divisors(effective: int) -> list[int]:
    """The batches up to 2**20 that make up `effective` samples when several are accumulated, the largest first."""
    return [batch for batch in range(min(effective, MOST_TRIED), 0, -1) if effective % batch == 0]


def accumulation(effective: int, batch: int) -> int:
    """How many batches make up `effective` samples; raises LatteError (exit code 2) where they do not."""
    if effective % batch == 0:
        return effective // batch
    near = min(divisors(effective), key=lambda each: abs(each - batch))
    raise LatteError(
        f"batches of {batch} do not make up {effective} samples",
        hint=f"`--batch-size {near}` does, or leave it out",
        exit_code=ExitCode.USAGE,
    )


def rate(estimate: Estimate) -> float:
    """Samples per second."""
    return estimate.samples_per_step / estimate.step_s if estimate.step_s else inf


def levels_off_at(estimates: Sequence[Estimate]) -> int | None:
    """The batch after which no larger one of these gains LEAST_GAIN; None where the largest one still does."""
    ordered = sorted(estimates, key=lambda each: each.network.batch_size)
    for at, each in enumerate(ordered[:-1]):
        if max(map(rate, ordered[at + 1 :])) < (1 + LEAST_GAIN) * rate(each):
            return each.network.batch_size
    return None
