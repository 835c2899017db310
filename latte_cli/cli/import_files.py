"""`latte import`: what others have measured and published, into the store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from latte_cli.cli import console
from latte_cli.cli.options import (
    MODEL_HELP,
    BatchAxisOption,
    FormatOption,
    ShapeOption,
    StoreOption,
    parse_duration,
    parse_measured_layout,
    parse_measured_precision,
    parse_shapes,
)
from latte_cli.precisions import Layout, Precision
from latte_cli.report import Format

if TYPE_CHECKING:
    from latte_cli.network import Network

app = typer.Typer(help="Import measurements that others made.", no_args_is_help=True)

FilesArgument: TypeAlias = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Files, plain, .gz or .bz2.", show_default=False)
]
NameOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="SLUG", help="The device's name. [default: the file's]")
]


@app.command("latte-csv")
def latte_csv(
    files: FilesArgument,
    heuristic: Annotated[
        bool,
        typer.Option(
            "--heuristic", help="The labels are the answers of cuDNN's heuristic, not the fastest algorithms."
        ),
    ] = False,
    name: Annotated[str, typer.Option(metavar="SLUG", help="The device's name.")] = "latte-dataset",
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Import LATTE's dataset: which cuDNN algorithm won each call.

    The calls are forward convolutions.
    """
    _import(files, "latte-csv", name, form, store, heuristic=heuristic)


@app.command("miopen-finddb")
def miopen_finddb(
    files: FilesArgument,
    name: NameOption = None,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Import MIOpen's Find database as text: each solver's time.

    MIOpen ships one, and ROCm keeps one for each user.
    """
    _import(files, "miopen-finddb", name, form, store)


@app.command("neusight-csv")
def neusight_csv(
    files: FilesArgument,
    name: NameOption = None,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Import NeuSight's tables: convolutions and their kernels.

    These forward calls ran in torch's benchmark mode.
    """
    _import(files, "neusight-csv", name, form, store)


_TracedPrecision = Annotated[
    Precision | None,
    typer.Option(
        parser=parse_measured_precision, metavar="NAME", help="Precision of the steps. [default: the trace's]"
    ),
]
_TracedLayout = Annotated[
    Layout | None,
    typer.Option(
        parser=parse_measured_layout,
        metavar="NAME",
        help="Memory layout: nchw or channels_last. [default: the trace's]",
    ),
]
_StepTime = Annotated[
    float | None,
    typer.Option(
        parser=parse_duration,
        metavar="DURATION",
        help="Time of a step without the profiler, as in 80ms. [default: that in the trace, less the profiler's share]",
    ),
]


@app.command("torch-trace")
def torch_trace(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Traces of training steps, plain or .gz.", show_default=False),
    ],
    model: Annotated[Path, typer.Option(metavar="MODEL", help=MODEL_HELP, show_default=False)],
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The device of a CPU's trace: `cpu` for this machine's, or a name. [default: the GPU in the trace]",
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples of a step. [default: the trace's]")] = None,
    batch_axis: BatchAxisOption = None,
    shape: ShapeOption = None,
    precision: _TracedPrecision = None,
    layout: _TracedLayout = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the CPU. [default: this machine's cores for `cpu`]")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Optimizer of the steps. [default: the trace's]")
    ] = None,
    step_time: _StepTime = None,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Import what torch.profiler traced of training steps.

    Each layer and phase of MODEL gets a row of the device that the trace names.
    """
    from latte_cli.network import load
    from latte_cli.report.torch_traces import write_trace_imports
    from latte_cli.store import open_store
    from latte_cli.torch_trace import TraceRequest, import_trace

    request = TraceRequest(
        device=device, threads=threads, precision=precision, layout=layout, optimizer=optimizer, step_s=step_time
    )
    sizes, opened = parse_shapes(shape), open_store(store, skip=console.left_out)

    def network_at(batch: int | None) -> "Network":
        return load(model, batch_size=batch_size or batch, batch_axis=batch_axis, sizes=sizes)

    found = [import_trace(path, network_at, opened, request) for path in files]
    write_trace_imports(found, form)
    for one in found:
        for doubt in one.doubts:
            console.warn(f"{one.path.name}: {doubt}")
    last = found[-1]
    console.note(
        f"next: `latte estimate {console.shell_word(model)} --device {last.device.slug} --batch-size {last.batch}`"
    )


def _import(
    files: list[Path],
    source: str,
    name: str | None,
    form: Format,
    store: str | None,
    *,
    heuristic: bool = False,
) -> None:
    from latte_cli.importers import ImportSource, import_file
    from latte_cli.report.imports import Import, write_imports
    from latte_cli.store import open_store

    opened = open_store(store, skip=console.left_out)
    found = []
    with console.progress("importing", None) as bar:
        for path in files:
            device, tally = import_file(
                path, ImportSource(source), opened, name=name, heuristic=heuristic, progress=bar.advance
            )
            found.append(Import(path=path, device=device, tally=tally))
    write_imports(found, form)
    for one in found:
        for text in one.tally.named:
            console.warn(f"{one.path.name}: {text}")
    console.note(f"next: `latte train-selector --device {found[0].device.slug}`")
