import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from made_choices import DEVICE, profile
from running import here
from terminal import on_terminal

from latte_cli import selector as selectors
from latte_cli.devices import CPU, Device
from latte_cli.store import Store, open_store

LAPTOP = Device(slug="lap", kind=CPU, name="a laptop")


@pytest.fixture
def store() -> Store:
    """The store that $LATTE_STORE names, with the rows of one device."""
    store = open_store(shipped=False)
    fill(store, DEVICE)
    return store


def fill(store: Store, device: Device, rows: int | None = None) -> None:
    with store.writer(device) as writer:
        for measurement in profile(device)[:rows]:
            writer.append(measurement)


run = partial(here, "train-selector")


def test_the_selector_lies_where_estimates_look_for_it(store: Store) -> None:
    done = run("--folds", "2")
    found = selectors.find(store, "desk")
    assert found is not None
    assert found.card.scores
    methods = ("selector", "majority class", "framework default", "oracle")
    assert all(method in done.stdout for method in methods)
    assert "choosing for 53 convolutions in 3 phases takes" in done.stdout
    assert "next: `latte estimate" in done.stderr


def test_a_device_with_a_long_name_leaves_one_line_to_each_score() -> None:
    device = Device(slug="amd-epyc-family-26-model-2-2c-2t", kind=CPU, name="a server")
    fill(open_store(shipped=False), device)
    shown = on_terminal("train-selector", "--folds", "2")
    assert shown.returncode == 0
    scores = [line.rstrip() for line in shown.text.splitlines() if " % " in line and " fp32 " in line]
    assert scores
    assert all(len(line) <= 80 for line in scores)
    assert f"choices on {device.slug}" in shown.text


def test_json_has_the_agreed_keys_and_the_same_scores_as_csv(store: Store, tmp_path: Path) -> None:
    arguments = ("--device", "desk", "--folds", "2", "--output", str(tmp_path))
    document = json.loads(run(*arguments, "--format", "json").stdout)
    assert document.keys() == {
        *("schema", "results", "learning_curve", "calibration_error", "importance", "prediction_s")
    }
    assert document["prediction_s"] > 0
    assert 0 <= document["calibration_error"] <= 1
    assert {tuple(point) for point in document["learning_curve"]} == {("layers", "top1", "regret_geomean")}
    assert document["schema"] == "latte.selector-evaluation/1"
    keys = ["device", "phase", "precision", "method", "top1", "within_5pct", "regret_geomean", "regret_p95"]
    keys += ["regret_p99", "regret_total_time", "layers", "limit_bytes"]
    assert all(list(result) == keys for result in document["results"])
    assert {result["phase"] for result in document["results"]} == {"forward", "all"}
    rows = list(csv.DictReader(StringIO(run(*arguments, "--format", "csv").stdout)))
    assert rows == [
        {key: "" if value is None else str(value) for key, value in result.items()} for result in document["results"]
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["selector-desk"]
    assert selectors.find(store, "desk") is None


def test_other_hash_seeds_and_threads_make_the_same_files(store: Store, tmp_path: Path) -> None:
    for seed, threads in (("1", "1"), ("2", "2")):
        command = [sys.executable, "-m", "latte_cli", "train-selector", "--folds", "2", "--output", tmp_path / seed]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads}, check=True)
    first, second = (contents(tmp_path / seed) for seed in ("1", "2"))
    assert len(first) > 1
    assert first == second


def contents(folder: Path) -> dict[Path, bytes | dict[str, Any]]:
    """The files in a folder; a card without the moment at which it was made."""
    found: dict[Path, bytes | dict[str, Any]] = {}
    for path in folder.rglob("*.*"):
        if path.name != "card.json":
            found[path.relative_to(folder)] = path.read_bytes()
            continue
        card = json.loads(path.read_bytes())
        assert card.pop("made_at") > 0
        found[path.relative_to(folder)] = card
    return found


def test_devices_are_learned_together_or_as_asked(store: Store, tmp_path: Path) -> None:
    fill(store, LAPTOP)
    run("--folds", "2")
    assert store.models_dir is not None
    assert selectors.load_selector(store.models_dir / "selector-all").card.devices == ["desk", "lap"]
    run("--folds", "2", "--device", "lap")
    assert selectors.load_selector(store.models_dir / "selector-lap").card.devices == ["lap"]


def test_a_store_without_rows_names_the_next_command() -> None:
    error = run("--store", "empty", code=1).stderr
    assert "error: " in error
    assert "latte profile" in error


def test_too_few_rows_name_the_next_command() -> None:
    fill(open_store(shipped=False), DEVICE, rows=12)
    done = run(code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("error: too few rows to learn from: 4 different convolutions")
    assert "hint: `latte profile" in done.stderr


def test_an_unknown_device_gets_its_near_match(store: Store) -> None:
    assert "did you mean `desk`?" in run("--device", "dezk", code=1).stderr


def test_an_output_that_cannot_be_written_is_one_line(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = run("--folds", "2", "--output", str(tmp_path / "file"), code=1).stderr
    assert "cannot write the selector" in error


def test_limits_of_workspace_and_the_kind_of_model_can_be_asked_for(store: Store) -> None:
    done = run("--folds", "2", "--workspace-limit", "256KiB")
    assert "selector within 256 KiB" in done.stdout
    assert "what tells most: " in done.stdout
    assert "did you mean `mlp`?" in run("--kind", "mlpp", code=2).stderr


def test_later_passes_judge_what_the_first_one_taught(store: Store) -> None:
    with store.writer(DEVICE) as writer:
        for measurement in profile(DEVICE):
            writer.append(replace(measurement, sweep_pass=1))
    done = run("--folds", "2")
    assert "another pass" in done.stdout
    assert "judged by later ones (36 choices)" in done.stdout


def test_a_malformed_command_line_ends_with_code_two(store: Store) -> None:
    run("--folds", "1", code=2)
    run("--seed", "-1", code=2)
