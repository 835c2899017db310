"""Compaction: many small parts of a device become one, and no moment loses a row."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from latte_cli.store import checks, schema
from latte_cli.store.parts import Ahead, Footer, Part, PartDirectory, Unreadable

_T = TypeVar("_T")

Skip: TypeAlias = Callable[[Unreadable], None]
"""Takes note of a part that is left out, or raises the error."""

MANY_PARTS = 32  # chosen: each costs a request on an object store
"""So many small parts are worth merging."""

_SMALL_BYTES = 16 * 2**20  # chosen: reading a part then outweighs opening it


def compact_parts(directory: PartDirectory, slug: str, skip: Skip) -> int:
    """Merge the parts of a device into one, or into as few as hold them; returns how many were merged.

    A part that cannot be read whole stays where it is, and `skip` gets the error; what it raises ends
    this.
    """
    with directory.lock(wait=True):
        return _join(directory, directory.parts(slug), skip)


def tidy(directory: PartDirectory, slug: str, *, wait: bool) -> None:
    """Merge the small parts of a device if there are many; without `wait`, leave it to whoever is at it."""
    if len(_small(directory, slug)) < MANY_PARTS:
        return
    with directory.lock(wait=wait) as held:
        small = _small(directory, slug) if held else ()
        if len(small) >= MANY_PARTS:
            _join(directory, small, lambda error: None)  # the next reader of the store is told


def _small(directory: PartDirectory, slug: str) -> tuple[Part, ...]:
    return tuple(part for part in directory.parts(slug) if part.size_bytes < _SMALL_BYTES)


def _join(directory: PartDirectory, parts: Sequence[Part], skip: Skip) -> int:
    """Write what `parts` hold as few parts, then delete those that were read whole; returns how many these were.

    A new part is there before the first old one goes, and readers drop duplicates. A part that vanished (another
    process merged it) ends this with FileNotFoundError; what was merged before stays merged.
    """
    footers = [footer for part in parts for footer in _readable(part, directory.footer, skip)]
    return sum(_join_batch(directory, batch, skip) for batch in _batches(footers))


def _join_batch(directory: PartDirectory, batch: Sequence[Footer], skip: Skip) -> int:
    read = partial(_timely, directory)
    whole = [(footer, table) for footer in batch for table in _readable(footer.part, read, skip)]
    if len(whole) > 1:
        newest = max((footer for footer, _ in whole), key=lambda footer: footer.last_s)
        rows = schema.latest(schema.join_tables([table for _, table in whole]), until_s=directory.until_s)
        directory.write(newest.device, digest_of_texts(footer.part.name for footer, _ in whole), rows)
        for footer, _ in whole:
            directory.remove(footer.part)
    return len(whole)


def _timely(directory: PartDirectory, part: Part) -> Any:
    """The rows of a part; raises Ahead where some are ahead of the clock, and others may be the newer ones."""
    table = directory.read(part, ids=True)
    if schema.last_moment_s(table) > directory.until_s:
        raise Ahead(part)
    return table


def _readable(part: Part, read: Callable[[Part], _T], skip: Skip) -> tuple[_T, ...]:
    """What `read` makes of a part; nothing where `skip` takes note that it cannot be read."""
    try:
        return (read(part),)
    except Unreadable as error:
        skip(error)
        return ()


def _batches(footers: Sequence[Footer]) -> Iterator[list[Footer]]:
    """The parts that become one together: no more than are read of one part."""
    batch: list[Footer] = []
    rows = size = 0
    for footer in footers:
        rows, size = rows + footer.rows, size + footer.unpacked_bytes
        if rows > checks.MOST_ROWS or size > checks.MOST_BYTES:
            yield batch
            batch, rows, size = [], footer.rows, footer.unpacked_bytes
        batch.append(footer)
    yield batch


def digest_of_texts(texts: Iterable[str]) -> str:
    """16 hexadecimal digits that are the same for the same texts."""
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()
