"""Writing: measurements go to a journal, the journal becomes parts, small parts become large ones."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from latte_cli.devices import Device
from latte_cli.errors import LatteError
from latte_cli.measure import Measurement
from latte_cli.store import checks, schema
from latte_cli.store import journal as journals
from latte_cli.store.compaction import MANY_PARTS, tidy
from latte_cli.store.parts import PartDirectory

_ROWS_TO_SEAL = 50_000  # chosen: bounds the rows held in memory


class Writer:
    """Adds measurements of one device to a store; any number of writers may do so at once.

    A measurement that `append` took is in the store after `seal` or `close`, or, if the process is killed before,
    after the next writer of the same store is opened on this machine.
    """

    def __init__(
        self,
        directory: PartDirectory,
        device: Device,
        *,
        seal_every_s: float,
        clock: Callable[[], float],
        journal_dir: Path | None,
    ) -> None:
        """Recover what killed writers of this store left behind, then begin a journal in `journal_dir`."""
        directory.prepare(device.slug)
        folder = journal_dir or journals.journals_dir(directory.identity)
        recover(directory, folder)
        self._directory, self._device = directory, device
        self._seal_every_s, self._clock = seal_every_s, clock
        self._sequence = 0
        self._journal = journals.Journal.create(folder, self._head())
        self._rows: list[dict[str, Any]] = []
        self._first_s = 0.0
        self._closed = False

    def _head(self) -> dict[str, Any]:
        return {
            "schema": schema.VERSION,
            "store": self._directory.uri,
            "device": schema.device_text(self._device),
            "sequence": self._sequence,
        }

    def append(self, measurement: Measurement) -> None:
        """Add one measurement; it outlives the process from here on.

        Raises LatteError where the disk is full, and ValueError for a measurement of another device or with numbers
        that no clock gives, which would make a whole part unreadable.
        """
        row = self._own(measurement)
        checks.check_numbers(row)
        self._journal.append(row)
        if not self._rows:
            self._first_s = self._clock()
        self._rows.append(row)
        if len(self._rows) >= _ROWS_TO_SEAL or self._clock() - self._first_s >= self._seal_every_s:
            self.seal()

    def extend(self, measurements: Iterable[Measurement]) -> None:
        """Add many measurements that can be had again: they are in the store when this returns, and need no journal.

        Raises as `append` does, and LatteError for rows that no store would read; whole parts that were written before
        stay.
        """
        self.seal()
        rows = (self._own(measurement) for measurement in measurements)
        while chunk := list(islice(rows, _ROWS_TO_SEAL)):
            table = schema.table(chunk)
            try:
                checks.check_rows(table, until_s=checks.latest_moment_s(time.time()))
            except ValueError as exc:
                hint = "look at the file, its date, and this machine's clock"
                raise LatteError(f"rows of `{self._device.slug}` are not kept: {exc}", hint=hint) from exc
            self._write(table)

    def _own(self, measurement: Measurement) -> dict[str, Any]:
        if measurement.device.slug != self._device.slug:
            raise ValueError(f"a measurement of {measurement.device.slug} in a writer of {self._device.slug}")
        return schema.row(measurement)

    def seal(self) -> None:
        """Make the journal's rows a part of the store; on LatteError they stay in the journal."""
        if not self._rows:
            return
        self._write(_table(self._rows))
        self._rows.clear()

    def _write(self, table: Any) -> None:
        # The name follows from the journal: sealing again after a crash writes the same part over itself.
        self._directory.write(self._device, _name(self._journal, self._sequence), table)
        self._sequence += 1
        self._journal.restart(self._head())
        if self._sequence % MANY_PARTS == 0:
            self._tidy(wait=False)

    def close(self) -> None:
        """Seal and let go of the journal, which is kept if it could not be sealed; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.seal()
        finally:
            self._journal.close(drop=not self._rows)
        self._tidy(wait=True)

    def _tidy(self, *, wait: bool) -> None:
        # A damaged part must not end a sweep: the next reader of the store names it.
        with suppress(LatteError, FileNotFoundError):
            tidy(self._directory, self._device.slug, wait=wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        with suppress(LatteError):
            self.close()


def recover(directory: PartDirectory, folder: Path) -> int:
    """Seal the journals that killed writers left in `folder`; returns how many rows they held.

    A journal with lines that cannot be read is kept beside, as `<id>.damaged`, once its other rows are sealed; one of
    a newer schema is left for its own version.
    """
    return sum(_recover(directory, journal) for journal in journals.orphans(folder))


def _recover(directory: PartDirectory, journal: journals.Journal) -> int:
    import pyarrow as pa

    found, damaged = journals.lines(journal.path)
    head, rows = (found[0], found[1:]) if found else ({}, [])
    newer = head.get("schema", 0) > schema.VERSION
    try:
        if rows and not newer:
            table = _table(rows)
            device = schema.device_from_text(head["device"])
            directory.write(device, _name(journal, head["sequence"]), table)
    except (pa.ArrowException, ValueError, KeyError, OverflowError):
        damaged, rows = 1, []
    except LatteError:
        journal.close(drop=False)
        raise
    if damaged:
        journal.set_aside()
    else:
        journal.close(drop=not newer)
    return len(rows)


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The rows of a journal as a part has them.

    Where a clock that was ahead has been set back since, a row is of this moment: it would give way to older ones.
    """
    now_s = time.time()
    latest_s = checks.latest_moment_s(now_s)
    return schema.table(
        [row if float(row["measured_at"]) <= latest_s else {**row, "measured_at": now_s} for row in rows]
    )


def _name(journal: journals.Journal, sequence: int) -> str:
    return f"{journal.id}-{sequence:05d}"
