"""The listwise objective: of the algorithms tried the fastest is to be likeliest, and what is lost the least."""

from math import log

import numpy as np
import numpy.typing as npt

from latte_cli.selector.candidates import Array

_SHARPNESS = 10  # of targets: a tenth slower is to be e times less likely; docs/selector-public.md
_REGRET = 4.0  # how much an expected loss counts beside the entropy; docs/selector-public.md
_MOST_LOST = log(50)  # chosen: of what takes fifty times as long, and of what did not run
_LEAST_CURVATURE = 1e-6  # chosen: keeps a step finite where nothing is uncertain
_IMPOSSIBLE = -1e9  # the score of what was not tried


class Listwise:
    """A softmax over the algorithms tried: its cross entropy to targets that fall with the time as (best / time)^10,
    and 4 times the expected logarithm of time / best.

    `losses` are 1 - best time / time, a row for each decision and a column for each algorithm, not a number for what
    was not tried; a row counts as often as `counts` says.
    """

    def __init__(self, losses: Array, counts: Array) -> None:
        self._tried = ~np.isnan(losses)
        ratios = np.where(self._tried, 1 - losses, 0.0)
        targets = (ratios / np.maximum(ratios.max(axis=1, keepdims=True), 1e-9)) ** _SHARPNESS
        self._targets = targets / targets.sum(axis=1, keepdims=True)
        slower = -np.log(np.maximum(ratios, np.exp(-_MOST_LOST)))
        self._lost = np.where(self._tried, slower - slower.min(axis=1, keepdims=True), 0.0)
        self._counts = counts[:, None]

    def gradient(self, scores: npt.NDArray[np.floating]) -> tuple[Array, Array]:
        """The first derivatives of the objective by each score, and an upper bound of the second ones."""
        likely = self._likelihoods(scores)
        excess = likely * (self._lost - (likely * self._lost).sum(axis=1, keepdims=True))
        slope = self._counts * (likely - self._targets + _REGRET * excess)
        curvature = self._counts * (2 * likely * (1 - likely) + _REGRET * np.abs(excess))
        return slope, np.maximum(curvature, _LEAST_CURVATURE)

    def value(self, scores: npt.NDArray[np.floating]) -> float:
        """The objective, summed over the decisions."""
        likely = self._likelihoods(scores)
        entropy = -(self._targets * np.log(np.where(self._tried, likely, 1.0))).sum(axis=1)
        return float((self._counts[:, 0] * (entropy + _REGRET * (likely * self._lost).sum(axis=1))).sum())

    def _likelihoods(self, scores: npt.NDArray[np.floating]) -> Array:
        shifted = np.where(self._tried, scores.astype(np.float64), _IMPOSSIBLE)
        powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
        result: Array = powers / powers.sum(axis=1, keepdims=True)
        return result
