"""Growing the selector's trees: how many, how large, on what, and when to stop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from latte_cli.boosters import fitting_threads, quantile_matrix, xgboost_module
from latte_cli.features import FEATURES, Matrix
from latte_cli.selector.candidates import COLUMNS, Array, Indices
from latte_cli.selector.examples import ChoiceTable
from latte_cli.selector.listwise import Listwise
from latte_cli.selector.trees import LOSSES, SCALE, TYPES, WHOLE, Trees, tree_columns

_MANY_TIMES, _MANY = 25_000, 20_000  # docs/selector-quality.md
_TUNING = 10  # chosen: one shape of so many says when to stop
_LEAST_TUNING = 200  # chosen: fewer decisions say little; all rounds are taken then
_PATIENCE = 10  # chosen: rounds without a lower objective on what is left out
_BLOCK = 1 << 15  # chosen: decisions that are looked at together
_WON = 0.3  # chosen: an algorithm that won somewhere, or nearly did, is a class
_MOST_WORK = 50_000_000  # rows times rounds; benchmarks/selector_cost.py
_LEAST_ROUNDS, _FASTEST = 30, 0.3  # chosen: fewer or faster ones learn visibly less
_MOST_CLASSES = 12  # chosen: each takes a tree in each round; oneDNN's implementations are eleven

_Margins: TypeAlias = npt.NDArray[np.float32]
_Objective: TypeAlias = Callable[[_Margins, Any], tuple[Array, Array]]
_Metric: TypeAlias = Callable[[_Margins, Any], tuple[str, float]]


@dataclass(frozen=True, kw_only=True)
class TreeSize:
    """How large trees grow: `depth` levels, a `rate` for each of at most so many `rounds`, the share of `columns` that
    each looks at, and the least `leaf`, a sum of curvatures."""

    depth: int
    rate: float
    rounds: int
    columns: float
    leaf: float


# For losses and for wins; more decisions tell finer rules from noise: docs/selector-quality.md
_FEW = (
    TreeSize(depth=8, rate=0.25, rounds=40, columns=0.8, leaf=1),
    TreeSize(depth=8, rate=0.25, rounds=25, columns=0.3, leaf=1),
)
_LARGE = (
    TreeSize(depth=10, rate=0.15, rounds=100, columns=0.5, leaf=1),
    TreeSize(depth=9, rate=0.15, rounds=100, columns=0.3, leaf=1),
)


def _within_work(size: TreeSize, rows: int) -> TreeSize:
    """The same with fewer rounds, each of which counts more, where all on so many `rows` would take too long."""
    rounds = max(_LEAST_ROUNDS, min(size.rounds, _MOST_WORK // max(1, rows)))
    return replace(size, rounds=rounds, rate=min(_FASTEST, size.rate * size.rounds / rounds))


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a booster is fitted to: a matrix with an objective, and another one that says when to stop."""

    data: Any
    objective: _Objective
    tuning: Any = None
    metric: _Metric | None = None


def fit_trees(examples: ChoiceTable, devices: Sequence[str], *, seed: int) -> Trees:
    """Trees fitted to `examples`, the same for the same seed."""
    detailed = len(examples.features) >= _MANY or len(examples.indices) >= _MANY_TIMES
    of_losses, of_wins = _LARGE if detailed else _FEW
    weights = _weights(examples, detailed=detailed)
    learned, tuned = _apart(examples)
    size = _within_work(of_losses, len(learned.indices))
    boosters = {LOSSES: _boost(_of_losses(learned, tuned, weights), size, seed, 1 / SCALE**2)}
    classes: dict[str, list[int]] = {}
    phases, tuned_phases = np.array(learned.phases), np.array(tuned.phases)
    for phase in sorted(set(learned.phases)):
        own, other = (
            each.take(np.flatnonzero(mask == phase)) for each, mask in ((learned, phases), (tuned, tuned_phases))
        )
        present = np.unique(own.indices[own.wins > _WON])
        own, other = own.among(present), other.among(present)
        if 1 < len(present) <= _MOST_CLASSES and len(own.features):
            size = _within_work(of_wins, len(own.features) * len(present))
            task = _of_wins(own, other, present, weights[:-1])
            boosters[phase] = _boost(task, size, seed, 1.0, {"num_class": len(present)})
            classes[phase] = [int(index) for index in present]
    return Trees(boosters, devices, classes)


def _weights(examples: ChoiceTable, *, detailed: bool) -> Matrix:
    """How often each column is looked at: never where it tells nothing apart."""
    first = tree_columns(examples.features[:1], examples.devices[:1])
    differs = np.zeros(first.shape[1], dtype=bool)
    for start in range(0, len(examples.features), _BLOCK):
        part = slice(start, start + _BLOCK)
        differs |= (tree_columns(examples.features[part], examples.devices[part]) != first).any(axis=0)
    weights = (differs if differs.any() else ~differs).astype(np.float32)
    if not detailed:
        weights[len(FEATURES) : len(COLUMNS)] = 0
    return np.append(weights, np.float32(1))


def _apart(examples: ChoiceTable) -> tuple[ChoiceTable, ChoiceTable]:
    """What is learned from, and the shapes that say when to stop, of which there are none where they would be few.

    Decisions of which one candidate is left teach nothing, unless there are no others.
    """
    several = np.diff(examples.starts) > 1
    several = several if several.any() else ~several
    tuning = several & (examples.shapes % _TUNING == 0)
    if tuning.sum() < _LEAST_TUNING:
        tuning[:] = False
    return examples.take(np.flatnonzero(several & ~tuning)), examples.take(np.flatnonzero(tuning))


def _of_losses(learned: ChoiceTable, tuned: ChoiceTable, weights: Matrix) -> _Task:
    """A row for each candidate; what is predicted is its loss."""
    objective, metric = _listwise(learned), _listwise(tuned)

    def gradient(margins: _Margins, data: Any) -> tuple[Array, Array]:
        slope, curvature = objective.gradient(-margins.astype(np.float64) / SCALE)
        return -slope / SCALE, curvature / SCALE**2

    data = _candidates_matrix(learned)
    data.set_info(feature_weights=weights)
    return _Task(
        data=data,
        objective=gradient,
        tuning=_candidates_matrix(tuned, data) if len(tuned.features) else None,
        metric=lambda margins, data: ("listwise", metric.value(-margins.astype(np.float64) / SCALE)),
    )


def _of_wins(learned: ChoiceTable, tuned: ChoiceTable, present: Indices, weights: Matrix) -> _Task:
    """A row for each decision; what is predicted is the score of each algorithm that wins somewhere."""
    objective, metric = _listwise(learned), _listwise(tuned)
    places, tuned_places = ((each.rows, np.searchsorted(present, each.indices)) for each in (learned, tuned))
    shape = len(learned.features), len(present)

    def gradient(margins: _Margins, data: Any) -> tuple[Array, Array]:
        slopes, curvatures = np.zeros(shape), np.zeros(shape)
        slopes[places], curvatures[places] = objective.gradient(margins.reshape(shape)[places].astype(np.float64))
        return slopes, curvatures

    data = _decisions_matrix(learned)
    data.set_info(feature_weights=weights)
    return _Task(
        data=data,
        objective=gradient,
        tuning=_decisions_matrix(tuned, data) if len(tuned.features) else None,
        metric=lambda margins, data: (
            "listwise",
            metric.value(margins.reshape(-1, len(present))[tuned_places].astype(np.float64)),
        ),
    )


def _listwise(examples: ChoiceTable) -> Listwise:
    return Listwise(examples.starts, examples.wins, examples.losses, examples.gains, examples.counts)


def _candidates_matrix(examples: ChoiceTable, like: Any = None) -> Any:
    rows = examples.rows

    def block(part: slice) -> Matrix:
        own = rows[part]
        columns = tree_columns(examples.features[own], examples.devices[own])
        return np.column_stack([columns, examples.indices[part].astype(np.float32)])

    return quantile_matrix(block, len(rows), TYPES, like)


def _decisions_matrix(examples: ChoiceTable, like: Any = None) -> Any:
    def block(part: slice) -> Matrix:
        return tree_columns(examples.features[part], examples.devices[part])

    return quantile_matrix(block, len(examples.features), TYPES[:-1], like)


def _boost(task: _Task, size: TreeSize, seed: int, scale: float, more: dict[str, Any] | None = None) -> Any:
    """A booster for `task`, whose curvatures are `scale` times those of a score."""
    xgboost = xgboost_module()
    parameters = {
        **{"tree_method": "hist", "base_score": 0.0, "seed": seed, "nthread": fitting_threads()},
        **{"max_depth": size.depth, "eta": size.rate, "colsample_bytree": size.columns, "subsample": 0.8},
        **{"min_child_weight": size.leaf * scale, "reg_lambda": scale},
        **({"objective": "multi:softprob", **more} if more else {"objective": "reg:squarederror"}),
    }
    if task.tuning is None:
        booster = xgboost.train(parameters, task.data, size.rounds, obj=task.objective)
        booster.set_attr(**{WHOLE: "1"})
        return booster
    stop = xgboost.callback.EarlyStopping(rounds=_PATIENCE, metric_name="listwise", data_name="tuning", save_best=True)
    booster = xgboost.train(
        {**parameters, "disable_default_eval_metric": True},
        task.data,
        size.rounds,
        obj=task.objective,
        evals=[(task.tuning, "tuning")],
        custom_metric=task.metric,
        callbacks=[stop],
        verbose_eval=False,
    )
    booster.set_attr(**{WHOLE: "1"})
    return booster
