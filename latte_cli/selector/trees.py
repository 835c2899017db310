"""The selector's trees, boosted by XGBoost: what each candidate loses against the best one, and which one wins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latte_cli.boosters import fitting_threads, load_booster, quantile_matrix, xgboost_module
from latte_cli.features import FEATURES, Matrix, informative
from latte_cli.selector.candidates import COLUMNS, Array, CandidateTable, Indices
from latte_cli.selector.examples import CandidateExamples

SEEN = (*COLUMNS, "device", "algorithm")
"""What the trees see of a candidate; the last two are the card's indices. Those that tell who wins see no algorithm."""

LOSSES = "losses"
"""The name of the booster that predicts losses; the others have those of their phases."""

_WHOLE = "whole"  # the attribute of trees that were fitted to columns without gaps; those of earlier versions lack it
_CATEGORIES = ("kind", "function", "phase", "device", "algorithm")
_TYPES = ["c" if column in _CATEGORIES else "q" for column in SEEN]
_UNKNOWN = np.array([0 if column in _CATEGORIES else -1e6 for column in COLUMNS], dtype=np.float32)  # chosen: no size
_WINS_COUNT = 0.1  # what a logarithm of the likelihood to win weighs beside a loss
_LEAST_LIKELY = 1e-6  # chosen: keeps the logarithm finite; a loss of 1.4 at most
_MANY_TIMES, _MANY = 25_000, 20_000  # docs/selector-quality.md
_LEAST_WEIGHT, _MOST_GAIN = 0.1, 1.0  # chosen: a choice that matters by a factor of two counts fully
_COMMON: dict[str, Any] = {"tree_method": "hist", "subsample": 0.8}  # docs/selector-quality.md
_OF_LOSSES = {"objective": "reg:squarederror", "base_score": 0.0, "min_child_weight": 5, "colsample_bytree": 0.8}
_OF_WINS = {"objective": "multi:softprob", "min_child_weight": 1, "colsample_bytree": 0.3}
_SMOOTH = {"min_child_weight": 10, "colsample_bytree": 0.5}  # few decisions, between many candidates
_BLOCK = 1 << 15  # chosen: candidates that are asked about together; 18 MB of columns

MOST_WORK = 50_000_000
"""Rows times rounds, and times classes, that are fitted in half a minute by two cores; benchmarks/selector_cost.py."""
_LEAST_ROUNDS, _FASTEST = 20, 0.3  # chosen: fewer or faster ones learn visibly less
_MOST_CLASSES = 16  # chosen: each takes a tree in each round; oneDNN's implementations are eleven


@dataclass(frozen=True, kw_only=True)
class _TreeSize:
    """How large trees grow: `depth` levels, and a `rate` for each of `rounds`."""

    depth: int
    rate: float
    rounds: int

    def within(self, work: int, rows: int) -> "_TreeSize":
        """The same with fewer rounds, each of which counts more, where all on so many `rows` would take more `work`."""
        rounds = min(self.rounds, max(_LEAST_ROUNDS, work // max(1, rows)))
        return _TreeSize(depth=self.depth, rate=min(_FASTEST, self.rate * self.rounds / rounds), rounds=rounds)


# For losses and for wins; more decisions tell finer rules from noise: docs/selector-quality.md
_FEW = _TreeSize(depth=8, rate=0.25, rounds=40), _TreeSize(depth=8, rate=0.25, rounds=25)
_LARGE = _TreeSize(depth=10, rate=0.1, rounds=300), _TreeSize(depth=10, rate=0.07, rounds=200)


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
        devices = np.full(len(candidates.features), code, dtype=np.float32)
        columns = _columns(candidates.features, devices, gaps=not self._boosters[LOSSES].attr(_WHOLE))
        losses = np.empty(len(candidates.rows))
        for start in range(0, len(losses), _BLOCK):
            part = slice(start, start + _BLOCK)
            each = np.column_stack([columns[candidates.rows[part]], candidates.indices[part].astype(np.float32)])
            losses[part] = self._boosters[LOSSES].inplace_predict(each)
        likely = np.full((len(columns), candidates.algorithms), _LEAST_LIKELY)
        for phase in {phase for _, phase in candidates.pairs}:
            if booster := self._boosters.get(phase):
                own = np.array([index for index, pair in enumerate(candidates.pairs) if pair[1] is phase])
                won = booster.inplace_predict(columns[own])
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


def fit_trees(examples: CandidateExamples, devices: Sequence[str], *, seed: int, most_work: int = MOST_WORK) -> Trees:
    """Trees fitted to `examples`, the same for the same seed, in at most so much work."""
    many = len(examples.features) >= _MANY
    detailed = many or len(examples.indices) >= _MANY_TIMES
    of_losses, of_wins = _LARGE if detailed else _FEW
    smooth = _SMOOTH if detailed and not many else {}
    matrices = _Matrices(examples, detailed=detailed)
    size = of_losses.within(most_work, len(examples.indices))
    boosters = {LOSSES: _boost(matrices.of_losses(), {**_OF_LOSSES, **smooth}, size, seed)}
    won = np.flatnonzero(examples.wins > 0)
    phases = np.array([str(phase) for phase in examples.phases])[matrices.rows[won]]
    winners = {phase: _winners(examples.indices[won[phases == phase]]) for phase in sorted(set(phases))}
    classes = {phase: own for phase, own in winners.items() if len(own) > 1}
    work = sum(len(own) * int((phases == phase).sum()) for phase, own in classes.items())
    for phase, own in classes.items():
        cells = won[(phases == phase) & np.isin(examples.indices[won], own)]
        parameters = {**_OF_WINS, "num_class": len(own)}
        boosters[phase] = _boost(matrices.of_wins(cells, own), parameters, of_wins.within(most_work, work), seed)
    return Trees(boosters, devices, {phase: own.tolist() for phase, own in classes.items()})


def _winners(indices: Indices) -> Indices:
    """The algorithms that won; at most so many, those that won most often."""
    present, counts = np.unique(indices, return_counts=True)
    most: Indices = np.sort(present[np.argsort(-counts, kind="stable")[:_MOST_CLASSES]])
    return most


class _Matrices:
    """What trees are fitted to; columns that tell nothing apart are not looked at."""

    def __init__(self, examples: CandidateExamples, *, detailed: bool) -> None:
        self._examples, self.rows = examples, examples.rows
        self._columns = _columns(examples.features, examples.devices.astype(np.float32))
        self._weights = informative(self._columns)
        if not detailed:
            self._weights[len(FEATURES) : len(COLUMNS)] = 0

    def of_losses(self) -> Any:
        """A row for each candidate, and what it lost."""
        examples = self._examples

        def block(part: slice) -> Matrix:
            return np.column_stack([self._columns[self.rows[part]], examples.indices[part].astype(np.float32)])

        data = quantile_matrix(block, _TYPES, examples.losses, examples.counts[self.rows])
        data.set_info(feature_weights=np.append(self._weights, np.float32(1)))
        return data

    def of_wins(self, cells: Indices, classes: Indices) -> Any:
        """A row for each candidate that won, and the place of its algorithm among `classes`."""
        examples, rows = self._examples, self.rows[cells]
        gains = _LEAST_WEIGHT + np.minimum(examples.gains[rows], _MOST_GAIN)
        data = quantile_matrix(
            lambda part: self._columns[rows[part]],
            _TYPES[:-1],
            np.searchsorted(classes, examples.indices[cells]).astype(np.float64),
            examples.wins[cells] * examples.counts[rows] * gains,
        )
        data.set_info(feature_weights=self._weights)
        return data


def _boost(data: Any, objective: Mapping[str, Any], size: _TreeSize, seed: int) -> Any:
    parameters = {**_COMMON, **objective, "max_depth": size.depth, "eta": size.rate, "seed": seed}
    booster = xgboost_module().train({**parameters, "nthread": fitting_threads()}, data, num_boost_round=size.rounds)
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


def _columns(features: Matrix, devices: npt.NDArray[np.float32], *, gaps: bool = False) -> Matrix:
    """The columns of decisions; unless with `gaps`, what is not known of a layer has a number that nothing else has.

    XGBoost keeps a matrix without gaps in a quarter of the memory, and fits it in half the time.
    """
    columns: Matrix = np.column_stack([features, devices])
    if not gaps:
        np.copyto(columns[:, :-1], _UNKNOWN, where=np.isnan(features))
    return columns
