"""Models: what was learned about a device, loaded on first use."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from latte_cli import rates
from latte_cli.datasheets import Sheet
from latte_cli.datasheets.matching import matching_sheet
from latte_cli.devices import Device
from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator.calibration import Calibration
from latte_cli.estimator.records import LOOKUP
from latte_cli.layers import Layer, Optimizer
from latte_cli.lookup import Lookup, Timing
from latte_cli.sheet_model import SheetModel, measured_peaks_model, moved_model, shipped_fit
from latte_cli.store import Store
from latte_cli.tasks import Task

if TYPE_CHECKING:
    from latte_cli.selector import Selector
    from latte_cli.time_model import TimeModel


class Predicting(Protocol):
    """What predicts the times of tasks."""

    def predict(self, tasks: Sequence[Task], device: Device) -> dict[Task, Timing]:
        """A timing of each task that it can say something of."""


def sheet_calibration() -> Calibration:
    """What is known of steps on devices that have nothing but a data sheet: how far they may be off."""
    return Calibration(spread=shipped_fit().step_spread)


class Models:
    """The selector and the time model of a device, and what predicts for the estimator called `estimator`.

    A device without rows has its data `sheet`. Where `rough`, the measured peaks of a device without a sheet price what
    nothing else tells. `note` hears what takes a while. Raises LatteError for an estimator that needs rows where there
    are none.
    """

    def __init__(
        self,
        store: Store,
        device: Device,
        lookup: Lookup,
        estimator: str,
        note: Callable[[str], None],
        sheet: Sheet | None = None,
        *,
        rough: bool = False,
    ) -> None:
        self.device, self.lookup, self.estimator = device, lookup, estimator
        self._store, self._note, self.sheet, self._rough = store, note, sheet, rough
        if sheet and estimator != LOOKUP:
            raise LatteError(
                f"`{sheet.slug}` has no rows, which `--estimator {estimator}` learns from",
                hint="leave out `--estimator`, or in a study the methods by it: its data sheet tells the times",
                exit_code=ExitCode.USAGE,
            )

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
        """The model that the estimator's name selects, fitted on the device's rows of these settings or its sheet."""
        if self.sheet:
            return SheetModel(self.sheet)
        if self.estimator in rates.AMOUNTS:
            rows = [timing for timing in self.lookup.everything() if self.lookup.matches(timing.task)]
            return rates.fit_rates(rates.AMOUNTS[self.estimator], [row for row in rows if not row.task.layer.free])
        if self.time_model and self.estimator == "roofline":
            return self.time_model.roofline
        return self.time_model

    def falls_back(self, layer: Layer) -> bool:
        """Whether `layer` may be priced by the fallback: updates differ too much to be told by what they move.

        Those of a machine that is only measured for some seconds are priced all the same.
        """
        return self._rough or not isinstance(layer, Optimizer)

    @cached_property
    def fallback(self) -> Predicting | None:
        """What prices calls of which the predictor knows nothing: the device's data sheet, moved by its rows.

        None where the estimator replaces rows, and where nothing but rows is known of the device.
        """
        if self.sheet or self.replaces_rows:
            return None
        sheet = matching_sheet(self.device)
        if sheet is None and not self._rough:
            return None
        rows = [timing for timing in self.lookup.everything() if self.lookup.matches(timing.task)]
        try:
            if sheet is None:
                return measured_peaks_model(self.device, self.lookup.settings().threads, rows)
            return moved_model(sheet, self.device, rows)
        except LatteError:  # there is no peak in this precision
            return None
