"""Interrupts at the worst moments: inside an import of what C++ has made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_study import STUDY

from latte_cli.cli import interruptible
from latte_cli.errors import ExitCode, LatteError
from latte_cli.network.zoo import export

# What the interpreter runs first: an interrupt at the first line of Python that a function of C++ calls.
_INTERRUPT_IN = """
import os, signal, sys

def watch(frame, event, argument):
    global inside
    if event == "c_call":
        inside = argument.__name__ == name and (not module or module in str(frame.f_locals.get("args")))
    elif event == "call" and inside:
        sys.setprofile(None)
        print("interrupted in", name, file=sys.stderr, flush=True)
        signal.raise_signal(signal.SIGINT)

inside, (name, module) = False, os.environ["INTERRUPT_IN"].split(":")
sys.setprofile(watch)
"""

# A module whose import hangs, with so many interrupts.
_HANG = "import signal, time\nfor _ in range({}):\n    signal.raise_signal(signal.{})\ntime.sleep(600)\n"


def run(folder: Path, *words: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command whose interpreter finds modules in `folder` first."""
    path = os.pathsep.join([str(folder), *sys.path])
    command = [sys.executable, "-m", "latte_cli", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("where", ["exec_dynamic:onnx.onnx_cpp2py_export", "_c10d_init:"])
def test_an_interrupt_in_cpp_that_is_imported_ends_with_130_and_one_error(tmp_path: Path, where: str) -> None:
    import yaml

    (tmp_path / "sitecustomize.py").write_text(_INTERRUPT_IN)
    (tmp_path / "lenet.onnx").write_bytes(export("lenet"))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    words = ("simulate", "study.yaml") if where.endswith(":") else ("estimate", "lenet.onnx")
    done = run(tmp_path, *words, INTERRUPT_IN=where)
    assert (done.returncode, done.stdout) == (ExitCode.INTERRUPTED, "")
    said, error, *hint = done.stderr.splitlines()
    assert (said.partition(" in ")[0], error) == ("interrupted", "error: interrupted")
    assert hint in ([], ["hint: what was finished is kept; the same command resumes"])


@pytest.mark.parametrize(("times", "number"), [(2, "SIGINT"), (1, "SIGTERM"), (1, "SIGINT")])
def test_an_import_that_hangs_ends_at_the_second_interrupt_or_soon(tmp_path: Path, times: int, number: str) -> None:
    (tmp_path / "pyarrow.py").write_text(_HANG.format(times, number))
    if times == 1:
        limit = "import latte_cli.interrupts\nlatte_cli.interrupts._LONGEST_WAIT_S = 0.1\n"
        (tmp_path / "sitecustomize.py").write_text(limit)
    (tmp_path / "store").mkdir()
    done = run(tmp_path, "store", "info", "--store", tmp_path / "store")
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.INTERRUPTED, "", "error: interrupted\n")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_is_ignored_at_the_start_stays_so(tmp_path: Path, number: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import signal\nsignal.signal(signal.{number}, signal.SIG_IGN)\n")
    (tmp_path / "pyarrow.py").write_text(f"import signal\nsignal.raise_signal(signal.{number})\nraise SystemExit(7)\n")
    assert run(tmp_path, "store", "info", "--store", tmp_path / "store").returncode == 7


@pytest.mark.parametrize(("name", "kept"), [("profile", True), ("estimate", True), ("allocate", False), ("zoo", False)])
def test_only_commands_that_keep_something_say_so(name: str, kept: bool) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(LatteError) as caught:
        interruptible(name, interrupted)()
    assert caught.value.exit_code is ExitCode.INTERRUPTED
    assert caught.value.hint == ("what was finished is kept; the same command resumes" if kept else None)
