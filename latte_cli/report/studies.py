"""Studies as tables, JSON or CSV: how soon each method reaches the target accuracies."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import inf, isfinite
from typing import Any, TextIO

from latte_cli.federated.study import MethodRun, Result, Spread, Study
from latte_cli.report import Cell, Format, Table, duration, percent, write_csv, write_json, write_table


def write_study(study: Study, results: Sequence[Result], form: Format, out: TextIO | None = None) -> None:
    """Write the results of a study."""
    if form is Format.JSON:
        write_json(_document(study, results), out)
    elif form is Format.CSV:
        rows = list(_rows(study, results))
        write_csv(list(rows[0]), [list(row.values()) for row in rows], out)
    else:
        write_table(_table(study, results), out)


def _document(study: Study, results: Sequence[Result]) -> dict[str, Any]:
    settings = study.settings
    return {
        "schema": "latte.study/1",
        "model": settings.model,
        "data": settings.data,
        "partition": settings.partition,
        "rounds": settings.rounds,
        "targets": list(study.targets),
        "tuning": {"seeds": list(study.tuning.seeds), "target": study.tuning.target},
        "results": [_entry(study, each) for each in results],
    }


def _entry(study: Study, result: Result) -> dict[str, Any]:
    found: dict[str, Any] = {"scenario": result.scenario, "method": result.method, "option": _option_json(result)}
    found["runs"] = [_run_json(study, run) for run in result.runs]
    if not result.runs:
        return found
    return found | {
        "time_s": {f"{target:g}": _spread_json(result.time_s(target)) for target in study.targets},
        "accuracy": _spread_json(result.accuracy),
        "lowest_tenth": _spread_json(result.lowest_tenth) if result.lowest_tenth else None,
        "personal_accuracy": _spread_json(result.personal) if result.personal else None,
        "idle": _spread_json(result.idle),
    }


def _option_json(result: Result) -> dict[str, Any] | None:
    return asdict(result.option) if result.option else None


def _run_json(study: Study, run: MethodRun) -> dict[str, Any]:
    return {
        "time_s": {f"{target:g}": run.time_s(target) for target in study.targets},
        "accuracy": run.accuracy,
        "by_device": list(run.by_device),
        "personal_accuracy": run.personal,
        "idle": run.idle,
        "end_s": run.times_s[-1],
        "devices": run.devices,
        "late": run.late,
        "gone": run.gone,
        "failed": run.failed,
        "void": run.void,
    }


def _spread_json(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "low": spread.low, "high": spread.high}


def _rows(study: Study, results: Sequence[Result]) -> Iterator[dict[str, Cell]]:
    for result in results:
        row: dict[str, Cell] = {"scenario": result.scenario, "method": result.method, "option": str(result.option)}
        row["seeds"] = len(result.runs)
        for target in study.targets:
            row |= _cells(f"time_to_{target:g}_s", result.time_s(target) if result.runs else None)
            row[f"reached_{target:g}"] = result.count_reaching(target)
        row |= _cells("accuracy", result.accuracy if result.runs else None)
        row |= _cells("lowest_tenth", result.lowest_tenth)
        row |= _cells("personal_accuracy", result.personal)
        row |= _cells("idle", result.idle if result.runs else None)
        row["devices"] = result.devices.median if result.runs else 0
        yield row


def _cells(name: str, spread: Spread | None) -> dict[str, Cell]:
    values = (spread.median, spread.low, spread.high) if spread else (inf, inf, inf)
    names = (name, f"{name}_low", f"{name}_high")
    return {key: value if isfinite(value) else None for key, value in zip(names, values, strict=True)}


def _table(study: Study, results: Sequence[Result]) -> Table:
    settings = study.settings
    times = [f">time to {100 * target:g} %" for target in study.targets]
    return Table(
        title=f"{settings.model} on {settings.data}, {settings.rounds} rounds: median (range) of the seeds",
        columns=(
            "scenario",
            "method",
            ">tuned to",
            *times,
            ">accuracy",
            ">lowest tenth",
            ">own models",
            ">devices",
            ">idle",
        ),
        rows=[_row(study, each) for each in results],
        footer=[
            "`tuned to`: the end of a round as a share of the full model's slowest one, and what it means for devices",
            "`-`: not reached by half of the seeds; in a range, not by all of them",
            "`devices`: those that can take part at all; `own models`: accuracy on data like the device's",
            "`lowest tenth`: accuracy on the classes that a device has, for the tenth of devices where it is lowest",
            f"tuned on {_seeds(study.tuning.seeds)} by the time to {100 * study.tuning.target:g} %",
        ],
    )


def _seeds(seeds: Sequence[int]) -> str:
    """`the seed 1`, or `the seeds 1, 2`."""
    return f"the seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _row(study: Study, result: Result) -> tuple[str, ...]:
    if not result.runs:
        return (result.scenario, result.method, "none", *["-"] * (len(study.targets) + 5))
    return (
        result.scenario,
        result.method,
        str(result.option),
        *(_time(result.time_s(target)) for target in study.targets),
        _share(result.accuracy),
        _share(result.lowest_tenth),
        _share(result.personal),
        f"{result.devices.median:g}",
        percent(result.idle.median),
    )


def _time(spread: Spread) -> str:
    if not isfinite(spread.median):
        return "-"
    low, high = (duration(each) if isfinite(each) else "-" for each in (spread.low, spread.high))
    return f"{duration(spread.median)} ({low} to {high})"


def _share(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{100 * spread.median:.1f} % ({100 * spread.low:.1f} to {100 * spread.high:.1f})"
