"""The threads of oneDNN: the pool that torch has.

Two OpenMP pools in one process keep their idle threads spinning against each other. The loader takes a library for one
that is there if it has its name; where torch's OpenMP has another, as in wheels that rename what they bring, torch's is
opened to all before oneDNN is: what is open to all comes before what a library brings along.
"""

import ctypes
from pathlib import Path

from latte_cli.backends.native.library import dlopen, home, loaded_path

_OPENMP = "libgomp.so.1"
_TORCH = "libtorch_cpu.so"


def open_with_pool(file: str, torchs: Path | None) -> ctypes.CDLL:
    """Open the library `file` so that its OpenMP is `torchs`, if there is one.

    Raises OSError where it cannot be opened.
    """
    if torchs is not None and not _same(loaded_path(_OPENMP), torchs):
        ctypes.CDLL(str(torchs), mode=ctypes.RTLD_GLOBAL)
    return dlopen(file)


def torch_openmp() -> Path | None:
    """The OpenMP library that torch uses in this process; None where there is no torch, or no OpenMP in it."""
    place = loaded_path(_TORCH)
    return None if place is None else openmp(ctypes.CDLL(str(place)))


def openmp(library: ctypes.CDLL) -> Path | None:
    """The OpenMP library whose functions an open library calls; None where it calls none.

    That is the one open to all if there is one, else the one that it uses itself or has brought along.
    """
    if not hasattr(library, _ASKED):
        return None
    for scope in (ctypes.CDLL(None), library):
        if hasattr(scope, _ASKED):
            return home(getattr(scope, _ASKED))
    return None


_ASKED = "omp_get_max_threads"


def _same(one: Path | None, other: Path) -> bool:
    return one is not None and one.exists() and other.exists() and one.samefile(other)
