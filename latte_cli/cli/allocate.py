"""`latte allocate`: which sub-model each class of a fleet trains, so that all finish a round together."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli.cli import console
from latte_cli.cli.options import FormatOption, ShapeOption, StoreOption, parse_duration, parse_shapes, parse_widths
from latte_cli.errors import ExitCode, LatteError
from latte_cli.report import Format, duration
from latte_cli.tasks import Layout, Precision

if TYPE_CHECKING:
    from latte_cli.allocator import Plan, Pricer, SubModel
    from latte_cli.estimator import Estimate, Estimator
    from latte_cli.fleet import Fleet, FleetClass


def allocate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file or a .pt2 program.", show_default=False)],
    fleet: Annotated[
        Path, typer.Option("--fleet", metavar="FILE", help="The fleet, in YAML: see above.", show_default=False)
    ],
    round_duration: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="DURATION", help="As in 30s or 10m. [default: the fleet file's]"),
    ] = None,
    widths: Annotated[
        str, typer.Option(metavar="LIST", help="Shares of the channels that sub-models may keep.")
    ] = "1,0.75,0.5,0.25",
    shape: ShapeOption = None,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="Who chooses the algorithms: latte, pytorch, or fixed:ALGORITHM.")
    ] = "latte",
    optimizer: Annotated[str, typer.Option(metavar="NAME", help="none, sgd, momentum, adam or adamw.")] = "sgd",
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Leave out, and name, what can be neither looked up nor predicted.")
    ] = False,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Give each class of a fleet the largest sub-model of MODEL whose round meets the round duration.

    A round is epochs x (samples / batch) training steps, then the parameters sent down and up; the upper end of its
    95 % interval counts, and a step has to fit the memory. Ends with code 3 if a class can train no sub-model.

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
          memory: 2GiB          # optional: the device's, unless given
          precision: fp32       # optional, as are threads, layout (nchw,
                                # channels_last), strategy and optimizer
    """
    from latte_cli.estimator import check_names
    from latte_cli.fleet import read_fleet
    from latte_cli.report.plans import write_plan

    shares = parse_widths(widths)
    check_names(Precision.FP32, Layout.NCHW, strategy, optimizer)
    found = read_fleet(fleet)
    duration_s = _round_duration_s(round_duration, found, fleet)
    sizes = parse_shapes(shape)
    pricer = _pricer(model, store, strategy, optimizer, sizes, allow_unknown)
    whole = pricer.whole(found.classes[0].batch)
    plan = _plan(pricer, found, shares, duration_s)
    write_plan(plan, whole, form)
    for planned in plan.devices:
        for warning in planned.warnings:
            console.warn(f"class `{planned.fleet_class.name}`: {warning.message}")
    if not plan.feasible:
        raise _exceeded(plan)
    first = plan.devices[0]
    shown = f"latte estimate {shlex.quote(str(model))} --device {first.device} --batch-size {first.fleet_class.batch}"
    console.note(f"next: `{shown}` shows a step layer by layer")


def _round_duration_s(option_s: float | None, fleet: "Fleet", path: Path) -> float:
    duration_s = option_s or fleet.round_duration_s
    if duration_s is None:
        hint = f"`--round-duration 30s`, or `round_duration: 30s` in `{path}`"
        raise LatteError("the duration of a round is not given", hint=hint, exit_code=ExitCode.USAGE)
    return duration_s


def _pricer(
    model: Path, store: str | None, strategy: str, optimizer: str, sizes: Mapping[str, int], allow_unknown: bool
) -> "Pricer":
    from latte_cli.allocator import Pricer
    from latte_cli.estimator import Estimator
    from latte_cli.lookup import profile
    from latte_cli.network import load
    from latte_cli.store import open_store

    opened = open_store(store)

    def estimator(each: "FleetClass") -> "Estimator":
        return Estimator(
            opened,
            profile(opened, each.device, each.threads),
            precision=each.precision,
            layout=each.layout,
            threads=each.threads,
            strategy=each.strategy or strategy,
            note=console.note,
        )

    return Pricer(
        lambda batch: load(model, batch_size=batch, sizes=sizes, allow_unknown=allow_unknown),
        estimator,
        optimizer=optimizer,
        allow_unknown=allow_unknown,
    )


def _plan(pricer: "Pricer", fleet: "Fleet", widths: tuple[float, ...], duration_s: float) -> "Plan":
    from latte_cli import allocator

    sub_models = allocator.catalogue(pricer.whole(fleet.classes[0].batch), widths)
    with console.progress("pricing", len(sub_models) * len(fleet.classes)) as bar:
        done = 0

        def price(entry: "SubModel", fleet_class: "FleetClass") -> "Estimate":
            nonlocal done
            estimate = pricer(entry, fleet_class)
            done += 1
            bar.advance(done, fleet_class.name)
            return estimate

        return allocator.allocate(sub_models, fleet, price, duration_s)


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
