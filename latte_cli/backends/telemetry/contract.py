"""The contract of telemetry: what can be read of a GPU, and what is stated of it."""

from dataclasses import dataclass
from typing import Protocol

from latte_cli.backends.contract import Conditions


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """What a driver states of a GPU once and for all; None and "" where it does not.

    `sm_clock_hz` and `memory_clock_hz` are the highest ones, `bandwidth_bytes_per_s` follows from the memory's clock
    and the width of its bus; `shared_memory` says that `memory_bytes` are the host's.
    """

    name: str = ""
    uuid: str = ""
    driver: str = ""
    compute_capability: str = ""
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    memory_bus_bits: int | None = None
    bandwidth_bytes_per_s: float | None = None
    memory_bytes: int | None = None
    shared_memory: bool = False


class Telemetry(Protocol):
    """What can be read of a GPU while it works; whatever cannot be read is None, never an error."""

    @property
    def facts(self) -> GpuFacts:
        """What does not change."""

    @property
    def power_mode(self) -> str:
        """The board's power mode, "" where it has none."""

    @property
    def reason(self) -> str:
        """Why nothing can be read, "" where something can."""

    def conditions(self) -> Conditions:
        """Clocks, temperature, power and throttling now."""
