"""Devices that can be named, as a table, JSON or CSV."""

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from latte_cli.datasheets import Sheet
from latte_cli.profiles import KnownDevice
from latte_cli.report import Format, Table, count, size, write_csv, write_json, write_table
from latte_cli.report.screens import screen_of

_COLUMNS = ("device", "name", "kind", "origin", "rows", "year", "generation", "peak_fp32_flop_per_s")
_TITLES = ("device", "kind", "from", ">rows", ">year", ">fp32 FLOP/s", ">bandwidth/s", ">memory")
_SPARE = (">rows", "kind", ">year", ">bandwidth/s", ">memory", "from")
_MORE_KNOWN = (
    "more are known by their data sheets: `latte devices --all` lists them,",
    "`latte devices jetson` those with that word in their name",
)
_AROUND = 5  # the command itself, the titles and their line, the command to type next, and the prompt
_MORE = ("bandwidth_bytes_per_s", "memory_bytes", "units", "power_w")


def write_devices(
    found: Sequence[KnownDevice], form: Format, *, every: bool = False, out: TextIO | None = None
) -> None:
    """Write the devices in the order given.

    A table on a screen that they do not fit has those with rows, and the number of the others, unless `every` one is
    wanted.
    """
    out = out or sys.stdout
    if form is Format.JSON:
        write_json({"schema": "latte.devices/1", "devices": [_entry(each) for each in found]}, out)
    elif form is Format.CSV:
        entries = [_entry(each) for each in found]
        write_csv((*_COLUMNS, *_MORE), [[entry[column] for column in (*_COLUMNS, *_MORE)] for entry in entries], out)
    else:
        screen = screen_of(out)
        long = screen is not None and len(found) + _AROUND > screen.lines
        shown = [each for each in found if each.rows] if long and not every else found
        more = len(found) - len(shown)
        footer = [f"{more} {_MORE_KNOWN[0]}", *_MORE_KNOWN[1:]] if more else []
        write_table(Table(columns=_TITLES, rows=[*map(_cells, shown)], footer=footer, spare=_SPARE), out)


def _cells(known: KnownDevice) -> tuple[str, ...]:
    entry = _entry(known)
    bandwidth = entry["bandwidth_bytes_per_s"]
    return (
        known.device.slug,
        known.device.kind.name,
        known.origin,
        str(known.rows or "-"),
        str(entry["year"] or "-"),
        count(entry["peak_fp32_flop_per_s"]) if entry["peak_fp32_flop_per_s"] else "-",
        f"{count(bandwidth)}B" if bandwidth else "-",
        size(known.device.memory_bytes),
    )


def _entry(known: KnownDevice) -> dict[str, Any]:
    device, sheet = known.device, known.sheet
    return {
        "device": device.slug,
        "name": device.name,
        "kind": device.kind.name,
        "origin": known.origin,
        "rows": known.rows,
        "year": sheet.year if sheet else None,
        "generation": sheet.generation if sheet else None,
        "peak_fp32_flop_per_s": sheet.peak("fp32") if sheet else device.peak_flop_per_s,
        "bandwidth_bytes_per_s": sheet.bandwidth_bytes_per_s if sheet else device.bandwidth_bytes_per_s,
        "memory_bytes": device.memory_bytes,
        "units": device.multiprocessors,
        "power_w": sheet.power_w if sheet else None,
        "sheet": _sheet_entry(sheet) if sheet else None,
    }


def _sheet_entry(sheet: Sheet) -> dict[str, Any]:
    """The figures of a sheet, the documents that state them, and the page that they were compared with."""
    return {
        "lanes": sheet.lanes,
        "clock_hz": sheet.clock_hz,
        "cache_bytes": sheet.cache_bytes,
        "peaks_flop_per_s": dict(sheet.peaks_flop_per_s),
        "documents": [
            {"figure": figure, "vendor": document.vendor, "title": document.title, "url": document.url}
            for figure, document in sheet.documents
        ],
        "compared_with": sheet.compared_with,
    }
