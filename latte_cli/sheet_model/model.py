"""The model of a device that is known by its data sheet: a timing for any task."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp
from pkgutil import get_data

import numpy as np

from latte_cli.datasheets import Sheet
from latte_cli.devices import Device
from latte_cli.lookup import Z95, Source, Timing
from latte_cli.sheet_model import physics
from latte_cli.sheet_model.figures import figures_of
from latte_cli.sheet_model.machine import Machine
from latte_cli.tasks import Task

_CARD = "fitted.json"


@dataclass(frozen=True, kw_only=True)
class FittedParameters:
    """What was learned of many devices: `members` are parameters by name of several fits, whose logarithms' mean is
    taken. `layer_spread` is the deviation of the logarithm of a layer's time, of which `alike` is what calls of a kind
    have in common; `step_spread` that of a step.
    """

    members: tuple[dict[str, float], ...]
    layer_spread: float
    alike: float
    step_spread: float


@lru_cache
def shipped_fit() -> FittedParameters:
    """The parameters that come with LATTE."""
    card = json.loads(get_data("latte_cli.sheet_model", _CARD) or b"")
    return FittedParameters(
        members=tuple(card["members"]),
        layer_spread=card["layer_spread"],
        alike=card["alike"],
        step_spread=card["step_spread"],
    )


class SheetModel:
    """Predicts the times of tasks on the device of a `sheet`, on a `machine` of which more may be known.

    `source` is that of its timings.
    """

    def __init__(
        self,
        sheet: Sheet,
        *,
        machine: Machine = Machine(),  # noqa: B008 - a frozen record
        fitted: FittedParameters | None = None,
        source: Source = Source.DATA_SHEET,
    ) -> None:
        self.sheet, self.machine, self._source = sheet, machine, source
        self.fitted = fitted or shipped_fit()

    def predict(self, tasks: Sequence[Task], device: Device) -> dict[Task, Timing]:
        """A timing of each task; raises LatteError for a precision of which the sheet states no peak."""
        found: dict[Task, Timing] = {}
        for settings in dict.fromkeys(task.settings for task in tasks):
            own = [task for task in tasks if task.settings == settings]
            figures = figures_of(self.sheet, settings.precision, settings.threads)
            names = physics.Names()
            amounts = physics.terms_of([(task.layer, task.phase) for task in own], figures, names)
            values = [names.values(member) for member in self.fitted.members]
            device_s = np.exp(np.mean([np.log(physics.device_seconds(amounts, each)) for each in values], axis=0))
            host_s = np.exp(np.mean([np.log(physics.host_seconds(amounts, each)) for each in values], axis=0))
            for task, seconds, asked_s in zip(own, device_s.tolist(), host_s.tolist(), strict=True):
                found[task] = self._timing_of(task, seconds, asked_s if figures.queued else seconds)
        return found

    def _timing_of(self, task: Task, device_s: float, host_s: float) -> Timing:
        seconds, width = self.machine.device_factor * device_s, exp(Z95 * self.fitted.layer_spread)
        return Timing(
            task=task,
            device_s=seconds,
            host_s=self.machine.host_factor * host_s,
            low_s=seconds / width,
            high_s=seconds * width,
            source=self._source,
            alike=self.fitted.alike,
        )
