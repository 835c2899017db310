"""`latte zoo`: the standard networks, listed and exported."""

from pathlib import Path
from typing import Annotated

import typer

from latte_cli import files
from latte_cli.cli import console
from latte_cli.cli.options import FormatOption
from latte_cli.report import Format, Table, count, write_csv, write_json, write_table

app = typer.Typer(help="Standard networks to try things on.", no_args_is_help=True)

_COLUMNS = ("name", "image_size", "classes", "layers", "parameters", "flops_per_image", "description")


@app.command("list")
def list_models(output_format: FormatOption = Format.TABLE) -> None:
    """List the standard networks with their sizes.

    FLOPs are those of one image's forward pass.
    """
    rows = _rows()
    if output_format is Format.JSON:
        write_json({"schema": "latte.zoo/1", "models": [dict(zip(_COLUMNS, row, strict=True)) for row in rows]})
    elif output_format is Format.CSV:
        write_csv(_COLUMNS, rows)
    else:
        titles = ("name", ">pixels", ">classes", ">layers", ">parameters", ">FLOPs", "description")
        shown = [[name, *map(str, sizes), count(own), count(flops), text] for name, *sizes, own, flops, text in rows]
        write_table(Table(columns=titles, rows=shown))
    console.note("next: `latte zoo export resnet18 resnet18.onnx`")


def _rows() -> list[tuple[str, int, int, int, int, int, str]]:
    from latte_cli.layers import Phase
    from latte_cli.network import zoo

    rows = []
    for name, entry in zoo.ZOO.items():
        network = zoo.network(name, batch_size=1)
        flops = sum(layer.flops(Phase.FORWARD) for layer in network.layers)
        sizes = (entry.image_size, entry.classes, len(network.layers), network.parameters, flops)
        rows.append((name, *sizes, entry.description))
    return rows


@app.command("export")
def export_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A network that `latte zoo list` names.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The ONNX file to write.")],
    weights: Annotated[bool, typer.Option(help="Store random weights; without them the file is a few kB.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Fix the batch size. [default: left open]")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="PIXELS", help="Height and width of the images, in pixels. [default: the network's]"
        ),
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes. [default: the network's]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a standard network as an ONNX file."""
    from latte_cli.network import zoo

    zoo.zoo_entry(name)
    files.check_free(file, force=force)
    content = zoo.export(
        name, weights=weights, batch_size=batch_size, image_size=image_size, classes=classes, seed=seed
    )
    files.write_file(file, content)
    console.note(f"wrote `{file}` ({len(content):,} bytes); next: `latte estimate {console.shell_word(file)}`")
