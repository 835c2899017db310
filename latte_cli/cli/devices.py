"""`latte devices`: the names for `--device`: profiles, shipped profiles and data sheets."""

from typing import Annotated

import typer

from latte_cli.cli import console
from latte_cli.cli.options import FormatOption, StoreOption
from latte_cli.cli.stores import store_to_read
from latte_cli.report import Format


def devices(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Only devices with these words in their name.", show_default=False),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="List every device. Otherwise a terminal shows the profiled ones if not all fit."),
    ] = False,
    store: StoreOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List the devices that `--device` may name.

    JSON has each figure of a data sheet with its document.
    """
    from latte_cli.profiles import known_devices
    from latte_cli.report.devices import write_devices

    found = known_devices(store_to_read(store), name)
    write_devices(found, form, every=every or name is not None)
    if found and form is Format.TABLE:
        console.note(f"next: `latte estimate MODEL --device {found[0].device.slug}`")
