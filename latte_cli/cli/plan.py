"""`latte plan`: look at plans, check them and compare them."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli import files
from latte_cli.cli import console
from latte_cli.cli.options import (
    AllowUnknownOption,
    BatchAxisOption,
    FormatOption,
    ShapeOption,
    StoreOption,
    parse_shapes,
)
from latte_cli.cli.stores import store_to_read
from latte_cli.errors import ExitCode, LatteError
from latte_cli.printable import few_names
from latte_cli.report import Format, duration_at_most

if TYPE_CHECKING:
    from latte_cli.allocator import PlanCheck
    from latte_cli.fleet import FleetClass

app = typer.Typer(help="Show, check and compare plans of `latte allocate`.", no_args_is_help=True)

PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan, as JSON.", show_default=False)]


@app.command("show")
def show(
    plan: PlanArgument,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the round as .png, .svg or .pdf.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the picture.")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show a plan: what each class trains, and how long its round takes."""
    from latte_cli.allocator import read_plan
    from latte_cli.report import pictures
    from latte_cli.report.plans import write_plan

    if picture:
        pictures.check_suffix(picture)
        files.check_free(picture, force=force)
    found = read_plan(plan)
    write_plan(found, form)
    if picture:
        title = f"{found.model}: a round of {duration_at_most(found.plan.round_duration_s)}"
        pictures.save_figure(pictures.round_figure(found.plan, title), picture)
        console.note(f"wrote `{picture}`")
    console.note(f"next: `latte plan check {console.shell_word(plan)} MODEL` prices it again")


@app.command("check")
def check(
    plan: PlanArgument,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The model it is for, as .onnx or .pt2.", show_default=False)
    ],
    batch_axis: BatchAxisOption = None,
    shape: ShapeOption = None,
    allow_unknown: AllowUnknownOption = False,
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who chooses the algorithms, as for `latte estimate`. [default: the plan's]"),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="As for `latte estimate`. [default: the plan's]")
    ] = None,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Check that a plan fits its model, and price it again.

    The prices are from what the store holds today. Ends with code 1 where the plan is for another model, and with 3 if
    a class trains nothing, or would no longer finish in time.
    """
    from latte_cli.allocator import changes, check_plan, pricer_of, read_plan
    from latte_cli.report.plans import write_plan_changes

    def as_today(each: "FleetClass") -> "FleetClass":
        return replace(each, strategy=strategy or each.strategy, optimizer=optimizer or each.optimizer)

    found = read_plan(plan)
    price = pricer_of(
        model,
        store_to_read(store),
        sizes=parse_shapes(shape),
        batch_axis=batch_axis,
        allow_unknown=allow_unknown,
        note=console.note,
    )
    checked = check_plan(found, price, as_today)
    write_plan_changes(changes(found.plan.devices, checked.devices), form)
    duration_s = found.plan.round_duration_s
    failing = _failing_classes(checked, duration_s)
    if failing:
        hint = "make the plan again with `latte allocate`"
        raise LatteError(", ".join(failing), hint=hint, exit_code=ExitCode.EXCEEDED)
    console.note(
        f"the plan fits `{model}`, and all finish in {duration_at_most(duration_s)} ({found.plan.count:,} devices)"
    )


def _failing_classes(checked: "PlanCheck", duration_s: float) -> list[str]:
    """Which classes do not train and finish, and how many devices they are."""
    return [
        f"{said.format(few_names([each.name for each in classes]))} "
        f"({sum(each.count for each in classes):,} of {checked.plan.count:,} devices)"
        for classes, said in (
            (checked.late, f"{{}} would not finish in {duration_at_most(duration_s)} any more"),
            (checked.too_large, "the sub-model of {} does not fit the memory any more"),
            (checked.without, "the plan has no sub-model for {}"),
        )
        if classes
    ]


@app.command("diff")
def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A plan, as JSON.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one.", show_default=False)],
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what classes train in two plans, and how long their rounds take."""
    from latte_cli.allocator import changes, read_plan
    from latte_cli.report.plans import write_plan_changes

    first, second = read_plan(before), read_plan(after)
    if first.sha256 != second.sha256:
        console.warn(f"the plans are for different models, `{first.model}` and `{second.model}`")
    write_plan_changes(changes(first.plan.devices, second.plan.devices), form)
