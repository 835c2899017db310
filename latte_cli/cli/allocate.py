"""`latte allocate`: which sub-model each class of a fleet trains, so that all finish a round together."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli import files
from latte_cli.cli import console
from latte_cli.cli.options import (
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
from latte_cli.report import Format, duration
from latte_cli.tasks import Layout, Precision

if TYPE_CHECKING:
    from latte_cli.allocator import Plan, PlanFile, PlannedDevice, Point, Pricer, Round
    from latte_cli.fleet import Fleet, FleetClass
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
        typer.Option(metavar="FILE", help="Devices one by one, as Parquet or CSV: device, class, and what is its own."),
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
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Leave out, and name, what can be neither looked up nor predicted.")
    ] = False,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Give each class of a fleet the best sub-model of MODEL whose round meets the round duration.

    A round is epochs x (samples / batch) training steps, then the parameters sent down and up; the upper end of its
    95 % interval counts, and a step has to fit the memory. Without --fine that is the largest sub-model of the given
    widths and depths. Ends with code 3 if a class can train no sub-model.

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
    from latte_cli.estimator import check_names
    from latte_cli.fleet import read_fleet

    shares, blocks = None if widths is None else parse_widths(widths), parse_widths(depths, "depths")
    wanted = _Wanted(round_duration=round_duration, capacity=target_capacity, floor=floor, idle=max_idle)
    wanted.check()
    _check_outputs(output, picture, materialise, devices, force)
    check_names(Precision.FP32, Layout.NCHW, strategy, optimizer)
    if fine and blocks != (1.0,):
        raise LatteError("`--fine` chooses widths, not depths", hint="leave one away", exit_code=ExitCode.USAGE)
    found = read_fleet(fleet)
    pricer = pricer_of(model, store, strategy, optimizer, parse_shapes(shape), allow_unknown)
    whole = pricer.whole(found.classes[0].batch)
    duration_s = wanted.known_s(found, fleet) if not curve or wanted.known(found) else None
    before = _plan_before(after, whole)
    rounds = _Rounds(pricer, found, shares or _WIDTHS, blocks)
    if curve:
        _show_curve(rounds, wanted, duration_s, whole, form, picture)
        return
    if duration_s is None:
        duration_s = wanted.point(rounds).round_duration_s
        console.note(f"rounds of {duration(duration_s)}")
    if devices:
        _allocate_devices(rounds, devices, duration_s, output, form)
        return
    plan = _fine_plan(pricer, found, objective, shares, duration_s) if fine else rounds.plan(duration_s)
    file = _shared_out(plan, whole, model, objective if fine else "catalogue", channels, seed, before)
    _write(file, form, output, picture)
    for planned in plan.devices:
        for warning in planned.warnings:
            console.warn(f"class `{planned.fleet_class.name}`: {warning.message}")
    if materialise:
        _materialise(file, model, whole, materialise)
    if not plan.feasible:
        raise _exceeded(plan)
    if output:
        console.note(f"next: `latte plan show {shlex.quote(str(output))}`")
        return
    first = plan.devices[0]
    shown = f"latte estimate {shlex.quote(str(model))} --device {first.device} --batch-size {first.fleet_class.batch}"
    console.note(f"next: `{shown}` shows a step layer by layer")


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """How the duration of a round is given, or what it is to be found by."""

    round_duration: float | None
    capacity: float | None
    floor: float | None
    idle: float | None

    def check(self) -> None:
        given = [each for each in (self.round_duration, self.capacity, self.floor, self.idle) if each is not None]
        if len(given) > 1:
            raise LatteError(
                "the duration of a round is asked for in two ways",
                hint="one of `--round-duration`, `--target-capacity`, `--floor` and `--max-idle`",
                exit_code=ExitCode.USAGE,
            )

    @property
    def by_curve(self) -> bool:
        return (self.capacity, self.floor, self.idle) != (None, None, None)

    def known(self, fleet: "Fleet") -> bool:
        return self.by_curve or (self.round_duration or fleet.round_duration_s) is not None

    def known_s(self, fleet: "Fleet", path: Path) -> float | None:
        """The duration; None where it is to be found."""
        if self.by_curve:
            return None
        duration_s = self.round_duration or fleet.round_duration_s
        if duration_s is None:
            hint = f"`--round-duration 30s`, or `round_duration: 30s` in `{path}`; `--curve` shows what each one gives"
            raise LatteError("the duration of a round is not given", hint=hint, exit_code=ExitCode.USAGE)
        return duration_s

    def point(self, rounds: "_Rounds") -> "Point":
        from latte_cli.allocator import busiest, shortest

        points = rounds.curve()
        if self.idle is not None:
            return busiest(points, self.idle)
        return shortest(points, capacity=self.capacity or 0.0, floor=self.floor or 0.0)


class _Rounds:
    """The rounds of the catalogue for each class, priced once."""

    def __init__(self, pricer: "Pricer", fleet: "Fleet", widths: Sequence[float], depths: Sequence[float]) -> None:
        self._pricer, self.fleet = pricer, fleet
        self._widths, self._depths = widths, depths
        self._priced: list[tuple[FleetClass, list[Round]]] = []

    @property
    def whole(self) -> "Network":
        return self._pricer.whole(self.fleet.classes[0].batch)

    def priced(self) -> "list[tuple[FleetClass, list[Round]]]":
        from latte_cli.allocator import catalogue

        if not self._priced:
            classes = self.fleet.classes
            sub_models = catalogue(self.whole, self._widths, self._depths)
            with console.progress("pricing", len(sub_models) * len(classes)) as bar:
                for done, each in enumerate(classes):
                    self._priced.append((each, [self._pricer(sub_model, each) for sub_model in sub_models]))
                    bar.advance((done + 1) * len(sub_models), each.name)
        return self._priced

    def curve(self) -> "list[Point]":
        from latte_cli.allocator import curve

        return curve(self.priced())

    def plan(self, duration_s: float) -> "Plan":
        from latte_cli.allocator import Plan, largest, planned

        devices = tuple(planned(each, rounds, largest(rounds, duration_s)) for each, rounds in self.priced())
        sub_models = tuple(each.sub_model for each in self.priced()[0][1])
        return Plan(round_duration_s=duration_s, sub_models=sub_models, devices=devices)


def _plan_before(path: Path | None, whole: "Network") -> "PlanFile | None":
    if path is None:
        return None
    from latte_cli.allocator import read_plan

    before = read_plan(path)
    before.check_model(whole)
    return before


def _show_curve(
    rounds: _Rounds, wanted: _Wanted, duration_s: float | None, whole: "Network", form: Format, picture: Path | None
) -> None:
    from latte_cli.allocator import point
    from latte_cli.report import pictures
    from latte_cli.report.plans import write_curve

    points, chosen = rounds.curve(), None
    if wanted.by_curve:
        chosen = wanted.point(rounds)
    elif duration_s is not None:
        chosen = point(rounds.priced(), duration_s)
        points = sorted({*points, chosen}, key=lambda each: each.round_duration_s)
    write_curve(points, chosen, form)
    if picture:
        title = f"{whole.name}: what rounds of a duration give"
        pictures.save(pictures.curve_figure(points, chosen, title), picture)
        console.note(f"wrote `{picture}`")


def _fine_plan(
    pricer: "Pricer", fleet: "Fleet", objective: Objective, shares: Sequence[float] | None, duration_s: float
) -> "Plan":
    from latte_cli.allocator import SHARES, Plan, Search, planned

    devices: list[PlannedDevice] = []
    named: dict[tuple[tuple[str, int], ...], str] = {}
    with console.progress("allocating", len(fleet.classes)) as bar:
        for done, each in enumerate(fleet.classes):
            search = Search(pricer, each, objective, shares or SHARES)
            best = search.best(duration_s)
            if best:
                name = named.setdefault(best.sub_model.widths, f"fine{len(named) + 1}")
                best = replace(best, sub_model=replace(best.sub_model, id=name))
            devices.append(planned(each, search.rounds, best))
            bar.advance(done + 1, each.name)
    sub_models = {each.sub_model.id: each.sub_model for each in devices if each.sub_model}
    return Plan(round_duration_s=duration_s, sub_models=tuple(sub_models.values()), devices=tuple(devices))


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
        title = f"{file.model}: a round of {duration(file.plan.round_duration_s)}"
        pictures.save(pictures.round_figure(file.plan, title), picture)
        console.note(f"wrote `{picture}`")
    if not file.trainees and file.plan.feasible:
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
    from latte_cli.allocator.files import read_devices, write_assignment
    from latte_cli.allocator.many import assigned
    from latte_cli.report.plans import write_assignments

    priced = rounds.priced()
    names, devices = read_devices(path, rounds.fleet.classes)
    found = assigned(rounds.fleet.classes, [each for _, each in priced], devices, duration_s)
    write_assignments(rounds.fleet.classes, devices, found, duration_s, form)
    if output:
        write_assignment(output, rounds.fleet.classes, names, devices, found, rounds.whole)
        console.note(f"wrote `{output}`")
    left_out = int((found.chosen < 0).sum())
    if left_out:
        raise LatteError(
            f"no sub-model for {left_out:,} of {len(found.chosen):,} devices in rounds of {duration(duration_s)}",
            hint="a longer `--round-duration`, or narrower `--widths`",
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
    if folder and devices:
        raise LatteError("`--materialise` is for plans by class", hint="leave one away", exit_code=ExitCode.USAGE)
    for path in filter(None, (output, picture)):
        files.check_free(path, force=force)
    if folder and folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]) and not force:
        raise LatteError(f"`{folder}` is there already and not empty", hint="`--force` writes into it")


def _exceeded(plan: "Plan") -> LatteError:
    failing = [planned for planned in plan.devices if not planned.feasible]
    names = ", ".join(f"`{planned.fleet_class.name}`" for planned in failing[:3])
    names += f" and {len(failing) - 3} more" if len(failing) > 3 else ""
    if plan.least_s is not None:
        hint = f"`--round-duration {_at_least(plan.least_s)}` is met by all; narrower `--widths` shorten a round"
    else:
        hint = "where the memory is too small, a smaller `batch` or narrower `--widths` need less"
    message = f"no sub-model for {names} in rounds of {duration(plan.round_duration_s)}"
    return LatteError(message, hint=hint, exit_code=ExitCode.EXCEEDED)


def _at_least(seconds: float) -> str:
    return f"{int(seconds) + 1}s" if seconds >= 10 else f"{int(1000 * seconds) + 1}ms"
