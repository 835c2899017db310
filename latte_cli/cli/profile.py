"""`latte profile`: measure this machine."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import latte_cli
from latte_cli.cli import console
from latte_cli.cli.links import profile_links
from latte_cli.cli.mixtures import all_sizes, estimated_shape, shape_options
from latte_cli.cli.options import (
    AllShapesOption,
    BatchAxisOption,
    FormatOption,
    StoreOption,
    parse_duration,
    parse_measured_layout,
    parse_measured_precision,
    parse_shapes,
    parse_widths,
)
from latte_cli.cli.request import Request, check_apart, from_options
from latte_cli.cli.whole_runs import run_compiled, subjects_of
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.operations import timed_functions
from latte_cli.phases import Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.report import Format

if TYPE_CHECKING:
    from latte_cli.allocator import PlanFile
    from latte_cli.compiling import CompiledSummary
    from latte_cli.devices import Device, Kind
    from latte_cli.network import Network
    from latte_cli.real_steps import Subject
    from latte_cli.store import Store
    from latte_cli.suites import Drawn
    from latte_cli.sweep import Budget, Summary
    from latte_cli.worker import Opening, Worker

_CALIBRATION_OF_QUICK = 2  # chosen: leaves most of two minutes to the layers
_PASSES_OF_NETWORKS = 4  # chosen: the spread between passes needs a few; a model has few layers
_OPTIMIZERS = ("sgd", "adam")  # chosen: the least and the most that common ones read and write
_ENDED_FIRST = "the budget ended first"
_MANY_MARKED = 0.3  # chosen: then it is the machine, not single layers


class Suite(StrEnum):
    """Which layers to measure."""

    QUICK = "quick"
    STANDARD = "standard"
    CONVOLUTIONS = "convolutions"
    PAPER = "paper"
    DEEPBENCH = "deepbench"
    NETWORK = "network"


_BUDGETS_S = {Suite.QUICK: 120.0, Suite.STANDARD: 900.0}  # chosen: two minutes for a try, a quarter of an hour for all
_OF_SUITES = {
    "--batch-size": (Suite.NETWORK,),
    "--batch-axis": (Suite.NETWORK,),
    "--shape": (Suite.NETWORK,),
    "--widths": (Suite.NETWORK,),
    "--optimizer": (Suite.NETWORK,),
    "--configs": (Suite.PAPER, Suite.CONVOLUTIONS),
}
"""Options that mean nothing to the other suites."""
_APART = (
    ("--plan", ("--batch-size", "--widths"), "the plan says what each device trains"),
    ("--compile", ("--plan", "--widths"), "sub-models are not run whole"),
    ("--compile", ("--dry-run",), "what is run whole is not counted in layers"),
    (
        "--links",
        (
            "--suite",
            "--plan",
            "--budget",
            "--batch-size",
            "--widths",
            "--dry-run",
            "--precision",
            "--layout",
            "--store",
            "--compile",
        ),
        "links are measured without layers, and are printed",
    ),
)
"""Options that do not go together, and why."""
_LOADER_S = 20.0  # chosen: hundreds of batches of most loaders, and no wait to notice
_OF_LOADER = {"--loader", "--budget", "--format", "models"}


@dataclass(frozen=True, kw_only=True)
class ProfileRequest(Request):
    """What `latte profile` is asked."""

    models: Annotated[
        list[Path] | None,
        typer.Argument(help="Model files (.onnx or .pt2), for the suite `network`.", show_default=False),
    ] = None
    suite: Annotated[
        Suite | None,
        typer.Option(
            metavar="NAME",
            help="Which layers to measure: quick or standard (some or many of each kind), convolutions, paper or "
            "deepbench (drawn or listed convolutions), or network (those of MODELS). [default: network with MODELS, "
            "else quick]",
        ),
    ] = None
    device: Annotated[str, typer.Option(metavar="NAME", help="Device of this machine: auto, cpu or cuda:N.")] = "auto"
    budget: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="Stop after this long, as in 2m. [default: quick 2m, standard 15m, others when done]",
        ),
    ] = None
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Samples of a step of the models. Repeatable. [default: the model's]"),
    ] = None
    batch_axis: BatchAxisOption = None
    shape: AllShapesOption = None
    widths: Annotated[
        str, typer.Option(metavar="LIST", help="Widths of the sub-models to measure, as in 1,0.75,0.5.")
    ] = "1"
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure the sub-models that this plan of `latte allocate` gives to this device.",
        ),
    ] = None
    optimizer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Optimizers to measure for the models; also clip-norm, ema, grad-scaler or zero-grad. Repeatable, or "
            "several separated by commas. [default: sgd,adam]",
        ),
    ] = None
    loader: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Measure a data loader instead: a function that returns batches, of a module in this folder.",
        ),
    ] = None
    configs: Annotated[int, typer.Option(min=1, help="Layers to draw for the suites `paper` and `convolutions`.")] = (
        1000
    )
    passes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Times that calls are measured whose algorithm may be fastest. [default: network 4, others 1]"
        ),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawn suites.")] = 0
    phases: Annotated[
        str, typer.Option(metavar="LIST", help=f"Phases to measure, separated by commas: {', '.join(Phase)}, or all.")
    ] = "all"
    precision: Annotated[
        list[Precision] | None,
        typer.Option(
            parser=parse_measured_precision,
            metavar="NAME",
            help=f"Precisions to measure: {', '.join(Precision)}. Repeatable. [default: fp32]",
        ),
    ] = None
    layout: Annotated[
        list[Layout] | None,
        typer.Option(
            parser=parse_measured_layout,
            metavar="NAME",
            help="Memory layouts to measure: nchw or channels_last. Repeatable. [default: nchw]",
        ),
    ] = None
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU. [default: all cores]")] = None
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="A name that tells equal machines of a fleet apart.")
    ] = None
    memory_share: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0.01, max=0.9, help="Most of the device's memory that a layer may take."),
    ] = 0.3
    store: StoreOption = None
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be measured, and about how long it takes; measure nothing."),
    ] = False
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="First run whole models, eager and compiled with torch.compile; without MODELS, some of the zoo. CPUs "
            "only. Takes one to two minutes for each, in addition to --budget.",
        ),
    ] = False
    require_complete: Annotated[
        bool, typer.Option("--require-complete", help="End with code 4 if the budget ends before all is measured.")
    ] = False
    links: Annotated[
        bool,
        typer.Option("--links", help="Measure only the rate and latency of all-reduces among this machine's GPUs."),
    ] = False
    form: FormatOption = Format.TABLE

    @property
    def chosen(self) -> Suite:
        """The suite that is meant."""
        return self.suite or (Suite.NETWORK if self.models else Suite.QUICK)

    @property
    def origin(self) -> str:
        """What the rows say that they come from."""
        return f"latte {latte_cli.__version__} profile {self.chosen} seed {self.seed}"

    def optimizers(self, kind: "Kind") -> tuple[str, ...]:
        """The optimizers, and operations on all parameters, to time on a device of a kind."""
        names = [name.strip() for text in self.optimizer or _OPTIMIZERS for name in text.split(",")]
        return timed_functions(names, on_gpu=kind.own_memory)

    def worker_opening(self) -> "Opening":
        """How the device is opened."""
        from latte_cli.worker import Opening

        return Opening(
            device=self.device,
            threads=self.threads,
            name=self.name,
            precisions=tuple(dict.fromkeys(self.precision or [Precision.FP32])),
            layouts=tuple(dict.fromkeys(self.layout or [Layout.NCHW])),
            memory_share=self.memory_share,
        )

    def limits(self, kind: "Kind") -> "Budget":
        """How long, and how often, a device of a kind is measured."""
        from latte_cli.sweep import Budget

        return Budget(
            seconds=_BUDGETS_S.get(self.chosen) if self.budget is None else self.budget,
            passes=self.passes or (_PASSES_OF_NETWORKS if self.chosen is Suite.NETWORK else 1),
            rounds=kind.rounds,
            together=self.chosen is Suite.NETWORK,
        )


@from_options
def profile(request: ProfileRequest) -> None:
    """Measure layers on this machine, into the store.

    Each algorithm of each layer and phase is timed. Rows are kept as they are measured, so the same command goes on
    where it stopped. If the budget ends first, the exit code is 0, and stderr and the JSON say what is left.
    """  # fmt: skip
    from latte_cli import child
    from latte_cli.report import sweeps
    from latte_cli.store import open_store
    from latte_cli.sweep import Sweep
    from latte_cli.worker import Worker

    child.check_children()
    if request.loader:
        _time_loader(request, request.loader)
        return
    check_apart(request.given, _APART)
    if request.links:
        if request.models:
            raise LatteError("`--links` takes no model files", hint="leave them out", exit_code=ExitCode.USAGE)
        profile_links(request.device, request.form)
        return
    phases, networks = _phases(request.phases), _networks(request)
    file = _plan_file(request, networks)
    store = open_store(request.store, skip=console.left_out)
    with ExitStack() as stack:
        with console.progress("opening the device", None):  # its libraries take seconds
            worker = stack.enter_context(Worker(request.worker_opening()))
        if file:
            networks = _sub_models(file, request, worker.device.slug)
        drawn = _draw(request, networks, worker.device)
        if request.dry_run:
            device, limits = worker.device, request.limits(worker.device.kind)
            known = any(each.slug == device.slug for each in store.devices())
            earlier = store.measurements(device.slug) if known else []
            sweep = Sweep(worker, drawn.wanted, phases=phases, earlier=earlier, origin=request.origin)
            sweeps.write_sweep_plan(drawn, sweep, device=device.slug, budget=limits, form=request.form)
            return
        subjects = subjects_of(request, networks, worker.device.kind) if request.compiled else []
        summary, compiled, tasks = _measure(request, store, worker, drawn, phases, subjects)
    target = sweeps.SweepTarget(device=worker.device.slug, store=store.uri)
    sweeps.write_summary(summary, drawn, target, tasks=tasks, compiled=compiled, form=request.form)
    for reason in dict.fromkeys(compiled.reasons if compiled else ()):
        console.warn(f"not run compiled: {reason}")
    failed = compiled is not None and compiled.failed
    left = f"run the same command again: {summary.left} of {tasks} tasks are left"
    if summary.left and not request.require_complete:
        console.note(f"{_ENDED_FIRST}; {left}")
    _advise(summary, request, worker.device, compiled=request.compiled and not failed)
    if summary.left and request.require_complete:
        raise LatteError(_ENDED_FIRST, hint=left, exit_code=ExitCode.INCOMPLETE)
    if failed:
        message = "nothing was run compiled: every pass failed"
        raise LatteError(message, hint="the layers that were measured are kept, for eager steps")


def _time_loader(request: ProfileRequest, loader: str) -> None:
    """Time a loader, and name the option of `latte estimate` that takes what came of it."""
    from latte_cli.loading import time_loader
    from latte_cli.report.loadings import rate_text, write_loading

    check_apart(request.given, [("--loader", sorted(request.given - _OF_LOADER), "it measures no layers")])
    if request.models:
        raise LatteError("`--loader` takes no model files", hint="leave one out", exit_code=ExitCode.USAGE)
    found = time_loader(loader, folder=Path.cwd(), seconds=_LOADER_S if request.budget is None else request.budget)
    write_loading(found, request.form)
    console.note(f"next: `latte estimate MODEL --loading-rate {rate_text(found.rate_per_s)}`")


def _measure(
    request: ProfileRequest,
    store: "Store",
    worker: "Worker",
    drawn: "Drawn",
    phases: Sequence[Phase],
    subjects: "Sequence[Subject]",
) -> "tuple[Summary, CompiledSummary | None, int]":
    """Measure what the store lacks into it, the `subjects` first; what came of both, and of how many calls."""
    from latte_cli.backends import with_context
    from latte_cli.sweep import Sweep

    device = worker.device
    before = next((each for each in store.devices() if each.slug == device.slug), None)
    with console.progress("measuring the memory of a process", None):
        device = with_context(device, request.threads, before)
    with store.writer(device) as writer:
        known = any(each.slug == device.slug for each in store.devices())  # rows that were recovered are there now
        earlier = store.measurements(device.slug) if known else []
        compiled = run_compiled(subjects, worker, writer, earlier, request.origin)
        sweep = Sweep(worker, drawn.wanted, phases=phases, earlier=earlier, origin=request.origin)
        limits = request.limits(device.kind)
        with console.progress(f"profiling {device.kind}", sweep.size, budget_s=limits.seconds) as bar:
            return sweep.run(writer, limits, progress=bar.advance), compiled, sweep.size


def _phases(text: str) -> tuple[Phase, ...]:
    if text == "all":
        return tuple(Phase)
    names = [name.strip().replace("-", "_") for name in text.split(",")]
    for name in names:
        if name not in tuple(Phase):
            raise unknown("phase", name, ["all", *Phase])
    return tuple(Phase(name) for name in names)


def _networks(request: ProfileRequest) -> "list[Network]":
    """The networks to measure, at each batch size and width; raises LatteError where the suite takes or lacks them."""
    models, widths = request.models or [], parse_widths(request.widths)
    for option, suites in _OF_SUITES.items():
        if option in request.given and request.chosen not in suites:
            message = f"`{option}` means nothing to the suite `{request.chosen}`"
            hint = f"it is for `--suite {suites[0]}`"
            raise LatteError(message, hint=hint, exit_code=ExitCode.USAGE)
    if request.chosen is not Suite.NETWORK:
        if models:
            raise LatteError(
                f"the suite `{request.chosen}` takes no model files",
                hint="use `--suite network`",
                exit_code=ExitCode.USAGE,
            )
        return []
    if not models:
        raise LatteError(
            "the suite `network` needs model files",
            hint="`latte zoo export resnet18 resnet18.onnx` makes one",
            exit_code=ExitCode.USAGE,
        )
    from latte_cli.network.channels import sub_model

    batches: Sequence[int | None] = request.batch_size or [None]
    shapes = all_sizes(request.shape)
    read = [_read(request, path, batch, shape) for path in models for batch in batches for shape in shapes]
    return [network if width == 1 else sub_model(network, width) for width in widths for network in read]


def _plan_file(request: ProfileRequest, networks: "Sequence[Network]") -> "PlanFile | None":
    """The plan, if there is one, which has to be for the one model that is given."""
    if request.plan is None:
        return None
    from latte_cli.allocator import read_plan

    if len(request.models or ()) != 1:
        hint = "as in `latte profile MODEL --plan plan.json`"
        raise LatteError("a plan is for one model", hint=hint, exit_code=ExitCode.USAGE)
    found = read_plan(request.plan)
    found.check_model(networks[0])
    return found


def _sub_models(file: "PlanFile", request: ProfileRequest, slug: str) -> "list[Network]":
    """What devices such as this one train by the plan, at their batch sizes; raises LatteError where it has nothing."""
    wanted = file.plan.trained_on(slug)
    if not wanted:
        names = ", ".join(sorted({f"`{each.device}`" for each in file.plan.devices if each.sub_model})[:4])
        raise LatteError(f"the plan has no sub-model for `{slug}`", hint=f"it has some for {names or 'no device'}")
    (model,) = request.models or []
    shapes = all_sizes(request.shape)
    return [sub_model.of(_read(request, model, batch, shape)) for batch, sub_model in wanted for shape in shapes]


def _read(request: ProfileRequest, model: Path, batch: int | None, shape: Sequence[str]) -> "Network":
    from latte_cli.network import load

    return load(model, batch_size=batch, batch_axis=request.batch_axis, sizes=parse_shapes(shape))


def _draw(request: ProfileRequest, networks: "list[Network]", device: "Device") -> "Drawn":
    from latte_cli import suites

    limits, seed, configs = suites.limits_of(device, request.memory_share), request.seed, request.configs
    few = None if request.compiled else _CALIBRATION_OF_QUICK  # each that is run compiled is known layer by layer, too
    match request.chosen:
        case Suite.QUICK:
            return suites.with_calibration(suites.quick(seed, limits), device.kind, count=few)
        case Suite.STANDARD:
            return suites.with_calibration(suites.standard(seed, limits), device.kind)
        case Suite.CONVOLUTIONS:
            return suites.convolutions(seed, limits, configs=configs)
        case Suite.PAPER:
            return suites.paper(seed, limits, configs=configs)
        case Suite.DEEPBENCH:
            return suites.deepbench(limits)
        case Suite.NETWORK:
            from latte_cli.estimator.turned import with_turned

            drawn = suites.networks(networks, optimizers=request.optimizers(device.kind))
            drawn = with_turned(drawn, networks) if request.layout is None else drawn
            return suites.with_calibration(drawn, device.kind, first=False, count=_CALIBRATION_OF_QUICK)


def _advise(summary: "Summary", request: ProfileRequest, device: "Device", *, compiled: bool) -> None:
    """Say what to do about noise, and which commands use the rows, those of `compiled` steps too."""
    from latte_cli.selector.evaluation import LEAST_SHAPES

    rows, slug = sum(summary.rows.values()), device.slug
    if summary.marked > _MANY_MARKED * rows:
        again = f"measure once more with `--passes {request.limits(device.kind).all_passes + 1}`"
        message = f"{summary.marked} of {rows} rows are noisy: close other programs, and {again}"
        console.warn(message, urgent=True)
    model = request.models[0] if request.models else "MODEL.onnx"
    words = [f"latte estimate {console.shell_word(model)} --device {slug}", *_estimate_words(request)]
    words += ["--compile"] * compiled
    if summary.choices < LEAST_SHAPES:
        console.note(f"next: `{' '.join(words)}`")
        return
    console.note(f"next: `latte train-selector --device {slug}`")
    console.note(f"then: `{' '.join(words)}`")


def _estimate_words(request: ProfileRequest) -> list[str]:
    """The options with which `latte estimate` asks for what was measured."""
    words = [f"--batch-size {request.batch_size[0]}"] if request.batch_size else []
    shape = all_sizes(request.shape)[0] if request.compiled else estimated_shape(request.shape)
    words += shape_options(shape)
    for option, values, default in (
        ("--precision", request.precision, Precision.FP32),
        ("--layout", request.layout, Layout.NCHW),
    ):
        words += [f"{option} {values[0]}"] if values and default not in values else []
    return words
