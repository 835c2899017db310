"""The mean step of a mixture of sizes, with a line for each, as a table, JSON or CSV."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from latte_cli.estimator import Occupancy
from latte_cli.estimator.batches import rate
from latte_cli.estimator.mixtures import MixedStep, SizedStep, sizes_text
from latte_cli.report import Format, Table, duration, percent, shorten, size, write_csv, write_json, write_table
from latte_cli.report.estimates import left_out_line, schedule_lines, schedule_times, search_entry, search_line
from latte_cli.schedule import Schedule

MIXTURE = "latte.mixture/1"
"""The schema of the document."""

_COLUMNS = (
    *("sizes", "share", "step_s", "step_low_s", "step_high_s", "samples_per_s", "memory_bytes"),
    *("expected_bytes", "low_bytes", "high_bytes", "fits", "search_s"),
)


@dataclass(frozen=True, kw_only=True)
class SizeRow:
    """A step at one size, the memory of its process, and its limit, if there is one."""

    step: SizedStep
    occupancy: Occupancy
    limit_bytes: int | None = None


def write_mixture(
    mixed: MixedStep,
    rows: Sequence[SizeRow],
    document: Mapping[str, Any],
    form: Format,
    schedule: Schedule,
    out: TextIO | None = None,
) -> None:
    """Write a mixture, whose JSON is `document`; the `schedule` adds the times of an epoch and of all steps."""
    if form is Format.JSON:
        write_json(document, out)
    elif form is Format.CSV:
        write_csv(_COLUMNS, [_line(row) for row in rows], out)
    else:
        write_table(_table(mixed, rows, schedule), out)


def mixture_document(mixed: MixedStep, rows: Sequence[SizeRow], schedule: Schedule) -> dict[str, Any]:
    """A mixture as the document `latte.mixture/1`."""
    estimate = mixed.largest.estimate
    return {
        "schema": MIXTURE,
        "model": {
            "name": estimate.network.name,
            "sha256": estimate.network.sha256,
            "batch_size": estimate.network.batch_size,
            "parameters": estimate.network.parameters,
            "trained_parameters": estimate.network.trained_parameters,
        },
        "device": estimate.device.slug,
        "strategy": estimate.strategy,
        "estimator": estimate.estimator,
        "precision": estimate.settings.precision,
        "layout": estimate.settings.layout,
        "optimizer": estimate.optimizer,
        "accumulate": estimate.step.accumulate,
        "limit_bytes": rows[0].limit_bytes,
        "mixture": [_values(row) for row in rows],
        "largest": dict(mixed.largest.sizes),
        "totals": _totals(mixed, schedule),
        "search": search_entry(mixed.search) if mixed.search else None,
        "missing": mixed.missing,
        "warnings": [{"code": warn.code, "message": warn.message} for warn in mixed.warnings],
    }


def _values(row: SizeRow) -> dict[str, Any]:
    estimate, found = row.step.estimate, row.occupancy
    return {
        "sizes": dict(row.step.sizes),
        "share": row.step.share,
        "step_s": estimate.step_s,
        "step_low_s": estimate.step_low_s,
        "step_high_s": estimate.step_high_s,
        "samples_per_s": rate(estimate),
        "memory_bytes": estimate.memory_bytes,
        "expected_bytes": found.expected_bytes,
        "low_bytes": found.low_bytes,
        "high_bytes": found.high_bytes,
        "fits": None if row.limit_bytes is None else found.fits(row.limit_bytes),
        "search_s": estimate.search.time_s if estimate.search else None,
    }


def _totals(mixed: MixedStep, schedule: Schedule) -> dict[str, Any]:
    """The means in seconds, and the memory of the largest step in bytes."""
    return {
        "forward_s": mixed.forward_s,
        "backward_s": mixed.backward_s,
        "update_s": mixed.update_s,
        "other_s": mixed.other_s,
        "step_s": mixed.step_s,
        "step_low_s": mixed.step_low_s,
        "step_high_s": mixed.step_high_s,
        **schedule_times(mixed, schedule),
        "memory_bytes": mixed.memory_bytes,
        "energy_j": mixed.energy_j,
    }


def _line(row: SizeRow) -> tuple[Any, ...]:
    values = _values(row) | {"sizes": sizes_text(row.step.sizes)}
    return tuple(values[name] for name in _COLUMNS)


def _table(mixed: MixedStep, rows: Sequence[SizeRow], schedule: Schedule) -> Table:
    estimate, limit_bytes = mixed.largest.estimate, rows[0].limit_bytes
    limited = () if limit_bytes is None else (f"fits {size(limit_bytes)}",)
    mean = ("mean", percent(1.0), duration(mixed.step_s), size(mixed.memory_bytes), *("" for _ in ("", *limited)))
    return Table(
        title=(
            f"{estimate.network.name}, batch {estimate.network.batch_size}, a mixture of sizes: {estimate.strategy}",
            f"on {estimate.device.slug}, {estimate.settings.precision} {estimate.settings.layout}",
        ),
        columns=("sizes", ">share", ">step", ">memory", ">process", *limited),
        rows=[*map(_cells, rows), mean],
        footer=[*_footer(mixed, schedule)],
    )


def _cells(row: SizeRow) -> tuple[str, ...]:
    estimate, found = row.step.estimate, row.occupancy
    fits = () if row.limit_bytes is None else (found.fits(row.limit_bytes).value,)
    sizes = size(estimate.memory_bytes), size(found.expected_bytes)
    name = shorten(sizes_text(row.step.sizes), 32)
    return name, percent(row.step.share), duration(estimate.step_s), *sizes, *fits


def _footer(mixed: MixedStep, schedule: Schedule) -> Iterator[str]:
    parts = (("forward", mixed.forward_s), ("backward", mixed.backward_s), ("loss", mixed.other_s))
    yield "  ".join(f"{title} {duration(time_s)}" for title, time_s in (*parts, ("update", mixed.update_s)))
    low, high = duration(mixed.step_low_s), duration(mixed.step_high_s)
    yield f"mean step {duration(mixed.step_s)}, 95 % interval from {low} to {high}"
    for title, text in schedule_lines(mixed, schedule).items():
        yield f"{title} {text}"
    yield f"memory {size(mixed.memory_bytes)}, of {sizes_text(mixed.largest.sizes)}"
    if mixed.energy_j:
        yield f"energy {mixed.energy_j:.3g} J"
    if mixed.search:
        yield f"first step with each shape, in all: {search_line(mixed.search)}"
        if left := [sizes_text(each.sizes) for each in mixed.steps if not each.estimate.search]:
            yield f"what is searched is not known of {', '.join(left)}"
    yield from left_out_line([each.estimate for each in mixed.steps])
