"""Pictures: a round as a Gantt chart, the curve of round durations, and accuracies over time, as PNG or SVG."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latte_cli.allocator import Plan, PlannedDevice, Point
from latte_cli.errors import ExitCode, LatteError

if TYPE_CHECKING:
    from latte_cli.federated.study import Band

SUFFIXES = (".png", ".svg", ".pdf")
"""The endings of pictures."""

_DOWN, _COMPUTE, _UP, _WAIT, _LIMIT = "#56B4E9", "#0072B2", "#E69F00", "#DDDDDD", "#D55E00"
_LARGEST = 40


def check_suffix(path: Path) -> None:
    """Raise LatteError for a name that is none of a picture."""
    if path.suffix not in SUFFIXES:
        names = ", ".join(SUFFIXES)
        raise LatteError(f"`{path}` is not the name of a picture", hint=f"it ends in {names}", exit_code=ExitCode.USAGE)


def write_round(plan: Plan, title: str, path: Path) -> None:
    """Write a round of the plan as a Gantt chart: what each class does from the start of the round to its end."""
    shown = plan.devices[:_LARGEST]
    figure, axes = _figure(0.9 + 0.36 * (len(shown) + 2))
    left_out = len(plan.devices) - len(shown)
    for row, planned in enumerate(shown):
        _draw_row(axes, row, planned, plan.round_duration_s)
    axes.axvline(plan.round_duration_s, color=_LIMIT, linewidth=1.5, label="round duration")
    axes.set_yticks(range(len(shown)), [_label(each) for each in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds since the round began")
    axes.set_title(title + (f" ({left_out} more classes not shown)" if left_out else ""), loc="left", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    _save(figure, path)


def _draw_row(axes: Any, row: int, planned: PlannedDevice, duration_s: float) -> None:
    if planned.sub_model is None or planned.round_s is None:
        axes.text(0.01 * duration_s, row, "no sub-model", va="center", fontsize=8, color=_LIMIT)
        return
    schedule, parameters = planned.fleet_class.schedule, planned.sub_model.parameters
    bits = schedule.parameter_bits(parameters)
    down_s, up_s = bits / planned.fleet_class.down_bit_per_s, bits / planned.fleet_class.up_bit_per_s
    compute_s = planned.round_s - down_s - up_s - planned.fleet_class.overhead_s
    at = 0.0
    for name, length_s, colour in (
        ("receive", down_s, _DOWN),
        ("train", compute_s, _COMPUTE),
        ("send", up_s, _UP),
        ("overhead", planned.fleet_class.overhead_s, "#999999"),
        ("wait", max(0.0, duration_s - planned.round_s), _WAIT),
    ):
        if length_s > 0:
            axes.barh(row, length_s, left=at, height=0.6, color=colour, label=name)
        at += length_s
    below, above = planned.round_s - (planned.low_s or 0.0), (planned.high_s or 0.0) - planned.round_s
    axes.errorbar(
        planned.round_s, row, xerr=[[below], [above]], fmt="none", ecolor="black", capsize=3, label="95 % interval"
    )


def _label(planned: PlannedDevice) -> str:
    name = planned.fleet_class.name
    short = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
    return f"{short} ({planned.fleet_class.count})"


_NAME = 24


def write_curve(points: Sequence[Point], chosen: Point | None, title: str, path: Path) -> None:
    """Write the curve of round durations: capacity, floor and idle share above them, and the one that was chosen."""
    figure, axes = _figure(3.6)
    durations = [each.round_duration_s for each in points]
    for name, values, colour, style in (
        ("parameters kept, mean", [each.capacity for each in points], _COMPUTE, "-"),
        ("parameters kept, least", [each.floor for each in points], _DOWN, "--"),
        ("idle", [each.idle for each in points], _UP, ":"),
        ("devices that train", [each.taking_part for each in points], "#999999", "-."),
    ):
        axes.step(durations, [100 * value for value in values], style, where="post", color=colour, label=name)
    if chosen:
        axes.axvline(chosen.round_duration_s, color=_LIMIT, linewidth=1.5, label="chosen")
    if len(durations) > 1 and durations[-1] > 20 * durations[0]:
        axes.set_xscale("log")
    axes.set_ylim(0, 103)
    axes.set_xlabel("round duration in seconds")
    axes.set_ylabel("per cent")
    axes.set_title(title, loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    _save(figure, path)


def write_accuracies(panels: "Mapping[str, Sequence[Band]]", targets: Sequence[float], title: str, path: Path) -> None:
    """Write accuracies over virtual time, a panel a scenario: a method's median as a line, its range as a band."""
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    rows = ceil(len(panels) / columns)
    figure = Figure(figsize=(5.2 * columns, 0.9 + 3 * rows), layout="constrained", dpi=150)
    names = list(dict.fromkeys(band.method for bands in panels.values() for band in bands))
    handles: dict[str, Any] = {}
    for at, (scenario, bands) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, at)
        axes.spines[["top", "right"]].set_visible(False)
        for target in targets:
            axes.axhline(100 * target, color="#BBBBBB", linewidth=0.7, linestyle=":")
        for band in bands:
            handles[band.method] = _draw_band(axes, band, names.index(band.method))
        _scale_times(axes, bands)
        axes.set_title(scenario, loc="left", fontsize=9)
        axes.set_xlabel("virtual seconds", fontsize=8)
        axes.set_ylabel("accuracy in per cent", fontsize=8)
        axes.tick_params(labelsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    if handles:
        labels = [name for name in names if name in handles]
        lines = [handles[name] for name in labels]
        figure.legend(lines, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    _save(figure, path)


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
_WIDE = 8.0


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


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    """Write a figure; the same one gives the same file, and its words can be read and searched in an SVG."""
    from matplotlib import rc_context

    dates = {".svg": "Date", ".pdf": "CreationDate"}
    metadata = {dates[path.suffix]: None} if path.suffix in dates else None
    try:
        with rc_context({"svg.hashsalt": "latte", "svg.fonttype": "none"}):
            figure.savefig(path, metadata=metadata)
    except OSError as exc:
        raise LatteError(f"cannot write `{path}`: {exc.strerror}", hint="choose another place") from exc
