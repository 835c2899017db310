"""What a user can fix: one line, a hint, an exit code."""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ends; the same for every command."""

    DONE = 0
    BAD_INPUT = 1
    USAGE = 2
    EXCEEDED = 3
    INCOMPLETE = 4
    INTERRUPTED = 130
    READER_GONE = 141


class LatteError(Exception):
    """A fault the user can mend: `message` says what failed on which value, `hint` what to type next."""

    def __init__(self, message: str, *, hint: str | None = None, exit_code: ExitCode = ExitCode.BAD_INPUT) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


_OTHER_NAMES = {"gpu": "cuda", "nvidia": "cuda"}  # what users type for a kind of device
_SHOWN = 30  # chosen: fits a screen


def unknown(
    what: str,
    name: str,
    known: Iterable[str],
    *,
    hint: str | None = None,
    exit_code: ExitCode = ExitCode.USAGE,
) -> LatteError:
    """The error for a `name` that is not among the `known` ones, with the nearest one as its hint.

    `hint` replaces the list of what is known where no name is near.
    """
    names = sorted(set(known))
    bare = {each.lstrip("-"): each for each in names}
    meant = _OTHER_NAMES.get(name.lower())
    near = [meant] if meant in bare else get_close_matches(name.lstrip("-"), bare, n=1, cutoff=0.6)
    if near:
        hint = f"did you mean `{bare[near[0]]}`?"
    elif hint is None:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        hint = f"one of: {', '.join(names[:_SHOWN])}{more}" if names else f"no {what} is known yet"
    return LatteError(f"unknown {what} `{name}`", hint=hint, exit_code=exit_code)
