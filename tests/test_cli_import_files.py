"""Devices that others measured: every command that takes a device answers for them, or says in a line why not."""

import json
import sys

import hints
import pytest
from test_importers import LATTE_ROWS, NEUSIGHT, written

from latte_cli import cli
from latte_cli.importers import ImportSource, import_file
from latte_cli.network.zoo import export
from latte_cli.store import open_store

AMD, LABELS, BENCHMARKS = "amd-gfx908-120cu", "latte-dataset", "some-gpu-80gb"
SOLVERS = "ConvGood:{},4096,miopenConvolutionFwdAlgoDirect;GemmFwdRest:{},32768,miopenConvolutionFwdAlgoGEMM"
FIND_DATABASE = "\n".join(
    f"{problem}-0-NCHW-FP32-{direction}={SOLVERS.format(time_ms, 2 * time_ms)}"
    for problem, directions in (
        ("3-64-64-7x7-64-32-32-2-3x3-2x2-1x1", {"F": 0.1}),
        ("64-16-16-3x3-64-16-16-2-1x1-1x1-1x1", {"F": 0.2, "B": 0.3, "W": 0.4}),
    )
    for direction, time_ms in directions.items()
)
"""The first convolution of ResNet-18 for images of 64 pixels, and the four that follow; in MIOpen's form."""

FLEET = "classes: [{class: a, device: DEVICE, samples: 8, batch: 2, bandwidth: {up: 5Mbit, down: 5Mbit}, memory: 2GiB}]"
STUDY = """\
model: custom_cnn
data: digits
rounds: 1
devices-per-round: 1
recipe: {batch: 8}
seeds: [1]
targets: [0.5]
tuning: {seed: 0, round-durations: [1], levels: [0.5]}
methods: [fedavg]
scenarios:
  - scenario: one
    classes: [{class: a, device: DEVICE, count: 1, bandwidth: {up: 5Mbit, down: 5Mbit}}]
"""
COMMANDS = [
    "estimate r.onnx --device DEVICE",
    "estimate r.onnx --device DEVICE --allow-unknown --strategy latte,tensorflow,fixed:GemmFwdRest",
    "estimate r.onnx --device DEVICE --allow-unknown --precision fp16",
    "estimate r.onnx --device DEVICE --allow-unknown --layout auto --memory-limit 2GiB",
    "estimate r.onnx --device DEVICE --allow-unknown --estimator flops",
    "estimate r.onnx --device DEVICE --allow-unknown --estimator roofline",
    "estimate r.onnx --device DEVICE --cuda-graph",
    "estimate r.onnx --device DEVICE --allow-unknown --measure-below 1",
    "explain r.onnx --device DEVICE",
    "explain r.onnx --device DEVICE --allow-unknown --what-if batch-size=4",
    "report r.onnx --device DEVICE -o OUT.html --allow-unknown",
    "report --device DEVICE -o OUT.html",
    "allocate r.onnx --fleet fleet.yaml --round-duration 1h --widths 1",
    "allocate r.onnx --fleet fleet.yaml --round-duration 9999999h --widths 1 --allow-unknown -o OUT.json",
    "train-selector --device DEVICE",
    "train-estimator --device DEVICE",
    "store devices",
    "store info",
    "store export DEVICE -o OUT.csv",
    "store compact DEVICE",
    "store check",
    "simulate study.yaml -o OUT",
    "tune r.onnx --device DEVICE -o OUT.json",
    "verify r.onnx --device DEVICE",
    "profile r.onnx --device DEVICE",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, and a store with a device of each kind of file that is imported."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "r.onnx").write_bytes(export("resnet18", batch_size=2, image_size=64))
    store = open_store(str(folder / "store"), shipped=False)
    import_file(written(folder / "gfx90878.HIP.fdb.txt", FIND_DATABASE), ImportSource.MIOPEN_FINDDB, store)
    import_file(written(folder / "truth.csv", LATTE_ROWS), ImportSource.LATTE_CSV, store)
    import_file(written(folder / "a100.csv", NEUSIGHT), ImportSource.NEUSIGHT_CSV, store)
    return folder


@pytest.fixture
def latte(place, tmp_path, capsys, monkeypatch):
    """Run a command on a device: its exit code, stdout and stderr."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("LATTE_STORE", str(place / "store"))

    def run(command, device=AMD):
        for name, content in (("fleet.yaml", FLEET), ("study.yaml", STUDY)):
            (place / name).write_text(content.replace("DEVICE", device))
        words = command.replace("DEVICE", device).replace("OUT", str(tmp_path / "out")).split()
        monkeypatch.setattr(sys, "argv", ["latte", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        hints.check(words, err)
        return caught.value.code or 0, out, err

    return run


@pytest.mark.parametrize("device", [AMD, LABELS, BENCHMARKS])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_answers_for_an_imported_device_or_says_why_not(latte, command, device):
    code, _, err = latte(command, device)
    failed = [line for line in err.splitlines() if line.startswith("error: ")]
    advised = [line for line in err.splitlines() if line.startswith("hint: ")]
    assert (len(failed), len(advised)) == ((0, 0) if code == 0 else (1, 1)), err


def test_what_a_find_database_holds_is_priced_and_the_rest_is_named(latte):
    code, out, _ = latte("estimate r.onnx --device DEVICE --allow-unknown --strategy exhaustive --format json")
    [estimate] = json.loads(out)["estimates"]
    measured = [each for each in estimate["layers"] if each["kind"] == "convolution" and each["source"] == "measured"]
    assert code == 0
    assert len(measured) == 1 + 4 * 3
    assert sum(each["time_s"] for each in measured) == pytest.approx(1e-3 * (0.1 + 4 * (0.2 + 0.3 + 0.4)))
    assert "bn1 forward (norm)" in estimate["missing"]
    code, out, _ = latte("explain r.onnx --device DEVICE --allow-unknown --format json")
    [case] = json.loads(out)["cases"]
    assert code == 0
    assert sum(call["best"]["source"] == "measured" for call in case["calls"]) == 1 + 4 * 3
    assert case["missing"] == estimate["missing"]


def test_a_report_names_what_it_leaves_out(latte, tmp_path):
    code, _, err = latte("report r.onnx --device DEVICE --allow-unknown -o OUT.html")
    assert code == 0, err
    assert "left out: bn1 forward (norm)" in (tmp_path / "out.html").read_text("utf-8")


@pytest.mark.parametrize("command", ["estimate r.onnx", "explain r.onnx", "report r.onnx -o OUT.html"])
def test_without_allow_unknown_what_is_not_known_is_an_error_with_a_way_out(latte, command):
    code, out, err = latte(f"{command} --device DEVICE")
    assert (code, out) == (1, "")
    assert f"`{AMD}` has no measurements that tell the time of bn1 forward (norm)" in err
    assert "`--allow-unknown` leaves them out" in err


def test_the_next_command_of_an_imported_device_answers(latte):
    _, _, err = latte("store devices")
    assert f"next: `latte estimate MODEL --device {AMD} --allow-unknown`" in err
