"""Parts: the immutable Parquet files of a store, on a local or a remote file system."""

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from latte_cli import files
from latte_cli.devices import Device
from latte_cli.errors import LatteError
from latte_cli.printable import address, secrets
from latte_cli.store import checks, schema
from latte_cli.store.chunks import Group, fetch, groups_with
from latte_cli.store.ends import end_of, said_by

_T = TypeVar("_T")
_PREFIX, _SUFFIX = "part-", ".parquet"
_SAFE_SLUG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]*")
# A network's layers lie all over the layer ids, each in a separate row group; small groups keep the rest unread.
_ROWS_PER_GROUP = 4096  # chosen: groups are skipped by their statistics, so they are small


@dataclass(frozen=True, kw_only=True)
class Part:
    """One Parquet file of a device's rows."""

    slug: str
    path: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The file's name below the store: `device=<slug>/part-….parquet`."""
        return "/".join(self.path.rsplit("/", 2)[-2:])


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What a part says of itself: its device, its rows, and when they were measured (seconds since the epoch).

    `unpacked_bytes` is the most that its rows take in memory.
    """

    part: Part
    device: Device
    rows: int
    unpacked_bytes: int
    first_s: float
    last_s: float


class Unreadable(LatteError):
    """A part that cannot be read here, whatever it is; nothing moves or deletes it."""

    def __init__(self, part: Part, problem: str, *, kind: str = "part", hint: str | None = None) -> None:
        shown = " ".join(problem.split())[:_MOST_SAID].rstrip(".")
        super().__init__(f"{kind} `{part.name}`: {shown}", hint=hint)
        self.part = part
        self.problem = shown


class Newer(Unreadable):
    """A part of a schema that a later version of this program wrote."""

    def __init__(self, part: Part, version: int) -> None:
        problem = f"it has the newer schema {version}; this version reads up to {schema.VERSION}"
        super().__init__(part, problem, kind="newer part", hint="`pip install --upgrade latte-cli` reads it")


class Ahead(Unreadable):
    """A part with rows of a later moment than the clock shows: whether they are newer than others is not known."""

    def __init__(self, part: Part) -> None:
        problem = "its rows are ahead of this machine's clock, so that it is left as it is"
        super().__init__(part, problem, hint="is the clock right? they are read, and give way to others")


class Damaged(Unreadable):
    """A part that cannot be read whole, or that holds what no measurement does."""

    def __init__(self, part: Part, problem: str) -> None:
        hint = "`latte store check --set-aside` moves damaged parts out of the way"
        super().__init__(part, problem, kind="damaged part", hint=hint)


_MOST_SAID = 300  # letters of what is wrong with a part, whose names may have any length


def _local_path(text: str) -> Path:
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError as exc:
        raise _unopened_error(text, "it is in the home of nobody known") from exc
    except OSError as exc:
        raise _unopened_error(text, "the current folder is gone") from exc
    if not _is_utf8(str(path)):
        raise _unopened_error(text, "its name is not UTF-8")
    return path


def _unopened_error(text: str, reason: str) -> LatteError:
    return LatteError(f"cannot open the store `{text}`: {reason}", hint=_URI_HINT)


def _is_utf8(name: str) -> bool:
    """Whether a name can be given to Arrow; those of other encodings come from the command line in half letters."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _has_name(entry: Any) -> bool:
    """Whether a file's name is UTF-8, as Arrow asks for: those of parts are."""
    try:
        return bool(entry.path)
    except UnicodeDecodeError:
        return False


class PartDirectory:
    """A directory of parts, `device=<slug>/part-*.parquet`, on whatever file system its URI names."""

    def __init__(self, uri: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        """`uri` is a local path or a URI that pyarrow opens; raises LatteError for one it does not.

        Rows of a later moment than `clock` shows are of another clock, which was ahead, or this one is behind.
        """
        self._clock = clock
        text = str(uri)
        self.local: Path | None = None
        if "://" not in text:
            self.local = _local_path(text)
            self.full_uri = self.local.as_uri()
        else:
            self.full_uri = text.rstrip("/")
            self._open()

    @property
    def uri(self) -> str:
        """Where it is, to be shown, without secrets: a path for a local directory."""
        return str(self.local) if self.local else address(self.full_uri)

    @property
    def until_s(self) -> float:
        """The latest moment that a row can have been measured at, in seconds since the epoch."""
        return checks.latest_moment_s(self._clock())

    @property
    def identity(self) -> str:
        """Tells it from other places, whoever opens it; not to be shown."""
        return str(self.local) if self.local else re.sub(r"//[^/@]*@", "//", self.full_uri)

    def _open(self) -> None:
        _, root = self._filesystem_and_root
        if self._filesystem_and_root[0].type_name == "local":
            self.local = Path(root)
            self.full_uri = self.local.as_uri()

    @cached_property
    def _filesystem_and_root(self) -> tuple[Any, str]:
        import pyarrow as pa
        from pyarrow.fs import FileSystem, LocalFileSystem

        if self.local is not None:
            return LocalFileSystem(), str(self.local)
        if not _is_sound(self.full_uri):
            message = f"cannot open the store `{self.uri}`: a sign in it has to be percent-encoded"
            raise LatteError(message, hint=_USER_HINT)
        try:
            filesystem, root = FileSystem.from_uri(self.full_uri)
        except (pa.ArrowException, OSError, ValueError) as exc:
            raise self._failure("cannot open the store", exc, _URI_HINT) from self._harmless(exc)
        if not root.strip("/"):
            raise LatteError(f"cannot open the store `{self.uri}`: it names no bucket or directory", hint=_URI_HINT)
        return filesystem, root.rstrip("/")

    def _failure(self, what: str, exc: BaseException, hint: str | None = None) -> LatteError:
        return LatteError(f"{what} `{self.uri}`: {self._reason(exc)}", hint=hint)

    def _reason(self, exc: BaseException) -> str:
        """What went wrong, in the words of another library where they do not repeat secrets of the address."""
        line = _line(exc).replace(self.full_uri, self.uri)
        if any(piece in line.lower().replace(self.uri.lower(), "") for piece in self._secrets):
            return "it does not answer to this address"
        return line

    def _harmless(self, exc: BaseException) -> BaseException | None:
        """`exc` as the cause of an error, unless a traceback would show secrets with it."""
        return None if self._secrets else exc

    @property
    def _secrets(self) -> frozenset[str]:
        return frozenset() if self.local else secrets(self.full_uri)

    @property
    def _files(self) -> Any:
        return self._filesystem_and_root[0]

    @property
    def _root(self) -> str:
        return self._filesystem_and_root[1]

    def slugs(self) -> tuple[str, ...]:
        """The devices that have a directory here, in the order of their names."""
        names = (entry.base_name for entry in self._list_folder(self._root))
        return tuple(sorted(name.removeprefix("device=") for name in names if name.startswith("device=")))

    def parts(self, slug: str) -> tuple[Part, ...]:
        """The parts of a device, in the order of their names."""
        entries = (e for e in self._list_folder(self._folder(slug)) if e.is_file) if _is_utf8(slug) else ()
        found = (
            Part(slug=slug, path=entry.path, size_bytes=entry.size)
            for entry in entries
            if entry.base_name.startswith(_PREFIX) and entry.base_name.endswith(_SUFFIX)
        )
        return tuple(sorted(found, key=lambda part: part.path))

    def _folder(self, slug: str) -> str:
        return f"{self._root}/device={slug}"

    def _list_folder(self, folder: str) -> list[Any]:
        import pyarrow as pa
        from pyarrow.fs import FileSelector

        try:
            wanted = FileSelector(folder, allow_not_found=True)
            return steadily(lambda: [each for each in self._files.get_file_info(wanted) if _has_name(each)])
        except (pa.ArrowException, OSError, ValueError) as exc:
            raise self._failure("cannot list the store", exc, _URI_HINT) from self._harmless(exc)

    def footer(self, part: Part) -> Footer:
        """What `part` says of itself, without reading its rows; raises Unreadable, FileNotFoundError."""
        with self._open_part(part) as opened:
            return opened.footer

    def read(self, part: Part, *, layer_ids: Collection[str] | None = None, ids: bool = False) -> Any:
        """The rows of `part` as an Arrow table, of some layers only; raises Unreadable, FileNotFoundError.

        All columns are read, as a row with one odd value must not take the place of a good one. Who writes the rows
        elsewhere has their `ids` checked too, for the same reason.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self._open_part(part) as opened:
            groups = opened.groups
            chosen = list(range(len(groups))) if layer_ids is None else groups_with(groups, "layer_id", layer_ids)
            content = pa.BufferReader(fetch(opened.stream, opened.end, [groups[at] for at in chosen]))
            with pq.ParquetFile(content, read_dictionary=schema.WORDS, page_checksum_verification=True) as file:
                table = file.read_row_groups(chosen, columns=schema.columns_of(opened.version))
            if table.num_rows != sum(groups[at].rows for at in chosen):
                raise ValueError("it has other rows than it says")
            table = table if layer_ids is None else schema.among(table, "layer_id", layer_ids)
            checks.check_rows(table)
            if ids:
                checks.check_ids(table)
            return schema.upgrade(table)

    @contextmanager
    def _open_part(self, part: Part) -> Iterator["_Opened"]:
        """A part that is open for reading, once its footer has been checked.

        What goes wrong inside is told apart: gone, out of reach, out of memory, damaged.
        """
        import pyarrow as pa

        try:
            with self._files.open_input_file(part.path) as stream:
                yield _open_footer(part, stream)
        except FileNotFoundError:
            raise
        except MemoryError as exc:
            raise Unreadable(part, "there is not enough memory to read it", hint="close other programs") from exc
        except (pa.ArrowException, OSError, ValueError, KeyError) as exc:
            self._check_reach(part)
            raise Damaged(part, self._reason(exc)) from self._harmless(exc)

    def _check_reach(self, part: Part) -> None:
        try:
            with self._files.open_input_stream(part.path) as stream:
                stream.read(1)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise self._failure(f"cannot read `{part.name}` of the store", exc) from self._harmless(exc)

    def prepare(self, slug: str) -> None:
        """Make sure that parts of a device can be written here, as far as that can be told; raises LatteError."""
        if not _SAFE_SLUG.fullmatch(slug):
            raise LatteError(f"a device cannot be named `{slug}`", hint="use letters, digits and `. _ @ + -`")
        folder = self._folder(slug)
        try:
            if self.local is not None:
                files.make_lasting_folder(Path(folder))
        except OSError as exc:
            raise self._failure("cannot write to the store", exc, _WRITE_HINT) from self._harmless(exc)
        if self.local is not None and not os.access(folder, os.W_OK):
            raise LatteError(f"cannot write to the store `{self.uri}`", hint=_WRITE_HINT)

    def write(self, device: Device, name: str, table: Any) -> Part:
        """Write `table` as the part `part-<name>.parquet` of `device`: it appears whole or not at all.

        Raises LatteError where it cannot be written, and then leaves nothing behind.
        """
        self.prepare(device.slug)
        path = f"{self._folder(device.slug)}/{_PREFIX}{name}{_SUFFIX}"
        content = _parquet(device, table)
        try:
            self._put(path, content)
        except OSError as exc:
            raise self._failure("cannot write to the store", exc, _WRITE_HINT) from self._harmless(exc)
        return Part(slug=device.slug, path=path, size_bytes=len(content))

    def _put(self, path: str, content: Any) -> None:
        if self.local is None:
            # Object stores show an object when it is complete.
            with self._files.open_output_stream(path) as stream:
                stream.write(content)
            return
        target = Path(path)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
            files.sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, part: Part) -> None:
        """Delete a part; one that is gone is well. Raises LatteError where it cannot be."""
        try:
            with suppress(FileNotFoundError):
                self._files.delete_file(part.path)
        except OSError as exc:
            raise self._failure(f"cannot delete `{part.name}` of the store", exc, _READ_ONLY_HINT) from self._harmless(
                exc
            )

    def set_aside(self, part: Part) -> str:
        """Move a part to `.damaged/` below the store, where no reader looks; returns its new place, its alone."""
        folder = f"{self._root}/.damaged/{part.name}".rpartition("/")[0]
        stem = part.name.rpartition("/")[2].removesuffix(_SUFFIX)
        try:
            self._files.create_dir(folder, recursive=True)
            taken = {entry.base_name for entry in self._list_folder(folder)}
            names = (f"{stem}{ending}{_SUFFIX}" for ending in chain([""], (f"-{at}" for at in count(2))))
            target = f"{folder}/{next(name for name in names if name not in taken)}"
            self._files.move(part.path, target)
        except OSError as exc:
            raise self._failure(f"cannot move `{part.name}` of the store", exc, _READ_ONLY_HINT) from self._harmless(
                exc
            )
        return target

    @contextmanager
    def lock(self, *, wait: bool) -> Iterator[bool]:
        """Hold the lock of a local store, so that one process at a time rewrites parts; yields whether it is held.

        A remote store has none: there two may do the same work, and no row is lost by it.
        """
        if self.local is None:
            yield True
            return
        with _lock_file(self.local) as lock:
            yield files.hold_lock(lock.fileno(), wait=wait)


def _lock_file(root: Path) -> BinaryIO:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return (root / ".lock").open("ab")
    except OSError as exc:
        raise LatteError(f"cannot write to the store `{root}`: {_line(exc)}", hint=_READ_ONLY_HINT) from exc


def steadily(read: Callable[[], _T]) -> _T:
    """`read()`, again if a file vanished under it: compaction wrote a part's rows elsewhere, a write got its name."""
    for attempt in range(99):
        with suppress(FileNotFoundError):
            return read()
        time.sleep(attempt / 1000)  # a writer that seals all the time leaves a gap sooner or later
    return read()


_URI_HINT = "a store is a directory or a URI such as `s3://bucket/path?endpoint_override=host:port&scheme=http`"
_USER_HINT = (
    "in a key or secret, `/` is `%2F`, `%` is `%25`, `@` is `%40` and `#` is `%23`; or leave them out of the URI and "
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
_READ_ONLY_HINT = "is the store read-only? `latte store merge SOURCE` adds its rows to your own store"
_WRITE_HINT = (
    "is it full or read-only? `--store DIR` names another place; rows not yet in it stay in the journal, and the next "
    "run adds them"
)


_AUTHORITY = re.compile(
    r"[^:/?#]*://(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?(?:\[[^\]/?#@]*\]|[^:/?#@]*)(?::[0-9]*)?(?:[/?][^#]*)?",
    re.DOTALL,
)


def _is_sound(uri: str) -> bool:
    """Whether its user info, if any, ends where it seems to, and no sign of a secret is read as the end of it."""
    return _AUTHORITY.fullmatch(uri) is not None


def _line(exc: BaseException) -> str:
    return (exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)).strip().partition("\n")[0]


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A part's open file, the end of it, its row groups, the version of its columns, and what it says of itself."""

    stream: Any
    end: bytes
    groups: Sequence[Group]
    version: int
    footer: Footer


def _open_footer(part: Part, stream: Any) -> _Opened:
    """An open part whose footer is that of one; raises Newer, and ValueError for any other.

    Arrow reads no row groups here: some damage to them ends the process.
    """
    end = end_of(stream)
    said = said_by(end)
    if said.version > schema.VERSION:
        raise Newer(part, said.version)
    if said.device is None or said.device.slug != part.slug or not _SAFE_SLUG.fullmatch(part.slug):
        raise ValueError("it is of another device than its folder")
    checks.check_moments(said.first_s, said.last_s)
    footer = Footer(
        part=part,
        device=said.device,
        rows=said.rows,
        unpacked_bytes=said.unpacked_bytes,
        first_s=said.first_s,
        last_s=said.last_s,
    )
    return _Opened(stream=stream, end=end, groups=said.groups, version=said.version, footer=footer)


def _parquet(device: Device, table: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = {schema.VERSION_KEY: str(schema.VERSION), schema.DEVICE_KEY: schema.device_text(device)}
    plain = schema.arrow_schema(in_file=True).with_metadata(metadata)
    ordered = schema.by_layer(table)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, plain, compression="zstd", use_dictionary=list(schema.WORDS), write_page_checksum=True
    ) as writer:
        for start in range(0, ordered.num_rows, _ROWS_PER_GROUP):
            writer.write_table(ordered.slice(start, _ROWS_PER_GROUP).cast(plain))
    return sink.getvalue()
