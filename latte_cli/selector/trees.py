"""The selector's trees, boosted by XGBoost: what each candidate loses against the best one, and which one wins."""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

from latte_cli.boosters import load_booster
from latte_cli.features import Matrix
from latte_cli.selector.candidates import COLUMNS, Array, CandidateTable

SEEN = (*COLUMNS, "device", "algorithm")
"""What the trees see of a candidate; the last two are the card's indices. Those that tell who wins see no algorithm."""

LOSSES = "losses"
"""The name of the booster that predicts losses; the others have those of their phases."""

_CATEGORIES = ("kind", "function", "phase", "device", "algorithm")
TYPES = ["c" if column in _CATEGORIES else "q" for column in SEEN]
"""Which columns of `SEEN` are categories, in XGBoost's letters."""

SCALE = 0.1
"""What a logarithm of the likelihood to win weighs beside a loss; docs/selector-quality.md."""

WHOLE = "whole"
"""The attribute of boosters that were fitted to columns without gaps; those of earlier versions lack it."""

_UNKNOWN = np.array([0 if column in _CATEGORIES else -1e6 for column in COLUMNS], dtype=np.float32)  # chosen: no size
_BLOCK = 1 << 15  # candidates that are asked about together; chosen: 17 MB of columns
_LEAST_LIKELY = 1e-6  # chosen: keeps the logarithm finite; a loss of 1.4 at most


class Trees:
    """Boosted trees: a candidate's loss, 1 - best time / time, less 0.1 of the logarithm of its likelihood to win.

    Both are fitted to time: a decision counts in the likelihood by what the winner gains.
    """

    kind = "xgboost"

    def __init__(
        self, boosters: Mapping[str, Any], devices: Sequence[str], classes: Mapping[str, Sequence[int]]
    ) -> None:
        self._boosters, self._devices, self.classes = boosters, list(devices), classes

    def losses(self, candidates: CandidateTable) -> Array:
        slug = candidates.device.slug
        code = self._devices.index(slug) if slug in self._devices else np.nan
        devices = np.full(len(candidates.features), code)
        whole = tree_columns(candidates.features, devices, whole=bool(self._boosters[LOSSES].attr(WHOLE)))
        losses = np.empty(len(candidates.rows))
        for start in range(0, len(losses), _BLOCK):
            part = slice(start, start + _BLOCK)
            one_each = np.column_stack([whole[candidates.rows[part]], candidates.indices[part].astype(np.float32)])
            losses[part] = self._boosters[LOSSES].inplace_predict(one_each)
        unlikely = np.full((len(whole), candidates.algorithms), log(_LEAST_LIKELY))
        phases = np.array([phase for _, phase in candidates.pairs])
        for phase in set(phases.tolist()) & self._boosters.keys():
            own = np.flatnonzero(phases == phase)
            scores = self._boosters[phase].inplace_predict(whole[own], predict_type="margin").astype(np.float64)
            scores -= scores.max(axis=1, keepdims=True)
            scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
            unlikely[np.ix_(own, np.array(self.classes[phase]))] = np.maximum(scores, log(_LEAST_LIKELY))
        losses -= SCALE * unlikely[candidates.rows, candidates.indices]
        return losses

    def importance(self) -> dict[str, float]:
        """Each feature's share of what the splits that predict losses gained."""
        gains = self._boosters[LOSSES].get_score(importance_type="total_gain")
        total = sum(gains.values()) or 1.0
        named = {SEEN[int(name.removeprefix("f"))]: gain / total for name, gain in gains.items()}
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    def as_files(self) -> dict[str, bytes]:
        return {f"{name}.ubj": bytes(booster.save_raw(raw_format="ubj")) for name, booster in self._boosters.items()}


def load_trees(content: Mapping[str, bytes], devices: Sequence[str], classes: Mapping[str, Sequence[int]]) -> Trees:
    """Trees from XGBoost's own files; raises ValueError for what is none, or is of other features or classes."""
    stems = {name.removesuffix(".ubj"): one for name, one in content.items()}
    if set(stems) != {LOSSES, *classes} or LOSSES in classes:
        raise ValueError("trees that are not complete")
    boosters = {LOSSES: load_booster(stems[LOSSES], len(SEEN))}
    boosters |= {phase: load_booster(stems[phase], len(SEEN) - 1, len(own)) for phase, own in classes.items()}
    return Trees(boosters, devices, classes)


def tree_columns(features: Matrix, devices: npt.ArrayLike, *, whole: bool = True) -> Matrix:
    """All of `SEEN` but the algorithm; if `whole`, what is not known of a layer has a number of its own.

    XGBoost keeps a matrix without gaps in a quarter of the memory, and fits it in half the time.
    """
    columns = np.column_stack([features, np.asarray(devices, dtype=np.float32)])
    if whole:
        seen = columns[:, :-1]
        np.copyto(seen, _UNKNOWN[: seen.shape[1]], where=np.isnan(seen))
    return columns
