"""Parts that this program has not written: each odd in one way, of the rows that a good part beside it holds."""

import io
import json
import struct
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from append_rows import DEVICE, measurement

from latte_cli.layers import layer_text
from latte_cli.store import checks, schema

NUMBERS = range(6)
"""The rows, see append_rows.py."""

LATER_S = 1000.0
"""How much later than the good rows the odd ones say that they were measured."""


@cache
def rows() -> Any:
    """The rows of an odd part before anything is odd: they have the ids of good ones and would displace them."""
    found = [schema.row(measurement(number, measured_at=number + LATER_S)) for number in NUMBERS]
    return pa.Table.from_pylist(found, schema=schema.arrow_schema(in_file=True))


def content(
    table: Any, *, version: object = schema.VERSION, device: str | None = None, lacking: bytes = b"", **how: Any
) -> bytes:
    """A Parquet file of `table` that says so much of itself; `lacking` is a key that it does not have."""
    said = {schema.VERSION_KEY: str(version), schema.DEVICE_KEY: device or schema.device_text(DEVICE)}
    said.pop(lacking, None)
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(said), file, compression="zstd", **how)
    return file.getvalue()


def replaced(name: str, values: Iterable[Any] | Any, kind: Any = None) -> bytes:
    """A part with another column `name`."""
    table = rows()
    at = table.column_names.index(name)
    column = pa.array(values, kind or table.schema.field(name).type)
    return content(table.set_column(at, name, column))


def first(name: str, value: Any) -> bytes:
    """A part whose first row has `value` in a column."""
    return replaced(name, [value, *rows().column(name).to_pylist()[1:]])


def cast(name: str, kind: Any) -> bytes:
    """A part with a column of another type."""
    return replaced(name, rows().column(name).cast(kind).combine_chunks(), kind)


def described(**changes: Any) -> bytes:
    """A part of a device with other fields."""
    return content(rows(), device=json.dumps(json.loads(schema.device_text(DEVICE)) | changes))


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


def repeated(count: int, table: Any | None = None) -> Any:
    """The first row so many times."""
    return (rows() if table is None else table).take(pa.repeat(pa.scalar(0), count))


def long_lists() -> bytes:
    """A few kB that unpack to a hundred thousand times as much."""
    length = 20_000
    times = pa.ListArray.from_arrays(
        pa.array(range(0, 300 * length + 1, length), pa.int32()), pa.repeat(pa.scalar(0.5, pa.float32()), 300 * length)
    )
    table = repeated(300)
    for name in ("device_times_s", "host_times_s"):
        table = table.set_column(table.column_names.index(name), name, times)
    return content(table)


def long_words() -> bytes:
    """A dictionary of one word of 100 kB, for twenty thousand kernels."""
    words = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), 20_000), pa.array(["k" * 10**5]))
    kernels = pa.ListArray.from_arrays(pa.array(range(0, 20_001, 20), pa.int32()), words)
    table = repeated(1000).set_column(rows().column_names.index("kernels"), "kernels", kernels)
    return content(table, store_schema=False)


def with_footer(file: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A Parquet file whose footer was changed."""
    (length,) = struct.unpack("<I", file[-8:-4])
    footer = change(file[-8 - length : -8])
    return file[: -8 - length] + footer + struct.pack("<I", len(footer)) + file[-4:]


def lying(file: bytes, true: int, said: int) -> bytes:
    """A Parquet file whose footer says another number wherever it is `true`; both take two bytes there."""
    return with_footer(file, lambda footer: footer.replace(_number(true), _number(said)))


def other_column(footer: bytes) -> bytes:
    """A footer whose row group calls a column otherwise than its schema does."""
    return b"measured_on".join(footer.rsplit(b"measured_at", 1))


def short_histogram(footer: bytes) -> bytes:
    """A footer with a column whose histogram of nothing and something, for six values, lacks an entry."""
    assert footer.count(b"\x26\x00\x0c")
    return footer.replace(b"\x26\x00\x0c", b"\x16\x00", 1)


def short_statistics(footer: bytes) -> bytes:
    """A footer whose greatest moment of measuring takes four bytes instead of eight."""
    latest = struct.pack("<d", LATER_S + NUMBERS[-1])
    assert footer.count(b"\x08" + latest)
    return footer.replace(b"\x08" + latest, b"\x04" + latest[4:])


def one_long_list(said: int) -> bytes:
    """A few kB that hold a row with a list of millions of numbers, but for `said` of them by the footer."""
    length = 1 << 23
    times = pa.ListArray.from_arrays([0, length], pa.repeat(pa.scalar(0.5, pa.float32()), length))
    table = repeated(1)
    at = table.column_names.index("device_times_s")
    file = content(table.set_column(at, "device_times_s", times), data_page_size=1 << 30)
    assert file.count(_long_number(length)) > 1
    return with_footer(file, lambda footer: footer.replace(_long_number(length), _long_number(said)))


def _long_number(value: int) -> bytes:
    """A number in four bytes, as the footer has those that need so many."""
    return bytes([value << 1 & 127 | 128, value >> 6 & 127 | 128, value >> 13 & 127 | 128, value >> 20])


def _number(value: int) -> bytes:
    return bytes([2 * value & 127 | 128, 2 * value >> 7])


def flipped(at: int) -> bytes:
    file = bytearray(content(rows()))
    file[at] ^= 4
    return bytes(file)


_OTHER = layer_text(measurement(40).task.layer)
_TIMES = ("device_times_s", "host_times_s")
_CLOSED = ("kind", "phase", "precision", "layout", "outcome", "evidence")

DAMAGED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"not a table\n" * 50,
    "cut": lambda: content(rows())[:-100],
    "a bit flipped": lambda: flipped(200),
    "another table": lambda: content(pa.table({"something": [1]})),
    "no columns": lambda: content(rows().select([])),
    "no schema": lambda: content(rows(), lacking=schema.VERSION_KEY),
    "no device": lambda: content(rows(), lacking=schema.DEVICE_KEY),
    **{f"schema {version!r}": lambda version=version: content(rows(), version=version) for version in (0, -1, "x", "")},
    "an older schema with newer columns": lambda: content(rows(), version=1),
    **{f"{name} left out": lambda name=name: content(rows().drop_columns([name])) for name in ("phase", "measured_at")},
    **{f"{name} twice": lambda name=name: content(rows().append_column(name, rows()[name])) for name in ("pass",)},
    "a column more": lambda: content(rows().append_column("more", rows()["pass"])),
    **{f"{name} as text": lambda name=name: cast(name, pa.string()) for name in ("pass", "measured_at", "drift")},
    "task_id as numbers": lambda: replaced("task_id", list(NUMBERS), pa.int64()),
    "before as text": lambda: replaced("before", ["x"] * 6, pa.string()),
    "marks as text": lambda: replaced("marks", ["x"] * 6, pa.string()),
    "phase as large text": lambda: cast("phase", pa.large_string()),
    "pass as wide numbers": lambda: cast("pass", pa.int64()),
    "times as wide numbers": lambda: cast("device_times_s", pa.list_(pa.float64())),
    **{
        f"nothing in {name}": lambda name=name: first(name, None)
        for name in ("layer", "marks", "before", "task_id", "measured_at", "device_times_s", "phase")
    },
    **{f"nothing in lists of {name}": lambda name=name: first(name, [None]) for name in ("host_times_s", "kernels")},
    **{
        f"{value} in {name}": lambda name=name, value=value: first(name, [value] if name in _TIMES else value)
        for name, value in zip(
            ("device_times_s", "host_times_s", "summary_s", "drift", "measured_at", "device_times_s", "measured_at"),
            (float("nan"), float("inf"), -1.0, 1e30, float("nan"), -1.0, -1.0),
            strict=True,
        )
    },
    **{f"{name} below zero": lambda name=name: first(name, -1) for name in ("pass", "threads", "workspace_bytes")},
    "measured after all clocks": lambda: replaced("measured_at", [5e9] * 6),
    "a clock far below zero": lambda: first("after", {"sm_clock_hz": -1e300}),
    "an endless clock": lambda: first("before", {"sm_clock_hz": float("inf")}),
    **{f"unknown {name}": lambda name=name: first(name, "\x1b[2Jodd") for name in _CLOSED},
    "unknown marks": lambda: first("marks", ["odd"]),
    "a layer that is none": lambda: first("layer", "{}"),
    "a deep layer": lambda: first("layer", deep(100_000)),
    "a deep device": lambda: content(rows(), device=deep(30_000)),
    "a long device": lambda: described(name="x" * 10**6),
    "another device": lambda: described(slug="other"),
    "a device above": lambda: described(slug="../numbered"),
    "an unknown kind of device": lambda: described(kind="abacus"),
    "a device that is a list": lambda: content(rows(), device="[]"),
    "a device with a deep name": lambda: described(name=json.loads(deep(50))),
    "a device with half a letter": lambda: described(name="\ud800"),
    "a device of odd memory": lambda: described(memory_bytes=-1),
    "a device with an odd peak": lambda: described(peak_flop_per_s=float("nan")),
    "a device with odd peaks": lambda: described(peaks_flop_per_s=[["fp32", "x"]]),
    "a device with odd libraries": lambda: described(libraries=[["torch"]]),
    "long lists": long_lists,
    "lists longer than any": lambda: first("device_times_s", [0.5] * 20_000),
    "long words": long_words,
    "too many rows": lambda: content(repeated(checks.MOST_ROWS + 1)),
    "too many groups": lambda: content(repeated(1025), row_group_size=1),
    "a footer with another column": lambda: with_footer(content(rows()), other_column),
    "a histogram that is too short": lambda: with_footer(content(rows()), short_histogram),
    "statistics that are too short": lambda: with_footer(content(rows()), short_statistics),
    "a footer with more rows": lambda: lying(content(repeated(300)), 300, 301),
}
"""Files that are no parts of a store, by what is odd about them."""

MISNAMED: dict[str, Callable[[], bytes]] = {
    "the layer of another": lambda: first("layer", _OTHER),
    "the task of another": lambda: replaced("task_id", rows()["task_id"].to_pylist()[::-1]),
    "the layer_id of another": lambda: replaced("layer_id", rows()["layer_id"].to_pylist()[::-1]),
    "another kind": lambda: first("kind", "linear"),
}
"""Damaged ones whose rows go by the ids of others, which is looked at before they are written elsewhere."""

NEWER: dict[str, Callable[[], bytes]] = {
    f"schema {version}": lambda version=version: content(rows(), version=version)
    for version in (schema.VERSION + 1, 10**9)
}
"""Parts of a later version."""
