"""The learned selector: which algorithm each convolution should run with, fitted on a store's rows."""

from latte_cli.selector.artefact import find, load, name, save
from latte_cli.selector.decisions import Decision, by_pass, decisions
from latte_cli.selector.evaluation import Evaluation, Score, evaluate, prediction_s
from latte_cli.selector.model import KINDS, Card, Choice, Preferences, Selector, fit

__all__ = [
    "KINDS",
    "Card",
    "Choice",
    "Decision",
    "Evaluation",
    "Preferences",
    "Score",
    "Selector",
    "by_pass",
    "decisions",
    "evaluate",
    "find",
    "fit",
    "load",
    "name",
    "prediction_s",
    "save",
]
