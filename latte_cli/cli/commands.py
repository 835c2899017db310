"""The commands, by name."""

from collections.abc import Callable
from typing import Any

import typer

from latte_cli.cli.estimate import estimate

COMMANDS: dict[str, Callable[..., Any]] = {"estimate": estimate}
GROUPS: dict[str, typer.Typer] = {}
