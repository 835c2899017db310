"""`latte allocate`: which sub-model each class of a fleet trains, so that all finish a round together."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli import files
from latte_cli.cli import console
from latte_cli.cli.options import (
    AllowUnknownOption,
    FormatOption,
    ModelArgument,
    OptimizerOption,
    ShapeOption,
    StoreOption,
    parse_duration,
    parse_shapes,
    parse_share,
    parse_widths,
)
from latte_cli.cli.pricing import pricer_of
from latte_cli.errors import ExitCode, LatteError
from latte_cli.fleet import Method, Objective
from latte_cli.report import Format, duration_at_most
from latte_cli.tasks import Layout, Precision

if TYPE_CHECKING:
    from latte_cli.allocator import Goal, Least, Plan, PlanFile, Priced, Pricer
    from latte_cli.fleet import Fleet
    from latte_cli.network import Network

_WIDTHS = (1.0, 0.75, 0.5, 0.25)


def allocate(
    model: ModelArgument,
    fleet: Annotated[
        Path, typer.Option("--fleet", metavar="FILE", help="The fleet, in YAML: see above.", show_default=False)
    ],
    round_duration: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="DURATION", help="As in 30s or 10m. [default: the fleet file's]"),
    ] = None,
    target_capacity: Annotated[
        float | None,
        typer.Option(
            parser=parse_share, metavar="SHARE", help="Instead: the shortest rounds that keep this much on average."
        ),
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(
            parser=parse_share, metavar="SHARE", help="Instead: the shortest in which each device keeps this much."
        ),
    ] = None,
    max_idle: Annotated[
        float | None,
        typer.Option(
            parser=parse_share, metavar="SHARE", help="Instead: those that keep most while devices wait this much."
        ),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Shares of the channels that may be kept. [default: 1,0.75,0.5,0.25; ten with --fine]"
        ),
    ] = None,
    depths: Annotated[
        str, typer.Option(metavar="LIST", help="Shares of the residual blocks that may be kept, stage by stage.")
    ] = "1",
    fine: Annotated[bool, typer.Option("--fine", help="A width of its own for each channel group.")] = False,
    objective: Annotated[
        Objective, typer.Option(help="What --fine makes most of: balanced widths, or parameters.")
    ] = Objective.BALANCED,
    channels: Annotated[Method, typer.Option(help="Which channels a device keeps.")] = Method.NESTED,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is drawn.")] = 0,
    after: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="The plan of the round before: go on with its counts.")
    ] = None,
    devices: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Devices one by one, as Parquet or CSV: device, class, and what is its own, in the unit that the "
            "column's name ends in.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the plan as JSON; with --devices as Parquet or CSV."
        ),
    ] = None,
    materialise: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each sub-model as ONNX with its weights.")
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Show what each round duration gives, instead.")] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the round, or the curve, as .png, .svg or .pdf.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files.")] = False,
    shape: ShapeOption = None,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="Who chooses the algorithms, as for `latte estimate`.")
    ] = "latte",
    optimizer: OptimizerOption = "sgd",
    allow_unknown: AllowUnknownOption = False,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Give each class of a fleet its best sub-model of MODEL.

    It is the best whose round meets the round duration. A round is epochs x (samples / batch) training steps, then the
    parameters sent down and up; the upper end of its 95 % interval counts, and a step has to fit the memory. Without
    --fine that is the largest sub-model of the given widths and depths. Ends with code 3 if a class can train no
    sub-model.

    \b
    The fleet file:
      round_duration: 30s       # optional
      classes:
        - class: phone
          device: NAME          # a profile, see `latte store devices`
          count: 10             # devices of this class; 1 unless given
          samples: 500          # of one device
          epochs: 1             # passes over them a round; 1 unless given
          batch: 8
          bandwidth: {up: 5Mbit, down: 20Mbit}    # bits per second
          overhead: 2s          # optional: what a round takes besides
          memory: 2GiB          # optional: the device's, unless given
          precision: fp32       # optional, as are threads, layout (nchw,
                                # channels_last), strategy and optimizer
    """
    from latte_cli.allocator import CATALOGUE, SHARES, Goal, plan_of
    from latte_cli.estimator import check_names
    from latte_cli.fleet import read_fleet

    shares, blocks = None if widths is None else parse_widths(widths), parse_widths(depths, "depths")
    goal = Goal(capacity=target_capacity, floor=floor, idle=max_idle)
    _check_together(
        {
            "--curve": curve,
            "--devices": devices,
            "--fine": fine,
            "--round-duration": round_duration,
            "--target-capacity": target_capacity,
            "--floor": floor,
            "--max-idle": max_idle,
            "--after": after,
            "--output": output,
            "--materialise": materialise,
            "--picture": picture,
        }
    )
    _check_outputs(output, picture, materialise, devices, force)
    check_names(Precision.FP32, Layout.NCHW, strategy, optimizer)
    if fine and blocks != (1.0,):
        raise LatteError("`--fine` chooses widths, not depths", hint="leave one away", exit_code=ExitCode.USAGE)
    found = _settled(read_fleet(fleet), strategy, optimizer)
    pricer = pricer_of(model, store, strategy, optimizer, parse_shapes(shape), allow_unknown)
    whole = pricer.whole(found.classes[0].batch)
    duration_s = None if goal else round_duration or found.round_duration_s
    if duration_s is None and not goal and not curve:
        raise _no_duration(fleet)
    before = _plan_before(after, whole)
    rounds = _Rounds(pricer, found, shares or (SHARES if fine else _WIDTHS), blocks)
    if curve:
        _show_curve(rounds, goal, duration_s, whole, form, picture)
        return
    least = None
    if duration_s is None:
        duration_s = goal.point(rounds.priced, whole.parameters).round_duration_s
        console.note(f"rounds of {duration_at_most(duration_s)}")
        least = [goal.least(each, whole.parameters, duration_s) for _, each in rounds.priced]
    if devices:
        _allocate_devices(rounds, devices, duration_s, output, form)
        return
    if fine:
        plan = _fine_plan(pricer, found, objective, shares or SHARES, duration_s, least)
    else:
        plan = plan_of(rounds.priced, duration_s)
    file = _shared_out(plan, whole, model, objective if fine else CATALOGUE, channels, seed, before)
    _write(file, form, output, picture)
    for planned in plan.devices:
        for warning in planned.warnings:
            console.warn(f"class `{planned.fleet_class.name}`: {warning.message}")
    if materialise:
        _materialise(file, model, whole, materialise)
    if not plan.feasible:
        raise _exceeded(file)
    if output:
        console.note(f"next: `latte plan show {shlex.quote(str(output))}`")
        return
    first = plan.devices[0]
    shown = f"latte estimate {shlex.quote(str(model))} --device {first.device} --batch-size {first.fleet_class.batch}"
    console.note(f"next: `{shown}` shows a step layer by layer")


_DURATIONS = ("--round-duration", "--target-capacity", "--floor", "--max-idle")
_APART = (
    ("--curve", ("--fine", "--devices"), "the curve is that of one width for all channel groups, class by class"),
    ("--curve", ("--after", "--output", "--materialise"), "the curve is no plan"),
    ("--devices", ("--fine",), "each device gets one width for all channel groups"),
    ("--devices", _DURATIONS[1:], "they go by classes, not by devices; `--round-duration` says how long rounds are"),
    ("--devices", ("--after", "--materialise", "--picture"), "they are for plans by class"),
)
"""Options that do not go together, and why."""


def _check_together(given: Mapping[str, object]) -> None:
    """Raise LatteError for options of which one would be left out of account."""
    there = {name for name, value in given.items() if value is not None and value is not False}
    if len(there & set(_DURATIONS)) > 1:
        raise LatteError(
            "the duration of a round is asked for in two ways",
            hint="one of `--round-duration`, `--target-capacity`, `--floor` and `--max-idle`",
            exit_code=ExitCode.USAGE,
        )
    for first, others, why in _APART:
        for other in others:
            if {first, other} <= there:
                message = f"`{first}` and `{other}` do not go together: {why}"
                raise LatteError(message, hint="leave one away", exit_code=ExitCode.USAGE)


def _settled(fleet: "Fleet", strategy: str, optimizer: str) -> "Fleet":
    """The fleet with who chooses the algorithms, and the optimizer, in every class: a plan rests on both."""
    return replace(
        fleet,
        classes=tuple(
            replace(each, strategy=each.strategy or strategy, optimizer=each.optimizer or optimizer)
            for each in fleet.classes
        ),
    )


def _no_duration(path: Path) -> LatteError:
    hint = f"`--round-duration 30s`, or `round_duration: 30s` in `{path}`; `--curve` shows what each one gives"
    return LatteError("the duration of a round is not given", hint=hint, exit_code=ExitCode.USAGE)


@dataclass
class _Rounds:
    """The rounds of the catalogue for each class, priced once."""

    pricer: "Pricer"
    fleet: "Fleet"
    widths: Sequence[float]
    depths: Sequence[float]

    @property
    def whole(self) -> "Network":
        return self.pricer.whole(self.fleet.classes[0].batch)

    @cached_property
    def priced(self) -> "Priced":
        from latte_cli.allocator import catalogue, priced

        sub_models = catalogue(self.whole, self.widths, self.depths)
        with console.progress("pricing", len(self.fleet.classes)) as bar:
            return priced(sub_models, self.fleet, self.pricer, bar.advance)


def _plan_before(path: Path | None, whole: "Network") -> "PlanFile | None":
    if path is None:
        return None
    from latte_cli.allocator import read_plan

    before = read_plan(path)
    before.check_model(whole)
    return before


def _show_curve(
    rounds: _Rounds, goal: "Goal", duration_s: float | None, whole: "Network", form: Format, picture: Path | None
) -> None:
    from latte_cli.allocator import curve, point
    from latte_cli.report import pictures
    from latte_cli.report.plans import write_curve

    points, chosen = curve(rounds.priced, whole.parameters), None
    if goal:
        chosen = goal.point(rounds.priced, whole.parameters)
    elif duration_s is not None:
        chosen = point(rounds.priced, duration_s, whole.parameters)
        points = sorted({*points, chosen}, key=lambda each: each.round_duration_s)
    write_curve(points, chosen, form)
    if picture:
        title = f"{whole.name}: what rounds of a duration give"
        pictures.save(pictures.curve_figure(points, chosen, title), picture)
        console.note(f"wrote `{picture}`")


def _fine_plan(
    pricer: "Pricer",
    fleet: "Fleet",
    objective: Objective,
    shares: Sequence[float],
    duration_s: float,
    least: "Sequence[Least] | None",
) -> "Plan":
    from latte_cli.allocator import allocate_fine

    with console.progress("allocating", len(fleet.classes)) as bar:
        return allocate_fine(
            fleet, pricer, duration_s, objective=objective, shares=shares, least=least, done=bar.advance
        )


def _shared_out(
    plan: "Plan", whole: "Network", model: Path, objective: str, method: Method, seed: int, before: "PlanFile | None"
) -> "PlanFile":
    from latte_cli.allocator import shared_out
    from latte_cli.network.parts import Cutter

    importance = Cutter(model, whole).importance() if method is Method.IMPORTANCE else None
    return shared_out(plan, whole, objective=objective, method=method, seed=seed, before=before, importance=importance)


def _write(file: "PlanFile", form: Format, output: Path | None, picture: Path | None) -> None:
    from latte_cli.allocator import MANY
    from latte_cli.report import pictures
    from latte_cli.report.plans import write_plan

    write_plan(file, form)
    if output:
        with files.replacing_text(output) as out:
            write_plan(file, Format.JSON, out)
        console.note(f"wrote `{output}`")
    if picture:
        title = f"{file.model}: a round of {duration_at_most(file.plan.round_duration_s)}"
        pictures.save(pictures.round_figure(file.plan, title), picture)
        console.note(f"wrote `{picture}`")
    if not file.listed:
        console.warn(
            f"the channels of more than {MANY:,} devices are not listed; "
            "`--devices FILE -o OUT.parquet` gives each its windows"
        )


def _materialise(file: "PlanFile", model: Path, whole: "Network", folder: Path) -> None:
    from latte_cli.allocator.files import materialised

    with console.progress("writing", None) as bar:
        count = materialised(file, model, whole, folder, lambda done: bar.advance(done))
    console.note(f"wrote {count} sub-models and `{folder / 'devices.csv'}`")


def _allocate_devices(rounds: _Rounds, path: Path, duration_s: float, output: Path | None, form: Format) -> None:
    import numpy as np

    from latte_cli.allocator.files import read_devices, write_assignment
    from latte_cli.allocator.many import assigned
    from latte_cli.report.plans import write_assignments

    priced = rounds.priced
    names, devices = read_devices(path, rounds.fleet.classes)
    found = assigned(rounds.fleet.classes, [each for _, each in priced], devices, duration_s)
    write_assignments(rounds.fleet.classes, devices, found, duration_s, form)
    if output:
        write_assignment(output, rounds.fleet.classes, names, devices, found, rounds.whole)
        console.note(f"wrote `{output}`")
    left_out = found.chosen < 0
    if left_out.any():
        too_small = int((left_out & np.isnan(found.least_s)).sum())
        count = int(left_out.sum())
        longer = "a longer `--round-duration`, " if too_small < count else ""
        memory = f"a smaller `batch` ({too_small:,} have too little memory), " if too_small else ""
        raise LatteError(
            f"no sub-model for {count:,} of {len(found.chosen):,} devices in rounds of {duration_at_most(duration_s)}",
            hint=f"{longer}{memory}or narrower `--widths`",
            exit_code=ExitCode.EXCEEDED,
        )


def _check_outputs(
    output: Path | None, picture: Path | None, folder: Path | None, devices: Path | None, force: bool
) -> None:
    from latte_cli.report.pictures import check_suffix

    if picture:
        check_suffix(picture)
    if output and devices and output.suffix not in (".parquet", ".csv"):
        hint = "its name ends in .parquet or .csv"
        raise LatteError(f"`{output}` is no file of devices", hint=hint, exit_code=ExitCode.USAGE)
    for path in filter(None, (output, picture)):
        files.check_free(path, force=force)
    if folder and folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]) and not force:
        raise LatteError(f"`{folder}` is there already and not empty", hint="`--force` writes into it")


def _exceeded(file: "PlanFile") -> LatteError:
    plan = file.plan
    failing = [planned for planned in plan.devices if not planned.feasible]
    names = ", ".join(f"`{planned.fleet_class.name}`" for planned in failing[:3])
    names += f" and {len(failing) - 3} more" if len(failing) > 3 else ""
    if plan.least_s is not None:
        hint = f"`--round-duration {_at_least(plan.least_s)}` is met by all; narrower `--widths` may shorten a round"
    else:
        hint = "where the memory is too small, a smaller `batch` or narrower `--widths` need less"
    found = "no sub-model" if file.complete else "found no sub-model"
    message = f"{found} for {names} in rounds of {duration_at_most(plan.round_duration_s)}"
    return LatteError(message, hint=hint, exit_code=ExitCode.EXCEEDED)


def _at_least(seconds: float) -> str:
    return f"{int(seconds) + 1}s" if seconds >= 10 else f"{int(1000 * seconds) + 1}ms"
