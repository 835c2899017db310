"""Parts of a store that are odd, as a seed decides, and what every way of reading a store does with one."""

import io
import json
import random
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import mutations
import pyarrow as pa
import pyarrow.parquet as pq
from append_rows import DEVICE, measurement

from latte_cli.store import Store, open_store, schema

GOOD, ODD = range(4), range(10, 16)  # numbers of rows, see append_rows.py
VERSIONS = ("0", "-1", "1", "2", "4", "1000000000", "9" * 5000, "", "3.0", "x")
_WAYS = 8


@cache
def good() -> bytes:
    """A part of good rows, as a store writes it."""
    with tempfile.TemporaryDirectory() as folder:
        with open_store(folder, shipped=False).writer(DEVICE) as writer:
            writer.extend(map(measurement, ODD))
        (part,) = Path(folder).glob("device=*/part-*")
        return part.read_bytes()


def damaged_part(draw: random.Random) -> bytes:
    """A part whose bytes are damaged."""
    return damaged(draw, good())


def damaged(draw: random.Random, content: bytes) -> bytes:
    """A Parquet file whose bytes are damaged: any, or those of its footer, which has no checksum."""
    if draw.random() < 0.3:
        return mutations.bytes_damaged(draw, content)
    (length,) = struct.unpack("<I", content[-8:-4])
    start = len(content) - 8 - length
    if draw.random() < 0.5:
        footer = bytearray(content[start:-8])
        for _ in range(draw.choice((1, 1, 2, 5))):
            footer[draw.randrange(length)] ^= 1 << draw.randrange(8)
        footer = bytes(footer)
    else:
        footer = mutations.bytes_damaged(draw, content[start:-8])
    return content[:start] + footer + struct.pack("<I", len(footer)) + content[-4:]


def generated_part(draw: random.Random) -> bytes:
    """A Parquet file of rows with columns odd, gone, doubled or renamed, or that says odd things of itself."""
    rows = [schema.row(measurement(number)) for number in ODD]
    table = pa.Table.from_pylist(rows, schema=schema.arrow_schema(in_file=True))
    if draw.random() < 0.2:
        table = table.take(pa.repeat(pa.scalar(0), draw.choice((0, 1, 5000, 10**5))))
    version, device = str(schema.VERSION), schema.device_text(DEVICE).encode()
    for _ in range(draw.choice((1, 1, 2, 3))):
        way = draw.randrange(_WAYS)
        if way == 0:
            version = draw.choice(VERSIONS)
        elif way == 1:
            device = mutations.json_text(draw, json.loads(schema.device_text(DEVICE)))
        elif table.num_columns:
            table = _with_odd_column(draw, table, draw.randrange(table.num_columns), way)
    file = io.BytesIO()
    said = {schema.VERSION_KEY: version, schema.DEVICE_KEY: device}
    pq.write_table(table.replace_schema_metadata(said), file, **_form(draw))
    return file.getvalue()


def _form(draw: random.Random) -> dict[str, Any]:
    """How the file is written: mostly as a store does, sometimes as another program might."""
    if draw.random() < 0.7:
        return {"compression": "zstd"}
    return {
        "compression": draw.choice(("none", "snappy", "gzip", "zstd")),
        "use_dictionary": draw.random() < 0.5,
        "data_page_version": draw.choice(("1.0", "2.0")),
        "row_group_size": draw.choice((None, 1000)),
        "write_statistics": draw.random() < 0.5,
        "store_schema": draw.random() < 0.5,
    }


def _with_odd_column(draw: random.Random, table: Any, at: int, way: int) -> Any:
    """`table` with the column at a place odd; as it was where Arrow has no such column."""
    field, column = table.schema.field(at), table.column(at)
    if way == 2:
        return table.remove_column(at)
    if way == 3:
        return table.append_column(draw.choice((field.name, *mutations.TEXTS[:6])), column)
    try:
        if way == 4:
            kind = draw.choice((pa.string(), pa.large_string(), pa.int64(), pa.float32(), pa.binary(), pa.null()))
            return table.set_column(at, field.name, column.cast(kind))
        values = column.to_pylist()
        for place in [draw.randrange(len(values)) for _ in range(draw.choice((1, 1, 6)) if values else 0)]:
            values[place] = _odd(draw, values[place])
        return table.set_column(at, field, pa.array(values, field.type))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        return table


def _odd(draw: random.Random, value: Any) -> Any:
    """Another value of the same kind, or none."""
    if draw.random() < 0.1:
        return None
    if isinstance(value, str):
        if value.startswith('{"kind":') and draw.random() < 0.9:
            with suppress(ValueError):  # it is damaged already
                return mutations.json_text(draw, json.loads(value)).decode("utf-8", "replace")
        return draw.choice((*mutations.TEXTS, value + " ", value.upper(), value[::-1]))
    if isinstance(value, list):
        return [_odd(draw, each) for each in value[:9] or [0.5]] * draw.choice((1, 1, 5000))
    if isinstance(value, dict):
        return {name: draw.choice(mutations.REALS) if draw.random() < 0.5 else each for name, each in value.items()}
    return draw.choice(mutations.INTEGERS if isinstance(value, int) else mutations.REALS)


def store_beside(part: Path, folder: Path) -> Store:
    """A store in `folder` of a few good rows and the file `part`, which is read around where it has to be."""
    store = open_store(str(folder), shipped=False, skip=lambda error: None)
    with store.writer(DEVICE) as writer:
        writer.extend(map(measurement, GOOD))
    (folder / f"device={DEVICE.slug}" / "part-0.parquet").write_bytes(part.read_bytes())
    return store


def read_all(store: Store, other: Store, run: Callable[[Callable[[], Any]], Any] = lambda call: call()) -> bool:
    """Read, check, merge and compact a store, each call by `run`; whether the odd part was read.

    Raises AssertionError for a lost row.
    """
    read = not run(store.check).damaged
    layers = [measurement(number).task.layer for number in (*GOOD, *ODD)]
    run(store.info)
    run(lambda: store.measurements(DEVICE.slug, layers=layers))
    run(lambda: other.merge(store.full_uri))
    run(store.compact)
    for each in (store, other):
        found = {(row.task, row.measured_at) for row in run(partial(each.measurements, DEVICE.slug))}
        lost = [number for number in GOOD if (measurement(number).task, float(number)) not in found]
        assert not lost, "good rows are lost"
    return read and not store.skipped_parts
