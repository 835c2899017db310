"""Plans as pictures: a round as a Gantt chart, and the curve of round durations."""

from collections.abc import Sequence
from typing import Any

from latte_cli.allocator import CurvePoint, Plan, PlannedDevice
from latte_cli.report import duration
from latte_cli.report.pictures.drawing import INK, axis_end, draw_interval, figure_of, label

_DOWN, _COMPUTE, _UP, _WAIT, _LIMIT = "#56B4E9", "#0072B2", "#E69F00", "#9AA3AC", "#D55E00"
_LARGEST = 40  # chosen: so many bars fit a page


def round_figure(plan: Plan, title: str) -> Any:
    """A round of the plan as a Gantt chart: what each class does from the start of the round to its end."""
    shown = plan.devices[:_LARGEST]
    figure, [axes] = figure_of(8, 0.9 + 0.36 * (len(shown) + 2))
    left_out = len(plan.devices) - len(shown)
    rounds = [each.round_s for each in shown if each.round_s is not None]
    end_s = axis_end([plan.round_duration_s, *rounds], [each.high_s or 0.0 for each in shown])
    for row, planned in enumerate(shown):
        _draw_row(axes, row, planned, plan.round_duration_s, end_s)
    axes.axvline(plan.round_duration_s, color=_LIMIT, linewidth=1.5, label="round duration")
    axes.set_yticks(range(len(shown)), [_label(each) for each in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, end_s)
    axes.plot([], [], color=INK, linewidth=1, marker="|", markersize=6, label="95 % interval")
    axes.set_xlabel("seconds since the round began")
    axes.set_title(
        label(title) + (f" ({left_out} more classes not shown)" if left_out else ""), loc="left", fontsize=10
    )
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def _draw_row(axes: Any, row: int, planned: PlannedDevice, duration_s: float, end_s: float) -> None:
    if planned.sub_model is None or planned.round_s is None:
        axes.text(0.01 * duration_s, row, "no sub-model", va="center", fontsize=8, color=INK)
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
    draw_interval(axes, row, planned.low_s or 0.0, planned.high_s or 0.0, end_s, duration(planned.high_s))


def _label(planned: PlannedDevice) -> str:
    name = planned.fleet_class.name
    short = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
    return f"{label(short)} ({planned.fleet_class.count})"


_NAME = 24  # chosen: characters next to the bars


def curve_figure(points: Sequence[CurvePoint], chosen: CurvePoint | None, title: str) -> Any:
    """The curve of round durations: capacity, floor and idle share above them, and the one that was chosen."""
    figure, [axes] = figure_of(8, 3.6)
    durations = [each.round_duration_s for each in points]
    for name, values, colour, style in (
        ("parameters kept, mean", [each.capacity for each in points], _COMPUTE, "-"),
        ("parameters kept, least", [each.floor for each in points], _DOWN, "--"),
        ("idle", [each.idle for each in points], _UP, ":"),
        ("devices that train", [each.taking_part for each in points], "#7A7F87", "-."),
    ):
        axes.step(durations, [100 * value for value in values], style, where="post", color=colour, label=name)
    if chosen:
        axes.axvline(chosen.round_duration_s, color=_LIMIT, linewidth=1.5, label="chosen")
    if len(durations) > 1 and durations[-1] > 20 * durations[0]:
        axes.set_xscale("log")
    axes.set_ylim(0, 103)
    axes.set_xlabel("round duration in seconds")
    axes.set_ylabel("per cent")
    axes.set_title(label(title), loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure
