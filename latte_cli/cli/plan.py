"""`latte plan`: look at plans, check them and compare them."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from latte_cli import files
from latte_cli.cli import console
from latte_cli.cli.options import FormatOption, OptimizerOption, ShapeOption, StoreOption, parse_shapes
from latte_cli.cli.pricing import pricer_of
from latte_cli.errors import ExitCode, LatteError
from latte_cli.report import Format, duration

app = typer.Typer(help="Show, check and compare the plans that `latte allocate -o FILE` writes.", no_args_is_help=True)

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
        title = f"{found.model}: a round of {duration(found.plan.round_duration_s)}"
        pictures.save(pictures.round_figure(found.plan, title), picture)
        console.note(f"wrote `{picture}`")
    console.note(f"next: `latte plan check {shlex.quote(str(plan))} MODEL` prices it again")


@app.command("check")
def check(
    plan: PlanArgument,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model it is for.", show_default=False)],
    shape: ShapeOption = None,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="Who chooses the algorithms, as for `latte estimate`.")
    ] = "latte",
    optimizer: OptimizerOption = "sgd",
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Check that a plan fits its model, and price it again by what the store holds today.

    Ends with code 1 where the plan is for another model, and with 3 if a class would no longer finish in time.
    """
    from latte_cli.allocator import Plan, changes, largest, planned, read_plan
    from latte_cli.report.plans import write_changes

    found = read_plan(plan)
    price = pricer_of(model, store, strategy, optimizer, parse_shapes(shape), allow_unknown=False)
    devices = []
    for each in found.plan.devices:
        found.check_model(price.whole(each.fleet_class.batch))
        if each.sub_model is None:
            devices.append(each)
            continue
        _check_size(each.sub_model.id, each.sub_model.parameters, each.sub_model.of(price.whole(1)).parameters)
        rounds = [price(each.sub_model, each.fleet_class)]
        devices.append(planned(each.fleet_class, rounds, largest(rounds, found.plan.round_duration_s)))
    again = Plan(round_duration_s=found.plan.round_duration_s, sub_models=found.plan.sub_models, devices=tuple(devices))
    write_changes(changes(found.plan.devices, again.devices), form)
    late = [
        each.fleet_class.name
        for before, each in zip(found.plan.devices, again.devices, strict=True)
        if before.feasible and not each.feasible
    ]
    if late:
        names = ", ".join(f"`{name}`" for name in late[:3]) + (f" and {len(late) - 3} more" if len(late) > 3 else "")
        raise LatteError(
            f"{names} would not finish in {duration(again.round_duration_s)} any more",
            hint="make the plan again with `latte allocate`",
            exit_code=ExitCode.EXCEEDED,
        )
    console.note(f"the plan fits `{model}`, and all finish in {duration(again.round_duration_s)}")


def _check_size(name: str, planned: int, found: int) -> None:
    if planned != found:
        raise LatteError(
            f"sub-model `{name}` has {found:,} parameters, not {planned:,} as the plan says",
            hint="make the plan again with `latte allocate`",
        )


@app.command("diff")
def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A plan, as JSON.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one.", show_default=False)],
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what classes train in two plans, and how long their rounds take."""
    from latte_cli.allocator import changes, read_plan
    from latte_cli.report.plans import write_changes

    first, second = read_plan(before), read_plan(after)
    if first.sha256 != second.sha256:
        console.warn(f"the plans are for different models, `{first.model}` and `{second.model}`")
    write_changes(changes(first.plan.devices, second.plan.devices), form)
