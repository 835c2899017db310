"""`latte import`: what others have measured and published, into the store."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from latte_cli.cli import console
from latte_cli.cli.options import FormatOption, StoreOption
from latte_cli.report import Format

app = typer.Typer(help="Read what others have measured and published.", no_args_is_help=True)

FilesArgument: TypeAlias = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Plain, .gz or .bz2.", show_default=False)
]
NameOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="SLUG", help="The device's name. [default: the file's]")
]


@app.command("latte-csv")
def latte_csv(
    files: FilesArgument,
    heuristic: Annotated[
        bool, typer.Option("--heuristic", help="The labels are what cuDNN's heuristic answered, not what won.")
    ] = False,
    name: Annotated[str, typer.Option(metavar="SLUG", help="The device's name.")] = "latte-dataset",
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """LATTE's dataset: the cuDNN algorithm that won each call.

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
    """MIOpen's Find database as text: each solver with its time.

    It is the one that MIOpen ships, or the one that ROCm keeps for its user.
    """
    _import(files, "miopen-finddb", name, form, store)


@app.command("neusight-csv")
def neusight_csv(
    files: FilesArgument,
    name: NameOption = None,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """NeuSight's tables: forward convolutions and their kernels.

    They ran in torch's benchmark mode.
    """
    _import(files, "neusight-csv", name, form, store)


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
