"""Options that several commands share, declared once."""

import re
from typing import Annotated, TypeAlias

import typer

from latte_cli.errors import ExitCode, LatteError
from latte_cli.report import Format

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "": 1.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) *([a-z]*)", re.ASCII)
_LONGEST_S = 366 * 86400.0

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


def parse_duration(text: str | float) -> float:
    """Seconds in `30s`, `2m`, `1h`, `500ms` or a plain number of seconds; an option's `parser=`.

    Raises LatteError (exit code 2) for anything else, for 0 and for more than a year.
    """
    match = _DURATION.fullmatch(str(text).strip().lower())
    unit = _SECONDS.get(match[2]) if match else None
    seconds = float(match[1]) * unit if match and unit else 0.0
    if not 0 < seconds <= _LONGEST_S:
        hint = "a number and a unit, as in `500ms`, `30s`, `2m` or `1h`, of at most a year"
        raise LatteError(f"`{' '.join(str(text).split())[:40]}` is not a duration", hint=hint, exit_code=ExitCode.USAGE)
    return seconds
