"""Rates: a device as one coefficient, or one for each algorithm: how times are commonly estimated, to compare with."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import TypeAlias

import numpy as np

from latte_cli.devices import Device
from latte_cli.layers import Convolution
from latte_cli.lookup import Source, Timing
from latte_cli.tasks import Task

Amount: TypeAlias = Callable[[Task], tuple[str, float]]
"""What a task's time is proportional to: the name of the coefficient, and the number that it multiplies."""

_LEAST_HALF_WIDTH = 0.1  # of the logarithm: no call repeats itself more exactly


def by_flops(task: Task) -> tuple[str, float]:
    """FLOPs at one rate, whatever the layer: T = FLOPs / r."""
    return "", float(task.layer.flops(task.phase))


def by_workload(task: Task) -> tuple[str, float]:
    """The LATTE paper's rule: T = β C with the direct workload C for convolutions, one β for each algorithm and phase.

    The rest have one β for each phase, on the elements that they move.
    """
    layer, phase, algorithm = task.layer, task.phase, task.algorithm
    if isinstance(layer, Convolution):
        return f"{algorithm.library}/{algorithm.name} {phase}", float(layer.workload)
    return f"others {phase}", float(layer.elements_moved(phase))


AMOUNTS: Mapping[str, Amount] = {"flops": by_flops, "beta": by_workload}
"""The rules by name."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds for each unit of an `amount`, by coefficient; 2.5 and 97.5 % quantiles of log(measured / estimated)."""

    amount: Amount
    seconds: Mapping[str, float]
    low: float
    high: float

    def predict(self, tasks: Sequence[Task], device: Device) -> dict[Task, Timing]:
        """A timing of each task whose coefficient is known, with its 95 % interval."""
        known = ((task, *self.amount(task)) for task in tasks)
        return {
            task: self._timing_of(task, self.seconds[name] * units)
            for task, name, units in known
            if name in self.seconds
        }

    def _timing_of(self, task: Task, seconds: float) -> Timing:
        return Timing(
            task=task,
            device_s=seconds,
            host_s=seconds,
            low_s=seconds * exp(min(-_LEAST_HALF_WIDTH, self.low)),
            high_s=seconds * exp(max(_LEAST_HALF_WIDTH, self.high)),
            source=Source.PREDICTED,
        )


def fit_rates(amount: Amount, timings: Sequence[Timing]) -> Rates:
    """The coefficients β of each name that make the squared relative errors least: β = Σ (C / T) / Σ (C / T)²."""
    speeds: defaultdict[str, list[float]] = defaultdict(list)
    for timing in timings:
        name, count = amount(timing.task)
        speeds[name].append(count / timing.device_s)
    seconds = {name: sum(found) / squares for name, found in speeds.items() if (squares := sum(s**2 for s in found))}
    errors = [error for timing in timings if (error := _error(amount, seconds, timing)) is not None]
    low, high = np.quantile(errors, (0.025, 0.975)) if errors else (0.0, 0.0)
    return Rates(amount=amount, seconds=seconds, low=float(low), high=float(high))


def _error(amount: Amount, seconds: Mapping[str, float], timing: Timing) -> float | None:
    name, count = amount(timing.task)
    return log(timing.device_s / (seconds[name] * count)) if count and seconds.get(name) else None
