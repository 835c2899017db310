"""Machine: how one machine differs from what its data sheet tells, as two numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
import numpy.typing as npt

DEVICE_SPREAD = 0.12  # of the logarithm, between machines with the same sheet: docs/datasheets.md
HOST_SPREAD = 0.30  # likewise, of hosts: docs/datasheets.md
_STEP_SPREAD = 0.07  # what the model leaves of a step where both factors are known: docs/datasheets.md
_TURNS, _NUDGE = 20, 1e-4  # chosen: of Gauss-Newton in two dimensions, and its difference quotient


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Factors on the times of a device and of its host; spreads are what is left of their logarithms' deviations."""

    device_factor: float = 1.0
    host_factor: float = 1.0
    device_spread: float = DEVICE_SPREAD
    host_spread: float = HOST_SPREAD


UNKNOWN = Machine()
"""A machine of which nothing but the sheet is known."""

Measured = tuple[Callable[[Machine], float], float]
"""What the model expects to take how long on a machine, in seconds, and the seconds that were measured."""


def fit_machine(
    measured: Sequence[Measured], *, known: Machine = UNKNOWN, spread: float | Sequence[float] = _STEP_SPREAD
) -> Machine:
    """The machine on which the expected times come closest to those measured, which are off by `spread`, each or all.

    What is `known` of it before counts with its spreads: factors that the measurements tell nothing of stay as they
    are. One measurement should be bound by the device, and one by the host, as a network of many small layers is.
    """
    centre = np.log([known.device_factor, known.host_factor])
    widths = np.array([known.device_spread, known.host_spread])
    x, normal, spreads = centre.copy(), np.diag(1 / widths**2), np.asarray(spread)
    for _ in range(_TURNS if measured else 0):
        errors = _errors(measured, known, x) / spreads
        slopes = np.stack(
            [(_errors(measured, known, x + step) / spreads - errors) / _NUDGE for step in _NUDGE * np.eye(2)]
        )
        normal = slopes @ slopes.T + np.diag(1 / widths**2)
        change = np.linalg.solve(normal, slopes @ errors + (x - centre) / widths**2)
        x = x - np.clip(change, -1, 1)
        if float(np.abs(change).max()) < _NUDGE:
            break
    left = np.linalg.inv(normal)
    return Machine(
        device_factor=exp(x[0]),
        host_factor=exp(x[1]),
        device_spread=sqrt(left[0, 0]),
        host_spread=sqrt(left[1, 1]),
    )


def _errors(measured: Sequence[Measured], known: Machine, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    machine = Machine(
        device_factor=exp(x[0]),
        host_factor=exp(x[1]),
        device_spread=known.device_spread,
        host_spread=known.host_spread,
    )
    return np.array([log(expected(machine) / seconds) for expected, seconds in measured])
