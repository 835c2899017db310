"""The standard streams: what they cannot encode degrades, and what cannot be written is one error."""

import codecs
import io
import os
import sys
from typing import Any, TextIO

from latte_cli.errors import ExitCode, LatteError
from latte_cli.files import FileSink, cannot_write

_DEGRADE = "latte-degrade"
_SIGNS = {
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{PLUS-MINUS SIGN}": "+/-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{MIDDLE DOT}": "*",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{SUPERSCRIPT TWO}": "2",
    "\N{NO-BREAK SPACE}": " ",
}
"""Signs of reports and messages, in ASCII."""


def prepare() -> None:
    """Let stdout and stderr take any text and tell their faults as LatteError, or, stderr, swallow them.

    Streams that a program has put in the place of the process's own stay as they are.
    """
    _take_closed()
    codecs.register_error(_DEGRADE, _degrade)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(sys.stdout, FileSink(1, _unwritten_error), line_buffering=False)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(sys.stderr, _Deaf(2, _unwritten_error), line_buffering=True)


def _take_closed() -> None:
    """Open what was closed, so that no file opened later gets a stream's number and with it the stream's text."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # gets the lowest free number; writing to it fails as on a closed one


def _stream(given: TextIO | None, sink: FileSink, *, line_buffering: bool) -> TextIO:
    if isinstance(given, io.TextIOWrapper) and _takes_text(given.buffer):
        given.reconfigure(errors=_DEGRADE)
        return given
    return io.TextIOWrapper(
        io.BufferedWriter(sink),
        encoding=given.encoding if given else "utf-8",
        errors=_DEGRADE,
        line_buffering=line_buffering or (given is not None and given.isatty()),
    )


def _takes_text(buffer: Any) -> bool:
    """Whether it is a console of Windows: it shows text of any language, and bytes in an older encoding."""
    return not isinstance(getattr(buffer, "raw", buffer), io.FileIO)


def _unwritten_error(exc: OSError) -> LatteError:
    error = cannot_write("to standard output", exc)
    error.hint = "make room, or send the output to a file elsewhere"
    if isinstance(exc, BrokenPipeError):
        error.exit_code = ExitCode.READER_GONE
    return error


class _Deaf(FileSink):
    """A stream for messages: one that cannot be written is lost, and the result is not."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except LatteError:
            return memoryview(data).nbytes


def _degrade(error: UnicodeError) -> tuple[str, int]:
    """Replacements of characters that a stream's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_SIGNS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end
