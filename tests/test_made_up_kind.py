"""A kind of device that the package has never heard of goes through every command, by its own file alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("made_up_kind.py")
FLEET = """\
classes:
  - {class: first, device: abacus-0, count: 3, samples: 64, batch: 8, bandwidth: {up: 1Gbit, down: 1Gbit}}
  - {class: second, device: "abacus:1", count: 2, samples: 6400, batch: 8, bandwidth: {up: 10Mbit, down: 10Mbit}}
"""


def latte(*arguments: object, folder: Path) -> str:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a store in which both abaci were profiled, one by the model, one by a suite."""
    path = tmp_path_factory.mktemp("abacus")
    latte("zoo", "export", "custom_cnn", "model.onnx", folder=path)
    (path / "fleet.yaml").write_text(FLEET)
    own = ("--store", path / "store", "--format", "json")
    swept = json.loads(latte("profile", "model.onnx", "--batch-size", 8, "--device", "abacus", *own, folder=path))
    assert swept["device"] == "abacus-0"
    latte("profile", "--suite", "convolutions", "--configs", 60, "--device", "abacus:1", *own, folder=path)
    latte("profile", "model.onnx", "--batch-size", 8, "--device", "abacus:1", *own, folder=path)
    return path


def as_json(folder: Path, *arguments: object) -> dict[str, object]:
    return dict(json.loads(latte(*arguments, "--store", folder / "store", "--format", "json", folder=folder)))


def test_an_estimate_rests_on_what_was_measured_of_it(folder: Path) -> None:
    found = as_json(folder, "estimate", "model.onnx", "--batch-size", 8, "--device", "abacus")
    (estimate,) = found["estimates"]  # type: ignore[misc]
    assert estimate["device"] == "abacus-0"
    assert {layer["source"] for layer in estimate["layers"]} == {"measured"}


def test_it_waits_for_its_host_and_captures_graphs(folder: Path) -> None:
    (plain,), (graph,) = (
        as_json(folder, "estimate", "model.onnx", "--batch-size", 8, "--device", "abacus", *more)["estimates"]  # type: ignore[misc]
        for more in ((), ("--cuda-graph",))
    )
    assert graph["totals"]["step_s"] < plain["totals"]["step_s"]


def test_a_selector_learns_its_algorithms(folder: Path) -> None:
    assert as_json(folder, "train-selector", "--device", "abacus-1", "--folds", 2)
    found = as_json(folder, "estimate", "model.onnx", "--batch-size", 16, "--device", "abacus-1")
    (estimate,) = found["estimates"]  # type: ignore[misc]
    assert {layer["algorithm"] for layer in estimate["layers"]} & {"ROWS", "COLUMNS", "TILES"}


def test_a_fleet_of_it_has_a_plan(folder: Path) -> None:
    plan = as_json(
        folder, "allocate", "model.onnx", "--fleet", "fleet.yaml", "--round-duration", "1h", "--widths", "1,0.5"
    )
    assert len(plan["devices"]) == 2  # type: ignore[arg-type]


def test_a_report_and_the_doctor_speak_of_it(folder: Path) -> None:
    latte("report", "-o", "page.html", "--device", "abacus-0", "--store", folder / "store", folder=folder)
    assert "An abacus" in (folder / "page.html").read_text()
    assert "wooden" in latte("doctor", "--device", "abacus", folder=folder)
