"""The selector's trees, boosted by XGBoost: what each candidate loses against the best one, and which one wins."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from latte_cli.boosters import fitting_threads, load_booster, quantile_matrix, xgboost_module
from latte_cli.features import FEATURES, Matrix, informative
from latte_cli.selector.candidates import COLUMNS, Array, CandidateTable, Indices
from latte_cli.selector.examples import CandidateExamples
from latte_cli.selector.listwise import Listwise

SEEN = (*COLUMNS, "device", "algorithm")
"""What the trees see of a candidate; the last two are the card's indices. Those that tell who wins see no algorithm."""

LOSSES = "losses"
"""The name of the booster that predicts losses; the others have those of their phases."""

_WHOLE = "whole"  # the attribute of trees that were fitted to columns without gaps; those of earlier versions lack it
_WEIGHT = "weight"  # the attribute of those of a phase that says what a logarithm of the likelihood weighs
_CATEGORIES = ("kind", "function", "phase", "device", "algorithm")
_TYPES = ["c" if column in _CATEGORIES else "q" for column in SEEN]
_UNKNOWN = np.array([0 if column in _CATEGORIES else -1e6 for column in COLUMNS], dtype=np.float32)  # chosen: no size
_EARLIER_WEIGHT = 0.1  # that of the trees of earlier versions
_LEAST_LIKELY = 1e-6  # chosen: beside the likeliest; keeps the logarithm finite
_NEVER = 1e-30  # chosen: the likelihood of what is no class, and of others at least
_MANY_TIMES, _MANY = 25_000, 20_000  # docs/selector-quality.md
_COMMON: dict[str, Any] = {"tree_method": "hist", "subsample": 0.8}  # docs/selector-quality.md
_OF_LOSSES = {"objective": "reg:squarederror", "base_score": 0.0, "min_child_weight": 5, "colsample_bytree": 0.8}
_OF_WINS = {"objective": "multi:softprob", "base_score": 0.0, "min_child_weight": 1, "colsample_bytree": 0.3}
_SMOOTH = {"min_child_weight": 10, "colsample_bytree": 0.5}  # few decisions, between many candidates
_BLOCK = 1 << 15  # chosen: candidates that are asked about together; 18 MB of columns

MOST_WORK = 50_000_000
"""Rows times rounds, and times classes, that are fitted in half a minute by two cores; benchmarks/selector_cost.py."""
_MOST_CLASSES = 12  # chosen: each takes a tree in each round; oneDNN's implementations are eleven


@dataclass(frozen=True, kw_only=True)
class _TreeSize:
    """How large trees grow: `depth` levels, and a `rate` for each of `rounds`; `weight` is that of what they say."""

    depth: int
    rate: float
    rounds: int
    weight: float = 1.0


# For losses and for wins; more decisions tell finer rules from noise: docs/selector-quality.md
_FEW = _TreeSize(depth=8, rate=0.25, rounds=40), _TreeSize(depth=8, rate=0.3, rounds=50, weight=0.1)
_LARGE = _TreeSize(depth=10, rate=0.1, rounds=100), _TreeSize(depth=9, rate=0.15, rounds=100, weight=0.5)

_Gradient: TypeAlias = Callable[[npt.NDArray[np.float32], Any], tuple[Array, Array]] | None


class Trees:
    """Boosted trees: a candidate's loss, 1 - best time / time, less a part of the logarithm of its likelihood to win.

    Both are fitted to time: see `Listwise` for the likelihood.
    """

    kind = "xgboost"

    def __init__(
        self, boosters: Mapping[str, Any], devices: Sequence[str], classes: Mapping[str, Sequence[int]]
    ) -> None:
        """Raises ValueError for trees of a phase that say of no possible weight."""
        self._boosters, self._devices, self.classes = boosters, list(devices), classes
        self._weights = {phase: float(boosters[phase].attr(_WEIGHT) or _EARLIER_WEIGHT) for phase in classes}
        if not all(0 < weight <= 1 for weight in self._weights.values()):
            raise ValueError("trees of an odd weight")

    def losses(self, candidates: CandidateTable) -> Array:
        slug = candidates.device.slug
        code = self._devices.index(slug) if slug in self._devices else np.nan
        devices = np.full(len(candidates.features), code, dtype=np.float32)
        columns = _columns(candidates.features, devices, gaps=not self._boosters[LOSSES].attr(_WHOLE))
        losses = np.empty(len(candidates.rows))
        for start in range(0, len(losses), _BLOCK):
            part = slice(start, start + _BLOCK)
            each = np.column_stack([columns[candidates.rows[part]], candidates.indices[part].astype(np.float32)])
            losses[part] = self._boosters[LOSSES].inplace_predict(each)
        likely, weights = np.full((len(columns), candidates.algorithms), _NEVER), np.zeros(len(columns))
        for phase in {phase for _, phase in candidates.pairs}:
            if booster := self._boosters.get(phase):
                own = np.array([index for index, pair in enumerate(candidates.pairs) if pair[1] is phase])
                weights[own] = self._weights[phase]
                won = np.maximum(booster.inplace_predict(columns[own]), _NEVER)
                likely[np.ix_(own, np.array(self.classes[phase]))] = won
        among = likely[candidates.rows, candidates.indices]  # of what cannot run trees may say anything
        most = np.full(len(columns), _NEVER)
        np.maximum.at(most, candidates.rows, among)
        losses -= weights[candidates.rows] * np.log(np.maximum(among / most[candidates.rows], _LEAST_LIKELY))
        return losses

    def importance(self) -> dict[str, float]:
        """Each feature's share of what the splits that predict losses gained."""
        gains = self._boosters[LOSSES].get_score(importance_type="total_gain")
        total = sum(gains.values()) or 1.0
        named = {SEEN[int(name.removeprefix("f"))]: gain / total for name, gain in gains.items()}
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    def as_files(self) -> dict[str, bytes]:
        return {f"{name}.ubj": bytes(booster.save_raw(raw_format="ubj")) for name, booster in self._boosters.items()}


def fit_trees(examples: CandidateExamples, devices: Sequence[str], *, seed: int, most_work: int = MOST_WORK) -> Trees:
    """Trees fitted to `examples`, the same for the same seed, in at most so much work."""
    many = len(examples.features) >= _MANY
    detailed = many or len(examples.indices) >= _MANY_TIMES
    of_losses, of_wins = _LARGE if detailed else _FEW
    smooth = _SMOOTH if detailed and not many else {}
    weights = np.append(informative(examples.features), np.float32(len(devices) > 1))
    if not detailed:
        weights[len(FEATURES) : len(COLUMNS)] = 0
    chosen = _some(np.diff(examples.starts), most_work // of_losses.rounds, seed)
    some = examples if len(chosen) == len(examples.features) else examples.take(chosen)
    boosters = {LOSSES: _boost(_losses_matrix(some, weights), {**_OF_LOSSES, **smooth}, of_losses, seed)}
    del some
    phases = np.array([str(phase) for phase in examples.phases])
    tables = {phase: _losses_table(examples, np.flatnonzero(phases == phase)) for phase in sorted(set(phases))}
    tables = {phase: each for phase, each in tables.items() if len(each.classes) > 1 and len(each.rows)}
    work = sum(each.losses.size for each in tables.values())
    for phase, table in tables.items():
        most = most_work // of_wins.rounds * table.losses.size // work
        own = table.take(_some(np.full(len(table.rows), len(table.classes)), most, seed))
        boosters[phase] = _boost_wins(examples, own, weights, of_wins, seed)
    return Trees(boosters, devices, {phase: each.classes.tolist() for phase, each in tables.items()})


def _some(counts: Indices, most: int, seed: int) -> Indices:
    """The places of all of `counts`, or of some that sum up to no more than `most`."""
    if counts.sum() <= most:
        return np.arange(len(counts))
    order = np.random.default_rng(seed).permutation(len(counts))
    some: Indices = np.sort(order[: max(1, int(np.searchsorted(np.cumsum(counts[order]), most)))])
    return some


@dataclass(frozen=True, kw_only=True)
class _LossesTable:
    """What the algorithms `classes` lost in the decisions `rows`, not a number for what was not tried."""

    rows: Indices
    classes: Indices
    losses: Array

    def take(self, chosen: Indices) -> "_LossesTable":
        return replace(self, rows=self.rows[chosen], losses=self.losses[chosen])


def _losses_table(examples: CandidateExamples, rows: Indices) -> _LossesTable:
    """Of those `rows` that one of the algorithms which win most often won, and another one of them could have."""
    part = replace(examples, features=examples.features[:, :0]).take(rows)
    present, counts = np.unique(part.indices[part.wins > 0], return_counts=True)
    classes: Indices = np.sort(present[np.argsort(-counts, kind="stable")[:_MOST_CLASSES]])
    losses = np.full((len(rows), len(classes)), np.nan)
    kept = np.flatnonzero(np.isin(part.indices, classes))
    losses[part.rows[kept], np.searchsorted(classes, part.indices[kept])] = part.losses[kept]
    several = (~np.isnan(losses)).sum(axis=1) > 1
    won = several & (np.nan_to_num(losses, nan=1.0).min(axis=1) < 1)
    return _LossesTable(rows=rows[won], classes=classes, losses=losses[won])


def _losses_matrix(examples: CandidateExamples, weights: Matrix) -> Any:
    """A row for each candidate, and what it lost; columns are looked at as often as their `weights` say."""
    rows = examples.rows

    def block(part: slice) -> Matrix:
        own = slice(rows[part.start], rows[part.stop - 1] + 1)
        columns = _columns(examples.features[own], examples.devices[own])[rows[part] - own.start]
        return np.column_stack([columns, examples.indices[part].astype(np.float32)])

    data = quantile_matrix(block, _TYPES, examples.losses, examples.counts[rows])
    data.set_info(feature_weights=np.append(weights, np.float32(1)))
    return data


def _boost_wins(examples: CandidateExamples, table: _LossesTable, weights: Matrix, size: _TreeSize, seed: int) -> Any:
    """A booster with a row for each decision, which predicts how likely each of the classes is to win."""
    objective = Listwise(table.losses, examples.counts[table.rows])

    def block(part: slice) -> Matrix:
        return _columns(examples.features[table.rows[part]], examples.devices[table.rows[part]])

    def gradient(scores: npt.NDArray[np.float32], data: Any) -> tuple[Array, Array]:
        return objective.gradient(scores.reshape(table.losses.shape))

    data = quantile_matrix(block, _TYPES[:-1], np.zeros(len(table.rows)))
    data.set_info(feature_weights=weights)
    booster = _boost(data, {**_OF_WINS, "num_class": len(table.classes)}, size, seed, gradient)
    booster.set_attr(**{_WEIGHT: str(size.weight)})
    return booster


def _boost(data: Any, parameters: Mapping[str, Any], size: _TreeSize, seed: int, gradient: _Gradient = None) -> Any:
    """A booster; its objective is that of `parameters` unless there is a `gradient`."""
    own = {"max_depth": size.depth, "eta": size.rate, "seed": seed, "nthread": fitting_threads()}
    booster = xgboost_module().train({**_COMMON, **parameters, **own}, data, size.rounds, obj=gradient)
    booster.set_attr(**{_WHOLE: "1"})
    return booster


def load_trees(content: Mapping[str, bytes], devices: Sequence[str], classes: Mapping[str, Sequence[int]]) -> Trees:
    """Trees from XGBoost's own files; raises ValueError for what is none, or is of other features or classes."""
    stems = {name.removesuffix(".ubj"): one for name, one in content.items()}
    if set(stems) != {LOSSES, *classes} or LOSSES in classes:
        raise ValueError("trees that are not complete")
    boosters = {LOSSES: load_booster(stems[LOSSES], len(SEEN))}
    boosters |= {phase: load_booster(stems[phase], len(SEEN) - 1, len(own)) for phase, own in classes.items()}
    return Trees(boosters, devices, classes)


def _columns(features: Matrix, devices: npt.ArrayLike, *, gaps: bool = False) -> Matrix:
    """The columns of decisions; unless with `gaps`, what is not known of a layer has a number that nothing else has.

    XGBoost keeps a matrix without gaps in a quarter of the memory, and fits it in half the time.
    """
    columns: Matrix = np.column_stack([features, np.asarray(devices, dtype=np.float32)])
    if not gaps:
        np.copyto(columns[:, :-1], _UNKNOWN, where=np.isnan(features))
    return columns
