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
from hints import commands
from running import ended
from test_cli_import_files import FIND_DATABASE
from test_importers import LATTE_ROWS, NEUSIGHT, written

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
SMALL_FLEET = f"""\
classes:
  - {{class: desktop, device: {CPU}, count: 8, samples: 400, batch: 8, memory: 4GiB,
     bandwidth: {{up: 20Mbit, down: 100Mbit}}}}
  - {{class: camera, device: {CPU}, count: 3, samples: 1600, batch: 8, memory: 4GiB,
     bandwidth: {{up: 1Mbit, down: 1Mbit}}}}
"""
PRICES = f"""\
currency: EUR
devices:
  {GPU}: {{per_hour: 3.5}}
  {CPU}: {{per_kwh: 0.3, power: 65W}}
"""
DEVICES = "device,class,samples,memory_bytes\na,desktop,400,\nb,desktop,4000,\nc,desktop,,1000\n"
# Sums of logarithms and exponentials differ in the last bits between processors.
RELATIVE = 1e-9

JSON = ("--format", "json")
ESTIMATE_CPU = ("--batch-size", "8", "--device", CPU, *JSON)
ESTIMATE_GPU = ("--batch-size", "128", "--device", GPU, *JSON)
BOTH = ("--batch-size", "8", "--device", f"{GPU},{CPU}", "--samples", "1.2M", "--epochs", "90")
ALLOCATE = ("allocate", "resnet8.onnx", "--fleet", "fleet.yaml", "--widths", "1,0.5", *JSON)
SMALL = ("allocate", "lenet.onnx", "--fleet", "small.yaml", "--widths", "1,0.5")
BLOCKS = ("allocate", "resnet8.onnx", "--fleet", "small.yaml", "--widths", "1,0.5")
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
    "estimate-ranking": ("estimate", "lenet.onnx", *BOTH, *JSON),
    "compare": ("compare", "lenet.onnx", "custom_cnn.onnx", *BOTH, "--prices", "prices.yaml", *JSON),
    "explain": ("explain", "custom_cnn.onnx", *ESTIMATE_CPU),
    "explain-what-if": ("explain", "lenet.onnx", *ESTIMATE_CPU, "--what-if", "batch-size=16,workspace-limit=1MiB"),
    "explain-gpu": ("explain", "custom_cnn.onnx", *ESTIMATE_GPU),
    "allocate": ALLOCATE,
    "allocate-depths": (*BLOCKS, "--depths", "1,0.5", "--round-duration", "6s", "--channels", "rolling", *JSON),
    "allocate-fine": (*ALLOCATE, "--fine", "--channels", "least-trained", "-o", "plan.json", "--force"),
    "allocate-parameters": (*BLOCKS, "--fine", "--objective", "parameters", "--round-duration", "6s", *JSON),
    "allocate-curve": (*SMALL, "--curve", *JSON),
    "allocate-capacity": (*SMALL, "--target-capacity", "60%", *JSON),
    "plan-show": ("plan", "show", "plan.json", *JSON),
    "plan-check": ("plan", "check", "plan.json", "resnet8.onnx", *JSON),
    "allocate-devices": (*SMALL, "--round-duration", "3s", "--devices", "devices.csv", *JSON),
    "allocate-small": (*SMALL, "--round-duration", "3s", *JSON, "-o", "small.json", "--force"),
    "plan-diff": ("plan", "diff", "plan.json", "small.json", *JSON),
    "report": (
        *("report", "lenet.onnx", "--batch-size", "8", "--device", CPU, "--strategy", "pytorch"),
        *("--plan", "plan.json", "-o", "report.html", "--force"),
    ),
    "store-devices": ("store", "devices", *JSON),
    "store-info": ("store", "info", "--store", "none", *JSON),
    "store-check": ("store", "check", "--store", "none", *JSON),
    "import-latte-csv": ("import", "latte-csv", "latte.csv", "--store", "for-json", *JSON),
    "import-miopen-finddb": ("import", "miopen-finddb", "gfx908.txt", "--name", "gfx908", "--store", "for-json", *JSON),
    "import-neusight-csv": ("import", "neusight-csv", "neusight.csv", "--store", "for-json", *JSON),
    "zoo-list": ("zoo", "list", *JSON),
}
ON_CPU = ("lenet.onnx", "--batch-size", "8", "--device", CPU)
TABLES: dict[str, tuple[str, ...]] = {
    "estimate": ("estimate", *ON_CPU, "--memory", "--samples", "50000", "--upload", "20Mbit"),
    "estimate-strategies": ("estimate", *ON_CPU, "--strategy", "pytorch,exhaustive"),
    "estimate-ranking": ("estimate", "lenet.onnx", *BOTH, "--prices", "prices.yaml"),
    "compare": ("compare", "lenet.onnx", "custom_cnn.onnx", "--batch-size", "8", "--device", CPU),
    "explain": ("explain", *ON_CPU),
    "explain-one": ("explain", *ON_CPU, "--strategy", "pytorch"),
    "allocate": (*SMALL, "--round-duration", "3s"),
    "allocate-curve": (*SMALL, "--curve"),
    "allocate-devices": (*SMALL, "--round-duration", "3s", "--devices", "devices.csv"),
    "plan-show": ("plan", "show", "plan.json"),
    "plan-check": ("plan", "check", "small.json", "lenet.onnx"),
    "plan-diff": ("plan", "diff", "plan.json", "small.json"),
    "store-devices": ("store", "devices"),
    "store-info": ("store", "info", "--store", "none"),
    "store-check": ("store", "check", "--store", "none"),
    "import-latte-csv": ("import", "latte-csv", "latte.csv", "--store", "for-table"),
    "import-miopen-finddb": ("import", "miopen-finddb", "gfx908.txt", "--name", "gfx908", "--store", "for-table"),
    "import-neusight-csv": ("import", "neusight-csv", "neusight.csv", "--store", "for-table"),
    "zoo-list": ("zoo", "list"),
}
NEITHER = {
    "doctor": "says what this machine has",
    "devices": "lists the data sheets, which grow",
    "import torch-trace": "reads what torch measures anew",
    "profile": "measures this machine",
    "simulate": "trains, which differs between processors",
    "store compact": "has no result but a note",
    "store export": "writes rows with the moment at which they were made",
    "store merge": "has no result but a note",
    "train-estimator": "fits trees to the rows of a machine",
    "train-selector": "times its choices",
    "tune": "runs real steps",
    "verify": "runs real steps",
    "zoo export": "writes a file",
}
"""The commands of which nothing is frozen, and why."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the models, the fleet and the plan that the commands name."""
    path = tmp_path_factory.mktemp("frozen")
    with contextlib.chdir(path), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        (path / "fleet.yaml").write_text(FLEET)
        (path / "small.yaml").write_text(SMALL_FLEET)
        (path / "devices.csv").write_text(DEVICES)
        (path / "prices.yaml").write_text(PRICES)
        (path / "gfx908.txt").write_text(FIND_DATABASE)
        written(path / "latte.csv", LATTE_ROWS)
        written(path / "neusight.csv", NEUSIGHT)
        for name in ("custom_cnn", "lenet", "resnet8"):
            _printed("zoo", "export", name, f"{name}.onnx")
        for plan, name in (("plan.json", "allocate-fine"), ("small.json", "allocate-small")):
            if (FROZEN / f"{name}.json").exists():
                (path / plan).write_bytes((FROZEN / f"{name}.json").read_bytes())
        yield path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_what_it_printed_before(name: str, folder: Path) -> None:
    printed = _printed(*COMMANDS[name])
    result = _text_of_page(folder / "report.html") if name == "report" else json.loads(printed)
    if isinstance(result, dict):
        result.pop("version", None)  # of LATTE, which a release changes
        for side in (*result.get("sides", ()), *result.get("ranking", ())):
            side["version"] = ""
    expected = FROZEN / f"{name}.json"
    if os.environ.get("LATTE_GOLDEN"):
        expected.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    assert not list(_differences(result, json.loads(expected.read_text())))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_in_a_pipe_is_what_it_was_before(name: str, folder: Path) -> None:
    printed = _printed(*TABLES[name])
    expected = FROZEN / f"{name}.txt"
    if os.environ.get("LATTE_GOLDEN"):
        expected.write_text(printed)
    assert printed == expected.read_text()


def test_of_every_command_a_table_and_json_are_frozen_or_it_says_why_not() -> None:
    def frozen(words: tuple[str, ...]) -> str:
        return next(name for name in (" ".join(words[:2]), words[0]) if name in commands())

    tables, documents = ({frozen(words) for words in table.values()} for table in (TABLES, COMMANDS))
    assert tables | {"report"} == documents
    assert documents.isdisjoint(NEITHER)
    assert documents | NEITHER.keys() == commands().keys()


def _printed(*arguments: str) -> str:
    """What `latte` prints, with `FOLDER` for where it runs; a threshold that is exceeded comes after the result."""
    done = ended(*arguments)
    assert done.returncode in (0, 3), done.stderr
    return done.stdout.replace(str(Path.cwd()), "FOLDER")


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
