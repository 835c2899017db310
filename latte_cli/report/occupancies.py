"""The memory of processes that train, compared with a limit, as lines and JSON."""

from typing import Any, TextIO

from latte_cli.estimator import Estimate, Occupancy
from latte_cli.report import Format, Table, size, write_csv, write_table


def occupancy_entry(found: Occupancy, limit_bytes: int) -> dict[str, Any]:
    """A process's memory and whether it fits, as part of the document `latte.estimate/1`."""
    return {
        "answer": found.fits(limit_bytes),
        "limit_bytes": limit_bytes,
        "expected_bytes": found.expected_bytes,
        "low_bytes": found.low_bytes,
        "high_bytes": found.high_bytes,
        "live_bytes": found.live_bytes,
        "allocator_bytes": found.allocator_bytes,
        "context_low_bytes": found.context_low_bytes,
        "context_high_bytes": found.context_high_bytes,
    }


def write_occupancy(
    estimate: Estimate, found: Occupancy, limit_bytes: int, form: Format = Format.TABLE, out: TextIO | None = None
) -> None:
    """Write whether the process that trains fits, and what its memory is made of."""
    if form is Format.CSV:
        values = {"device": estimate.device.slug, "strategy": estimate.strategy} | occupancy_entry(found, limit_bytes)
        write_csv(tuple(values), [tuple(values.values())], out)
        return
    low, high = found.context_low_bytes, found.context_high_bytes
    context = size(low) if low == high else f"{size(low)} to {size(high)}"
    rows = [
        ("tensors and workspaces", size(found.live_bytes)),
        ("held by the allocator above them", size(found.allocator_bytes)),
        ("the process and its libraries" + (", not measured" if low != high else ""), context),
        ("expected", size(found.expected_bytes)),
        ("at least, at most", f"{size(found.low_bytes)}, {size(found.high_bytes)}"),
    ]
    title = f"fits {size(limit_bytes)}: {found.fits(limit_bytes)}"
    write_table(
        Table(title=(title, f"{estimate.strategy} on {estimate.device.slug}"), columns=("memory", ">size"), rows=rows),
        out,
    )
