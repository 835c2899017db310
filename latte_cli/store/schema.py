"""Rows: a measurement as the columns of a part, and tables of them."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from itertools import accumulate
from typing import Any, get_args, get_origin

from latte_cli.algorithms import Algorithm
from latte_cli.backends.contract import Conditions
from latte_cli.devices import Device, kind_named
from latte_cli.errors import LatteError
from latte_cli.layers import Layer, layer_text
from latte_cli.measure import Measurement
from latte_cli.store.reading import values
from latte_cli.tasks import Task

VERSION = 4
"""Version of the columns and of the devices; raised when an older reader would misread or refuse a newer part."""

VERSION_KEY, DEVICE_KEY = b"latte.schema", b"latte.device"

_CONDITIONS = tuple(field.name for field in fields(Conditions))

# Text columns that repeat are dictionaries: a million rows of layers then take the memory of the distinct ones.
_COLUMNS = {
    "task_id": "string",
    "layer_id": "words",
    "kind": "words",
    "layer": "words",
    "phase": "words",
    "library": "words",
    "algorithm": "words",
    "vendor_id": "int64",
    "precision": "words",
    "layout": "words",
    "threads": "int32",
    "cuda_graph": "bool",
    "power_mode": "words",
    "library_versions": "words",
    "pass": "int32",
    "outcome": "words",
    "evidence": "words",
    "device_times_s": "times",
    "host_times_s": "times",
    "summary_s": "float64",
    "cache_state": "words",
    "workspace_bytes": "int64",
    "marks": "texts",
    "drift": "float64",
    "deterministic": "bool",
    "kernels": "texts",
    "ranking": "texts",
    "notes": "texts",
    "detail": "words",
    "before": "conditions",
    "after": "conditions",
    "origin": "words",
    "measured_at": "float64",
}
COLUMNS = tuple(_COLUMNS)
"""The columns of a part, in their order."""

_SINCE = {"deterministic": 2, "kernels": 2, "ranking": 2, "notes": 3}  # versions of the columns
_CONDITIONS_SINCE = {"throttle_reasons": 2}  # versions of the conditions

ADDED = tuple(_SINCE)
"""The columns that the first version did not have: rows from then lack their values."""

WORDS = tuple(name for name, kind in _COLUMNS.items() if kind == "words")
"""The columns of repeating text."""


@lru_cache(maxsize=8)
def arrow_schema(*, in_file: bool = False, version: int = VERSION) -> Any:
    """The Arrow schema of rows in memory, or `in_file`, as a version of the columns had it.

    A file holds plain text, which Parquet encodes with a dictionary for each row group; Arrow's dictionaries would be
    written whole into every one.
    """
    import pyarrow as pa

    kinds = {"throttled": pa.bool_(), "governor": pa.string(), "throttle_reasons": pa.int64()}
    types = {
        "string": pa.string(),
        "words": pa.string() if in_file else pa.dictionary(pa.int32(), pa.string()),
        "int64": pa.int64(),
        "int32": pa.int32(),
        "bool": pa.bool_(),
        "float64": pa.float64(),
        "times": pa.list_(pa.float32()),
        "texts": pa.list_(pa.string()),
        "conditions": pa.struct(
            [(name, kinds.get(name, pa.float64())) for name in _CONDITIONS if _CONDITIONS_SINCE.get(name, 1) <= version]
        ),
    }
    return pa.schema([(name, types[_COLUMNS[name]]) for name in columns_of(version)])


@lru_cache(maxsize=65536)
def layer_id(layer: Layer) -> str:
    """16 hexadecimal digits that name a layer, to find its rows by."""
    return hashlib.blake2b(layer_text(layer).encode(), digest_size=8).hexdigest()


def row(measurement: Measurement) -> dict[str, Any]:
    """The columns of `measurement` as values that JSON can hold."""
    task, settings = measurement.task, measurement.task.settings
    named = task.algorithm if isinstance(task, Task) else task.ranker
    return {
        "task_id": task.id,
        "layer_id": layer_id(task.layer),
        "kind": task.layer.kind,
        "layer": layer_text(task.layer),
        "phase": task.phase.value,
        "library": named.library,
        "algorithm": named.name,
        "vendor_id": named.vendor_id if isinstance(named, Algorithm) else None,
        "precision": settings.precision.value,
        "layout": settings.layout.value,
        "threads": settings.threads,
        "cuda_graph": settings.cuda_graph,
        "power_mode": settings.power_mode,
        "library_versions": settings.versions_text,
        "pass": measurement.sweep_pass,
        "outcome": measurement.outcome.value,
        "evidence": measurement.evidence.value,
        "device_times_s": list(measurement.device_times_s),
        "host_times_s": list(measurement.host_times_s),
        "summary_s": measurement.summary_s,
        "cache_state": measurement.cache_state,
        "workspace_bytes": measurement.workspace_bytes,
        "marks": [flag.value for flag in measurement.flags],
        "drift": measurement.drift,
        "deterministic": measurement.deterministic,
        "kernels": list(measurement.kernels),
        "ranking": list(measurement.ranking),
        "notes": list(measurement.notes),
        # A library's message may hold bytes that are no text; they must not keep the row out of the store.
        "detail": measurement.detail.encode("utf-8", "replace").decode(),
        "before": _conditions(measurement.before),
        "after": _conditions(measurement.after),
        "origin": measurement.origin,
        "measured_at": measurement.measured_at,
    }


def _conditions(conditions: Conditions) -> dict[str, Any]:
    return {name: getattr(conditions, name) for name in _CONDITIONS}


def columns_of(version: int) -> tuple[str, ...]:
    """The columns that parts of an older version have too."""
    return tuple(name for name in COLUMNS if _SINCE.get(name, 1) <= version)


def upgrade(table: Any) -> Any:
    """`table` from a part of any version as rows in memory, with what its version did not know as nulls."""
    import pyarrow as pa

    columns = []
    for field in arrow_schema():
        if field.name not in table.column_names:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
        elif field.name in ("before", "after"):
            columns.append(_with_all_conditions(table.column(field.name), field.type))
        else:
            columns.append(table.column(field.name))
    return pa.Table.from_arrays(columns, schema=arrow_schema())


def _with_all_conditions(column: Any, wanted: Any) -> Any:
    import pyarrow as pa

    def wide(chunk: Any) -> Any:
        known = {field.name for field in chunk.type}
        values = [chunk.field(f.name) if f.name in known else pa.nulls(len(chunk), f.type) for f in wanted]
        return pa.StructArray.from_arrays(values, fields=list(wanted))

    return pa.chunked_array([wide(chunk) for chunk in column.chunks], type=wanted)


def device_text(device: Device) -> str:
    """A device as JSON."""
    return json.dumps(asdict(device) | {"kind": device.kind.name})


@lru_cache(maxsize=64)
def device_from_text(text: str) -> Device:
    """The inverse of `device_text`; raises ValueError for any other text."""
    if len(text) > _LONGEST_DEVICE:
        raise ValueError(f"a device is described by {len(text):,} letters")
    try:
        body = json.loads(text)
        kind = kind_named(body.pop("kind"))
        body |= {name: tuple(map(tuple, body.get(name, ()))) for name in ("libraries", "peaks_flop_per_s")}
        device = Device(**body, kind=kind)
    except (LatteError, TypeError, AttributeError, KeyError, RecursionError) as exc:
        raise ValueError("it is of no device that this version knows") from exc
    for field in fields(Device):
        _check_field(field.name, getattr(device, field.name), field.type)
    return device


_LONGEST_DEVICE = 2**16  # chosen: a hundred times what describes a device
_LARGEST = 1e24  # chosen: no device has so many bytes or hertz, and its square is finite


def _check_field(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError for what a device's field of type `kind` does not hold."""
    if get_origin(kind) is tuple:
        first, second = get_args(get_args(kind)[0])
        whole = all(len(pair) == 2 for pair in value)
        for pair in value if whole else ():
            _check_field(name, pair[0], first)
            _check_field(name, pair[1], second)
    else:
        whole = isinstance(value, kind) or (type(value) is int and isinstance(0.0, kind))
        whole = whole and (isinstance(value, bool) is (kind is bool))
    if whole and isinstance(value, str):
        value.encode()  # a half of a character is no text
    if not whole or (isinstance(value, int | float) and not 0 <= value <= _LARGEST):
        raise ValueError(f"its device has an odd `{name}`")


def table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as an Arrow table."""
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=arrow_schema())


def join_tables(tables: Sequence[Any]) -> Any:
    """The rows of `tables` one after the other, with one dictionary for each text column."""
    import pyarrow as pa

    return pa.concat_tables(tables).unify_dictionaries()


def last_moment_s(table: Any) -> float:
    """When the last row of `table` was measured, in seconds since the epoch; 0 without rows."""
    import pyarrow.compute as pc

    return float(pc.max(table.column("measured_at")).as_py() or 0)


def age_s(moment_s: float, until_s: float) -> float:
    """How long before `until_s` a row was measured; one of a later moment counts as older than any other.

    All are in seconds, those of moments since the epoch.
    """
    return until_s - moment_s if moment_s <= until_s else moment_s


def latest(table: Any, *, until_s: float) -> Any:
    """Each (task, pass) of `table` once, the one measured last, in the order of those two.

    Rows of a later moment than `until_s` (seconds since the epoch) give way to others. Of rows measured at the same
    moment the later one in `table` stays.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if table.num_rows < 2:
        return table
    keys = table.select(["task_id", "pass"])
    moments = table.column("measured_at")
    if last_moment_s(table) > until_s:
        ages = array("d", (-age_s(each, until_s) for each in values(moments)))
        moments = pa.Array.from_buffers(pa.float64(), len(ages), [None, pa.py_buffer(ages)])
    dated = keys.append_column("moment", moments)
    order = pc.sort_indices(dated, sort_keys=[(name, "ascending") for name in dated.column_names])
    task, number = (column.combine_chunks() for column in keys.take(order).columns)
    last = table.num_rows - 1
    repeated = pc.and_(pc.equal(task[1:], task[:last]), pc.equal(number[1:], number[:last]))
    # From a buffer, as elsewhere here: a look-up must not import pandas, which pyarrow does to convert Python values.
    final = pa.Array.from_buffers(pa.bool_(), 1, [None, pa.py_buffer(b"\1")])
    return table.take(order.filter(pa.concat_arrays([pc.invert(repeated), final])))


def by_layer(table: Any) -> Any:
    """The rows of `table` with those of one layer together, as they are kept in a part."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # Dictionaries cannot be sorted.
    keys = {"layer_id": table.column("layer_id").cast("string"), "task_id": table.column("task_id")}
    return table.take(pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys]))


def rows_at(table: Any, positions: Iterable[int]) -> Any:
    """The rows of `table` at some positions."""
    import pyarrow as pa

    numbers = array("q", positions)
    return table.take(pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)]))


def among(table: Any, column: str, values: Iterable[str]) -> Any:
    """The rows of `table` whose text in `column` is one of `values`."""
    import pyarrow.compute as pc

    return table.filter(pc.is_in(table.column(column).cast("string"), value_set=_strings(values)))


def _strings(values: Iterable[str]) -> Any:
    import pyarrow as pa

    texts = [value.encode() for value in set(values)]
    offsets = array("i", accumulate(map(len, texts), initial=0))
    return pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))])


def empty() -> Any:
    """No rows."""
    import pyarrow as pa

    return pa.Table.from_arrays([pa.nulls(0, field.type) for field in arrow_schema()], schema=arrow_schema())


def with_device(table: Any, slug: str) -> Any:
    """`table` with a first column `device` that holds `slug` in each row."""
    import pyarrow as pa

    indices = pa.Array.from_buffers(pa.int32(), table.num_rows, [None, pa.py_buffer(bytes(4 * table.num_rows))])
    return table.add_column(0, "device", pa.DictionaryArray.from_arrays(indices, _strings([slug])))
