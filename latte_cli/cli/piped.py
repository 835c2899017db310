"""A model that comes from standard input."""

import os
import sys
from pathlib import Path

from latte_cli.errors import ExitCode, LatteError

STDIN = Path("-")
_MOST_BYTES = 2**31  # chosen: what one ONNX file may hold
_BLOCK = 2**20


def model_from_stdin() -> bytes:
    """What comes from standard input; raises LatteError for a terminal, for nothing, and for more than 2 GiB."""
    if sys.stdin is None or sys.stdin.isatty():
        message = "`-` reads a model from standard input, which is a terminal"
        raise LatteError(message, hint="`latte estimate - < model.onnx`", exit_code=ExitCode.USAGE)
    content = bytearray()
    try:
        while part := os.read(sys.stdin.fileno(), _BLOCK):
            content += part
            if len(content) > _MOST_BYTES:
                message = "more than 2 GiB come from standard input"
                raise LatteError(message, hint="write the model to a file and name it")
    except OSError as exc:
        raise LatteError(f"cannot read standard input: {exc.strerror}", hint="name a file") from exc
    if not content:
        raise LatteError("standard input is empty", hint="did the command before the pipe fail? name a file")
    return bytes(content)
