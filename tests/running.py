"""Running the command line as a user does, in a process that is a fork or in this one."""

import io
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any, NamedTuple

import hints
import pytest
import schemas
from forking import zygote

from latte_cli import cli


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def forked(*words: str, **how: Any) -> Ended:
    """What a command did in a fork (see forking.py), in this folder and environment unless `how` names others."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, Path(os.devnull).open() as nothing:
        streams = {number: file.fileno() for number, file in enumerate((nothing, out, err))}
        code = zygote().run(*words, streams=streams, **how)
        return Ended(returncode=code, stdout=_text(out), stderr=_text(err))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return io.TextIOWrapper(io.BytesIO(file.read()), "utf-8").read()


def latte(*arguments: object, code: int = 0) -> Ended:
    """What `latte` with these arguments did in a process; it has to end with `code` and without a traceback."""
    done = forked("latte", *map(str, arguments))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    hints.check(arguments, done.stderr)
    schemas.check(arguments, done.stdout)
    return done


def ended(*arguments: object) -> Ended:
    """What `latte` with these arguments did in this process, which is quicker yet, however it ended."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        patch.setattr(sys, "argv", ["latte", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    hints.check(arguments, err)
    schemas.check(arguments, out)
    return Ended(returncode=int(caught.value.code or 0), stdout=out, stderr=err)


def here(*arguments: object, code: int = 0) -> Ended:
    """What `latte` with these arguments did in this process; it has to end with `code`."""
    done = ended(*arguments)
    assert done.returncode == code, done.stderr
    return done
