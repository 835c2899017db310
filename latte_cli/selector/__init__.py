"""The learned selector: which algorithm each convolution should run with, fitted on a store's rows."""

from latte_cli.selector.artefact import find, load, name, save
from latte_cli.selector.decisions import Decision, decisions
from latte_cli.selector.evaluation import Score, evaluate, prediction_s
from latte_cli.selector.model import Card, Choice, Selector, fit

__all__ = [
    "Card",
    "Choice",
    "Decision",
    "Score",
    "Selector",
    "decisions",
    "evaluate",
    "find",
    "fit",
    "load",
    "name",
    "prediction_s",
    "save",
]
