"""The learned time model, fitted on a device's rows: what is known beforehand, corrected by boosted trees.

Known beforehand is, for each kind and phase, a roofline, or what the shipped model of another device says, moved by a
constant: whichever is nearer to rows that it was not fitted on.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from math import exp, isnan, log, log2, nan
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from latte_cli import boosters, files
from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import Device
from latte_cli.errors import LatteError
from latte_cli.features import FEATURE_VERSION, FEATURES, informative, matrix
from latte_cli.layers import Layer, Phase, layer_text
from latte_cli.lookup import Source, Timing
from latte_cli.store import Store
from latte_cli.store.shipped import shipped_models
from latte_cli.tasks import Task

SCHEMA = "latte.times/2"

Array: TypeAlias = npt.NDArray[np.float64]

_GROUPS = {"convolution": "products", "linear": "products", "matmul": "products"}
_OTHERS = "others"
_FOLDS = 4
_ROUNDS = 400
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
_LEAST_ROWS = 8
_MOST_ROWS = 50_000  # four times a whole profile; an imported database of 600,000 took over ten minutes to fit
_LEAST_RESIDUALS = 40
_LEAST_HALF_WIDTHS = (0.1, 0.065, 0.065, 0.1)  # of the logarithm: no call repeats itself more exactly
_QUANTILES = (0.025, 0.1, 0.9, 0.975)
_EXTENTS = ("input", "kernel", "stride", "dilation")
_BEYOND = 1.0  # a factor of two outside the range that was measured


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model was made of, and what it needs beside its trees; JSON beside them.

    `rooflines` are (seconds a FLOP, seconds a byte, seconds a call) by kind and phase, also for one precision and
    layout; `counts` are the rows of each kind and phase, `quantiles` the 2.5, 10, 90 and 97.5 % quantiles of
    log(measured / predicted) on layers left out, and `alike` how far neighbours among them err together; `ranges` are
    the least and largest sizes, by kind and phase and the size's name; `functions` are those measured of each kind.
    `host_s` and `power_w` are medians by kind and phase: what the host needs for a call, and what the device takes.
    `offsets` are logarithms of this device's times over those that the model of `prior` predicts, by kind and phase;
    under "" that of all kinds, for those without rows. `prior_fingerprint` is of that device's rows.
    """

    device: str
    fingerprint: str
    rows: int
    rooflines: Mapping[str, Sequence[float]]
    algorithms: Sequence[str]
    quantiles: Mapping[str, Sequence[float]] = field(default_factory=dict)
    median_errors: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    alike: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    functions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    host_s: Mapping[str, float] = field(default_factory=dict)
    power_w: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    prior: str = ""
    prior_fingerprint: str = ""
    trees: Mapping[str, Sequence[str]] = field(default_factory=dict)
    features: Sequence[str] = FEATURES
    feature_version: int = FEATURE_VERSION
    schema: str = SCHEMA


class TimeModel:
    """Predicts the times of tasks that were not measured, many at once."""

    def __init__(self, card: Card, trees: Mapping[str, Sequence[Any]], prior: "Prior | None" = None) -> None:
        self.card, self._trees, self._prior = card, trees, prior

    @property
    def roofline(self) -> "TimeModel":
        """The model without its trees and without another device's: a FLOPs + b bytes + c by kind and phase."""
        return TimeModel(replace(self.card, offsets={}), {})

    def predicted(self, tasks: Sequence[Task], device: Device) -> dict[Task, Timing]:
        """A timing of each task whose kind and phase are known, with its 95 % interval."""
        times = np.exp(self.log_times(tasks, device))
        return {task: self._timing(task, float(time)) for task, time in zip(tasks, times, strict=True) if time > 0}

    def log_times(self, tasks: Sequence[Task], device: Device) -> Array:
        """The logarithm of each task's time; not a number where its kind and phase are not known."""
        xgboost = boosters.library()

        result = _log_base(tasks, self.card, self._prior)
        known = [row for row, time in enumerate(result) if not isnan(time)]
        if not known or not self._trees:
            return result
        known_tasks = [tasks[row] for row in known]
        columns = _columns(known_tasks, device, self.card.algorithms, result[known])
        for group, rows in _by_group(known_tasks).items():
            data = xgboost.DMatrix(columns[rows])
            trees = self._trees.get(group, ())
            if trees:
                result[np.array(known)[rows]] += np.mean([booster.predict(data) for booster in trees], axis=0)
        return result

    def _timing(self, task: Task, seconds: float) -> Timing:
        keys = (_kind(task), task.layer.kind, "")
        quantiles = next(self.card.quantiles[key] for key in keys if key in self.card.quantiles)
        beyond, doublings = self._beyond(task)
        low, low_80, high_80, high = (
            side * max(least, side * quantile) * (1 + doublings)
            for side, least, quantile in zip((-1, -1, 1, 1), _LEAST_HALF_WIDTHS, quantiles, strict=True)
        )
        return Timing(
            task=task,
            device_s=seconds,
            host_s=next((self.card.host_s[key] for key in keys if key in self.card.host_s), seconds),
            power_w=next((self.card.power_w[key] for key in keys if key in self.card.power_w), None),
            low_s=seconds * exp(low),
            high_s=seconds * exp(high),
            low_80_s=seconds * exp(low_80),
            high_80_s=seconds * exp(high_80),
            source=Source.PREDICTED,
            alike=next((self.card.alike[key] for key in keys if key in self.card.alike), 1.0),
            extrapolated=beyond,
        )

    def _beyond(self, task: Task) -> tuple[str, float]:
        """The size furthest beyond those measured, in words, and by how many doublings; nothing within a factor of two.

        A function that was not measured counts as one doubling.
        """
        layer, phase = task.layer, task.phase
        if _kind(task) not in self.card.ranges:
            return f"{layer.kind} {phase}, which was not measured", 1.0
        if layer.variant not in self.card.functions[layer.kind]:
            return f"{layer.kind} {layer.variant}", 1.0
        furthest, what, sizes = 0.0, "", _sizes(layer, phase)
        for name, (least, most) in self.card.ranges[_kind(task)].items():
            size = sizes.get(name, least)
            doublings = max(log2(least / size), log2(size / most))
            if doublings > max(furthest, _BEYOND):
                furthest, what = doublings, f"{layer.kind} {name} {size:.3g}, measured {least:.3g} to {most:.3g}"
        return what, furthest


@dataclass(frozen=True)
class Prior:
    """Another device of the same kind, and its model."""

    device: Device
    model: TimeModel

    def log_times(self, tasks: Sequence[Task]) -> Array:
        """What the model says of the tasks on its device; not a number where it knows nothing."""
        return self.model.log_times(tasks, self.device)


def fit(
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
    card = Card(
        device=device.slug,
        fingerprint=fingerprint,
        rows=len(tasks),
        rooflines=_rooflines(timings),
        algorithms=sorted({_label(task.algorithm) for task in tasks}),
        offsets=_offsets(timings, prior) if prior else {},
        prior=prior.device.slug if prior else "",
        prior_fingerprint=prior.model.card.fingerprint if prior else "",
    )
    base = _log_base(tasks, card, prior)
    columns = _columns(tasks, device, card.algorithms, base)
    residuals = np.array([log(timing.device_s) for timing in timings]) - base
    folds = np.array([_fold(task.layer) for task in tasks])
    errors = residuals.copy()
    trees = {}
    for group, rows in _by_group(tasks).items():
        if len(rows) >= _LEAST_ROWS:
            trees[group], left_out = _boosted(columns[rows], residuals[rows], folds[rows])
            errors[rows] -= left_out
    quantiles, medians = _quantiles(tasks, errors)
    card = replace(
        card,
        quantiles=quantiles,
        median_errors=medians,
        counts=dict(Counter(map(_kind, tasks))),
        alike=_alike(tasks, errors),
        ranges=_ranges(tasks),
        functions=_functions(tasks),
        host_s=_medians(tasks, [timing.host_s for timing in timings]) if device.kind.queued else {},
        power_w=_medians(tasks, [timing.power_w for timing in timings]),
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


def _boosted(columns: Any, target: Array, folds: npt.NDArray[np.int64]) -> tuple[list[Any], Array]:
    """Trees fitted without each fold in turn, which predict together, and what each row's own were not fitted on."""
    xgboost = boosters.library()
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


def _columns(tasks: Sequence[Task], device: Device, algorithms: Sequence[str], base: Array) -> Any:
    """The features, the roofline's logarithm and one column per algorithm."""
    features = matrix([(task.layer, task.phase) for task in tasks], [task.settings for task in tasks], device)
    labels = [_label(task.algorithm) for task in tasks]
    chosen = np.array([[label == known for known in algorithms] for label in labels], dtype=np.float32)
    return np.hstack([features, base[:, None].astype(np.float32), chosen.reshape(len(tasks), len(algorithms))])


def _by_group(tasks: Sequence[Task]) -> Mapping[str, npt.NDArray[np.int64]]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row, task in enumerate(tasks):
        groups[_GROUPS.get(task.layer.kind, _OTHERS)].append(row)
    return {group: np.array(rows) for group, rows in groups.items()}


def _label(algorithm: Algorithm) -> str:
    return f"{algorithm.library}/{algorithm.name}"


def _fold(layer: Layer) -> int:
    return sha256(layer_text(layer).encode()).digest()[0] % _FOLDS


# The roofline: a FLOPs + b bytes + c


def _kind(task: Task) -> str:
    return f"{task.layer.kind} {task.phase}"


def _keys(task: Task) -> tuple[str, str, str]:
    """From the most to the least specific: the first one with rows is used."""
    kind = _kind(task)
    precision = f"{kind} {task.settings.precision}"
    return f"{precision} {task.settings.layout}", precision, kind


def _roofline_key(task: Task, rooflines: Mapping[str, Sequence[float]]) -> str | None:
    return next((key for key in _keys(task) if key in rooflines), None)


def _amounts_and_one(task: Task) -> tuple[float, float, float]:
    layer, phase = task.layer, task.phase
    return float(layer.flops(phase)), float(layer.bytes_moved(phase, task.settings.precision.element_bytes)), 1.0


def _log_rooflines(tasks: Sequence[Task], rooflines: Mapping[str, Sequence[float]]) -> Array:
    if not tasks:
        return np.zeros(0)
    amounts = np.array([_amounts_and_one(task) for task in tasks])
    weights = np.array([rooflines[_roofline_key(task, rooflines) or ""] for task in tasks])
    result: Array = np.log((amounts * weights).sum(axis=1))
    return result


def _rooflines(timings: Iterable[Timing]) -> dict[str, list[float]]:
    groups: defaultdict[str, list[Timing]] = defaultdict(list)
    for timing in timings:
        for key in _keys(timing.task):
            groups[key].append(timing)
    plain = 2  # words in a key that names kind and phase alone
    enough = {key: group for key, group in groups.items() if len(group) >= _LEAST_ROWS or len(key.split()) == plain}
    return {key: _roofline(group) for key, group in enough.items()}


def _roofline(timings: Sequence[Timing]) -> list[float]:
    """The coefficients that are not negative and make the squared relative errors least."""
    from scipy.optimize import nnls

    amounts = np.array([_amounts_and_one(timing.task) for timing in timings])
    times = np.array([timing.device_s for timing in timings])
    scale = np.maximum(amounts.max(axis=0), 1.0)
    weights, _ = nnls(amounts / scale / times[:, None], np.ones(len(timings)))
    if not weights[2]:  # nothing takes no time at all
        weights[2] = 0.001 * times.min()
    return [float(weight) for weight in weights / scale]


# What another device's model knows


def _log_base(tasks: Sequence[Task], card: Card, prior: Prior | None) -> Array:
    """What is known before the trees; not a number where there is nothing."""
    result = np.full(len(tasks), nan)
    measured = [row for row, task in enumerate(tasks) if _roofline_key(task, card.rooflines)]
    result[measured] = _log_rooflines([tasks[row] for row in measured], card.rooflines)
    if prior and card.offsets:
        known = prior.log_times(tasks)
        for row, task in enumerate(tasks):
            offset = card.offsets.get(_kind(task), card.offsets[""] if isnan(result[row]) else nan)
            if not isnan(known[row] + offset):
                result[row] = known[row] + offset
    return result


def _offsets(timings: Sequence[Timing], prior: Prior) -> dict[str, float]:
    """log(measured / predicted by `prior`): the median of the kinds and phases that it knows better than a roofline."""
    tasks = [timing.task for timing in timings]
    ratios = np.array([log(timing.device_s) for timing in timings]) - prior.log_times(tasks)
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row, task in enumerate(tasks):
        if not isnan(ratios[row]):
            groups[_kind(task)].append(row)
    if not groups:
        return {}
    found = {"": float(np.median([ratios[row] for rows in groups.values() for row in rows]))}
    for key, rows in groups.items():
        if _prior_is_nearer([timings[row] for row in rows], ratios[rows]):
            found[key] = float(np.median(ratios[rows]))
    return found


def _prior_is_nearer(timings: Sequence[Timing], ratios: Array) -> bool:
    """Whether a constant ratio to the prior errs less than a roofline, on layers that neither was fitted on."""
    folds = np.array([_fold(timing.task.layer) for timing in timings])
    lead = 0.0
    for fold in sorted(set(folds)):
        own, others = np.flatnonzero(folds == fold).tolist(), np.flatnonzero(folds != fold).tolist()
        if len(others) < _LEAST_ROWS:
            return True
        roofline = {_kind(timings[0].task): _roofline([timings[row] for row in others])}
        left_out = [timings[row] for row in own]
        errors = [log(timing.device_s) for timing in left_out] - _log_rooflines(
            [timing.task for timing in left_out], roofline
        )
        lead += float(np.abs(errors).sum() - np.abs(ratios[own] - np.median(ratios[others])).sum())
    return lead > 0


# How far it can be trusted


def _quantiles(tasks: Sequence[Task], errors: Array) -> tuple[dict[str, list[float]], dict[str, float]]:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for task, error in zip(tasks, errors, strict=True):
        for key in ("", task.layer.kind, _kind(task)):
            groups[key].append(float(error))
    enough = {key: found for key, found in groups.items() if not key or len(found) >= _LEAST_RESIDUALS}
    quantiles = {key: [float(q) for q in np.quantile(found, _QUANTILES)] for key, found in enough.items()}
    return quantiles, {key: float(np.median(np.abs(found))) for key, found in groups.items()}


def _medians(tasks: Sequence[Task], values: Iterable[float | None]) -> dict[str, float]:
    """The medians of what is known of the values, of all and by kind and phase."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for task, value in zip(tasks, values, strict=True):
        if value is not None:
            for key in ("", _kind(task)):
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
            groups[_kind(task)].append(row)
    found = {}
    for key, rows in groups.items():
        if len(rows) >= _LEAST_RESIDUALS:
            sizes = [_sizes(tasks[row].layer, tasks[row].phase) for row in rows]
            names = sorted(frozenset.intersection(*(frozenset(size) for size in sizes)))
            points = np.log2([[size[name] for name in names] for size in sizes])
            _, nearest = cKDTree(points).query(points, k=2)
            own = errors[rows] - errors[rows].mean()
            found[key] = float(np.clip(np.mean(own * own[nearest[:, 1]]) / np.mean(own**2), 0.0, 1.0))
    return found


def _sizes(layer: Layer, phase: Phase) -> dict[str, float]:
    """The sizes that a layer of its kind has, by name: FLOPs, elements moved, and its own fields."""
    own = {field.name: getattr(layer, field.name) for field in fields(layer)}
    named = {name.replace("_", " "): float(max(1, value)) for name, value in own.items() if type(value) is int}
    extents = {name: float(max(own[name])) for name in _EXTENTS if own.get(name)}
    flops, moved = layer.flops(phase), layer.elements_moved(phase)
    return {"FLOPs": float(max(1, flops)), "elements": float(max(1, moved)), **named, **extents}


def _ranges(tasks: Sequence[Task]) -> dict[str, dict[str, list[float]]]:
    groups: dict[str, dict[str, list[float]]] = {}
    for task in tasks:
        ranges = groups.setdefault(_kind(task), {})
        for name, size in _sizes(task.layer, task.phase).items():
            least, most = ranges.get(name, (size, size))
            ranges[name] = [min(least, size), max(most, size)]
    return groups


def _functions(tasks: Sequence[Task]) -> dict[str, list[str]]:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for task in tasks:
        groups[task.layer.kind].add(task.layer.variant)
    return {kind: sorted(found) for kind, found in groups.items()}


# Kept beside the store, and made again when the rows have changed


def time_model(
    store: Store, slug: str, timings: Callable[[], Sequence[Timing]], note: Callable[[str], None] = lambda text: None
) -> TimeModel | None:
    """The model of the device's present rows: from the store's or the shipped models, else fitted and kept.

    None where the device has no timings. `note` hears what takes a while, and why.
    """
    fingerprint = store.fingerprint(slug)
    for models in (store.models_dir, shipped_models()):
        kept = _load(models / folder_name(slug), fingerprint, store, note) if models else None
        if kept:
            return kept
    rows = [timing for timing in timings() if not timing.task.layer.free]
    if not rows:
        return None
    note(f"fitting the time model of `{slug}` on {len(rows)} timings")
    model = fit(rows, store.device(slug), fingerprint, prior=prior_of(store, slug, note))
    if store.models_dir:
        folder = store.models_dir / folder_name(slug)
        try:
            save(model, folder)
        except LatteError as exc:
            note(f"the time model is not kept: {exc.message}")
    return model


def prior_of(store: Store, slug: str, note: Callable[[str], None] = lambda text: None) -> Prior | None:
    """A shipped model of another device of the kind of `slug`, where the store has its rows."""
    own, models = store.device(slug), shipped_models()
    if models is None:
        return None
    for device in store.devices():
        if device.kind == own.kind and device.slug != slug:
            model = _load(models / folder_name(device.slug), store.fingerprint(device.slug), None, note)
            if model:
                return Prior(device, model)
    return None


def folder_name(slug: str) -> str:
    """The name of the folder of a device's model, among others."""
    return f"times-{slug}"


def save(model: TimeModel, folder: Path) -> None:
    """Write the trees under names of this fingerprint, then the card that names them, then drop older trees.

    Raises LatteError where they cannot be written.
    """
    names = {
        group: [f"{group}-{index}-{model.card.fingerprint[:12]}.ubj" for index in range(len(trees))]
        for group, trees in model._trees.items()
    }
    content = {**asdict(model.card), "trees": names}
    files.make_folder(folder)
    for group, ours in names.items():
        for name, booster in zip(ours, model._trees[group], strict=True):
            files.write(folder / name, bytes(booster.save_raw(raw_format="ubj")))
    files.write(folder / "card.json", json.dumps(content, indent=1).encode())
    kept = {name for ours in names.values() for name in ours}
    for path in folder.glob("*.ubj"):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _load(folder: Path, fingerprint: str, store: Store | None, note: Callable[[str], None]) -> TimeModel | None:
    """The model kept in `folder` if it was made of these rows with these features; derived data, so never an error.

    Without a `store` only a model that needs no other device's.
    """
    try:
        content = json.loads((folder / "card.json").read_bytes())
        card = Card(**{field.name: content[field.name] for field in fields(Card)})
        current = (card.schema, card.fingerprint, card.feature_version) == (SCHEMA, fingerprint, FEATURE_VERSION)
        if not current or tuple(card.features) != FEATURES:
            return None
        prior = prior_of(store, card.device, note) if card.prior and store else None
        known = (prior.device.slug, prior.model.card.fingerprint) if prior else ("", "")
        if known != (card.prior, card.prior_fingerprint):
            return None
        trees = {
            group: [boosters.loaded((folder / name).read_bytes()) for name in names]
            for group, names in card.trees.items()
        }
        return TimeModel(card, trees, prior)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        note(f"the time model in `{folder}` is damaged ({exc}) and is fitted again")
        return None
