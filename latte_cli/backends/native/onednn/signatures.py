"""Signatures: every function of oneDNN's C API that is called, its argument types and versions; its enums."""

from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

LIBRARIES: dict[int, str] = {3: "libdnnl.so.3", 2: "libdnnl.so.2"}
"""The library by major version, newest first."""


class DataType(IntEnum):
    """`dnnl_data_type_t`: what an element is."""

    F16 = 1
    BF16 = 2
    F32 = 3


class Runtime(IntEnum):
    """`DNNL_RUNTIME_…`: what a library was built to run its threads with."""

    NONE = 0
    SEQ = 1
    OMP = 2
    TBB = 4
    THREADPOOL = 8
    SYCL = 512


class Argument(IntEnum):
    """`DNNL_ARG_…`: which part of a primitive a piece of memory is."""

    SRC = 1
    DST = 17
    WEIGHTS = 33
    BIAS = 41
    SCRATCHPAD = 80
    DIFF_SRC = 129
    DIFF_DST = 145
    DIFF_WEIGHTS = 161


class Query(IntEnum):
    """`dnnl_query_t`: what can be asked of a primitive's description."""

    IMPL_INFO_STR = 8
    EXEC_ARG_MD = 255


CPU = 1
"""`dnnl_cpu`, of `dnnl_engine_kind_t`."""

IN_ORDER = 1
"""`dnnl_stream_in_order`, of `dnnl_stream_flags_t`."""

USER_SCRATCHPAD = 1
"""`dnnl_scratchpad_mode_user`: scratch memory is handed in with each call."""

FORMAT_ANY = 1
"""`dnnl_format_tag_any`: the implementation says which format it wants."""

FORWARD_TRAINING = 64
"""`dnnl_forward_training`, of `dnnl_prop_kind_t`."""

DIRECT = 1
"""`dnnl_convolution_direct`, of `dnnl_alg_kind_t`: all that is computed without a transformation to other numbers."""


class Version(Structure):
    """`dnnl_version_t`."""

    _fields_ = (
        ("major", c_int),
        ("minor", c_int),
        ("patch", c_int),
        ("hash", c_char_p),
        ("cpu_runtime", c_uint),
        ("gpu_runtime", c_uint),
    )


class ExecArg(Structure):
    """`dnnl_exec_arg_t`: a piece of memory, and which part of the primitive it is."""

    _fields_ = (("arg", c_int), ("memory", c_void_p))


@dataclass(frozen=True)
class Signature:
    """A function's argument types, its result (a status unless it says otherwise) and the major versions that have it.

    `optional` functions belong to the library's threads, and come from the one that runs them.
    """

    arguments: tuple[Any, ...]
    result: Any = c_int
    majors: tuple[int, ...] = (3, 2)
    optional: bool = False


_P, _I, _SIZE = c_void_p, c_int, c_size_t
_OUT_P, _DIMS = POINTER(c_void_p), POINTER(c_int64)
_GEOMETRY = (_DIMS, _DIMS, _DIMS, _DIMS)  # strides, dilations, padding before and after

FUNCTIONS: dict[str, Signature] = {
    "dnnl_version": Signature((), POINTER(Version)),
    "dnnl_engine_create": Signature((_OUT_P, _I, _SIZE)),
    "dnnl_stream_create": Signature((_OUT_P, _P, c_uint)),
    "dnnl_set_primitive_cache_capacity": Signature((_I,)),
    "dnnl_primitive_attr_create": Signature((_OUT_P,)),
    "dnnl_primitive_attr_set_scratchpad_mode": Signature((_P, _I)),
    # Formats of memory: structures of the caller's in version 2, objects of the library's in version 3.
    "dnnl_memory_desc_create_with_strides": Signature((_OUT_P, _I, _DIMS, _I, _DIMS), majors=(3,)),
    "dnnl_memory_desc_create_with_tag": Signature((_OUT_P, _I, _DIMS, _I, _I), majors=(3,)),
    "dnnl_memory_desc_destroy": Signature((_P,), majors=(3,)),
    "dnnl_memory_desc_init_by_strides": Signature((_P, _I, _DIMS, _I, _DIMS), majors=(2,)),
    "dnnl_memory_desc_init_by_tag": Signature((_P, _I, _DIMS, _I, _I), majors=(2,)),
    "dnnl_memory_desc_equal": Signature((_P, _P)),
    "dnnl_memory_desc_get_size": Signature((_P,), _SIZE),
    "dnnl_memory_create": Signature((_OUT_P, _P, _P, _P)),
    "dnnl_memory_set_data_handle": Signature((_P, _P)),
    "dnnl_memory_destroy": Signature((_P,)),
    # A convolution, and its implementations one after the other.
    "dnnl_convolution_forward_primitive_desc_create": Signature(
        (_OUT_P, _P, _I, _I, _P, _P, _P, _P, *_GEOMETRY, _P), majors=(3,)
    ),
    "dnnl_convolution_backward_data_primitive_desc_create": Signature(
        (_OUT_P, _P, _I, _P, _P, _P, *_GEOMETRY, _P, _P), majors=(3,)
    ),
    "dnnl_convolution_backward_weights_primitive_desc_create": Signature(
        (_OUT_P, _P, _I, _P, _P, _P, _P, *_GEOMETRY, _P, _P), majors=(3,)
    ),
    "dnnl_primitive_desc_next_impl": Signature((_P,), majors=(3,)),
    "dnnl_dilated_convolution_forward_desc_init": Signature((_P, _I, _I, _P, _P, _P, _P, *_GEOMETRY), majors=(2,)),
    "dnnl_dilated_convolution_backward_data_desc_init": Signature((_P, _I, _P, _P, _P, *_GEOMETRY), majors=(2,)),
    "dnnl_dilated_convolution_backward_weights_desc_init": Signature((_P, _I, _P, _P, _P, _P, *_GEOMETRY), majors=(2,)),
    "dnnl_primitive_desc_iterator_create": Signature((_OUT_P, _P, _P, _P, _P), majors=(2,)),
    "dnnl_primitive_desc_iterator_fetch": Signature((_P,), _P, majors=(2,)),
    "dnnl_primitive_desc_iterator_next": Signature((_P,), majors=(2,)),
    "dnnl_primitive_desc_iterator_destroy": Signature((_P,), majors=(2,)),
    "dnnl_primitive_desc_query": Signature((_P, _I, _I, _P)),
    "dnnl_primitive_desc_query_md": Signature((_P, _I, _I), _P),
    "dnnl_primitive_desc_destroy": Signature((_P,)),
    "dnnl_reorder_primitive_desc_create": Signature((_OUT_P, _P, _P, _P, _P, _P)),
    "dnnl_primitive_create": Signature((_OUT_P, _P)),
    "dnnl_primitive_execute": Signature((_P, _P, _I, POINTER(ExecArg))),
    "dnnl_primitive_destroy": Signature((_P,)),
    "omp_set_num_threads": Signature((_I,), None, optional=True),
    "omp_get_max_threads": Signature((), _I, optional=True),
}
"""Every function that is called, by its name."""
