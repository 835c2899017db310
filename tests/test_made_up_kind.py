"""A kind of device that the package has never heard of goes through every command, by its own file alone."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from running import here

from latte_cli.backends import OPENERS
from latte_cli.devices import KINDS

TESTS = Path(__file__).parent
LATTE = f"import sys; sys.path.insert(0, {str(TESTS)!r}); import made_up_kind; from latte_cli.cli import main; main()"
FLEET = """\
classes:
  - {class: first, device: abacus-0, count: 3, samples: 64, batch: 8, bandwidth: {up: 1Gbit, down: 1Gbit}}
  - {class: second, device: "abacus:1", count: 2, samples: 6400, batch: 8, bandwidth: {up: 10Mbit, down: 10Mbit}}
"""


@pytest.fixture(scope="module", autouse=True)
def _known() -> Iterator[None]:
    """This process knows the kind, for these tests alone: to import it at the top would tell all others of it."""
    import made_up_kind  # noqa: F401

    yield
    del OPENERS["abacus"], KINDS["abacus"]


def latte(folder: Path, *arguments: object) -> str:
    """What `latte` prints in this process, with a store in `folder`."""
    with chdir(folder):
        return here(*arguments).stdout


def as_json(folder: Path, *arguments: object) -> dict[str, Any]:
    return dict(json.loads(latte(folder, *arguments, "--store", folder / "store", "--format", "json")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a store in which both abaci were profiled, the second one by convolutions too."""
    path = tmp_path_factory.mktemp("abacus")
    latte(path, "zoo", "export", "custom_cnn", "model.onnx")
    (path / "fleet.yaml").write_text(FLEET)
    assert as_json(path, "profile", "model.onnx", "--batch-size", 8, "--device", "abacus")["device"] == "abacus-0"
    as_json(path, "profile", "model.onnx", "--batch-size", 8, "--device", "abacus:1")
    as_json(path, "profile", "--suite", "convolutions", "--configs", 30, "--device", "abacus:1")
    return path


def test_an_estimate_rests_on_what_was_measured_of_it(folder: Path) -> None:
    (plain,) = as_json(folder, "estimate", "model.onnx", "--batch-size", 8, "--device", "abacus")["estimates"]
    assert plain["device"] == "abacus-0"
    assert {layer["source"] for layer in plain["layers"]} == {"measured"}
    asked = ("estimate", "model.onnx", "--batch-size", 8, "--device", "abacus", "--cuda-graph")
    (graph,) = as_json(folder, *asked)["estimates"]
    assert graph["totals"]["step_s"] < plain["totals"]["step_s"]  # it waits for its host, and captures graphs


def test_a_selector_learns_its_algorithms(folder: Path) -> None:
    assert as_json(folder, "train-selector", "--device", "abacus-1", "--folds", 2)
    (found,) = as_json(folder, "estimate", "model.onnx", "--batch-size", 16, "--device", "abacus-1")["estimates"]
    assert {layer["algorithm"] for layer in found["layers"]} & {"ROWS", "COLUMNS", "TILES"}


def test_a_fleet_of_it_has_a_plan(folder: Path) -> None:
    asked = ("allocate", "model.onnx", "--fleet", "fleet.yaml", "--round-duration", "1h", "--widths", "1,0.5")
    assert len(as_json(folder, *asked)["devices"]) == 2


def test_a_report_speaks_of_it(folder: Path) -> None:
    latte(folder, "report", "-o", "page.html", "--device", "abacus-0", "--store", folder / "store")
    assert "An abacus" in (folder / "page.html").read_text()


def test_a_process_that_imports_its_file_knows_it() -> None:
    command = [sys.executable, "-c", LATTE, "doctor", "--device", "abacus"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "wooden" in done.stdout
