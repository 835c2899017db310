"""`latte tune`: how a model is to be run on this machine, as a file for `latte_cli.optimize`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli.cli import console
from latte_cli.cli.options import (
    BatchAxisOption,
    BatchSizeOption,
    FormatOption,
    MemoryLimitOption,
    ModelArgument,
    OptimizerOption,
    ShapeOption,
    StoreOption,
    WorkspaceLimitOption,
    parse_duration,
    parse_precision,
    parse_shapes,
)
from latte_cli.cli.request import Request, from_options
from latte_cli.cli.stores import store_to_read
from latte_cli.errors import unknown
from latte_cli.precisions import Precision
from latte_cli.report import Format

if TYPE_CHECKING:
    from latte_cli.runtime.choices import Key

_SECONDS = 5.0  # chosen: several steps of a usual network on a CPU, for each way


@dataclass(frozen=True, kw_only=True)
class TuneRequest(Request):
    """What `latte tune` is asked."""

    model: ModelArgument
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the choices into this JSON file. Choices for other devices stay in it.",
        ),
    ]
    device: Annotated[str, typer.Option(metavar="NAME", help="Device of this machine: cpu or cuda:N.")] = "cpu"
    batch_size: BatchSizeOption = None
    batch_axis: BatchAxisOption = None
    shape: ShapeOption = None
    precision: Annotated[
        str, typer.Option(parser=parse_precision, metavar="NAME", help="One of: fp32, bf16, fp16.")
    ] = Precision.FP32.value
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU. [default: all cores]")] = None
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="Who chooses the algorithms, as for `latte estimate`.")
    ] = "latte"
    workspace_limit: WorkspaceLimitOption = None
    memory_limit: MemoryLimitOption = None
    optimizer: OptimizerOption = "sgd"
    seconds: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="DURATION", help="How long each way is tried. [default: 5s]"),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Replace choices for the same device and settings.")] = False
    form: FormatOption = Format.TABLE
    store: StoreOption = None


@from_options
def tune(request: TuneRequest) -> None:
    """Find out how MODEL runs fastest on this machine.

    Tries layouts and algorithms on real steps, and writes the fastest. The profile of this machine says which
    algorithms to try. Without one, only layouts are tried.
    """
    from latte_cli import child

    child.check_children()
    from latte_cli.network import load
    from latte_cli.report.choices import write_tuned
    from latte_cli.runtime import write_choices
    from latte_cli.runtime.choices import check_choices_free
    from latte_cli.runtime.tuning import tune_network

    _check_names(request)
    sizes = parse_shapes(request.shape)
    network = load(request.model, batch_size=request.batch_size, batch_axis=request.batch_axis, sizes=sizes)
    key = _key(request)
    check_choices_free(request.output, key, force=request.force)
    console.note(f"trying ways of running `{network.name}` at batch {network.batch_size} on real steps")
    found = tune_network(
        store_to_read(request.store),
        request.model,
        network,
        key=key,
        device=request.device,
        strategy=request.strategy,
        optimizer=request.optimizer,
        sizes=sizes,
        batch_axis=request.batch_axis,
        seconds=_SECONDS if request.seconds is None else request.seconds,
        warn=console.warn,
    )
    write_choices(request.output, found.best, force=request.force)
    write_tuned(network.name, found, request.form)
    if request.form is Format.TABLE:
        console.note(f"wrote `{request.output}`")
        console.note(f"next: `latte_cli.optimize(module, choices={str(request.output)!r})` in your program")


def _check_names(request: TuneRequest) -> None:
    from latte_cli.estimator import check_names
    from latte_cli.runtime.tuning import TUNABLE

    if request.precision not in TUNABLE:
        raise unknown("precision", request.precision, TUNABLE)
    check_names(request.precision, None, request.strategy, request.optimizer)


def _key(request: TuneRequest) -> "Key":
    """What the choices hold for; raises LatteError for a device that is not here."""
    from latte_cli.estimator import Limits
    from latte_cli.runtime.tuning import key_here

    limits = Limits(workspace_bytes=request.workspace_limit, memory_bytes=request.memory_limit)
    return key_here(request.device, Precision(request.precision), request.threads, limits)
