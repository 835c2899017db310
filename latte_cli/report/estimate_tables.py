"""Estimates as tables that fit a screen, and the command's choice between table, JSON and CSV."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import TextIO

from latte_cli.estimator import Estimate, LayerTime
from latte_cli.estimator.diagnostics import NOISE
from latte_cli.layers import Convolution, Phase
from latte_cli.lookup import Source
from latte_cli.report import Format, Table, checkpoints, duration, percent, size, write_csv, write_json, write_table
from latte_cli.report.estimates import (
    COLUMNS,
    NO_SCHEDULE,
    beside_lines,
    call_lines,
    compiled_line,
    estimates_document,
    left_out_line,
    real_steps_line,
    schedule_lines,
    schedule_times,
)
from latte_cli.report.layer_rows import LayerRow, ShownRows, shown_rows
from latte_cli.report.screens import Screen, bar, screen_of
from latte_cli.schedule import Schedule

_FLAGS = {Source.MEASURED: "", Source.INTERPOLATED: "~", Source.PREDICTED: "*", Source.DATA_SHEET: "^"}
_LEGEND = {
    Source.INTERPOLATED: "~ interpolated",
    Source.PREDICTED: "* predicted",
    Source.DATA_SHEET: "^ from its data sheet",
}
_TOGETHER = "x equal layers together"
_USELESS = 3.0  # chosen: bounds that far from the estimate, as a factor, help nobody to plan
_MOST_COLUMNS = 4  # chosen: more do not fit a terminal side by side
_NAME_WIDTH, _BAR_WIDTH = 24, 8  # chosen: leave room for the times and an algorithm in 80 columns
_PIPED_WIDTH = 100  # chosen: whole names of real models, but not the megabytes that a hostile file may have
_TIMES_WIDTH = 42  # of forward, backward, share and bar, with two blanks before each and before the algorithm
_PAIR_WIDTH = 12  # of a column of times, with what stands before it
_LEAST_ALGORITHM = 14  # chosen: what is left of 80 columns; most names of algorithms can be told by so many characters
_AROUND = 3  # the command itself, the one to type next, and the prompt
_HEAD = 2  # the titles of the columns, and the line below


def write_estimates(
    estimates: Sequence[Estimate],
    form: Format,
    *,
    schedule: Schedule = NO_SCHEDULE,
    every: bool = False,
    above: Sequence[str] = (),
    out: TextIO | None = None,
) -> None:
    """Write estimates of one network; the `schedule` adds the times of an epoch and of all steps.

    A table on a screen shows as many layers as fit, unless `every` one is wanted; in a pipe or a file, all that take
    time. The lines `above` the table are on the screen already. JSON and CSV have every layer.
    """
    out = out or sys.stdout
    if form is Format.JSON:
        write_json(estimates_document(estimates, schedule), out)
    elif form is Format.CSV:
        write_csv(COLUMNS, list(call_lines(estimates)), out)
    else:
        screen = screen_of(out)
        left = screen and replace(screen, lines=screen.lines - screen.lines_of(above))
        write_table(estimate_table(estimates, schedule, left, every=every), out)


def estimate_table(
    estimates: Sequence[Estimate], schedule: Schedule, screen: Screen | None, *, every: bool = False
) -> Table:
    """One estimate layer by layer, a few side by side, or a line for each of many."""
    if len(estimates) == 1:
        return _single(estimates[0], schedule, screen, every)
    if len(estimates) <= _MOST_COLUMNS:
        return _side_by_side(estimates, schedule, screen, every)
    return _summary(estimates, schedule)


def _room(screen: Screen | None, estimates: Sequence[Estimate], texts: Sequence[str]) -> int | None:
    """How many layers a screen has room for beside the `texts` of the table and the warnings below it."""
    if screen is None:
        return None
    warnings = dict.fromkeys(f"warning: {each.message}" for one in estimates for each in one.warnings)
    return screen.lines - _AROUND - _HEAD - screen.lines_of((*texts, *warnings))


def _single(estimate: Estimate, schedule: Schedule, screen: Screen | None, every: bool) -> Table:
    title = (
        f"{estimate.network.name}, batch {estimate.network.batch_size}: {estimate.strategy}",
        f"on {_on(estimate)}",
    )
    totals = [*_totals(estimate, schedule), *_left_out(estimate, screen)]
    room = _room(screen, [estimate], (*title, *totals, _longest_legend([estimate])))
    shown = shown_rows([estimate], room=room, every=every)
    bars = ("",) if screen and screen.bars else ()
    return Table(
        title=title,
        columns=("layer", ">forward", ">backward", ">share", *bars, "algorithm"),
        rows=[*_cells(shown.rows, screen, _total_s(estimate.parts))],
        footer=[*_legend(estimate.parts, shown), *totals],
        styles={4: "cyan"} if bars else {},
    )


def _on(estimate: Estimate) -> str:
    settings = estimate.settings
    threads = f", {settings.threads} thread{'s' * (settings.threads > 1)}" if settings.threads else ""
    return f"{estimate.device.slug}, {settings.precision} {settings.layout}{threads}"


def _total_s(parts: Sequence[LayerTime]) -> float:
    """What all calls take one after the other."""
    return sum(part.count * part.device_s for part in parts) or 1.0


def _cells(rows: Sequence[LayerRow], screen: Screen | None, total_s: float) -> Iterator[tuple[str, ...]]:
    """The cells of one estimate's lines; the longest bar is that of the line which takes longest."""
    room = max(_LEAST_ALGORITHM, screen.columns - _TIMES_WIDTH - _NAME_WIDTH) if screen else None
    algorithms = [_algorithms(row, room) for row in rows]
    width = _PIPED_WIDTH
    if screen:
        width = max(_NAME_WIDTH, screen.columns - _TIMES_WIDTH - max(map(len, ("algorithm", *algorithms))))
    longest_s = max((row.times_s[0] for row in rows if not row.rest), default=0.0) or 1.0
    for row, names in zip(rows, algorithms, strict=True):
        (parts,), (time_s,) = row.calls, row.times_s
        forward = [part for part in parts if part.stage == Phase.FORWARD]
        others = [part for part in parts if part.stage != Phase.FORWARD]
        length = 0.0 if row.rest else time_s / longest_s
        bars = (bar(length, _BAR_WIDTH),) if screen and screen.bars else ()
        yield row.title(width), _time(forward), _time(others), percent(time_s / total_s), *bars, names


def _algorithms(row: LayerRow, room: int | None) -> str:
    """The algorithms of a line, or as many of them as there is room for so many characters."""
    if row.rest:
        return ""
    calls = row.calls[0][: len(row.calls[0]) // row.count]  # the layers of a line are equal
    names = [part.algorithm.name for part in calls]
    names = names[:1] if len(set(names)) == 1 else names
    text = " ".join(names)
    if room is None or len(text) <= room:
        return text
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    first = names[0]
    return (first if len(first) + len(more) <= room else first[: room - len(more) - 1] + "…") + more


def _time(parts: Sequence[LayerTime]) -> str:
    """The sum of the parts, with the flag of the least certain of them."""
    if not parts:
        return "-"
    worst = max((part.source for part in parts), key=list(Source).index)
    return duration(sum(part.count * part.device_s for part in parts)) + _FLAGS[worst]


def _longest_legend(estimates: Sequence[Estimate]) -> str:
    """A legend of all that it may have to say, as wide as any."""
    parts = [part for estimate in estimates for part in estimate.parts]
    return "  ".join((*_marks(parts), _TOGETHER, f"`--all`: {len(parts)} layers, {len(parts)} without time"))


def _marks(parts: Sequence[LayerTime]) -> list[str]:
    used = {part.source for part in parts}
    return [text for source, text in _LEGEND.items() if source in used]


def _legend(parts: Sequence[LayerTime], shown: ShownRows) -> Iterator[str]:
    """What marks mean, and what the table leaves out."""
    words = _marks(parts)
    if shown.together:
        words.append(_TOGETHER)
    if shown.cut:
        free = f", {shown.free} without time" if shown.free else ""
        words.append(f"`--all`: {shown.layers} layers{free}")
    if words:
        yield "  ".join(words)


def _bounds(estimate: Estimate) -> str:
    """The interval of 95 % of steps in words, or that noise leaves none that helps."""
    useful = estimate.step_low_s * _USELESS >= estimate.step_s >= estimate.step_high_s / _USELESS
    if useful or all(warning.code != NOISE for warning in estimate.warnings):
        return f"95 % of steps between {duration(estimate.step_low_s)} and {duration(estimate.step_high_s)}"
    return "not bounded: the times are too noisy"


def _totals(estimate: Estimate, schedule: Schedule) -> Iterator[str]:
    titles = ("forward", "backward", "loss", "update")
    split = (estimate.forward_s, estimate.backward_s, estimate.other_s, estimate.update_s)
    yield "  ".join(f"{title} {duration(seconds)}" for title, seconds in zip(titles, split, strict=True))
    yield f"step {duration(estimate.step_s)}, {_bounds(estimate)}"
    for title, text in schedule_lines(estimate, schedule).items():
        yield f"{title} {text}"
    buckets = " with gradient buckets" if estimate.step.replicated else ""
    held = "not known" if estimate.compiled else f"{size(estimate.memory_bytes)}{buckets}"
    yield f"memory {held}; {_sources(estimate)}"
    yield from checkpoints.checkpoint_lines(estimate)
    if estimate.transfer_s:
        yield f"copying a batch to the GPU {duration(estimate.transfer_s)}, not counted in the step"
    if estimate.energy_j:
        yield f"energy {estimate.energy_j:.3g} J"
    yield from beside_lines(estimate)


def _left_out(estimate: Estimate, screen: Screen | None) -> list[str]:
    """What the step leaves out; on a screen the first of it, as it may be hundreds of calls."""
    if screen is None or len(estimate.missing) <= 1:
        return left_out_line([estimate])
    return [f"left out: {estimate.missing[0]} and {len(estimate.missing) - 1} more"]


def _sources(estimate: Estimate) -> str:
    """How much of the time is known from what."""
    total_s = _total_s(estimate.parts)
    shares = {
        source: sum(part.count * part.device_s for part in estimate.parts if part.source is source) for source in Source
    }
    return "time " + ", ".join(f"{percent(share / total_s)} {source}" for source, share in shares.items() if share)


def _side_by_side(estimates: Sequence[Estimate], schedule: Schedule, screen: Screen | None, every: bool) -> Table:
    """A column for each estimate, a line for each layer and total; letters name what sets them apart."""
    totals = [_total_cells(estimate, schedule) for estimate in estimates]
    letters = ascii_uppercase[: len(estimates)]
    named = [f"{letter}: {_what(one, estimates)}" for letter, one in zip(letters, estimates, strict=True)]
    named += _kind_lines(letters, estimates)
    below = ["", *totals[0], _longest_legend(estimates), *named, *equal_line(estimates)]
    shown = shown_rows(estimates, room=_room(screen, estimates, [_title(estimates), *below]), every=every, beside=False)
    width = max(_NAME_WIDTH, screen.columns - _PAIR_WIDTH * len(estimates)) if screen else _PIPED_WIDTH
    rows = [(row.title(width), *map(_time, row.calls)) for row in shown.rows]
    rows += [("", *("" for _ in estimates)), *((title, *(cells[title] for cells in totals)) for title in totals[0])]
    parts = [part for estimate in estimates for part in estimate.parts]
    return Table(
        title=_title(estimates),
        columns=("layer", *(f">{letter}" for letter in letters)),
        rows=rows,
        footer=[*_legend(parts, shown), *named, *equal_line(estimates)],
    )


def _kind_lines(names: Iterable[str], estimates: Sequence[Estimate]) -> list[str]:
    """What kind of step each is, by its name; those of one kind in one line."""
    told: defaultdict[str, list[str]] = defaultdict(list)
    for name, estimate in zip(names, estimates, strict=True):
        for line in _kinds(estimate):
            told[line].append(name)
    return [f"{', '.join(which)}: {line}" for line, which in told.items()]


def _kinds(estimate: Estimate) -> Iterator[str]:
    """What kind of step it is, where it is no plain one."""
    if estimate.compiled:
        yield compiled_line(estimate.compiled, estimate.step_s)
    if estimate.real_steps:
        yield real_steps_line(estimate.real_steps)
    if regions := checkpoints.regions_text(estimate):
        yield f"`torch.utils.checkpoint` around {regions}"


def equal_line(estimates: Sequence[Estimate]) -> list[str]:
    """A line that says that strategies take the same algorithms, and why; none where they differ or there is one."""
    first = estimates[0]
    taken = [[(part.algorithm, part.layout) for part in each.parts] for each in estimates]
    several = len(estimates) > 1 and len({each.strategy for each in estimates}) == len(estimates)
    if not several or any(one != taken[0] for one in taken):
        return []
    ways = {part.layer.measured_as(part.phase) for part in first.parts if isinstance(part.layer, Convolution)}
    if not ways:
        return ["all take the same algorithms: only convolutions have several"]
    if first.single_way >= len(ways):
        return ["all take the same algorithms: of each convolution one way only was measured"]
    return ["all take the same algorithms"]


def _title(estimates: Sequence[Estimate]) -> str:
    network, strategies = estimates[0].network, {estimate.strategy for estimate in estimates}
    which = estimates[0].strategy if len(strategies) == 1 else f"{len(strategies)} strategies"
    return f"{network.name}, batch {network.batch_size}: {which}"


def _what(estimate: Estimate, among: Sequence[Estimate]) -> str:
    """What sets an estimate apart from the others."""
    words = []
    if len({one.strategy for one in among}) > 1:
        words.append(estimate.strategy)
    if len({one.limits for one in among}) > 1:
        words.append(_limit_line(estimate))
    if len({_on(one) for one in among}) > 1 or not words:
        words.append(_on(estimate))
    return ", ".join(words)


def _limit_line(estimate: Estimate) -> str:
    limit = estimate.limits.memory_bytes
    return "any memory" if limit is None else f"at most {size(limit)}"


def _summary(estimates: Sequence[Estimate], schedule: Schedule) -> Table:
    """A line for each estimate, where they are too many for a column each."""
    totals = [_total_cells(estimate, schedule) for estimate in estimates]
    shown = [title for title in totals[0] if title not in ("loss", "step, least (95 %)", "step, most (95 %)")]
    fastest = min(estimate.step_s for estimate in estimates)
    rows = [
        (_what(estimate, estimates), *(cells[title] for title in shown), f"{estimate.step_s / fastest:.2f}")
        for estimate, cells in zip(estimates, totals, strict=True)
    ]
    same = [_on(estimates[0])] if len({_on(one) for one in estimates}) == 1 else []
    return Table(
        title=_title(estimates),
        columns=("under", *(f">{title}" for title in shown), ">ratio"),
        rows=rows,
        footer=[
            "ratio: of the step to the fastest one",
            *equal_line(estimates),
            *same,
            *_kind_lines((_what(each, estimates) for each in estimates), estimates),
        ],
    )


def _total_cells(estimate: Estimate, schedule: Schedule) -> dict[str, str]:
    cells = {
        "forward": duration(estimate.forward_s),
        "backward": duration(estimate.backward_s),
        "loss": duration(estimate.other_s),
        "update": duration(estimate.update_s),
        "step": duration(estimate.step_s),
        "step, least (95 %)": duration(estimate.step_low_s),
        "step, most (95 %)": duration(estimate.step_high_s),
        "memory": "not known" if estimate.compiled else size(estimate.memory_bytes),
    }
    found = schedule_times(estimate, schedule)
    if schedule.loading_per_s:
        cells["step with loading"] = duration(found["paced_step_s"])
    for title, seconds in ((f"epoch of {schedule.samples}", found["epoch_s"]), ("round", found["round_s"])):
        if seconds:
            cells[title] = duration(seconds)
    return cells
