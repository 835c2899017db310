"""Shared libraries in this process: which are loaded, and from where."""

import ctypes
import os
from pathlib import Path

_LINK_MAP = 2  # RTLD_DI_LINKMAP


class _LinkMap(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


def loaded_path(soname: str) -> Path | None:
    """The file that `soname` was loaded from, or None where this process has not loaded it; loads nothing."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return None
    try:
        return path_of(ctypes.CDLL(soname, mode=os.RTLD_NOLOAD | os.RTLD_NOW))
    except OSError:
        return None


def path_of(library: ctypes.CDLL) -> Path:
    """The file that an open library was loaded from."""
    link = ctypes.POINTER(_LinkMap)()
    information = ctypes.CDLL(None).dlinfo
    information.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    information(library._handle, _LINK_MAP, ctypes.byref(link))
    return Path(os.fsdecode(link.contents.name))
