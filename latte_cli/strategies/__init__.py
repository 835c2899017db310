"""Strategies: which algorithm each call of a network would run with; pure functions from candidates to a selection."""

from latte_cli.strategies.candidates import (
    NO_LIMITS,
    OWN,
    Candidates,
    EngineLists,
    Limits,
    Selection,
    fastest,
    rank_timings,
    repeats,
)
from latte_cli.strategies.names import NAMES, by_name, fixed_name, usual
from latte_cli.strategies.strategy import Need, Strategy

__all__ = [
    "NAMES",
    "NO_LIMITS",
    "OWN",
    "Candidates",
    "EngineLists",
    "Limits",
    "Need",
    "Selection",
    "Strategy",
    "by_name",
    "fastest",
    "fixed_name",
    "rank_timings",
    "repeats",
    "usual",
]
