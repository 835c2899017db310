"""Engines: what cuDNN has for a network's convolutions on a GPU that is not here, and what frameworks would take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from latte_cli.engines import Engine, Listed
from latte_cli.layers import Convolution, Phase, layer_text
from latte_cli.network import Network
from latte_cli.precisions import Layout, Precision
from latte_cli.report import Cell, Format, Table, shorten, size, write_csv, write_json, write_table
from latte_cli.report.layers import layer_figures, module_paths

_COLUMNS = (
    *("name", "phase", "engine", "family", "numerical", "behavior", "workspace_bytes"),
    *("pytorch_place", "pytorch_mode_b_place", "xla_place", "refused"),
)
_NAME_WIDTH = 20  # chosen: leaves room for the other columns
_PHASES = {Phase.BACKWARD_DATA: "data", Phase.BACKWARD_FILTER: "filter"}


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """A network's convolutions on a GPU that is described by `device` (its name): for each node's name and phase what
    cuDNN of this version has for it, or why it takes none."""

    network: Network
    device: str
    version: str
    precision: Precision
    layout: Layout
    calls: Sequence[tuple[str, Convolution, Phase, Listed | str]]


def write_elsewhere(found: Elsewhere, form: Format, out: TextIO | None = None) -> None:
    """Write the engines of each call: as a table what frameworks take first, else all of them."""
    if form is Format.JSON:
        write_json(engines_document(found), out)
    elif form is Format.CSV:
        write_csv(_COLUMNS, list(_lines(found)), out)
    else:
        write_table(_table(found), out)


def engines_document(found: Elsewhere) -> dict[str, Any]:
    """The engines as the document `latte.engines/1`."""
    paths = module_paths(found.network)
    return {
        "schema": "latte.engines/1",
        "model": {"name": found.network.name, "sha256": found.network.sha256},
        "device": found.device,
        "cudnn": found.version,
        "precision": found.precision,
        "layout": found.layout,
        "calls": [
            {
                **{"name": name, "phase": phase, "layer": layer_text(layer)},
                **layer_figures(layer, (phase,), paths.get(name)),
                **_call(found, phase, listed),
            }
            for name, layer, phase, listed in found.calls
        ],
    }


def _call(found: Elsewhere, phase: Phase, listed: Listed | str) -> dict[str, Any]:
    if isinstance(listed, str):
        return {"refused": listed}
    return {
        "engines": [
            {
                "engine": engine.name,
                "family": engine.family(listed.operation),
                "numerical": sorted(engine.numerical),
                "behavior": sorted(engine.behavior),
                "workspace_bytes": engine.workspace_bytes,
            }
            for engine in listed.engines
        ],
        "heuristics": {mode.name: [f"ENGINE_{index}" for index in found] for mode, found in listed.lists.items()},
        "pytorch": [engine.name for engine in listed.pytorch(found.precision)],
        "pytorch_mode_b": [engine.name for engine in listed.pytorch(found.precision, mode_b=True)],
        "xla": [engine.name for engine in listed.xla(found.precision)],
    }


def _lines(found: Elsewhere) -> Iterator[Sequence[Cell]]:
    for name, _, phase, listed in found.calls:
        if isinstance(listed, str):
            yield (name, phase, *(None,) * 8, listed)
            continue
        orders = (
            listed.pytorch(found.precision),
            listed.pytorch(found.precision, mode_b=True),
            listed.xla(found.precision),
        )
        for engine in listed.engines:
            notes = (" ".join(sorted(engine.numerical)), " ".join(sorted(engine.behavior)))
            places = (order.index(engine) + 1 if engine in order else None for order in orders)
            family = engine.family(listed.operation)
            yield (name, phase, engine.name, family, *notes, engine.workspace_bytes, *places, None)


def _table(found: Elsewhere) -> Table:
    rows: list[Sequence[str]] = []
    for name, _, phase, listed in found.calls:
        start = (shorten(name, _NAME_WIDTH), _PHASES.get(phase, str(phase)))
        if isinstance(listed, str):
            rows.append((*start, "0", "none", "", ""))
            continue
        first = next(iter(listed.pytorch(found.precision)), None)
        others = next(iter(listed.xla(found.precision)), None)
        rows.append(
            (*start, str(len(listed.engines)), *_engine_cells(first, listed), others.name if others else "none")
        )
    return Table(
        title=f"{found.network.name} on {found.device}, cuDNN {found.version}, {found.precision}, {found.layout}",
        columns=("layer", "phase", ">engines", "PyTorch's first", ">workspace", "XLA's first"),
        rows=rows,
    )


def _engine_cells(engine: Engine | None, listed: Listed) -> tuple[str, str]:
    if engine is None:
        return "none", ""
    return f"{engine.name} {engine.family(listed.operation).lower()}", size(engine.workspace_bytes)
