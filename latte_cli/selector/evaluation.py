"""How good choices are on layers that a selector has not seen, beside simpler methods."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from math import nan
from statistics import median
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import Device
from latte_cli.features import Matrix
from latte_cli.lookup import Pair
from latte_cli.selector.candidates import Indices
from latte_cli.selector.decisions import Decision, DecisionKey
from latte_cli.selector.examples import CandidateExamples
from latte_cli.selector.model import Lesson, Preferences, Selector, fit_selector, too_few
from latte_cli.tasks import Settings

LEAST_SHAPES = 8  # chosen: more than the usual number of folds
_NETWORK = 159
"""Pairs of one prediction that is timed: three phases of the 53 convolutions of ResNet-50."""

_CURVE = (8, 4, 2, 1)  # one layer of so many is learned from
_BINS = 10  # chosen: tenths of confidence

_MOST_JUDGED = 60_000  # candidates of the layers that choices are judged on; benchmarks/selector_cost.py

Picks: TypeAlias = Mapping[int, Algorithm]


@dataclass(frozen=True, kw_only=True)
class SelectionScore:
    """How good a method's choices are; regret is the time of the choice over the best time.

    `regret_total_time` is the ratio of the sums over all decisions; `layers` counts different layers. Where it is known
    only who won, `top1` is the share of rows that agree, and the rest is not a number. Under `limit_bytes` of workspace
    (None: any) only what fits is compared.
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
    limit_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class LearningPoint:
    """A point of the learning curve: choices after learning from `layers` different layers."""

    layers: int
    top1: float
    regret_geomean: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good a selector's choices are on layers that it has not seen, and how sure it may be.

    A candidate is e times less likely for a loss `softness` higher, which fits best; `calibration_error` is how far
    confidences are from how often they were right, in the mean. All this is of the `judged_share` of the choices, which
    is less than 1 for large tables.
    """

    scores: tuple[SelectionScore, ...]
    curve: tuple[LearningPoint, ...] = ()
    softness: float = 1.0
    calibration_error: float = nan
    judged_share: float = 1.0


def evaluate(
    decisions: Sequence[Decision] | Lesson,
    *,
    later: Mapping[DecisionKey, Decision] | None = None,
    kind: str = "xgboost",
    seed: int = 0,
    folds: int = 5,
    limits: Sequence[int] = (),
    curve: bool = False,
    done: Callable[[float], None] = lambda parts: None,
) -> Evaluation:
    """Scores of the selector, the majority class, the framework's default, a library's own heuristic and the oracle, by
    device and precision.

    Each decision is judged by a selector fitted without any layer of the same shape, whatever its batch. With `later`
    passes choices are judged by those, and only where there are any; choosing as the first pass would is then the
    method `another_pass`, and nothing can be told to be better than that. A choice that did not run counts as the
    slowest that did. Of large tables some shapes are learned from and judged. `done` hears how many folds are done.
    Raises LatteError where there are too few layers to split.
    """
    whole = decisions if isinstance(decisions, Lesson) else Lesson.of(decisions)
    lesson = whole.part(_some(whole.examples, seed))
    decisions = lesson.decisions
    if len(set(lesson.examples.shapes.tolist())) < LEAST_SHAPES:
        raise too_few(decisions)

    def fitted(train: Indices) -> Selector:
        part = lesson.part(train)
        selector = part.fit_on(seed=seed, kind=kind, hasty=True)
        return Selector(selector.card, selector.model, part.fit_workspaces(seed=seed)) if limits else selector

    judges = [decision if later is None else later.get(decision.key) for decision in decisions]
    own = np.array(fold_numbers(decisions, seed=seed, folds=folds))
    most_frequent: dict[int, Algorithm] = {}
    ranked: dict[int, Preferences] = {}
    points: tuple[LearningPoint, ...] = ()
    for fold in range(folds):
        train = np.flatnonzero(own != fold)
        test = {index: judge for index in np.flatnonzero(own == fold).tolist() if (judge := judges[index])}
        selector = fitted(train)
        ranked |= rankings(selector, test, features=lesson.examples.features, with_workspaces=bool(limits))
        most_frequent |= majority([decisions[index] for index in train.tolist()], test)
        done(fold + 1)
        if curve and not fold:
            points = _curve(lesson, train, test, fitted, selector)
    known = {index: judge for index, judge in enumerate(judges) if judge}
    has_default = (index for index, decision in known.items() if FRAMEWORK_DEFAULT in decision.times_s)
    picks: dict[str, Picks] = {
        "selector": _best(ranked),
        "majority_class": most_frequent,
        "framework_default": dict.fromkeys(has_default, FRAMEWORK_DEFAULT),
        "heuristic": {index: one.heuristic for index, one in known.items() if one.heuristic is not None},
    }
    if later is not None:
        picks["another_pass"] = {index: decisions[index].best for index in known if decisions[index].times_s}
    picks["oracle"] = {index: decision.best for index, decision in known.items()}
    scores = [score for method, each in picks.items() for score in score_groups(known, method, each)]
    for limit in limits:
        scores += _within(known, _best(ranked, limit), limit)
    softness = fitted_softness(ranked, known)
    return Evaluation(
        scores=tuple(scores),
        curve=points,
        softness=softness,
        calibration_error=calibration_error(ranked, known, softness),
        judged_share=len(decisions) / len(whole.decisions),
    )


def across_devices(
    train: Sequence[Decision], test: Sequence[Decision], *, seed: int = 0, kind: str = "xgboost"
) -> list[SelectionScore]:
    """Scores on each device's part of `test` of one selector for all devices, `all_devices`, and of one that has not
    seen that device, `other_devices`; both know devices by their features. Raises LatteError as `fit_selector` does."""
    scores = []
    together = fit_selector(train, seed=seed, kind=kind)
    for slug in sorted({decision.device.slug for decision in test}):
        own = {index: decision for index, decision in enumerate(test) if decision.device.slug == slug}
        others = [decision for decision in train if decision.device.slug != slug]
        scores += score_groups(own, "all_devices", selected_algorithms(together, own))
        scores += score_groups(
            own, "other_devices", selected_algorithms(fit_selector(others, seed=seed, kind=kind), own)
        )
    return scores


def _within(decisions: Mapping[int, Decision], picks: Picks, limit_bytes: int) -> Iterator[SelectionScore]:
    """Scores under a limit, of the selector and of the framework's default where that fits."""
    fitting = {index: decision.within(limit_bytes) for index, decision in decisions.items()}
    fitting = {index: decision for index, decision in fitting.items() if len(decision.timings) > 1}
    default = {index: FRAMEWORK_DEFAULT for index, each in fitting.items() if FRAMEWORK_DEFAULT in each.times_s}
    for method, each in (("selector", {index: picks[index] for index in fitting}), ("framework_default", default)):
        for score in score_groups(fitting, method, each):
            yield replace(score, limit_bytes=limit_bytes)


def _curve(
    lesson: Lesson,
    train: Indices,
    test: Mapping[int, Decision],
    fitted: Callable[[Indices], Selector],
    whole: Selector,
) -> tuple[LearningPoint, ...]:
    """Quality after a part of the layers: an eighth, a quarter, half and all of them, from which `whole` is fitted."""
    points = []
    decisions = [lesson.decisions[index] for index in train]
    shapes = np.array(fold_numbers(decisions, seed=1, folds=_CURVE[0]))
    for part in _CURVE:
        some = np.flatnonzero(shapes < _CURVE[0] // part)
        if len(set(lesson.examples.shapes[train[some]].tolist())) < LEAST_SHAPES:
            continue
        selector = whole if part == 1 else fitted(train[some])
        ranked = rankings(selector, test, features=lesson.examples.features, with_workspaces=False)
        picks = _best(ranked)
        score = _score("selector", ("", "", "all"), list(test.values()), list(picks.values()))
        layers = len({decisions[index].layer for index in some})
        points.append(LearningPoint(layers=layers, top1=score.top1, regret_geomean=score.regret_geomean))
    return tuple(points)


def _some(examples: CandidateExamples, seed: int) -> Indices:
    """All decisions, or whole shapes with about as many candidates as are judged at most."""
    candidates = np.diff(examples.starts)
    if candidates.sum() <= _MOST_JUDGED:
        return np.arange(len(candidates))
    distinct, shapes = np.unique(examples.shapes, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    until = np.searchsorted(np.cumsum(np.bincount(shapes, weights=candidates)[order]), _MOST_JUDGED)
    some: Indices = np.flatnonzero(np.isin(shapes, order[: until + 1]))
    return some


def fold_numbers(decisions: Sequence[Decision], *, seed: int, folds: int) -> list[int]:
    """The fold of each decision; decisions on layers of one shape share theirs."""
    shapes = [decision.shape for decision in decisions]
    distinct = sorted(set(shapes), key=str)
    order = np.random.default_rng(seed).permutation(len(distinct))
    folds_of = {shape: int(place) % folds for shape, place in zip(distinct, order, strict=True)}
    return [folds_of[shape] for shape in shapes]


def rankings(
    selector: Selector,
    decisions: Mapping[int, Decision],
    *,
    features: Matrix | None = None,
    with_workspaces: bool = True,
) -> dict[int, Preferences]:
    """What `selector` prefers for each decision, among the algorithms that were tried.

    `features` has a row at each decision's index, where they are known already.
    """
    batches: defaultdict[tuple[Device, Settings], list[int]] = defaultdict(list)
    for index, decision in decisions.items():
        batches[decision.device, decision.settings].append(index)
    found: dict[int, Preferences] = {}
    for (device, settings), indices in batches.items():
        pairs = [(decisions[index].layer, decisions[index].phase) for index in indices]
        tried = [decisions[index].tried_algorithms for index in indices]
        seen = None if features is None else features[indices]
        ranked = selector.rank(pairs, settings, device, tried, with_workspaces=with_workspaces, features=seen)
        found.update(zip(indices, ranked, strict=True))
    return {index: found[index] for index in decisions}


def selected_algorithms(selector: Selector, decisions: Mapping[int, Decision]) -> dict[int, Algorithm]:
    """What `selector` takes for each decision, among the algorithms that were tried."""
    return _best(rankings(selector, decisions))


def _best(ranked: Mapping[int, Preferences], limit_bytes: int | None = None) -> dict[int, Algorithm]:
    return {index: each.best(limit_bytes)[0] for index, each in ranked.items()}


def fitted_softness(ranked: Mapping[int, Preferences], decisions: Mapping[int, Decision]) -> float:
    """The softness under which what won was likeliest (temperature scaling: Guo et al., ICML 2017)."""
    from scipy.optimize import minimize_scalar

    choices = [
        (each.losses, won)
        for index, each in ranked.items()
        if len(each.losses) > 1 and (won := _winner_index(each, decisions[index])) is not None
    ]
    if not choices:
        return 1.0
    widest = max(len(losses) for losses, _ in choices)
    gaps = np.full((len(choices), widest), np.inf)
    for row, (losses, _) in enumerate(choices):
        gaps[row, : len(losses)] = losses
    gaps -= gaps.min(axis=1, keepdims=True)
    winners = gaps[np.arange(len(choices)), [won for _, won in choices]]

    def unlikely(log_softness: float) -> float:
        softness = np.exp(log_softness)
        return float(np.mean(winners / softness + np.log(np.exp(-gaps / softness).sum(axis=1))))

    return float(np.exp(minimize_scalar(unlikely, bounds=(-7, 3), method="bounded").x))


def calibration_error(ranked: Mapping[int, Preferences], decisions: Mapping[int, Decision], softness: float) -> float:
    """The expected calibration error: |confidence - share of right choices| over ten bins, by how many are in each."""
    pairs = []
    for index, each in ranked.items():
        algorithm, confidence = replace(each, softness=softness).best()
        pairs.append((confidence, decisions[index].share(algorithm)))
    if not pairs:
        return nan
    confidences, right = np.array(pairs).T
    bins = np.minimum((confidences * _BINS).astype(int), _BINS - 1)
    return float(
        sum(
            abs(confidences[bins == one].mean() - right[bins == one].mean()) * np.mean(bins == one) for one in set(bins)
        )
    )


def _winner_index(preferences: Preferences, decision: Decision) -> int | None:
    return preferences.algorithms.index(decision.best) if decision.best in preferences.algorithms else None


def majority(train: Sequence[Decision], test: Mapping[int, Decision]) -> dict[int, Algorithm]:
    """For each decision, of the algorithms tried, the one that wins most often in its device's phase."""
    wins: defaultdict[tuple[str, str, str], Counter[Algorithm]] = defaultdict(Counter)
    for decision in train:
        wins[_class(decision)].update(dict(decision.wins) or {decision.best: 1})
    return {
        index: max(decision.tried_algorithms, key=lambda algorithm: (wins[_class(decision)][algorithm], str(algorithm)))
        for index, decision in test.items()
    }


def _class(decision: Decision) -> tuple[str, str, str]:
    return decision.device.slug, decision.settings.precision, decision.phase


def score_groups(
    decisions: Sequence[Decision] | Mapping[int, Decision], method: str, picks: Picks
) -> list[SelectionScore]:
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


def _score(
    method: str, key: tuple[str, str, str], decisions: Sequence[Decision], picks: Sequence[Algorithm]
) -> SelectionScore:
    slug, precision, phase = key
    pairs = list(zip(decisions, picks, strict=True))
    timed = [(decision, pick) for decision, pick in pairs if decision.times_s]
    best = np.array([decision.times_s[decision.best] for decision, _ in timed])
    chosen = np.array([taken_s(decision, pick) for decision, pick in timed])
    regret: npt.NDArray[np.float64] = chosen / best
    rows = sum(decision.count for decision in decisions)
    return SelectionScore(
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
    pairs: list[Pair] = list(islice(cycle((each.layer, each.phase) for each in decisions), _NETWORK))
    return median(_choosing_s(selector, pairs, decisions[0], clock) for _ in range(7))


def cold_prediction_s(
    selector: Selector, decisions: Sequence[Decision], *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The same for layers that were never asked about before: the median over networks of other batches."""
    layers = list(dict.fromkeys(each.layer for each in decisions))[: _NETWORK // 3]
    times = []
    for batch in (1001, 1002, 1003, 1004, 1005):
        pairs = [(replace(layer, batch=batch), phase) for layer in layers for phase in layer.phases]
        times.append(_choosing_s(selector, pairs, decisions[0], clock))
    return median(times)


def _choosing_s(selector: Selector, pairs: Sequence[Pair], like: Decision, clock: Callable[[], float]) -> float:
    start = clock()
    selector.choose(pairs, like.settings, like.device)
    return clock() - start
