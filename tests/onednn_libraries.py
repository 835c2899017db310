"""The real oneDNN of both majors: that of the package `onednn-cpu-gomp`, and Debian's for version 2.

`python tests/onednn_libraries.py` unpacks Debian's `libdnnl2` into your cache, where apt offers it. As a plugin it
gives tests `onednn`, the open library of each major; they skip where it is not there, and the package's fails if CI is
set.

PYTEST_DONT_REWRITE: tests import it as well, and nothing is asserted here.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import platformdirs
import pytest
import torch as torch  # whose pool of threads the library is to share

from latte_cli.backends.native.onednn.find import Candidate, find_copies
from latte_cli.backends.native.onednn.library import Library, open_library

CACHE = Path(os.environ.get("LATTE_TEST_LIBRARIES") or platformdirs.user_cache_path("latte-cli") / "test-libraries")
"""Where Debian's library is kept; read on import, since each test has a separate cache directory."""

FOLDER = CACHE / "onednn-2"


def packaged() -> Candidate | None:
    """The library of the installed package."""
    return next((found for found in find_copies({}) if found.origin.startswith("package")), None)


def debians() -> Candidate | None:
    """Debian's library, as it was unpacked."""
    file = FOLDER / "libdnnl.so.2"
    if not file.is_file():
        return None
    ctypes.CDLL(str(FOLDER / "libOpenCL.so.1"))  # the loader takes it when a program loads one of that name
    return Candidate(file=str(file), origin="test")


COPIES = {3: packaged, 2: debians}


PARTS = {"libdnnl2": "libdnnl.so.2", "ocl-icd-libopencl1": "libOpenCL.so.1"}
"""Debian's packages, and the library of each: its oneDNN asks for OpenCL's loader, which need not be installed."""


def download() -> None:
    """Put Debian's library in place; does nothing where it is there, and fails where apt does not offer it."""
    if debians():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".download-") as work:
        # apt drops its rights for the download, and its user cannot write here.
        subprocess.run(("apt-get", "-o", "APT::Sandbox::User=root", "download", *PARTS), cwd=work, check=True)
        for package in Path(work).glob("*.deb"):
            subprocess.run(("dpkg-deb", "-x", package.name, "unpacked"), cwd=work, check=True)
        shutil.rmtree(FOLDER, ignore_errors=True)
        folder = Path(work, "folder")
        folder.mkdir()
        for name in PARTS.values():
            (library,) = (file for file in Path(work, "unpacked").rglob(f"{name}.*") if not file.is_symlink())
            library.rename(folder / name)
        folder.rename(FOLDER)


@pytest.fixture(scope="session", params=list(COPIES), ids=lambda major: f"onednn{major}")
def copy(request: pytest.FixtureRequest) -> Candidate:
    """A real oneDNN, once per major version."""
    found = COPIES[request.param]()
    if found is None:
        missing = "`pip install onednn-cpu-gomp`" if request.param == 3 else "`make libraries` where apt has libdnnl2"
        (pytest.fail if os.environ.get("CI") and request.param == 3 else pytest.skip)(f"no oneDNN: {missing}")
    return found


@pytest.fixture(scope="session")
def onednn(copy: Candidate) -> Library:
    """A real oneDNN, open, once per major version."""
    return open_library((copy,))


if __name__ == "__main__":
    download()
    sys.stdout.write(f"{FOLDER}\n")
