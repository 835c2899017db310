"""Descriptors: formats of memory, and the implementations of a convolution, as either version of oneDNN has them.

What is made here is an address, valid until its `with` block or its turn in a loop ends.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import Array, byref, c_char_p, c_int64, c_void_p
from dataclasses import dataclass
from typing import TypeAlias

from latte_cli.backends.native.onednn.geometry import Geometry, PlacedTensor
from latte_cli.backends.native.onednn.library import Library
from latte_cli.backends.native.onednn.signatures import DIRECT, FORMAT_ANY, FORWARD_TRAINING, Argument, DataType, Query
from latte_cli.backends.native.onednn.statuses import LAST_REACHED, UNIMPLEMENTED
from latte_cli.layers import Phase
from latte_cli.precisions import Precision

MemoryFormat: TypeAlias = int
Description: TypeAlias = int

_DATA_TYPES = {"float32": DataType.F32, "bfloat16": DataType.BF16}
DATA_TYPES: dict[Precision, DataType] = {
    one: _DATA_TYPES[one.arithmetic.activations]
    for one in Precision
    if one.arithmetic.activations in _DATA_TYPES and not one.arithmetic.tf32
}
"""What an element of a convolution's tensors is, in the precisions that are computed on a CPU."""

# Version 2 writes its structures into the caller's memory: a format takes some 700 bytes, a convolution eight formats.
_FORMAT_BYTES, _CONVOLUTION_BYTES = 4096, 2**16

_WORDS = {Phase.FORWARD: "forward", Phase.BACKWARD_DATA: "backward_data", Phase.BACKWARD_FILTER: "backward_weights"}


@dataclass(frozen=True, kw_only=True)
class Formats:
    """The formats of a convolution's tensors; `bias` is None where it has none."""

    src: MemoryFormat
    weights: MemoryFormat
    dst: MemoryFormat
    bias: MemoryFormat | None


@contextmanager
def strided_format(library: Library, tensor: PlacedTensor, data_type: DataType) -> Iterator[MemoryFormat]:
    """The format of a tensor that lies as `tensor` says."""
    sizes, strides = dimensions(tensor.sizes), dimensions(tensor.strides)
    with _format(library, "strides", len(sizes), sizes, data_type, strides) as made:
        yield made


@contextmanager
def open_format(library: Library, tensor: PlacedTensor, data_type: DataType) -> Iterator[MemoryFormat]:
    """The format of a tensor that an implementation may lay out as it likes."""
    with _format(library, "tag", len(tensor.sizes), dimensions(tensor.sizes), data_type, FORMAT_ANY) as made:
        yield made


def implementations(library: Library, operation: Phase, geometry: Geometry, formats: Formats) -> Iterator[Description]:
    """The implementations of a convolution in oneDNN's own order, each valid until the next one is requested.

    Raises Unsupported for sizes that oneDNN refuses; nothing at all is one of the answers.
    """
    sizes = (geometry.strides, geometry.dilations, geometry.pad_before, geometry.pad_after)
    tensors = [formats.src, formats.weights, formats.dst]
    if operation is not Phase.BACKWARD_DATA:
        tensors.insert(2, formats.bias or 0)
    kind = (FORWARD_TRAINING, DIRECT) if operation is Phase.FORWARD else (DIRECT,)
    arguments = (*kind, *(tensor or None for tensor in tensors), *map(dimensions, sizes))
    each = _implementations_of_3 if library.major >= 3 else _implementations_of_2
    yield from each(library, operation, arguments)


def implementation_name(library: Library, implementation: Description) -> str:
    """What oneDNN calls an implementation: `brgconv:avx512_core`, `gemm:acl`, `ref:any`."""
    text = c_char_p()
    library.call("dnnl_primitive_desc_query", implementation, Query.IMPL_INFO_STR, 0, byref(text))
    return (text.value or b"").decode(errors="replace")


def wanted_format(library: Library, implementation: Description, argument: Argument) -> MemoryFormat:
    """The format in which an implementation wants an argument; it lives as long as the implementation."""
    found = library.function("dnnl_primitive_desc_query_md")(implementation, Query.EXEC_ARG_MD, argument)
    return int(found or 0)


def equal(library: Library, one: MemoryFormat, other: MemoryFormat) -> bool:
    """Whether two formats are the same."""
    return bool(library.function("dnnl_memory_desc_equal")(one, other))


def format_size_bytes(library: Library, form: MemoryFormat) -> int:
    """The bytes of a tensor of a format, padding included."""
    return int(library.function("dnnl_memory_desc_get_size")(form)) if form else 0


def dimensions(values: Sequence[int]) -> Array[c_int64]:
    """A C array of `values`."""
    return (c_int64 * len(values))(*values)


@contextmanager
def _format(library: Library, by: str, *arguments: object) -> Iterator[MemoryFormat]:
    if library.major < 3:
        memory = ctypes.create_string_buffer(_FORMAT_BYTES)
        library.call(f"dnnl_memory_desc_init_by_{by}", memory, *arguments)
        yield ctypes.addressof(memory)
        return
    made = c_void_p()
    library.call(f"dnnl_memory_desc_create_with_{by}", byref(made), *arguments)
    try:
        yield made.value or 0
    finally:
        library.call("dnnl_memory_desc_destroy", made)


def _implementations_of_3(library: Library, operation: Phase, arguments: Sequence[object]) -> Iterator[Description]:
    made, call = c_void_p(), f"dnnl_convolution_{_WORDS[operation]}_primitive_desc_create"
    hint = () if operation is Phase.FORWARD else (None,)
    status = library.function(call)(byref(made), library.engine, *arguments, *hint, library.attributes)
    if status == UNIMPLEMENTED:
        return
    library.check(call, status)
    try:
        while status != LAST_REACHED:
            yield made.value or 0
            status = library.function("dnnl_primitive_desc_next_impl")(made)
            if status != LAST_REACHED:
                library.check("dnnl_primitive_desc_next_impl", status)
    finally:
        library.call("dnnl_primitive_desc_destroy", made)


def _implementations_of_2(library: Library, operation: Phase, arguments: Sequence[object]) -> Iterator[Description]:
    described, iterator = ctypes.create_string_buffer(_CONVOLUTION_BYTES), c_void_p()
    library.call(f"dnnl_dilated_convolution_{_WORDS[operation]}_desc_init", described, *arguments)
    create = "dnnl_primitive_desc_iterator_create"
    status = library.function(create)(byref(iterator), described, library.attributes, library.engine, None)
    if status == UNIMPLEMENTED:
        return
    library.check(create, status)
    try:
        while status != LAST_REACHED:
            yield from _fetch(library, iterator)
            status = library.function("dnnl_primitive_desc_iterator_next")(iterator)
            if status != LAST_REACHED:
                library.check("dnnl_primitive_desc_iterator_next", status)
    finally:
        library.call("dnnl_primitive_desc_iterator_destroy", iterator)


def _fetch(library: Library, iterator: c_void_p) -> Iterator[Description]:
    found = library.function("dnnl_primitive_desc_iterator_fetch")(iterator)
    if found:
        try:
            yield int(found)
        finally:
            library.call("dnnl_primitive_desc_destroy", found)
