"""What an import made of its files, as a table, JSON or CSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from latte_cli.devices import Device
from latte_cli.importers import Tally
from latte_cli.report import Format, Table, write_csv, write_json, write_table

SCHEMA = "latte.import/1"


@dataclass(frozen=True, kw_only=True)
class Import:
    """A file, the device that its rows are of, and what became of its lines."""

    path: Path
    device: Device
    tally: Tally


def write_imports(imports: Sequence[Import], form: Format, out: TextIO | None = None) -> None:
    """Write what became of the lines of each file."""
    if form is Format.JSON:
        files = [
            {
                "file": str(one.path),
                "device": one.device.slug,
                "rows": one.tally.rows,
                "dropped": dict(one.tally.dropped),
                "unreadable": one.tally.unreadable,
            }
            for one in imports
        ]
        write_json({"schema": SCHEMA, "files": files}, out)
        return
    columns = ("file", "device", ">rows", ">dropped", ">unreadable")
    rows = [
        (one.path.name, one.device.slug, one.tally.rows, one.tally.dropped.total(), one.tally.unreadable)
        for one in imports
    ]
    if form is Format.CSV:
        write_csv([name.lstrip(">") for name in columns], rows, out)
        return
    reasons = [f"{one.path.name}: {count} lines {why}" for one in imports for why, count in one.tally.dropped.items()]
    cells = [tuple(map(str, row)) for row in rows]
    write_table(Table(columns=columns, rows=cells, footer=reasons), out)
