"""The selector's model: boosted trees that predict what each algorithm loses against the best one."""

import platform
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from latte_cli import __version__
from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends import Device
from latte_cli.errors import LatteError
from latte_cli.features import FEATURE_VERSION, FEATURES, Matrix, informative, matrix
from latte_cli.layers import Convolution, Layer, Phase, layer_text
from latte_cli.lookup import Pair, sort
from latte_cli.selector.decisions import Decision
from latte_cli.tasks import Layout, Precision, Settings

SCHEMA = "latte.selector/1"

COLUMNS = (*FEATURES, "device", "algorithm")
"""What the trees see of a candidate: the features, and the places of device and algorithm in the card."""

Array: TypeAlias = npt.NDArray[np.float64]
Places: TypeAlias = npt.NDArray[np.int64]

_CATEGORIES = ("kind", "function", "phase", "device", "algorithm")
_TYPES = ["c" if column in _CATEGORIES else "q" for column in COLUMNS]
_ROUNDS = 300
_TREES = {
    "objective": "reg:squarederror",
    "base_score": 0.0,
    "tree_method": "hist",
    "eta": 0.1,
    "min_child_weight": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
}
_DEPTHS = ((2000, 8), (0, 6))  # from so many decisions on: more of them tell finer rules from noise
_REFUSED = 1.0  # the loss of what did not run: that of an algorithm which takes for ever
_SOFT = 0.1  # loss that makes a candidate e times less likely
_LEAST_SHAPES = 4
_SMALL_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The algorithm to run `phase` of `layer` with; `confidence` is its share among those that could run, 0 to 1."""

    layer: Layer
    phase: Phase
    algorithm: Algorithm
    layout: Layout
    precision: Precision
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a selector was made of, and what it needs beside its trees; JSON beside them.

    `ran` holds the places in `algorithms` of those that ran a sort of layer; `workspace` the highest ratio of
    workspace to (bytes of the tensors, bytes of the unfolded input) seen of an algorithm, the unused one 0.
    """

    devices: Sequence[str]
    algorithms: Sequence[Algorithm]
    ran: Mapping[str, Sequence[int]]
    workspace: Mapping[str, Sequence[float]]
    settings: Sequence[str]
    decisions: int
    fingerprint: str
    seed: int
    made_at: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    scores: Sequence[Mapping[str, Any]] = ()
    trees: str = ""
    features: Sequence[str] = COLUMNS
    feature_version: int = FEATURE_VERSION
    schema: str = SCHEMA


class Selector:
    """Chooses algorithms for convolutions that were not measured, a whole network at once."""

    def __init__(self, card: Card, trees: Any) -> None:
        self.card, self.trees = card, trees
        self._places = {algorithm: place for place, algorithm in enumerate(card.algorithms)}

    def choose(
        self,
        layers_phases: Sequence[Pair],
        settings: Settings,
        device: Device,
        workspace_limit_bytes: int | None = None,
        candidates: Sequence[Collection[Algorithm]] | None = None,
    ) -> list[Choice]:
        """A choice for each pair, among those that ran on layers of its sort and whose workspace fits the limit.

        `candidates`, one collection a pair, leaves out what else cannot run. Where nothing is left, and for layers
        that are no convolutions, it is the framework's default; its confidence is then 0, or 1.
        """
        able = [self._able(pair, settings, device) for pair in layers_phases]
        if candidates is not None:
            wanted = [{self._places.get(algorithm) for algorithm in each} for each in candidates]
            able = [[place for place in places if place in own] for places, own in zip(able, wanted, strict=True)]
        features = matrix(layers_phases, settings, device)
        if workspace_limit_bytes is not None:
            able = [
                [place for place in places if self._workspace_bytes(place, phase, row) <= workspace_limit_bytes]
                for places, (_, phase), row in zip(able, layers_phases, features, strict=True)
            ]
        losses = self._losses(features, able, device)
        return [self._choice(pair, settings, row) for pair, row in zip(layers_phases, losses, strict=True)]

    def _able(self, pair: Pair, settings: Settings, device: Device) -> Sequence[int]:
        """Places of the algorithms that ran the sort of layer with this kernel, or else with any."""
        if not isinstance(pair[0], Convolution):
            return ()
        keys = _sort_keys(device, settings, *pair)
        return next((self.card.ran[key] for key in keys if key in self.card.ran), ())

    def _workspace_bytes(self, place: int, phase: Phase, features: npt.NDArray[np.float32]) -> float:
        ratios = self.card.workspace.get(_workspace_key(place, phase), (0.0, 0.0))
        return float(np.dot(ratios, _workspace_bases(features)))

    def _losses(self, features: Matrix, able: Sequence[Sequence[int]], device: Device) -> Array:
        """The predicted loss per pair and algorithm, infinite for what cannot run."""
        losses = np.full((len(features), len(self.card.algorithms)), np.inf)
        cells = [(row, place) for row, places in enumerate(able) for place in places]
        if cells:
            rows, places = np.array(cells).T
            codes = np.full(len(rows), self.card.devices.index(device.slug))
            losses[rows, places] = self.trees.predict(_data(features[rows], codes, places))
        return losses

    def _choice(self, pair: Pair, settings: Settings, losses: Array) -> Choice:
        place = int(np.argmin(losses)) if len(losses) else 0
        if len(losses) and np.isfinite(losses[place]):
            algorithm = self.card.algorithms[place]
            confidence = float(1 / np.exp((losses[place] - losses) / _SOFT).sum())
        else:
            algorithm, confidence = FRAMEWORK_DEFAULT, float(not isinstance(pair[0], Convolution))
        return Choice(
            layer=pair[0],
            phase=pair[1],
            algorithm=algorithm,
            layout=settings.layout,
            precision=settings.precision,
            confidence=confidence,
        )


def fit(decisions: Sequence[Decision], *, seed: int = 0, scores: Sequence[Any] = (), made_at: float = 0.0) -> Selector:
    """Learn from `decisions` what each algorithm loses against the best; the same for the same decisions and seed.

    `scores` (dataclasses) and `made_at` (seconds since the epoch) are for the card.
    Raises LatteError where there are too few to learn from.
    """
    import xgboost

    if len({decision.shape for decision in decisions}) < _LEAST_SHAPES:
        raise too_few(decisions)
    devices = sorted({decision.device.slug for decision in decisions})
    algorithms = sorted({algorithm for decision in decisions for algorithm in decision.ran}, key=_order)
    codes = np.array([devices.index(decision.device.slug) for decision in decisions])
    features = _features(decisions)
    rows, places, losses = _candidates(decisions, algorithms)
    data = _data(features[rows], codes[rows], places, losses)
    data.set_weight([decisions[row].count for row in rows])
    card = Card(
        devices=devices,
        algorithms=algorithms,
        ran=_ran(decisions, algorithms),
        workspace=_workspace(decisions, algorithms, features),
        settings=sorted({f"{s.precision} {s.layout} {s.threads} threads" for s in (d.settings for d in decisions)}),
        decisions=len(decisions),
        fingerprint=_fingerprint(decisions),
        seed=seed,
        made_at=made_at,
        scores=[asdict(score) for score in scores],
        versions={"latte": __version__, "xgboost": xgboost.__version__, "python": platform.python_version()},
    )
    depth = next(depth for least, depth in _DEPTHS if len(decisions) >= least)
    return Selector(card, xgboost.train({**_TREES, "max_depth": depth, "seed": seed}, data, num_boost_round=_ROUNDS))


def too_few(decisions: Sequence[Decision]) -> LatteError:
    """The error for rows that do not suffice to learn from."""
    shapes = len({decision.shape for decision in decisions})
    return LatteError(
        f"too few rows to learn from: {shapes} different convolutions of which two algorithms ran",
        hint="`latte profile --suite standard` measures more",
    )


def _order(algorithm: Algorithm) -> tuple[str, str, int]:
    return algorithm.library, algorithm.name, -1 if algorithm.vendor_id is None else algorithm.vendor_id


def _candidates(decisions: Sequence[Decision], algorithms: Sequence[Algorithm]) -> tuple[Places, Places, Array]:
    """Decision, algorithm and loss of everything that was tried: 1 - best time / time, or how often it did not win."""
    places = {algorithm: place for place, algorithm in enumerate(algorithms)}
    cells = []
    for row, decision in enumerate(decisions):
        cells += [(row, places[algorithm], _loss(decision, algorithm)) for algorithm in decision.ran]
        cells += [(row, places[refused], _REFUSED) for refused in decision.refused if refused in places]
    rows, columns, losses = zip(*cells, strict=True)
    return np.array(rows), np.array(columns), np.array(losses)


def _loss(decision: Decision, algorithm: Algorithm) -> float:
    if decision.times_s:
        return 1 - decision.times_s[decision.best] / decision.times_s[algorithm]
    return 1 - decision.share(algorithm)


def _features(decisions: Sequence[Decision]) -> Matrix:
    """The features of each decision, computed together for all of one device and settings."""
    groups: defaultdict[tuple[Device, Settings], list[int]] = defaultdict(list)
    for row, decision in enumerate(decisions):
        groups[decision.device, decision.settings].append(row)
    result = np.empty((len(decisions), len(FEATURES)), dtype=np.float32)
    for (device, settings), rows in groups.items():
        pairs = [(decisions[row].layer, decisions[row].phase) for row in rows]
        result[rows] = matrix(pairs, settings, device)
    return result


def _data(features: Matrix, devices: Places, algorithms: Places, losses: Array | None = None) -> Any:
    """The candidates as the trees take them."""
    import xgboost

    columns = np.column_stack([features, devices.astype(np.float32), algorithms.astype(np.float32)])
    weights = None if losses is None else informative(columns)
    return xgboost.DMatrix(
        columns, label=losses, feature_types=_TYPES, feature_weights=weights, enable_categorical=True
    )


def _fingerprint(decisions: Iterable[Decision]) -> str:
    known = [f"{d.device.slug} {t.task.id} {t.device_s!r}" for d in decisions for t in d.timings]
    known += [f"{d.device.slug} {layer_text(d.layer)} {d.phase} {d.settings} {d.wins}" for d in decisions if d.wins]
    return sha256("\n".join(sorted(known)).encode()).hexdigest()


# What ran before


def _sort_keys(device: Device, settings: Settings, layer: Layer, phase: Phase) -> tuple[str, str]:
    key = f"{device.slug} {phase} {settings.precision} {settings.layout} {sort(layer)}"
    return f"{key} {getattr(layer, 'kernel', ())}", key


def _ran(decisions: Sequence[Decision], algorithms: Sequence[Algorithm]) -> dict[str, list[int]]:
    found: defaultdict[str, set[Algorithm]] = defaultdict(set)
    for decision in decisions:
        for key in _sort_keys(decision.device, decision.settings, decision.layer, decision.phase):
            found[key].update(decision.ran)
    return {key: sorted(map(algorithms.index, each)) for key, each in sorted(found.items())}


# The most workspace an algorithm may take


def _workspace_key(place: int, phase: Phase) -> str:
    return f"{phase} {place}"


_AT = {name: place for place, name in enumerate(FEATURES)}


def _workspace_bases(features: npt.NDArray[np.float32]) -> Array:
    """Bytes of the tensors and of the unfolded input, which workspaces grow with."""
    log_bytes, log_im2col = features[..., _AT["log_bytes"]], features[..., _AT["log_im2col"]]
    log_element = log_bytes - features[..., _AT["log_moved"]]
    result: Array = np.exp2(np.stack([log_bytes, log_im2col + log_element], axis=-1), dtype=np.float64)
    return result


def _workspace(
    decisions: Sequence[Decision], algorithms: Sequence[Algorithm], features: Matrix
) -> dict[str, list[float]]:
    """The envelope of the workspaces measured of each algorithm and phase, in the base that it follows closest."""
    seen: defaultdict[str, list[tuple[int, Array]]] = defaultdict(list)
    for decision, bases in zip(decisions, _workspace_bases(features), strict=True):
        for timing in decision.timings:
            if timing.workspace_bytes is not None:
                key = _workspace_key(algorithms.index(timing.task.algorithm), decision.phase)
                seen[key].append((timing.workspace_bytes, bases))
    return {key: _envelope(rows) for key, rows in sorted(seen.items())}


def _envelope(rows: Sequence[tuple[int, Array]]) -> list[float]:
    workspaces = np.array([workspace for workspace, _ in rows], dtype=np.float64)
    bases = np.array([bases for _, bases in rows])
    ratios = (workspaces[:, None] / bases).max(axis=0)
    excess = np.log((ratios * bases + _SMALL_BYTES) / (workspaces[:, None] + _SMALL_BYTES)).mean(axis=0)
    return [float(ratio) if place == int(excess.argmin()) else 0.0 for place, ratio in enumerate(ratios)]
