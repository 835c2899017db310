"""Layer times become the time of a step, an epoch and a round, with an interval on each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log, prod, sqrt
from statistics import fmean

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends import Device
from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.lookup import Z95, Lookup, NotProfiled, Pair, Source, Timing
from latte_cli.network import Network, Node
from latte_cli.store import Store
from latte_cli.strategies import Query, by_name, fixed_name
from latte_cli.tasks import Layout, Precision, Settings, Task

OPTIMIZERS: dict[str, int] = {"none": 0, "sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}
"""Optimizers by name, each with the numbers of state it keeps for a parameter."""

NO_ALGORITHM = Algorithm(library="", name="none")
"""What computes a layer that costs nothing."""

_COMMON_SPREAD = 0.05  # a whole model against itself, minutes later: facts of the reference machine
_NOISY_SHARE = 0.1
_PREDICTED_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """The time of one phase of one node, in seconds, with its 95 % interval `low_s` to `high_s`."""

    name: str
    layer: Layer
    phase: Phase
    algorithm: Algorithm
    layout: Layout
    device_s: float
    host_s: float
    low_s: float
    high_s: float
    workspace_bytes: int | None
    source: Source


@dataclass(frozen=True, kw_only=True)
class Warn:
    """A doubt about an estimate: a stable code, and a sentence that ends in an action."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The time of a training step of `network` on `device`; times in seconds, memory in bytes.

    `parts` holds a row per node and phase, the loss and the update included; `missing` names what could not be priced.
    The step's interval covers 95 % of steps measured on that device.
    """

    device: Device
    network: Network
    strategy: str
    settings: Settings
    optimizer: str
    parts: tuple[LayerTime, ...]
    forward_s: float
    backward_s: float
    update_s: float
    other_s: float
    step_low_s: float
    step_high_s: float
    memory_bytes: int
    missing: tuple[str, ...] = ()
    warnings: tuple[Warn, ...] = ()

    @property
    def step_s(self) -> float:
        """One training step: forward, loss, backward and update."""
        return self.forward_s + self.backward_s + self.update_s + self.other_s

    def epoch_s(self, samples: int) -> float:
        """One pass over `samples` samples; the last, smaller batch counts as a whole one."""
        return -(-samples // self.network.batch_size) * self.step_s


@dataclass(frozen=True, kw_only=True)
class Work:
    """One call in a training step: `phase` of the node called `name`."""

    name: str
    layer: Layer
    phase: Phase

    @property
    def pair(self) -> Pair:
        """What decides its time."""
        return self.layer, self.phase


def training_step(network: Network, optimizer: str = "sgd") -> Iterator[Work]:
    """The calls of one training step as autograd makes them: no gradient for what depends on no parameter.

    Raises LatteError where there is an optimizer but nothing to train.
    """
    trained = network.trained
    for node in network.nodes:
        for phase in _phases(node, trained):
            yield Work(name=node.name, layer=node.layer, phase=phase)
    if network.outputs:
        loss = network.loss()
        for phase in (Phase.FORWARD, Phase.BACKWARD) if network.outputs[0] in trained else (Phase.FORWARD,):
            yield Work(name=LOSS, layer=loss, phase=phase)
    if optimizer != "none":
        yield Work(name=UPDATE, layer=network.optimizer(optimizer), phase=Phase.UPDATE)


LOSS, UPDATE = "(loss)", "(update)"
"""The names of what a step does besides the network's nodes."""


def _phases(node: Node, trained: frozenset[str]) -> Iterator[Phase]:
    yield Phase.FORWARD
    if node.output not in trained:
        return
    if Phase.BACKWARD in node.layer.phases:
        yield Phase.BACKWARD
        return
    if any(name in trained for name in node.inputs):
        yield Phase.BACKWARD_DATA
    if node.layer.parameter_shapes:
        yield Phase.BACKWARD_FILTER


class Estimator:
    """Estimates networks on one device under one strategy; what was read of the store is kept between networks.

    `threads` None takes whichever number has most rows; `note` hears what takes a while. Raises LatteError for a
    device or a strategy there is none of.
    """

    def __init__(
        self,
        store: Store,
        slug: str,
        *,
        precision: Precision = Precision.FP32,
        layout: Layout = Layout.NCHW,
        threads: int | None = None,
        strategy: str = "latte",
        workspace_limit_bytes: int | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._store, self._slug, self._note = store, slug, note
        self.device = store.device(slug)
        self.strategy = strategy
        self._choose = by_name(strategy)
        self._limit = workspace_limit_bytes
        self._lookup = Lookup(store, slug, precision=precision, layout=layout, threads=threads)
        self._selects = True

    def estimate(self, network: Network, optimizer: str = "sgd", allow_unknown: bool = False) -> Estimate:
        """Estimate a training step of `network`.

        Raises LatteError for a layer that can be neither looked up nor predicted, unless `allow_unknown`.
        """
        if optimizer not in OPTIMIZERS:
            raise unknown("optimizer", optimizer, OPTIMIZERS)
        works = tuple(training_step(network, optimizer))
        pairs = tuple(dict.fromkeys(work.pair for work in works if not work.layer.free))
        timings = self._timings(pairs)
        missing = tuple(
            dict.fromkeys(_said(work) for work in works if not work.layer.free and work.pair not in timings)
        )
        missing += tuple(f"operator {name}" for name in network.unknown)
        if missing and not allow_unknown:
            raise self._missing(missing)
        parts = tuple(
            _part(work, timings.get(work.pair), self._lookup.layout) for work in works if _priced(work, timings)
        )
        return self._composed(network, optimizer, parts, timings, missing)

    def _timings(self, pairs: Sequence[Pair]) -> dict[Pair, Timing]:
        """Each pair's timing under the strategy: measured, else interpolated, else predicted."""
        known = self._lookup.measured(pairs)
        self._check_name(timing for found in known.values() for timing in found)
        known |= {pair: found for pair in pairs if pair not in known and (found := self._lookup.interpolated(pair))}
        choices = self._choose(
            Query(
                pairs=pairs,
                timings=known,
                workspace_limit_bytes=self._limit,
                select=self._selected,
                run_before=self._lookup.run_before,
            )
        )
        chosen = {pair: _of(known.get(pair, ()), algorithm) for pair, algorithm in choices.items()}
        predicted = self._predicted({pair: choices[pair] for pair in pairs if chosen[pair] is None})
        return {pair: timing for pair in pairs if (timing := chosen[pair] or predicted.get(pair))}

    def _selected(self, pairs: Sequence[Pair]) -> Sequence[Algorithm]:
        from latte_cli import selector

        found = selector.find(self._store, self._slug)
        self._selects = found is not None
        if found is None:
            return [FRAMEWORK_DEFAULT] * len(pairs)
        choices = found.choose(pairs, self._lookup.settings(), self.device, workspace_limit_bytes=self._limit)
        return [choice.algorithm for choice in choices]

    def _predicted(self, choices: Mapping[Pair, Algorithm]) -> dict[Pair, Timing]:
        if not choices:
            return {}
        from latte_cli.time_model import time_model

        model = time_model(self._store, self._slug, self._lookup.everything, self._note)
        if model is None:
            return {}
        settings = self._lookup.settings()
        tasks = {
            pair: Task(layer=pair[0], phase=pair[1], algorithm=algorithm, settings=settings)
            for pair, algorithm in choices.items()
        }
        predicted = model.predicted(tuple(tasks.values()), self.device)
        return {pair: predicted[task] for pair, task in tasks.items() if task in predicted}

    def _check_name(self, timings: Iterable[Timing]) -> None:
        """An algorithm that is fixed by name must be one that the device has run."""
        name = fixed_name(self.strategy)
        if name is None or name.upper() in {timing.task.algorithm.name.upper() for timing in timings}:
            return
        names = {timing.task.algorithm.name for timing in self._lookup.everything()}
        if name.upper() not in {known.upper() for known in names}:
            raise unknown("algorithm", name, names)

    def _missing(self, missing: Sequence[str]) -> LatteError:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        return LatteError(
            f"`{self._slug}` has nothing to price {some} with",
            hint="`latte profile --suite network FILE` measures a model's layers; --allow-unknown leaves them out",
        )

    def _composed(
        self,
        network: Network,
        optimizer: str,
        parts: tuple[LayerTime, ...],
        timings: Mapping[Pair, Timing],
        missing: tuple[str, ...],
    ) -> Estimate:
        own = [part for part in parts if part.name not in (LOSS, UPDATE)]
        low_s, high_s = _interval(parts, timings)
        return Estimate(
            device=self.device,
            network=network,
            strategy=self.strategy,
            settings=self._lookup.settings(),
            optimizer=optimizer,
            parts=parts,
            forward_s=_total(part for part in own if part.phase is Phase.FORWARD),
            backward_s=_total(part for part in own if part.phase is not Phase.FORWARD),
            update_s=_total(part for part in parts if part.name == UPDATE),
            other_s=_total(part for part in parts if part.name == LOSS),
            step_low_s=low_s,
            step_high_s=high_s,
            memory_bytes=memory_bytes(network, parts, optimizer, self._lookup.precision),
            missing=missing,
            warnings=tuple(self._warnings(parts, timings, missing)),
        )

    def _warnings(
        self, parts: Sequence[LayerTime], timings: Mapping[Pair, Timing], missing: Sequence[str]
    ) -> Iterator[Warn]:
        total = _total(parts) or 1.0
        noisy = _total(part for part in parts if (t := timings.get((part.layer, part.phase))) and t.noisy) / total
        predicted = _total(part for part in parts if part.source is Source.PREDICTED) / total
        beyond = sorted({pair[0].kind for pair, timing in timings.items() if timing.extrapolated})
        again = "`latte profile --suite network FILE` measures a model's layers"
        if missing:
            yield Warn(
                code="missing", message=f"{len(missing)} parts of the step are left out, it takes longer; {again}"
            )
        if predicted > _PREDICTED_SHARE:
            yield Warn(code="predicted_share", message=f"{predicted:.0%} of the step is predicted; {again}")
        if beyond:
            yield Warn(
                code="extrapolated", message=f"{', '.join(beyond)} is larger or other than any measured; {again}"
            )
        if noisy > _NOISY_SHARE:
            message = f"{noisy:.0%} of the step was measured with noise; profile again while the device is idle"
            yield Warn(code="noisy", message=message)
        if len(versions := self._lookup.versions()) > 1:
            message = f"rows of {len(versions)} library versions, the newest of each layer are used; profile again"
            yield Warn(code="other_versions", message=message)
        yield from self._strategy_warnings(timings)

    def _strategy_warnings(self, timings: Mapping[Pair, Timing]) -> Iterator[Warn]:
        chosen = [timing.task for timing in timings.values() if isinstance(timing.task.layer, Convolution)]
        if not self._selects:
            message = "without a trained selector, convolutions that were not measured take the default; "
            yield Warn(code="no_selector", message=message + "`latte train-selector` makes one")
        name = fixed_name(self.strategy)
        if name and (others := sum(task.algorithm.name.upper() != name.upper() for task in chosen)):
            message = f"{name} cannot run {others} of {len(chosen)} convolution phases, which take the default; "
            yield Warn(code="not_supported", message=message + "compare with `--strategy latte`")
        limit = self._limit
        if limit is not None and (over := sum((t.workspace_bytes or 0) > limit for t in timings.values())):
            message = f"{over} layer phases need more workspace than the limit; raise `--workspace-limit`"
            yield Warn(code="workspace_limit", message=message)


def _of(timings: Iterable[Timing], algorithm: Algorithm) -> Timing | None:
    return next((timing for timing in timings if timing.task.algorithm == algorithm), None)


def _said(work: Work) -> str:
    return f"{work.name} {work.phase} ({work.layer.kind})"


def _priced(work: Work, timings: Mapping[Pair, Timing]) -> bool:
    return work.layer.free or work.pair in timings


def _part(work: Work, timing: Timing | None, layout: Layout) -> LayerTime:
    """The row of one call; a layer that only changes the shape takes no time."""
    return LayerTime(
        name=work.name,
        layer=work.layer,
        phase=work.phase,
        algorithm=timing.task.algorithm if timing else NO_ALGORITHM,
        layout=layout,
        device_s=timing.device_s if timing else 0.0,
        host_s=timing.host_s if timing else 0.0,
        low_s=timing.low_s if timing else 0.0,
        high_s=timing.high_s if timing else 0.0,
        workspace_bytes=timing.workspace_bytes if timing else 0,
        source=timing.source if timing else Source.MEASURED,
    )


def _total(parts: Iterable[LayerTime]) -> float:
    """The time that calls take one after the other: on a CPU the device's time is the host's."""
    return sum(part.device_s for part in parts)


def _interval(parts: Sequence[LayerTime], timings: Mapping[Pair, Timing]) -> tuple[float, float]:
    """The step's 95 % interval: T ∓ sqrt(Σ h² + (1.96 d T)²).

    h is half the interval of what errs together: all calls of one layer and phase, which share their rows, and all
    predictions of one kind and phase, which share a model. d is what moves every layer alike: the deviation of the
    logarithm of the reference kernel's drift, at least 5 %.
    """
    if not parts:
        return 0.0, 0.0
    groups: dict[object, tuple[float, float]] = {}
    for part in parts:
        together = part.layer.kind if part.source is Source.PREDICTED else part.layer
        below, above = groups.get((together, part.phase), (0.0, 0.0))
        groups[together, part.phase] = (below + part.device_s - part.low_s, above + part.high_s - part.device_s)
    total = _total(parts)
    common = Z95 * _common_spread(timings.values()) * total
    below, above = (sqrt(sum(half**2 for half in side) + common**2) for side in zip(*groups.values(), strict=True))
    return max(0.0, total - below), total + above


def _common_spread(timings: Iterable[Timing]) -> float:
    logs = [log(drift) for timing in timings for drift in timing.drift if drift > 0]
    if not logs:
        return _COMMON_SPREAD
    mean = fmean(logs)
    return max(_COMMON_SPREAD, sqrt(fmean((value - mean) ** 2 for value in logs)))


def memory_bytes(network: Network, parts: Sequence[LayerTime], optimizer: str, precision: Precision) -> int:
    """What a training step holds at its peak: parameters, their gradients and the optimizer's state, the inputs and
    each node's output once (kept for backward), and the largest workspace.
    """
    element = precision.element_bytes
    own = 4 if precision is Precision.BF16_AUTOCAST else element
    activations = sum(prod(shape) for _, shape in network.inputs)
    activations += sum(prod(node.layer.output_shape) for node in network.nodes if not node.layer.free)
    workspace = max((part.workspace_bytes or 0 for part in parts), default=0)
    return own * network.parameters * (2 + OPTIMIZERS[optimizer]) + element * activations + workspace


def estimated(
    store: Store,
    slug: str,
    network: Network,
    *,
    precision: Precision = Precision.FP32,
    layout: Layout | None = Layout.NCHW,
    threads: int | None = None,
    strategy: str = "latte",
    workspace_limit_bytes: int | None = None,
    optimizer: str = "sgd",
    allow_unknown: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Estimate:
    """One network on one device; with `layout` None in whichever measured layout the step is fastest."""
    found: list[Estimate] = []
    refusals: list[NotProfiled] = []
    for one in (layout,) if layout else tuple(Layout):
        estimator = Estimator(
            store,
            slug,
            precision=precision,
            layout=one,
            threads=threads,
            strategy=strategy,
            workspace_limit_bytes=workspace_limit_bytes,
            note=note,
        )
        try:
            found.append(estimator.estimate(network, optimizer, allow_unknown))
        except NotProfiled as exc:
            refusals.append(exc)
    if not found:
        raise refusals[0]
    return min(found, key=lambda estimate: (len(estimate.missing), estimate.step_s))
