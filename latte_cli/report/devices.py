"""Devices that can be named, as a table, JSON or CSV."""

from collections.abc import Sequence
from typing import Any

from latte_cli.datasheets import Sheet
from latte_cli.profiles import KnownDevice
from latte_cli.report import Format, Table, count, size, write_csv, write_json, write_table

_COLUMNS = ("device", "name", "kind", "origin", "rows", "year", "generation", "peak_fp32_flop_per_s")
_MORE = ("bandwidth_bytes_per_s", "memory_bytes", "units", "power_w")


def write_devices(found: Sequence[KnownDevice], form: Format) -> None:
    """Write the devices in the order given."""
    if form is Format.JSON:
        write_json({"schema": "latte.devices/1", "devices": [_entry(each) for each in found]})
    elif form is Format.CSV:
        entries = [_entry(each) for each in found]
        write_csv((*_COLUMNS, *_MORE), [[entry[column] for column in (*_COLUMNS, *_MORE)] for entry in entries])
    else:
        columns = ("device", "kind", "from", ">year", ">fp32 FLOP/s", ">bandwidth/s", ">memory")
        write_table(Table(columns=columns, rows=[_cells(each) for each in found]))


def _cells(known: KnownDevice) -> tuple[str, ...]:
    entry = _entry(known)
    bandwidth = entry["bandwidth_bytes_per_s"]
    return (
        known.device.slug,
        known.device.kind.name,
        f"{known.origin}, {known.rows} rows" if known.rows else known.origin,
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
