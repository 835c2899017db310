"""The learned time model: a roofline per kind and phase, corrected by boosted trees, fitted on a device's rows."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from math import exp, log, log2
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from latte_cli.algorithms import Algorithm
from latte_cli.backends import Device
from latte_cli.features import FEATURE_VERSION, FEATURES, informative, matrix
from latte_cli.layers import Layer, Phase, layer_text
from latte_cli.lookup import Source, Timing
from latte_cli.store import Store
from latte_cli.store.shipped import shipped_models
from latte_cli.tasks import Task

SCHEMA = "latte.times/1"

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
_LEAST_RESIDUALS = 40
_LEAST_HALF_WIDTH = 0.1  # of the logarithm: no call repeats itself more exactly
_BEYOND = 1.0  # a factor of two outside the range that was measured


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model was made of, and what it needs beside its trees; JSON beside them.

    `rooflines` are (seconds a FLOP, seconds a byte, seconds a call) by kind and phase, also for one precision and
    layout; `quantiles` are the 2.5 and 97.5 % quantiles of log(measured / predicted) on layers left out; `ranges` are
    the least and largest log2 of FLOPs and of elements moved; `functions` are those measured of each kind.
    """

    device: str
    fingerprint: str
    rows: int
    rooflines: Mapping[str, Sequence[float]]
    algorithms: Sequence[str]
    quantiles: Mapping[str, Sequence[float]] = field(default_factory=dict)
    median_errors: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, Sequence[float]] = field(default_factory=dict)
    functions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    trees: Mapping[str, Sequence[str]] = field(default_factory=dict)
    features: Sequence[str] = FEATURES
    feature_version: int = FEATURE_VERSION
    schema: str = SCHEMA


class TimeModel:
    """Predicts the times of tasks that were not measured, many at once."""

    def __init__(self, card: Card, trees: Mapping[str, Sequence[Any]]) -> None:
        self.card, self._trees = card, trees

    @property
    def roofline(self) -> "TimeModel":
        """The model without its trees: a FLOPs + b bytes + c by kind and phase."""
        return TimeModel(self.card, {})

    def predicted(self, tasks: Sequence[Task], device: Device) -> dict[Task, Timing]:
        """A timing of each task whose kind and phase have been measured, with its 95 % interval."""
        known = [task for task in tasks if _roofline_key(task, self.card.rooflines)]
        times = np.exp(self._log_times(known, device))
        return {task: self._timing(task, float(time)) for task, time in zip(known, times, strict=True)}

    def _log_times(self, tasks: Sequence[Task], device: Device) -> Array:
        import xgboost

        result = _log_rooflines(tasks, self.card.rooflines)
        if not tasks:
            return result
        columns = _columns(tasks, device, self.card.algorithms, result)
        for group, rows in _by_group(tasks).items():
            data = xgboost.DMatrix(columns[rows])
            trees = self._trees.get(group, ())
            if trees:
                result[rows] += np.mean([booster.predict(data) for booster in trees], axis=0)
        return result

    def _timing(self, task: Task, seconds: float) -> Timing:
        quantiles = self.card.quantiles
        low, high = quantiles.get(f"{task.layer.kind} {task.phase}") or quantiles.get(task.layer.kind) or quantiles[""]
        beyond = self._extrapolates(task)
        wider = log(2) if beyond else 0.0
        return Timing(
            task=task,
            device_s=seconds,
            host_s=seconds,
            low_s=seconds * exp(min(-_LEAST_HALF_WIDTH, low) - wider),
            high_s=seconds * exp(max(_LEAST_HALF_WIDTH, high) + wider),
            source=Source.PREDICTED,
            extrapolated=beyond,
        )

    def _extrapolates(self, task: Task) -> bool:
        least_flops, most_flops, least_moved, most_moved = self.card.ranges[f"{task.layer.kind} {task.phase}"]
        flops, moved = _amounts(task.layer, task.phase)
        inside = least_flops - _BEYOND <= flops <= most_flops + _BEYOND
        inside = inside and least_moved - _BEYOND <= moved <= most_moved + _BEYOND
        return not inside or _function(task.layer) not in self.card.functions[task.layer.kind]


def fit(timings: Sequence[Timing], device: Device, fingerprint: str = "") -> TimeModel:
    """Fit a model on `timings`, all of them of `device`; the quantiles come from folds that share no layer."""
    tasks = [timing.task for timing in timings]
    rooflines = _rooflines(timings)
    base = _log_rooflines(tasks, rooflines)
    algorithms = sorted({_label(task.algorithm) for task in tasks})
    columns = _columns(tasks, device, algorithms, base)
    residuals = np.array([log(timing.device_s) for timing in timings]) - base
    folds = np.array([_fold(task.layer) for task in tasks])
    errors = residuals.copy()
    trees = {}
    for group, rows in _by_group(tasks).items():
        if len(rows) >= _LEAST_ROWS:
            trees[group], left_out = _boosted(columns[rows], residuals[rows], folds[rows])
            errors[rows] -= left_out
    quantiles, medians = _quantiles(tasks, errors)
    card = Card(
        device=device.slug,
        fingerprint=fingerprint,
        rows=len(tasks),
        rooflines=rooflines,
        algorithms=algorithms,
        quantiles=quantiles,
        median_errors=medians,
        ranges=_ranges(tasks),
        functions=_functions(tasks),
    )
    return TimeModel(card, trees)


def _boosted(columns: Any, target: Array, folds: npt.NDArray[np.int64]) -> tuple[list[Any], Array]:
    """Trees fitted without each fold in turn, which predict together, and what each row's own were not fitted on."""
    import xgboost

    data, weights = xgboost.DMatrix(columns, label=target), informative(columns)
    boosters, left_out = [], np.zeros_like(target)
    for fold in sorted(set(folds)):
        own = np.flatnonzero(folds == fold)
        others = np.flatnonzero(folds != fold)
        rest = data.slice(others if len(others) else own)
        rest.set_info(feature_weights=weights)
        booster = xgboost.train(_TREES, rest, num_boost_round=_ROUNDS)
        left_out[own] = booster.predict(data.slice(own))
        boosters.append(booster)
    return boosters, left_out


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


def _keys(task: Task) -> tuple[str, str, str]:
    """From the most to the least specific: the first one with rows is used."""
    kind = f"{task.layer.kind} {task.phase}"
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


# How far it can be trusted


def _quantiles(tasks: Sequence[Task], errors: Array) -> tuple[dict[str, list[float]], dict[str, float]]:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for task, error in zip(tasks, errors, strict=True):
        for key in ("", task.layer.kind, f"{task.layer.kind} {task.phase}"):
            groups[key].append(float(error))
    enough = {key: found for key, found in groups.items() if not key or len(found) >= _LEAST_RESIDUALS}
    quantiles = {key: [float(q) for q in np.quantile(found, (0.025, 0.975))] for key, found in enough.items()}
    return quantiles, {key: float(np.median(np.abs(found))) for key, found in groups.items()}


def _amounts(layer: Layer, phase: Phase) -> tuple[float, float]:
    return log2(max(1, layer.flops(phase))), log2(max(1, layer.elements_moved(phase)))


def _ranges(tasks: Sequence[Task]) -> dict[str, list[float]]:
    groups: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for task in tasks:
        groups[f"{task.layer.kind} {task.phase}"].append(_amounts(task.layer, task.phase))
    return {
        key: [bound(found) for found in zip(*amounts, strict=True) for bound in (min, max)]
        for key, amounts in groups.items()
    }


def _function(layer: Layer) -> str:
    return str(getattr(layer, "function", getattr(layer, "operation", "")))


def _functions(tasks: Sequence[Task]) -> dict[str, list[str]]:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for task in tasks:
        groups[task.layer.kind].add(_function(task.layer))
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
        kept = _load(models / f"times-{slug}", fingerprint, note) if models else None
        if kept:
            return kept
    rows = [timing for timing in timings() if not timing.task.layer.free]
    if not rows:
        return None
    note(f"fitting the time model of `{slug}` on {len(rows)} timings")
    model = fit(rows, store.device(slug), fingerprint)
    if store.models_dir:
        _save(model, store.models_dir / f"times-{slug}", note)
    return model


def _save(model: TimeModel, folder: Path, note: Callable[[str], None]) -> None:
    """Write the trees under names of this fingerprint, then the card that names them, then drop older trees."""
    files = {
        group: [f"{group}-{index}-{model.card.fingerprint[:12]}.ubj" for index in range(len(trees))]
        for group, trees in model._trees.items()
    }
    content = {**asdict(model.card), "trees": files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for group, names in files.items():
            for name, booster in zip(names, model._trees[group], strict=True):
                _write(folder / name, bytes(booster.save_raw(raw_format="ubj")))
        _write(folder / "card.json", json.dumps(content, indent=1).encode())
        kept = {name for names in files.values() for name in names}
        for path in folder.glob("*.ubj"):
            if path.name not in kept:
                path.unlink(missing_ok=True)
    except OSError as exc:
        note(f"the time model is not kept: {exc.strerror} (`{folder}`)")


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _load(folder: Path, fingerprint: str, note: Callable[[str], None]) -> TimeModel | None:
    """The model kept in `folder` if it was made of these rows with these features; derived data, so never an error."""
    try:
        content = json.loads((folder / "card.json").read_bytes())
        card = Card(**{field.name: content[field.name] for field in fields(Card)})
        current = (card.schema, card.fingerprint, card.feature_version) == (SCHEMA, fingerprint, FEATURE_VERSION)
        if not current or tuple(card.features) != FEATURES:
            return None
        return TimeModel(card, {group: [_tree(folder / name) for name in names] for group, names in card.trees.items()})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        note(f"the time model in `{folder}` is damaged ({exc}) and is fitted again")
        return None


def _tree(path: Path) -> Any:
    import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(path.read_bytes()))
    except xgboost.core.XGBoostError as exc:
        raise ValueError("unreadable trees") from exc
    return booster
