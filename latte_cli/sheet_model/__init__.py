"""What data sheets tell of times: formulas with parameters that were learned over many devices."""

from latte_cli.sheet_model.machine import Machine, fit_machine
from latte_cli.sheet_model.model import FittedParameters, SheetModel, shipped_fit

__all__ = ["FittedParameters", "Machine", "SheetModel", "fit_machine", "shipped_fit"]
