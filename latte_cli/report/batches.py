"""A step at several batch sizes: throughput and memory as a table, JSON or CSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from latte_cli.estimator import Estimate, Occupancy
from latte_cli.estimator.batches import LEAST_GAIN, levels_off_at, rate
from latte_cli.report import Format, Table, duration, percent, size, write_csv, write_json, write_table

BATCHES = "latte.batches/1"
"""The schema of the document."""

_BAR = 16  # chosen: characters, as in the memory's table
_COLUMNS = (
    *("batch_size", "accumulate", "step_s", "step_low_s", "step_high_s", "samples_per_s", "memory_bytes"),
    *("expected_bytes", "low_bytes", "high_bytes", "fits"),
)


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """A step at one batch, the memory of its process, and its limit, if there is one."""

    estimate: Estimate
    occupancy: Occupancy
    limit_bytes: int | None = None


def write_batches(rows: Sequence[BatchRow], form: Format, out: TextIO | None = None) -> None:
    """Write steps of one network on one device, the smallest batch first."""
    if form is Format.JSON:
        write_json(batches_document(rows), out)
    elif form is Format.CSV:
        write_csv(_COLUMNS, [tuple(_values(row)[name] for name in _COLUMNS) for row in rows], out)
    else:
        write_table(_table(rows), out)


def batches_document(rows: Sequence[BatchRow]) -> dict[str, Any]:
    """Steps as the document `latte.batches/1`."""
    first = rows[0].estimate
    return {
        "schema": BATCHES,
        "model": {"name": first.network.name, "sha256": first.network.sha256},
        "device": first.device.slug,
        "strategy": first.strategy,
        "precision": first.settings.precision,
        "optimizer": first.optimizer,
        "limit_bytes": rows[0].limit_bytes,
        "levels_off_at": levels_off_at([row.estimate for row in rows]),
        "least_gain": LEAST_GAIN,
        "batches": [_values(row) for row in rows],
    }


def _values(row: BatchRow) -> dict[str, Any]:
    each, found = row.estimate, row.occupancy
    return {
        "batch_size": each.network.batch_size,
        "accumulate": each.step.accumulate,
        "step_s": each.step_s,
        "step_low_s": each.step_low_s,
        "step_high_s": each.step_high_s,
        "samples_per_s": rate(each),
        "memory_bytes": each.memory_bytes,
        "expected_bytes": found.expected_bytes,
        "low_bytes": found.low_bytes,
        "high_bytes": found.high_bytes,
        "fits": None if row.limit_bytes is None else found.fits(row.limit_bytes),
    }


def _table(rows: Sequence[BatchRow]) -> Table:
    first, limit_bytes = rows[0].estimate, rows[0].limit_bytes
    fastest = max(rate(row.estimate) for row in rows)
    limited = () if limit_bytes is None else (f"fits {size(limit_bytes)}",)
    return Table(
        title=(f"{first.network.name} at several batches: {first.strategy}", f"on {first.device.slug}"),
        columns=(">batch", ">step", ">samples/s", "", ">process", ">at most", *limited),
        rows=[_cells(row, fastest) for row in rows],
        footer=[*_levels(rows)],
    )


def _cells(row: BatchRow, fastest: float) -> tuple[str, ...]:
    each, found = row.estimate, row.occupancy
    times = f"{each.step.accumulate} x {each.network.batch_size}" if each.step.accumulate > 1 else None
    bar = "#" * max(1, round(_BAR * rate(each) / fastest))
    fits = () if row.limit_bytes is None else (found.fits(row.limit_bytes).value,)
    sizes = size(found.expected_bytes), size(found.high_bytes)
    return times or str(each.network.batch_size), duration(each.step_s), f"{rate(each):.4g}", bar, *sizes, *fits


def _levels(rows: Sequence[BatchRow]) -> list[str]:
    if len(rows) < 2:
        return []
    found = levels_off_at([row.estimate for row in rows])
    least = percent(LEAST_GAIN)
    if found is None:
        return [f"the largest batch still gains {least} or more samples per second"]
    return [f"after batch {found} less than {least} samples per second are gained"]
