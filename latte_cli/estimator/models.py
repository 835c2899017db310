"""Models: what was learned of a device, loaded when it is first asked for."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from latte_cli import rates
from latte_cli.devices import Device
from latte_cli.estimator.records import LOOKUP
from latte_cli.lookup import Lookup, Timing
from latte_cli.store import Store
from latte_cli.tasks import Task

if TYPE_CHECKING:
    from latte_cli.selector import Selector
    from latte_cli.time_model import TimeModel


class Predicting(Protocol):
    """What predicts the times of tasks."""

    def predict(self, tasks: Sequence[Task], device: Device) -> dict[Task, Timing]:
        """A timing of each task that it can say something of."""


class Models:
    """The selector and the time model of a device, and what predicts for the estimator called `estimator`.

    `note` hears what takes a while.
    """

    def __init__(
        self, store: Store, device: Device, lookup: Lookup, estimator: str, note: Callable[[str], None]
    ) -> None:
        self.device, self.lookup, self.estimator = device, lookup, estimator
        self._store, self._note = store, note

    @property
    def replaces_rows(self) -> bool:
        """Whether the estimator predicts what was measured, too."""
        return self.estimator != LOOKUP

    @cached_property
    def selector(self) -> "Selector | None":
        """What was trained to choose algorithms for the device."""
        from latte_cli import selector

        return selector.find(self._store, self.device.slug)

    @cached_property
    def time_model(self) -> "TimeModel | None":
        """What was fitted to the device's rows, or is fitted now."""
        from latte_cli.time_model import time_model

        return time_model(self._store, self.device.slug, self.lookup.everything, self._note)

    @cached_property
    def predictor(self) -> Predicting | None:
        """What the estimator's name stands for, fitted on the device's rows under these settings."""
        if self.estimator in rates.AMOUNTS:
            rows = [timing for timing in self.lookup.everything() if self.lookup.matches(timing.task)]
            return rates.fit_rates(rates.AMOUNTS[self.estimator], [row for row in rows if not row.task.layer.free])
        if self.time_model and self.estimator == "roofline":
            return self.time_model.roofline
        return self.time_model
