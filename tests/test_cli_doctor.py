"""`latte doctor` end to end."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import hints
import pytest
from stand_ins import TORCH_WITH_GPU, write_libraries

from latte_cli.backends.telemetry import gpu_count
from latte_cli.cli.console import with_installer

NO_GPU = pytest.mark.skipif(gpu_count() > 0, reason="this machine has a GPU")
LATTE = [sys.executable, "-m", "latte_cli"]


def latte(*arguments: str, libraries: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What `latte` did in a separate process; `libraries` is a folder whose modules it imports first."""
    path = os.pathsep.join([str(libraries), *sys.path] if libraries else sys.path)
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run(
        [*LATTE, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    hints.check(arguments, done.stderr)
    return done


def test_the_table_names_what_there_is_and_the_next_command(tmp_path: Path) -> None:
    done = latte("doctor", "--device", "cpu", libraries=write_libraries(tmp_path))
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.split() == ["what", "state", "what", "there", "is"]
    assert [line.split()[0] for line in lines[:3]] == ["processor", "memory", "Python"]
    assert "\nwhere\n  Python: " in done.stdout
    assert done.stdout.endswith("can be measured here\n  cpu: yes\n")
    assert done.stderr == "next: `latte profile --device cpu --budget 2m`\n"


def test_json_has_its_schema_and_csv_the_same_findings(tmp_path: Path) -> None:
    libraries = write_libraries(tmp_path)
    as_json, as_csv = (
        latte("doctor", "--device", "cpu", "--format", form, libraries=libraries) for form in ("json", "csv")
    )
    document = json.loads(as_json.stdout)
    assert (document["schema"], document["usable"]) == ("latte.doctor/1", {"cpu": True})
    assert set(document["findings"][0]) == {"subject", "state", "text", "path", "hint", "device"}
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert rows == document["findings"]


@NO_GPU
def test_a_machine_without_a_gpu_is_told_what_is_missing_and_passes() -> None:
    done = latte("doctor", "--format", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["usable"] == {"cpu": True, "cuda": False}
    wanting = [finding for finding in document["findings"] if finding["device"] == "cuda" and finding["state"] != "ok"]
    assert wanting
    assert "--device cpu" in done.stderr


@NO_GPU
def test_a_device_that_cannot_be_measured_is_an_error_with_a_hint_after_the_findings(
    tmp_path: Path,
) -> None:
    done = latte("doctor", "--device", "cuda", libraries=write_libraries(tmp_path))
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: `cuda` cannot be measured here: ")
    assert hint.startswith("hint: ")
    assert "cuda: no" in done.stdout


def test_a_torch_that_aborts_is_a_finding_and_not_the_end_of_the_doctor(tmp_path: Path) -> None:
    write_libraries(tmp_path, "import os\nos.write(2, b'double free\\n')\nos.abort()\n")
    done = latte("doctor", "--device", "cpu", "--format", "json", libraries=tmp_path)
    assert done.returncode == 1
    torch = next(finding for finding in json.loads(done.stdout)["findings"] if finding["subject"] == "torch")
    assert (torch["state"], torch["text"]) == ("broken", "ended by SIGABRT: double free")
    assert "error: `cpu` cannot be measured here: torch: ended by SIGABRT: double free" in done.stderr
    assert "hint: `pip install --force-reinstall torch`" in done.stderr


def test_a_path_is_never_cut_in_a_pipe(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    (folder / "libcudnn_cnn.so.9").write_text("not a library")
    done = latte("doctor", libraries=write_libraries(tmp_path), LATTE_CUDNN=str(folder), COLUMNS="40")
    assert str(folder) in done.stdout
    assert "cuDNN" in done.stdout


def test_an_unknown_device_is_a_usage_error_with_the_nearest_one() -> None:
    done = latte("doctor", "--device", "cdua")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown device `cdua`\nhint: did you mean `cuda`?\n"


@NO_GPU
def test_a_gpu_that_torch_has_no_code_for_is_said_to_be_the_cause(tmp_path: Path) -> None:
    done = latte("doctor", "--device", "cuda", "--format", "json", libraries=write_libraries(tmp_path, TORCH_WITH_GPU))
    assert done.returncode == 1, done.stderr
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["torch for CUDA"]["text"] == "built for CUDA 12.6"
    assert found["oneDNN"]["text"] == "3.7.1"
    assert found["GPU 0"]["text"] == "GeForce GTX 780, 3.0 GiB, compute capability 3.5"
    assert found["code for GPU 0"]["state"] == "broken"
    assert "torch has no kernels for compute capability 3.5, only sm_50 sm_90" in done.stderr
    assert found["telemetry of GPU 0"]["state"] == "absent"


@pytest.mark.parametrize(
    ("marker", "command"),
    [
        ("pyvenv.cfg", "pip install torch"),
        ("pipx_metadata.json", "pipx runpip latte-cli install torch"),
        ("uv-receipt.toml", "uv pip install --python {} torch"),
    ],
)
def test_what_to_install_goes_into_the_environment_that_runs_latte(tmp_path: Path, marker: str, command: str) -> None:
    environment = tmp_path / "latte-cli"
    environment.mkdir()
    (environment / marker).touch()
    said = with_installer("get it: `pip install torch`, or do without", environment)
    assert said == f"get it: `{command.format(environment)}`, or do without"
