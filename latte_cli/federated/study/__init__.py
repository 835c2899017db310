"""Studies: methods of federated learning compared on a virtual clock, whose ticks are the estimator's times."""

from latte_cli.federated.study.document import Scenario, Study, Tuning, parse_study, read_study
from latte_cli.federated.study.methods import METHODS, StudyMethod
from latte_cli.federated.study.results import Band, Result, Spread, bands, results
from latte_cli.federated.study.runs import MethodRun, TrainingHistory, Workshop

__all__ = [
    "METHODS",
    "Band",
    "StudyMethod",
    "Result",
    "MethodRun",
    "Scenario",
    "Spread",
    "Study",
    "TrainingHistory",
    "Tuning",
    "Workshop",
    "bands",
    "parse_study",
    "read_study",
    "results",
]
