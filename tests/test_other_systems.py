"""Systems that are not POSIX, such as Windows, and a package in a zip file: what needs no measuring works."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from made_rows import DEVICE, profile, step_layers
from test_cli_import_files import FIND_DATABASE

from latte_cli.network import load
from latte_cli.network.zoo import export
from latte_cli.store import open_store

ROOT = Path(__file__).parents[1]
DEVICE_NAME = "reference-amd-epyc-family-26-model-2-2c-2t"

# Libraries are imported before, since theirs for Linux ask for what Windows has not; LATTE itself comes after.
HIDDEN = """
import importlib, os, select, signal, sys
for name in ("numpy", "onnx", "pyarrow.dataset", "pyarrow.parquet", "scipy.optimize", "typer.main", "xgboost", "yaml"):
    importlib.import_module(name)
assert not [name for name in sys.modules if name.startswith("latte_cli")]

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Refuse())
for module, names in {
    os: "fork killpg setpgid getpgrp sched_getaffinity sysconf O_NONBLOCK O_DIRECTORY set_blocking getloadavg",
    signal: "SIGHUP SIGKILL SIGALRM SIGBUS SIGXCPU setitimer pthread_sigmask",
    select: "poll epoll",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
from latte_cli.__main__ import main
main()
"""


def hidden(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """What `latte` does in a process without what Windows has not."""
    command = [sys.executable, "-c", HIDDEN, *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "lenet.onnx").write_bytes(export("lenet"))
    (folder / "fleet.yaml").write_text(
        f"classes: [{{class: desk, device: {DEVICE_NAME}, samples: 40, batch: 8,\n"
        "  bandwidth: {up: 1Gbit, down: 1Gbit}}]"
    )
    return folder


ESTIMATE = ("estimate", "lenet.onnx", "--batch-size", "8", "--device", DEVICE_NAME)


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("profile", "--help"),
        ("zoo", "list"),
        ("zoo", "export", "lenet", "again.onnx"),
        ("store", "devices"),
        ("store", "info"),
        (*ESTIMATE, "--fits", "device"),
        ("compare", "lenet.onnx", "--batch-size", "8,16", "--device", DEVICE_NAME),
        ("explain", *ESTIMATE[1:]),
        ("allocate", "lenet.onnx", "--fleet", "fleet.yaml", "--round-duration", "1h", "-o", "plan.json"),
        ("plan", "show", "plan.json"),
    ],
    ids=" ".join,
)
def test_reading_estimating_and_allocating_work_without_posix(place: Path, words: tuple[str, ...]) -> None:
    done = hidden(*words, folder=place)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout or done.stderr.startswith("wrote ")


def test_an_estimate_is_the_same_without_posix(place: Path) -> None:
    own = subprocess.run([sys.executable, "-m", "latte_cli", *ESTIMATE], cwd=place, capture_output=True, text=True)
    assert hidden(*ESTIMATE, folder=place).stdout == own.stdout != ""


@pytest.mark.parametrize(
    "words",
    [
        ("profile", "lenet.onnx", "--batch-size", "8"),
        ("verify", "lenet.onnx", "--batch-size", "8"),
        ("doctor",),
        ("store", "compact", "--store", "other"),
        ("import", "miopen-finddb", "gfx908.txt", "--name", "gfx908", "--store", "other"),
    ],
    ids=" ".join,
)
def test_measuring_and_storing_are_refused_with_a_clear_line(place: Path, words: tuple[str, ...]) -> None:
    profile(open_store(str(place / "other"), shipped=False), step_layers(load(place / "lenet.onnx", batch_size=8)))
    (place / "gfx908.txt").write_text(FIND_DATABASE)
    done = hidden(*words, folder=place)
    assert done.returncode == 1, done.stderr
    first, second = done.stderr.splitlines()[-2:]
    assert first.startswith("error: ") and "fcntl" in first
    assert (
        second == "hint: measure on Linux or macOS; reading models, `latte estimate` and `latte allocate` work here too"
    )


def test_a_package_in_a_zip_file_runs(tmp_path: Path) -> None:
    archive = tmp_path / "latte.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in (ROOT / "latte_cli").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                out.write(path, path.relative_to(ROOT))
    (tmp_path / "lenet.onnx").write_bytes(export("lenet"))
    store = open_store(str(tmp_path / "store"), shipped=False)
    profile(store, step_layers(load(tmp_path / "lenet.onnx", batch_size=8)))
    words = ("lenet.onnx", "--batch-size", "8", "--device", DEVICE.slug, "--store", "store")

    def zipped(*arguments: str) -> str:
        code = f"import runpy, sys; sys.path.insert(0, {str(archive)!r}); "
        code += "runpy.run_module('latte_cli', run_name='__main__')"
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert zipped("--version").startswith("latte ")
    (tmp_path / "base.json").write_text(zipped("estimate", *words, "--format", "json"))
    assert "+0.0 %" in zipped("estimate", *words, "--baseline", "base.json")
