"""Files that appear whole or not at all, and the one error for what cannot be written."""

import errno
import io
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from stat import S_ISDIR, S_ISFIFO, S_ISREG
from typing import Any, BinaryIO, TextIO
from uuid import uuid4

from latte_cli.errors import LatteError

_HINT = "choose another place"


class ExportFormat(StrEnum):
    """The file formats of an export."""

    PARQUET = "parquet"
    CSV = "csv"


def cannot_write(what: str, exc: OSError) -> LatteError:
    """The error for `what` (a path in backticks, a stream's name) that cannot be written."""
    hint = "make its folder first, or choose another place" if isinstance(exc, FileNotFoundError) else _HINT
    return LatteError(f"cannot write {what}: {exc.strerror or exc}", hint=hint)


_BLOCK = 1 << 20


def first_bytes(path: Path | str, most: int) -> bytes:
    """What the file at `path` holds, but no more than `most` bytes and one; raises OSError.

    Memory is taken as the bytes come, so that a small file needs little whatever `most` is. A named pipe has a few
    seconds to find a writer.
    """
    with io.FileIO(os.open(path, os.O_RDONLY | _NONBLOCK | getattr(os, "O_BINARY", 0))) as file:
        parts = [_first_of_pipe(file)]
        left = most + 1 - len(parts[0])
        while left and (part := file.read(min(left, _BLOCK))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # Windows has none, nor named pipes in folders
_WRITER_S = 5.0  # chosen: a shell has begun the other side of a pipe by then


def _first_of_pipe(file: io.FileIO) -> bytes:
    """The first byte of a pipe, and nothing of another file; from then on reading waits.

    Raises OSError for a pipe into which nobody writes: to open it as others are opened would wait for ever.
    """
    first: bytes | None = b""
    if S_ISFIFO(os.fstat(file.fileno()).st_mode):
        select.select([file], [], [], _WRITER_S)
        first = file.read(1)  # None where the writer has not written yet
        if first == b"":
            raise OSError(errno.EPIPE, "it is a pipe into which nobody writes")
    if _NONBLOCK:
        os.set_blocking(file.fileno(), True)
    return first or b""


def check_regular(path: Path, hint: str) -> None:
    """Raise LatteError for what is there and no file of a disk, such as a pipe, which is waited for, or a device."""
    if path.exists() and not path.is_file():
        raise LatteError(f"cannot read `{path}`: it is not a file", hint=hint)


class FileSink(io.FileIO):
    """An open file whose faults of writing are what `fault` makes of them; after the first it swallows the rest.

    So nobody who flushes once more, be it the interpreter at its end, meets the same fault again.
    """

    def __init__(self, file: Path | int, fault: Callable[[OSError], LatteError]) -> None:
        """Open a path, or take over a descriptor without ever closing it; raises OSError."""
        super().__init__(file, "wb", closefd=not isinstance(file, int))
        self._fault = fault
        self.failure: LatteError | None = None

    def write(self, data: Any) -> int:
        """Write some of `data` and return how much, waiting where the reader of a pipe is slow; raises LatteError."""
        if self.failure:
            return memoryview(data).nbytes
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as exc:
            self.failure = self._fault(exc)
            raise self.failure from exc
        return written

    def close(self) -> None:
        """Close the file; raises LatteError."""
        try:
            super().close()
        except OSError as exc:
            raise self._fault(exc) from exc


def check_free(path: Path, *, force: bool) -> None:
    """Raise LatteError where `path` cannot become a file: it is there and not `force`, or its folder takes none.

    What is no file of a disk, such as `/dev/null`, is written to as it is.
    """
    with _tell(path):
        if S_ISDIR(mode := _mode(path)):
            raise LatteError(f"`{path}` is not a file to write to", hint="name a file, not a folder")
        if S_ISREG(mode) and not force:
            raise LatteError(f"`{path}` is there already", hint="`--force` overwrites it")
        folder = Path(os.path.realpath(path)).parent
        if not mode and not folder.is_dir():
            raise FileNotFoundError(None, f"there is no folder `{path.parent}`")
        if (S_ISREG(mode) or not mode) and not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, f"the folder `{path.parent}` is read-only")


@contextmanager
def replacement(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at the end of the block; where something goes wrong, nothing does.

    Raises LatteError where it cannot be written; whether the old one may be lost is for `check_free` to say, before.
    """
    check_free(path, force=True)
    with _tell(path):
        target = Path(os.path.realpath(path))  # what a link points to is replaced, not the link
        on_disk = S_ISREG(mode := _mode(target)) or not mode
        place = target.with_name(f".latte-{uuid4().hex[:12]}.part") if on_disk else target
        sink = FileSink(place, lambda exc: cannot_write(f"`{path}`", exc))
    try:
        with io.BufferedWriter(sink) as out:
            yield out
        if sink.failure:  # whoever wrote has swallowed it
            raise sink.failure
        if on_disk:
            with _tell(path):
                place.replace(target)
    finally:
        if on_disk:
            with suppress(OSError):
                place.unlink(missing_ok=True)


@contextmanager
def text_replacement(path: Path) -> Iterator[TextIO]:
    """The same for text, in UTF-8 and with ends of lines as they are written."""
    with replacement(path) as out, text_over(out) as text:
        yield text


@contextmanager
def text_over(out: BinaryIO) -> Iterator[TextIO]:
    """A text stream in UTF-8 into `out`, which stays open."""
    text = io.TextIOWrapper(out, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
    try:
        yield text
    finally:
        text.detach()


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all, in place of the one there; raises LatteError where it cannot be."""
    with replacement(path) as out:
        out.write(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: after a power cut, what was renamed before has its new name.

    Only then may an older copy go. Raises OSError, but not where a file system does not know this.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def hold_lock(descriptor: int, *, wait: bool) -> bool:
    """Take the lock of an open file, which ends with the process; whether it is held now.

    Raises LatteError on a system that has no such locks.
    """
    try:
        import fcntl
    except ImportError as exc:
        message = "this system has no locks for files (`fcntl`), so nothing is measured or compacted here"
        raise LatteError(message, hint=POSIX_HINT) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


POSIX_HINT = "measure on Linux or macOS; reading models, `latte estimate` and `latte allocate` work here too"


def make_lasting_folder(path: Path) -> None:
    """Make a folder and those above it, so that a power cut leaves them; raises OSError."""
    if not path.is_dir():
        make_lasting_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def make_folder(path: Path, what: str = "") -> None:
    """Make a folder and those above it, for `what` goes there; raises LatteError where it cannot be made."""
    with _tell(path, f"{what} `{path}`".lstrip()):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def files_together(folder: Path, what: str = "") -> Iterator[None]:
    """A folder for files that are of use together only: where the block does not end well, those that are new go.

    Raises LatteError where it cannot be made.
    """
    new = not folder.exists()
    make_folder(folder, what)
    with _tell(folder):
        before = set(folder.iterdir())
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in set(folder.iterdir()) - before:
                path.unlink()
            if new:
                folder.rmdir()
        raise


def _mode(path: Path) -> int:
    """The file's kind as `stat` has it; 0 where there is none."""
    with suppress(FileNotFoundError):
        return path.stat().st_mode
    return 0


@contextmanager
def _tell(path: Path, what: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise cannot_write(what or f"`{path}`", exc) from exc
