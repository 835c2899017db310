"""`latte store`: look at, check, join and export what was measured."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from latte_cli import files, report
from latte_cli.cli import console
from latte_cli.cli.options import FormatOption, StoreOption, asked_of
from latte_cli.cli.stores import store_to_read
from latte_cli.errors import ExitCode, LatteError
from latte_cli.files import ExportFormat
from latte_cli.report import Format

if TYPE_CHECKING:
    from collections.abc import Iterable

    from latte_cli.store import DeviceInfo, Findings, JournalInfo

app = typer.Typer(help="Show, check, merge and export what was measured.", no_args_is_help=True)

SkipOption: TypeAlias = Annotated[
    bool, typer.Option("--skip-damaged", help="Leave out parts that are damaged or of a newer version, and name them.")
]
DeviceArgument: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="[DEVICE]", help="A profile's name. [default: all]", show_default=False)
]


@app.command()
def info(store: StoreOption = None, form: FormatOption = Format.TABLE) -> None:
    """Show what the store holds, and which rows wait in journals."""
    opened = store_to_read(store)
    found = opened.info()
    if form is Format.JSON:
        document = {
            "schema": "latte.store-info/1",
            "store": found.uri,
            "store_schema": found.schema,
            "rows": sum(device.rows for device in found.devices),
            "size_bytes": sum(device.size_bytes for device in found.devices),
            "devices": [_held_row(device) for device in found.devices],
            "left_out": _faults(opened.skipped_parts),
            "journals": [_journal(journal) for journal in found.journals],
        }
        report.write_json(document)
    elif form is Format.CSV:
        rows = [tuple(_held_row(device).values()) for device in found.devices]
        report.write_csv(("device", "rows", "parts", "size_bytes", "first_s", "last_s", "shipped"), rows)
    else:
        rows = [_info_cells(device) for device in found.devices]
        columns = ("device", ">rows", ">parts", ">size", "last measured", "from")
        footer = [_waiting_line(journal) for journal in found.journals] or ["no rows wait in journals"]
        report.write_table(report.Table(columns=columns, rows=rows, title=f"store {found.uri}", footer=footer))


def _held_row(found: "DeviceInfo") -> dict[str, Any]:
    return {
        "device": found.device.slug,
        "rows": found.rows,
        "parts": found.parts,
        "size_bytes": found.size_bytes,
        "first_s": found.first_s,
        "last_s": found.last_s,
        "shipped": found.shipped,
    }


def _info_cells(found: "DeviceInfo") -> tuple[str, ...]:
    day = datetime.fromtimestamp(found.last_s, UTC).date().isoformat()
    origin = "the package" if found.shipped else "the store"
    return (found.device.slug, str(found.rows), str(found.parts), report.size(found.size_bytes), day, origin)


def _journal(journal: "JournalInfo") -> dict[str, Any]:
    return {"path": str(journal.path), "rows": journal.rows, "live": journal.live}


def _waiting_line(journal: "JournalInfo") -> str:
    state = "being written" if journal.live else "added by the next `latte profile`"
    return f"journal {journal.path}, {state}: {journal.rows} rows"


@app.command()
def devices(store: StoreOption = None, form: FormatOption = Format.TABLE) -> None:
    """List the devices with a profile, by their `--device` names."""
    found = store_to_read(store).info().devices
    if form is Format.JSON:
        report.write_json({"schema": "latte.store-devices/1", "devices": [_device_row(each) for each in found]})
    elif form is Format.CSV:
        lines = [(each.device.slug, each.device.kind.name, each.device.name, each.rows) for each in found]
        report.write_csv(("device", "kind", "name", "rows"), lines)
    else:
        cells = [
            (
                each.device.slug,
                each.device.kind.name,
                each.device.name,
                report.size(each.device.memory_bytes),
                str(each.rows),
            )
            for each in found
        ]
        report.write_table(report.Table(columns=("device", "kind", "name", ">memory", ">rows"), rows=cells))
    if found:
        known = found[0].device
        console.note(f"next: `latte estimate MODEL {asked_of(known)}`")
    else:
        console.note("next: `latte profile --budget 2m` makes a profile of this machine")


def _device_row(found: "DeviceInfo") -> dict[str, Any]:
    device = found.device
    return {
        "device": device.slug,
        "kind": device.kind.name,
        "name": device.name,
        "memory_bytes": device.memory_bytes,
        "bandwidth_bytes_per_s": device.bandwidth_bytes_per_s,
        "peak_flop_per_s": device.peak_flop_per_s,
        "peaks_flop_per_s": dict(device.peaks_flop_per_s),
        "compute_capability": device.compute_capability,
        "multiprocessors": device.multiprocessors,
        "cache_bytes": device.cache_bytes,
        "sm_clock_hz": device.sm_clock_hz,
        "memory_clock_hz": device.memory_clock_hz,
        "rated_bandwidth_bytes_per_s": device.rated_bandwidth_bytes_per_s,
        "driver": device.driver,
        "libraries": dict(device.libraries),
        "rows": found.rows,
        "shipped": found.shipped,
    }


@app.command()
def export(
    device: DeviceArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to this file. [default: stdout, for CSV]"),
    ] = None,
    form: Annotated[
        ExportFormat | None,
        typer.Option("--format", help="Form of the rows. [default: by the ending of --output, else csv]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    skip_damaged: SkipOption = False,
    store: StoreOption = None,
) -> None:
    """Write the rows of one device, or of all, as CSV or Parquet."""
    chosen = form or (ExportFormat.PARQUET if output and output.suffix == ".parquet" else ExportFormat.CSV)
    if output is None and chosen is ExportFormat.PARQUET:
        raise LatteError("parquet needs a file", hint="add `--output FILE`", exit_code=ExitCode.USAGE)
    if output:
        files.check_free(output, force=force)
    opened = store_to_read(store, skip_damaged=skip_damaged)
    if output is None:
        opened.export(device, chosen, sys.stdout.buffer)
    else:
        with files.replacement(output) as out:
            rows = opened.export(device, chosen, out)
        console.note(f"{rows} rows written to `{output}`")


@app.command()
def merge(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The other store: a directory or a URI.")],
    destination: Annotated[
        str | None,
        typer.Argument(metavar="[DESTINATION]", help="The store that gets the rows. [default: --store]"),
    ] = None,
    skip_damaged: SkipOption = False,
    store: StoreOption = None,
) -> None:
    """Add the rows of the store SOURCE that DESTINATION lacks.

    Doing it twice changes nothing.
    """
    from latte_cli.store import open_store

    if destination and store:
        raise LatteError("the destination is given twice", hint="leave out `--store`", exit_code=ExitCode.USAGE)
    opened = open_store(destination or store, skip=console.left_out if skip_damaged else None)
    for slug, rows in opened.merge(source).items():
        console.note(f"{rows} rows of {slug} added")
    console.note(f"next: `latte store devices --store {console.shell_word(opened.uri)}`")


@app.command()
def compact(device: DeviceArgument = None, store: StoreOption = None) -> None:
    """Merge the parts of each device into one.

    Parts that are damaged or of a newer version stay where they are.
    """
    opened = store_to_read(store)
    parts = opened.compact(device)
    console.note(f"{parts} parts merged; next: `latte store info --store {console.shell_word(opened.uri)}`")


@app.command()
def check(
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Move damaged parts to `.damaged/`, so that the rest can be read.")
    ] = False,
    store: StoreOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Read all parts and name those that cannot be read.

    Ends with code 1 if some are damaged and were not set aside.
    """
    opened = store_to_read(store)
    found = opened.check(set_aside=set_aside)
    _write_findings(opened.uri, found, form)
    for name, problem in found.unreadable:
        console.warn(f"`{name}` stays where it is: {problem}")
    for place in found.set_aside:
        console.note(f"moved to {place}")
    left = len(found.damaged) - len(found.set_aside)
    if left:
        raise LatteError(
            f"{left} of the store's parts cannot be read",
            hint="`latte store check --set-aside` moves them out of the way",
        )


def _faults(parts: "Iterable[tuple[str, str]]") -> list[dict[str, str]]:
    return [{"part": name, "problem": problem} for name, problem in parts]


def _write_findings(uri: str, found: "Findings", form: Format) -> None:
    if form is Format.JSON:
        document = {
            "schema": "latte.store-check/1",
            "store": uri,
            "parts": found.parts,
            "rows": found.rows,
            "duplicates": found.duplicates,
            "damaged": _faults(found.damaged),
            "unreadable": _faults(found.unreadable),
            "set_aside": list(found.set_aside),
        }
        report.write_json(document)
    elif form is Format.CSV:
        report.write_csv(("part", "problem"), found.damaged)
    else:
        footer = [f"can be read: {found.rows} rows in {found.parts} parts, {found.duplicates} duplicates among them"]
        report.write_table(
            report.Table(columns=("damaged part", "problem"), rows=found.damaged, title=f"store {uri}", footer=footer)
        )
