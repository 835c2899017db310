"""What data sheets tell of times: formulas with parameters that were learned over many devices."""

from latte_cli.sheet_model.machine import Machine, fit_machine
from latte_cli.sheet_model.model import FittedParameters, SheetModel, shipped_fit
from latte_cli.sheet_model.moved import measured_peaks_model, moved_model

__all__ = [
    "FittedParameters",
    "Machine",
    "SheetModel",
    "fit_machine",
    "measured_peaks_model",
    "moved_model",
    "shipped_fit",
]
