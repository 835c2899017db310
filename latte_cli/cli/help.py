"""The help of commands and groups, the same whichever version of typer prints it."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.models import ArgumentInfo

from latte_cli.cli import console
from latte_cli.cli.panels import PANELS

_WHOLE = 10_000  # characters; no summary is that long, so none is cut

QUIET, VERBOSE = "No progress and no notes on stderr.", "Say more on stderr."
"""The help of the options that every command takes."""

_Record: TypeAlias = tuple[str, str]
"""What a list of options says of one: how it is typed, and its help."""


class Command(TyperCommand):
    """A command of `latte`, which takes `--quiet` and `--verbose` as `latte` itself does."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        described = _help_texts(self.callback)
        params: Any = self.params
        for param in params:
            param.help = described.get(param.name, param.help)
        params += [
            _flag("--quiet", "-q", QUIET, lambda given: console.add_verbosity(quiet=given)),
            _flag("--verbose", "-v", VERBOSE, lambda given: console.add_verbosity(verbose=given)),
        ]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as exc:
            if getattr(exc, "ctx", ctx) is None:  # click leaves out of which command an option lacks its value
                exc.ctx = ctx  # type: ignore[attr-defined]
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write(self, ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for title, records in _sections(self, ctx):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def get_short_help_str(self, limit: int = _WHOLE) -> str:
        return super().get_short_help_str(_WHOLE)


class Group(TyperGroup):
    """A group of commands of `latte`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write(self, ctx, formatter)

    def get_short_help_str(self, limit: int = _WHOLE) -> str:
        return super().get_short_help_str(_WHOLE)


def _flag(name: str, short: str, text: str, tell: Any) -> TyperOption:
    """An option without a value that is no parameter of the command: `tell` hears whether it was given."""
    return TyperOption(
        param_decls=[name, short],
        is_flag=True,
        default=False,
        expose_value=False,
        help=text,
        callback=lambda ctx, param, given: tell(given),
    )


def _sections(command: Any, ctx: Any) -> Iterator[tuple[str, list[_Record]]]:
    """The arguments, the options under their headings, and the options that have none."""
    arguments: list[_Record] = []
    options: dict[str, _Record] = {}
    for param in command.get_params(ctx):
        if not (record := param.get_help_record(ctx)):
            continue
        if param.param_type_name == "argument":
            arguments.append(record)
        else:
            options[max(param.opts, key=len)] = record
    yield "Arguments", arguments
    for title, names in PANELS.get(command.name or "", {}).items():
        yield title, [options.pop(name) for name in names if name in options]
    yield "Options", [*options.values()]


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

    def write_dl(self, rows: Iterable[_Record]) -> None:
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
