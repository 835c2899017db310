"""Options that several commands share, declared once."""

from typing import Annotated, TypeAlias

import typer

from latte_cli.quantities import duration_s, size_bytes
from latte_cli.report import Format

StoreOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--store", metavar="URI", help="Dataset store. [default: $LATTE_STORE, else your data directory]"),
]
FormatOption: TypeAlias = Annotated[Format, typer.Option("--format", help="How to write the result.")]
DeviceOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="A profile's name (`latte store devices`), or `cpu` for this machine. Repeatable.",
    ),
]

parse_duration = duration_s
"""An option's `parser=` for durations: seconds in `30s`, `2m`, `1h`, `500ms` or a plain number."""

parse_size = size_bytes
"""An option's `parser=` for sizes: bytes in `2GiB`, `512MiB` or a plain number."""
