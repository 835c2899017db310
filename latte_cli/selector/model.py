"""The selector: a model of what each algorithm loses against the best one, and what it must know beside."""

import platform
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from math import exp, isnan, log
from typing import TYPE_CHECKING, Any

import numpy as np

from latte_cli import __version__
from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import Device
from latte_cli.errors import LatteError
from latte_cli.features import FEATURE_VERSION, Matrix, details, matrix
from latte_cli.layers import Convolution, Layer, Phase, layer_text
from latte_cli.layers.alike import sort
from latte_cli.lookup import Pair
from latte_cli.precisions import Layout, Precision
from latte_cli.selector.candidates import COLUMNS, Array, CandidateTable, Indices, Model
from latte_cli.selector.decisions import Decision
from latte_cli.selector.workspaces import Workspaces
from latte_cli.tasks import Settings

if TYPE_CHECKING:
    from latte_cli.selector.trees import TreeExamples

SCHEMA = "latte.selector/2"

KINDS = ("xgboost", "mlp")
"""Kinds of models: boosted trees, and the perceptron of LATTE's own code."""

_REFUSED = 1.0  # the loss of what did not run: that of an algorithm which takes for ever
_LIBRARIES = {"xgboost": "xgboost", "mlp": "torch"}
_SOFTNESS = {"xgboost": 0.1, "mlp": 1.0}  # chosen: where no evaluation has fitted it
_LEAST_SHAPES = 4  # chosen: from fewer there is nothing to learn but their names


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
class Preferences:
    """What may compute a layer's phase, with the loss predicted of each, lower for better, and the workspace it may
    take in bytes; a candidate is e times less likely for a loss `softness` higher.

    Without candidates it is the framework's default, for certain where the layer is no convolution.
    """

    algorithms: tuple[Algorithm, ...]
    losses: Sequence[float]
    workspaces_bytes: Sequence[float]
    softness: float
    otherwise: float

    def best(self, limit_bytes: int | None = None) -> tuple[Algorithm, float]:
        """The algorithm with the least loss whose workspace fits the limit, and the confidence in it, 0 to 1.

        Where none fits it is the one with the least workspace.
        """
        if not self.algorithms:
            return FRAMEWORK_DEFAULT, self.otherwise
        indices, losses, needed = range(len(self.algorithms)), list(self.losses), list(self.workspaces_bytes)
        fitting = [at for at in indices if limit_bytes is None or needed[at] <= limit_bytes]
        if not fitting:
            return self.algorithms[min(indices, key=needed.__getitem__)], 0.0
        best = min(fitting, key=losses.__getitem__)
        shares = (exp((losses[best] - losses[at]) / self.softness) for at in fitting)
        return self.algorithms[best], 1 / sum(shares)

    def likeliest(self, count: int) -> list[Algorithm]:
        """The `count` algorithms with the least losses, best first."""
        order = sorted(zip(self.losses, range(len(self.algorithms)), strict=True))
        return [self.algorithms[index] for _, index in order[:count]]

    def workspaces(self) -> dict[Algorithm, int]:
        """The workspace that each may take, in bytes."""
        return {one: int(most) for one, most in zip(self.algorithms, self.workspaces_bytes, strict=True)}


@dataclass(frozen=True, kw_only=True)
class SelectorCard:
    """What a selector was made of, and what it needs beside its trees; JSON beside them.

    `ran` holds the indices in `algorithms` of those that ran a sort of layer, `classes` of those that won in a phase;
    a candidate is e times less likely for a loss `softness` higher, fitted to left-out
    layers as far as the `calibration_error` says; `importance` is what the model says of its features.
    """

    devices: Sequence[str]
    algorithms: Sequence[Algorithm]
    ran: Mapping[str, Sequence[int]]
    settings: Sequence[str]
    decisions: int
    fingerprint: str
    seed: int
    made_at: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    scores: Sequence[Mapping[str, Any]] = ()
    kind: str = "xgboost"
    softness: float = 0.1
    calibration_error: float | None = None
    importance: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    features: Sequence[str] = COLUMNS
    feature_version: int = FEATURE_VERSION
    schema: str = SCHEMA


class Selector:
    """Chooses algorithms for convolutions that were not measured, a whole network at once."""

    def __init__(self, card: SelectorCard, model: Model, workspaces: Workspaces) -> None:
        self.card, self.model, self.workspaces = card, model, workspaces
        self._indices = {algorithm: index for index, algorithm in enumerate(card.algorithms)}

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
        limited = workspace_limit_bytes is not None
        if candidates is None:  # networks repeat their layers
            distinct = list(dict.fromkeys(layers_phases))
            found = dict(zip(distinct, self.rank(distinct, settings, device, with_workspaces=limited), strict=True))
            ranked = [found[pair] for pair in layers_phases]
        else:
            ranked = self.rank(layers_phases, settings, device, candidates, with_workspaces=limited)
        return [
            _choice(pair, settings, preferences.best(workspace_limit_bytes))
            for pair, preferences in zip(layers_phases, ranked, strict=True)
        ]

    def rank(
        self,
        layers_phases: Sequence[Pair],
        settings: Settings,
        device: Device,
        candidates: Sequence[Collection[Algorithm]] | None = None,
        *,
        with_workspaces: bool = True,
    ) -> list[Preferences]:
        """What may compute each pair, among what ran on layers of its sort and is in its `candidates`.

        The workspaces of its preferences are zeros unless `with_workspaces`.
        """
        if not layers_phases:
            return []
        able = [self._able(pair, settings, device) for pair in layers_phases]
        if candidates is not None:
            able = [self._among(indices, own) for indices, own in zip(able, candidates, strict=True)]
        counts = [len(indices) for indices in able]
        asked = CandidateTable(
            pairs=layers_phases,
            features=_seen_columns(layers_phases, settings, device),
            settings=settings,
            device=device,
            rows=np.repeat(np.arange(len(able)), counts),
            indices=np.array([index for indices in able for index in indices], dtype=np.int64),
            algorithms=len(self.card.algorithms),
        )
        losses = self.model.losses(asked) if sum(counts) else np.zeros(0)
        needed = np.zeros(sum(counts))
        if with_workspaces:
            needed = self.workspaces.predict_bytes(asked.features, asked.rows, asked.indices)
        ends = np.cumsum(counts)[:-1]
        return [
            Preferences(
                algorithms=tuple(self.card.algorithms[index] for index in indices),
                losses=own.tolist(),
                workspaces_bytes=need.tolist(),
                softness=self.card.softness,
                otherwise=float(not isinstance(pair[0], Convolution)),
            )
            for pair, indices, own, need in zip(
                layers_phases, able, np.split(losses, ends), np.split(needed, ends), strict=True
            )
        ]

    def _able(self, pair: Pair, settings: Settings, device: Device) -> Sequence[int]:
        """Indices of the algorithms that ran the sort of layer with this kernel, or else with any."""
        if not isinstance(pair[0], Convolution):
            return ()
        keys = _sort_keys(device, settings, *pair)
        return next((self.card.ran[key] for key in keys if key in self.card.ran), ())

    def _among(self, indices: Sequence[int], wanted: Collection[Algorithm]) -> Sequence[int]:
        own = {self._indices.get(algorithm) for algorithm in wanted}
        return [index for index in indices if index in own]


def _choice(pair: Pair, settings: Settings, best: tuple[Algorithm, float]) -> Choice:
    return Choice(
        layer=pair[0],
        phase=pair[1],
        algorithm=best[0],
        layout=settings.layout,
        precision=settings.precision,
        confidence=best[1],
    )


def fit_selector(
    decisions: Sequence[Decision],
    *,
    kind: str = "xgboost",
    seed: int = 0,
    softness: float | None = None,
    calibration_error: float | None = None,
    scores: Sequence[Any] = (),
    made_at: float = 0.0,
) -> Selector:
    """Learn from `decisions` what each algorithm loses against the best; the same for the same decisions and seed.

    `softness` and its error are those of an evaluation; `scores` (dataclasses) and `made_at` (seconds since the epoch)
    are for the card. Raises LatteError where there are too few to learn from.
    """
    from latte_cli.selector import mlp, trees, workspaces

    if len({decision.shape for decision in decisions}) < _LEAST_SHAPES:
        raise too_few(decisions)
    devices = sorted({decision.device.slug for decision in decisions})
    algorithms = sorted({algorithm for decision in decisions for algorithm in decision.ran}, key=_order)
    features = _features(decisions)
    model: Model
    importance: Mapping[str, float] = {}
    classes: Mapping[str, Sequence[int]] = {}
    if kind == "mlp":
        model = mlp.fit_perceptrons(decisions, algorithms, seed=seed)
    else:
        model = boosted = trees.fit_trees(_examples(decisions, algorithms, devices, features), devices, seed=seed)
        importance, classes = boosted.importance(), boosted.classes
    card = SelectorCard(
        kind=kind,
        softness=_SOFTNESS[kind] if softness is None else softness,
        calibration_error=None if calibration_error is None or isnan(calibration_error) else calibration_error,
        importance=importance,
        classes=classes,
        devices=devices,
        algorithms=algorithms,
        ran=_ran(decisions, algorithms),
        settings=sorted({f"{s.precision} {s.layout} {s.threads} threads" for s in (d.settings for d in decisions)}),
        decisions=len(decisions),
        fingerprint=_fingerprint(decisions),
        seed=seed,
        made_at=made_at,
        scores=[asdict(score) for score in scores],
        versions={
            "latte": __version__,
            _LIBRARIES[kind]: version(_LIBRARIES[kind]),
            "python": platform.python_version(),
        },
    )
    return Selector(card, model, workspaces.fit_workspaces(features, *_needs(decisions, algorithms), seed=seed))


def too_few(decisions: Sequence[Decision]) -> LatteError:
    """The error for rows that do not suffice to learn from."""
    shapes = len({decision.shape for decision in decisions})
    return LatteError(
        f"too few rows to learn from: {shapes} different convolutions of which two algorithms ran",
        hint="`latte profile --suite standard` measures more, `latte import` reads what others measured",
    )


def _order(algorithm: Algorithm) -> tuple[str, str, int]:
    return algorithm.library, algorithm.name, -1 if algorithm.vendor_id is None else algorithm.vendor_id


def _examples(
    decisions: Sequence[Decision], algorithms: Sequence[Algorithm], devices: Sequence[str], features: Matrix
) -> "TreeExamples":
    """Everything that was tried: its loss is 1 - best time / time, or how often it did not win."""
    from latte_cli.selector.trees import TreeExamples

    at = {algorithm: index for index, algorithm in enumerate(algorithms)}
    cells: list[tuple[int, int, float, float]] = []
    for row, decision in enumerate(decisions):
        cells += [(row, at[one], _loss(decision, one), decision.share(one)) for one in decision.ran]
        cells += [(row, at[refused], _REFUSED, 0.0) for refused in decision.refused if refused in at]
    rows, indices, losses, wins = (np.array(column) for column in zip(*cells, strict=True))
    return TreeExamples(
        features=features,
        devices=np.array([devices.index(decision.device.slug) for decision in decisions]),
        phases=[decision.phase for decision in decisions],
        rows=rows,
        indices=indices,
        losses=losses,
        wins=wins,
        gains=np.array([_gain(decision) for decision in decisions]),
        counts=np.array([decision.count for decision in decisions], dtype=np.float64),
        times=sum(len(decision.times_s) for decision in decisions),
    )


def _needs(decisions: Sequence[Decision], algorithms: Sequence[Algorithm]) -> tuple[Indices, Indices, Array]:
    """Decision, algorithm and bytes of each workspace that was measured."""
    at = {algorithm: index for index, algorithm in enumerate(algorithms)}
    cells = [
        (row, at[timing.task.algorithm], timing.workspace_bytes)
        for row, decision in enumerate(decisions)
        for timing in decision.timings
        if timing.workspace_bytes is not None
    ]
    rows, indices, needed = np.array(cells, dtype=np.int64).reshape(-1, 3).T
    return rows, indices, needed.astype(np.float64)


def _gain(decision: Decision) -> float:
    """The logarithm of the second best time over the best; 1 where only the winner is known."""
    times = sorted(decision.times_s.values())
    return log(times[1] / times[0]) if len(times) > 1 else 1.0


def _loss(decision: Decision, algorithm: Algorithm) -> float:
    if decision.times_s:
        return 1 - decision.times_s[decision.best] / decision.times_s[algorithm]
    return 1 - decision.share(algorithm)


def _seen_columns(pairs: Sequence[Pair], settings: Settings, device: Device) -> Matrix:
    """The columns that a model may look at."""
    return np.hstack([matrix(pairs, settings, device), details([layer for layer, _ in pairs])])


def _features(decisions: Sequence[Decision]) -> Matrix:
    """The columns of each decision, computed together for all of one device and settings."""
    groups: defaultdict[tuple[Device, Settings], list[int]] = defaultdict(list)
    for row, decision in enumerate(decisions):
        groups[decision.device, decision.settings].append(row)
    result = np.empty((len(decisions), len(COLUMNS)), dtype=np.float32)
    for (device, settings), rows in groups.items():
        result[rows] = _seen_columns([(decisions[row].layer, decisions[row].phase) for row in rows], settings, device)
    return result


def _fingerprint(decisions: Iterable[Decision]) -> str:
    known = [f"{d.device.slug} {t.task.id} {t.device_s!r}" for d in decisions for t in d.timings]
    known += [f"{d.device.slug} {layer_text(d.layer)} {d.phase} {d.settings} {d.wins}" for d in decisions if d.wins]
    return sha256("\n".join(sorted(known)).encode()).hexdigest()


# What ran before


def _sort_keys(device: Device, settings: Settings, layer: Layer, phase: Phase) -> Iterator[str]:
    """From the most to the least specific: this device's or its kind's, with this kernel or any."""
    for whose in (device.slug, f"any {device.kind}"):
        for own in _sort_names(layer):
            yield f"{whose} {phase} {settings.precision} {settings.layout} {own}"


@lru_cache(maxsize=65536)
def _sort_names(layer: Layer) -> tuple[str, str]:
    """The sort of layer that decides which algorithms run it, with its kernel and without."""
    return f"{sort(layer)} {getattr(layer, 'kernel', ())}", f"{sort(layer)}"


def _ran(decisions: Sequence[Decision], algorithms: Sequence[Algorithm]) -> dict[str, list[int]]:
    found: defaultdict[str, set[Algorithm]] = defaultdict(set)
    for decision in decisions:
        for key in _sort_keys(decision.device, decision.settings, decision.layer, decision.phase):
            found[key].update(decision.ran)
    indices = {algorithm: index for index, algorithm in enumerate(algorithms)}
    return {key: sorted(indices[algorithm] for algorithm in each) for key, each in sorted(found.items())}
