"""First estimates: a machine without a profile is measured for some seconds, on a terminal or with `--measure`."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from running import here, latte

from latte_cli.layers import Whole
from latte_cli.network import zoo
from latte_cli.store import open_store

LATTE = (sys.executable, "-m", "latte_cli")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small network, in a folder whose store is empty."""
    monkeypatch.setenv("LATTE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lenet.onnx"
    path.write_bytes(zoo.export("lenet", batch_size=8))
    return path


def rows() -> list:
    store = open_store(shipped=False)
    return [row for device in store.devices() for row in store.measurements(device.slug)]


def calls() -> list:
    """The rows of single calls."""
    return [row for row in rows() if not isinstance(row.task.layer, Whole)]


def on_terminal(*words: object) -> tuple[int, str, str]:
    """The code, the standard output and the terminal's text of a command whose stderr alone is a terminal."""
    terminal, theirs = pty.openpty()
    process = subprocess.Popen([*LATTE, *map(str, words)], stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    said = b"".join(iter(partial(_read, terminal), b""))
    os.close(terminal)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out, said.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux says so that the other end is closed
        return b""


def test_on_a_terminal_a_machine_without_a_profile_is_measured_first(model: Path) -> None:
    code, out, said = on_terminal("estimate", model, "--format", "json")
    assert code == 0, said
    document = json.loads(out)
    (measured,) = document["measured"]
    assert measured["calls"] == len({row.task.id for row in calls()}) > 0
    assert document["estimates"][0]["device"] == measured["device"]
    assert "measuring this machine" in said
    what = rf"measured {measured['calls']} calls?( and {measured['steps']} whole steps?)?"
    assert re.search(rf"{what} of `{measured['device']}` in [0-9.]+ s, kept in the", said)
    assert "`latte profile --budget 2m` narrows the interval" in said
    totals = document["estimates"][0]["totals"]
    assert totals["step_low_s"] < totals["step_s"] < totals["step_high_s"]

    code, out, said = on_terminal("estimate", model, "--format", "json")  # it has a profile now
    assert (code, json.loads(out)["measured"]) == (0, [])
    assert "measuring this machine" not in said


@pytest.mark.parametrize("words", [("--no-measure",), ("--compile",)])
def test_on_a_terminal_nothing_is_measured_where_that_is_ruled_out(model: Path, words: tuple[str, ...]) -> None:
    code, out, said = on_terminal("estimate", model, *words)
    assert (code, out) == (1, "")
    assert "error: there is no profile of this machine" in said
    assert rows() == []


def test_without_a_terminal_nothing_is_measured(model: Path) -> None:
    done = latte("estimate", model, code=1)
    assert done.stdout == ""
    assert "there is no profile of this machine" in done.stderr
    assert f"`latte estimate {model} --measure 10s` a rough one" in done.stderr
    assert rows() == []


def test_without_a_terminal_it_is_measured_where_that_is_asked_for(model: Path) -> None:
    done = latte("estimate", model, "--measure", "4s", "--format", "json")
    (measured,) = json.loads(done.stdout)["measured"]
    assert measured["calls"] == len({row.task.id for row in calls()}) > 0
    assert done.stderr.count("measured") >= 1
    before = {row.task.id for row in calls()}

    again = latte("estimate", model, "--measure", "12s", "--format", "json", "--store", open_store().uri)
    document = json.loads(again.stdout)
    (measured,) = document["measured"]
    assert measured["calls"] == len(calls()) - len(before)
    assert len({row.task.id for row in calls()}) == len(calls())  # no call twice
    assert measured["calls"] + measured["steps"] > 0
    steps = {len(row.device_times_s) for row in rows() if isinstance(row.task.layer, Whole)}
    assert bool(steps) == bool(measured["steps"]) == ("real_steps" in document["estimates"][0])
    assert "narrows the interval" not in again.stderr


def test_a_moment_is_measured_where_the_budget_is_less(model: Path) -> None:
    done = latte("estimate", model, "--measure", "1ms", "--format", "json")
    document = json.loads(done.stdout)
    assert document["measured"][0]["calls"] > 0
    assert document["measured"][0]["seconds"] > 0.001  # what it really took
    totals = document["estimates"][0]["totals"]
    assert totals["step_low_s"] < totals["step_s"] < totals["step_high_s"]


def test_a_store_that_measuring_makes_is_no_mistake(model: Path, tmp_path: Path) -> None:
    done = latte("estimate", model, "--measure", "1ms", "--store", tmp_path / "fresh")
    assert "there is no store" not in done.stderr
    assert open_store(str(tmp_path / "fresh"), shipped=False).devices()


def test_a_machine_that_is_not_this_one_is_not_measured(model: Path) -> None:
    done = here("estimate", model, "--device", "h200", "--measure", "5s", code=1)
    assert "is not this machine" in done.stderr
    assert rows() == []


@pytest.mark.parametrize(
    "words",
    [
        ("--measure", "5s", "--no-measure"),
        ("--measure", "5s", "--compile"),
        ("--measure", "5s", "--batch-size", "2,4"),
        ("--measure", "5s", "--batch-size", "max:1GiB"),
    ],
)
def test_what_does_not_go_together_is_refused(model: Path, words: tuple[str, ...]) -> None:
    done = here("estimate", model, *words, code=2)
    assert "--measure" in done.stderr
    assert rows() == []


def test_interrupting_keeps_what_was_measured(model: Path) -> None:
    process = subprocess.Popen(
        [*LATTE, "estimate", model, "--measure", "60s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    give_up_at, store = time.monotonic() + 120, open_store(shipped=False)
    while not any(journal.live and journal.rows >= 2 for journal in store.info().journals):
        assert process.poll() is None
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert errors.strip().splitlines() == [
        "error: interrupted",
        "hint: what was finished is kept; the same command resumes",
    ]
    assert rows()
