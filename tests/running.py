"""Running the command line as a user does, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import hints

LATTE = str(Path(sys.executable).with_name("latte"))


def latte(*arguments: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """What `latte` with these arguments did; it has to end with `code` and without a traceback."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [LATTE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    hints.check(arguments, done.stderr)
    return done
