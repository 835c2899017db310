"""`latte zoo` end to end."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import here, latte

from latte_cli.network import load
from latte_cli.network.zoo import ZOO


def test_the_list_names_every_network_in_every_format() -> None:
    table, as_json, as_csv = (here("zoo", "list", "--format", kind) for kind in ("table", "json", "csv"))
    assert [line.split()[0] for line in table.stdout.splitlines()[1:]] == list(ZOO)
    document = json.loads(as_json.stdout)
    assert document["schema"] == "latte.zoo/1"
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert [row["name"] for row in rows] == [row["name"] for row in document["models"]] == list(ZOO)
    resnet18 = next(row for row in document["models"] if row["name"] == "resnet18")
    assert (resnet18["parameters"], resnet18["image_size"]) == (11_689_512, 224)
    assert 3.6e9 < resnet18["flops_per_image"] < 3.7e9
    assert "next: `latte zoo export" in table.stderr


def test_an_export_is_read_back_and_names_the_next_command(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    done = latte("zoo", "export", "resnet8", str(file), "--batch-size", "4", "--image-size", "64", "--classes", "7")
    assert done.stdout == ""
    assert f"latte estimate {file}" in done.stderr
    network = load(file)
    assert network.inputs == (("input", (4, 3, 64, 64)),)
    assert network.shapes[network.outputs[0]] == (4, 7)


def test_a_file_is_overwritten_by_force_only(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_text("mine")
    refused = here("zoo", "export", "lenet", file, code=1)
    assert file.read_text() == "mine"
    assert "hint: `--force` overwrites it" in refused.stderr
    here("zoo", "export", "lenet", file, "--force")
    assert load(file).parameters == 61_706
    assert os.listdir(tmp_path) == ["model.onnx"]  # noqa: PTH208 - hidden files too


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("resnet81", "m.onnx"), 1, "unknown model `resnet81`"),
        (("lenet", "no/such/folder/m.onnx"), 1, "cannot write `no/such/folder/m.onnx`"),
        (("lenet", ".", "--force"), 1, "is not a file to write to"),
        (("alexnet", "m.onnx", "--image-size", "8"), 1, "images of 8 pixels"),
        (("lenet", "m.onnx", "--batch-size", "0"), 2, "--batch-size"),
    ],
)
def test_a_wrong_request_is_one_line_and_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in here("zoo", "export", *arguments, code=code).stderr
    assert not list(tmp_path.iterdir())


def test_neither_command_loads_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from latte_cli.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "sys.exit(str(sorted({'torch', 'pandas', 'xgboost', 'sklearn'} & set(sys.modules))))"
    )
    for arguments in (("zoo", "list"), ("zoo", "export", "lenet", str(tmp_path / "m.onnx"))):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert done.stderr.strip().endswith("[]")
