"""What a sweep will measure and what it measured, as table, JSON or CSV."""

from collections import Counter
from dataclasses import dataclass

from latte_cli.compiling import CompiledSummary
from latte_cli.measure import Outcome
from latte_cli.report import Format, Table, write_csv, write_json, write_table
from latte_cli.suites import Drawn
from latte_cli.sweep import Budget, Summary, Sweep


@dataclass(frozen=True, kw_only=True)
class SweepTarget:
    """Where rows come from and go to: a device's slug and a store's URI."""

    device: str
    store: str


def write_sweep_plan(drawn: Drawn, sweep: Sweep, *, device: str, budget: Budget, form: Format) -> None:
    """The layers by kind that a sweep would measure within its `budget`, and about how long that takes."""
    first_s, all_s = sweep.forecast_s(budget)
    kinds = Counter(item.layer.kind for item in drawn.wanted).most_common()
    if form is Format.JSON:
        document = {"layers": dict(kinds), "tasks": sweep.size, "rejected_draws": drawn.rejected}
        forecast = {"tasks_left": sweep.left, "first_pass_s": first_s, "all_passes_s": all_s}
        write_json({"schema": "latte.profile-plan/1", "device": device, **document, **forecast})
    elif form is Format.CSV:
        write_csv(["kind", "layers"], kinds)
    else:
        rows = [(kind, str(number)) for kind, number in kinds]
        done = f", {sweep.size - sweep.left} of them measured earlier" if sweep.left < sweep.size else ""
        footer = [f"{sweep.size} tasks{done}, {drawn.rejected} draws rejected for their size"]
        footer += [_forecast(first_s, all_s, budget), _end_of(budget)]
        write_table(Table(columns=("kind", ">layers"), rows=rows, title=f"to measure on {device}", footer=footer))


def _forecast(first_s: float, all_s: float, budget: Budget) -> str:
    """About how long the passes take, by the device's peaks, without what the budget cuts off."""
    later = f", {_about(all_s)} for all {budget.passes}" if budget.passes > budget.rounds else ""
    return f"takes about {_about(first_s)} for the first pass{later}, if the device is quiet"


def _about(seconds: float) -> str:
    """A time of which one digit or two are known: `40 s`, `3 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.1g} s" if seconds < 10 else f"{round(seconds, -1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.2g} h"


def _end_of(budget: Budget) -> str:
    """When a sweep ends."""
    if budget.seconds is None:
        return f"ends after {budget.all_passes} passes, however long they take; `--budget 2m` ends it earlier"
    return f"ends after {budget.seconds:g} s, or earlier when all is measured"


def write_summary(
    summary: Summary,
    drawn: Drawn,
    target: SweepTarget,
    *,
    tasks: int,
    compiled: CompiledSummary | None = None,
    form: Format,
) -> None:
    """New rows by outcome, how much of the sweep is done, and how many passes were `compiled`."""
    outcomes = {str(outcome): summary.rows.get(outcome, 0) for outcome in Outcome}
    if form is Format.JSON:
        left = {"left": summary.left, "tasks_left": summary.left}  # `left` was its name first; keys stay
        document = {"tasks": tasks, **left, "resumed": summary.resumed, "rows": outcomes}
        more = {"marked": summary.marked, "rejected_draws": drawn.rejected}
        passes = {"compiled": _passes(compiled)} if compiled else {}
        target_entry = {"device": target.device, "store": target.store}
        write_json({"schema": "latte.profile/1", **target_entry, **document, **more, **passes})
    elif form is Format.CSV:
        write_csv(["outcome", "rows"], list(outcomes.items()))
    else:
        rows = [(outcome, str(number)) for outcome, number in outcomes.items() if number]
        done = f"{tasks - summary.left} of {tasks} tasks measured, {summary.resumed} of them earlier"
        title = f"measured on {target.device}"
        footer = [f"{done}; store {target.store}"]
        if compiled:
            footer.insert(0, f"{compiled.measured + compiled.resumed} of {compiled.passes} compiled passes measured")
        write_table(Table(columns=("outcome", ">new rows"), rows=rows, title=title, footer=footer))


def _passes(compiled: CompiledSummary) -> dict[str, int]:
    failed = len(compiled.reasons)
    return {"measured": compiled.measured, "resumed": compiled.resumed, "failed": failed}
