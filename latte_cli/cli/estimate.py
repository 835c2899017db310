"""`latte estimate`: how long a training step of a model takes on the devices of the store."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latte_cli.cli import console
from latte_cli.cli.batches import Batches, Room, parse_batches, parse_room
from latte_cli.cli.estimating import request_estimates
from latte_cli.cli.measuring import FIRST_SECONDS, Spent
from latte_cli.cli.next_steps import at_device, name_layers
from latte_cli.cli.options import (
    AccumulateOption,
    AllowUnknownOption,
    BatchAxisOption,
    CheckpointOption,
    CompileOption,
    CudaGraphOption,
    DeviceOption,
    EpochsOption,
    EstimatorOption,
    FreezeOption,
    LayoutOption,
    LossOption,
    MixedShapeOption,
    ModelArgument,
    OptimizerOption,
    PrecisionOption,
    PricesOption,
    SamplesOption,
    StoreOption,
    ThreadsOption,
    WorkspaceLimitOption,
    names_among,
    parse_counts,
    parse_duration,
    parse_growth,
    parse_rate,
    parse_size,
)
from latte_cli.cli.piped import STDIN, model_from_stdin
from latte_cli.cli.request import Request, from_options
from latte_cli.cli.several_gpus import several_gpus
from latte_cli.cli.thresholds import AnnotateOption, CheckResults, EstimateFormat, Requirements
from latte_cli.cli.together import check_together
from latte_cli.precisions import Precision
from latte_cli.report import Format
from latte_cli.schedule import Schedule
from latte_cli.thresholds import Threshold, parse_threshold

if TYPE_CHECKING:
    from latte_cli.cli.fits import Fits
    from latte_cli.estimator import Estimate, Rest
    from latte_cli.estimator.data_parallel import ScaledStep
    from latte_cli.sides import Side


@dataclass(frozen=True, kw_only=True)
class EstimateRequest(Request):
    """What `latte estimate` is asked."""

    model: ModelArgument
    device: DeviceOption = None
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Who chooses the algorithms: latte, pytorch, pytorch-benchmark, pytorch-legacy, tensorflow, xla, "
            "onnxruntime, mindspore, mindspore-performance, onednn-default, exhaustive, deterministic or "
            "fixed:ALGORITHM; with settings as in tensorflow:workspace-limit=1GiB. Repeatable, or several separated "
            "by commas. [default: latte, or pytorch with --compile]",
        ),
    ] = None
    estimator: EstimatorOption = "lookup"
    precision: PrecisionOption = Precision.FP32.value
    layout: LayoutOption = None
    threads: ThreadsOption = None
    workspace_limit: WorkspaceLimitOption = None
    memory_limit: Annotated[
        list[int] | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            help="Most memory that the step may hold, as in 2GiB: each call's workspace must fit what is left. "
            "Repeatable. [default: no limit]",
        ),
    ] = None
    checkpoint: CheckpointOption = "none"
    compiled: CompileOption = False
    measure_below: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="Measure the likeliest algorithms here where the selector's probability is lower. "
            "[default: measure none]",
        ),
    ] = None
    measure: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="First measure here, for this long, what tells most about the step, as in 15s. "
            "[default: 10s on a terminal if this machine has no profile]",
        ),
    ] = None
    no_measure: Annotated[
        bool,
        typer.Option("--no-measure", help="Measure nothing. Without a profile of this machine, end with an error."),
    ] = False
    batch_size: Annotated[
        Batches | None,
        typer.Option(
            parser=parse_batches,
            metavar="N",
            help="Samples of a step, or several such numbers separated by commas; `max:8GiB` for the most that fit "
            "8GiB, `max` for the most that fit --fits, else the device. [default: the model's]",
        ),
    ] = None
    effective_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Samples of one update: accumulate the largest batch that fits and divides this."),
    ] = None
    fits: Annotated[
        Room | None,
        typer.Option(
            parser=parse_room,
            metavar="SIZE",
            help="Say whether the process that trains fits this much memory, as in 8GiB, or `device` for that of the "
            "device. Ends with code 3 if not.",
        ),
    ] = None
    batch_axis: BatchAxisOption = None
    compare_weights: Annotated[
        bool,
        typer.Option(
            "--compare-weights",
            help="Read the weights of an ONNX file: equal ones count as one parameter, computed constants as none.",
        ),
    ] = False
    shape: MixedShapeOption = None
    optimizer: OptimizerOption = "sgd"
    loss: LossOption = "cross-entropy"
    accumulate: AccumulateOption = 1
    clip_norm: Annotated[
        bool, typer.Option("--clip-norm", help="Clip the gradients' norm, as torch's clip_grad_norm_ does.")
    ] = False
    ema: Annotated[
        bool, typer.Option("--ema", help="Keep a moving average of the model, as torch's AveragedModel does.")
    ] = False
    grad_scaler: Annotated[
        bool,
        typer.Option("--grad-scaler", help="Scale the loss and check the gradients, as fp16_autocast needs on GPUs."),
    ] = False
    zero_grad: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What zero_grad does with gradients: none (frees them) or keep (fills them with 0)."
        ),
    ] = "none"
    log_every: Annotated[
        int, typer.Option(min=1, help="On a GPU: steps after which the host reads the loss, and waits for it.")
    ] = 1
    freeze: FreezeOption = None
    restore_norms: Annotated[
        bool,
        typer.Option(
            "--restore-norms", help="Put back the batch norms that an export for inference folded into convolutions."
        ),
    ] = False
    memory: Annotated[bool, typer.Option("--memory", help="Also show what the step holds in memory, call by call.")] = (
        False
    )
    samples: SamplesOption = None
    epochs: EpochsOption = 1
    local_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the training or round, instead of epochs.")
    ] = None
    upload: Annotated[
        float | None,
        typer.Option(parser=parse_rate, metavar="RATE", help="Rate of sending the parameters, as in 20Mbit/s."),
    ] = None
    download: Annotated[
        float | None,
        typer.Option(parser=parse_rate, metavar="RATE", help="Rate of receiving the parameters, as in 100Mbit/s."),
    ] = None
    loading_rate: Annotated[
        float | None,
        typer.Option(metavar="N", min=0.001, help="Samples that are loaded per second while a step computes."),
    ] = None
    cuda_graph: CudaGraphOption = False
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="COUNTS",
            help="Also estimate the step of several such GPUs in one machine, as in 2,4. Needs --link.",
        ),
    ] = None
    link: Annotated[
        str | None,
        typer.Option(
            metavar="RATE[,LATENCY]",
            help="Rate and latency from each GPU to the next in an all-reduce, as in 25GB/s or 25GB/s,10us.",
        ),
    ] = None
    data_parallel: Annotated[
        str,
        typer.Option(
            metavar="MODE", help="How several GPUs train: ddp (DistributedDataParallel) or dp (DataParallel)."
        ),
    ] = "ddp"
    allow_unknown: AllowUnknownOption = False
    mmap_threshold: Annotated[
        int | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            help="With --fits or a batch of `max`, on a CPU: MALLOC_MMAP_THRESHOLD_ of the process that trains, as in "
            "64KiB. glibc returns freed blocks of this size and more to the system.",
        ),
    ] = None
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="List every layer. Without it, a terminal shows as many as fit, and layers that take no time are "
            "left out.",
        ),
    ] = False
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw throughput against several batch sizes, as .png, .svg or .pdf."),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Overwrite the picture.")] = False
    prices: PricesOption = None
    fail_above: Annotated[
        list[Threshold] | None,
        typer.Option(
            parser=parse_threshold,
            metavar="LIMIT",
            help="End with code 3 if a step takes longer, as in 50ms; or another quantity, as in backward=30ms or "
            "memory=2GiB. Repeatable.",
        ),
    ] = None
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare layer by layer with this JSON of an earlier run."),
    ] = None
    max_regression: Annotated[
        float | None,
        typer.Option(
            parser=parse_growth,
            metavar="SHARE",
            help="End with code 3 if a step is longer than that of --baseline by more than this, as in 5%.",
        ),
    ] = None
    annotate: AnnotateOption = None
    form: Annotated[EstimateFormat, typer.Option("--format", help="How to write the result.")] = EstimateFormat.TABLE
    store: StoreOption = None
    content: bytes | None = field(default=None, repr=False, metadata={"typed": False})
    """The model itself, where it came from standard input."""
    spent: list[Spent] = field(default_factory=list, repr=False, compare=False, metadata={"typed": False})
    """What was measured for it so far."""

    @property
    def pasted_model(self) -> str:
        """The model as an argument of a command to type next."""
        return "MODEL" if self.content else console.shell_word(self.model)

    @property
    def asked(self) -> dict[str, Any]:
        """What a baseline has to share, and the estimates do not say."""
        lists = {"shape": sorted(self.shape or ()), "freeze": sorted(self.freeze or ())}
        return lists | {"checkpoint": self.checkpoint, "restore_norms": self.restore_norms}

    @property
    def batch(self) -> int | None:
        """The one batch size; None for the model's own."""
        return self.batch_size.sizes[0] if self.batch_size and self.batch_size.sizes else None

    @property
    def seconds_unprofiled(self) -> float | None:
        """For how long a machine without a profile is measured first; None where it is not."""
        if self.measure is not None or self.no_measure or self.compiled or not console.on_terminal():
            return self.measure
        return FIRST_SECONDS

    def warn_of_store(self, note: Callable[[str], None]) -> Callable[[str], None]:
        """Takes the warning about a store that is named and missing; drops it where the store is made now."""
        if self.seconds_unprofiled is not None:
            return console.detail
        return console.warn if note is console.note else note

    @property
    def several(self) -> bool:
        """Whether it asks for more than one batch."""
        return self.batch_size is not None and not self.batch_size.single

    @property
    def strategies(self) -> list[str]:
        """The strategies by name, each once."""
        own = "pytorch" if self.compiled else "latte"
        return names_among(self.strategy or (own,))

    @property
    def devices(self) -> list[str]:
        """The devices by name, each once; none for this machine's."""
        return names_among(self.device)

    @property
    def ranked(self) -> bool:
        """Whether it asks which device trains best: a training has a length, and devices or prices are named."""
        return bool(self.samples or self.local_steps) and (len(self.devices) > 1 or self.prices is not None)

    @property
    def rest(self) -> "Rest":
        """What the training loop does beside the network, its loss and its update."""
        from latte_cli.estimator import Rest

        return Rest(
            clip_norm=self.clip_norm,
            ema=self.ema,
            grad_scaler=self.grad_scaler,
            zero_grad=self.zero_grad,
            log_every=self.log_every,
        )

    @property
    def replicated(self) -> bool:
        """Whether DistributedDataParallel trains, on several GPUs."""
        return self.gpus is not None and self.data_parallel == "ddp" and parse_counts(self.gpus, "GPUs") != (1,)

    @property
    def schedule(self) -> Schedule:
        """What a training, or a round of one, is made of."""
        return Schedule(
            samples=self.samples,
            epochs=self.epochs,
            local_steps=self.local_steps,
            up_bit_per_s=self.upload,
            down_bit_per_s=self.download,
            loading_per_s=self.loading_rate,
        )


@from_options
def estimate(request: EstimateRequest) -> None:
    """Estimate the training time of MODEL, layer by layer.

    Times come from the profile of the device, else from its data sheet. `-` reads MODEL from standard input.

    \b
    latte estimate model.onnx --batch-size 8
    latte estimate model.onnx --batch-size max:8GiB --device h200
    latte estimate model.pt2 --baseline before.json --max-regression 5%
    """
    from latte_cli.cli.fits import Fits
    from latte_cli.cli.forms import check_shown
    from latte_cli.cli.mixtures import is_mixed
    from latte_cli.cli.ranking import prices_for, ranked_sides, say_unpriced
    from latte_cli.cli.several_batches import settle_batches, write_several
    from latte_cli.cli.several_sizes import write_mixture
    from latte_cli.report import scalings
    from latte_cli.report.markdown import write_markdown
    from latte_cli.report.sides import ranking_json

    check_together(request)
    name_layers(request)
    if request.model == STDIN:
        request = replace(request, content=model_from_stdin())
    if is_mixed(request.shape):
        write_mixture(request, request_estimates)
        return
    if request.several:
        write_several(request, request_estimates)
        return
    request = settle_batches(request, request_estimates)
    name_layers(request)
    requirements = Requirements.of(
        request.fail_above,
        request.baseline,
        request.max_regression,
        request.annotate,
        request.form,
        room=request.fits is not None,
    )
    check_shown(request)
    prices = prices_for(request.prices, request.schedule)
    several, estimates = several_gpus(request), request_estimates(request)
    scaled = [several(one) for one in estimates] if several else []
    body = _document(request, estimates, scaled)
    fits = Fits.of(request.fits, estimates, request.mmap_threshold)
    fits.add_to(body)
    results = requirements.check(body)
    sides = ranked_sides(request, estimates, body, prices) if request.ranked else []
    if request.form is EstimateFormat.JSON:
        body |= results.as_json() | ranking_json(sides)
    if request.form is EstimateFormat.MARKDOWN:
        write_markdown(estimates, results.comparisons, [*results.checks, *fits.checks], request.schedule, sides)
    else:
        _write(request, estimates, body, sides, replaced=requirements.replaces_the_table)
    if scaled and request.form in (EstimateFormat.TABLE, EstimateFormat.CSV) and not requirements.replaces_the_table:
        scalings.write_scaling(estimates, scaled, Format(request.form))
    _say_doubts(estimates)
    say_unpriced(sides, prices)
    _conclude(request, results, fits, replaced=requirements.replaces_the_table)


def _conclude(request: EstimateRequest, results: CheckResults, fits: "Fits", *, replaced: bool) -> None:
    """Say what came of limits and room, and the next command; LatteError (exit code 3) where one is exceeded."""
    results.write(request.model.name, request.form, fits.checks)
    if request.form in (EstimateFormat.TABLE, EstimateFormat.CSV) and not replaced:
        fits.write(Format(request.form))
    elif request.form is not EstimateFormat.JSON:
        fits.say()
    fits.enforce()
    results.enforce()
    _say_next(request)


def _say_next(request: EstimateRequest) -> None:
    if request.form is EstimateFormat.TABLE:
        console.note(f"next: `latte allocate {request.pasted_model} --fleet FILE --round-duration 10m`")


def _document(
    request: EstimateRequest, estimates: "Sequence[Estimate]", scaled: "Sequence[Sequence[ScaledStep]]"
) -> dict[str, Any]:
    """The estimates as JSON, with what was asked and measured, and the steps of several GPUs."""
    from latte_cli.report.estimates import estimates_document
    from latte_cli.report.scalings import scaling_entry

    measured = [asdict(each) for each in request.spent]
    body = estimates_document(estimates, request.schedule) | {"asked": request.asked, "measured": measured}
    for one, steps in zip(body["estimates"], scaled, strict=False):
        one["scaling"] = [scaling_entry(step) for step in steps]
    return body


def _write(
    request: EstimateRequest,
    estimates: "Sequence[Estimate]",
    body: dict[str, Any],
    sides: "Sequence[Side]",
    *,
    replaced: bool,
) -> None:
    """Write the result in the form of `--format`; no table where it is `replaced`."""
    from latte_cli.report import write_json
    from latte_cli.report.estimate_tables import write_estimates
    from latte_cli.report.memories import write_memory
    from latte_cli.report.sides import write_ranking
    from latte_cli.report.traces import trace

    if request.form is EstimateFormat.TRACE:
        write_json(trace(estimates))
    elif request.form is EstimateFormat.JSON:
        write_json(body)
    if replaced or request.form not in (EstimateFormat.TABLE, EstimateFormat.CSV):
        return
    if request.memory and request.form is EstimateFormat.TABLE:
        write_memory(estimates, Format.TABLE)  # hundreds of lines, so before the totals
    if sides:
        write_ranking(sides, Format(request.form))
    else:
        above = console.lines_above()
        write_estimates(estimates, Format(request.form), schedule=request.schedule, every=request.every, above=above)
    if request.memory and request.form is EstimateFormat.CSV:
        write_memory(estimates, Format.CSV)


def _say_doubts(estimates: Sequence["Estimate"]) -> None:
    said = [(warning, found) for found in estimates for warning in found.warnings]
    for (warning, slug), found in {(warning, found.device.slug): found for warning, found in said}.items():
        message = at_device(warning.message, found)
        message = f"{message} (`{slug}`)" if len(estimates) > 1 else message
        console.warn(message, urgent=warning.urgent)
