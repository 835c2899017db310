"""Shared libraries: which this process has loaded and from where, why one cannot be, and the calls of an open one."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

_LINK_MAP = 2  # RTLD_DI_LINKMAP
_HEADER_BYTES = 20


class _Symbol(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


class _LinkMap(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


LibraryFunction: TypeAlias = Callable[..., Any]


class Opened:
    """An open library's functions by their names, with their types set; `version` has three parts."""

    version: tuple[int, int, int]

    def __init__(self, functions: dict[str, LibraryFunction]) -> None:
        self._functions = functions

    @property
    def version_text(self) -> str:
        """The version with dots: `9.28.1`."""
        return ".".join(map(str, self.version))

    def function(self, name: str) -> LibraryFunction:
        """The foreign function `name` of the library's `signatures.FUNCTIONS`; its status is not checked."""
        return self._functions[name]

    def call(self, name: str, *arguments: Any) -> None:
        """Call `name`; raises Unsupported, OutOfMemory or Failed for a status that is no success."""
        self.check(name, self._functions[name](*arguments))

    def check(self, name: str, status: int) -> None:
        """Raise what `status`, returned by `name`, means, if anything."""
        raise NotImplementedError


def dlopen(file: str) -> ctypes.CDLL:
    """Open `file`, its symbols for nobody else: two majors stay apart. Raises OSError that says why it cannot be."""
    try:
        return ctypes.CDLL(file, mode=ctypes.RTLD_LOCAL)
    except OSError as exc:
        raise OSError(misfit(Path(file)) or str(exc)) from exc


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


def home(function: Callable[..., Any]) -> Path | None:
    """The file that an open library's `function` lies in, which may be one that the library has brought along."""
    found = _Symbol()
    information = ctypes.CDLL(None).dladdr
    information.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Symbol))
    known = information(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(found))  # type: ignore[arg-type]
    return Path(os.fsdecode(found.file)) if known and found.file else None


def misfit(file: Path) -> str | None:
    """Why `file` is no library for this process, where its first bytes say so; None where they do not.

    The loader calls a library of another processor "not found".
    """
    own, other = _header(Path("/proc/self/exe")), _header(file)
    if not file.is_absolute() or not file.is_file() or not own:
        return None
    if not other.startswith(b"\x7fELF"):
        return f"{file.name} is not a shared library"
    if (own[4:6], own[18:20]) != (other[4:6], other[18:20]):
        return f"{file.name} is built for another processor than this Python"
    return None


def _header(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_HEADER_BYTES)
    except OSError:
        return b""
