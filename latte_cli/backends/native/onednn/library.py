"""The open library: its functions, its version, its engine, its threads."""

import ctypes
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from latte_cli.backends.contract import OutOfMemory
from latte_cli.backends.native.library import LibraryFunction, Opened, path_of
from latte_cli.backends.native.onednn import pool
from latte_cli.backends.native.onednn.find import INSTALL_HINT, Candidate, find_copies
from latte_cli.backends.native.onednn.signatures import (
    CPU,
    FUNCTIONS,
    IN_ORDER,
    LIBRARIES,
    USER_SCRATCHPAD,
    Runtime,
    Version,
)
from latte_cli.backends.native.onednn.statuses import status_error
from latte_cli.errors import LatteError

_RUNTIMES = (Runtime.OMP, Runtime.SEQ)


class _Stream(threading.local):
    """A thread's stream, once it has one."""

    handle: int | None = None


class Library(Opened):
    """An open oneDNN: `path` is its file, `origin` how it was found, `openmp` the library that runs its threads.

    `one_pool` says that its threads are torch's (or that it has none, or torch none), so that nothing has to be set.
    """

    def __init__(
        self, path: Path, origin: str, functions: dict[str, LibraryFunction], openmp: Path | None, one_pool: bool
    ) -> None:
        super().__init__(functions)
        self.path, self.origin, self.openmp, self.one_pool = path, origin, openmp, one_pool
        told: Version = functions["dnnl_version"]().contents
        self.version = (told.major, told.minor, told.patch)
        self.runtime = int(told.cpu_runtime)
        self._stream = _Stream()
        # Executions keep their primitives. What the library's cache holds it lists a second time.
        self.call("dnnl_set_primitive_cache_capacity", 0)
        self.engine = self._make("dnnl_engine_create", CPU, 0)
        self.attributes = self._make("dnnl_primitive_attr_create")
        self.call("dnnl_primitive_attr_set_scratchpad_mode", self.attributes, USER_SCRATCHPAD)

    def __repr__(self) -> str:
        return f"<oneDNN {self.version_text} from {self.path}>"

    @property
    def major(self) -> int:
        """The major version, which decides what functions there are."""
        return self.version[0]

    @property
    def stream(self) -> int:
        """This thread's stream, made at its first use and never destroyed; what runs on it is done when it returns."""
        if self._stream.handle is None:
            self._stream.handle = self._make("dnnl_stream_create", self.engine, IN_ORDER)
        return self._stream.handle

    def check(self, name: str, status: int) -> None:
        """Raise what `status`, returned by `name`, means, if anything."""
        if status:
            raise status_error(name, status)

    def use_threads(self, count: int) -> None:
        """Let what this thread calls next run on `count` threads; where the pool is torch's, torch has said so."""
        if not self.one_pool and "omp_set_num_threads" in self._functions:
            self._functions["omp_set_num_threads"](count)

    def _make(self, name: str, *arguments: Any) -> int:
        made = ctypes.c_void_p()
        status = self._functions[name](ctypes.byref(made), *arguments)
        if status:
            raised = status_error(name, status)
            if isinstance(raised, OutOfMemory):
                raise raised
            raise LatteError(f"oneDNN {self.version_text} does not start ({raised})", hint="run `latte doctor`")
        return made.value or 0


@lru_cache
def open_library(where: tuple[Candidate, ...] | None = None) -> Library:
    """The first copy of oneDNN of `where` (by default what `find.find_copies` finds) that opens, the same each time.

    Whoever uses torch imports it first: then both have one pool of threads. Raises LatteError that says what was
    tried, and why it was not taken, where none opens.
    """
    tried = []
    for candidate in find_copies() if where is None else where:
        try:
            return _open(candidate)
        except OSError as exc:
            tried.append(f"{candidate}: {exc}")
    raise LatteError(f"oneDNN cannot be opened; tried {'; '.join(tried) or 'nothing'}", hint=INSTALL_HINT)


def _open(candidate: Candidate) -> Library:
    torchs = pool.torch_openmp()
    loaded = pool.open_with_pool(candidate.file, torchs)
    major = _usable(loaded)
    openmp = pool.openmp(loaded)
    path = Path(candidate.file) if "/" in candidate.file else path_of(loaded)
    one_pool = torchs is None or openmp is None or torchs.samefile(openmp)
    return Library(path, candidate.origin, dict(_functions(loaded, major)), openmp, one_pool)


def _usable(library: ctypes.CDLL) -> int:
    """The major version of an open library; raises OSError for one that this binding cannot use."""
    (_, ask), *_ = _functions(library, 3, "dnnl_version")
    told: Version = ask().contents
    if told.major not in LIBRARIES:
        raise OSError(f"it is oneDNN {told.major}.{told.minor}; versions {' and '.join(map(str, LIBRARIES))} are known")
    if told.cpu_runtime not in tuple(_RUNTIMES):
        name = Runtime(told.cpu_runtime).name if told.cpu_runtime in tuple(Runtime) else told.cpu_runtime
        raise OSError(f"it is built for {name} threads, and torch has none; an OpenMP build is needed")
    return int(told.major)


def _functions(library: ctypes.CDLL, major: int, *names: str) -> Iterator[tuple[str, LibraryFunction]]:
    for name in names or FUNCTIONS:
        signature = FUNCTIONS[name]
        if major not in signature.majors:
            continue
        try:
            found = library[name]
        except AttributeError as exc:
            if signature.optional:
                continue
            raise OSError(f"it has no `{name}`") from exc
        found.argtypes, found.restype = signature.arguments, signature.result
        yield name, found
