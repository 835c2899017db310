"""The selector's trees, boosted by XGBoost: what each candidate loses against the best one, and which one wins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latte_cli.boosters import load_booster, xgboost_module
from latte_cli.features import FEATURES, Matrix, informative
from latte_cli.layers import Phase
from latte_cli.selector.candidates import COLUMNS, Array, CandidateTable, Indices

SEEN = (*COLUMNS, "device", "algorithm")
"""What the trees see of a candidate; the last two are the card's indices. Those that tell who wins see no algorithm."""

LOSSES = "losses"
"""The name of the booster that predicts losses; the others have those of their phases."""

_CATEGORIES = ("kind", "function", "phase", "device", "algorithm")
_TYPES = ["c" if column in _CATEGORIES else "q" for column in SEEN]
_WINS_COUNT = 0.1  # what a logarithm of the likelihood to win weighs beside a loss
_LEAST_LIKELY = 1e-6  # chosen: keeps the logarithm finite; a loss of 1.4 at most
_MANY_TIMES, _MANY = 25_000, 20_000  # docs/selector-quality.md
_LEAST_WEIGHT, _MOST_GAIN = 0.1, 1.0  # chosen: a choice that matters by a factor of two counts fully
_COMMON: dict[str, Any] = {"tree_method": "hist", "subsample": 0.8}  # docs/selector-quality.md
_OF_LOSSES = {"objective": "reg:squarederror", "base_score": 0.0, "min_child_weight": 5, "colsample_bytree": 0.8}
_OF_WINS = {"objective": "multi:softprob", "min_child_weight": 1, "colsample_bytree": 0.3}
# Depth, rate and rounds for losses and for wins: more decisions tell finer rules from noise.
_FEW, _LARGE = ((8, 0.25, 40), (8, 0.25, 25)), ((10, 0.1, 300), (10, 0.07, 200))  # docs/selector-quality.md
_SMOOTH = {"min_child_weight": 10, "colsample_bytree": 0.5}  # few decisions, between many candidates


@dataclass(frozen=True, kw_only=True)
class TreeExamples:
    """What trees are fitted to: for each decision its features, its device's place and its phase; for each candidate
    the decision (`rows`), the algorithm (`indices`), its loss, and how often it won; the `gain` of the best candidate
    over the next is in logarithms of time, and `counts` are how many rows stand behind a decision. The times of `times`
    candidates are known."""

    features: Matrix
    devices: Indices
    phases: Sequence[Phase]
    rows: Indices
    indices: Indices
    losses: Array
    wins: Array
    gains: Array
    counts: Array
    times: int


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
        whole = _columns(candidates.features, np.full(len(candidates.features), code, dtype=np.float32))
        one_each = np.column_stack([whole[candidates.rows], candidates.indices.astype(np.float32)])
        losses: Array = self._boosters[LOSSES].inplace_predict(one_each).astype(np.float64)
        likely = np.full((len(whole), candidates.algorithms), _LEAST_LIKELY)
        for phase in {phase for _, phase in candidates.pairs}:
            if booster := self._boosters.get(phase):
                own = np.array([index for index, pair in enumerate(candidates.pairs) if pair[1] is phase])
                won = booster.inplace_predict(whole[own])
                likely[np.ix_(own, np.array(self.classes[phase]))] = np.maximum(won, _LEAST_LIKELY)
        losses -= _WINS_COUNT * np.log(likely[candidates.rows, candidates.indices])
        return losses

    def importance(self) -> dict[str, float]:
        """Each feature's share of what the splits that predict losses gained."""
        gains = self._boosters[LOSSES].get_score(importance_type="total_gain")
        total = sum(gains.values()) or 1.0
        named = {SEEN[int(name.removeprefix("f"))]: gain / total for name, gain in gains.items()}
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    def as_files(self) -> dict[str, bytes]:
        return {f"{name}.ubj": bytes(booster.save_raw(raw_format="ubj")) for name, booster in self._boosters.items()}


def fit_trees(examples: TreeExamples, devices: Sequence[str], *, seed: int) -> Trees:
    """Trees fitted to `examples`, the same for the same seed."""
    many = len(examples.features) >= _MANY
    detailed = many or examples.times >= _MANY_TIMES
    of_losses, of_wins = _LARGE if detailed else _FEW
    smooth = _SMOOTH if detailed and not many else {}
    whole = _columns(examples.features, examples.devices.astype(np.float32))
    columns = np.column_stack([whole[examples.rows], examples.indices.astype(np.float32)])
    data = _data(columns, examples.losses, examples.counts[examples.rows], detailed=detailed)
    boosters = {LOSSES: _boost(data, {**_OF_LOSSES, **smooth}, of_losses, seed)}
    classes: dict[str, list[int]] = {}
    phases = np.array([str(phase) for phase in examples.phases])
    weights = examples.wins * examples.counts[examples.rows]
    weights = weights * (_LEAST_WEIGHT + np.minimum(examples.gains[examples.rows], _MOST_GAIN))
    for phase in sorted(set(phases)):
        won = np.flatnonzero((examples.wins > 0) & (phases[examples.rows] == phase))
        present, labels = np.unique(examples.indices[won], return_inverse=True)
        if len(present) > 1:
            data = _data(whole[examples.rows[won]], labels, weights[won], detailed=detailed)
            boosters[phase] = _boost(data, {**_OF_WINS, "num_class": len(present)}, of_wins, seed)
            classes[phase] = [int(index) for index in present]
    return Trees(boosters, devices, classes)


def _boost(data: Any, objective: Mapping[str, Any], size: tuple[int, float, int], seed: int) -> Any:
    xgboost = xgboost_module()
    depth, rate, rounds = size
    parameters = {**_COMMON, **objective, "max_depth": depth, "eta": rate, "seed": seed}
    return xgboost.train(parameters, data, num_boost_round=rounds)


def load_trees(content: Mapping[str, bytes], devices: Sequence[str], classes: Mapping[str, Sequence[int]]) -> Trees:
    """Trees from XGBoost's own files; raises ValueError for what is none, or is of other features or classes."""
    stems = {name.removesuffix(".ubj"): one for name, one in content.items()}
    if set(stems) != {LOSSES, *classes} or LOSSES in classes:
        raise ValueError("trees that are not complete")
    boosters = {LOSSES: load_booster(stems[LOSSES], len(SEEN))}
    boosters |= {phase: load_booster(stems[phase], len(SEEN) - 1, len(own)) for phase, own in classes.items()}
    return Trees(boosters, devices, classes)


def _columns(features: Matrix, devices: npt.NDArray[np.float32]) -> Matrix:
    return np.column_stack([features, devices])


def _data(columns: Matrix, target: npt.ArrayLike, counts: Array, *, detailed: bool) -> Any:
    xgboost = xgboost_module()
    data = xgboost.DMatrix(
        columns, label=target, weight=counts, feature_types=_TYPES[: columns.shape[1]], enable_categorical=True
    )
    weights = informative(columns)
    if not detailed:
        weights[len(FEATURES) : len(COLUMNS)] = 0
    data.set_info(feature_weights=weights)
    return data
