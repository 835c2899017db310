"""Evaluations of selectors as a table, JSON or CSV."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import inf, isnan
from typing import Any, TextIO

from latte_cli.report import Format, Table, percent, ratio, size, write_csv, write_json, write_table
from latte_cli.selector import Evaluation, SelectionScore

SCHEMA = "latte.selector-evaluation/1"

_COLUMNS = (
    *("device", "phase", "precision", "method", "top1", "within_5pct"),
    *("regret_geomean", "regret_p95", "regret_p99", "regret_total_time", "layers", "limit_bytes"),
)
_MOST_FEATURES = 6  # chosen: the later ones weigh little
_TITLES = (
    *("device", "phase", "precision", "method", ">top-1", ">within 5 %"),
    *(">regret", ">p95", ">p99", ">total", ">layers"),
)
_SPARE = (">p95", ">p99", ">total", ">layers")


def write_evaluation(
    evaluation: Evaluation,
    form: Format,
    *,
    importance: Mapping[str, float] | None = None,
    prediction_s: float | None = None,
    footer: Sequence[str] = (),
    out: TextIO | None = None,
) -> None:
    """Write an evaluation; for people with the lines of `footer` below."""
    if form is Format.JSON:
        write_json(evaluation_document(evaluation, importance, prediction_s), out)
    elif form is Format.CSV:
        scores = _sort(evaluation.scores)
        write_csv(_COLUMNS, [[asdict(score)[column] for column in _COLUMNS] for score in scores], out)
    else:
        scores = _sort(evaluation.scores)
        devices = {score.device for score in scores}
        single = len(devices) == 1
        table = Table(
            columns=_TITLES,
            rows=[*map(_row, scores)],
            title=f"choices on {scores[0].device}" if single else "",
            footer=[*footer, *_lines(evaluation, importance or {})],
            spare=("device", *_SPARE) if single else _SPARE,
        )
        write_table(table, out)


def evaluation_document(
    evaluation: Evaluation, importance: Mapping[str, float] | None = None, prediction_s: float | None = None
) -> dict[str, Any]:
    """An evaluation as the document `latte.selector-evaluation/1`."""
    return {
        "schema": SCHEMA,
        "results": [
            {column: _number(asdict(score)[column]) for column in _COLUMNS} for score in _sort(evaluation.scores)
        ],
        "learning_curve": [
            {name: _number(value) for name, value in asdict(point).items()} for point in evaluation.curve
        ],
        "calibration_error": _number(evaluation.calibration_error),
        "importance": dict(importance or {}),
        "prediction_s": prediction_s,
    }


def _number(value: Any) -> Any:
    """What JSON has no number for is null."""
    return None if isinstance(value, float) and isnan(value) else value


def _lines(evaluation: Evaluation, importance: Mapping[str, float]) -> Iterator[str]:
    if evaluation.curve:
        points = (
            f"{point.layers} layers {ratio(_known_or_none(point.regret_geomean))} ({percent(point.top1)})"
            for point in evaluation.curve
        )
        yield f"regret and top-1 after learning from {', '.join(points)}"
    if importance:
        yield f"what tells most: {', '.join(f'{name} {percent(share)}' for name, share in _first(importance))}"
    if not isnan(evaluation.calibration_error):
        yield f"confidences are off by {percent(evaluation.calibration_error)} in the mean"


def _first(importance: Mapping[str, float]) -> list[tuple[str, float]]:
    return list(importance.items())[:_MOST_FEATURES]


def _sort(scores: Sequence[SelectionScore]) -> list[SelectionScore]:
    """By device, precision, limit and phase, the sum last; methods stay in their order."""
    phases = ("forward", "backward_data", "backward_filter", "all")

    def place(score: SelectionScore) -> tuple[str, str, float, int]:
        limit = -inf if score.limit_bytes is None else -score.limit_bytes
        return score.device, score.precision, limit, phases.index(score.phase)

    return sorted(scores, key=place)


def _row(score: SelectionScore) -> tuple[str, ...]:
    limit = "" if score.limit_bytes is None else f" within {size(score.limit_bytes)}"
    return (
        *(score.device, score.phase, score.precision, score.method.replace("_", " ") + limit),
        *(percent(score.top1), percent(_known_or_none(score.within_5pct))),
        *map(
            ratio,
            map(_known_or_none, (score.regret_geomean, score.regret_p95, score.regret_p99, score.regret_total_time)),
        ),
        str(score.layers),
    )


def _known_or_none(value: float) -> float | None:
    return None if isnan(value) else value
