"""What data sheets tell of times: formulas with parameters that were learned over many devices."""

from latte_cli.sheet_model.machine import Machine
from latte_cli.sheet_model.model import Fitted, SheetModel, shipped_fit

__all__ = ["Fitted", "Machine", "SheetModel", "shipped_fit"]
