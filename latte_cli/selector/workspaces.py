"""Workspaces: how many bytes an algorithm needs beside a layer's tensors, learned from those that were measured."""

from typing import Any

import numpy as np

from latte_cli.boosters import fitting_threads, load_booster, quantile_matrix, xgboost_module
from latte_cli.features import Matrix, informative
from latte_cli.selector.candidates import Array, Indices

FILE = "workspaces.ubj"
_SMALL_BYTES = 4096  # chosen: a page, less than any limit tells apart
_MARGIN = 1.1  # of those said to fit a limit, about one in a hundred exceeds it
_TREES: dict[str, Any] = {
    "objective": "reg:squarederror",
    "tree_method": "hist",
    "max_depth": 8,
    "eta": 0.2,
    "min_child_weight": 1,
    "colsample_bytree": 0.8,
}
_ROUNDS = 60  # chosen: with the rate above
_MOST = 200_000  # chosen: candidates that are learned from; workspaces follow from sizes, so that more tell little


class Workspaces:
    """Boosted trees for the logarithm of a workspace; without any that was measured all are nothing."""

    def __init__(self, booster: Any | None = None) -> None:
        self._booster = booster

    def predict_bytes(self, features: Matrix, rows: Indices, indices: Indices) -> Array:
        """Bytes that each candidate, algorithm `indices` for the pairs `rows` of `features`, may need."""
        if self._booster is None or not len(rows):
            return np.zeros(len(rows))
        logs = self._booster.inplace_predict(_columns(features, rows, indices)).astype(np.float64)
        needed: Array = _MARGIN * np.maximum(np.exp2(logs) - _SMALL_BYTES, 0.0)
        return np.where(needed < _SMALL_BYTES / 2, 0.0, needed)

    def as_files(self) -> dict[str, bytes]:
        """The trees as XGBoost's own file."""
        return {} if self._booster is None else {FILE: bytes(self._booster.save_raw(raw_format="ubj"))}


def fit_workspaces(features: Matrix, rows: Indices, indices: Indices, needed_bytes: Array, *, seed: int) -> Workspaces:
    """Trees fitted to what candidates needed, one number each."""
    if not len(rows):
        return Workspaces()
    if len(rows) > _MOST:
        some = np.sort(np.random.default_rng(seed).choice(len(rows), _MOST, replace=False))
        rows, indices, needed_bytes = rows[some], indices[some], needed_bytes[some]
    data = quantile_matrix(
        lambda part: _columns(features, rows[part], indices[part]),
        ["q"] * features.shape[1] + ["c"],
        np.log2(needed_bytes + _SMALL_BYTES),
    )
    data.set_info(feature_weights=np.append(informative(features[np.unique(rows)]), np.float32(1)))
    parameters = {**_TREES, "seed": seed, "nthread": fitting_threads()}
    return Workspaces(xgboost_module().train(parameters, data, num_boost_round=_ROUNDS))


def load_workspaces(content: bytes, columns: int) -> Workspaces:
    """Trees from XGBoost's own file; raises ValueError for what is none, or is of other features."""
    return Workspaces(load_booster(content, columns + 1))


def _columns(features: Matrix, rows: Indices, indices: Indices) -> Matrix:
    return np.column_stack([features[rows], indices.astype(np.float32)])
