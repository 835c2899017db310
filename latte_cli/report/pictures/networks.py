"""Networks as pictures: the calls of a step as stacked bars, and a step under several strategies."""

from collections.abc import Sequence
from typing import Any

from latte_cli.estimator import Estimate
from latte_cli.layers import Phase
from latte_cli.report import duration
from latte_cli.report.layer_rows import fold_equal, shown_rows
from latte_cli.report.pictures.devices import PALETTE, plain
from latte_cli.report.pictures.drawing import INK, axis_end, draw_interval, figure_of, label

_MOST_LAYERS = 30  # chosen: so many bars fit a page
_NAME_WIDTH = 28  # chosen: characters next to the bars


def layers_figure(estimate: Estimate) -> Any:
    """The layers that take most of a step, in the order of the network: forward and backward, stacked.

    Equal layers of a module are one bar.
    """
    spent: dict[str, list[float]] = {}
    for row in fold_equal(shown_rows([estimate], room=None, every=False, beside=False).rows):
        times = spent.setdefault(row.title(_NAME_WIDTH), [0.0, 0.0])
        for call in row.calls[0]:
            times[call.stage != Phase.FORWARD] += call.count * call.device_s
    largest = sorted(spent, key=lambda name: -sum(spent[name]))[:_MOST_LAYERS]
    names = [name for name in spent if name in largest]
    figure, [axes] = figure_of(8, 1 + 0.17 * len(names))
    left = [0.0] * len(names)
    for at, title in enumerate(("forward", "backward")):
        widths = [1e3 * spent[name][at] for name in names]
        axes.barh(range(len(names)), widths, left=left, color=PALETTE[at], height=0.75, label=title)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("milliseconds", fontsize=8, color=INK)
    plain(axes)
    _legend(figure)
    return figure


def strategies_figure(estimates: Sequence[Estimate]) -> Any:
    """A bar for each strategy: forward, backward, loss and update, with the interval of 95 % of steps."""
    figure, [axes] = figure_of(8, 1.1 + 0.34 * len(estimates))
    left = [0.0] * len(estimates)
    parts = ("forward", "backward", "other", "update")
    for at, part in enumerate(parts):
        widths = [1e3 * getattr(each, f"{part}_s") for each in estimates]
        axes.barh(
            range(len(estimates)),
            widths,
            left=left,
            color=PALETTE[at],
            height=0.6,
            label="loss" if part == "other" else part,
        )
        left = [a + b for a, b in zip(left, widths, strict=True)]
    end = axis_end(left, [1e3 * each.step_high_s for each in estimates])
    for row, each in enumerate(estimates):
        draw_interval(axes, row, 1e3 * each.step_low_s, 1e3 * each.step_high_s, end, duration(each.step_high_s))
    axes.set_yticks(range(len(estimates)), [label(each.strategy) for each in estimates])
    axes.set_ylim(len(estimates) - 0.4, -0.6)
    axes.set_xlim(0, end)
    axes.set_xlabel("milliseconds of a step, with the interval of 95 % of steps", fontsize=8, color=INK)
    plain(axes)
    _legend(figure)
    return figure


def memory_figure(estimate: Estimate) -> Any:
    """What a step holds in memory, call by call."""
    figure, [axes] = figure_of(8, 2.8)
    timeline = estimate.memory.timeline
    kinds = ("parameters", "gradients", "optimizer", "activations", "temporary")
    rows = [[getattr(moment, f"{kind}_bytes") / 2**20 for moment in timeline] for kind in kinds]
    axes.stackplot(range(len(timeline)), rows, labels=kinds, colors=PALETTE[: len(kinds)], step="post", linewidth=0)
    axes.set_xlim(0, max(1, len(timeline) - 1))
    axes.set_xlabel("calls of the step, in order", fontsize=8, color=INK)
    axes.set_ylabel("MiB", fontsize=8, color=INK)
    plain(axes)
    _legend(figure)
    return figure


def _legend(figure: Any) -> None:
    legend = figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_color(INK)
