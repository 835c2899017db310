"""Compiled steps: what `torch.compile` makes of an eager step, by networks that were run whole in both ways.

The model's own passes come first: at a batch that was run they are what was measured, at another the eager estimate
times the ratio of compiled to eager passes. For other models that ratio is learned from the calibration networks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, hypot, log, sqrt
from statistics import fmean
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latte_cli.algorithms import COMPILED, FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import Kind
from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator.clocks import one_clock
from latte_cli.estimator.intervals import COMMON_SPREAD
from latte_cli.estimator.records import CompiledStep, Estimate, LayerTime
from latte_cli.estimator.steps import BESIDE, Step
from latte_cli.layers import Attention, Convolution, Linear, MatMul, Phase, Recurrent, Whole
from latte_cli.lookup import Z80, Z95, Source, Timing
from latte_cli.network import Network
from latte_cli.printable import few
from latte_cli.strategies import NO_LIMITS, Limits

PASSES = (Phase.FORWARD, Phase.BACKWARD)
"""What is compiled of a step."""

_WIDEST = 8  # as between neighbours of a layer (see lookup): a batch further from one that was run is another case
_LIBRARY_CALLS = (Convolution, Linear, MatMul, Attention, Recurrent)
"""Layers that the compiler leaves to a library, as the eager network does."""

LIBRARY, HEAD, FOLLOWER = range(3)
"""What a call is to the compiler: left to a library, the first of a chain that becomes one loop, or a later one."""

_ASSUMED = np.array([1.0, 1.0, 0.0])
"""The factors on the times of library calls, heads and followers before anything is measured."""

Ratios: TypeAlias = Mapping[Phase, float]
"""Compiled seconds over eager seconds of each pass."""


@dataclass(frozen=True, kw_only=True)
class PairedPasses:
    """The passes of one network at one batch: eager and compiled, run in turn."""

    batch: int
    eager: Mapping[Phase, Timing]
    compiled: Mapping[Phase, Timing]

    @property
    def ratios(self) -> Ratios:
        """Compiled over eager."""
        return {phase: self.compiled[phase].device_s / self.eager[phase].device_s for phase in PASSES}

    @property
    def spread(self) -> float:
        """The deviation of the logarithm of a ratio, from the intervals of both ways."""
        timings = (*self.eager.values(), *self.compiled.values())
        return sqrt(2 * fmean((log(each.high_s / each.low_s) / (2 * Z95)) ** 2 for each in timings))


@dataclass(frozen=True, kw_only=True)
class Example:
    """A calibration network: its eager estimate and its passes."""

    estimate: Estimate
    passes: PairedPasses


def paired_passes(timings: Sequence[Timing]) -> list[PairedPasses]:
    """The passes at each batch, smallest first, of which both ways were measured; `timings` are of one network."""
    known: dict[tuple[int, Algorithm, Phase], Timing] = {}
    for each in sorted(timings, key=lambda each: each.measured_at):
        if isinstance(each.task.layer, Whole):
            known[each.task.layer.batch, each.task.algorithm, each.task.phase] = each
    found = []
    for batch in sorted({batch for batch, _, _ in known}):
        eager, compiled = (
            {phase: known[batch, way, phase] for phase in PASSES if (batch, way, phase) in known}
            for way in (FRAMEWORK_DEFAULT, COMPILED)
        )
        if len(eager) == len(compiled) == len(PASSES):
            found.append(PairedPasses(batch=batch, eager=eager, compiled=compiled))
    return found


class NotRunCompiled(LatteError):
    """Neither the network nor others like it were run compiled."""


def check_compilable(
    network: Network, kind: Kind, step: Step, strategies: Sequence[str], limits: Sequence[Limits]
) -> None:
    """Raise LatteError (exit code 2) for a step whose compiled form nothing is known of."""
    if not kind.compiled_steps:
        raise _refusal("compiled steps are known of CPUs only", "leave out `--compile`")
    if any(name != "pytorch" for name in strategies):
        raise _refusal("a compiled model takes PyTorch's own algorithms", "`--strategy pytorch` with `--compile`")
    if any(one != NO_LIMITS for one in limits):
        raise _refusal("the memory of a compiled step is not known", "leave out the limits, or `--compile`")
    if step.checkpoints or network.checkpoints:
        raise _refusal("checkpoints in compiled models are not known", "leave out the checkpoints, or `--compile`")


def _refusal(message: str, hint: str) -> LatteError:
    return LatteError(message, hint=hint, exit_code=ExitCode.USAGE)


def compiled_estimate(eager: Estimate, own: Sequence[PairedPasses], examples: Sequence[Example]) -> Estimate:
    """`eager` as a compiled step; `own` are passes of the same network, at any batch.

    The rows are the eager ones, scaled so that they add up to the compiled passes. Raises LatteError where neither the
    network's own passes nor examples tell its time.
    """
    batch = eager.network.batch_size
    if here := [each for each in own if each.batch == batch]:
        return _as_measured(eager, here[0])
    if near := [each for each in own if 1 / _WIDEST <= each.batch / batch <= _WIDEST]:
        return _between(eager, near)
    savings = Savings.learn(examples)
    if unlike := savings.unlike(eager.network):
        raise _not_known(eager, own, unlike)
    places = chain_places(eager.network)
    told = CompiledStep(eager_s=eager.step_s, source=Source.PREDICTED, networks=len(examples))
    spread = hypot(_own_spread(eager), savings.spread)
    return _scale(eager, told, lambda part: savings.factors[_pass_of(part)][places[part.name]], spread)


def _as_measured(eager: Estimate, here: PairedPasses) -> Estimate:
    """`eager` with the passes that were run compiled at its batch, next to those that were run eager in turn."""
    told = CompiledStep(eager_s=eager.step_s, source=Source.MEASURED, batches=(here.batch,))
    whole = _with_passes(eager, here.eager, told)
    return _with_passes(eager, here.compiled, replace(told, eager_s=whole.step_s))


def _with_passes(eager: Estimate, passes: Mapping[Phase, Timing], told: CompiledStep) -> Estimate:
    """`eager` with its layers scaled so that they add up to `passes`."""
    before = {phase: _pass_s(eager, phase) for phase in PASSES}
    factors = {phase: passes[phase].device_s / before[phase] if before[phase] else 1.0 for phase in PASSES}
    spread = max(log(timing.high_s / timing.device_s) for timing in passes.values()) / Z95
    return _scale(eager, told, lambda part: factors[_pass_of(part)], hypot(spread, COMMON_SPREAD))


def _between(eager: Estimate, near: Sequence[PairedPasses]) -> Estimate:
    """`eager` times the ratios of batches that were run."""
    ratios, spread = _ratios_at(eager.network.batch_size, near)
    batches = tuple(each.batch for each in near)
    told = CompiledStep(eager_s=eager.step_s, source=Source.INTERPOLATED, batches=batches)
    return _scale(eager, told, lambda part: ratios[_pass_of(part)], hypot(_own_spread(eager), spread))


def chain_places(network: Network) -> dict[str, int]:
    """LIBRARY, HEAD or FOLLOWER for each node: what reads the result of a loop goes on in it."""
    found: dict[str, int] = {}
    looped: set[str] = set()
    for node in network.nodes:
        goes_on = any(name in looped for name in node.inputs)
        if isinstance(node.layer, _LIBRARY_CALLS):
            found[node.name] = LIBRARY
        else:
            found[node.name] = FOLLOWER if goes_on else HEAD
            if goes_on or not node.layer.free:
                looped.add(node.output)
    return found


@dataclass(frozen=True, kw_only=True)
class Savings:
    """What compiling leaves of the times of each group, by pass, and of which kinds of layers that was learned.

    `spread` is the deviation of the logarithm of a network's passes that is left.
    """

    factors: Mapping[Phase, Sequence[float]]
    kinds: frozenset[str] = frozenset()
    spread: float = 0.0

    @classmethod
    def learn(cls, examples: Sequence[Example]) -> "Savings":
        """Least squares of the ratios' relative errors, drawn to library calls and heads as they are.

        The ratio of a pass is the sum of each group's share of its eager time times the group's factor. What is assumed
        counts as much as one example.
        """
        factors = {phase: _fit_factors(examples, phase) for phase in PASSES}
        errors = [
            log(float(_shares(each.estimate, phase) @ factors[phase]) / each.passes.ratios[phase])
            for each in examples
            for phase in PASSES
        ]
        kinds = frozenset(kind for each in examples for kind in _kinds(each.estimate.network))
        spread = sqrt(fmean(error**2 for error in errors)) if errors else 0.0
        return cls(factors={phase: tuple(found) for phase, found in factors.items()}, kinds=kinds, spread=spread)

    def unlike(self, network: Network) -> list[str]:
        """The kinds of layers in `network` that no example has; all of them where there are no examples."""
        return sorted(_kinds(network) - self.kinds)


def _fit_factors(examples: Sequence[Example], phase: Phase) -> "NDArray[np.float64]":
    rows = [_shares(each.estimate, phase) / each.passes.ratios[phase] for each in examples]
    matrix = np.array([*rows, *np.eye(len(_ASSUMED))])
    target = np.array([*(1.0 for _ in rows), *_ASSUMED])
    found: NDArray[np.float64] = np.maximum(np.linalg.lstsq(matrix, target, rcond=None)[0], 0.0)
    return found


def _shares(eager: Estimate, phase: Phase) -> "NDArray[np.float64]":
    """Each group's share of an eager pass."""
    places = chain_places(eager.network)
    found: NDArray[np.float64] = np.zeros(len(_ASSUMED))
    for part in eager.parts:
        if part.name not in BESIDE and _pass_of(part) is phase:
            found[places[part.name]] += part.device_s
    found /= found.sum()
    return found


def _kinds(network: Network) -> set[str]:
    return {node.layer.kind for node in network.nodes if not node.layer.free}


def _ratios_at(batch: int, near: Sequence[PairedPasses]) -> tuple[Ratios, float]:
    """The ratios at a batch that was not run, linear in its logarithm between those that were, and their spread.

    Outside of them they are those of the nearest; half of what the ratio changes to the next is added to the spread.
    """
    logs = [log(each.batch) for each in near]
    ratios = {
        phase: float(np.exp(np.interp(log(batch), logs, [log(each.ratios[phase]) for each in near])))
        for phase in PASSES
    }
    changes = [
        abs(log(one.ratios[phase] / other.ratios[phase])) / 2 for one, other in pairwise(near) for phase in PASSES
    ]
    return ratios, hypot(max(each.spread for each in near), max(changes, default=0.0))


def _pass_of(part: LayerTime) -> Phase:
    return Phase.FORWARD if part.phase is Phase.FORWARD else Phase.BACKWARD


def _pass_s(eager: Estimate, phase: Phase) -> float:
    """The seconds of one pass over the network, without the loss."""
    return sum(part.device_s for part in eager.parts if part.name not in BESIDE and _pass_of(part) is phase)


def _own_spread(eager: Estimate) -> float:
    """The deviation of the logarithm of an eager step."""
    return log(eager.step_high_s / eager.step_s) / Z95 if eager.step_s else 0.0


def _scale(eager: Estimate, told: CompiledStep, factor: Callable[[LayerTime], float], spread: float) -> Estimate:
    """`eager` with a factor on each call of the network; `spread` is the deviation of the logarithm of the step."""
    parts = tuple(part if part.name in BESIDE else _times(part, factor(part)) for part in eager.parts)
    spans = one_clock(parts)
    return replace(
        eager,
        parts=parts,
        forward_s=spans.forward_s,
        backward_s=spans.backward_s,
        update_s=spans.update_s,
        other_s=spans.other_s,
        step_low_s=spans.step_s * exp(-Z95 * spread),
        step_high_s=spans.step_s * exp(Z95 * spread),
        step_low_80_s=spans.step_s * exp(-Z80 * spread),
        step_high_80_s=spans.step_s * exp(Z80 * spread),
        compiled=told,
        search=None,
        determinism=None,
    )


def _times(part: LayerTime, factor: float) -> LayerTime:
    return replace(
        part,
        device_s=factor * part.device_s,
        host_s=factor * part.host_s,
        low_s=factor * part.low_s,
        high_s=factor * part.high_s,
        low_80_s=factor * part.low_80_s,
        high_80_s=factor * part.high_80_s,
    )


def _not_known(eager: Estimate, own: Sequence[PairedPasses], unlike: Sequence[str]) -> LatteError:
    """Why the compiled step is not known, and what measures it."""
    batch = eager.network.batch_size
    message = f"`{eager.device.slug}` has no compiled steps of `{eager.network.name}`"
    if own:
        batches = ", ".join(str(each.batch) for each in own)
        message = f"{message} near batch {batch}, only at batch {batches}"
    else:
        message = f"{message}, and none of other networks with {few(unlike)}"
    return NotRunCompiled(
        message, hint=f"`latte profile MODEL --compile --batch-size {batch}` measures them on that device"
    )
