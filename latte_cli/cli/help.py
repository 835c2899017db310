"""The help of commands and groups, the same whichever version of typer prints it."""

import inspect
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo

_WHOLE = 10_000  # characters; no summary is that long, so none is cut


class Command(TyperCommand):
    """A command of `latte`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        described = _help_texts(self.callback)
        params: Any = self.params
        for param in params:
            param.help = described.get(param.name, param.help)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write(self, ctx, formatter)

    def get_short_help_str(self, limit: int = _WHOLE) -> str:
        return super().get_short_help_str(_WHOLE)


class Group(TyperGroup):
    """A group of commands of `latte`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write(self, ctx, formatter)

    def get_short_help_str(self, limit: int = _WHOLE) -> str:
        return super().get_short_help_str(_WHOLE)


def _write(command: Any, ctx: Any, formatter: Any) -> None:
    """Write the help as plain text, also where typer (before 0.13) would draw it with rich in any mode."""
    command.format_usage(ctx, formatter)
    command.format_help_text(ctx, formatter)
    command.format_options(ctx, _Unescaped(formatter))
    command.format_epilog(ctx, formatter)


class _Unescaped:
    """A formatter that takes back how typer 0.15 to 0.25 escapes brackets for rich, which is not in use."""

    def __init__(self, formatter: Any) -> None:
        self._formatter = formatter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._formatter, name)

    def write_dl(self, rows: Iterable[tuple[str, str]]) -> None:
        self._formatter.write_dl([(name.replace("\\[", "["), text.replace("\\[", "[")) for name, text in rows])


def _help_texts(command: Any) -> dict[str, str]:
    """The help texts of a command's arguments, by name: click 8.5 drops those that typer before 0.26 hands on."""
    parameters = inspect.signature(command, eval_str=True).parameters if command else {}
    return {
        name: about.help
        for name, parameter in parameters.items()
        for about in getattr(parameter.annotation, "__metadata__", ())
        if isinstance(about, ArgumentInfo) and about.help
    }
