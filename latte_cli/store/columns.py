"""Files of columns that are no measurements: the devices of a fleet, and what each of them is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latte_cli import files
from latte_cli.errors import LatteError
from latte_cli.printable import printable

SUFFIXES = (".parquet", ".csv")
"""The endings of files of columns."""


def read_columns(path: Path, texts: Sequence[str], numbers: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The columns of a Parquet or CSV file that are there of `texts` and `numbers`; an empty number is not a number.

    Raises LatteError for a file that cannot be read, for other columns, and for what is no number.
    """
    import pyarrow as pa

    table = _table(path)
    for name in table.column_names:
        if name not in (*texts, *numbers):
            hint = f"the columns are {', '.join((*texts, *numbers))}"
            raise LatteError(f"`{path}`: unknown column `{' '.join(name.split())[:40]}`", hint=hint)
        if table.column_names.count(name) > 1:
            raise LatteError(f"`{path}`: the column `{name}` is there twice", hint="leave one of them out")
    found: dict[str, NDArray[Any]] = {}
    for name in table.column_names:
        column = table.column(name)
        try:
            if name in texts:
                encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
                if encoded.null_count:
                    raise ValueError
                words = np.array(encoded.dictionary.to_pylist(), dtype=object)
                found[name] = words[encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)]
            else:
                values = column.cast(pa.float64()).combine_chunks()
                found[name] = values.to_numpy(zero_copy_only=False).astype(np.float64)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, IndexError) as exc:
            what = "a name in every row" if name in texts else "numbers"
            raise LatteError(f"`{path}`: the column `{name}` does not hold {what}", hint="look at its cells") from exc
    return found


def write_columns(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of one length as Parquet or CSV, by the file's ending; the file appears whole or not at all.

    A two-dimensional array becomes a column of lists. Raises LatteError where it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    arrays = {name: _array(values) for name, values in columns.items()}
    with files.replacement(path) as out:
        if path.suffix == ".csv":
            flat = {name: _show(each) for name, each in arrays.items() if not pa.types.is_nested(each.type)}
            pyarrow.csv.write_csv(pa.table(flat), out)
        else:
            pq.write_table(pa.table(arrays), out, compression="zstd")


def _array(values: Any) -> Any:
    import pyarrow as pa

    if getattr(values, "ndim", 1) > 1:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)


def _show(column: Any) -> Any:
    """A column of a CSV file, its words made printable."""
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_dictionary(column.type)):
        return column
    words = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    shown = pa.array([printable(word) for word in words.dictionary.to_pylist()], pa.string())
    return pa.DictionaryArray.from_arrays(words.indices, shown)


def column_of_names(names: Sequence[str | None], places: NDArray[np.int64]) -> Any:
    """A column of the names at these places; -1 stands for none."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(
        pa.array(np.where(places < 0, 0, places).astype(np.int32), mask=places < 0), pa.array(list(names))
    )


def _table(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    if path.suffix not in SUFFIXES:
        raise LatteError(f"`{path}` is neither Parquet nor CSV", hint="its name ends in .parquet or .csv")
    try:
        return pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as exc:
        reason = " ".join(str(exc).split())[:120]
        raise LatteError(f"cannot read `{path}`: {reason}", hint="is it the right file?") from exc
