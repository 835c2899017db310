"""The learned time model, fitted on a device's rows: a formula, corrected by boosted trees.

The formula is a roofline for each kind and phase, or what the shipped model of another device says, moved by a
constant: whichever is nearer to rows that it was not fitted on.
"""

from latte_cli.time_model.card import SCHEMA, TimeModelCard
from latte_cli.time_model.fitting import fit_time_model
from latte_cli.time_model.keeping import folder_name, prior_of, save_time_model, time_model
from latte_cli.time_model.model import Prior, TimeModel
from latte_cli.time_model.moving import move_model

__all__ = [
    "SCHEMA",
    "TimeModelCard",
    "Prior",
    "TimeModel",
    "fit_time_model",
    "move_model",
    "folder_name",
    "prior_of",
    "save_time_model",
    "time_model",
]
