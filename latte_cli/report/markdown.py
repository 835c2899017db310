"""Estimates as Markdown, for a comment on a change: totals, limits, and what became of the layers."""

import re
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from latte_cli.estimator import Estimate
from latte_cli.printable import printable
from latte_cli.report import duration, percent, size
from latte_cli.report.checkpoints import checkpoint_lines
from latte_cli.report.estimates import NO_SCHEDULE, compiled_line, real_steps_line, schedule_lines
from latte_cli.report.sides import SidePair, legend_lines, letters, side_cells
from latte_cli.report.thresholds import (
    algorithms_text,
    interval_text,
    largest_changes,
    sentence,
    signed_percent,
    times_text,
)
from latte_cli.schedule import Schedule
from latte_cli.sides import Side, apart
from latte_cli.thresholds import Comparison, ThresholdCheck

_MOST_LAYERS = 5  # chosen: a comment is read beside others
_SPECIAL = re.compile(r"[^A-Za-z0-9 ./_-]|(?<=www)\.|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", re.IGNORECASE)


def code(text: str) -> str:
    """A name as code in which nothing is Markdown, HTML, a mention or a link, within a table and without.

    Entities do this in every place: a backslash does not keep a mention from being one, and a backtick ends a span.
    """
    return f"<code>{_plain(text)}</code>"


def _plain(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", printable(text))


def write_markdown(
    estimates: Sequence[Estimate],
    comparisons: Sequence[Comparison],
    checks: Sequence[ThresholdCheck],
    schedule: Schedule = NO_SCHEDULE,
    ranking: Sequence[Side] = (),
    out: TextIO | None = None,
) -> None:
    """Write estimates of one network with comparisons and limits, and which device trains best."""
    network = estimates[0].network
    parts = [
        [f"### {code(network.name)}, batch {network.batch_size}"],
        [*_totals(estimates)],
        [*_kinds(estimates), *([] if ranking else _schedule(estimates, schedule))],
        [*_sides(ranking, [str(at + 1) for at in range(len(ranking))], "place")],
        [*_checks(checks)],
        *([*_changes(each)] for each in comparisons),
        *([*_heaviest(each)] for each in (() if comparisons else estimates[:1])),
        [f"Left out, as nothing is known of it: {code(name)}" for name in estimates[0].missing],
    ]
    _write(parts, out)


def write_compared(
    sides: Sequence[Side],
    pairs: Sequence[SidePair],
    checks: Sequence[ThresholdCheck],
    out: TextIO | None = None,
) -> None:
    """Write steps side by side, their limits, and pairs of them layer by layer."""
    parts = [
        ["### Steps side by side"],
        [*_sides(sides, letters(len(sides)), "side")],
        [*_checks(checks)],
        *([*_changes(pair.comparison, pair.title, pair.names)] for pair in pairs),
    ]
    _write(parts, out)


def _write(parts: Sequence[Sequence[str]], out: TextIO | None) -> None:
    text = "\n\n".join("\n".join(lines) for lines in parts if lines)
    (out or sys.stdout).write(f"{text}\n")


def _sides(sides: Sequence[Side], names: Sequence[str], title: str) -> Iterator[str]:
    """A line for each side; what sets it apart stands in code, since it comes from files."""
    if not sides:
        return
    columns, rows = side_cells(sides, names, title)
    told = 1 + len(apart(sides))
    shown = [(row[0], *map(code, row[1:told]), *map(_plain, row[told:])) for row in rows]
    yield from _table(columns, shown)
    yield ""
    for line in legend_lines(sides):
        yield f"- {_plain(line)}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(column.removeprefix('>') for column in columns)} |"
    yield f"|{'|'.join('---:' if column.startswith('>') else '---' for column in columns)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _totals(estimates: Sequence[Estimate]) -> Iterator[str]:
    columns = ("estimate", ">step", ">95 % of steps", ">forward", ">backward", ">update", ">memory")
    rows = [
        (
            f"{code(each.strategy)} on {code(each.device.slug)}, {each.settings.precision} {each.settings.layout}",
            f"**{duration(each.step_s)}**",
            f"{duration(each.step_low_s)} to {duration(each.step_high_s)}",
            *map(duration, (each.forward_s, each.backward_s, each.update_s)),
            "not known" if each.compiled else size(each.memory_bytes),
        )
        for each in estimates
    ]
    yield from _table(columns, rows)


def _kinds(estimates: Sequence[Estimate]) -> Iterator[str]:
    """What is compiled, and what is checkpointed."""
    for each in estimates:
        where = f" ({code(each.strategy)} on {code(each.device.slug)})" if len(estimates) > 1 else ""
        if each.compiled:
            yield f"- {compiled_line(each.compiled, each.step_s)}{where}"
        if each.real_steps:
            yield f"- {real_steps_line(each.real_steps)}{where}"
        for line in checkpoint_lines(each):
            inner = line.startswith(" ")
            yield f"{'  -' if inner else '-'} {code(line.strip())}{'' if inner else where}"


def _schedule(estimates: Sequence[Estimate], schedule: Schedule) -> Iterator[str]:
    for each in estimates:
        where = f" ({code(each.strategy)} on {code(each.device.slug)})" if len(estimates) > 1 else ""
        for title, text in schedule_lines(each, schedule).items():
            yield f"- {title}: {text}{where}"


def _checks(checks: Sequence[ThresholdCheck]) -> Iterator[str]:
    for each in checks:
        mark = "not certain" if each.doubtful else "passed" if each.passed else "**failed**"
        yield f"- {mark}: {sentence(each)} ({code(each.strategy)} on {code(each.device)})"


def _changes(
    comparison: Comparison, title: str = "since the baseline", names: tuple[str, str] = ("before", "now")
) -> Iterator[str]:
    """What became of the step and of the layers that moved most."""
    changed = largest_changes(comparison)
    before, after = duration(comparison.before_s), duration(comparison.after_s)
    doubt = f", {interval_text(*comparison.growth_80)}" if changed else ""
    where = f"{code(comparison.strategy)} on {code(comparison.device)}"
    told = f"{before} {names[0]}, {after} {names[1]}{doubt} ({where})"
    yield f"**{signed_percent(comparison.growth)}** {title}: {told}"
    if not changed:
        return
    yield ""
    rows = [
        (code(each.name), each.phase.replace("_", " "), *times_text(each), _code_or_nothing(algorithms_text(each)))
        for each in changed[:_MOST_LAYERS]
    ]
    yield from _table(("layer", "phase", f">{names[0]}", f">{names[1]}", ">difference", "algorithm"), rows)
    if len(changed) > _MOST_LAYERS:
        yield ""
        yield f"and {len(changed) - _MOST_LAYERS} more"


def _code_or_nothing(text: str) -> str:
    return code(text) if text else ""


def _heaviest(estimate: Estimate) -> Iterator[str]:
    """The layers that take most of the step."""
    times: dict[str, float] = {}
    for part in estimate.parts:
        times[part.name] = times.get(part.name, 0.0) + part.count * part.device_s
    total_s = sum(times.values()) or 1.0
    heaviest = sorted(times.items(), key=lambda item: -item[1])[:_MOST_LAYERS]
    rows = [(code(name), duration(time_s), percent(time_s / total_s)) for name, time_s in heaviest]
    yield from _table(("heaviest layers", ">time", ">share of all layers"), rows)
