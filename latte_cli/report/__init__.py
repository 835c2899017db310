"""Reports: results become tables, JSON and CSV; the only place that formats numbers."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import ceil, floor, log10
from typing import Any, Literal, TextIO, TypeAlias

from latte_cli.printable import csv_cell, printable, without_secrets

Cell: TypeAlias = str | int | float | None
_LEAST_TEXT = 16  # chosen: a name over more lines than three cannot be read
_BETWEEN = 2  # blanks between columns


class Format(StrEnum):
    """How a command writes its result."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A result for people: `columns` are titles (a leading `>` aligns right), cells are text ready to show.

    The title is a line or several. `styles` are colours of columns by their place, for terminals that show them. A
    terminal that is too narrow shows no `spare` columns, as they stand in `columns`; the first of them goes first.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    title: str | Sequence[str] = ""
    footer: Sequence[str] = ()
    styles: Mapping[int, str] = field(default_factory=dict)
    spare: Sequence[str] = ()

    def without(self, column: str) -> "Table":
        """The table less one of its columns, and less the line of the footer that begins with its title."""
        at, title = self.columns.index(column), column.removeprefix(">")
        return replace(
            self,
            columns=(*self.columns[:at], *self.columns[at + 1 :]),
            rows=[(*row[:at], *row[at + 1 :]) for row in self.rows],
            footer=[line for line in self.footer if not line.startswith(f"{title}: ")],
            styles={place - (place > at): style for place, style in self.styles.items() if place != at},
        )


def write_table(table: Table, out: TextIO | None = None) -> None:
    """Write `table`: framed and fitted to the width of a terminal; plain columns, never cut, into a pipe or file."""
    out = out or sys.stdout
    shown = Table(
        columns=tuple(map(printable, table.columns)),
        rows=[tuple(map(printable, row)) for row in table.rows],
        title="\n".join(map(printable, _lines(table.title))),
        footer=tuple(map(printable, table.footer)),
        styles=table.styles,
        spare=table.spare,
    )
    if out.isatty():
        _write_framed(shown, out)
    else:
        _write_plain(shown, out)


def _lines(title: str | Sequence[str]) -> Sequence[str]:
    return (title,) if isinstance(title, str) else title


def _write_framed(table: Table, out: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=out, highlight=False)
    for column in table.spare:
        if column in table.columns and sum(_widths(table)) > console.width:
            table = table.without(column)
    # Nothing is ever cut: a text that does not fit goes on in the next line, and a table of more numbers than fit is
    # wider than the terminal.
    rights = [column.startswith(">") for column in table.columns]
    least = sum(
        width if right else min(width, _LEAST_TEXT) for width, right in zip(_widths(table), rights, strict=True)
    )
    console.width = max(console.width, least)
    # Without an edge, which takes two lines, and with two blanks between columns as in a pipe.
    framed = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for at, column in enumerate(table.columns):
        right, style = column.startswith(">"), table.styles.get(at, "")
        title = Text(column.removeprefix(">"))
        justify: Literal["left", "right"] = "right" if right else "left"
        framed.add_column(title, justify=justify, no_wrap=right, overflow="fold", style=style)
    for row in table.rows:
        framed.add_row(*(Text(cell) for cell in row))
    if table.title:
        console.print(Text(str(table.title)))
    console.print(framed)
    for line in table.footer:
        console.print(Text(line))


def _widths(table: Table) -> list[int]:
    """The columns of a terminal that each column takes, with the blanks before it."""
    from rich.cells import cell_len

    cells = zip(_titles(table), *table.rows, strict=True)
    return [max(map(cell_len, each)) + _BETWEEN * (at > 0) for at, each in enumerate(cells)]


def _titles(table: Table) -> list[str]:
    return [column.removeprefix(">") for column in table.columns]


def _write_plain(table: Table, out: TextIO) -> None:
    titles = _titles(table)
    widths = [max(map(len, cells)) for cells in zip(titles, *table.rows, strict=True)]
    rights = [column.startswith(">") for column in table.columns]
    if table.title:
        out.write(f"{table.title}\n")
    for row in (titles, *table.rows):
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, rights, strict=True)
        )
        out.write((" " * _BETWEEN).join(cells).rstrip() + "\n")
    out.writelines(line + "\n" for line in table.footer)


def write_json(document: Mapping[str, Any], out: TextIO | None = None) -> None:
    """Write `document` as one indented JSON object; numbers that are not finite become null, secrets are blanked."""
    out = out or sys.stdout
    for piece in json.JSONEncoder(indent=2, allow_nan=False).iterencode(_fit_cell(document)):
        out.write(piece.replace("\x7f", r"\u007f"))  # the one control character that JSON leaves as it is
    out.write("\n")


def _fit_cell(value: Any) -> Any:
    if isinstance(value, str):
        return without_secrets(value)  # JSON itself escapes the rest
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if isinstance(value, Mapping):
        return {_fit_cell(key): _fit_cell(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fit_cell(item) for item in value]
    return value


def write_csv(columns: Sequence[str], rows: Sequence[Sequence[Cell]], out: TextIO | None = None) -> None:
    """Write rows under a header line; None becomes an empty field, and texts become what `csv_cell` makes of them."""
    writer = csv.writer(out or sys.stdout, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)


def shorten(name: str, width: int = 24) -> str:
    """The end of a layer's name that is longer than `width`: what sets it apart from others."""
    return name if len(name) <= width else "…" + name[1 - width :]


def duration(seconds: float | None) -> str:
    """Three significant digits in the unit that suits: `34.9 ms`."""
    return _scale(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")))


def long_duration(seconds: float) -> str:
    """A time in the unit that suits, hours and days too: `36.2 h`."""
    for factor, unit, least in ((86400.0, "d", 3.0), (3600.0, "h", 1.0), (60.0, "min", 2.0)):
        if seconds >= least * factor:
            return f"{seconds / factor:.3g} {unit}" if seconds < 1000 * factor else f"{seconds / factor:.0f} {unit}"
    return duration(seconds)


def duration_at_most(seconds: float) -> str:
    """Like `duration`, but rounded up: what ends by `seconds` ends by this."""
    step = 10.0 ** (floor(log10(seconds)) - 2) if seconds > 0 else 1.0
    return duration(ceil(round(seconds / step, 6)) * step)


def percent_at_least(share: float) -> str:
    """Like `percent`, but rounded down: only all is 100 %."""
    return percent(floor(round(1000 * share, 6)) / 1000)


def size(count: float | None) -> str:
    """A number of bytes in binary units: `12.5 MiB`."""
    if count is not None and abs(count) < 1024:
        return f"{count:.0f} B"
    return _scale(count, ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")))


def count(number: float | None) -> str:
    """A large number with its prefix: `11.7 M`."""
    if number is not None and abs(number) < 1000:
        return f"{number:g}"
    return _scale(number, ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")))


def percent(share: float | None) -> str:
    """A share of 1 as per cent: `97.8 %`."""
    return "-" if share is None else f"{100 * share:.1f} %"


def ratio(value: float | None) -> str:
    """A ratio with three decimals: `1.034`."""
    return "-" if value is None else f"{value:.3f}"


def _scale(value: float | None, units: Sequence[tuple[float, str]]) -> str:
    if value is None:
        return "-"
    if value == 0:
        return f"0 {units[0][1]}" if units[0][1] == "s" else "0"
    factor, unit = next(((f, u) for f, u in units if abs(value) >= f * 0.9995), units[-1])
    scaled = value / factor
    digits = 0 if abs(scaled) >= 99.95 else 1 if abs(scaled) >= 9.995 else 2
    return f"{scaled:.{digits}f} {unit}"
