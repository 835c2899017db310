"""What `latte allocate` is asked, and which of its options go together."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from latte_cli import files
from latte_cli.cli.options import (
    AllowUnknownOption,
    BatchAxisOption,
    FormatOption,
    ModelArgument,
    OptimizerOption,
    ShapeOption,
    StoreOption,
    parse_duration,
    parse_share,
)
from latte_cli.cli.request import Request, check_apart, check_needed
from latte_cli.errors import ExitCode, LatteError
from latte_cli.fleet import Method, Objective
from latte_cli.precisions import Layout, Precision
from latte_cli.report import Format

_DURATIONS = ("--round-duration", "--target-capacity", "--floor", "--max-idle")
_APART = (
    ("--curve", ("--fine", "--devices"), "the curve is that of one width for all channel groups, class by class"),
    ("--curve", ("--after", "--output", "--materialise", "--channels", "--seed"), "the curve is no plan"),
    ("--devices", ("--fine",), "each device gets one width for all channel groups"),
    ("--devices", _DURATIONS[1:], "they go by classes, not by devices; `--round-duration` says how long rounds are"),
    ("--devices", ("--after", "--materialise", "--picture"), "they are for plans by class"),
    ("--devices", ("--channels", "--seed"), "the windows of channels are laid end to end over the devices"),
)
"""Options that do not go together, and why."""

_NEEDS = (("--objective", "--fine"),)
"""Options that say how something is done, and the option that asks for it."""


@dataclass(frozen=True, kw_only=True)
class AllocateRequest(Request):
    """What `latte allocate` is asked."""

    model: ModelArgument
    fleet: Annotated[
        Path, typer.Option("--fleet", metavar="FILE", help="The fleet, in YAML: see above.", show_default=False)
    ]
    round_duration: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="Longest round, as in 30s or 10m. [default: the fleet file's]",
        ),
    ] = None
    target_capacity: Annotated[
        float | None,
        typer.Option(
            parser=parse_share,
            metavar="SHARE",
            help="Instead of a duration: the shortest rounds in which devices train this share of the parameters on "
            "average.",
        ),
    ] = None
    floor: Annotated[
        float | None,
        typer.Option(
            parser=parse_share,
            metavar="SHARE",
            help="Instead of a duration: the shortest rounds in which each device trains at least this share.",
        ),
    ] = None
    max_idle: Annotated[
        float | None,
        typer.Option(
            parser=parse_share,
            metavar="SHARE",
            help="Instead of a duration: the rounds that train most while devices wait at most this share of a round.",
        ),
    ] = None
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Shares of the channels to choose from. [default: 1,0.75,0.5,0.25; ten with --fine]"
        ),
    ] = None
    depths: Annotated[
        str, typer.Option(metavar="LIST", help="Shares of the residual blocks of each stage to choose from.")
    ] = "1"
    fine: Annotated[
        bool, typer.Option("--fine", help="Choose a width for each channel group, instead of one for all.")
    ] = False
    objective: Annotated[Objective, typer.Option(help="What --fine maximises: balanced widths, or parameters.")] = (
        Objective.BALANCED
    )
    channels: Annotated[Method, typer.Option(help="Which channels a device keeps.")] = Method.NESTED
    seed: Annotated[int, typer.Option(min=0, help="Seed of random choices.")] = 0
    after: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The plan of the round before: go on with its counts. Or the rounds.json of a federation: also "
            "correct prices by what its devices measured.",
        ),
    ] = None
    devices: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Devices one by one, as Parquet or CSV: the columns device and class, and one for each value that "
            "differs from its class, whose name ends in its unit.",
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the plan as JSON; with --devices as Parquet or CSV."
        ),
    ] = None
    materialise: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write each sub-model and its weights as ONNX. MODEL has to be ONNX."),
    ] = None
    curve: Annotated[bool, typer.Option("--curve", help="Instead of a plan, show what each round duration gives.")] = (
        False
    )
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the round, or the curve, as .png, .svg or .pdf.")
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False
    batch_axis: BatchAxisOption = None
    shape: ShapeOption = None
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="Who chooses the algorithms, as for `latte estimate`.")
    ] = "latte"
    optimizer: OptimizerOption = "sgd"
    allow_unknown: AllowUnknownOption = False
    form: FormatOption = Format.TABLE
    store: StoreOption = None


def check(request: AllocateRequest) -> None:
    """Raise LatteError for options that do not go together, unknown names, and files that are in the way."""
    from latte_cli.estimator import check_names

    if len(request.given & set(_DURATIONS)) > 1:
        raise LatteError(
            "the duration of a round is given in two ways",
            hint="one of `--round-duration`, `--target-capacity`, `--floor` and `--max-idle`",
            exit_code=ExitCode.USAGE,
        )
    check_apart(request.given, _APART)
    check_needed(request.given, _NEEDS)
    _check_outputs(request)
    _check_model(request)
    check_names(Precision.FP32, Layout.NCHW, request.strategy, request.optimizer)


def _check_model(request: AllocateRequest) -> None:
    """Raise LatteError for a model that cannot be cut, where its weights or its sub-models are needed."""
    if not request.materialise and request.channels is not Method.IMPORTANCE:
        return
    from latte_cli.network.parts import check_cuttable

    with suppress(OSError, ValueError):  # the reader of the model says what is wrong
        check_cuttable(request.model, files.first_bytes(request.model, _FIRST_BYTES))


_FIRST_BYTES = 4  # the signature of a zip archive, as APPNOTE.TXT 4.3.7 has it


def _check_outputs(request: AllocateRequest) -> None:
    from latte_cli.report.pictures import check_suffix

    output, folder = request.output, request.materialise
    if request.picture:
        check_suffix(request.picture)
    if output and request.devices and output.suffix not in (".parquet", ".csv"):
        hint = "its name ends in .parquet or .csv"
        raise LatteError(f"`{output}` is no file of devices", hint=hint, exit_code=ExitCode.USAGE)
    for path in filter(None, (output, request.picture)):
        files.check_free(path, force=request.force)
    if folder and folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]) and not request.force:
        raise LatteError(f"`{folder}` is there already and not empty", hint="`--force` writes into it")
