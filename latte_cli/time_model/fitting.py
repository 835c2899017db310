"""Fitting time models: rooflines or another device's model, then trees, and how far both err on layers left out."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from math import isnan, log
from typing import Any

import numpy as np
import numpy.typing as npt

from latte_cli import boosters
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.devices import Device
from latte_cli.features import informative
from latte_cli.layers import Layer, layer_text
from latte_cli.lookup import Timing
from latte_cli.tasks import Task
from latte_cli.time_model.card import TimeModelCard
from latte_cli.time_model.groups import Array, by_group, feature_columns, fold_of, kind_and_phase, label_of, sizes_of
from latte_cli.time_model.model import Prior, TimeModel, log_base
from latte_cli.time_model.rooflines import LEAST_ROWS, log_rooflines, roofline_of, rooflines_of

_ROUNDS = 400  # chosen: with the rate below
_TREES = {
    "objective": "reg:pseudohubererror",
    "huber_slope": 0.3,
    "base_score": 0.0,
    "tree_method": "hist",
    "max_depth": 6,
    "eta": 0.05,
    "max_bin": 128,
    "seed": 0,
    "subsample": 0.8,
    "colsample_bytree": 0.7,
    "min_child_weight": 2,
}
_MOST_ROWS = 50_000  # four times a whole profile; an imported database of 600,000 took over ten minutes to fit
_LEAST_RESIDUALS = 40  # the fewest with one beyond a 2.5 % quantile on average
_QUANTILES = (0.025, 0.1, 0.9, 0.975)  # the ends of 95 % and 80 % intervals


def fit_time_model(
    timings: Sequence[Timing],
    device: Device,
    fingerprint: str = "",
    *,
    prior: Prior | None = None,
    most: int = _MOST_ROWS,
) -> TimeModel:
    """Fit a model on `timings`, all of them of `device`; the quantiles come from folds that share no layer.

    Of more than `most` timings it learns from those of some of the layers, about that many.
    """
    timings = _of_some_layers(timings, most)
    tasks = [timing.task for timing in timings]
    card = TimeModelCard(
        device=device.slug,
        fingerprint=fingerprint,
        rows=len(tasks),
        rooflines=rooflines_of(timings),
        algorithms=sorted({label_of(task.algorithm) for task in tasks}),
        offsets=_offsets(timings, prior) if prior else {},
        prior=prior.device.slug if prior else "",
        prior_fingerprint=prior.model.card.fingerprint if prior else "",
    )
    base = log_base(tasks, card, prior)
    columns = feature_columns(tasks, device, card.algorithms, base)
    residuals = np.array([log(timing.device_s) for timing in timings]) - base
    folds = np.array([fold_of(task.layer) for task in tasks])
    errors = residuals.copy()
    trees = {}
    for group, rows in by_group(tasks).items():
        if len(rows) >= LEAST_ROWS:
            trees[group], left_out = _boost(columns[rows], residuals[rows], folds[rows])
            errors[rows] -= left_out
    quantiles, medians = _quantiles(tasks, errors)
    card = replace(
        card,
        quantiles=quantiles,
        median_errors=medians,
        counts=dict(Counter(map(kind_and_phase, tasks))),
        alike=_alike(tasks, errors),
        ranges=ranges_of(tasks),
        functions=functions_of(tasks),
        host_s=medians_of(tasks, [timing.host_s for timing in timings]) if device.kind.queued else {},
        power_w=medians_of(tasks, [timing.power_w for timing in timings]),
    )
    return TimeModel(card, trees, prior)


def _of_some_layers(timings: Sequence[Timing], most: int) -> Sequence[Timing]:
    """About `most` of the timings, all of a layer or none; always the same ones."""
    if len(timings) <= most:
        return timings
    return [each for each in timings if _place(each.task.layer) < most / len(timings)]


def _place(layer: Layer) -> float:
    """A number from 0 to 1 that is a layer's own, and has nothing to do with its fold."""
    return int.from_bytes(sha256(layer_text(layer).encode()).digest()[1:5]) / 2**32


def _boost(columns: Any, target: Array, folds: npt.NDArray[np.int64]) -> tuple[list[Any], Array]:
    """Trees fitted without each fold in turn, which predict together, and what each row's own were not fitted on."""
    xgboost = boosters.xgboost_module()
    data, weights = xgboost.DMatrix(columns, label=target), informative(columns)
    trees, left_out = [], np.zeros_like(target)
    for fold in sorted(set(folds)):
        own = np.flatnonzero(folds == fold)
        others = np.flatnonzero(folds != fold)
        rest = data.slice(others if len(others) else own)
        rest.set_info(feature_weights=weights)
        booster = xgboost.train(_TREES, rest, num_boost_round=_ROUNDS)
        left_out[own] = booster.predict(data.slice(own))
        trees.append(booster)
    return trees, left_out


# What another device's model knows


def _offsets(timings: Sequence[Timing], prior: Prior) -> dict[str, float]:
    """log(measured / predicted by `prior`): the median of the kinds and phases that it knows better than a roofline."""
    tasks = [timing.task for timing in timings]
    ratios = np.array([log(timing.device_s) for timing in timings]) - prior.log_times(tasks)
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row, task in enumerate(tasks):
        if not isnan(ratios[row]):
            groups[kind_and_phase(task)].append(row)
    if not groups:
        return {}
    found = {"": float(np.median([ratios[row] for rows in groups.values() for row in rows]))}
    for key, rows in groups.items():
        if _prior_is_nearer([timings[row] for row in rows], ratios[rows]):
            found[key] = float(np.median(ratios[rows]))
    return found


def _prior_is_nearer(timings: Sequence[Timing], ratios: Array) -> bool:
    """Whether a constant ratio to the prior errs less than a roofline, on layers that neither was fitted on."""
    folds = np.array([fold_of(timing.task.layer) for timing in timings])
    lead = 0.0
    for fold in sorted(set(folds)):
        own, others = np.flatnonzero(folds == fold).tolist(), np.flatnonzero(folds != fold).tolist()
        if len(others) < LEAST_ROWS:
            return True
        roofline = {kind_and_phase(timings[0].task): roofline_of([timings[row] for row in others])}
        left_out = [timings[row] for row in own]
        errors = [log(timing.device_s) for timing in left_out] - log_rooflines(
            [timing.task for timing in left_out], roofline
        )
        lead += float(np.abs(errors).sum() - np.abs(ratios[own] - np.median(ratios[others])).sum())
    return lead > 0


# How far it can be trusted


def _quantiles(tasks: Sequence[Task], errors: Array) -> tuple[dict[str, list[float]], dict[str, float]]:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for task, error in zip(tasks, errors, strict=True):
        for key in ("", task.layer.kind, kind_and_phase(task)):
            groups[key].append(float(error))
    enough = {key: found for key, found in groups.items() if not key or len(found) >= _LEAST_RESIDUALS}
    quantiles = {key: [float(q) for q in np.quantile(found, _QUANTILES)] for key, found in enough.items()}
    return quantiles, {key: float(np.median(np.abs(found))) for key, found in groups.items()}


def medians_of(tasks: Sequence[Task], values: Iterable[float | None]) -> dict[str, float]:
    """The medians of what is known of the values, of all and by kind and phase."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for task, value in zip(tasks, values, strict=True):
        if value is not None:
            for key in ("", kind_and_phase(task)):
                groups[key].append(value)
    return {key: float(np.median(found)) for key, found in groups.items()}


def _alike(tasks: Sequence[Task], errors: Array) -> dict[str, float]:
    """The correlation of the errors of each layer and the one nearest to it in size, by kind and phase.

    The layers of a network resemble each other, and errors in common do not average out in its total.
    """
    from scipy.spatial import cKDTree

    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row, task in enumerate(tasks):
        if task.algorithm == FRAMEWORK_DEFAULT:
            groups[kind_and_phase(task)].append(row)
    found = {}
    for key, rows in groups.items():
        if len(rows) >= _LEAST_RESIDUALS:
            sizes = [sizes_of(tasks[row].layer, tasks[row].phase) for row in rows]
            names = sorted(frozenset.intersection(*(frozenset(size) for size in sizes)))
            points = np.log2([[size[name] for name in names] for size in sizes])
            _, nearest = cKDTree(points).query(points, k=2)
            own = errors[rows] - errors[rows].mean()
            found[key] = float(np.clip(np.mean(own * own[nearest[:, 1]]) / np.mean(own**2), 0.0, 1.0))
    return found


def ranges_of(tasks: Sequence[Task]) -> dict[str, dict[str, list[float]]]:
    """The least and largest of each size by its name, by kind and phase."""
    groups: dict[str, dict[str, list[float]]] = {}
    for task in tasks:
        ranges = groups.setdefault(kind_and_phase(task), {})
        for name, size in sizes_of(task.layer, task.phase).items():
            least, most = ranges.get(name, (size, size))
            ranges[name] = [min(least, size), max(most, size)]
    return groups


def functions_of(tasks: Sequence[Task]) -> dict[str, list[str]]:
    """The variants of each kind of layer."""
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for task in tasks:
        groups[task.layer.kind].add(task.layer.variant)
    return {kind: sorted(found) for kind, found in groups.items()}
