"""Plans, round durations and the difference of two plans as tables, JSON or CSV."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TextIO

import numpy as np

from latte_cli.allocator import (
    Assignment,
    ClassChange,
    CurvePoint,
    Devices,
    Plan,
    PlanFile,
    PlannedDevice,
    outcome,
    plan_document,
)
from latte_cli.fleet import FleetClass
from latte_cli.report import (
    Cell,
    Format,
    Table,
    count,
    duration,
    duration_at_most,
    percent,
    percent_at_least,
    size,
    write_csv,
    write_json,
    write_table,
)

_NAME_WIDTH = 18  # chosen: leaves room for the other columns


def write_plan(file: PlanFile, form: Format, out: TextIO | None = None) -> None:
    """Write a plan."""
    if form is Format.JSON:
        write_json(plan_document(file), out)
    elif form is Format.CSV:
        rows = [outcome(planned) for planned in file.plan.devices]
        write_csv(list(rows[0]), [list(row.values()) for row in rows], out)
    else:
        write_table(_table(file), out)


def _table(file: PlanFile) -> Table:
    plan = file.plan
    return Table(
        title=f"{_short(file.model)} in rounds of {duration_at_most(plan.round_duration_s)}",
        columns=("class", ">devices", ">sub-model", ">parameters", ">round", ">at most", ">memory"),
        rows=[_row(planned) for planned in plan.devices],
        footer=[
            "`at most` is the upper end of the 95 % interval",
            *_sheet_legend(each.sheet_share for each in plan.devices),
            *(line for planned in plan.devices for line in _lines(planned, file.complete)),
            *_of_channels(file),
            *_totals(plan),
        ],
    )


def _sheet_mark(share: float) -> str:
    return "^" if share else ""  # as in the table of an estimate


def _sheet_legend(shares: Iterable[float]) -> list[str]:
    return ["^ by a data sheet, in all or in part, so that the interval is wide"] if any(shares) else []


def _row(planned: PlannedDevice) -> tuple[str, ...]:
    return (
        _short(planned.fleet_class.name),
        str(planned.fleet_class.count),
        planned.sub_model.id if planned.sub_model else "none",
        count(planned.sub_model.parameters if planned.sub_model else None),
        f"{duration(planned.round_s)}{_sheet_mark(planned.sheet_share if planned.feasible else 0.0)}",
        duration(planned.high_s),
        size(planned.memory_bytes) if planned.feasible else "-",
    )


def _lines(planned: PlannedDevice, complete: bool) -> Iterator[str]:
    fleet_class = planned.fleet_class
    name = _short(fleet_class.name)
    from_sheet = f", {percent(planned.sheet_share)} of a step by its data sheet" if planned.sheet_share else ""
    yield f"{name}: {planned.device}, {fleet_class.precision} {fleet_class.layout}{from_sheet}"
    if planned.feasible:
        return
    if not complete:
        need = size(planned.memory_bytes)
        yield f"  infeasible: no widths were found that meet the round; the narrowest need {need} of memory"
    elif planned.least_s is None:
        yield f"  infeasible: a step needs at least {size(planned.memory_bytes)} of memory"
    else:
        yield f"  infeasible: a round takes at least {duration(planned.least_s)}"


def _of_channels(file: PlanFile) -> Iterator[str]:
    covered = file.coverage
    if covered is None:
        return
    what = f"channels {file.method}, round {file.round_number}"
    yield f"{what}: {percent_at_least(covered.share)} of the channel pairs are trained"
    if covered.share < 1:
        first, second = covered.least_pair
        yield f"  least between {_short(first)} and {_short(second)}: {percent_at_least(covered.least_share)}"


def _totals(plan: Plan) -> Iterator[str]:
    waiting = f"; on average they wait {percent(plan.idle_share)} of a round" if plan.training_devices else ""
    yield f"{plan.training_devices} of {plan.count} devices have a sub-model{waiting}"


def write_curve(
    points: Sequence[CurvePoint], chosen: CurvePoint | None, form: Format, out: TextIO | None = None
) -> None:
    """Write what each round duration gives."""
    columns = ("round_duration_s", "capacity", "floor", "idle", "taking_part")
    rows = [[getattr(each, column) for column in columns] for each in points]
    if form is Format.JSON:
        document = {
            "schema": "latte.curve/1",
            "points": [dict(zip(columns, row, strict=True)) for row in rows],
            "chosen_s": chosen.round_duration_s if chosen else None,
        }
        write_json(document, out)
    elif form is Format.CSV:
        write_csv(columns, rows, out)
    else:
        write_table(
            Table(
                title="what rounds of a duration give",
                columns=(">round", ">kept, mean", ">kept, least", ">idle", ">devices that train", ""),
                rows=[
                    (
                        duration_at_most(each.round_duration_s),
                        percent_at_least(each.capacity),
                        percent_at_least(each.floor),
                        percent(each.idle),
                        percent_at_least(each.taking_part),
                        "chosen" if each == chosen else "",
                    )
                    for each in points
                ],
                footer=["`kept` is the share of the model's parameters that a device trains"],
            ),
            out,
        )


def write_assignments(
    fleet: Sequence[FleetClass],
    devices: Devices,
    found: Assignment,
    duration_s: float,
    form: Format,
    out: TextIO | None = None,
    *,
    sheet_shares: Mapping[str, float],
) -> None:
    """Write how many devices of each class train which sub-model, and how long their rounds take.

    `sheet_shares` are, by class, the shares of a step's time that a data sheet tells.
    """
    columns = ("class", "sub_model", "parameters", "devices", "round_s", "high_s", "sheet_share")
    rows = [(*row, sheet_shares[row[0]]) for row in _assigned_rows(fleet, devices, found)]
    if form is Format.JSON:
        entries = [dict(zip(columns, row, strict=True)) for row in rows]
        document = {"schema": "latte.assignment/1", "round_duration_s": duration_s, "classes": entries}
        write_json(document, out)
    elif form is Format.CSV:
        write_csv(columns, rows, out)
    else:
        taking_part = int((found.chosen >= 0).sum())
        write_table(
            Table(
                title=f"{len(found.chosen):,} devices in rounds of {duration_at_most(duration_s)}",
                columns=("class", "sub-model", ">parameters", ">devices", ">round, median", ">at most"),
                rows=[
                    (
                        _short(row[0]),
                        row[1] or "none",
                        count(row[2]),
                        f"{row[3]:,}",
                        f"{duration(row[4])}{_sheet_mark(row[6] if row[1] else 0.0)}",
                        duration(row[5]),
                    )
                    for row in rows
                ],
                footer=[
                    "`at most` is the largest upper end of their 95 % intervals",
                    *_sheet_legend(sheet_shares.values()),
                    f"{taking_part:,} of {len(found.chosen):,} devices have a sub-model",
                ],
            ),
            out,
        )


def _assigned_rows(
    fleet: Sequence[FleetClass], devices: Devices, found: Assignment
) -> Iterator[tuple[str, str | None, int | None, int, float | None, float | None]]:
    """Class, sub-model, its parameters, the number of devices, and the median and the highest end of their rounds."""
    size = len(found.sub_models) + 1
    keys = devices.classes * size + found.chosen + 1
    order = np.argsort(keys, kind="stable")
    kinds, starts = np.unique(keys[order], return_index=True)
    for kind, own in zip(kinds.tolist(), np.split(order, starts[1:]), strict=True):
        index, chosen = kind // size, kind % size - 1
        name, number = fleet[index].name, len(own)
        if chosen < 0:
            yield name, None, None, number, None, None
            continue
        sub_model = found.sub_models[chosen]
        median_s, high_s = float(np.median(found.round_s[own])), float(found.high_s[own].max())
        yield name, sub_model.id, sub_model.parameters, number, median_s, high_s


def write_plan_changes(changes: Sequence[ClassChange], form: Format, out: TextIO | None = None) -> None:
    """Write how two plans differ, a row a class."""
    columns = (
        "class",
        "change",
        "before",
        "after",
        "round_before_s",
        "round_after_s",
        "parameters_before",
        "parameters_after",
    )
    rows = [_change(each) for each in changes]
    if form is Format.JSON:
        entries = [dict(zip(columns, row, strict=True)) for row in rows]
        write_json({"schema": "latte.plan-diff/1", "classes": entries}, out)
    elif form is Format.CSV:
        write_csv(columns, rows, out)
    else:
        changed = sum(not each.alike for each in changes)
        write_table(
            Table(
                columns=(
                    "class",
                    "change",
                    "before",
                    "after",
                    ">round before",
                    ">after",
                    ">parameters before",
                    ">after",
                ),
                rows=[
                    (
                        _short(str(row[0])),
                        *(str(cell or "none") for cell in row[1:4]),
                        *(duration(_number(cell)) for cell in row[4:6]),
                        *(count(_number(cell)) for cell in row[6:]),
                    )
                    for row in rows
                ],
                footer=[f"{changed} of {len(changes)} classes differ"],
            ),
            out,
        )


def _change(change: ClassChange) -> list[Cell]:
    pair = change.before, change.after
    what = "same" if change.alike else "new" if change.before is None else "gone" if change.after is None else "changed"
    subs = [each.sub_model if each else None for each in pair]
    return [
        change.name,
        what,
        *(sub.id if sub else None for sub in subs),
        *(each.round_s if each else None for each in pair),
        *(sub.parameters if sub else None for sub in subs),
    ]


def _number(cell: Cell) -> float | None:
    return cell if isinstance(cell, int | float) else None


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
