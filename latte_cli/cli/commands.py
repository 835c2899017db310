"""The commands, by name."""

from collections.abc import Callable
from typing import Any

import typer

COMMANDS: dict[str, Callable[..., Any]] = {}
GROUPS: dict[str, typer.Typer] = {}
