"""`make demo` on a machine that is too slow to measure what a selector needs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LATTE = """#!/bin/sh
echo "$1" >>said
[ "$1" != "${FAILS:-}" ]
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize(("fails", "code"), [("", 0), ("train-selector", 0), ("estimate", 2)])
def test_the_demo_needs_no_selector(tmp_path: Path, fails: str, code: int) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "bin" / "latte").write_text(LATTE)
    (tmp_path / "bin" / "latte").chmod(0o755)
    command = ["make", "demo", "-o", ".venv/ready", f"BIN={tmp_path / 'bin'}"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"FAILS": fails}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    said = (tmp_path / "said").read_text().split()
    wanted = ["zoo", *["profile"] * 3, "train-selector", "estimate", "allocate"]
    assert said == (wanted if code == 0 else wanted[:-1])
