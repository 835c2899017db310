"""Devices as pictures: which algorithm wins where, the roofline, and how much choosing matters."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from latte_cli.layers import Convolution, Phase
from latte_cli.report.pictures.drawing import GRID, INK, figure_of, label, readable_on
from latte_cli.summaries import CHANNELS, SIZES, DeviceSummary, LayerBin

PALETTE = ("#2F80C2", "#D98200", "#14996B", "#C46A9B", "#8A6FD1", "#C9503A", "#6E8B1E", "#1C9AA8", "#A0763B", "#7A7F87")
"""Colours that can be told apart, light on dark and dark on light."""

_MOST_KERNELS = 4  # chosen: so many colours and hatches are told apart
_TITLES = {Phase.FORWARD: "forward", Phase.BACKWARD_DATA: "backward data", Phase.BACKWARD_FILTER: "backward filter"}


def main_kernels(found: DeviceSummary) -> list[str]:
    """The kernels with most layers, at most four, in the order of their names."""
    counts: Counter[str] = Counter()
    for cell in found.cells:
        counts[cell.kernel] += cell.layers
    return sorted(name for name, _ in counts.most_common(_MOST_KERNELS))


def colours(found: DeviceSummary) -> Mapping[str, tuple[str, str]]:
    """A colour and a letter for each algorithm that wins somewhere, the most frequent first."""
    counts: Counter[str] = Counter()
    for cell in found.cells:
        counts[cell.algorithm.name] += cell.layers
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return {
        name: (PALETTE[at % len(PALETTE)], letters[at % len(letters)])
        for at, (name, _) in enumerate(counts.most_common())
    }


def winners_figure(found: DeviceSummary) -> Any:
    """Heat maps: for each kernel and phase, the algorithm that is fastest most often, by channels and input size.

    The number in a cell is how many times as long the framework's own choice takes, where that is 1.05 and more.
    """
    columns, legend = main_kernels(found), colours(found)
    figure, places = figure_of(1.4 + 2.5 * len(columns), 8.2, len(Convolution.phases), len(columns))
    from matplotlib.patches import Patch

    cells = {(cell.kernel, cell.phase, cell.channels, cell.size): cell for cell in found.cells}
    for at, axes in enumerate(places):
        phase, name = Convolution.phases[at // len(columns)], columns[at % len(columns)]
        own = [cell for key, cell in cells.items() if key[:2] == (name, phase)]
        _draw_cells(axes, own, legend)
        if at < len(columns):
            axes.set_title(label(name), fontsize=9, color=INK)
        if at % len(columns) == 0:
            axes.set_ylabel(f"{_TITLES[phase]}\ninput size up to", fontsize=8, color=INK)
        if at >= len(columns) * (len(Convolution.phases) - 1):
            axes.set_xlabel("channels up to", fontsize=8, color=INK)
    handles = [Patch(color=colour, label=label(f"{letter} {name}")) for name, (colour, letter) in legend.items()]
    text = figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    _ink(text)
    return figure


def _draw_cells(axes: Any, cells: Sequence[LayerBin], legend: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.patches import Rectangle

    for cell in cells:
        colour, letter = legend[cell.algorithm.name]
        axes.add_patch(Rectangle((cell.channels - 0.5, cell.size - 0.5), 1, 1, facecolor=colour, edgecolor="none"))
        gain = f"\n{cell.gain:.1f}" if cell.gain and cell.gain >= 1.05 else ""
        axes.text(
            cell.channels,
            cell.size,
            letter + gain,
            ha="center",
            va="center",
            fontsize=6,
            color=readable_on(colour),
            linespacing=0.9,
        )
    axes.set_xlim(-0.5, len(CHANNELS) - 0.5)
    axes.set_ylim(-0.5, len(SIZES) - 0.5)
    axes.set_xticks(range(len(CHANNELS)), [str(end) for end in CHANNELS], fontsize=6)
    axes.set_yticks(range(len(SIZES)), [str(end) for end in SIZES], fontsize=6)
    plain(axes)


def roofline_figure(found: DeviceSummary) -> Any:
    """What the fastest algorithm of every convolution reaches, below the device's roof."""
    figure, [axes] = figure_of(8, 3.8)
    for at, phase in enumerate(Convolution.phases):
        own = [each for each in found.reached if each.phase is phase and each.flop_per_byte > 0]
        axes.scatter(
            [each.flop_per_byte for each in own],
            [each.flop_per_s / 1e9 for each in own],
            s=8,
            color=PALETTE[at],
            alpha=0.7,
            linewidths=0,
            label=_TITLES[phase],
        )
    device = found.device
    peak = found.device.peak_in(found.precision)
    if peak and device.bandwidth_bytes_per_s and found.reached:
        ends = [each.flop_per_byte for each in found.reached if each.flop_per_byte > 0]
        low, high = min(ends), max(ends)
        knee = peak / device.bandwidth_bytes_per_s
        marks = sorted({low, min(max(knee, low), high), high})
        roof = [min(peak, mark * device.bandwidth_bytes_per_s) / 1e9 for mark in marks]
        axes.plot(marks, roof, color=INK, linewidth=1.2, label="roof: bandwidth, then arithmetic")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP per byte moved", fontsize=8, color=INK)
    axes.set_ylabel("GFLOP per second", fontsize=8, color=INK)
    plain(axes)
    _ink(figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8))
    return figure


def gains_figure(found: DeviceSummary) -> Any:
    """For each phase the share of layers at which the framework's choice takes so many times as long as the best."""
    figure, [axes] = figure_of(8, 3.2)
    for at, (phase, gains) in enumerate(found.gains):
        ordered = sorted(gains, reverse=True)
        shares = [100 * (place + 1) / len(ordered) for place in range(len(ordered))]
        axes.step(shares, ordered, where="pre", color=PALETTE[at], label=_TITLES[phase])
    axes.set_yscale("log")
    ticks = [tick for tick in (1, 1.2, 1.5, 2, 3, 5, 10, 30, 100) if tick <= 1.05 * axes.get_ylim()[1]]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0, 100)
    axes.set_xlabel("per cent of layers, those with most to win first", fontsize=8, color=INK)
    axes.set_ylabel("own choice / best", fontsize=8, color=INK)
    plain(axes)
    if found.gains:
        _ink(figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8))
    return figure


def plain(axes: Any) -> None:
    """Text and lines of `axes` in the colours that a page sets."""
    axes.tick_params(labelsize=7, colors=INK, length=2)
    for spine in axes.spines.values():
        spine.set_color(GRID)


def _ink(legend: Any) -> None:
    for text in legend.get_texts():
        text.set_color(INK)
