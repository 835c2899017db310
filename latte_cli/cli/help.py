"""The help of commands and groups, the same whichever version of typer prints it."""

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.models import ArgumentInfo

from latte_cli.cli import console
from latte_cli.cli.panels import PANELS

_WHOLE = 10_000  # characters; no summary is that long, so none is cut
_JOINED = {"-": "\u2011", " ": "\u00a0"}
"""Hyphens and spaces at which no line may end, while a help is laid out."""
_LONGEST_JOINED = 30  # characters of a word or command that stays on one line
_OF_COUNTS = ("at least 0", "at least 1")
"""Between which numbers a count is, as a reader takes for granted."""
_NUMBERS = re.compile(r"(?:(?P<least>[\d.-]+)<=)?x(?:>=(?P<low>[\d.-]+)|<=(?P<most>[\d.-]+))")
"""How typer says between which numbers a value lies."""

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
            arguments.append(_plain(record))
        else:
            options[max(param.opts, key=len)] = _plain(record)
    yield "Arguments", arguments
    for title, names in PANELS.get(command.name or "", {}).items():
        yield title, [options.pop(name) for name in names if name in options]
    yield "Options", [*options.values()]


def _plain(record: _Record) -> _Record:
    """A record with `N` for whole numbers, and in one pair of brackets the default and between which numbers it is."""
    name, text = record
    text, *more = re.split(r"\s*\[(?=default: |required\]|x[<>]|[\d.-]+<=x)", text.replace("\\[", "["))
    parts = [part for each in more for part in each.strip().removesuffix("]").split("; ")]
    bounds = [told for part in parts if (told := _NUMBERS.sub(_between, part)) not in _OF_COUNTS]
    name = re.sub(r"\bINTEGER(?: RANGE)?\b", "N", name.replace("\\[", "["))
    return name, f"{text} [{'; '.join(bounds)}]".strip() if bounds else text


def _between(found: re.Match[str]) -> str:
    least, most = found["least"], found["most"]
    return f"{least} to {most}" if least else f"at most {most}" if most else f"at least {found['low']}"


def _write(command: Any, ctx: Any, formatter: Any) -> None:
    """Write the help as plain text, also where typer (before 0.13) would draw it with rich in any mode.

    No line ends within the name of an option or a short command, so that both can be copied.
    """
    laid_out = _Joined(formatter)
    command.format_usage(ctx, formatter)
    command.format_help_text(ctx, laid_out)
    command.format_options(ctx, laid_out)
    command.format_epilog(ctx, laid_out)
    formatter.buffer[:] = [_with_ends(line) for line in formatter.buffer]


class _Joined:
    """A formatter that ends no line within an option's name or a command."""

    def __init__(self, formatter: Any) -> None:
        self._formatter = formatter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._formatter, name)

    def write_text(self, text: str) -> None:
        self._formatter.write_text(_join(text))

    def write_dl(self, rows: Iterable[_Record]) -> None:
        self._formatter.write_dl([(_join(name), _join(text)) for name, text in rows])


def _join(text: str) -> str:
    """`text` whose short words and commands stay on one line."""

    def joined(found: re.Match[str]) -> str:
        whole = found[0]
        for sign, other in _JOINED.items() if len(whole) <= _LONGEST_JOINED else ():
            whole = whole.replace(sign, other)
        return whole

    return re.sub(r"`[^`\n]*`|[^ \n`]+", joined, text)


def _with_ends(text: str) -> str:
    for sign, joined in _JOINED.items():
        text = text.replace(joined, sign)
    return text


def _help_texts(command: Any) -> dict[str, str]:
    """The help texts of a command's arguments, by name: click 8.5 drops those that typer before 0.26 hands on."""
    parameters = inspect.signature(command, eval_str=True).parameters if command else {}
    return {
        name: about.help
        for name, parameter in parameters.items()
        for about in getattr(parameter.annotation, "__metadata__", ())
        if isinstance(about, ArgumentInfo) and about.help
    }
