"""Pictures: what a device, a network, a plan and a study look like, as PNG, SVG or PDF, or in a page."""

from latte_cli.report.pictures.batches import batches_figure
from latte_cli.report.pictures.devices import gains_figure, roofline_figure, winners_figure
from latte_cli.report.pictures.drawing import SUFFIXES, check_suffix, inline, save_figure
from latte_cli.report.pictures.networks import layers_figure, memory_figure, strategies_figure
from latte_cli.report.pictures.plans import curve_figure, round_figure
from latte_cli.report.pictures.studies import accuracies_figure

__all__ = [
    "SUFFIXES",
    "accuracies_figure",
    "batches_figure",
    "check_suffix",
    "curve_figure",
    "gains_figure",
    "inline",
    "layers_figure",
    "memory_figure",
    "roofline_figure",
    "round_figure",
    "save_figure",
    "strategies_figure",
    "winners_figure",
]
