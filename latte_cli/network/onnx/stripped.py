"""An ONNX file without the data of its large weights, which say nothing of shapes: found without reading them."""

import hashlib
from collections.abc import Iterator
from typing import TypeAlias

Bytes: TypeAlias = bytes | memoryview

LARGE_BYTES = 2**20
"""Weights of up to so many bytes are kept whole."""

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_MOST_FIELDS = 250_000
_DATA = frozenset((4, 5, 6, 7, 9, 10, 11))  # TensorProto's float, int32, string, int64, raw, double, uint64 data
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def stripped(content: Bytes) -> bytes:
    """The message in `content`, a ModelProto, less the data of large initializers; what is no message, as it is."""
    if len(content) <= LARGE_BYTES:
        return bytes(content)
    try:
        return b"".join(_without_data(memoryview(content), (_GRAPH, _INITIALIZER)))
    except (IndexError, ValueError):
        return bytes(content)


def large_data(content: Bytes) -> Iterator[tuple[Bytes, memoryview]]:
    """What `stripped` leaves out: for each large initializer it without its numbers, and the bytes of these."""
    if len(content) <= LARGE_BYTES:
        return
    try:
        for graph in _inside(memoryview(content), _GRAPH):
            for tensor in _inside(graph, _INITIALIZER):
                data = [tensor[inside:end] for number, _, inside, end in _fields(tensor) if number == _RAW_DATA]
                if len(tensor) > LARGE_BYTES and data:
                    yield b"".join(_without_data(tensor, ())), data[0]
    except (IndexError, ValueError):
        return


def _inside(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The contents of the `wanted` field, which may be there many times."""
    return (message[inside:end] for number, _, inside, end in _fields(message) if number == wanted)


def digest(content: bytes) -> str:
    """The SHA-256 of what `stripped` leaves: for files without large weights that of the file."""
    return hashlib.sha256(content).hexdigest()


def _without_data(message: memoryview, path: tuple[int, ...]) -> Iterator[Bytes]:
    """The fields of `message`; those of the sub-messages along `path` without what they hold of data."""
    for number, start, inside, end in _fields(message):
        if not path and number in _DATA and end - inside > LARGE_BYTES // 2:
            continue
        if not path or number != path[0] or end - inside <= LARGE_BYTES:
            yield message[start:end]
            continue
        body = b"".join(_without_data(message[inside:end], path[1:]))
        yield _varint(number << 3 | _LENGTH) + _varint(len(body)) + body


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Each field's number, where it starts, where its content starts, where it ends."""
    at = count = 0
    while at < len(message):
        count += 1
        if count > _MOST_FIELDS:
            raise ValueError("too many fields to look at one by one")
        start = at
        key, at = _number(message, at)
        kind, length = key & 7, 0
        if kind == _VARINT:
            _, end = _number(message, at)
        elif kind in (_FIXED64, _FIXED32):
            end = at + (8 if kind == _FIXED64 else 4)
        elif kind == _LENGTH:
            length, at = _number(message, at)
            end = at + length
        else:
            raise ValueError("a group")
        if end > len(message):
            raise ValueError("cut")
        yield key >> 3, start, at, end
        at = end


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """The varint at `at`, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("too long a number")


def _varint(value: int) -> bytes:
    text = bytearray()
    while value > 127:
        text.append(value & 127 | 128)
        value >>= 7
    text.append(value)
    return bytes(text)
