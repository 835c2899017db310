"""Calibration: networks that a profile ran whole, against the sums of their layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, sqrt
from statistics import fmean
from typing import TypeAlias

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.devices import Kind
from latte_cli.estimator.records import Estimate, RealSteps
from latte_cli.estimator.steps import BESIDE, LOSS, UPDATE, Step, Work, step_calls
from latte_cli.layers import Phase, Whole
from latte_cli.lookup import Z95, Pair, Timing
from latte_cli.network.calibration import calibration_networks

Timings: TypeAlias = Mapping[Pair, Sequence[Timing]]

_PARTS = (Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE)
_PACE = 1.2  # chosen: clearly more than the noise of either clock
"""By what factor the layers' time on the device has to exceed the host's for the device to set the pace of a step."""

_NOISY = 2.0  # chosen: far over what a quiet machine shows
"""By what factor the ends of a whole network's 80 % interval may differ; one that was disturbed tells nothing."""

_LEAST_ERROR = 0.05  # a whole model against itself, minutes later (see intervals.COMMON_SPREAD)
_USUAL_S = 50e-6  # 20 to 100 us on the CPUs that were measured

_LEAST_SHARE = 0.25  # chosen: few networks cannot make a call free
"""What is left of a call's time at least."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How calls within a network differ from calls alone.

    Alone, after caches were flushed, a call pays for its code as well as its data, whatever its size: `forward_s` and
    `backward_s` are the seconds that it takes less within a network (more, where they are negative). `update` is the
    factor on an optimizer's update, the others are on a GPU's host. `spread` is the deviation of the logarithm of a
    step that is left, `host_spread` of the host's time for it; `networks` is how many these come from. `real_steps` are
    those of the very network, if it was run whole: further factors on its calls.
    """

    forward_s: float = 0.0
    backward_s: float = 0.0
    update: float = 1.0
    host_forward: float = 1.0
    host_backward: float = 1.0
    host_update: float = 1.0
    spread: float = 0.0
    host_spread: float = 0.0
    networks: int = 0
    real_steps: RealSteps | None = None

    def factor(self, name: str, phase: Phase, device_s: float) -> float:
        """The factor on a call of the node called `name`, or of UPDATE, that takes `device_s` alone; 1 for others."""
        real = self.real_steps
        if name == UPDATE:
            return self.update * (real.update if real else 1.0)
        if name in BESIDE or phase is Phase.UPDATE or not device_s:
            return 1.0
        forward = phase is Phase.FORWARD
        less_s = self.forward_s if forward else self.backward_s
        share = max(_LEAST_SHARE, 1 - less_s / device_s)
        return share * ((real.forward if forward else real.backward) if real else 1.0)

    @property
    def of_real_steps(self) -> "Calibration":
        """What holds for calls that were timed within steps: nothing of what calls alone cost."""
        return Calibration(real_steps=self.real_steps)

    def host_factor(self, phase: Phase) -> float:
        """The factor on the time that the host needs to ask for a phase of any call."""
        if phase is Phase.UPDATE:
            return self.host_update
        return self.host_forward if phase is Phase.FORWARD else self.host_backward


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """A network's calls by part, and its seconds on the device and the host: as the sum of its layers, and whole."""

    calls: Mapping[Phase, int]
    layers: Mapping[Phase, tuple[float, float]]
    whole: Mapping[Phase, tuple[float, float]]

    @property
    def paced_by_device(self) -> bool:
        device_s = sum(device_s for device_s, _ in self.layers.values())
        return device_s > _PACE * sum(host_s for _, host_s in self.whole.values())

    def ratio(self, phase: Phase, clock: int) -> float:
        """log(whole / sum of the layers) of a part, on the device (0) or the host (1)."""
        return log(self.whole[phase][clock] / self.layers[phase][clock])

    def host_error(self, forward: float, backward: float) -> float:
        """log(whole / sum) of both passes on the host, with the logarithms of its factors."""
        own = {Phase.FORWARD: exp(forward), Phase.BACKWARD: exp(backward)}
        return log(sum(self.whole[p][1] for p in own) / sum(own[p] * self.layers[p][1] for p in own))

    def error(self, forward_s: float, backward_s: float) -> float:
        """log(whole / sum) of both passes on the device, with so much taken off each call."""
        sums = [
            max(_LEAST_SHARE * self.layers[phase][0], self.layers[phase][0] - less_s * self.calls[phase])
            for phase, less_s in ((Phase.FORWARD, forward_s), (Phase.BACKWARD, backward_s))
        ]
        return log((self.whole[Phase.FORWARD][0] + self.whole[Phase.BACKWARD][0]) / sum(sums))


def calibration_pairs(kind: Kind) -> tuple[Pair, ...]:
    """What `calibrate` needs the timings of, for a kind of device."""
    pairs = [work.pair for _, works in _works(kind) for work in works]
    return (*dict.fromkeys(pairs), *((whole, phase) for whole, _ in _works(kind) for phase in _PARTS))


def calibrate(measured: Timings, kind: Kind) -> Calibration:
    """What the networks tell that were measured whole and layer by layer, in the framework's own way.

    Of n networks the mean of a factor's logarithm counts as n / (n + 1) of itself: a network without a difference is
    assumed. On a GPU every network tells of the host, and those of the device whose pace it sets.
    """
    found = [sums for whole, works in _works(kind) if (sums := _sums(whole, works, measured))]
    if not found:
        return Calibration()
    paced = [sums for sums in found if not kind.queued or sums.paced_by_device]
    forward_s, backward_s = (_less_s(paced, phase) for phase in _PARTS[:2])
    update = _drawn_to_zero([sums.ratio(Phase.UPDATE, 0) for sums in found]) if not kind.queued else 0.0
    host, host_spread = [0.0, 0.0, 0.0], 0.0
    if kind.queued:
        host = [_drawn_to_zero([sums.ratio(phase, 1) for sums in found]) for phase in _PARTS]
        host_spread = sqrt(fmean(sums.host_error(host[0], host[1]) ** 2 for sums in found))
    return Calibration(
        forward_s=forward_s,
        backward_s=backward_s,
        update=exp(update),
        host_forward=exp(host[0]),
        host_backward=exp(host[1]),
        host_update=exp(host[2]),
        spread=sqrt(fmean(sums.error(forward_s, backward_s) ** 2 for sums in paced)) if paced else 0.0,
        host_spread=host_spread,
        networks=len(found),
    )


def real_steps(estimate: Estimate, passes: Mapping[Phase, Timing]) -> RealSteps | None:
    """The factors that make `estimate`, a plain step in the framework's own way, the `passes` of its network run whole.

    None where a part is missing, or is not all known. The loss's gradient is in the backward pass, and stays as it is.
    """
    if estimate.missing or not all(phase in passes for phase in _PARTS):
        return None
    sums_s, loss_s = dict.fromkeys(_PARTS, 0.0), 0.0
    for part in estimate.parts:
        phase = part.phase if part.phase in (Phase.FORWARD, Phase.UPDATE) else Phase.BACKWARD
        if part.name not in BESIDE or part.name == UPDATE:
            sums_s[phase] += part.count * part.device_s
        elif part.name == LOSS and phase is Phase.BACKWARD:
            loss_s += part.count * part.device_s
    whole_s = {phase: passes[phase].device_s for phase in _PARTS}
    whole_s[Phase.BACKWARD] = max(whole_s[Phase.BACKWARD] - loss_s, _LEAST_SHARE * whole_s[Phase.BACKWARD])
    factors = {phase: whole_s[phase] / sums_s[phase] if sums_s[phase] else 1.0 for phase in _PARTS}
    step_s = sum(passes[phase].device_s for phase in _PARTS)
    spread = sum(passes[phase].device_s * log(passes[phase].high_s / passes[phase].device_s) for phase in _PARTS[:2])
    return RealSteps(
        forward=factors[Phase.FORWARD],
        backward=factors[Phase.BACKWARD],
        update=factors[Phase.UPDATE],
        spread=spread / step_s / Z95,
    )


def _less_s(networks: Sequence[_Sums], phase: Phase) -> float:
    """The seconds off each call that make the squared relative errors of the networks' parts least, drawn to zero.

    A network's part errs by at least 5 %, or as much as these do: so uncertain is what they tell, against calls that
    cost some 50 us more alone than in a network.
    """
    calls = [sums.calls[phase] / sums.whole[phase][0] for sums in networks]
    excess = [sums.layers[phase][0] / sums.whole[phase][0] - 1 for sums in networks]
    squares = sum(share**2 for share in calls)
    if not squares:
        return 0.0
    best = sum(share * more for share, more in zip(calls, excess, strict=True)) / squares
    errors = [more - share * best for share, more in zip(calls, excess, strict=True)]
    variance = max(_LEAST_ERROR**2, fmean(error**2 for error in errors)) / squares
    return best * _USUAL_S**2 / (_USUAL_S**2 + variance)


def _drawn_to_zero(logs: Sequence[float]) -> float:
    return sum(logs) / (len(logs) + 1)


@lru_cache
def _works(kind: Kind) -> tuple[tuple[Whole, tuple[Work, ...]], ...]:
    found = []
    for whole, network in calibration_networks(kind):
        works = (work for work in step_calls(network, Step()) if not work.layer.free)
        found.append((whole, tuple(work for work in works if work.name != LOSS)))
    return tuple(found)


def _sums(whole: Whole, works: Sequence[Work], measured: Timings) -> _Sums | None:
    """None where something was not measured, or where the whole network was disturbed."""
    calls, layers = dict.fromkeys(_PARTS, 0), dict.fromkeys(_PARTS, (0.0, 0.0))
    for work in works:
        timing = _default(work.pair, measured)
        if timing is None:
            return None
        part = work.phase if work.phase in _PARTS else Phase.BACKWARD
        calls[part] += 1
        device_s, host_s = layers[part]
        layers[part] = (device_s + timing.device_s, host_s + timing.host_s)
    wholes = {phase: timing for phase in _PARTS if (timing := _default((whole, phase), measured))}
    passes = [timing for phase, timing in wholes.items() if phase is not Phase.UPDATE]
    if len(wholes) < len(_PARTS) or any(timing.high_80_s > _NOISY * timing.low_80_s for timing in passes):
        return None
    return _Sums(
        calls=calls, layers=layers, whole={phase: (timing.device_s, timing.host_s) for phase, timing in wholes.items()}
    )


def _default(pair: Pair, measured: Timings) -> Timing | None:
    return next((timing for timing in measured.get(pair, ()) if timing.task.algorithm == FRAMEWORK_DEFAULT), None)
