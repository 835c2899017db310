"""Systems that are not POSIX, such as Windows, and a package in a zip file: what needs no measuring works."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from made_rows import DEVICE, profile, step_layers
from test_cli_import_files import FIND_DATABASE
from windows import Done, missing_modules, missing_names, run_without

from latte_cli.network import load
from latte_cli.network.zoo import export
from latte_cli.store import open_store

ROOT = Path(__file__).parents[1]
DEVICE_NAME = "reference-amd-epyc-family-26-model-2-2c-2t"


def test_what_is_hidden_is_what_windows_has_not() -> None:
    names, modules = missing_names(), set(missing_modules())
    assert {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty"} <= modules
    assert not {"os", "msvcrt", "subprocess", "mmap", "select", "ctypes"} & modules
    assert {"fork", "killpg", "sysconf", "O_NONBLOCK", "getloadavg"} <= set(names["os"])
    assert not {"open", "replace", "environ", "O_BINARY", "access", "cpu_count"} & set(names["os"])
    assert {"SIGHUP", "SIGKILL", "setitimer", "pthread_sigmask"} <= set(names["signal"])
    assert "poll" in names["select"]


ESTIMATE = ("estimate", "lenet.onnx", "--batch-size", "8", "--device", DEVICE_NAME)
WORKING = [
    ("--help",),
    ("--version",),
    ("profile", "--help"),
    ("zoo", "list"),
    ("zoo", "export", "lenet", "again.onnx"),
    ("devices",),
    ("devices", "--format", "json"),
    ("store", "devices"),
    ("store", "info"),
    ("store", "check"),
    ("store", "export", DEVICE_NAME, "-o", "rows.parquet"),
    ("store", "merge", ROOT / "profiles", "merged"),
    ESTIMATE,
    (*ESTIMATE, "--fits", "device"),
    (*ESTIMATE, "--format", "markdown"),
    ("estimate", "lenet.onnx", "--batch-size", "8", "--device", "nvidia-a100-sxm4-40gb", "--format", "csv"),
    ("estimate", "lenet.onnx", "--device", f"{DEVICE_NAME},nvidia-h200", "--samples", "50k", "--epochs", "9"),
    ("estimate", "lenet.onnx", "--batch-size", "max:1GiB", "--device", DEVICE_NAME),
    ("compare", "lenet.onnx", "--batch-size", "8,16", "--device", DEVICE_NAME),
    ("compare", "lenet.onnx", "--device", f"{DEVICE_NAME},nvidia-h200", "--format", "json"),
    ("explain", *ESTIMATE[1:]),
    ("allocate", "lenet.onnx", "--fleet", "fleet.yaml", "--round-duration", "1h", "-o", "plan.json"),
    ("plan", "show", "plan.json"),
    ("plan", "check", "plan.json", "lenet.onnx"),
    ("plan", "diff", "plan.json", "plan.json"),
    ("report", *ESTIMATE[1:], "--plan", "plan.json", "-o", "page.html", "--figures", "figures"),
]
REFUSED = [
    ("profile", "lenet.onnx", "--batch-size", "8"),
    ("verify", "lenet.onnx", "--batch-size", "8"),
    ("tune", "lenet.onnx", "--batch-size", "8", "-o", "tuned.json"),
    ("doctor",),
    ("store", "compact", "--store", "other"),
    ("import", "miopen-finddb", "gfx908.txt", "--name", "gfx908", "--store", "other"),
]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[object, ...], Done]:
    """What became of all commands, one after the other in one folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "lenet.onnx").write_bytes(export("lenet"))
    (folder / "fleet.yaml").write_text(
        f"classes: [{{class: desk, device: {DEVICE_NAME}, samples: 40, batch: 8,\n"
        "  bandwidth: {up: 1Gbit, down: 1Gbit}}]"
    )
    profile(open_store(str(folder / "other"), shipped=False), step_layers(load(folder / "lenet.onnx", batch_size=8)))
    (folder / "gfx908.txt").write_text(FIND_DATABASE)
    own = subprocess.run([sys.executable, "-m", "latte_cli", *ESTIMATE], cwd=folder, capture_output=True, text=True)
    found = dict(zip([*WORKING, *REFUSED], run_without([*WORKING, *REFUSED], folder=folder), strict=True))
    return {**found, ("own",): Done(code=own.returncode, out=own.stdout, err=own.stderr)}


def _words(command: tuple[object, ...]) -> str:
    return " ".join(map(str, command))


@pytest.mark.parametrize("command", WORKING, ids=_words)
def test_reading_estimating_and_allocating_work_without_posix(
    done: dict[tuple[object, ...], Done], command: tuple[object, ...]
) -> None:
    found = done[command]
    assert (found.code, "Traceback" in found.err) == (0, False), found.err
    assert found.out or found.err


def test_an_estimate_is_the_same_without_posix(done: dict[tuple[object, ...], Done]) -> None:
    assert done[ESTIMATE].out == done[("own",)].out != ""


@pytest.mark.parametrize("command", REFUSED, ids=_words)
def test_measuring_and_storing_are_refused_with_a_clear_line(
    done: dict[tuple[object, ...], Done], command: tuple[object, ...]
) -> None:
    found = done[command]
    assert found.code == 1, found.err
    first, second = found.err.splitlines()[-2:]
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
