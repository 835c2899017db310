"""Exports: the rows of a store as one file for other tools."""

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from statistics import median
from typing import Any, BinaryIO

from latte_cli.files import ExportFormat, text_over
from latte_cli.layers import LAYERS, layer_from_text
from latte_cli.printable import csv_cell

_BATCH_ROWS = 4096  # chosen: some MB of text at a time
_NESTED = ("before", "after")


def _write_parquet(table: Any, out: BinaryIO) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, out, compression="zstd")


def _write_csv(table: Any, out: BinaryIO) -> None:
    """A line a row: the layer's sizes in separate columns, samples separated by blanks, `seconds` their median."""
    with text_over(out) as text:
        writer = csv.DictWriter(text, _csv_columns(table), restval="", lineterminator="\n")
        writer.writeheader()
        for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
            writer.writerows(dict(_flat(row)) for row in batch.to_pylist())


def _csv_columns(table: Any) -> list[str]:
    columns: list[str] = []
    for name in table.column_names:
        if name == "layer":
            kinds = set(table.column("kind").unique().to_pylist())
            names = (f"layer.{field.name}" for layer in LAYERS if layer.kind in kinds for field in fields(layer))
            columns += dict.fromkeys(names)
        elif name in _NESTED:
            columns += (f"{name}.{field.name}" for field in table.schema.field(name).type)
        else:
            columns.append(name)
    return [*columns, "seconds"]


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if name == "layer":
            layer = layer_from_text(value)
            yield from ((f"layer.{field.name}", _cell(getattr(layer, field.name), "x")) for field in fields(layer))
        elif name in _NESTED:
            yield from ((f"{name}.{key}", _cell(item, " ")) for key, item in value.items())
        else:
            yield name, _cell(value, " ")
    if row["outcome"] == "ok" and row["evidence"] != "label":
        yield "seconds", median(row["device_times_s"]) if row["device_times_s"] else row["summary_s"]


def _cell(value: Any, separator: str) -> Any:
    shown = separator.join(map(str, value)) if isinstance(value, list | tuple) else value
    return csv_cell(shown) if isinstance(shown, str) else shown


WRITERS: dict[ExportFormat, Callable[[Any, BinaryIO], None]] = {
    ExportFormat.PARQUET: _write_parquet,
    ExportFormat.CSV: _write_csv,
}
"""How each form is written: a table of all columns, into a binary file."""
