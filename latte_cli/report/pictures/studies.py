"""Studies as pictures: accuracies over virtual time."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from latte_cli.report.pictures.drawing import figure_of, label

if TYPE_CHECKING:
    from latte_cli.federated.study import Band


def accuracies_figure(panels: "Mapping[str, Sequence[Band]]", targets: Sequence[float], title: str) -> Any:
    """Accuracies over virtual time, a panel a scenario: a method's median as a line, its range as a band."""
    columns = min(2, len(panels))
    rows = ceil(len(panels) / columns)
    figure, places = figure_of(5.2 * columns, 0.9 + 3 * rows, rows, columns)
    for spare in places[len(panels) :]:
        spare.set_visible(False)
    names = list(dict.fromkeys(band.method for bands in panels.values() for band in bands))
    handles: dict[str, Any] = {}
    for axes, (scenario, bands) in zip(places, panels.items(), strict=False):
        for target in targets:
            axes.axhline(100 * target, color="#BBBBBB", linewidth=0.7, linestyle=":")
        for band in bands:
            handles[band.method] = _draw_band(axes, band, names.index(band.method))
        _scale_times(axes, bands)
        axes.set_title(label(scenario), loc="left", fontsize=9)
        axes.set_xlabel("virtual seconds", fontsize=8)
        axes.set_ylabel("accuracy in per cent", fontsize=8)
        axes.tick_params(labelsize=8)
    figure.suptitle(label(title), x=0.01, ha="left", fontsize=10)
    if handles:
        labels = [name for name in names if name in handles]
        lines = [handles[name] for name in labels]
        figure.legend(lines, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


_COLOURS = (
    "#000000",
    "#999999",
    "#E69F00",
    "#009E73",
    "#F0C000",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#7A3E9D",
    "#0072B2",
)
_WIDE = 8.0  # chosen: over three doublings a linear axis hides the quickest


def _draw_band(axes: Any, band: "Band", number: int) -> Any:
    colour, ours = _COLOURS[number % len(_COLOURS)], band.method.startswith("latte")
    low, middle, high = ([100 * value for value in each] for each in (band.low, band.median, band.high))
    axes.fill_between(band.times_s, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    (line,) = axes.step(
        band.times_s, middle, "-" if ours else "--", where="post", color=colour, linewidth=1.8 if ours else 1.2
    )
    return line


def _scale_times(axes: Any, bands: "Sequence[Band]") -> None:
    """A logarithmic axis where some methods take many times as long as others."""
    ends = [band.times_s[-1] for band in bands if band.times_s[-1] > 0]
    if ends and max(ends) > _WIDE * min(ends):
        axes.set_xscale("log")
        axes.set_xlim(left=min(time_s for band in bands for time_s in band.times_s if time_s > 0))
    else:
        axes.set_xlim(left=0)
