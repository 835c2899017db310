"""The listwise objective: of all candidates of a decision the winner is to be likeliest, and what is lost the least."""

import numpy as np

from latte_cli.selector.candidates import Array, Indices

_LEAST_WEIGHT, _MOST_GAIN = 0.1, 1.0  # chosen: a choice that matters by a factor of two counts fully
_REGRET = 4.0  # how much an expected loss counts beside the entropy; docs/selector-public.md
_LEAST_CURVATURE = 1e-6  # chosen: keeps a step finite where nothing is uncertain
_LEAST_LIKELY = 1e-12  # chosen: keeps a logarithm finite


class Listwise:
    """A softmax over the candidates of each decision: its cross entropy to the shares that they won, weighted by what
    the winner gains, plus the loss that is to be expected of it.

    Scores are those of the candidates in a row; decision `i` has those from `starts[i]` to `starts[i + 1]`.
    """

    def __init__(self, starts: Indices, wins: Array, losses: Array, gains: Array, counts: Array) -> None:
        self._starts, lengths = starts[:-1], np.diff(starts)
        self._rows = np.repeat(np.arange(len(lengths)), lengths)
        self._wins = wins / self._sums(wins)[self._rows]
        self._losses = losses
        self._weights = (counts * (_LEAST_WEIGHT + np.minimum(gains, _MOST_GAIN)))[self._rows]
        self._counts, self._all = counts[self._rows], counts.sum()

    def gradient(self, scores: Array) -> tuple[Array, Array]:
        """The first and second derivatives of the objective by each score; the second one is an upper bound."""
        likely = self._likelihoods(scores)
        excess = self._losses - self._sums(likely * self._losses)[self._rows]
        slope = self._weights * (likely - self._wins) + _REGRET * self._counts * likely * excess
        curvature = self._weights * 2 * likely * (1 - likely) + _REGRET * self._counts * likely * np.abs(excess)
        return slope, np.maximum(curvature, _LEAST_CURVATURE)

    def value(self, scores: Array) -> float:
        """The objective in the mean."""
        likely = self._likelihoods(scores)
        entropy = -(self._weights * self._wins * np.log(np.maximum(likely, _LEAST_LIKELY))).sum()
        return float((entropy + _REGRET * (self._counts * likely * self._losses).sum()) / self._all)

    def _likelihoods(self, scores: Array) -> Array:
        powers = np.exp(scores - np.maximum.reduceat(scores, self._starts)[self._rows])
        result: Array = powers / self._sums(powers)[self._rows]
        return result

    def _sums(self, values: Array) -> Array:
        result: Array = np.add.reduceat(values, self._starts)
        return result
