"""The options of `latte compare`, which of them go together, and the same request for `latte estimate`."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from latte_cli import files
from latte_cli.cli.batches import Batches, Room, parse_batches, parse_room
from latte_cli.cli.estimate import EstimateRequest
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
    OptimizerOption,
    PricesOption,
    SamplesOption,
    StoreOption,
    ThreadsOption,
    WorkspaceLimitOption,
    parse_growth,
    parse_size,
)
from latte_cli.cli.request import Request
from latte_cli.cli.thresholds import AnnotateOption
from latte_cli.cli.together import check_together
from latte_cli.errors import ExitCode, LatteError
from latte_cli.precisions import Precision
from latte_cli.report.thresholds import Annotate
from latte_cli.schedule import Schedule
from latte_cli.thresholds import Threshold, parse_threshold

_OF_DOCUMENTS = (
    *("--samples", "--epochs", "--local-steps", "--prices", "--fail-above", "--max-regression", "--annotate"),
    *("--format", "--quiet", "--verbose"),
)
"""Options that say something of documents too, which were estimated before."""
_OF_TRAININGS = ("epoch", "round")


class CompareFormat(StrEnum):
    """How `compare` writes its result."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


@dataclass(frozen=True, kw_only=True)
class CompareRequest(Request):
    """What `latte compare` is asked."""

    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Models (.onnx or .pt2), or documents of `latte estimate --format json`.",
            show_default=False,
        ),
    ]
    device: DeviceOption = None
    precision: Annotated[
        str, typer.Option(metavar="NAMES", help="One or several separated by commas, as in fp32,tf32.")
    ] = Precision.FP32.value
    layout: LayoutOption = None
    threads: ThreadsOption = None
    compiled: CompileOption = False
    cuda_graph: CudaGraphOption = False
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Who chooses the algorithms, as for `latte estimate`. Repeatable, or several separated by commas. "
            "[default: latte, or pytorch with --compile]",
        ),
    ] = None
    estimator: EstimatorOption = "lookup"
    workspace_limit: WorkspaceLimitOption = None
    memory_limit: Annotated[
        list[int] | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            help="Most memory that the step may hold, as in 2GiB. Repeatable. [default: no limit]",
        ),
    ] = None
    checkpoint: CheckpointOption = "none"
    batch_size: Annotated[
        Batches | None,
        typer.Option(
            parser=parse_batches,
            metavar="N",
            help="Samples of a step, or several such numbers separated by commas; `max` or `max:8GiB` for the most "
            "that fit the device or 8GiB. [default: the model's]",
        ),
    ] = None
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NAME=SIZE",
            help="Size of a dimension that a model leaves open; several separated by commas, as in seq=64,512. "
            "Repeatable.",
        ),
    ] = None
    batch_axis: BatchAxisOption = None
    freeze: FreezeOption = None
    optimizer: OptimizerOption = "sgd"
    loss: LossOption = "cross-entropy"
    accumulate: AccumulateOption = 1
    fits: Annotated[
        Room | None,
        typer.Option(
            parser=parse_room,
            metavar="SIZE",
            help="Most memory that the process that trains may take, as in 8GiB. Ends with code 3 if none fits. "
            "[default: that of the device]",
        ),
    ] = None
    samples: SamplesOption = None
    epochs: EpochsOption = 1
    local_steps: Annotated[int | None, typer.Option(min=1, help="Steps of the training, instead of epochs.")] = None
    prices: PricesOption = None
    fail_above: Annotated[
        list[Threshold] | None,
        typer.Option(
            parser=parse_threshold,
            metavar="LIMIT",
            help="End with code 3 if a step takes longer, as in 50ms; or another quantity, as in memory=2GiB. With "
            "--max-regression only for the files after the first. Repeatable.",
        ),
    ] = None
    max_regression: Annotated[
        float | None,
        typer.Option(
            parser=parse_growth,
            metavar="SHARE",
            help="End with code 3 if a step is longer than that of the first file by more than this, as in 5%.",
        ),
    ] = None
    annotate: AnnotateOption = None
    form: Annotated[CompareFormat, typer.Option("--format", help="How to write the result.")] = CompareFormat.TABLE
    allow_unknown: AllowUnknownOption = False
    store: StoreOption = None

    @property
    def schedule(self) -> Schedule:
        """What a training is made of."""
        return Schedule(samples=self.samples, epochs=self.epochs, local_steps=self.local_steps)


def check_compared(request: CompareRequest) -> None:
    """Raise LatteError (exit code 2) for options that mean nothing, or that do not go together."""
    from latte_cli.cli.several_batches import check_given

    asked = estimate_request(request, request.files[0])
    check_given(asked)
    check_together(replace(asked, fail_above=request.fail_above))
    if any(":" in text.rpartition("=")[2] for text in request.shape or ()):
        message = "shares of sizes in `--shape` make one mean step, and no sides"
        raise LatteError(message, hint="`--shape seq=64,512` compares sizes", exit_code=ExitCode.USAGE)
    if request.max_regression is not None and len(request.files) < 2:
        message = "`--max-regression` needs a baseline, which is the first file"
        raise LatteError(message, hint="`latte compare before.json MODEL`", exit_code=ExitCode.USAGE)
    if any(limit.quantity in _OF_TRAININGS for limit in request.fail_above or ()):
        message = "`latte compare` holds steps and memory to limits, not trainings"
        hint = "`--fail-above 50ms`, or `latte estimate MODEL --samples 1.2M --fail-above epoch=1h`"
        raise LatteError(message, hint=hint, exit_code=ExitCode.USAGE)
    if request.annotate and not request.fail_above and request.max_regression is None:
        message = "`--annotate` has nothing to say without a limit"
        raise LatteError(message, hint="add `--fail-above 50ms` or `--max-regression 5%`", exit_code=ExitCode.USAGE)
    if request.annotate is Annotate.JUNIT and request.form is not CompareFormat.TABLE:
        message = f"`--annotate junit` and `--format {request.form}` both write to stdout"
        raise LatteError(message, hint="run the command twice", exit_code=ExitCode.USAGE)
    unused = sorted(request.given - set(_OF_DOCUMENTS) - {"files"})
    if unused and all(map(is_document, request.files)):
        message = f"`{unused[0]}` says how models are estimated, and documents were estimated before"
        raise LatteError(message, hint=f"leave `{unused[0]}` out, or name a model", exit_code=ExitCode.USAGE)


def is_document(path: Path) -> bool:
    """Whether a file holds JSON, as no model does."""
    try:
        return files.first_bytes(path, 1)[:1] == b"{"
    except (OSError, ValueError):
        return False  # the reader of the model says what is wrong


def estimate_request(request: CompareRequest, model: Path) -> EstimateRequest:
    """What `latte estimate` of the model would be asked."""
    return EstimateRequest(
        given=request.given,
        model=model,
        device=request.device,
        layout=request.layout,
        threads=request.threads,
        compiled=request.compiled,
        cuda_graph=request.cuda_graph,
        strategy=request.strategy,
        estimator=request.estimator,
        workspace_limit=request.workspace_limit,
        checkpoint=request.checkpoint,
        batch_size=request.batch_size,
        batch_axis=request.batch_axis,
        freeze=request.freeze,
        optimizer=request.optimizer,
        loss=request.loss,
        accumulate=request.accumulate,
        fits=request.fits,
        samples=request.samples,
        epochs=request.epochs,
        local_steps=request.local_steps,
        prices=request.prices,
        allow_unknown=request.allow_unknown,
        store=request.store,
    )
