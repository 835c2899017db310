"""What commands print of the shipped profiles stays what it is, to the last digit; `make golden` writes it anew."""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import ended

FROZEN = Path(__file__).parent / "frozen"
CPU = "reference-amd-epyc-family-26-model-2-2c-2t"
GPU = "nvidia-h200-reference"
FLEET = f"""\
round_duration: 3s
classes:
  - {{class: server, device: {GPU}, count: 2, samples: 5000, batch: 32, precision: tf32,
     bandwidth: {{up: 1Gbit, down: 1Gbit}}}}
  - {{class: desktop, device: {CPU}, count: 8, samples: 400, batch: 8, memory: 4GiB, overhead: 500ms,
     bandwidth: {{up: 20Mbit, down: 100Mbit}}}}
"""
# Sums of logarithms and exponentials differ in the last bits between processors.
RELATIVE = 1e-9

JSON = ("--format", "json")
ESTIMATE_CPU = ("--batch-size", "8", "--device", CPU, *JSON)
ESTIMATE_GPU = ("--batch-size", "128", "--device", GPU, *JSON)
ALLOCATE = ("allocate", "resnet8.onnx", "--fleet", "fleet.yaml", "--widths", "1,0.5", *JSON)
COMMANDS: dict[str, tuple[str, ...]] = {
    "estimate": ("estimate", "custom_cnn.onnx", *ESTIMATE_CPU),
    "estimate-strategies": ("estimate", "lenet.onnx", *ESTIMATE_CPU, "--strategy", "pytorch,exhaustive,deterministic"),
    "estimate-layout": ("estimate", "lenet.onnx", *ESTIMATE_CPU, "--layout", "auto"),
    "estimate-limits": (
        *("estimate", "custom_cnn.onnx", *ESTIMATE_CPU),
        *("--memory-limit", "64MiB", "--workspace-limit", "1MiB", "--memory"),
    ),
    "estimate-training": (
        *("estimate", "lenet.onnx", *ESTIMATE_CPU, "--optimizer", "adamw", "--loss", "mse", "--accumulate", "4"),
        *("--freeze", "conv1*", "--samples", "50000", "--epochs", "3", "--upload", "20Mbit", "--loading-rate", "500"),
    ),
    "estimate-xgboost": ("estimate", "lenet.onnx", *ESTIMATE_CPU, "--estimator", "xgboost"),
    "estimate-roofline": ("estimate", "lenet.onnx", *ESTIMATE_CPU, "--estimator", "roofline"),
    "estimate-beta": ("estimate", "lenet.onnx", *ESTIMATE_CPU, "--estimator", "beta"),
    "estimate-flops": ("estimate", "lenet.onnx", *ESTIMATE_GPU, "--estimator", "flops"),
    "estimate-trace": ("estimate", "lenet.onnx", "--batch-size", "8", "--device", CPU, "--format", "trace"),
    "estimate-gpu": ("estimate", "custom_cnn.onnx", *ESTIMATE_GPU, "--precision", "tf32"),
    "estimate-gpu-strategies": (
        *("estimate", "lenet.onnx", *ESTIMATE_GPU, "--strategy", "pytorch-benchmark,tensorflow,xla,mindspore"),
    ),
    "estimate-gpu-graph": ("estimate", "lenet.onnx", *ESTIMATE_GPU, "--cuda-graph", "--precision", "bf16_autocast"),
    "estimate-gpu-trace": ("estimate", "lenet.onnx", "--batch-size", "8", "--device", GPU, "--format", "trace"),
    "explain": ("explain", "custom_cnn.onnx", *ESTIMATE_CPU),
    "explain-what-if": ("explain", "lenet.onnx", *ESTIMATE_CPU, "--what-if", "batch-size=16,workspace-limit=1MiB"),
    "explain-gpu": ("explain", "custom_cnn.onnx", *ESTIMATE_GPU),
    "allocate": ALLOCATE,
    "allocate-depths": (*ALLOCATE, "--depths", "1,0.5", "--round-duration", "2s", "--channels", "rolling"),
    "allocate-fine": (*ALLOCATE, "--fine", "--channels", "least-trained", "-o", "plan.json"),
    "allocate-parameters": (*ALLOCATE, "--fine", "--objective", "parameters", "--round-duration", "2s"),
    "allocate-curve": (*ALLOCATE, "--curve"),
    "allocate-capacity": (*ALLOCATE, "--target-capacity", "60%"),
    "plan-show": ("plan", "show", "plan.json", *JSON),
    "plan-check": ("plan", "check", "plan.json", "resnet8.onnx", *JSON),
    "report": (
        *("report", "lenet.onnx", "--batch-size", "8", "--device", GPU, "--strategy", "pytorch"),
        *("--plan", "plan.json", "-o", "report.html"),
    ),
    "store-devices": ("store", "devices", *JSON),
    "zoo-list": ("zoo", "list", *JSON),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the models, the fleet and the plan that the commands name."""
    path = tmp_path_factory.mktemp("frozen")
    with contextlib.chdir(path), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATTE_STORE", str(path / "store"))
        (path / "fleet.yaml").write_text(FLEET)
        for name in ("custom_cnn", "lenet", "resnet8"):
            _printed("zoo", "export", name, f"{name}.onnx")
        _printed(*COMMANDS["allocate-fine"])
        yield path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_what_it_printed_before(name: str, folder: Path) -> None:
    arguments = COMMANDS[name]
    printed = _printed(*arguments, *(("--force",) if name in ("allocate-fine", "report") else ()))
    result = _text_of_page(folder / "report.html") if name == "report" else json.loads(printed)
    expected = FROZEN / f"{name}.json"
    if os.environ.get("LATTE_GOLDEN"):
        expected.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    assert not list(_differences(result, json.loads(expected.read_text())))


def _printed(*arguments: str) -> str:
    """What `latte` prints; a threshold that is exceeded comes after the result."""
    done = ended(*arguments)
    assert done.returncode in (0, 3), done.stderr
    return done.stdout


def _text_of_page(path: Path) -> list[str]:
    """The words of a page outside its pictures and styles."""
    text = re.sub(r"<(svg|style|script)\b.*?</\1>", " ", path.read_text(), flags=re.DOTALL)
    return re.sub(r"<[^>]+>", " ", text).split()


def _differences(one: Any, other: Any, place: str = "$") -> Iterator[str]:
    """Where two documents differ, numbers by more than rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            if key not in one or key not in other:
                yield f"{place}.{key} is only in one"
            else:
                yield from _differences(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _differences(a, b, f"{place}[{at}]")
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=RELATIVE):
            yield f"{place}: {one!r} is not {other!r}"
    elif one != other:
        yield f"{place}: {one!r} is not {other!r}"
