"""Estimates: what is said of a training step of a network on a device."""

from dataclasses import dataclass

from latte_cli.algorithms import Algorithm
from latte_cli.devices import Device
from latte_cli.engines import family
from latte_cli.estimator.diagnostics import Diagnostic
from latte_cli.estimator.memory import Memory
from latte_cli.estimator.searches import RepeatingStep, SearchCost
from latte_cli.estimator.steps import Step
from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.lookup import Source
from latte_cli.network import Network
from latte_cli.precisions import Layout
from latte_cli.schedule import Schedule
from latte_cli.strategies import NO_LIMITS, Limits
from latte_cli.tasks import Settings
from latte_cli.waits import Waits

LOOKUP = "lookup"

AGAIN = "again"
"""The phase of a forward call that the backward pass makes."""


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """The time of one phase of one node, in seconds, with its 95 and 80 % intervals; a step does it `count` times.

    `again` says that it is a forward call which the backward pass makes, for a region that is checkpointed.
    `confidence` is the selector's in its choice, 0 to 1, where it was asked; `notes` is what its library says of the
    algorithm; `alike` is that of its timing.
    """

    name: str
    layer: Layer
    phase: Phase
    algorithm: Algorithm
    layout: Layout
    device_s: float
    host_s: float
    low_s: float
    high_s: float
    low_80_s: float
    high_80_s: float
    workspace_bytes: int | None
    source: Source
    count: int = 1
    waits: Waits = Waits.NEVER
    power_w: float | None = None
    confidence: float | None = None
    notes: tuple[str, ...] = ()
    again: bool = False
    alike: float = 1.0

    @property
    def stage(self) -> str:
        """Its phase, or AGAIN for a forward call that the backward pass makes."""
        return AGAIN if self.again else self.phase

    @property
    def family(self) -> str:
        """What kind of algorithm a convolution runs with, as `engines.family` tells it; "" for other layers."""
        if not isinstance(self.layer, Convolution):
            return ""
        return family(self.algorithm, self.layer.computed_as(self.phase), self.notes, self.workspace_bytes)


@dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """Where a compiled step comes from; the eager one takes `eager_s`.

    `source` is MEASURED where the network was run compiled at this batch (and eager in turn, whose passes `eager_s`
    has then), INTERPOLATED where it was at other `batches`, and PREDICTED where so many other `networks` were.
    """

    eager_s: float
    source: Source
    batches: tuple[int, ...] = ()
    networks: int = 0


@dataclass(frozen=True, kw_only=True)
class RealSteps:
    """How the passes and the update of a network that was run whole differ from the sums of its layers: factors.

    `spread` is the deviation of the logarithm of such a step. The network is the `own` one of an estimate, or the one
    that it was cut from.
    """

    forward: float
    backward: float
    update: float
    spread: float
    own: bool = True


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The time of a training step of `network` on `device`; times in seconds, memory in bytes.

    `parts` holds a row per node and phase, the loss and the update included; `missing` names what could not be priced.
    The step's intervals cover 95 and 80 % of steps measured on that device. `transfer_s` is the copy of a batch to a
    GPU, which overlaps with the step before if the data loader pins its memory; None where it was not measured.
    `limits` are those under which the algorithms were chosen. `search` is what choosing costs the first step, and
    `determinism` what the step is like where results have to repeat; None where there is nothing to say.
    `compiled` says where the step of a compiled model comes from, whose memory is not known; None for an eager one.
    `real_steps` says to which steps, run on that device, the calls were scaled; None where none were run.
    Of `single_way` phases of convolutions no algorithm but the framework's own was timed.
    """

    device: Device
    network: Network
    strategy: str
    settings: Settings
    step: Step
    parts: tuple[LayerTime, ...]
    forward_s: float
    backward_s: float
    update_s: float
    other_s: float
    step_low_s: float
    step_high_s: float
    step_low_80_s: float
    step_high_80_s: float
    memory: Memory
    limits: Limits = NO_LIMITS
    transfer_s: float | None = None
    estimator: str = LOOKUP
    missing: tuple[str, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    search: SearchCost | None = None
    determinism: RepeatingStep | None = None
    compiled: CompiledStep | None = None
    real_steps: RealSteps | None = None
    single_way: int = 0

    @property
    def step_s(self) -> float:
        """One training step: forward, loss, backward and update."""
        return self.forward_s + self.backward_s + self.update_s + self.other_s

    @property
    def optimizer(self) -> str:
        """The name of the optimizer."""
        return self.step.optimizer

    @property
    def memory_bytes(self) -> int:
        """The most bytes that the step holds at once."""
        return self.memory.peak.live_bytes

    @property
    def energy_j(self) -> float | None:
        """The energy of a step on the device, in joules: the mean power around its calls, by their time, for as long
        as the step takes; None where it was not read for most of that time."""
        known = [(part.count * part.device_s, part.power_w) for part in self.parts if part.power_w is not None]
        known_s, total_s = sum(time_s for time_s, _ in known), sum(part.count * part.device_s for part in self.parts)
        if not known_s or known_s < total_s / 2:
            return None
        return self.step_s * sum(time_s * power_w for time_s, power_w in known) / known_s

    def share_from(self, source: Source) -> float:
        """The share of its calls' time on the device that comes from `source`, 0 to 1."""
        total_s = sum(part.count * part.device_s for part in self.parts)
        own_s = sum(part.count * part.device_s for part in self.parts if part.source is source)
        return own_s / total_s if total_s else 0.0

    @property
    def samples_per_step(self) -> int:
        """The samples that one update learns from."""
        return self.network.batch_size * self.step.accumulate

    def epoch_s(self, samples: int) -> float:
        """One pass over `samples` samples; the last, smaller batch counts as a whole one."""
        return (Schedule(samples=samples).epoch_steps(self.samples_per_step) or 0) * self.step_s
