"""Output that is the same on every machine, byte by byte; `make golden` rewrites it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = {
    "help.txt": ["--help"],
    "zoo-list.txt": ["zoo", "list"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_output_is_the_expected(name: str) -> None:
    command = [str(Path(sys.executable).with_name("latte")), *COMMANDS[name]]
    done = subprocess.run(
        command,
        env=os.environ | {"COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    if os.environ.get("LATTE_GOLDEN"):
        (GOLDEN / name).write_text(done.stdout)
    assert done.stdout == (GOLDEN / name).read_text()
