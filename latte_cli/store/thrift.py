"""Thrift: the compact encoding of what a Parquet file says of itself, which Arrow does not read without a risk.

Arrow ends the process for some columns that a footer describes oddly, whatever Python would catch.
Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from typing import Any

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
"""The types of fields that Parquet's structs have, besides truth values."""

_TRUE, _FALSE, _BYTE, _I16 = 1, 2, 3, 4
_BITS = {_I16: 16, I32: 32, I64: 64}
_DEEPEST = 8  # chosen: a footer's structs lie 5 deep


def key(field: int, kind: int) -> int:
    """The key of a field of this number and type in what `read_struct` returns; another type makes another field."""
    return field << 4 | kind


def read_struct(content: bytes, start: int = 0, *, after: int = 0, before: int = 1 << 16) -> tuple[dict[int, Any], int]:
    """The struct that begins at `start`, by the keys of its fields, and where it ends.

    It may be read in two steps: up to the first field from number `before` on, and from there, `after` the one read
    last. Numbers come as integers, texts as bytes, lists as lists, structs as separate dicts. Raises ValueError for
    bytes that are none, or that Parquet's own writers do not write: some readers would make something else of them.
    """
    try:
        return _struct(content, start, _DEEPEST, after, before)
    except IndexError as exc:
        raise ValueError("what it says of itself ends too early") from exc


def binary(content: bytes) -> bytes:
    """The encoding of a text: its length, and it."""
    length = []
    rest = len(content)
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*length, rest]) + content


def _struct(content: bytes, at: int, depth: int, field: int = 0, before: int = 1 << 16) -> tuple[dict[int, Any], int]:
    if not depth:
        raise ValueError("what it says of itself is nested too deeply")
    found: dict[int, Any] = {}
    while head := content[at]:
        at += 1
        kind = head & 15
        if head < 16:
            raise ValueError("what it says of itself is in an odd order")
        field += head >> 4
        if field >= before:
            return found, at - 1
        if _I16 <= kind <= I64:  # the fast ways come first: a footer has two thousand fields
            value = content[at]
            at += 1
            if value > 127:
                value, at = _varint(content, at - 1, _BITS[kind])
            found[field << 4 | kind] = value >> 1 ^ -(value & 1)
        elif kind == BINARY:
            found[field << 4 | kind], at = _binary(content, at)
        elif kind == STRUCT:
            found[field << 4 | kind], at = _struct(content, at, depth - 1)
        elif kind == LIST:
            found[field << 4 | kind], at = _list(content, at, depth)
        elif kind in (_TRUE, _FALSE):
            found[field << 4 | _TRUE] = kind == _TRUE
        else:
            raise ValueError(f"what it says of itself has a field of type {kind}")
    return found, at + 1


def _list(content: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    head = content[at]
    count, kind, at = head >> 4, head & 15, at + 1
    if count == 15:
        count, at = _varint(content, at, 32)
    found: list[Any] = []
    value: Any
    for _ in range(count):  # an entry takes a byte at least, so this ends where the content does
        if kind == STRUCT:
            value, at = _struct(content, at, depth - 1)
        elif kind == BINARY:
            value, at = _binary(content, at)
        elif kind in _BITS:
            value, at = _varint(content, at, _BITS[kind])
            value = value >> 1 ^ -(value & 1)
        elif kind in (_TRUE, _FALSE, _BYTE):
            value, at = content[at], at + 1
        else:
            raise ValueError(f"what it says of itself has a list of type {kind}")
        found.append(value)
    return found, at


def _binary(content: bytes, at: int) -> tuple[bytes, int]:
    length = content[at]
    at += 1
    if length > 127:
        length, at = _varint(content, at - 1, 32)
    return content[at : at + length], at + length  # past the end, the next byte is missing


def _varint(content: bytes, at: int, bits: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > bits:
            raise ValueError("what it says of itself has a number that is too long")
    if value >> bits:
        raise ValueError("what it says of itself has a number that is too large")
    return value, at
