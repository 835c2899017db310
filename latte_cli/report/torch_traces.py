"""What became of traces of torch.profiler, as a table, JSON or CSV."""

from collections.abc import Sequence
from typing import Any, TextIO

from latte_cli.report import Format, Table, duration, write_csv, write_json, write_table
from latte_cli.torch_trace import TraceImport

SCHEMA = "latte.torch-trace/1"
_SHOWN = 5  # chosen: enough to see what sort of call was left out


def write_trace_imports(imports: Sequence[TraceImport], form: Format, out: TextIO | None = None) -> None:
    """Write what became of each trace."""
    if form is Format.JSON:
        write_json({"schema": SCHEMA, "traces": [_document(one) for one in imports]}, out)
        return
    columns = ("trace", "device", ">batch", ">steps", ">layers", ">not found", ">rows", ">step")
    if form is Format.CSV:
        numbers = [(*_cells(one), one.step_s) for one in imports]
        write_csv([*(name.lstrip(">").replace(" ", "_") for name in columns[:-1]), "step_s"], numbers, out)
        return
    rows = [(*map(str, _cells(one)), duration(one.step_s)) for one in imports]
    footer = [line for one in imports for line in _lines(one)]
    write_table(Table(columns=columns, rows=rows, footer=footer), out)


def _cells(one: TraceImport) -> tuple[str | int, ...]:
    names = (one.path.name, one.device.slug)
    return (*names, one.batch, one.steps, one.layers, len(one.missing), one.rows)


def _lines(one: TraceImport) -> list[str]:
    name = one.path.name
    lines = [f"{name}: not found in the trace: {_some(one.missing)}"] if one.missing else []
    if one.strangers:
        calls = [f"{call} ({duration(seconds)})" for call, seconds in one.strangers]
        lines.append(f"{name}: calls that are no layer of the model: {_some(calls)}")
    if one.overhead_s:
        taken_s = one.traced_s - one.step_s
        lines.append(
            f"{name}: {duration(taken_s)} a step are the profiler's own and were subtracted "
            f"({duration(one.overhead_s)} for each event)"
        )
    lines.append(f"{name}: {duration(one.beside_s)} a step lie beside its calls (data, logging) and are left out")
    return lines


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _document(one: TraceImport) -> dict[str, Any]:
    return {
        "file": str(one.path),
        "device": one.device.slug,
        "precision": one.settings.precision,
        "layout": one.settings.layout,
        "threads": one.settings.threads,
        "batch": one.batch,
        "steps": one.steps,
        "optimizer": one.optimizer,
        "layers": one.layers,
        "rows": one.rows,
        "not_found": list(one.missing),
        "strangers": [{"call": call, "seconds": seconds} for call, seconds in one.strangers],
        "step_s": one.step_s,
        "traced_s": one.traced_s,
        "profiler_s_per_event": one.overhead_s,
        "beside_s": one.beside_s,
        "unreadable": one.unreadable,
        "doubts": list(one.doubts),
    }
