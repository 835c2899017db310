"""`latte tune`: how a model is to be run on this machine, as a file for `latte_cli.optimize`."""

from pathlib import Path
from typing import Annotated

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
    parse_shapes,
)
from latte_cli.errors import unknown
from latte_cli.report import Format
from latte_cli.tasks import Precision

_SECONDS = 5.0


def tune(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where the choices go, beside those it holds for other devices."
        ),
    ],
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda:N.")] = "cpu",
    batch_size: BatchSizeOption = None,
    batch_axis: BatchAxisOption = None,
    shape: ShapeOption = None,
    precision: Annotated[str, typer.Option(metavar="NAME", help="fp32, bf16 or fp16.")] = Precision.FP32.value,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU. [default: all cores]")] = None,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="Who chooses the algorithms, as for `latte estimate`.")
    ] = "latte",
    workspace_limit: WorkspaceLimitOption = None,
    memory_limit: MemoryLimitOption = None,
    optimizer: OptimizerOption = "sgd",
    seconds: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="DURATION", help="How long each way is tried. [default: 5s]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace choices for the same device and settings.")] = False,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Find out how MODEL runs fastest on this machine.

    Layouts and algorithms are tried on real steps, and what won is written. The profile of this machine says which
    algorithms to try; without one, layouts alone are tried.
    """
    from latte_cli.estimator import Limits, check_names
    from latte_cli.network import load
    from latte_cli.report.choices import write_tuned
    from latte_cli.runtime import write_choices
    from latte_cli.runtime.choices import check_free
    from latte_cli.runtime.tuning import TUNABLE, key_here, tuned
    from latte_cli.store import open_store

    if precision not in TUNABLE:
        raise unknown("precision", precision, TUNABLE)
    check_names(precision, None, strategy, optimizer)
    sizes = parse_shapes(shape)
    network = load(model, batch_size=batch_size, batch_axis=batch_axis, sizes=sizes)
    limits = Limits(workspace_bytes=workspace_limit, memory_bytes=memory_limit)
    key = key_here(device, Precision(precision), threads, limits)
    check_free(output, key, force=force)
    console.note(f"trying ways of running `{network.name}` at batch {network.batch_size} on real steps")
    found = tuned(
        open_store(store),
        model,
        network,
        key=key,
        device=device,
        strategy=strategy,
        optimizer=optimizer,
        sizes=sizes,
        seconds=_SECONDS if seconds is None else seconds,
        warn=console.warn,
    )
    write_choices(output, found.best, force=force)
    write_tuned(network.name, found, form)
    if form is Format.TABLE:
        console.note(f"wrote `{output}`")
        console.note(f"next: `latte_cli.optimize(module, choices={str(output)!r})` in your program")
