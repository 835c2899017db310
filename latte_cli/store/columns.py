"""Files of columns that are no measurements: the devices of a fleet, and what each of them is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from latte_cli import files
from latte_cli.errors import LatteError
from latte_cli.printable import csv_cell

SUFFIXES = (".parquet", ".csv")
"""The endings of files of columns."""

_MOST_ROWS = 1 << 24  # chosen: a million devices take half a gigabyte, and a file of kilobytes can claim any number
_MOST_BYTES = 1 << 30  # chosen: a million devices of ten columns and long names take a fifth
_ROWS_AT_ONCE = 1 << 16  # written together: 64 Ki rows of ten columns take some MiB


def read_columns(path: Path, texts: Sequence[str], numbers: Sequence[str]) -> dict[str, Any]:
    """The columns of a Parquet or CSV file that are there of `texts` and `numbers`; an empty number is not a number.

    Numbers come as arrays of 64-bit floats, texts as `Words`, which hold each once.
    Raises LatteError for a file that cannot be read, for other columns, and for what is no number.
    """
    import pyarrow as pa

    names, read = _open(path)
    for name in names:
        if name not in (*texts, *numbers):
            hint = f"the columns are {', '.join((*texts, *numbers))}"
            raise LatteError(f"`{path}`: unknown column `{' '.join(name.split())[:40]}`", hint=hint)
        if names.count(name) > 1:
            raise LatteError(f"`{path}`: the column `{name}` is there twice", hint="leave one of them out")
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = _words(read(name)) if name in texts else _numbers(read(name))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, IndexError) as exc:
            what = "a name in every row" if name in texts else "numbers"
            raise LatteError(f"`{path}`: the column `{name}` does not hold {what}", hint="look at its cells") from exc
        pa.default_memory_pool().release_unused()  # Arrow keeps what reading a column took
    return found


@dataclass(frozen=True, kw_only=True)
class Words(Sequence[str]):
    """A column of texts: each that there is, in the order in which they first come, and by row which of them it is.

    `arrow` are the texts as a string array.
    """

    arrow: Any
    rows: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...
    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        """The text of a row, or of several."""
        if isinstance(row, slice):
            return [self[at] for at in range(*row.indices(len(self)))]
        found: str = self.arrow[int(self.rows[row])].as_py()
        return found

    @property
    def distinct(self) -> list[str]:
        """The texts that there are, each once."""
        found: list[str] = self.arrow.to_pylist()
        return found

    @property
    def first_repeated(self) -> int | None:
        """The first row, from 0, whose text is in a row before."""
        repeated = np.flatnonzero(self.rows != np.arange(len(self.rows)))
        return int(repeated[0]) if len(repeated) else None


def _words(column: Any) -> Words:
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    words = encoded.dictionary.cast(pa.string()).dictionary_encode()  # a file may list a text twice
    rows = words.indices.take(encoded.indices).dictionary_encode()
    if rows.null_count:
        raise ValueError("an empty cell")
    distinct = words.dictionary.take(rows.dictionary)
    distinct.validate(full=True)  # Parquet's texts may be any bytes
    return Words(arrow=distinct, rows=rows.indices.to_numpy(zero_copy_only=False).astype(np.int32))


def _numbers(column: Any) -> NDArray[np.float64]:
    import pyarrow as pa

    values = column.cast(pa.float64()).combine_chunks()
    found: NDArray[np.float64] = values.to_numpy(zero_copy_only=False).astype(np.float64)
    return found


def write_columns(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of one length as Parquet or CSV, by the file's ending; the file appears whole or not at all.

    A two-dimensional array becomes a column of lists. Raises LatteError where it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    whole = {name: _sequence(values) for name, values in columns.items()}
    rows = len(next(iter(whole.values())))

    def table(start: int) -> Any:
        return pa.table({name: _array(values[start : start + _ROWS_AT_ONCE]) for name, values in whole.items()})

    with files.replacement(path) as out:
        if path.suffix == ".csv":
            for start in range(0, max(1, rows), _ROWS_AT_ONCE):
                pyarrow.csv.write_csv(_printable(table(start)), out, pyarrow.csv.WriteOptions(include_header=not start))
            return
        with pq.ParquetWriter(out, table(0).schema, compression="zstd") as writer:
            for start in range(0, rows, _ROWS_AT_ONCE):
                writer.write_table(table(start))


def _sequence(values: Any) -> Any:
    """Values that can be sliced at no cost."""
    import pyarrow as pa

    if isinstance(values, Words):
        return values.arrow if values.first_repeated is None else values.arrow.take(pa.array(values.rows))
    return pa.array(values) if isinstance(values, list) else values


def _array(values: Any) -> Any:
    import pyarrow as pa

    if getattr(values, "ndim", 1) > 1:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)


def _printable(table: Any) -> Any:
    """A table for a CSV file: its words made printable, without what has no place in a cell."""
    import pyarrow as pa

    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    return pa.table({name: _show(each) for name, each in columns.items() if not pa.types.is_nested(each.type)})


def _show(column: Any) -> Any:
    """A column of a CSV file, its words as `csv_cell` writes them."""
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_dictionary(column.type)):
        return column
    words = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    shown = pa.array([csv_cell(word) for word in words.dictionary.to_pylist()], pa.string())
    return pa.DictionaryArray.from_arrays(words.indices, shown)


def column_of_names(names: Sequence[str | None], places: NDArray[np.int64]) -> Any:
    """A column of the names at these places; -1 means none."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(
        pa.array(np.where(places < 0, 0, places).astype(np.int32), mask=places < 0), pa.array(list(names))
    )


def _open(path: Path) -> tuple[list[str], Callable[[str], Any]]:
    """The names of a file's columns, and what reads each once: it holds no more of them than it has to."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    if path.suffix not in SUFFIXES:
        raise LatteError(f"`{path}` is neither Parquet nor CSV", hint="its name ends in .parquet or .csv")
    files.check_regular(path, "copy what comes out of a pipe into a file")
    try:
        if path.suffix == ".csv":
            table = pyarrow.csv.read_csv(path)
            return table.column_names, dict(zip(table.column_names, table.columns, strict=True)).pop
        footer = pq.read_metadata(path)
        names = footer.schema.to_arrow_schema().names
    except (OSError, ValueError, pa.ArrowException) as exc:
        raise _unreadable(path, exc) from exc
    if footer.num_rows > _MOST_ROWS:
        message = f"`{path}` states {footer.num_rows:,} rows; at most {_MOST_ROWS:,} are read"
        raise LatteError(message, hint="split it into several files")

    size = sum(footer.row_group(at).total_byte_size for at in range(footer.num_row_groups))
    if size > _MOST_BYTES:
        message = f"`{path}` states {size:,} bytes unpacked; at most {_MOST_BYTES:,} are read"
        raise LatteError(message, hint="split it into several files")

    def read(name: str) -> Any:
        try:  # a text that all rows have is held once
            return pq.read_table(path, columns=[name], read_dictionary=[name], pre_buffer=False).column(name)
        except (OSError, ValueError, pa.ArrowException) as exc:
            raise _unreadable(path, exc) from exc

    return names, read


def _unreadable(path: Path, exc: Exception) -> LatteError:
    return LatteError(f"cannot read `{path}`: {' '.join(str(exc).split())[:120]}", hint="is it the right file?")
