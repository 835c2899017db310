"""How good choices are on layers that a selector has not seen, beside simpler methods."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from math import nan
from statistics import median
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends import Device
from latte_cli.layers import layer_text
from latte_cli.lookup import Pair
from latte_cli.selector.decisions import Decision
from latte_cli.selector.model import Selector, fit, too_few
from latte_cli.tasks import Settings

_LEAST_SHAPES = 8
_NETWORK = 159
"""Pairs of one prediction that is timed: three phases of the 53 convolutions of ResNet-50."""

Picks: TypeAlias = Mapping[int, Algorithm]


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good a method's choices are; regret is the time of the choice over the best time.

    `regret_total_time` is the ratio of the sums over all decisions; `layers` counts different layers. Where it is known
    only who won, `top1` is the share of rows that agree, and the rest is not a number.
    """

    device: str
    phase: str
    precision: str
    method: str
    top1: float
    within_5pct: float
    regret_geomean: float
    regret_p95: float
    regret_p99: float
    regret_total_time: float
    layers: int


def evaluate(
    decisions: Sequence[Decision], *, seed: int = 0, folds: int = 5, done: Callable[[float], None] = lambda parts: None
) -> list[Score]:
    """Scores of the selector, the majority class, the framework's default, a library's own heuristic and the oracle, by
    device and precision.

    Each decision is judged by a selector fitted without any layer of the same shape, whatever its batch. A choice that
    did not run counts as the slowest that did. `done` hears how many folds are done.
    Raises LatteError where there are too few layers to split.
    """
    if len({decision.shape for decision in decisions}) < _LEAST_SHAPES:
        raise too_few(decisions)
    own = fold_numbers(decisions, seed=seed, folds=folds)
    picks: dict[str, dict[int, Algorithm]] = {"selector": {}, "majority_class": {}}
    for fold in range(folds):
        train = [decision for decision, number in zip(decisions, own, strict=True) if number != fold]
        test = {index: decision for index, decision in enumerate(decisions) if own[index] == fold}
        picks["selector"].update(selected(fit(train, seed=seed), test))
        picks["majority_class"].update(majority(train, test))
        done(fold + 1)
    has_default = (index for index, decision in enumerate(decisions) if FRAMEWORK_DEFAULT in decision.times_s)
    picks["framework_default"] = dict.fromkeys(has_default, FRAMEWORK_DEFAULT)
    picks["heuristic"] = {
        index: decision.heuristic for index, decision in enumerate(decisions) if decision.heuristic is not None
    }
    picks["oracle"] = {index: decision.best for index, decision in enumerate(decisions)}
    return [score for method, each in picks.items() for score in score_groups(decisions, method, each)]


def fold_numbers(decisions: Sequence[Decision], *, seed: int, folds: int) -> list[int]:
    """The fold of each decision; decisions on layers of one shape share theirs."""
    shapes = [layer_text(decision.shape) for decision in decisions]
    distinct = sorted(set(shapes))
    order = np.random.default_rng(seed).permutation(len(distinct))
    folds_of = {shape: int(place) % folds for shape, place in zip(distinct, order, strict=True)}
    return [folds_of[shape] for shape in shapes]


def selected(selector: Selector, decisions: Mapping[int, Decision]) -> dict[int, Algorithm]:
    """What `selector` takes for each decision, among the algorithms that were tried."""
    batches: defaultdict[tuple[Device, Settings], list[int]] = defaultdict(list)
    for index, decision in decisions.items():
        batches[decision.device, decision.settings].append(index)
    picks = {}
    for (device, settings), indices in batches.items():
        pairs = [(decisions[index].layer, decisions[index].phase) for index in indices]
        tried = [decisions[index].tried for index in indices]
        for index, choice in zip(indices, selector.choose(pairs, settings, device, candidates=tried), strict=True):
            picks[index] = choice.algorithm
    return picks


def majority(train: Sequence[Decision], test: Mapping[int, Decision]) -> dict[int, Algorithm]:
    """For each decision, of the algorithms tried, the one that wins most often in its device's phase."""
    wins: defaultdict[tuple[str, str, str], Counter[Algorithm]] = defaultdict(Counter)
    for decision in train:
        wins[_class(decision)].update(dict(decision.wins) or {decision.best: 1})
    return {
        index: max(decision.tried, key=lambda algorithm: (wins[_class(decision)][algorithm], str(algorithm)))
        for index, decision in test.items()
    }


def _class(decision: Decision) -> tuple[str, str, str]:
    return decision.device.slug, decision.settings.precision, decision.phase


def score_groups(decisions: Sequence[Decision], method: str, picks: Picks) -> list[Score]:
    """Scores of `method`, which picked algorithms for some of `decisions`, by device, precision and phase."""
    groups: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index in sorted(picks):
        slug, precision, phase = _class(decisions[index])
        groups[slug, precision, phase].append(index)
        groups[slug, precision, "all"].append(index)
    return [
        _score(method, key, [decisions[index] for index in indices], [picks[index] for index in indices])
        for key, indices in sorted(groups.items())
    ]


def _score(method: str, key: tuple[str, str, str], decisions: Sequence[Decision], picks: Sequence[Algorithm]) -> Score:
    slug, precision, phase = key
    pairs = list(zip(decisions, picks, strict=True))
    timed = [(decision, pick) for decision, pick in pairs if decision.times_s]
    best = np.array([decision.times_s[decision.best] for decision, _ in timed])
    chosen = np.array([taken_s(decision, pick) for decision, pick in timed])
    regret: npt.NDArray[np.float64] = chosen / best
    rows = sum(decision.count for decision in decisions)
    return Score(
        device=slug,
        phase=phase,
        precision=precision,
        method=method,
        top1=sum(decision.count * decision.share(pick) for decision, pick in pairs) / rows,
        within_5pct=float(np.mean(regret <= 1.05)) if timed else nan,
        regret_geomean=float(np.exp(np.mean(np.log(regret)))) if timed else nan,
        regret_p95=float(np.quantile(regret, 0.95)) if timed else nan,
        regret_p99=float(np.quantile(regret, 0.99)) if timed else nan,
        regret_total_time=float(chosen.sum() / best.sum()) if timed else nan,
        layers=len({decision.layer for decision in decisions}),
    )


def taken_s(decision: Decision, pick: Algorithm) -> float:
    """Seconds that `pick` takes; those of the slowest algorithm if it did not run."""
    return decision.times_s.get(pick) or max(decision.times_s.values())


def prediction_s(
    selector: Selector, decisions: Sequence[Decision], *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds to choose for a network as large as ResNet-50, in one batch: the median of seven times."""
    first = decisions[0]
    pairs: list[Pair] = list(islice(cycle((each.layer, each.phase) for each in decisions), _NETWORK))
    times = []
    for _ in range(7):
        start = clock()
        selector.choose(pairs, first.settings, first.device)
        times.append(clock() - start)
    return median(times)
