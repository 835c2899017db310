"""Predictions: what is said of a network's calls that were not timed, each said once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from latte_cli.algorithms import Algorithm
from latte_cli.estimator.models import Models, Predicting
from latte_cli.layers import Convolution
from latte_cli.lookup import Pair, Timing
from latte_cli.strategies import Selection, rank_timings
from latte_cli.tasks import Task

if TYPE_CHECKING:
    from latte_cli.selector import Preferences

_Way: TypeAlias = tuple[Pair, Algorithm]
"""A layer's phase, and the algorithm that computes it."""


class Predictions:
    """What the `models` say of one network's calls; they are asked as late as possible, for many calls at once."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._timings: dict[_Way, Timing | None] = {}
        self._alternatives: dict[Pair, tuple[Timing, ...]] = {}
        self._preferences: dict[Pair, Preferences] = {}

    def timings(self, ways: Iterable[_Way]) -> Mapping[_Way, Timing | None]:
        """The estimator's timing of each way, else that of the fallback; None where nothing can be said."""
        fresh = [way for way in dict.fromkeys(ways) if way not in self._timings]
        if fresh:
            predicted = self._predict(fresh, self.models.predictor)
            if left := [way for way in fresh if way not in predicted and self.models.falls_back(way[0][0])]:
                predicted |= self._predict(left, self.models.fallback)
            if not self.models.replaces_rows:
                predicted = self._with_workspaces(predicted)
            self._timings.update({way: predicted.get(way) for way in fresh})
        return self._timings

    def alternatives(self, pairs: Iterable[Pair]) -> Mapping[Pair, tuple[Timing, ...]]:
        """The time model's timings of every algorithm that ran layers of a pair's sort, as the library ranks them."""
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._alternatives]
        if fresh:
            ways = [(pair, algorithm) for pair in fresh for algorithm in sorted(self.models.lookup.run_before(pair))]
            predicted = self._with_workspaces(self._predict(ways, self.models.time_model)) if ways else {}
            found: dict[Pair, list[Timing]] = {pair: [] for pair in fresh}
            for (pair, _), timing in predicted.items():
                found[pair].append(timing)
            rankings = self.models.lookup.rankings(found)
            self._alternatives.update({pair: tuple(rank_timings(own, rankings[pair])) for pair, own in found.items()})
        return self._alternatives

    def select(self, calls: Sequence[tuple[Pair, int | None]]) -> list[Selection | None]:
        """What the selector prefers for each call, a pair and the limit of its workspace; None without a selector."""
        preferences = self.preferences([pair for pair, _ in calls])
        if preferences is None:
            return [None] * len(calls)
        best = [(pair, *preferences[pair].best(limit_bytes)) for pair, limit_bytes in calls]
        timings = self.timings((pair, algorithm) for pair, algorithm, _ in best)
        return [
            Selection(algorithm=algorithm, timing=timings[pair, algorithm], confidence=confidence)
            for pair, algorithm, confidence in best
        ]

    def preferences(self, pairs: Iterable[Pair]) -> "Mapping[Pair, Preferences] | None":
        """The selector's preferences for each pair; None where there is no selector."""
        selector = self.models.selector
        if selector is None:
            return None
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._preferences]
        if fresh:
            preferences = selector.rank(fresh, self.models.lookup.settings(), self.models.device)
            self._preferences.update(zip(fresh, preferences, strict=True))
        return self._preferences

    def _predict(self, ways: Sequence[_Way], model: Predicting | None) -> dict[_Way, Timing]:
        if model is None:
            return {}
        settings = self.models.lookup.settings()
        tasks = {
            (pair, algorithm): Task(layer=pair[0], phase=pair[1], algorithm=algorithm, settings=settings)
            for pair, algorithm in ways
        }
        predicted = model.predict(tuple(tasks.values()), self.models.device)
        return {way: predicted[task] for way, task in tasks.items() if task in predicted}

    def _with_workspaces(self, predicted: Mapping[_Way, Timing]) -> dict[_Way, Timing]:
        """Predicted timings with the workspaces that the selector has learned, where there is one."""
        pairs = dict.fromkeys(pair for pair, _ in predicted if isinstance(pair[0], Convolution))
        preferences = self.preferences(pairs) if pairs else None
        if preferences is None:
            return dict(predicted)
        needs = {pair: preferences[pair].workspaces() for pair in pairs}
        return {
            (pair, algorithm): replace(timing, workspace_bytes=needs.get(pair, {}).get(algorithm))
            for (pair, algorithm), timing in predicted.items()
        }
