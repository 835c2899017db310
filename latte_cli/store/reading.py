"""Reading: a table of rows as measurements, one column after the other."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

from latte_cli.algorithms import RANKERS, Algorithm, Ranker
from latte_cli.backends.contract import Conditions
from latte_cli.devices import Device
from latte_cli.errors import LatteError
from latte_cli.layers import Phase, layer_from_text
from latte_cli.measure import Evidence, Measurement, Outcome, QualityFlag
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Settings, Task, versions_from_text

_NEWER_HINT = "was it written by a newer version? `pip install --upgrade latte-cli`"
_SETTINGS = ("precision", "layout", "threads", "cuda_graph", "power_mode", "library_versions")

_FORMATS: dict[str, Literal["f", "d", "i", "q"]] = {"float": "f", "double": "d", "int32": "i", "int64": "q"}
"""What the standard library's `memoryview` calls Arrow's types."""

_AS_THEY_ARE = ("summary_s", "cache_state", "workspace_bytes", "drift", "deterministic", "detail", "origin")
_TUPLES = ("device_times_s", "host_times_s", "kernels", "ranking", "notes")


def measurements(table: Any, device: Device, *, until_s: float) -> list[Measurement]:
    """The rows of `table` as they were before `schema.row`; times come back as 32-bit floats.

    Moments after `until_s` (seconds since the epoch) come back as 0, for nobody knows when that was. Raises LatteError
    for words that are not known.
    """
    try:
        columns = _fields(table, device, until_s)
    except ValueError as exc:
        raise LatteError(f"cannot read a row of device `{device.slug}`: {exc}", hint=_NEWER_HINT) from exc
    names = tuple(columns)
    return [Measurement(**dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _fields(table: Any, device: Device, until_s: float) -> dict[str, Sequence[Any]]:
    """The fields of the measurements, each for all rows."""

    def column(name: str) -> Sequence[Any]:
        return values(table.column(name))

    return {
        "task": _tasks(column),
        "device": [device] * table.num_rows,
        "sweep_pass": column("pass"),
        "outcome": _meanings(column("outcome"), Outcome),
        "evidence": _meanings(column("evidence"), Evidence),
        "flags": _meanings(column("marks"), lambda flags: tuple(map(QualityFlag, flags))),
        "before": _conditions(table.column("before")),
        "after": _conditions(table.column("after")),
        "measured_at": [moment if moment <= until_s else 0.0 for moment in column("measured_at")],
        **{name: column(name) for name in _AS_THEY_ARE + _TUPLES},
    }


def _tasks(column: Callable[[str], Sequence[Any]]) -> list[Task | Question]:
    layers, phases = _meanings(column("layer"), layer_from_text), _meanings(column("phase"), Phase)
    subjects = map(_subject, *map(column, ("library", "algorithm", "vendor_id")))
    settings = map(_settings, *map(column, _SETTINGS))
    return [
        Task(layer=layer, phase=phase, algorithm=subject, settings=each)
        if isinstance(subject, Algorithm)
        else Question(layer=layer, phase=phase, ranker=subject, settings=each)
        for layer, phase, subject, each in zip(layers, phases, subjects, settings, strict=True)
    ]


@lru_cache(maxsize=1024)
def _subject(library: str, name: str, vendor_id: int | None) -> Algorithm | Ranker:
    return RANKERS.get((library, name)) or Algorithm(library=library, name=name, vendor_id=vendor_id)


@lru_cache(maxsize=1024)
def _settings(
    precision: str, layout: str, threads: int, cuda_graph: bool, power_mode: str, library_versions: str
) -> Settings:
    return Settings(
        precision=Precision(precision),
        layout=Layout(layout),
        threads=threads,
        cuda_graph=cuda_graph,
        power_mode=power_mode,
        library_versions=versions_from_text(library_versions),
    )


def _meanings(column: Sequence[Any], meaning: Callable[[Any], Any]) -> list[Any]:
    """What each value means; one that repeats is read once."""
    found = {value: meaning(value) for value in set(column)}
    return [found[value] for value in column]


def _conditions(column: Any) -> list[Conditions]:
    names = [field.name for field in column.type]
    parts = [values(part) for part in column.combine_chunks().flatten()]
    return _meanings(list(zip(*parts, strict=True)), lambda each: Conditions(**dict(zip(names, each, strict=True))))


def values(column: Any) -> Sequence[Any]:
    """The values of a column in Python; lists come as tuples, the empty one for those that are missing."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        words = array.dictionary.to_pylist()
        return [None if at is None else words[at] for at in values(array.indices)]
    if pa.types.is_list(array.type):
        flat = values(array.values)
        return [tuple(flat[start:end]) for start, end in pairwise(array.offsets.to_pylist())]
    if array.null_count == len(array):
        return [None] * len(array)
    if array.null_count or str(array.type) not in _FORMATS:
        objects: list[Any] = array.to_pylist()
        return objects
    # From the buffer: `to_pylist` makes an object of Arrow for each number, and `to_numpy` imports pandas.
    numbers = memoryview(array.buffers()[1]).cast("B").cast(_FORMATS[str(array.type)])
    return numbers[array.offset : array.offset + len(array)].tolist()
