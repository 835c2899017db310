"""How far off time models are, as a table, JSON or CSV."""

from collections.abc import Iterator, Sequence
from math import exp
from typing import Any, TextIO

from latte_cli.report import Cell, Format, Table, percent, write_csv, write_json, write_table
from latte_cli.time_model import TimeModelCard

SCHEMA = "latte.estimator-evaluation/1"

_COLUMNS = ("device", "kind", "phase", "rows", "median_error", "low_95", "low_80", "high_80", "high_95")


def write_errors(cards: Sequence[TimeModelCard], form: Format, *, out: TextIO | None = None) -> None:
    """Write the errors of models by kind and phase, on layers left out; bounds are measured over predicted times."""
    rows = [row for card in cards for row in _rows(card)]
    if form is Format.JSON:
        results: list[dict[str, Any]] = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
        write_json({"schema": SCHEMA, "results": results}, out)
    elif form is Format.CSV:
        write_csv(_COLUMNS, rows, out)
    else:
        titles = ("kind", "phase", ">rows", ">median error", ">80 % within", ">95 % within")
        footer = [f"{card.device}: {card.rows} rows; errors are those on layers left out" for card in cards]
        write_table(Table(columns=titles, rows=[_line(row) for row in rows], footer=footer), out)


def _rows(card: TimeModelCard) -> Iterator[tuple[Cell, ...]]:
    for key in sorted(card.median_errors):
        kind, _, phase = key.partition(" ")
        if not phase:
            continue
        bounds = card.quantiles.get(key) or card.quantiles.get(kind) or card.quantiles[""]
        yield card.device, kind, phase, card.counts[key], card.median_errors[key], *(exp(bound) for bound in bounds)


def _line(row: tuple[Cell, ...]) -> tuple[str, ...]:
    _, kind, phase, rows, error, *bounds = row
    low_95, low_80, high_80, high_95 = (f"{float(bound) - 1:+.0%}" for bound in bounds if bound is not None)
    return (
        *(str(kind), str(phase), str(rows), percent(float(error or 0.0))),
        *(f"{low_80} to {high_80}", f"{low_95} to {high_95}"),
    )
