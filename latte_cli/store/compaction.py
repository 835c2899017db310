"""Compaction: many small parts of a device become one, and no moment loses a row."""

import hashlib
from collections.abc import Iterable, Sequence

from latte_cli.store import schema
from latte_cli.store.parts import Part, Place

MANY_PARTS = 32  # chosen: each costs a request on an object store
"""So many small parts are worth merging."""

_SMALL_BYTES = 16 * 2**20  # chosen: reading a part then outweighs opening it


def compact(place: Place, slug: str) -> int:
    """Merge all parts of a device into one; returns how many there were. Raises LatteError for a damaged part."""
    with place.locked(wait=True):
        parts = place.parts(slug)
        _join(place, parts)
    return len(parts)


def tidy(place: Place, slug: str, *, wait: bool) -> None:
    """Merge the small parts of a device if there are many; without `wait`, leave it to whoever is at it."""
    if len(_small(place, slug)) < MANY_PARTS:
        return
    with place.locked(wait=wait) as held:
        small = _small(place, slug) if held else ()
        if len(small) >= MANY_PARTS:
            _join(place, small)


def _small(place: Place, slug: str) -> tuple[Part, ...]:
    return tuple(part for part in place.parts(slug) if part.size_bytes < _SMALL_BYTES)


def _join(place: Place, parts: Sequence[Part]) -> None:
    """Write what `parts` hold as one part, then delete them.

    The new part is there before the first old one goes, and readers drop duplicates. A part that vanished (another
    process merged it) ends this with FileNotFoundError before anything is written.
    """
    if len(parts) < 2:
        return
    newest = max((place.footer(part) for part in parts), key=lambda footer: footer.last_s)
    rows = schema.joined([place.read(part, columns=schema.COLUMNS) for part in parts])
    place.write(newest.device, digest(part.name for part in parts), schema.latest(rows))
    for part in parts:
        place.remove(part)


def digest(texts: Iterable[str]) -> str:
    """16 hexadecimal digits that are the same for the same texts."""
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()
