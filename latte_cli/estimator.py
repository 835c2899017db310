"""Layer times become the time of a step, an epoch and a round, with an interval on each."""

from dataclasses import dataclass
from enum import StrEnum

from latte_cli.algorithms import Algorithm
from latte_cli.backends import Device
from latte_cli.layers import Layer, Phase
from latte_cli.network import Network
from latte_cli.tasks import Layout, Settings


class Source(StrEnum):
    """Where a layer's time comes from."""

    MEASURED = "measured"
    INTERPOLATED = "interpolated"
    PREDICTED = "predicted"


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
