"""Links between devices, as table, JSON or CSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from latte_cli.devices import Kind
from latte_cli.estimator.links import Link
from latte_cli.report import Format, Table, duration, size, write_csv, write_json, write_table


@dataclass(frozen=True, kw_only=True)
class MeasuredLink:
    """The link among `processes`, a device each, and what it comes from: (bytes, seconds) of all-reduces."""

    processes: int
    link: Link
    exchanges: Sequence[tuple[int, float]]


def write_links(kind: Kind, found: Sequence[MeasuredLink], form: Format, out: TextIO | None = None) -> None:
    """Write the links among devices of `kind`."""
    if form is Format.JSON:
        links = [
            {
                "processes": one.processes,
                "bandwidth_bytes_per_s": one.link.bandwidth_bytes_per_s,
                "latency_s": one.link.latency_s,
                "exchanges": [{"size_bytes": size_bytes, "time_s": time_s} for size_bytes, time_s in one.exchanges],
            }
            for one in found
        ]
        write_json({"schema": "latte.links/1", "kind": kind.name, "links": links}, out)
    elif form is Format.CSV:
        rows = [(one.processes, one.link.bandwidth_bytes_per_s, one.link.latency_s) for one in found]
        write_csv(("processes", "bandwidth_bytes_per_s", "latency_s"), rows, out)
    else:
        write_table(_table(kind, found), out)


def _table(kind: Kind, found: Sequence[MeasuredLink]) -> Table:
    shared = [] if kind.indexed else ["processes that share a CPU: not what GPUs do"]
    return Table(
        title=f"all-reduces among processes, a {kind.title} each",
        columns=(">processes", ">rate", ">latency", "for `latte estimate --gpus`"),
        rows=[
            (
                str(one.processes),
                f"{size(one.link.bandwidth_bytes_per_s)}/s",
                duration(one.link.latency_s),
                f"--link {one.link}",
            )
            for one in found
        ],
        footer=shared,
    )
