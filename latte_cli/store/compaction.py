"""Compaction: many small parts of a device become one, and no moment loses a row."""

import hashlib
from collections.abc import Iterable, Sequence

from latte_cli.store import schema
from latte_cli.store.parts import Part, PartDirectory

MANY_PARTS = 32  # chosen: each costs a request on an object store
"""So many small parts are worth merging."""

_SMALL_BYTES = 16 * 2**20  # chosen: reading a part then outweighs opening it


def compact_parts(directory: PartDirectory, slug: str) -> int:
    """Merge all parts of a device into one; returns how many there were. Raises LatteError for a damaged part."""
    with directory.lock(wait=True):
        parts = directory.parts(slug)
        _join(directory, parts)
    return len(parts)


def tidy(directory: PartDirectory, slug: str, *, wait: bool) -> None:
    """Merge the small parts of a device if there are many; without `wait`, leave it to whoever is at it."""
    if len(_small(directory, slug)) < MANY_PARTS:
        return
    with directory.lock(wait=wait) as held:
        small = _small(directory, slug) if held else ()
        if len(small) >= MANY_PARTS:
            _join(directory, small)


def _small(directory: PartDirectory, slug: str) -> tuple[Part, ...]:
    return tuple(part for part in directory.parts(slug) if part.size_bytes < _SMALL_BYTES)


def _join(directory: PartDirectory, parts: Sequence[Part]) -> None:
    """Write what `parts` hold as one part, then delete them.

    The new part is there before the first old one goes, and readers drop duplicates. A part that vanished (another
    process merged it) ends this with FileNotFoundError before anything is written.
    """
    if len(parts) < 2:
        return
    newest = max((directory.footer(part) for part in parts), key=lambda footer: footer.last_s)
    rows = schema.join_tables([directory.read(part, columns=schema.COLUMNS) for part in parts])
    directory.write(newest.device, digest_of_texts(part.name for part in parts), schema.latest(rows))
    for part in parts:
        directory.remove(part)


def digest_of_texts(texts: Iterable[str]) -> str:
    """16 hexadecimal digits that are the same for the same texts."""
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()
