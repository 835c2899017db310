"""A malformed command line as an error like any other: what typer says of it, in the form of `latte`."""

import re
from difflib import get_close_matches
from typing import Any

from latte_cli.cli.panels import PANELS
from latte_cli.errors import ExitCode, LatteError, unknown

_NO_COMMAND = re.compile(r"No such command ['\"](?P<name>.*?)['\"]", re.DOTALL)
_NUMBERS = {"integer": "a whole number", "float": "a number"}
"""The words of typer for what a number must be, in plain ones."""
_QUOTED = re.compile(r"'([^'`]+)'")
_NOT_ONE_OF = re.compile(r"['\"]([^'\"]*)['\"] is not one of")


def is_help(exc: Any) -> bool:
    """Whether typer tells nothing but the help, where a group of commands is typed by itself."""
    return str(exc.format_message()).startswith("Usage: ")


def usage_error(exc: Any) -> LatteError:
    """What typer says of a malformed command line: one line, and a hint with the near match or the help to read."""
    context: Any = getattr(exc, "ctx", None)
    path = context.command_path if context else "latte"
    command: Any = context.command if context else None
    if hasattr(exc, "option_name") and hasattr(exc, "possibilities"):
        known = [name for param in command.params for name in (*param.opts, *param.secondary_opts)] if command else []
        hint = f"{_elsewhere(exc.option_name)}`{path} --help` lists the options"
        return unknown("option", exc.option_name, [name for name in known if name.startswith("--")], hint=hint)
    text = str(exc.format_message())
    if missing := _NO_COMMAND.match(text):
        return unknown("command", missing["name"], getattr(command, "commands", ()))
    return LatteError(
        _line(text),
        hint=_near(exc, text) or f"`{path} --help` says what goes there",
        exit_code=ExitCode(exc.exit_code),
    )


def _elsewhere(option: str) -> str:
    """Which command takes an option that this one does not; "" where none of those with many options does."""
    takers = [f"latte {name}" for name, panels in PANELS.items() if any(option in names for names in panels.values())]
    return f"`{takers[0]}` takes it; " if takers else ""


def _line(text: str) -> str:
    """A message in the form of others: one line in lower case, with backticks, without a full stop."""
    for kind, word in _NUMBERS.items():
        text = text.replace(f"a valid {kind} range", word).replace(f"a valid {kind}", word)
    line = _QUOTED.sub(r"`\1`", " ".join(text.split())).rstrip(".")
    return line[:1].lower() + line[1:]


def _near(exc: Any, text: str) -> str | None:
    """A hint with the choice that a wrong one is near to; None where there are no choices, or none is near."""
    choices = [str(each) for each in getattr(getattr(getattr(exc, "param", None), "type", None), "choices", ())]
    wrong = _NOT_ONE_OF.search(text)
    near = get_close_matches(wrong[1].lower(), choices, n=1) if wrong else []
    return f"did you mean `{near[0]}`?" if near else None
