"""`latte profile`: measure this machine."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli import __version__
from latte_cli.cli import console
from latte_cli.cli.options import (
    BatchAxisOption,
    FormatOption,
    ShapeOption,
    StoreOption,
    parse_duration,
    parse_shapes,
    parse_widths,
)
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.layers import Phase
from latte_cli.report import Format, sweeps
from latte_cli.tasks import Layout, Precision

if TYPE_CHECKING:
    from latte_cli.allocator import PlanFile
    from latte_cli.devices import Device
    from latte_cli.network import Network
    from latte_cli.suites import Drawn
    from latte_cli.sweep import Summary

_CALIBRATION_OF_QUICK = 2
_PASSES_OF_NETWORKS = 4
_MANY_MARKED = 0.3


class Suite(StrEnum):
    """Which layers to measure."""

    QUICK = "quick"
    STANDARD = "standard"
    CONVOLUTIONS = "convolutions"
    PAPER = "paper"
    DEEPBENCH = "deepbench"
    NETWORK = "network"


_BUDGETS_S = {Suite.QUICK: 120.0, Suite.STANDARD: 900.0}


def profile(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="Model files, .onnx or .pt2, for the suite `network`.", show_default=False),
    ] = None,
    suite: Annotated[
        Suite | None, typer.Option(help="Which layers to measure. [default: network if models are given, else quick]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    budget: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="Stop after this long, as in 2m. [default: quick 2m, standard 15m, others when done]",
        ),
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size to read the models at. Repeatable.")
    ] = None,
    batch_axis: BatchAxisOption = None,
    shape: ShapeOption = None,
    widths: Annotated[
        str, typer.Option(help="Measure the models' sub-models of these widths too, as in 1,0.75,0.5.")
    ] = "1",
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure the model's sub-models that this plan of `latte allocate` has for this device.",
        ),
    ] = None,
    configs: Annotated[
        int, typer.Option(min=1, help="Layers to draw for the suites `paper` and `convolutions`.")
    ] = 1000,
    passes: Annotated[
        int | None,
        typer.Option(min=1, help="How often to measure what may be fastest. [default: network 4, others 1]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawn suites.")] = 0,
    phases: Annotated[str, typer.Option(help="Phases to measure, separated by commas.")] = "all",
    precision: Annotated[
        list[Precision] | None, typer.Option(help="Arithmetic to measure. Repeatable. [default: fp32]")
    ] = None,
    layout: Annotated[
        list[Layout] | None, typer.Option(help="How activations lie in memory. Repeatable. [default: nchw]")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU. [default: all cores]")] = None,
    name: Annotated[str | None, typer.Option(help="Tells equal machines of a fleet apart.")] = None,
    memory_share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the memory that a layer may take.")
    ] = 0.3,
    store: StoreOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured, and stop.")] = False,
    require_complete: Annotated[
        bool, typer.Option("--require-complete", help="End with code 4 if the budget ends before all is measured.")
    ] = False,
    format: FormatOption = Format.TABLE,  # noqa: A002 - the option's name
) -> None:
    """Measure layers on this machine, into the store.

    Each algorithm and phase is timed. The same command goes on where it stopped. Rows are kept as they are measured.
    A budget that ends first is a normal end, with code 0; stderr and the JSON say what is left.
    """  # fmt: skip
    from latte_cli.store import open_store
    from latte_cli.sweep import Budget, Sweep
    from latte_cli.worker import Opening, Worker

    chosen = suite or (Suite.NETWORK if models else Suite.QUICK)
    wanted_phases = _phases(phases)
    networks = _networks(chosen, models or [], batch_size, batch_axis, parse_widths(widths), parse_shapes(shape))
    file = _plan_file(plan, networks)
    opened = open_store(store)
    opening = Opening(
        device=device,
        threads=threads,
        name=name,
        precisions=tuple(dict.fromkeys(precision or [Precision.FP32])),
        layouts=tuple(dict.fromkeys(layout or [Layout.NCHW])),
        memory_share=memory_share,
    )
    with Worker(opening) as worker:
        if file:
            networks = _sub_models(file, (models or [])[0], parse_shapes(shape), worker.device.slug)
        drawn = _drawn(chosen, networks, worker.device, seed=seed, configs=configs, share=memory_share)
        origin = f"latte {__version__} profile {chosen} seed {seed}"
        if dry_run:
            sweep = Sweep(worker, drawn.wanted, phases=wanted_phases, origin=origin)
            sweeps.write_plan(drawn, device=worker.device.slug, tasks=sweep.size, form=format)
            return
        with opened.writer(worker.device) as writer:
            known = any(device.slug == worker.device.slug for device in opened.devices())
            earlier = opened.measurements(worker.device.slug) if known else []
            sweep = Sweep(worker, drawn.wanted, phases=wanted_phases, earlier=earlier, origin=origin)
            limits = Budget(
                seconds=budget if budget is not None else _BUDGETS_S.get(chosen),
                passes=passes or (_PASSES_OF_NETWORKS if chosen is Suite.NETWORK else 1),
                rounds=worker.device.kind.rounds,
                together=chosen is Suite.NETWORK,
            )
            with console.progress(f"profiling {worker.device.kind}", sweep.size) as bar:
                summary = sweep.run(writer, limits, progress=bar.advance)
    place = sweeps.Place(device=worker.device.slug, store=opened.uri)
    sweeps.write_summary(summary, drawn, place, tasks=sweep.size, form=format)
    _advise(summary, models or [], worker.device.slug)
    if summary.left:
        _say_left(summary.left, sweep.size, required=require_complete)


def _phases(text: str) -> tuple[Phase, ...]:
    if text == "all":
        return tuple(Phase)
    names = [name.strip().replace("-", "_") for name in text.split(",")]
    for name in names:
        if name not in tuple(Phase):
            raise unknown("phase", name, ["all", *Phase])
    return tuple(Phase(name) for name in names)


def _networks(
    suite: Suite,
    models: Sequence[Path],
    batches: Sequence[int] | None,
    batch_axis: int | None,
    widths: Sequence[float],
    shapes: Mapping[str, int],
) -> "list[Network]":
    if suite is not Suite.NETWORK:
        if models:
            raise LatteError(
                f"the suite `{suite}` takes no model files", hint="use `--suite network`", exit_code=ExitCode.USAGE
            )
        return []
    if not models:
        raise LatteError(
            "the suite `network` needs model files",
            hint="`latte zoo export resnet18 resnet18.onnx` makes one",
            exit_code=ExitCode.USAGE,
        )
    from latte_cli.network import load
    from latte_cli.network.channels import sub_model

    sizes: Sequence[int | None] = batches or [None]
    read = [load(path, batch_size=batch, batch_axis=batch_axis, sizes=shapes) for path in models for batch in sizes]
    return [network if width == 1 else sub_model(network, width) for width in widths for network in read]


def _plan_file(path: Path | None, networks: "Sequence[Network]") -> "PlanFile | None":
    """The plan, if there is one, which has to be for the one model that is given."""
    if path is None:
        return None
    from latte_cli.allocator import read_plan

    if len(networks) != 1:
        hint = "as in `latte profile MODEL --plan plan.json`"
        raise LatteError("a plan is for one model", hint=hint, exit_code=ExitCode.USAGE)
    found = read_plan(path)
    found.check_model(networks[0])
    return found


def _sub_models(file: "PlanFile", model: Path, shapes: Mapping[str, int], slug: str) -> "list[Network]":
    """What devices such as this one train by the plan, at their batch sizes."""
    from latte_cli.network import load

    own = [each for each in file.plan.devices if each.device == slug and each.sub_model]
    if not own:
        names = ", ".join(sorted({f"`{each.device}`" for each in file.plan.devices if each.sub_model})[:4])
        raise LatteError(f"the plan has no sub-model for `{slug}`", hint=f"it has some for {names or 'no device'}")
    wanted = {
        (each.fleet_class.batch, each.sub_model.widths, each.sub_model.dropped): each for each in own if each.sub_model
    }
    return [
        each.sub_model.of(load(model, batch_size=each.fleet_class.batch, sizes=shapes))
        for each in wanted.values()
        if each.sub_model
    ]


def _drawn(
    suite: Suite, networks: "list[Network]", device: "Device", *, seed: int, configs: int, share: float
) -> "Drawn":
    from latte_cli import suites

    call_s = device.kind.call_limit_s
    limits = suites.Limits(
        flops=call_s * (device.peak_flop_per_s or 1e12), tensor_bytes=share * (device.memory_bytes or 2**30)
    )
    match suite:
        case Suite.QUICK:
            return suites.with_calibration(suites.quick(seed, limits), device.kind, count=_CALIBRATION_OF_QUICK)
        case Suite.STANDARD:
            return suites.with_calibration(suites.standard(seed, limits), device.kind)
        case Suite.CONVOLUTIONS:
            return suites.convolutions(seed, limits, configs=configs)
        case Suite.PAPER:
            return suites.paper(seed, limits, configs=configs)
        case Suite.DEEPBENCH:
            return suites.deepbench(limits)
        case Suite.NETWORK:
            return suites.with_calibration(
                suites.networks(networks), device.kind, first=False, count=_CALIBRATION_OF_QUICK
            )


def _advise(summary: "Summary", models: Sequence[Path], slug: str) -> None:
    rows = sum(summary.rows.values())
    if summary.marked > _MANY_MARKED * rows:
        console.warn(f"{summary.marked} of {rows} rows are noisy: close other programs and run the same command again")
    model = models[0] if models else "MODEL.onnx"
    console.note(f"next: `latte train-selector --device {slug}`")
    console.note(f"then: `latte estimate {model} --device {slug}`")


def _say_left(left: int, tasks: int, *, required: bool) -> None:
    """Say how to go on after a budget that ended early; LatteError (exit code 4) where completeness is `required`."""
    message, hint = "the budget ended first", f"run the same command again: {left} of {tasks} calls are left"
    if required:
        raise LatteError(message, hint=hint, exit_code=ExitCode.INCOMPLETE)
    console.note(f"{message}; {hint}")
