"""Plans as a table, JSON or CSV."""

from collections.abc import Iterator
from typing import TextIO

from latte_cli.allocator import Plan, PlannedDevice
from latte_cli.network import Network
from latte_cli.report import Cell, Format, Table, count, duration, size, write_csv, write_json, write_table

SCHEMA = "latte.plan/1"

_NAME_WIDTH = 18
_COLUMNS = ("class", "count", "device", "sub_model", "parameters", "round_s", "low_s", "high_s", "memory_bytes")


def write_plan(plan: Plan, network: Network, form: Format, out: TextIO | None = None) -> None:
    """Write the plan for `network`, the whole model."""
    if form is Format.JSON:
        write_json(document(plan, network), out)
    elif form is Format.CSV:
        columns = (*_COLUMNS, "status", "least_s")
        rows = [_entry(device) | {"parameters": _parameters(device)} for device in plan.devices]
        write_csv(columns, [[row[column] for column in columns] for row in rows], out)
    else:
        write_table(_table(plan, network), out)


def document(plan: Plan, network: Network) -> dict[str, object]:
    """The plan as the document `latte.plan/1`."""
    return {
        "schema": SCHEMA,
        "model": {"name": network.name, "sha256": network.sha256},
        "round_duration_s": plan.round_duration_s,
        "sub_models": [
            {"id": each.id, "widths": dict(each.widths), "parameters": each.parameters} for each in plan.sub_models
        ],
        "devices": [_entry(device) for device in plan.devices],
    }


def _entry(planned: PlannedDevice) -> dict[str, Cell]:
    return {
        "class": planned.fleet_class.name,
        "count": planned.fleet_class.count,
        "device": planned.device,
        "sub_model": planned.sub_model.id if planned.sub_model else None,
        "round_s": planned.round_s,
        "low_s": planned.low_s,
        "high_s": planned.high_s,
        "memory_bytes": planned.memory_bytes,
        "status": "ok" if planned.feasible else "infeasible",
        "least_s": planned.least_s,
    }


def _parameters(planned: PlannedDevice) -> int | None:
    return planned.sub_model.parameters if planned.sub_model else None


def _table(plan: Plan, network: Network) -> Table:
    taking_part = sum(each.fleet_class.count for each in plan.devices if each.feasible)
    devices = sum(each.fleet_class.count for each in plan.devices)
    return Table(
        title=f"{_short(network.name)} in rounds of {duration(plan.round_duration_s)}",
        columns=("class", ">devices", ">sub-model", ">parameters", ">round", ">at most", ">memory"),
        rows=[_row(planned) for planned in plan.devices],
        footer=[
            "`at most` is the upper end of the 95 % interval",
            *(line for planned in plan.devices for line in _lines(planned)),
            f"{taking_part} of {devices} devices have a sub-model",
        ],
    )


def _row(planned: PlannedDevice) -> tuple[str, ...]:
    return (
        _short(planned.fleet_class.name),
        str(planned.fleet_class.count),
        planned.sub_model.id if planned.sub_model else "none",
        count(_parameters(planned)),
        duration(planned.round_s),
        duration(planned.high_s),
        size(planned.memory_bytes) if planned.feasible else "-",
    )


def _lines(planned: PlannedDevice) -> Iterator[str]:
    fleet_class = planned.fleet_class
    name = _short(fleet_class.name)
    yield f"{name}: {planned.device}, {fleet_class.precision} {fleet_class.layout}"
    if planned.feasible:
        return
    if planned.least_s is None:
        yield f"  infeasible: a step needs at least {size(planned.memory_bytes)} of memory"
    else:
        yield f"  infeasible: a round takes at least {duration(planned.least_s)}"


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
