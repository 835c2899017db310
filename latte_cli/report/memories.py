"""The memory of a training step, call by call, as table, JSON or CSV."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from typing import Any, TextIO

from latte_cli.estimator import Estimate, Memory
from latte_cli.estimator.memory import Moment
from latte_cli.report import Format, Table, shorten, size, write_csv, write_table

_BAR = 16  # chosen: characters; leaves room for the other columns
_PARTS = ("parameters", "gradients", "optimizer", "activations", "temporary")


def entry(memory: Memory) -> dict[str, Any]:
    """A step's memory as part of the document `latte.estimate/1`: its peak, and all moments."""
    peak = memory.peak
    return {
        "peak_bytes": peak.live_bytes,
        "peak_at": {"name": peak.name, "phase": peak.phase},
        **{f"{part}_bytes": getattr(peak, f"{part}_bytes") for part in _PARTS},
        "timeline": [_moment(moment) for moment in memory.timeline],
    }


def _moment(moment: Moment) -> dict[str, Any]:
    values = {field.name: getattr(moment, field.name) for field in fields(moment)}
    return values | {"live_bytes": moment.live_bytes}


def write_memory(estimates: Sequence[Estimate], form: Format, out: TextIO | None = None) -> None:
    """Write the timeline of each estimate's step."""
    for estimate in estimates:
        if form is Format.CSV:
            columns = ("device", *(field.name for field in fields(Moment)), "live_bytes")
            rows = [(estimate.device.slug, *astuple(one), one.live_bytes) for one in estimate.memory.timeline]
            write_csv(columns, rows, out)
        else:
            write_table(_table(estimate), out)


def _table(estimate: Estimate) -> Table:
    memory = estimate.memory
    return Table(
        title=f"memory of a step on {estimate.device.slug}",
        columns=("call", "phase", ">live", ""),
        rows=list(_rows(memory)),
        footer=[*_footer(memory)],
    )


def _rows(memory: Memory) -> Iterator[tuple[str, ...]]:
    peak = memory.peak
    for moment in memory.timeline:
        bar = "#" * max(1, round(_BAR * moment.live_bytes / peak.live_bytes))
        yield shorten(moment.name), moment.phase, size(moment.live_bytes), bar + (" peak" if moment is peak else "")


def _footer(memory: Memory) -> Iterator[str]:
    peak = memory.peak
    yield f"peak {size(peak.live_bytes)} at {peak.name} ({peak.phase}):"
    for part in _PARTS:
        yield f"  {part} {size(getattr(peak, f'{part}_bytes'))}"
