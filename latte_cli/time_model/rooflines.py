"""Rooflines: a FLOPs + b bytes + c of each kind and phase, for what trees then correct."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from latte_cli.lookup import Timing
from latte_cli.tasks import Task
from latte_cli.time_model.groups import Array, kind_and_phase

LEAST_ROWS = 8
"""Nothing is learned from fewer rows alone."""


def _keys(task: Task) -> tuple[str, str, str]:
    """From the most to the least specific: the first one with rows is used."""
    kind = kind_and_phase(task)
    precision = f"{kind} {task.settings.precision}"
    return f"{precision} {task.settings.layout}", precision, kind


def roofline_key(task: Task, rooflines: Mapping[str, Sequence[float]]) -> str | None:
    """The most specific key of a task that there is a roofline for; None without any."""
    return next((key for key in _keys(task) if key in rooflines), None)


def _amounts_and_one(task: Task) -> tuple[float, float, float]:
    layer, phase = task.layer, task.phase
    return float(layer.flops(phase)), float(layer.bytes_moved(phase, task.settings.precision.element_bytes)), 1.0


def log_rooflines(tasks: Sequence[Task], rooflines: Mapping[str, Sequence[float]]) -> Array:
    """The logarithms of the tasks' times by their rooflines, which there have to be."""
    if not tasks:
        return np.zeros(0)
    amounts = np.array([_amounts_and_one(task) for task in tasks])
    weights = np.array([rooflines[roofline_key(task, rooflines) or ""] for task in tasks])
    result: Array = np.log((amounts * weights).sum(axis=1))
    return result


def rooflines_of(timings: Iterable[Timing]) -> dict[str, list[float]]:
    """The rooflines of kinds and phases, and of those with enough rows in one precision and layout."""
    groups: defaultdict[str, list[Timing]] = defaultdict(list)
    for timing in timings:
        for key in _keys(timing.task):
            groups[key].append(timing)
    plain = 2  # words in a key that names kind and phase alone
    enough = {key: group for key, group in groups.items() if len(group) >= LEAST_ROWS or len(key.split()) == plain}
    return {key: roofline_of(group) for key, group in enough.items()}


def roofline_of(timings: Sequence[Timing]) -> list[float]:
    """The coefficients that are not negative and make the squared relative errors least."""
    from scipy.optimize import nnls

    amounts = np.array([_amounts_and_one(timing.task) for timing in timings])
    times = np.array([timing.device_s for timing in timings])
    scale = np.maximum(amounts.max(axis=0), 1.0)
    weights, _ = nnls(amounts / scale / times[:, None], np.ones(len(timings)))
    if not weights[2]:  # nothing takes no time at all
        weights[2] = 0.001 * times.min()
    return [float(weight) for weight in weights / scale]
