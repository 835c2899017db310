"""The learned selector: which algorithm each convolution should run with, fitted on a store's rows."""

from latte_cli.selector.artefact import find, load_selector, save_selector, selector_name
from latte_cli.selector.decisions import Decision, by_pass, by_pass_and_part, decisions
from latte_cli.selector.evaluation import Evaluation, SelectionScore, evaluate, prediction_s
from latte_cli.selector.model import KINDS, Choice, Lesson, Preferences, Selector, SelectorCard, fit_selector

__all__ = [
    "KINDS",
    "SelectorCard",
    "Choice",
    "Decision",
    "Evaluation",
    "Lesson",
    "Preferences",
    "SelectionScore",
    "Selector",
    "by_pass",
    "by_pass_and_part",
    "decisions",
    "evaluate",
    "find",
    "fit_selector",
    "load_selector",
    "selector_name",
    "prediction_s",
    "save_selector",
]
