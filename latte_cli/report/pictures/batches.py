"""A step at several batch sizes as a picture: throughput, and the memory of the process below it."""

from collections.abc import Sequence
from typing import Any

from latte_cli.estimator.batches import levels_off_at, rate
from latte_cli.report.batches import BatchRow
from latte_cli.report.pictures.devices import PALETTE, plain
from latte_cli.report.pictures.drawing import INK, figure_of

_ROOM = 1.08  # chosen: some white above the highest point


def batches_figure(rows: Sequence[BatchRow]) -> Any:
    """Samples per second against the batch, and what a process takes, with its interval; a line where it levels off."""
    estimates = [row.estimate for row in rows]
    batches = [each.network.batch_size for each in estimates]
    figure, [rates, memories] = figure_of(8, 5, rows=2)
    rates.plot(batches, list(map(rate, estimates)), "o-", color=PALETTE[0])
    rates.set_ylim(0, _ROOM * max(map(rate, estimates)))
    rates.set_ylabel("samples per second", fontsize=8, color=INK)
    taken = [row.occupancy for row in rows]
    gib = 2.0**30
    low, high = [each.low_bytes / gib for each in taken], [each.high_bytes / gib for each in taken]
    memories.fill_between(batches, low, high, color=PALETTE[1], alpha=0.25, linewidth=0)
    memories.plot(batches, [each.expected_bytes / gib for each in taken], "o-", color=PALETTE[1])
    most = max([*high, *([rows[0].limit_bytes / gib] if rows[0].limit_bytes else [])])
    memories.set_ylim(0, _ROOM * most)
    memories.set_ylabel("GiB of the process", fontsize=8, color=INK)
    memories.set_xlabel("batch", fontsize=8, color=INK)
    level = levels_off_at(estimates)
    for axes in (rates, memories):
        if level is not None:
            axes.axvline(level, color=INK, linewidth=0.8, linestyle="--")
        plain(axes)
    if rows[0].limit_bytes is not None:
        memories.axhline(rows[0].limit_bytes / gib, color=INK, linewidth=0.8)
    return figure
