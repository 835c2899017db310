"""Evaluations of selectors as a table, JSON or CSV."""

from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from typing import Any, TextIO

from latte_cli.report import Format, Table, percent, ratio, write_csv, write_json, write_table
from latte_cli.selector import Score

SCHEMA = "latte.selector-evaluation/1"

_COLUMNS = (
    *("device", "phase", "precision", "method", "top1", "within_5pct"),
    *("regret_geomean", "regret_p95", "regret_p99", "regret_total_time", "layers"),
)
_TITLES = (
    *("device", "phase", "precision", "method", ">top-1", ">within 5 %"),
    *(">regret", ">p95", ">p99", ">total", ">layers"),
)


def write_scores(
    scores: Sequence[Score], form: Format, *, footer: Sequence[str] = (), out: TextIO | None = None
) -> None:
    """Write `scores`, for people with the lines of `footer` below."""
    if form is Format.JSON:
        write_json(document(scores), out)
    elif form is Format.CSV:
        write_csv(_COLUMNS, [[asdict(score)[column] for column in _COLUMNS] for score in _sorted(scores)], out)
    else:
        write_table(Table(columns=_TITLES, rows=[_row(score) for score in _sorted(scores)], footer=footer), out)


def document(scores: Sequence[Score]) -> dict[str, Any]:
    """Scores as the document `latte.selector-evaluation/1`."""
    results = [{column: asdict(score)[column] for column in _COLUMNS} for score in _sorted(scores)]
    return {"schema": SCHEMA, "results": results}


def _sorted(scores: Sequence[Score]) -> list[Score]:
    """By device, precision and phase, the sum last; methods stay in their order."""
    phases = ("forward", "backward_data", "backward_filter", "all")
    return sorted(scores, key=lambda score: (score.device, score.precision, phases.index(score.phase)))


def _row(score: Score) -> tuple[str, ...]:
    return (
        *(score.device, score.phase, score.precision, score.method.replace("_", " ")),
        *(percent(score.top1), percent(_known(score.within_5pct))),
        *map(ratio, map(_known, (score.regret_geomean, score.regret_p95, score.regret_p99, score.regret_total_time))),
        str(score.layers),
    )


def _known(value: float) -> float | None:
    return None if isnan(value) else value
