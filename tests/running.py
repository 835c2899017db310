"""Running the command line as a user does, in a process of its own or in this one."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import hints
import pytest
import schemas

from latte_cli import cli

LATTE = str(Path(sys.executable).with_name("latte"))


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def latte(*arguments: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """What `latte` with these arguments did; it has to end with `code` and without a traceback."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [LATTE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    hints.check(arguments, done.stderr)
    schemas.check(arguments, done.stdout)
    return done


def ended(*arguments: object) -> Ended:
    """What `latte` with these arguments did in this process, which is quicker than `latte`, however it ended."""
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
