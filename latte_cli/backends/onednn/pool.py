"""The threads of oneDNN: the pool that torch has, wherever the loader can be brought to it.

Two OpenMP pools in one process keep their idle threads spinning against each other. The loader takes a library for one
that is there if it has its name or is the same file, so oneDNN is opened where its OpenMP library is torch's.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from latte_cli.backends.loaded import home, loaded_path

OPENMP = "libgomp.so.1"
"""The OpenMP library that oneDNN's builds ask the loader for."""

_TORCH = "libtorch_cpu.so"
_PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def opened(file: str, torchs: Path | None) -> ctypes.CDLL:
    """Open the library `file` so that its OpenMP is `torchs` if there is a way, else so that its threads never spin.

    Raises OSError where it cannot be opened.
    """
    if torchs is None or _same(loaded_path(OPENMP), torchs):
        return ctypes.CDLL(file, mode=ctypes.RTLD_LOCAL)
    with _waiting_passively():
        return _beside(file, torchs) or ctypes.CDLL(file, mode=ctypes.RTLD_LOCAL)


def torch_openmp() -> Path | None:
    """The OpenMP library that torch uses in this process; None where there is no torch, or no OpenMP in it."""
    place = loaded_path(_TORCH)
    return None if place is None else openmp(ctypes.CDLL(str(place)))


def openmp(library: ctypes.CDLL) -> Path | None:
    """The OpenMP library that an open library uses, itself or one that it brought along; None where it uses none."""
    try:
        return home(library.omp_get_max_threads)
    except AttributeError:
        return None


def _beside(file: str, torchs: Path) -> ctypes.CDLL | None:
    """`file` opened in a folder in which its OpenMP library is `torchs`; None where that cannot be."""
    if not Path(file).is_absolute():
        return None
    with TemporaryDirectory(prefix="latte-onednn-") as folder:
        place = Path(folder, Path(file).name)
        place.symlink_to(Path(file).resolve())
        Path(folder, OPENMP).symlink_to(torchs)
        try:
            return ctypes.CDLL(str(place), mode=ctypes.RTLD_LOCAL)
        except OSError:
            return None


@contextmanager
def _waiting_passively() -> Iterator[None]:
    """What an OpenMP library reads as it is loaded says that its threads should sleep; what the user set stands."""
    added = {name: value for name, value in _PASSIVE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _same(one: Path | None, other: Path) -> bool:
    return one is not None and one.exists() and other.exists() and one.samefile(other)
