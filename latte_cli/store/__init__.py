"""The dataset store: measurements as immutable Parquet parts in a directory or an object store."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeVar

from latte_cli.devices import Device
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.files import ExportFormat
from latte_cli.layers import Layer, Phase
from latte_cli.measure import Measurement
from latte_cli.store import compaction, export, journal, reading, schema
from latte_cli.store.compaction import Skip
from latte_cli.store.parts import Damaged, Footer, Part, PartDirectory, Unreadable, steadily
from latte_cli.store.shipped import shipped_models, shipped_profiles
from latte_cli.store.writer import Writer

__all__ = [
    "DeviceInfo",
    "Findings",
    "JournalInfo",
    "Store",
    "StoreInfo",
    "Writer",
    "open_store",
    "shipped_models",
    "shipped_profiles",
]

_T = TypeVar("_T")
_KEYS = ("task_id", "pass", "measured_at")
_ROWS_TO_WRITE = 50_000  # chosen: as a writer seals


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """What a store has of one device: rows with duplicates, times in seconds since the epoch."""

    device: Device
    rows: int
    parts: int
    size_bytes: int
    first_s: float
    last_s: float
    shipped: bool


@dataclass(frozen=True, kw_only=True)
class JournalInfo:
    """A journal on this machine: `live` while its writer runs, else it waits for the next writer to recover it."""

    path: Path
    rows: int
    live: bool


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What a store holds, its shipped profiles included."""

    uri: str
    schema: int
    devices: tuple[DeviceInfo, ...]
    journals: tuple[JournalInfo, ...]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What `Store.check` read, and what is wrong: (part, problem) for each damaged part, and where those moved.

    `unreadable` are other parts that cannot be read here, as those of a newer version; they are left where they are.
    """

    parts: int
    rows: int
    duplicates: int
    damaged: tuple[tuple[str, str], ...]
    unreadable: tuple[tuple[str, str], ...]
    set_aside: tuple[str, ...]


class Store:
    """Measurements by device; rows of the shipped profiles are read behind the store's own.

    Every reading method drops duplicates: of rows with the same device, task and pass the one measured last stays,
    and one that is ahead of this machine's clock where there is no other.
    All raise LatteError for a part that is damaged or of a newer schema (unless the store was opened to skip those),
    and for a place that cannot be read.
    """

    def __init__(
        self, directory: PartDirectory, behind: Sequence[PartDirectory] = (), *, skip: Skip | None = None
    ) -> None:
        """See `open_store`."""
        self._directory = directory
        self._directories = (*behind, directory)
        self._skip = skip
        self._skipped: dict[str, Unreadable] = {}

    @property
    def uri(self) -> str:
        """Where the store is, to be shown: a path, or a URI without its secrets."""
        return self._directory.uri

    @property
    def missing(self) -> bool:
        """Whether its folder is not there yet; a remote store is not looked for."""
        return self._directory.local is not None and not self._directory.local.is_dir()

    @property
    def full_uri(self) -> str:
        """Where the store is, with its credentials: for the environment of another process, never to be shown."""
        return self._directory.full_uri

    @property
    def models_dir(self) -> Path | None:
        """The folder for artefacts fitted on this store's rows; None for a remote store."""
        return self._directory.local / ".models" if self._directory.local else None

    @property
    def skipped_parts(self) -> tuple[tuple[str, str], ...]:
        """(part, problem) for each part that was left out so far."""
        return tuple((name, error.problem) for name, error in self._skipped.items())

    def devices(self, *, own: bool = False) -> tuple[Device, ...]:
        """The devices with rows, as their newest part describes them, in the order of their slugs.

        `own` leaves out those that are only shipped.
        """
        found = (self._newest(slug) for slug in (self._directory.slugs() if own else self._slugs()))
        return tuple(device for device in found if device)

    def device(self, slug: str) -> Device:
        """The device named `slug`; raises LatteError with the nearest name where there is none."""
        device = self._newest(slug)
        if device is None:
            raise self._unknown(slug)
        return device

    def _unknown(self, slug: str) -> LatteError:
        slugs = self._slugs()
        if slug in slugs:
            return LatteError(
                f"no part of `{slug}` can be read", hint="`latte store check` says what is wrong with each"
            )
        there = f"available profiles: {', '.join(slugs)}" if slugs else f"`{self.uri}` has no profile yet"
        hint = f"{there}; `latte profile --budget 2m` makes one of this machine"
        error = unknown("device", slug, slugs, hint=hint, exit_code=ExitCode.BAD_INPUT)
        error.hint = hint if error.hint == hint else f"{error.hint} {hint}"
        return error

    def _slugs(self) -> tuple[str, ...]:
        return tuple(
            sorted({slug for directory in self._directories for slug in directory.slugs() if directory.parts(slug)})
        )

    def _newest(self, slug: str) -> Device | None:
        footers = [footer for _, footer in self._footers(slug)]
        return self._last(footers).device if footers else None

    def _last(self, footers: Iterable[Footer]) -> Footer:
        """The newest footer by its last row."""
        return min(footers, key=lambda footer: schema.age_s(footer.last_s, self._directory.until_s))

    def _footers(self, slug: str) -> list[tuple[PartDirectory, Footer]]:
        return self._each(slug, lambda directory, part: (directory, directory.footer(part)))

    def _each(self, slug: str, read: Callable[[PartDirectory, Part], _T]) -> list[_T]:
        """`read` of every part of a device, shipped ones first."""

        def attempt() -> list[_T]:
            return [
                found
                for directory, part in self._parts_with_directories(slug)
                for found in self._whole(read, directory, part)
            ]

        return steadily(attempt)

    def _parts_with_directories(self, slug: str) -> list[tuple[PartDirectory, Part]]:
        return [(directory, part) for directory in self._directories for part in directory.parts(slug)]

    def _whole(self, read: Callable[[PartDirectory, Part], _T], directory: PartDirectory, part: Part) -> tuple[_T, ...]:
        try:
            return (read(directory, part),)
        except Unreadable as error:
            self._leave_out(error)
            return ()

    def _leave_out(self, error: Unreadable) -> None:
        """Take note once of a part that is left out; raises it where nobody asked to skip parts."""
        if self._skip is None:
            raise error
        if error.part.name not in self._skipped:
            self._skipped[error.part.name] = error
            self._skip(error)

    def writer(
        self,
        device: Device,
        *,
        seal_every_s: float = 30,
        clock: Callable[[], float] = time.monotonic,
        journal_dir: Path | None = None,
    ) -> Writer:
        """A context manager whose `append` adds measurements of `device`; recovers what killed writers left.

        Rows become a part every `seal_every_s` seconds and at the end. Raises LatteError where the store or the
        journal cannot be written.
        """
        return Writer(self._directory, device, seal_every_s=seal_every_s, clock=clock, journal_dir=journal_dir)

    def measurements(
        self,
        slug: str,
        *,
        layers: Iterable[Layer] | None = None,
        phases: Collection[Phase] | None = None,
        kinds: Collection[str] | None = None,
    ) -> list[Measurement]:
        """The rows of a device, of some layers, phases and layer kinds only, in the order of (task id, pass).

        Raises LatteError for a device that is not there.
        """
        device = self.device(slug)
        ids = None if layers is None else {schema.layer_id(layer) for layer in layers}
        wanted = {"phase": phases, "kind": kinds}
        table = self._rows(slug, layer_ids=ids, among={name: each for name, each in wanted.items() if each is not None})
        until_s = self._directory.until_s
        return reading.measurements(schema.latest(table, until_s=until_s), device, until_s=until_s)

    def table(self, slug: str | None = None, columns: Iterable[str] | None = None) -> Any:
        """A pyarrow.Table of the rows of a device, or of all devices, with the column `device` added.

        `columns` are names of the part's columns (default: all), rows are in the order of (device, task id, pass).
        Raises LatteError for a device or a column that is not there.
        """
        wanted = schema.COLUMNS if columns is None else tuple(columns)
        for name in wanted:
            if name not in schema.COLUMNS and name != "device":
                raise unknown("column", name, schema.COLUMNS)
        if slug is not None:
            self.device(slug)
        slugs = self._slugs() if slug is None else (slug,)
        tables = [schema.with_device(self._latest(self._rows(each, ids=True)), each) for each in slugs]
        return schema.join_tables([schema.with_device(schema.empty(), ""), *tables]).select(
            ["device", *(name for name in wanted if name != "device")]
        )

    def _latest(self, table: Any) -> Any:
        return schema.latest(table, until_s=self._directory.until_s)

    def _rows(
        self,
        slug: str,
        *,
        layer_ids: Collection[str] | None = None,
        among: Mapping[str, Collection[str]] = MappingProxyType({}),
        ids: bool = False,
    ) -> Any:
        """All rows of a device, duplicates included, whose text in each column of `among` is one of those given."""

        def read(directory: PartDirectory, part: Part) -> Any:
            table = directory.read(part, layer_ids=layer_ids, ids=ids)
            for column, wanted in among.items():  # of each part at once: a phase of a million rows is held alone
                table = schema.among(table, column, wanted)
            return table

        return schema.join_tables([schema.empty(), *self._each(slug, read)])

    def fingerprint(self, slug: str) -> str:
        """Names the set of parts that a device has now; another one means that rows came or went."""
        parts = (part for directory in self._directories for part in directory.parts(slug))
        return compaction.digest_of_texts(f"{part.name} {part.size_bytes}" for part in parts)

    def located_parts(self, slug: str) -> tuple[tuple[str, str, int], ...]:
        """(place, name, bytes) of each part that a device has now: equal where two stores read the same rows."""
        return tuple(
            (directory.identity, part.name, part.size_bytes) for directory, part in self._parts_with_directories(slug)
        )

    def info(self) -> StoreInfo:
        """What the store holds, from the footers of its parts alone."""
        devices = tuple(info for slug in self._slugs() for info in self._device_info(slug))
        return StoreInfo(uri=self.uri, schema=schema.VERSION, devices=devices, journals=self.journals())

    def _device_info(self, slug: str) -> tuple[DeviceInfo, ...]:
        found = self._footers(slug)
        if not found:
            return ()
        footers = [footer for _, footer in found]
        return (
            DeviceInfo(
                device=self._last(footers).device,
                rows=sum(footer.rows for footer in footers),
                parts=len(footers),
                size_bytes=sum(footer.part.size_bytes for footer in footers),
                first_s=min(footer.first_s for footer in footers),
                last_s=max(footer.last_s for footer in footers),
                shipped=all(directory is not self._directory for directory, _ in found),
            ),
        )

    def journals(self) -> tuple[JournalInfo, ...]:
        """The journals on this machine whose rows are not yet parts of the store."""
        found = []
        for path in sorted(journal.journals_dir(self._directory.identity).glob("*.journal")):
            with suppress(FileNotFoundError):
                rows = max(0, len(journal.lines(path)[0]) - 1)
                found.append(JournalInfo(path=path, rows=rows, live=journal.is_live(path)))
        return tuple(found)

    def check(self, *, set_aside: bool = False) -> Findings:
        """Read every part of the store's own whole; `set_aside` moves damaged ones to its folder `.damaged`."""
        faults: list[Unreadable] = []
        parts = rows = distinct = 0
        for slug in self._directory.slugs():
            tables, more = steadily(partial(self._check, slug))
            faults += more
            parts += len(tables)
            rows += sum(table.num_rows for table in tables)
            distinct += self._latest(schema.join_tables([schema.empty().select(_KEYS), *tables])).num_rows
        damaged = [fault for fault in faults if isinstance(fault, Damaged)]
        return Findings(
            parts=parts,
            rows=rows,
            duplicates=rows - distinct,
            damaged=tuple((fault.part.name, fault.problem) for fault in damaged),
            unreadable=tuple((fault.part.name, fault.problem) for fault in faults if fault not in damaged),
            set_aside=tuple(self._directory.set_aside(fault.part) for fault in damaged if set_aside),
        )

    def _check(self, slug: str) -> tuple[list[Any], list[Unreadable]]:
        """The keys of each part that can be read whole, and what is wrong with the others."""
        tables, faults = [], []
        for part in self._directory.parts(slug):
            try:
                self._directory.footer(part)
                tables.append(self._directory.read(part, ids=True).select(_KEYS))
            except Unreadable as fault:
                faults.append(fault)
        return tables, faults

    def compact(self, slug: str | None = None) -> int:
        """Merge the parts of a device, or of each, into one or as few as hold them; returns how many were merged.

        Parts that cannot be read are left where they are, if the store was opened to skip them.
        """
        slugs = self._directory.slugs() if slug is None else (self.device(slug).slug,)
        return sum(
            steadily(partial(compaction.compact_parts, self._directory, each, self._leave_out)) for each in slugs
        )

    def merge(self, source_uri: str) -> dict[str, int]:
        """Add the rows of another store that this one lacks; returns how many were added of each device.

        Raises LatteError where the other store has none, and as reading and writing do.
        """
        source = open_store(source_uri, shipped=False, skip=self._skip)
        slugs = source._slugs()
        if not slugs:
            raise LatteError(f"no profiles in `{source.uri}`", hint="`latte store devices --store URI` lists them")
        return {slug: self._merge_device(source, slug) for slug in slugs}

    def _merge_device(self, source: "Store", slug: str) -> int:
        until_s = self._directory.until_s
        own = {key[:2]: schema.age_s(key[2], until_s) for key in _key_rows(self._latest(self._rows(slug, ids=True)))}
        theirs = self._latest(source._rows(slug, ids=True))
        fresh = [
            (at, key)
            for at, key in enumerate(_key_rows(theirs))
            if schema.age_s(key[2], until_s) < own.get(key[:2], float("inf"))
        ]
        for start in range(0, len(fresh), _ROWS_TO_WRITE):
            rows = fresh[start : start + _ROWS_TO_WRITE]
            name = compaction.digest_of_texts(f"{slug} {key}" for _, key in rows)
            self._directory.write(source.device(slug), name, schema.rows_at(theirs, [at for at, _ in rows]))
        return len(fresh)

    def export(self, slug: str | None, form: ExportFormat, out: BinaryIO) -> int:
        """Write the rows of a device, or of all, to `out` as one table; returns how many there were."""
        table = self.table(slug)
        export.WRITERS[form](table, out)
        return int(table.num_rows)


def _key_rows(table: Any) -> Iterator[tuple[str, int, float]]:
    return zip(*(table.column(name).to_pylist() for name in _KEYS), strict=True)


def open_store(uri: str | None = None, *, shipped: bool = True, skip: Skip | None = None) -> Store:
    """The store at `uri`: a local path or a URI that pyarrow.fs opens, by default $LATTE_STORE or the user's data.

    The profiles shipped with the package are read behind it if `shipped`. With `skip`, parts that are damaged or of a
    newer schema are left out: it is told of each once, as an error with a hint. Raises LatteError for a URI that cannot
    be opened; a directory that is not there yet is an empty store.
    """
    directory = PartDirectory(uri or os.environ.get("LATTE_STORE") or _default())
    profiles = shipped_profiles() if shipped else None
    behind = [PartDirectory(profiles)] if profiles and profiles != directory.local else []
    return Store(directory, behind, skip=skip)


def _default() -> str:
    import platformdirs

    return str(Path(platformdirs.user_data_dir("latte")) / "store")
