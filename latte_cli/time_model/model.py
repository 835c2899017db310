"""The time model itself: a formula corrected by trees, with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, isnan, log2, nan
from typing import Any

import numpy as np

from latte_cli.devices import Device
from latte_cli.layers import Optimizer
from latte_cli.lookup import Source, Timing
from latte_cli.tasks import Task
from latte_cli.time_model.card import TimeModelCard
from latte_cli.time_model.groups import Array, by_group, feature_columns, kind_and_phase, sizes_of
from latte_cli.time_model.rooflines import log_rooflines, roofline_key

_LEAST_HALF_WIDTHS = (0.1, 0.065, 0.065, 0.1)  # of the logarithm: no call repeats itself more exactly
_MOST_HALF_WIDTH = 300.0  # chosen: what it says is nothing, but its exponential is a number
_BY_WHAT_THEY_MOVE = ("sgd", "momentum", "adam", "adamw")  # these models have known since their first version
_BEYOND = 1.0  # a factor of two outside the range that was measured


class TimeModel:
    """Predicts the times of tasks that were not measured, many at once."""

    def __init__(self, card: TimeModelCard, trees: Mapping[str, Sequence[Any]], prior: "Prior | None" = None) -> None:
        self.card, self.trees, self._prior = card, trees, prior

    @property
    def roofline(self) -> "TimeModel":
        """The model without its trees and without another device's: a FLOPs + b bytes + c by kind and phase."""
        return TimeModel(replace(self.card, offsets={}), {})

    def predict(self, tasks: Sequence[Task], device: Device) -> dict[Task, Timing]:
        """A timing of each task whose kind and phase are known, with its 95 % interval."""
        times = np.exp(self.log_times(tasks, device))
        return {task: self._timing_of(task, float(time)) for task, time in zip(tasks, times, strict=True) if time > 0}

    def log_times(self, tasks: Sequence[Task], device: Device) -> Array:
        """The logarithm of each task's time; not a number where its kind and phase are not known."""
        result = log_base(tasks, self.card, self._prior)
        known = [row for row, time in enumerate(result) if not isnan(time)]
        if not known or not self.trees:
            return result
        known_tasks = [tasks[row] for row in known]
        columns = feature_columns(known_tasks, device, self.card.algorithms, result[known])
        for group, rows in by_group(known_tasks).items():
            trees = self.trees.get(group, ())
            if trees:
                predicted = [booster.inplace_predict(columns[rows]) for booster in trees]
                result[np.array(known)[rows]] += np.mean(predicted, axis=0)
        return result

    def _timing_of(self, task: Task, seconds: float) -> Timing:
        keys = (kind_and_phase(task), task.layer.kind, "")
        quantiles = next(self.card.quantiles[key] for key in keys if key in self.card.quantiles)
        beyond, doublings = self._beyond(task)
        low, low_80, high_80, high = (
            side * min(_MOST_HALF_WIDTH, max(least, side * quantile) * (1 + doublings))
            for side, least, quantile in zip((-1, -1, 1, 1), _LEAST_HALF_WIDTHS, quantiles, strict=True)
        )
        return Timing(
            task=task,
            device_s=seconds,
            host_s=next((self.card.host_s[key] for key in keys if key in self.card.host_s), seconds),
            power_w=next((self.card.power_w[key] for key in keys if key in self.card.power_w), None),
            low_s=seconds * exp(low),
            high_s=seconds * exp(high),
            low_80_s=seconds * exp(low_80),
            high_80_s=seconds * exp(high_80),
            source=Source.PREDICTED,
            alike=next((self.card.alike[key] for key in keys if key in self.card.alike), 1.0),
            extrapolated=beyond,
        )

    def _beyond(self, task: Task) -> tuple[str, float]:
        """The size furthest beyond those measured, in words, and by how many doublings; nothing within a factor of two.

        A function that was not measured counts as one doubling.
        """
        layer, phase = task.layer, task.phase
        if kind_and_phase(task) not in self.card.ranges:
            return f"{layer.kind} {phase}, which was not measured", 1.0
        if layer.variant not in self.card.functions[layer.kind]:
            return f"{layer.kind} {layer.variant}", 1.0
        furthest, what, sizes = 0.0, "", sizes_of(layer, phase)
        for name, (least, most) in self.card.ranges[kind_and_phase(task)].items():
            size = sizes.get(name, least)
            doublings = max(log2(least / size), log2(size / most))
            if doublings > max(furthest, _BEYOND):
                furthest, what = doublings, f"{layer.kind} {name} {size:.3g}, measured {least:.3g} to {most:.3g}"
        return what, furthest


@dataclass(frozen=True)
class Prior:
    """Another device of the same kind, and its model."""

    device: Device
    model: TimeModel

    def log_times(self, tasks: Sequence[Task]) -> Array:
        """What the model says of the tasks on its device; not a number where it knows nothing."""
        return self.model.log_times(tasks, self.device)


def _is_known(task: Task, card: TimeModelCard) -> bool:
    """Whether a card can speak of a task: of an operation on all parameters, if that was measured.

    These have little in common but their kind; only torch's default for the plain optimizers takes about what it moves,
    so that one of them tells of the others, as extrapolated. A layer's function that was not measured is, too.
    """
    layer = task.layer
    known = card.functions.get(layer.kind)
    return not isinstance(layer, Optimizer) or known is None or layer.function in (*known, *_BY_WHAT_THEY_MOVE)


def log_base(tasks: Sequence[Task], card: TimeModelCard, prior: Prior | None) -> Array:
    """What is known before the trees; not a number where there is nothing."""
    result = np.full(len(tasks), nan)
    measured = [row for row, task in enumerate(tasks) if roofline_key(task, card.rooflines) and _is_known(task, card)]
    result[measured] = log_rooflines([tasks[row] for row in measured], card.rooflines)
    if prior and card.offsets:
        known = prior.log_times(tasks)
        for row, task in enumerate(tasks):
            offset = card.offsets.get(kind_and_phase(task), card.offsets[""] if isnan(result[row]) else nan)
            if not isnan(known[row] + offset):
                result[row] = known[row] + offset
    return result
