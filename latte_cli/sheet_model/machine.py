"""Machine: how one machine differs from what its data sheet tells, as two numbers."""

from dataclasses import dataclass

DEVICE_SPREAD = 0.12  # of the logarithm, between machines with the same sheet: docs/datasheets.md
HOST_SPREAD = 0.30  # likewise, of hosts: docs/datasheets.md


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Factors on the times of a device and of its host; spreads are what is left of the logarithms' deviations."""

    device_factor: float = 1.0
    host_factor: float = 1.0
    device_spread: float = DEVICE_SPREAD
    host_spread: float = HOST_SPREAD
