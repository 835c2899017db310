"""The selector: a model of what each algorithm loses against the best one, and what it must know beside."""

import platform
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from math import exp, isnan
from typing import Any

import numpy as np

from latte_cli import __version__
from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import Device
from latte_cli.errors import LatteError
from latte_cli.features import FEATURE_VERSION, Matrix
from latte_cli.layers import Convolution, Layer, Phase, layer_text
from latte_cli.layers.alike import sort
from latte_cli.lookup import Pair
from latte_cli.precisions import Layout, Precision
from latte_cli.selector.candidates import COLUMNS, CandidateTable, Indices, Model
from latte_cli.selector.decisions import Decision
from latte_cli.selector.examples import CandidateExamples, examples_of, seen_columns
from latte_cli.selector.workspaces import Workspaces
from latte_cli.tasks import Settings

SCHEMA = "latte.selector/2"

KINDS = ("xgboost", "mlp")
"""Kinds of models: boosted trees, and the perceptron of LATTE's own code."""

_LIBRARIES = {"xgboost": "xgboost", "mlp": "torch"}
_SOFTNESS = {"xgboost": 0.1, "mlp": 1.0}  # chosen: where no evaluation has fitted it
_LEAST_SHAPES = 4  # chosen: from fewer there is nothing to learn but their names
_HASTE = 8  # chosen: of so much less work are those of the parts of an evaluation, of which there are some six


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
        features: Matrix | None = None,
    ) -> list[Preferences]:
        """What may compute each pair, among what ran on layers of its sort and is in its `candidates`.

        The workspaces of its preferences are zeros unless `with_workspaces`; `features` are those of the pairs, where
        they are known already.
        """
        if not layers_phases:
            return []
        able = [self._able(pair, settings, device) for pair in layers_phases]
        if candidates is not None:
            able = [self._among(indices, own) for indices, own in zip(able, candidates, strict=True)]
        counts = [len(indices) for indices in able]
        asked = CandidateTable(
            pairs=layers_phases,
            features=seen_columns(layers_phases, settings, device) if features is None else features,
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
    decisions: "Sequence[Decision] | Lesson",
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
    lesson = decisions if isinstance(decisions, Lesson) else Lesson.of(decisions)
    selector = lesson.fit_on(kind=kind, seed=seed)
    card = replace(
        selector.card,
        softness=selector.card.softness if softness is None else softness,
        calibration_error=None if calibration_error is None or isnan(calibration_error) else calibration_error,
        fingerprint=_fingerprint(lesson.decisions),
        made_at=made_at,
        scores=[asdict(score) for score in scores],
    )
    return Selector(card, selector.model, lesson.fit_workspaces(seed=seed))


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Decisions to learn from with their examples, and parts of them."""

    decisions: Sequence[Decision]
    algorithms: Sequence[Algorithm]
    devices: Sequence[str]
    examples: CandidateExamples

    @classmethod
    def of(cls, decisions: Sequence[Decision]) -> "Lesson":
        """All that `decisions` teach."""
        devices = sorted({decision.device.slug for decision in decisions})
        algorithms = sorted({algorithm for decision in decisions for algorithm in decision.ran}, key=_order)
        examples = examples_of(decisions, algorithms, devices)
        return cls(decisions=decisions, algorithms=algorithms, devices=devices, examples=examples)

    def part(self, chosen: Indices) -> "Lesson":
        """The lesson of some decisions."""
        decisions = [self.decisions[row] for row in chosen]
        return replace(self, decisions=decisions, examples=self.examples.take(chosen))

    def fit_on(self, *, kind: str = "xgboost", seed: int = 0, hasty: bool = False) -> Selector:
        """A selector without workspaces, and with a card that says the least; a `hasty` one is only to be judged.

        Raises LatteError for too few shapes.
        """
        from latte_cli.selector import mlp, trees

        if len(set(self.examples.shapes.tolist())) < _LEAST_SHAPES:
            raise too_few(self.decisions)
        model: Model
        importance: Mapping[str, float] = {}
        classes: Mapping[str, Sequence[int]] = {}
        if kind == "mlp":
            model = mlp.fit_perceptrons(self.decisions, self.algorithms, seed=seed)
        else:
            work = trees.MOST_WORK // (_HASTE if hasty else 1)
            model = boosted = trees.fit_trees(self.examples, self.devices, seed=seed, most_work=work)
            importance, classes = boosted.importance(), boosted.classes
        settings = {decision.settings for decision in self.decisions}
        library = _LIBRARIES[kind]
        card = SelectorCard(
            kind=kind,
            softness=_SOFTNESS[kind],
            importance=importance,
            classes=classes,
            devices=self.devices,
            algorithms=self.algorithms,
            ran=_ran(self.decisions, self.algorithms),
            settings=sorted({f"{each.precision} {each.layout} {each.threads} threads" for each in settings}),
            decisions=len(self.decisions),
            fingerprint="",
            seed=seed,
            versions={"latte": __version__, library: version(library), "python": platform.python_version()},
        )
        return Selector(card, model, Workspaces())

    def fit_workspaces(self, *, seed: int) -> Workspaces:
        """What the algorithms need beside, from those that were measured."""
        from latte_cli.selector.workspaces import fit_workspaces

        examples = self.examples
        known = np.flatnonzero(~np.isnan(examples.needs_bytes))
        rows, needed = examples.rows[known], examples.needs_bytes[known]
        return fit_workspaces(examples.features, rows, examples.indices[known], needed, seed=seed)


def too_few(decisions: Sequence[Decision]) -> LatteError:
    """The error for rows that do not suffice to learn from."""
    shapes = len({decision.shape for decision in decisions})
    return LatteError(
        f"too few rows to learn from: {shapes} different convolutions of which two algorithms ran",
        hint="`latte profile --suite standard` measures more, `latte import` reads what others measured",
    )


def _order(algorithm: Algorithm) -> tuple[str, str, int]:
    return algorithm.library, algorithm.name, -1 if algorithm.vendor_id is None else algorithm.vendor_id


def _fingerprint(decisions: Sequence[Decision]) -> str:
    texts = {settings: str(settings) for settings in {decision.settings for decision in decisions}}
    known = (
        f"{one.device.slug} {layer_text(one.layer)} {one.phase} {texts[one.settings]} {one.wins} "
        + " ".join(
            sorted(f"{algorithm.library} {algorithm.name} {time_s!r}" for algorithm, time_s in one.times_s.items())
        )
        for one in decisions
    )
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
