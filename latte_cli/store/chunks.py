"""Chunks: the values of one column in one row group of a Parquet file, as its footer and its pages describe them.

Structs and their numbers are those of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

import mmap
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from latte_cli.store import thrift
from latte_cli.store.thrift import BINARY, I32, I64, LIST, STRUCT, key

PLAIN, RLE, BIT_PACKED = 0, 3, 4
"""The encodings of values in which each takes its own length."""

_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
MARK = b"PAR1"
"""How a Parquet file begins and ends."""

_ARROW = b"ARROW:schema"
_ROWS_FIELD = 3
_ROWS, _GROUPS, _TEXTS = key(_ROWS_FIELD, I64), key(4, LIST), key(5, LIST)
_KEY, _TEXT = key(1, BINARY), key(2, BINARY)
_COLUMNS = key(1, LIST)
_FILE_PATH, _META, _CRYPTO = key(1, BINARY), key(3, STRUCT), key(8, STRUCT)
_ENCODINGS, _PATH, _VALUES, _SIZE, _PACKED_SIZE = key(2, LIST), key(3, LIST), key(5, I64), key(6, I64), key(7, I64)
_DATA_AT, _INDEX_AT, _DICTIONARY_AT, _STATISTICS = key(9, I64), key(10, I64), key(11, I64), key(12, STRUCT)
_GREATEST, _LEAST = key(5, BINARY), key(6, BINARY)
_PAGE, _PAGE_SIZE, _PAGE_PACKED = key(1, I32), key(2, I32), key(3, I32)
_HEADERS = {_DATA: key(5, STRUCT), _DICTIONARY: key(7, STRUCT), _DATA_V2: key(8, STRUCT)}
_ENCODING = {_DATA: key(2, I32), _DICTIONARY: key(2, I32), _DATA_V2: key(4, I32)}
_COUNT = key(1, I32)
_DOUBLE = struct.Struct("<d")


class Chunk(NamedTuple):
    """What a footer says of one: how many values (nothing counts too) its pages unpack to, and where these lie.

    `size_bytes` is that of the unpacked pages, `start` and `end` the packed ones' place in the file; `least` and
    `greatest` bound the values, in Parquet's plain encoding, where the footer has them.
    """

    values: int
    encodings: frozenset[int]
    size_bytes: int
    start: int
    end: int
    least: bytes | None
    greatest: bytes | None


class Group(NamedTuple):
    """A row group: its rows, and the chunk of each column by the column's path."""

    rows: int
    chunks: Mapping[str, Chunk]


class FileMetadata(NamedTuple):
    """What a footer says of its file: its rows, the texts that its writer added, its row groups as they are there.

    `columns` is an empty file of the same columns, the same for all files of the same.
    """

    rows: int
    said: Mapping[bytes, bytes]
    groups: Sequence[dict[int, Any]]
    columns: bytes


def describe(footer: bytes) -> FileMetadata:
    """What a footer says; raises ValueError for other bytes."""
    _, at = thrift.read_struct(footer, before=_ROWS_FIELD)
    found, _ = thrift.read_struct(footer, at, after=_ROWS_FIELD - 1)
    texts = [(each.get(_KEY, b""), each.get(_TEXT, b"")) for each in found.get(_TEXTS, ())]
    said = dict(texts)
    if len(said) < len(texts):
        raise ValueError("it says something of itself twice")
    return FileMetadata(found.get(_ROWS, -1), said, found.get(_GROUPS, ()), _empty_file(footer[:at], said.get(_ARROW)))


def _empty_file(columns: bytes, arrow: bytes | None) -> bytes:
    text = b"" if arrow is None else b"\x19\x1c\x18" + thrift.binary(_ARROW) + b"\x18" + thrift.binary(arrow) + b"\0"
    footer = columns + b"\x16\0" + b"\x19\x0c" + text + b"\0"  # no rows, no groups, a list of one text
    return b"".join((MARK, footer, len(footer).to_bytes(4, "little"), MARK))


def row_groups(groups: Sequence[dict[int, Any]], paths: Sequence[str]) -> list[Group]:
    """The row groups of a footer; raises ValueError where they have other columns than those of these paths."""
    return [_group(each, paths) for each in groups]


def _group(group: dict[int, Any], paths: Sequence[str]) -> Group:
    chunks, rows = group.get(_COLUMNS, ()), group.get(_ROWS, -1)
    if rows < 0 or len(chunks) != len(paths):
        raise ValueError("a row group has other rows or columns than its schema")
    return Group(rows, {path: _chunk(each, path) for path, each in zip(paths, chunks, strict=True)})


def _chunk(chunk: dict[int, Any], path: str) -> Chunk:
    meta: dict[int, Any] = chunk.get(_META, {})
    get = meta.get
    values, size, packed, start = get(_VALUES, -1), get(_SIZE, -1), get(_PACKED_SIZE, -1), get(_DATA_AT, -1)
    dictionary_at, statistics = get(_DICTIONARY_AT, 0), get(_STATISTICS, {})
    if min(values, size, packed, start, dictionary_at) < 0 or _FILE_PATH in chunk or _CRYPTO in chunk:
        raise ValueError(f"its column `{path}` does not say where it lies")
    if b".".join(get(_PATH, ())).decode() != path:
        raise ValueError(f"its column `{path}` has another name in a row group")
    start = dictionary_at if 0 < dictionary_at < start else start
    encodings = frozenset(get(_ENCODINGS, ()))
    return Chunk(values, encodings, size, start, start + packed, statistics.get(_LEAST), statistics.get(_GREATEST))


def check_pages(chunk: Chunk, content: bytes) -> None:
    """Raise ValueError where the pages of a chunk, `content`, are not as many and as large as the footer says.

    Memory is taken by what a page says of itself, which is bounded with what the footer says.
    """
    values = unpacked = 0
    for kind, header, size, header_bytes in _pages(content):
        count = header.get(_COUNT, -1)
        if count < 0 or (kind == _DICTIONARY and count > size):
            raise ValueError("a page says that it holds more than it can")
        if header.get(_ENCODING[kind]) not in chunk.encodings:
            raise ValueError("a page is encoded otherwise than its footer says")
        unpacked += size + header_bytes
        values += count if kind != _DICTIONARY else 0
    if values != chunk.values or unpacked > chunk.size_bytes:
        raise ValueError(f"its pages hold {values:,} values in {unpacked:,} bytes, where its footer says other numbers")


def _pages(content: bytes) -> Iterator[tuple[int, dict[int, Any], int, int]]:
    """Of each page of a chunk: its kind, the struct of that kind, its unpacked size, and that of its header."""
    at = 0
    while at < len(content):
        page, start = thrift.read_struct(content, at)
        kind, size, packed = page.get(_PAGE, -1), page.get(_PAGE_SIZE, -1), page.get(_PAGE_PACKED, -1)
        if kind not in _HEADERS or min(size, packed) < 0 or start + packed > len(content):
            raise ValueError("a page is none")
        yield kind, page.get(_HEADERS[kind], {}), size, start - at
        at = start + packed


def groups_with(groups: Sequence[Group], path: str, texts: Collection[str]) -> list[int]:
    """The row groups in which a column may hold one of `texts`, by what the footer says of its least and greatest."""
    wanted = sorted(texts)

    def may_hold(chunk: Chunk) -> bool:
        if chunk.least is None or chunk.greatest is None:
            return True
        return bisect_left(wanted, chunk.least.decode()) < bisect_right(wanted, chunk.greatest.decode())

    return [at for at, group in enumerate(groups) if may_hold(group.chunks[path])]


def bounds(groups: Sequence[Group], path: str) -> list[float]:
    """The least and the greatest number of a column of 64-bit floats in each row group, where the footer says so."""
    chunks = [group.chunks[path] for group in groups]
    known = [each for chunk in chunks for each in (chunk.least, chunk.greatest) if each is not None]
    if any(len(each) != _DOUBLE.size for each in known):
        raise ValueError(f"its column `{path}` has no number for its least or greatest")
    return [_DOUBLE.unpack(each)[0] for each in known]


def fetch(stream: Any, end: bytes, groups: Sequence[Group]) -> Any:
    """A file as large as `stream` with its `end` and the pages of some row groups, once these have been checked.

    They are fetched once, by the group: Arrow asks an object store for each column, and another answer may come then.
    """
    size = stream.size()
    content = mmap.mmap(-1, size)  # what is not written takes no memory
    content[size - len(end) :] = end
    for group in groups:
        start, stop = min(each.start for each in group.chunks.values()), max(each.end for each in group.chunks.values())
        if stop > size - len(end):
            raise ValueError("a row group ends after its file")
        content[start:stop] = stream.read_at(stop - start, start)
        for chunk in group.chunks.values():
            check_pages(chunk, content[chunk.start : chunk.end])
    return content
