"""`latte profile`: measure this machine."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from latte_cli import __version__, report
from latte_cli.cli import console
from latte_cli.cli.options import FormatOption, StoreOption, parse_duration
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.layers import Phase
from latte_cli.measure import Outcome
from latte_cli.report import Format
from latte_cli.tasks import Layout, Precision

_PASSES_OF_NETWORKS = 4
_CALL_LIMIT_S = {"cpu": 0.1}
_CALL_LIMIT_OF_OTHERS_S = 0.05


class Suite(StrEnum):
    """Which layers to measure."""

    QUICK = "quick"
    STANDARD = "standard"
    PAPER = "paper"
    DEEPBENCH = "deepbench"
    NETWORK = "network"


_BUDGETS_S = {Suite.QUICK: 120.0, Suite.STANDARD: 900.0}


def profile(
    models: Annotated[
        list[Path] | None, typer.Argument(help="Model files, for the suite `network`.", show_default=False)
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
    widths: Annotated[
        str, typer.Option(help="Measure the models' sub-models of these widths too, as in 1,0.75,0.5.")
    ] = "1",
    configs: Annotated[int, typer.Option(min=1, help="Layers to draw for the suite `paper`.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawn suites.")] = 0,
    phases: Annotated[str, typer.Option(help="Phases to measure, separated by commas.")] = "all",
    precision: Annotated[Precision, typer.Option(help="Arithmetic to measure.")] = Precision.FP32,
    layout: Annotated[Layout, typer.Option(help="How activations lie in memory.")] = Layout.NCHW,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU. [default: all cores]")] = None,
    name: Annotated[str | None, typer.Option(help="Tells equal machines of a fleet apart.")] = None,
    memory_share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the memory that a layer may take.")
    ] = 0.3,
    store: StoreOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured, and stop.")] = False,
    format: FormatOption = Format.TABLE,  # noqa: A002 - the option's name
) -> None:
    """Measure layers on this machine, each algorithm and phase, into the store.

    The same command goes on where it stopped. Rows are kept as they are measured.
    """  # fmt: skip
    from latte_cli.store import open_store
    from latte_cli.sweep import Budget, Sweep
    from latte_cli.worker import Opening, Worker

    chosen = suite or (Suite.NETWORK if models else Suite.QUICK)
    wanted_phases = _phases(phases)
    networks = _networks(chosen, models or [], batch_size, _widths(widths))
    opened = open_store(store)
    opening = Opening(
        device=device, threads=threads, name=name, precision=precision, layout=layout, memory_share=memory_share
    )
    with Worker(opening) as worker:
        drawn = _drawn(chosen, networks, worker, seed=seed, configs=configs, share=memory_share)
        origin = f"latte {__version__} profile {chosen} seed {seed}"
        if dry_run:
            sweep = Sweep(worker, drawn.wanted, phases=wanted_phases, origin=origin)
            _plan(sweep, drawn, worker, format)
            return
        with opened.writer(worker.device) as writer:
            earlier = opened.measurements(worker.device.slug) if _known(opened, worker.device.slug) else []
            sweep = Sweep(worker, drawn.wanted, phases=wanted_phases, earlier=earlier, origin=origin)
            limits = Budget(
                seconds=budget if budget is not None else _BUDGETS_S.get(chosen),
                passes=_PASSES_OF_NETWORKS if chosen is Suite.NETWORK else 1,
                together=chosen is Suite.NETWORK,
            )
            with console.progress(f"profiling {worker.device.kind}", sweep.size) as bar:
                summary = sweep.run(writer, limits, progress=bar.advance)
    _report(summary, sweep, drawn, worker, opened.uri, format)
    _next(models or [], worker.device.slug)
    if summary.left:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _known(opened, slug: str) -> bool:  # type: ignore[no-untyped-def]
    return any(device.slug == slug for device in opened.devices())


def _phases(text: str) -> tuple[Phase, ...]:
    if text == "all":
        return tuple(Phase)
    names = [name.strip().replace("-", "_") for name in text.split(",")]
    for name in names:
        if name not in tuple(Phase):
            raise unknown("phase", name, ["all", *Phase])
    return tuple(Phase(name) for name in names)


def _widths(text: str) -> tuple[float, ...]:
    try:
        widths = tuple(float(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths or not all(0 < width <= 1 for width in widths):
        raise LatteError(
            f"`{text}` is not a list of widths",
            hint="numbers over 0 up to 1, as in `1,0.75,0.5`",
            exit_code=ExitCode.USAGE,
        )
    return widths


def _networks(suite: Suite, models: Sequence[Path], batches: Sequence[int] | None, widths: Sequence[float]):  # type: ignore[no-untyped-def]
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

    read = [load(path, batch_size=batch) for path in models for batch in (batches or [None])]
    return [network if width == 1 else sub_model(network, width) for width in widths for network in read]


def _drawn(suite: Suite, networks, worker, *, seed: int, configs: int, share: float):  # type: ignore[no-untyped-def]
    from latte_cli import suites

    device = worker.device
    call_s = _CALL_LIMIT_S.get(device.kind, _CALL_LIMIT_OF_OTHERS_S)
    limits = suites.Limits(
        flops=call_s * (device.peak_flop_per_s or 1e12), tensor_bytes=share * (device.memory_bytes or 2**30)
    )
    match suite:
        case Suite.QUICK:
            return suites.quick(seed, limits)
        case Suite.STANDARD:
            return suites.standard(seed, limits)
        case Suite.PAPER:
            return suites.paper(seed, limits, configs=configs)
        case Suite.DEEPBENCH:
            return suites.deepbench(limits)
        case Suite.NETWORK:
            return suites.networks(networks)


def _plan(sweep, drawn, worker, format: Format) -> None:  # type: ignore[no-untyped-def]  # noqa: A002
    kinds = Counter(item.layer.kind for item in drawn.wanted)
    if format is Format.JSON:
        report.write_json(
            {
                "schema": "latte.profile-plan/1",
                "device": worker.device.slug,
                "layers": dict(kinds),
                "tasks": sweep.size,
                "rejected_draws": drawn.rejected,
            }
        )
    elif format is Format.CSV:
        report.write_csv(["kind", "layers"], list(kinds.items()))
    else:
        rows = [(kind, str(number)) for kind, number in kinds.most_common()]
        footer = [f"{sweep.size} tasks, {drawn.rejected} draws rejected for their size"]
        title = f"to measure on {worker.device.slug}"
        report.write_table(report.Table(columns=("kind", ">layers"), rows=rows, title=title, footer=footer))


def _report(summary, sweep, drawn, worker, uri: str, format: Format) -> None:  # type: ignore[no-untyped-def]  # noqa: A002
    outcomes = {str(outcome): summary.rows.get(outcome, 0) for outcome in Outcome}
    if format is Format.JSON:
        report.write_json(
            {
                "schema": "latte.profile/1",
                "device": worker.device.slug,
                "store": uri,
                "tasks": sweep.size,
                "left": summary.left,
                "resumed": summary.resumed,
                "rows": outcomes,
                "marked": summary.marked,
                "rejected_draws": drawn.rejected,
            }
        )
    elif format is Format.CSV:
        report.write_csv(["outcome", "rows"], list(outcomes.items()))
    else:
        rows = [(outcome, str(number)) for outcome, number in outcomes.items() if number]
        done = sweep.size - summary.left
        footer = [f"{done} of {sweep.size} tasks measured, {summary.resumed} of them earlier; store {uri}"]
        title = f"measured on {worker.device.slug}"
        report.write_table(report.Table(columns=("outcome", ">new rows"), rows=rows, title=title, footer=footer))
    if summary.marked > 0.3 * sum(outcomes.values()):
        console.warn(f"{summary.marked} rows are noisy: close other programs and run the same command again")
    if summary.left:
        console.warn(f"the budget ended with {summary.left} tasks to go: run the same command again to go on")


def _next(models: Sequence[Path], slug: str) -> None:
    model = models[0] if models else "MODEL.onnx"
    console.note(f"next: `latte train-selector --device {slug}`, then `latte estimate {model} --device {slug}`")
