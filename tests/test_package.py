"""The package as users get it: built from the sources, installed into a separate environment, run from elsewhere."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(ROOT.glob("profiles/**/*.parquet"))


@dataclass(frozen=True, kw_only=True)
class _Installed:
    """A fresh environment that holds the wheel, sees this environment's dependencies, and has an empty home."""

    environment: Path
    home: Path

    def run(self, *arguments: str) -> str:
        variables = {"HOME": str(self.home), "PATH": f"{self.environment / 'bin'}:{os.defpath}", "LANG": "C.UTF-8"}
        done = subprocess.run(arguments, cwd=self.home, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _sources(to: Path) -> Path:
    """A copy of what a commit of the tree would hold."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    return to


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that was built from that sdist alone."""
    sources = _sources(tmp_path_factory.mktemp("sources"))
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(sources / "dist")]
    done = subprocess.run(build, cwd=sources, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sources / "dist"


@pytest.fixture(scope="module")
def installed(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> _Installed:
    environment = tmp_path_factory.mktemp("installed")
    (wheel,) = archives.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # a path in a .pth file is searched, but the .pth files in it are not read: an editable LATTE there stays unseen
    dependencies = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return _Installed(environment=environment, home=tmp_path_factory.mktemp("home"))


def test_an_installed_latte_runs_from_its_own_files(installed: _Installed) -> None:
    where = installed.run("python", "-c", "import latte_cli; print(latte_cli.__file__)")
    assert Path(where).is_relative_to(installed.environment)
    assert installed.run("latte", "--version") == installed.run("python", "-m", "latte_cli", "--version")


@pytest.fixture(scope="module")
def exported(installed: _Installed) -> str:
    """A network that the installed LATTE has exported into its home."""
    installed.run("latte", "zoo", "export", "resnet18", "resnet18.onnx")
    return "resnet18.onnx"


def test_an_installed_latte_exports_a_network(installed: _Installed, exported: str) -> None:
    assert (installed.home / exported).stat().st_size > 0


@pytest.mark.skipif(not SHIPPED, reason="no shipped profile yet")
def test_an_installed_latte_estimates_from_a_shipped_profile(installed: _Installed, exported: str) -> None:
    devices = json.loads(installed.run("latte", "store", "devices", "--format", "json"))["devices"]
    device = devices[0]["device"]
    estimate = ["latte", "estimate", exported, "--batch-size", "8", "--device", device, "--format", "json"]
    (only,) = json.loads(installed.run(*estimate))["estimates"]
    assert (only["device"], only["missing"]) == (device, [])
    assert only["totals"]["step_s"] > 0


def test_the_wheel_says_what_an_index_asks_for(archives: Path) -> None:
    (wheel,) = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        said = message_from_bytes(opened.read(name))
    assert said["Description-Content-Type"] == "text/markdown"
    assert said["License-Expression"] == "Apache-2.0"
    assert set(said.get_all("Provides-Extra")) == {"dev", "fl", "onednn", "simulation"}
    assert str(said.get_payload()).startswith("# LATTE")


def test_the_source_archive_holds_what_a_build_needs_and_nothing_of_the_machine(archives: Path) -> None:
    (archive,) = archives.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    shipped = {path.relative_to(ROOT).as_posix() for path in SHIPPED}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "latte_cli/__main__.py"} | shipped <= names
    assert [name for name in names if name.startswith((".venv", ".demo", ".git/"))] == []
