"""The open library: its functions, its version, its handles."""

import ctypes
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from latte_cli.backends.contract import OutOfMemory
from latte_cli.backends.native.cudnn.context import current
from latte_cli.backends.native.cudnn.find import INSTALL_HINT, Candidate, find_copies
from latte_cli.backends.native.cudnn.signatures import FUNCTIONS, LIBRARIES
from latte_cli.backends.native.cudnn.statuses import status_error, status_name
from latte_cli.backends.native.library import LibraryFunction, Opened, dlopen, path_of
from latte_cli.errors import LatteError

_NOT_INITIALIZED = (1, 1001)
_VERSION_CHECKS = ("cudnnCnnVersionCheck", "cudnnCnnInferVersionCheck", "cudnnCnnTrainVersionCheck")


class _Handles(threading.local):
    """A thread's handles by device."""

    def __init__(self) -> None:
        self.by_device: dict[int, int] = {}


class Library(Opened):
    """An open cuDNN: `path` is the file that holds its convolutions, `origin` how it was found."""

    def __init__(self, path: Path, origin: str, functions: dict[str, LibraryFunction]) -> None:
        super().__init__(functions)
        self.path = path
        self.origin = origin
        self.version = version(functions["cudnnGetVersion"]())
        self._handles = _Handles()

    def __repr__(self) -> str:
        return f"<cuDNN {self.version_text} from {self.path}>"

    def check(self, name: str, status: int) -> None:
        """Raise what `status`, returned by `name`, means, if anything."""
        if status:
            raise status_error(name, status, self._last_error())

    def handle(self, device_index: int) -> int:
        """This thread's handle on a device, made at its first use and never destroyed.

        Raises LatteError where cuDNN cannot use the device, OutOfMemory where it finds no room there.
        """
        handles = self._handles.by_device
        if device_index not in handles:
            handles[device_index] = self._new_handle(device_index)
        return handles[device_index]

    def set_stream(self, handle: int, stream: int) -> None:
        """Let what is called with `handle` run on `stream`, a `cudaStream_t` as an integer (0: the default one)."""
        self.call("cudnnSetStream", handle, stream)

    def _new_handle(self, device_index: int) -> int:
        made = ctypes.c_void_p()
        with current(device_index):
            status = self._functions["cudnnCreate"](ctypes.byref(made))
        if status:
            raise self._no_handle(status)
        return made.value or 0

    def _no_handle(self, status: int) -> Exception:
        raised = status_error("cudnnCreate", status, self._last_error())
        if isinstance(raised, OutOfMemory):
            return raised
        fault = "finds no usable NVIDIA driver or GPU" if status in _NOT_INITIALIZED else "does not start"
        return LatteError(f"cuDNN {self.version_text} {fault} ({raised})", hint="run `latte doctor`")

    def _last_error(self) -> str:
        # Reading forgets it: what is not read here would be taken for the remark on a later failure.
        if "cudnnGetLastErrorString" not in self._functions:
            return ""
        text = ctypes.create_string_buffer(1024)
        self._functions["cudnnGetLastErrorString"](text, len(text))
        return " ".join(text.value.decode(errors="replace").split())


@lru_cache
def open_library(where: tuple[Candidate, ...] | None = None) -> Library:
    """The first copy of cuDNN of `where` (by default what `find.find_copies` finds) that opens, the same one each time.

    Raises LatteError that says what was tried, and why it was not taken, where none opens.
    """
    tried = []
    for candidate in find_copies() if where is None else where:
        try:
            return _open(candidate)
        except OSError as exc:
            tried.append(f"{candidate}: {exc}")
    raise LatteError(f"cuDNN cannot be opened; tried {'; '.join(tried) or 'nothing'}", hint=INSTALL_HINT)


def version(number: int) -> tuple[int, int, int]:
    """The three parts of what `cudnnGetVersion` returns: 92801 is 9.28.1, 8907 is 8.9.7."""
    unit = 10000 if number >= 90000 else 1000
    return number // unit, number % unit // 100, number % 100


def _open(candidate: Candidate) -> Library:
    opened = {library: dlopen(candidate.file(library)) for library in LIBRARIES[candidate.major]}
    functions = dict(_functions(candidate.major, opened))
    for check in _VERSION_CHECKS:
        status = functions[check]() if check in functions else 0
        if status:
            raise OSError(f"its parts are of different versions ({check}: {status_name(status)})")
    return Library(path_of(opened[LIBRARIES[candidate.major][0]]), candidate.origin, functions)


def _functions(major: int, opened: dict[str, ctypes.CDLL]) -> Iterator[tuple[str, LibraryFunction]]:
    for function, signature in FUNCTIONS.items():
        if major in signature.majors:
            try:
                found = opened[signature.library(major)][function]
            except AttributeError as exc:
                raise OSError(f"it has no `{function}`") from exc
            found.argtypes, found.restype = signature.arguments, signature.result
            yield function, found
