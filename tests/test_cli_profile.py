"""`latte profile` from the outside: what it prints, how it ends, and that killing it loses nothing."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import hints
import numpy as np
import pytest
from running import here
from test_onnx_weights import N, made

from latte_cli.allocator import Method, Plan, Round, catalogue, plan_device, plan_document, shared_out
from latte_cli.backends.host import cpu_slug
from latte_cli.cli.profile import ProfileRequest
from latte_cli.devices import CPU
from latte_cli.fleet import FleetClass
from latte_cli.network import load
from latte_cli.network.channels import sub_model
from latte_cli.network.zoo import export
from latte_cli.store import open_store

LATTE = [sys.executable, "-m", "latte_cli"]


def latte(*words: object, **more: object) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*LATTE, *map(str, words)], capture_output=True, text=True, **more)  # type: ignore[call-overload]
    hints.check(words, done.stderr)
    return done


WORDS = ("--batch-size", 2, "--phases", "forward", "--threads", 1, "--passes", 1)


class Profiled(NamedTuple):
    """A profile that was killed twice, then completed, and its store."""

    done: "subprocess.CompletedProcess[str]"
    store: Path

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.done.stdout)
        return found


@pytest.fixture(scope="module")
def profiled(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    """It waits until other processes leave the cores alone."""
    store = tmp_path_factory.mktemp("profiled") / "store"
    words = (model, *WORDS, "--store", store)
    for rows in (0, 4):
        process = _started(*words)
        _wait_for(process, rows, store)
        process.kill()
        process.communicate()
    return Profiled(latte("profile", *words, "--require-complete", "--format", "json"), store)


@pytest.mark.alone
def test_a_network_is_profiled_and_the_next_command_named(profiled: Profiled, model: Path) -> None:
    assert profiled.done.returncode == 0, profiled.done.stderr
    document = profiled.document
    assert document["schema"] == "latte.profile/1"
    assert document["tasks_left"] == document["left"] == 0
    assert document["rows"]["ok"] > 30
    assert document["rows"]["unsupported"] > 5
    assert f"next: `latte estimate {model} --device" in profiled.done.stderr  # too few shapes for a selector
    again = json.loads(here("profile", model, *WORDS, "--store", profiled.store, "--format", "json").stdout)
    assert again["resumed"] == again["tasks"] == document["tasks"]
    assert again["rows"]["unsupported"] == 0


@pytest.mark.alone
def test_a_command_that_is_killed_goes_on_and_ends_with_each_task_exactly_once(profiled: Profiled) -> None:
    document = profiled.document
    assert document["resumed"] >= 4
    store = open_store(str(profiled.store), shipped=False)
    assert (store.device(document["device"]).context_bytes or 0) > 50 * 2**20
    rows = store.measurements(document["device"])
    times = Counter((row.task.id, row.sweep_pass) for row in rows)
    assert set(times.values()) == {1}
    assert sum(row.sweep_pass == 0 for row in rows) == document["tasks"]
    findings = store.check()
    assert findings.damaged == ()
    assert findings.rows - findings.duplicates == len(rows)


def test_a_budget_that_runs_out_keeps_what_was_measured() -> None:
    words = ("--suite", "convolutions", "--configs", 40, "--threads", 1, "--budget", "1s")
    done = here("profile", *words, "--format", "json")
    document = json.loads(done.stdout)
    assert document["tasks_left"] == document["left"] > 0
    rows = open_store(shipped=False).measurements(document["device"])
    assert len(rows) == sum(document["rows"].values()) > 0
    left = f"run the same command again: {document['tasks_left']} of {document['tasks']} tasks are left"
    assert done.stderr.index(left) < done.stderr.index("next: ")
    assert "train-selector" not in done.stderr  # of one layer or two there is nothing to learn


def test_who_requires_completeness_gets_code_4_for_a_budget_that_ended_first() -> None:
    done = here("profile", "--suite", "quick", "--threads", 1, "--budget", "1ms", "--require-complete", code=4)
    assert "error: the budget ended first\nhint: run the same command again: " in done.stderr
    assert "tasks measured" in done.stdout


def _started(*words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*LATTE, "profile", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )


def _wait_for(process: "subprocess.Popen[str]", rows: int, store: Path | None = None) -> None:
    """Until the journal of `process` holds so many rows."""
    give_up_at, opened = time.monotonic() + 120, open_store(store and str(store), shipped=False)
    while not any(journal.live and journal.rows >= rows for journal in opened.info().journals):
        assert process.poll() is None
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def test_interrupting_keeps_what_was_measured(model: Path) -> None:
    process = _started(model, "--phases", "forward", "--threads", 1)
    _wait_for(process, rows=2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines() == [
        "error: interrupted",
        "hint: what was finished is kept; the same command resumes",
    ]
    assert "Traceback" not in errors
    store = open_store(shipped=False)
    assert store.measurements(store.devices()[0].slug)


def test_a_dry_run_measures_nothing(model: Path) -> None:
    out = here("profile", model, "--dry-run", "--threads", 1).stdout
    assert "convolution" in out and "ends after 4 passes" in out
    assert "ends after 30 s" in here("profile", model, "--dry-run", "--threads", 1, "--budget", "30s").stdout
    assert open_store(shipped=False).devices() == ()


def test_a_dry_run_says_how_long_it_takes_and_what_is_left(model: Path) -> None:
    words = ("profile", model, "--threads", 1, "--suite", "network", "--format", "json")
    small, large = (json.loads(here(*words, "--dry-run", "--batch-size", size).stdout) for size in (1, 512))
    assert 0 < small["first_pass_s"] < large["first_pass_s"] < large["all_passes_s"]
    assert small["tasks_left"] == small["tasks"]
    here(*words, "--batch-size", 1, "--budget", "3s")
    table = here(*words[:-2], "--dry-run", "--batch-size", 1).stdout
    assert re.search(r"\d+ tasks, \d+ of them measured earlier", table)
    assert re.search(r"takes about \d+ (s|min) for the first pass, \d+ (s|min) for all 4", table)
    later = json.loads(here(*words, "--dry-run", "--batch-size", 1).stdout)
    assert later["tasks_left"] < small["tasks_left"]  # of seconds nothing: the peaks are measured each time


def test_a_network_is_measured_by_default_throughout_before_any_alternative() -> None:
    assert ProfileRequest(models=[Path("net.onnx")]).limits(CPU).together
    assert not ProfileRequest().limits(CPU).together


def _plan(path: Path, model: Path, slug: str) -> Path:
    """A plan that gives devices called `slug` half of the model at batch 3."""
    fleet_class = FleetClass(name="own", device=slug, samples=30, batch=3, up_bit_per_s=1e6, down_bit_per_s=1e6)
    network = load(model)
    half = catalogue(network, (0.5,))[0]
    entry = Round(sub_model=half, device=slug, memory_bytes=1, round_s=1.0, low_s=1.0, high_s=1.0, step_high_s=1.0)
    plan = Plan(round_duration_s=1.0, sub_models=(half,), devices=(plan_device(fleet_class, [entry], entry),))
    file = shared_out(plan, network, objective="catalogue", method=Method.NESTED)
    path.write_text(json.dumps(plan_document(file)), "utf-8")
    return path


@pytest.mark.alone
def test_what_a_plan_wants_of_this_device_is_measured(profiled: Profiled, model: Path, tmp_path: Path) -> None:
    slug = cpu_slug(1)
    plan = _plan(tmp_path / "plan.json", model, slug)
    here("profile", model, "--plan", plan, *WORDS[2:], "--store", profiled.store)
    store = open_store(str(profiled.store), shipped=False)
    measured = {each.task.layer for each in store.measurements(slug)}
    half = sub_model(load(model, batch_size=3), 0.5)
    assert {layer for layer in half.layers if not layer.free} <= measured


@pytest.mark.parametrize(("axis", "code"), [(1, 0), (0, 1)])
def test_what_a_plan_wants_is_read_with_the_batch_where_the_user_says(axis: int, code: int, tmp_path: Path) -> None:
    """Scores over five steps, which cannot be the batch; the plan's batch of 3 is not the file's."""
    weights = {"a.weight": np.ones((4, 8), np.float32), "b.weight": np.ones((8, 3), np.float32)}
    nodes = [N("MatMul", ["x", "a.weight"], ["h"]), N("Softmax", ["h"], ["r"], axis=0),
             N("MatMul", ["r", "b.weight"], ["y"])]  # fmt: skip
    model = tmp_path / "steps.onnx"
    model.write_bytes(made(nodes, {"x": (5, 2, 4)}, weights).SerializeToString())
    plan = _plan(tmp_path / "plan.json", model, cpu_slug(1))
    words = ("--plan", plan, "--threads", 1, "--batch-axis", axis, "--dry-run")
    done = here("profile", model, *words, code=code)
    assert ("`Softmax`" in done.stderr or "softmax" in done.stderr) == bool(code)


def test_a_plan_for_other_devices_or_models_is_named(model: Path, tmp_path: Path) -> None:
    plan = _plan(tmp_path / "plan.json", model, "arm-a76-4t")
    done = here("profile", model, "--plan", plan, "--threads", 1, code=1)
    assert done.stdout == ""
    assert "the plan has no sub-model for" in done.stderr
    assert "`arm-a76-4t`" in done.stderr
    assert "a plan is for one model" in here("profile", "--plan", plan, code=2).stderr
    other = tmp_path / "other.onnx"
    other.write_bytes(export("lenet", classes=7))
    assert "the plan is for another model" in here("profile", other, "--plan", plan, code=1).stderr


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--suite", "network"], 2, "the suite `network` needs model files"),
        (["--suite", "quick", "model.onnx"], 2, "takes no model files"),
        (["missing.onnx"], 1, "cannot read `missing.onnx`"),
        (["--budget", "soon"], 2, "`soon` is not a duration"),
        (["--phases", "forwards"], 2, "unknown phase `forwards`"),
        (["--device", "cqu"], 2, "unknown device `cqu`"),
        (["--threads", "4096"], 2, "4096 threads"),
        (["--widths", "2"], 2, "`2` is not a list of widths"),
        (["--store", "/proc/nowhere"], 1, "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(words: list[str], code: int, line: str) -> None:
    done = here("profile", *words, code=code)
    assert line in done.stderr
    assert done.stdout == ""
