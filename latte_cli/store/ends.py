"""The ends of parts: what a Parquet file says of itself, read without Arrow, which some damage brings down."""

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from latte_cli.devices import Device
from latte_cli.store import checks, schema
from latte_cli.store.chunks import MARK, Group, bounds, describe

_READ_AHEAD_BYTES = 2**16  # chosen: as Arrow, which finds most footers in one request so
_TAIL = struct.Struct("<I4x")  # the length of the footer before it, and MARK


@dataclass(frozen=True, kw_only=True)
class PartSaid:
    """What the end of a file says of it: what a reader needs first; of a newer schema the version alone."""

    version: int
    device: Device | None = None
    groups: tuple[Group, ...] = ()
    rows: int = 0
    unpacked_bytes: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


@lru_cache(maxsize=16)  # chosen: a command reads the footers of a few parts up to nine times each
def said_by(end: bytes) -> PartSaid:
    """What the `end` of a part says; raises ValueError for that of another file."""
    described = describe(end[: -_TAIL.size])
    said = described.said
    if not {schema.VERSION_KEY, schema.DEVICE_KEY} <= set(said):
        raise ValueError("it is no part of a store")
    version = int(said[schema.VERSION_KEY])
    if version > schema.VERSION:
        return PartSaid(version=version)
    if version < 1:
        raise ValueError(f"there is no schema {version}")
    unpacked_bytes, groups = checks.check_footer(described, version)
    moments_s = bounds(groups, "measured_at")
    return PartSaid(
        version=version,
        device=schema.device_from_text(said[schema.DEVICE_KEY].decode()),
        groups=tuple(groups),
        rows=described.rows,
        unpacked_bytes=unpacked_bytes,
        first_s=min(moments_s, default=0.0),
        last_s=max(moments_s, default=0.0),
    )


def end_of(stream: Any) -> bytes:
    """The end of a Parquet file, from where its footer begins; raises ValueError for another file."""
    size = stream.size()
    if size > checks.MOST_BYTES:
        raise ValueError(f"it takes {size:,} bytes, where {checks.MOST_BYTES:,} are read")
    end: bytes = stream.read_at(min(size, _READ_AHEAD_BYTES), max(0, size - _READ_AHEAD_BYTES))
    if not end.endswith(MARK) or len(end) < _TAIL.size:
        raise ValueError("it is not a Parquet file")
    length = _TAIL.size + _TAIL.unpack(end[-_TAIL.size :])[0]
    if length > min(size, checks.MOST_FOOTER_BYTES):
        raise ValueError(f"its footer takes {length:,} bytes, it says")
    return end[-length:] if length <= len(end) else stream.read_at(length, size - length)
