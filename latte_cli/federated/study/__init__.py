"""Studies: methods of federated learning compared on a virtual clock, whose ticks are the estimator's times."""

from latte_cli.federated.study.document import Scenario, Study, Tuning, parse_study, read_study
from latte_cli.federated.study.methods import METHODS, Method
from latte_cli.federated.study.results import Band, Result, Spread, bands, results
from latte_cli.federated.study.runs import Run, Training, Workshop

__all__ = [
    "METHODS",
    "Band",
    "Method",
    "Result",
    "Run",
    "Scenario",
    "Spread",
    "Study",
    "Training",
    "Tuning",
    "Workshop",
    "bands",
    "parse_study",
    "read_study",
    "results",
]
