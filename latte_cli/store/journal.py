"""Journals: what was measured and is not yet in a part, one checksummed line a row, on the local disk."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from latte_cli.errors import LatteError
from latte_cli.files import hold_lock, make_lasting_folder, sync_folder

_SUFFIX = ".journal"


def journals_dir(identity: str) -> Path:
    """Where the journals of the store of this identity lie on this machine."""
    import platformdirs

    digest = hashlib.blake2b(identity.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return Path(platformdirs.user_state_dir("latte")) / "journals" / digest


class Journal:
    """An append-only file that one process at a time holds, by a lock that ends with the process.

    Its first line is the head (store, device, number of the next part), each further line a row. A line that returned
    from `append` outlives the process; after a power cut the last seconds may be lost, which costs less than flushing
    the disk between measurements.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Take over an open file that is locked; see `create` and `orphans`."""
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def create(cls, folder: Path, head: Mapping[str, Any]) -> "Journal":
        """A new journal that begins with `head`, held by this process; raises LatteError where none can be written."""
        try:
            make_lasting_folder(folder)
            journal = None
            while journal is None:
                journal = _hold(folder / f"{uuid4().hex[:12]}{_SUFFIX}", os.O_CREAT | os.O_EXCL)
            sync_folder(folder)
        except OSError as exc:
            raise _unwritable(folder, exc) from exc
        journal.restart(head)
        return journal

    @property
    def id(self) -> str:
        """Names this journal among all that were ever written."""
        return self.path.stem

    def restart(self, head: Mapping[str, Any]) -> None:
        """Drop all rows, which are in a part by now, and begin again with `head`."""
        os.ftruncate(self._descriptor, 0)
        self.append(head)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; on LatteError (a full disk) the journal is as it was before."""
        body = json.dumps(row, separators=(",", ":")).encode()
        line = b"%s %s\n" % (_digest(body), body)
        end = os.fstat(self._descriptor).st_size
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError as exc:
            with suppress(OSError):
                os.ftruncate(self._descriptor, end)
            raise _unwritable(self.path, exc) from exc

    def close(self, *, drop: bool) -> None:
        """Let go of the file; `drop` deletes it, else it waits to be recovered."""
        if drop:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def set_aside(self) -> None:
        """Let go of a file with damaged lines; it is kept under a name that is not read again."""
        self.path.rename(self.path.with_suffix(".damaged"))
        os.close(self._descriptor)


def orphans(folder: Path) -> Iterator[Journal]:
    """The journals that no process holds any more, each held by this one until it is closed."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        with suppress(FileNotFoundError):
            journal = _hold(path, 0)
            if journal is not None:
                yield journal


def is_live(path: Path) -> bool:
    """Whether a process holds the journal at `path`."""
    try:
        journal = _hold(path, 0)
    except FileNotFoundError:
        return False
    if journal is None:
        return True
    journal.close(drop=False)
    return False


def lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a journal, the head first, and how many damaged ones were left out.

    A last line without an end is not damage: the process died while it wrote it.
    """
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    found, damaged = [], 0
    for line in whole.split(b"\n") if whole else ():
        digest, _, body = line.partition(b" ")
        if digest == _digest(body):
            found.append(json.loads(body))
        else:
            damaged += 1
    return found, damaged


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=8).hexdigest().encode()


def _hold(path: Path, flags: int) -> Journal | None:
    """The journal at `path` with its lock; None if another process holds it or removed it meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | flags, 0o644)
    try:
        if hold_lock(descriptor, wait=False) and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return Journal(path, descriptor)
    except FileNotFoundError:
        pass
    except LatteError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _unwritable(path: Path, exc: OSError) -> LatteError:
    return LatteError(
        f"cannot write the journal `{path}`: {exc.strerror}",
        hint="make room or set XDG_STATE_HOME to another disk, then run the same command again: "
        "what was measured before is kept",
    )
