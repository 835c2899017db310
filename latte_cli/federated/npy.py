"""The npy format: an array in bytes that come from anywhere, read strictly."""

import re
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY\x01\x00"
"""Format 1.0, which `numpy.save` writes for all arrays of plain numbers."""

_LONGEST_HEADER = 1024  # 32 dimensions (the most of NumPy 1) of 18 digits make 700 bytes
_DIMENSION = rb"(?:0|[1-9][0-9]{0,17})"
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z][0-9])', 'fortran_order': (True|False), "
    rb"'shape': \((|%(n)s,|%(n)s(?:, %(n)s){1,31})\), \} *\n" % {b"n": _DIMENSION}
)
_TYPES = {
    name: np.dtype(name)
    for name in ("<f2", "<f4", "<f8", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "|i1", "|u1", "|b1")
}


def read_array(data: bytes) -> NDArray[Any]:
    """The array of plain numbers in `data`, the bytes that `numpy.save` writes for it.

    The header is matched, not evaluated, and its sizes are compared with the number of bytes before anything is
    allocated. Raises ValueError for all other bytes.
    """
    start = len(_MAGIC) + 2
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
        raise ValueError("it is not in the npy format 1.0")
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    if end > min(len(data), start + _LONGEST_HEADER):
        raise ValueError("its header is too long")
    match = _HEADER.fullmatch(data, start, end)
    if match is None:
        raise ValueError("its header is not that of an array of plain numbers")
    dtype = _TYPES.get(match[1].decode())
    if dtype is None:
        raise ValueError(f"its type `{match[1].decode()}` is no plain number")
    shape = tuple(map(int, match[3].replace(b",", b" ").split()))
    if prod(shape) * dtype.itemsize != len(data) - end:
        raise ValueError(f"its {len(data) - end} bytes do not hold {shape} of {dtype}")
    return np.ndarray(shape, dtype, data, end, order="F" if match[2] == b"True" else "C").copy(order="K")
