"""Checks: whether a part is what this program writes, for anybody can put a file next to the others."""

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from operator import ne
from typing import Any

from latte_cli.errors import LatteError
from latte_cli.layers import LAYERS, Phase, layer_from_text
from latte_cli.measure import Evidence, Outcome, QualityFlag
from latte_cli.precisions import Layout, Precision
from latte_cli.store import schema
from latte_cli.store.chunks import BIT_PACKED, PLAIN, RLE, Chunk, FileMetadata, Group, row_groups
from latte_cli.store.reading import values as values_of
from latte_cli.tasks import id_of_texts

MOST_ROWS = 2**20  # chosen: a million as in benchmarks/store_speed.py; compaction makes several parts of more
"""Rows of one part."""

MOST_FOOTER_BYTES = 2**24  # chosen: _MOST_GROUPS of 10 kB each, what one with all statistics takes
"""Length of a part's footer."""

MOST_BYTES = 2**30  # chosen: 1 kB for each of so many rows, where the shipped profiles take 600 bytes
"""Memory that the rows of one part may take."""

_MOST_GROUPS = 2**10  # chosen: MOST_ROWS in groups of 1024 rows, where a writer's have 4096
_LONGEST_LIST = 2**14  # chosen: hundreds of times the samples of a task, ten times the kernels of a large network
_LARGEST = 1e15  # chosen: no time in seconds, clock in hertz or power in watts is as large, and its square is finite
_AHEAD_S = 86400.0  # chosen: clocks of machines that share a store differ by less
_LATEST_S = 2.0**32  # in 2106, when clocks of 32 bits begin anew: no wrong clock is further ahead
_WRITTEN_S = 1.75e9  # June 2025: a clock that says less than this program's age is wrong and bounds nothing

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}  # bytes in memory
_AS_LONG = {PLAIN, RLE, BIT_PACKED}

_MAY_LACK = {"vendor_id", "summary_s", "workspace_bytes", *schema.ADDED}
_CLOSED: Mapping[str, Collection[str]] = {
    "kind": {layer.kind for layer in LAYERS},
    "phase": tuple(Phase),
    "precision": tuple(Precision),
    "layout": tuple(Layout),
    "outcome": tuple(Outcome),
    "evidence": tuple(Evidence),
    "marks": tuple(QualityFlag),
}
_NUMBERS = ("threads", "pass", "device_times_s", "host_times_s", "summary_s", "workspace_bytes", "drift", "measured_at")


# Footers


def check_footer(described: FileMetadata, version: int) -> tuple[int, list[Group]]:
    """The most bytes that the rows of a part take in memory, and its row groups, by its footer.

    Raises ValueError where it has other columns than its version's, or more of something than is read.
    """
    kinds = _columns(described.columns, version)
    if len(described.groups) > _MOST_GROUPS:
        raise ValueError(f"it has {len(described.groups):,} row groups, where {_MOST_GROUPS:,} are read")
    if not 0 <= described.rows <= MOST_ROWS:
        raise ValueError(f"it has {described.rows:,} rows, where {MOST_ROWS:,} are read")
    groups = row_groups(described.groups, tuple(kinds))
    if sum(group.rows for group in groups) != described.rows:
        raise ValueError("its row groups have other rows than it says")
    size = sum(
        _chunk_bytes(chunk, group.rows, path, kinds[path]) for group in groups for path, chunk in group.chunks.items()
    )
    if size > MOST_BYTES:
        raise ValueError(f"its rows may take {size:,} bytes, where {MOST_BYTES:,} are read")
    return size, groups


@lru_cache(maxsize=64)  # chosen: a store's parts have the same columns for each version and device
def _columns(empty_file: bytes, version: int) -> Mapping[str, str]:
    """The physical types of the columns of a file by their paths; raises ValueError where it has others than wanted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = pq.read_metadata(pa.BufferReader(empty_file)).schema
    expected = {field.name: field.type for field in schema.arrow_schema(in_file=True, version=version)}
    found = parquet.to_arrow_schema()
    for name in found.names:
        if name not in expected or found.names.count(name) > 1:
            raise ValueError(f"it has the column `{_quote(name)}` {'twice' if name in expected else 'too'}")
    if lacking := [name for name in expected if name not in found.names]:
        raise ValueError(f"it lacks the columns {', '.join(lacking)}")
    for name, kind in expected.items():
        if found.field(name).type != kind:
            raise ValueError(
                f"its column `{name}` is of type {_quote(str(found.field(name).type))}, not {_quote(str(kind))}"
            )
    return {column.path: column.physical_type for column in map(parquet.column, range(len(parquet)))}


def _chunk_bytes(chunk: Chunk, rows: int, name: str, physical_type: str) -> int:
    if chunk.values > _LONGEST_LIST * rows:
        raise ValueError(f"its column `{name}` has {chunk.values:,} values in {rows:,} rows, it says")
    width = _WIDTHS[physical_type]
    if physical_type != "BYTE_ARRAY":
        return width * chunk.values
    if name in schema.WORDS or _AS_LONG.issuperset(chunk.encodings):
        return width * chunk.values + chunk.size_bytes
    return chunk.values * (width + chunk.size_bytes)  # each may be the longest


def _quote(text: str) -> str:
    """The start of what somebody wrote, in a line of ours that quotes it."""
    return " ".join(text.split()).replace("`", "'")[:40]


# Rows


def check_rows(table: Any, *, until_s: float = _LATEST_S) -> None:
    """Raise ValueError where the rows of a part, as they were read, hold what no measurement does.

    No row may be of a later moment than `until_s`, in seconds since the epoch.
    """
    table.validate(full=True)
    if not table.num_rows:
        return
    for name in table.column_names:
        for chunk in table.column(name).chunks:
            if chunk.null_count and name not in _MAY_LACK:
                raise ValueError(f"its column `{name}` lacks values")
            for leaf in _leaves(chunk, name):
                _check_leaf(leaf, name)
    latest_s = schema.last_moment_s(table)
    if latest_s > until_s:
        raise ValueError(f"its column `measured_at` is ahead of the clock: {latest_s:.0f} seconds since the epoch")


def check_numbers(row: Mapping[str, Any]) -> None:
    """Raise ValueError for a row, as `schema.row` makes it, with a number that would spoil the part that it is in."""
    for name, value in row.items():
        held = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(each, float) and not abs(each) <= _LARGEST for each in held):
            raise ValueError(f"`{name}` of a row holds a number that is not finite, or too large")
        if name in _NUMBERS and any(each < 0 for each in held if each is not None):
            raise ValueError(f"`{name}` of a row holds a number below zero")


def latest_moment_s(now_s: float) -> float:
    """The latest moment that a row can have been measured at, by a clock, in seconds since the epoch."""
    return now_s + _AHEAD_S if now_s > _WRITTEN_S else _LATEST_S


def check_moments(first_s: float, last_s: float) -> None:
    """Raise ValueError for moments of a part's first and last row that no clock shows."""
    if not 0 <= first_s <= last_s <= _LATEST_S:
        raise ValueError(f"its rows were measured from {first_s} to {last_s} seconds since the epoch, it says")


def _leaves(chunk: Any, name: str) -> Iterator[Any]:
    """The arrays of plain values in a column; raises ValueError for a list that is too long or lacks entries."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(chunk.type):
        if len(chunk) and (pc.max(pc.list_value_length(chunk)).as_py() or 0) > _LONGEST_LIST:
            raise ValueError(f"its column `{name}` has lists of more than {_LONGEST_LIST:,} entries")
        values = chunk.flatten()
        if values.null_count:
            raise ValueError(f"its column `{name}` has lists that lack entries")
        yield values
    elif pa.types.is_struct(chunk.type):
        yield from chunk.flatten()
    else:
        yield chunk


def _check_leaf(values: Any, name: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(values.type) and pc.all(pc.is_finite(values)).as_py() is False:
        raise ValueError(f"its column `{name}` holds numbers that are not finite")
    if pa.types.is_floating(values.type) and max(_greatest(values), -_least(values)) > _LARGEST:
        raise ValueError(f"its column `{name}` holds numbers beyond {_LARGEST:.0e}")
    if name in _NUMBERS and _least(values) < 0:
        raise ValueError(f"its column `{name}` holds numbers below zero")
    if name in _CLOSED:
        for word in _distinct(values) - set(_CLOSED[name]):
            raise ValueError(f"its column `{name}` holds the unknown word `{_quote(word)}`")
    if name == "layer":
        for text in _distinct(values):
            _kind_of_layer(text)


def _kind_of_layer(text: str) -> str:
    try:
        return layer_from_text(text).kind
    except LatteError as exc:
        raise ValueError(f"its column `layer` holds no layer but `{_quote(text)}`") from exc


def _least(values: Any) -> float:
    import pyarrow.compute as pc

    return float(pc.min(values).as_py() or 0)


def _greatest(values: Any) -> float:
    import pyarrow.compute as pc

    return float(pc.max(values).as_py() or 0)


def _distinct(values: Any) -> set[str]:
    """The different texts of a column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(values.type):
        return set(pc.unique(values).to_pylist())
    words = values.dictionary
    return {words[at].as_py() for at in pc.unique(values.indices).to_pylist()}


_TASK = ("layer", "phase", "library", "algorithm", "precision", "layout", "threads", "cuda_graph", "power_mode")


def check_ids(table: Any) -> None:
    """Raise ValueError where a row goes by the id of another task or layer: it would take the place of that one's rows.

    This takes 1.3 us a row (one core of an AMD EPYC), as much as all other checks ten times.
    """
    columns = {name: values_of(table.column(name)) for name in (*_TASK, "library_versions")}
    columns["threads"], columns["cuda_graph"] = (
        [str(int(each)) for each in columns[name]] for name in ("threads", "cuda_graph")
    )
    ids = map(id_of_texts, zip(*columns.values(), strict=True))
    if any(map(ne, ids, values_of(table.column("task_id")))):
        raise ValueError("its column `task_id` names other tasks than its rows are of")
    named = set(zip(columns["layer"], *(values_of(table.column(name)) for name in ("layer_id", "kind")), strict=True))
    for text, layer_id, kind in named:
        if id_of_texts([text]) != layer_id or _kind_of_layer(text) != kind:
            raise ValueError("its column `layer_id` or `kind` names other layers than its rows are of")
