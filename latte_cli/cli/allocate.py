"""`latte allocate`: which sub-model each class of a fleet trains, so that all finish a round together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from latte_cli import files
from latte_cli.cli import console
from latte_cli.cli.allocate_request import AllocateRequest, check
from latte_cli.cli.next_steps import on_that_device
from latte_cli.cli.options import parse_shapes, parse_widths
from latte_cli.cli.pasting import batch_options, name_model
from latte_cli.cli.request import from_options
from latte_cli.cli.stores import store_to_read
from latte_cli.errors import ExitCode, LatteError
from latte_cli.fleet import Method
from latte_cli.printable import few_names, printable
from latte_cli.report import Format, duration_at_most

if TYPE_CHECKING:
    from latte_cli.allocator import Assignment, Goal, Plan, PlanFile, PlanTarget, Priced, Pricer, RoundsFile
    from latte_cli.fleet import Fleet, FleetClass
    from latte_cli.network import Network

_NAMED = 3  # chosen: the output file names all
_WIDTHS = (1.0, 0.75, 0.5, 0.25)  # chosen: quarters; halves would leave large gaps


@from_options
def allocate(request: AllocateRequest) -> None:
    """Give each class of a fleet its best sub-model of MODEL.

    Its round has to end within the round duration, and its step has to fit the memory. A round is epochs x (samples /
    batch) training steps, and sending the parameters down and up. The upper end of its 95 % interval counts. Without
    --fine, the best is the largest sub-model of the given widths and depths. Ends with code 3 if a class can train no
    sub-model.

    \b
    The fleet file:
      round_duration: 30s       # optional
      classes:
        - class: phone
          device: NAME          # a profile or data sheet: `latte devices`
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
    check(request)
    asked = _read(request)
    if request.curve:
        _show_curve(asked)
    elif request.devices:
        _allocate_devices(asked, request.devices)
    else:
        _allocate_classes(asked)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A request with what its files hold: a fleet, prices for it, and a goal or a round duration, if there is one."""

    request: AllocateRequest
    fleet: "Fleet"
    pricer: "Pricer"
    goal: "Goal"
    duration_s: float | None
    widths: Sequence[float]
    depths: Sequence[float]
    before: "PlanFile | RoundsFile | None"

    @property
    def whole(self) -> "Network":
        return self.pricer.whole(self.fleet.classes[0].batch)

    @cached_property
    def priced(self) -> "Priced":
        from latte_cli.allocator import RoundsFile, catalogue, price_classes

        sub_models = catalogue(self.whole, self.widths, self.depths)
        with console.progress("pricing", len(self.fleet.classes)) as bar:
            priced = price_classes(sub_models, self.fleet, self.pricer, bar.advance)
        if not isinstance(self.before, RoundsFile):
            return priced
        corrected = self.before.correct(priced)
        for text in self.before.summaries(self.fleet.classes):
            console.note(text)
        return corrected


def _name_model(request: AllocateRequest, fleet: "Fleet") -> None:
    """Let warnings name the model, and `latte profile` with what the classes train of it."""
    batches = sorted({each.batch for each in fleet.classes})[:_NAMED]
    widths = [f"--widths {request.widths}"] if request.widths else []
    name_model(console.shell_word(request.model), {"profile": [*batch_options(batches), *widths]})


def _read(request: AllocateRequest) -> _Asked:
    """Read the fleet, the model and the plan before; raises LatteError for what they hold, and for lists of shares."""
    from latte_cli.allocator import SHARES, Goal, pricer_of
    from latte_cli.fleet import read_fleet
    from latte_cli.network.channels import kept_whole

    widths = None if request.widths is None else parse_widths(request.widths)
    depths = parse_widths(request.depths, "depths")
    if request.fine and depths != (1.0,):
        raise LatteError("`--fine` chooses widths, not depths", hint="leave one out", exit_code=ExitCode.USAGE)
    goal = Goal(capacity=request.target_capacity, floor=request.floor, idle=request.max_idle, fine=request.fine)
    fleet = read_fleet(request.fleet).with_defaults(strategy=request.strategy, optimizer=request.optimizer)
    _name_model(request, fleet)
    pricer = pricer_of(
        request.model,
        store_to_read(request.store),
        strategy=request.strategy,
        optimizer=request.optimizer,
        sizes=parse_shapes(request.shape),
        batch_axis=request.batch_axis,
        allow_unknown=request.allow_unknown,
        note=console.note,
    )
    whole = pricer.whole(fleet.classes[0].batch)
    duration_s = None if goal else request.round_duration or fleet.round_duration_s
    if duration_s is None and not goal and not request.curve:
        raise _no_duration(request.fleet)
    for text in kept_whole(whole) if widths != (1.0,) else ():
        console.note(text)
    return _Asked(
        request=request,
        fleet=fleet,
        pricer=pricer,
        goal=goal,
        duration_s=duration_s,
        widths=widths or (SHARES if request.fine else _WIDTHS),
        depths=depths,
        before=_before(request, whole),
    )


def _no_duration(path: Path) -> LatteError:
    hint = f"`--round-duration 30s`, or `round_duration: 30s` in `{path}`; `--curve` shows what each one gives"
    return LatteError("the duration of a round is not given", hint=hint, exit_code=ExitCode.USAGE)


def _before(request: AllocateRequest, whole: "Network") -> "PlanFile | RoundsFile | None":
    """The plan or the rounds to go on from, for this model."""
    if request.after is None:
        return None
    from latte_cli.allocator import RoundsFile, read_before

    before = read_before(request.after)
    before.check_model(whole)
    if isinstance(before, RoundsFile):
        if request.fine:
            raise LatteError(
                f"`--fine` and the rounds in `{request.after}` do not go together: "
                "measured steps correct the prices of a catalogue",
                hint="leave `--fine` out, or name a plan by `--after`",
                exit_code=ExitCode.USAGE,
            )
        if not before.devices:
            console.note(f"no device in `{request.after}` measured its steps, so prices stay as they are")
    return before


def _show_curve(asked: _Asked) -> None:
    from latte_cli.allocator import curve_towards
    from latte_cli.report import pictures
    from latte_cli.report.plans import write_curve

    points, chosen = curve_towards(asked.priced, asked.whole.parameters, goal=asked.goal, duration_s=asked.duration_s)
    write_curve(points, chosen, asked.request.form)
    if picture := asked.request.picture:
        title = f"{asked.whole.name}: what rounds of a duration give"
        pictures.save_figure(pictures.curve_figure(points, chosen, title), picture)
        console.note(f"wrote `{picture}`")


def _allocate_devices(asked: _Asked, path: Path) -> None:
    from latte_cli.allocator import assign
    from latte_cli.allocator.files import read_devices, write_assignment
    from latte_cli.report.plans import write_assignments

    request, classes, duration_s = asked.request, asked.fleet.classes, _target(asked).duration_s
    rounds = [each for _, each in asked.priced]
    names, devices = read_devices(path, classes)
    found = assign(classes, rounds, devices, duration_s)
    shares = {each.name: max(one.sheet_share for one in found) for each, found in asked.priced}
    write_assignments(classes, devices, found, duration_s, request.form, sheet_shares=shares)
    if request.output:
        write_assignment(request.output, classes, names, devices, found, asked.whole)
        console.note(f"wrote `{request.output}`")
    if found.unable.any():
        count = int(found.unable.sum())
        who = few_names([printable(names[row]) for row in found.unable.nonzero()[0][:_NAMED]])
        console.warn(f"{count:,} of {len(names):,} devices have no data or no network and get nothing, as {who}")
    if found.left_out:
        raise _devices_left_out(found, duration_s)


def _devices_left_out(found: "Assignment", duration_s: float) -> LatteError:
    longer = "a longer `--round-duration`, " if found.too_small < found.left_out else ""
    memory = f"a smaller `batch` ({found.too_small:,} have too little memory), " if found.too_small else ""
    return LatteError(
        f"no sub-model for {found.left_out:,} of {len(found.chosen):,} devices in rounds of "
        f"{duration_at_most(duration_s)}",
        hint=f"{longer}{memory}or narrower `--widths`",
        exit_code=ExitCode.EXCEEDED,
    )


def _say_doubts(plan: "Plan") -> None:
    """Say each kind of doubt once, with the first class that it holds for and the names of the others."""
    from latte_cli.devices import spec_named

    doubts: dict[str, list[tuple[FleetClass, str]]] = {}
    for planned in plan.devices:
        for warning in planned.warnings:
            doubts.setdefault(warning.code, []).append((planned.fleet_class, warning.message))
    for (first, message), *others in doubts.values():
        likewise = f", likewise {few_names([each.name for each, _ in others])}" if others else ""
        here = spec_named(first.device) is not None
        console.warn(f"class `{first.name}`{likewise}: {message if here else on_that_device(message)}")


def _allocate_classes(asked: _Asked) -> None:
    request = asked.request
    file = _shared_out(asked, _plan(asked, _target(asked)))
    _write(file, request.form, request.output, request.picture)
    _say_doubts(file.plan)
    if request.materialise:
        _materialise(file, request.model, asked.whole, request.materialise)
    if not file.plan.feasible:
        raise _exceeded_error(file)
    console.note(_next(request, file.plan))


def _target(asked: _Asked) -> "PlanTarget":
    """The duration of the rounds, and what the goal wants of each class; raises LatteError where it wants too much."""
    from latte_cli.allocator import PlanTarget, fine_target

    if asked.duration_s is not None:
        return PlanTarget(duration_s=asked.duration_s)
    if asked.request.fine:
        priced = asked.priced
        with console.progress("looking for the shortest rounds", None) as bar:
            target = fine_target(
                asked.goal, priced, asked.whole.parameters, asked.pricer, shares=asked.widths, done=bar.advance
            )
    else:
        target = asked.goal.target(asked.priced, asked.whole.parameters)
    console.note(f"rounds of {duration_at_most(target.duration_s)}")
    return target


def _plan(asked: _Asked, target: "PlanTarget") -> "Plan":
    from latte_cli.allocator import allocate_fine, plan_of

    if not asked.request.fine:
        return plan_of(asked.priced, target.duration_s)
    with console.progress("allocating", len(asked.fleet.classes)) as bar:
        return allocate_fine(
            asked.fleet,
            asked.pricer,
            target.duration_s,
            objective=asked.request.objective,
            shares=asked.widths,
            least=target.least,
            known=target.known,
            done=bar.advance,
        )


def _shared_out(asked: _Asked, plan: "Plan") -> "PlanFile":
    from latte_cli.allocator import CATALOGUE, shared_out
    from latte_cli.network.parts import Cutter

    request = asked.request
    by_importance = request.channels is Method.IMPORTANCE
    return shared_out(
        plan,
        asked.whole,
        objective=request.objective if request.fine else CATALOGUE,
        method=request.channels,
        seed=request.seed,
        before=asked.before,
        importance=Cutter(request.model, asked.whole).importance() if by_importance else None,
    )


def _write(file: "PlanFile", form: Format, output: Path | None, picture: Path | None) -> None:
    from latte_cli.allocator import MANY
    from latte_cli.report import pictures
    from latte_cli.report.plans import write_plan

    write_plan(file, form)
    if output:
        with files.text_replacement(output) as out:
            write_plan(file, Format.JSON, out)
        console.note(f"wrote `{output}`")
    if picture:
        title = f"{file.model}: a round of {duration_at_most(file.plan.round_duration_s)}"
        pictures.save_figure(pictures.round_figure(file.plan, title), picture)
        console.note(f"wrote `{picture}`")
    if not file.listed:
        console.warn(
            f"the channels of more than {MANY:,} devices are not listed; "
            "`--devices FILE -o OUT.parquet` gives each its windows"
        )


def _materialise(file: "PlanFile", model: Path, whole: "Network", folder: Path) -> None:
    from latte_cli.allocator.files import materialise

    with console.progress("writing", None) as bar:
        count = materialise(file, model, whole, folder, lambda done: bar.advance(done))
    console.note(f"wrote {count} sub-models and `{folder / 'devices.csv'}`")


def _next(request: AllocateRequest, plan: "Plan") -> str:
    if request.output:
        return f"next: `latte plan show {console.shell_word(request.output)}`"
    first = plan.devices[0]
    model, batch = console.shell_word(request.model), first.fleet_class.batch
    return f"next: `latte estimate {model} --device {first.device} --batch-size {batch}` shows a step layer by layer"


def _exceeded_error(file: "PlanFile") -> LatteError:
    plan = file.plan
    names = few_names([each.fleet_class.name for each in plan.devices if not each.feasible])
    if plan.least_s is not None:
        hint = f"`--round-duration {_at_least(plan.least_s)}` is met by all; narrower `--widths` may shorten a round"
    else:
        hint = "where the memory is too small, a smaller `batch` or narrower `--widths` need less"
    found = "no sub-model" if file.complete else "found no sub-model"
    message = f"{found} for {names} in rounds of {duration_at_most(plan.round_duration_s)}"
    return LatteError(message, hint=hint, exit_code=ExitCode.EXCEEDED)


def _at_least(seconds: float) -> str:
    return f"{int(seconds) + 1}s" if seconds >= 10 else f"{int(1000 * seconds) + 1}ms"
