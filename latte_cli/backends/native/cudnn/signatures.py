"""Signatures: every function of cuDNN that is called, its argument types and where it is exported; its enums."""

from collections.abc import Iterator
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

LIBRARIES: dict[int, tuple[str, ...]] = {
    9: ("libcudnn_cnn.so.9",),
    8: ("libcudnn_cnn_infer.so.8", "libcudnn_cnn_train.so.8", "libcudnn_ops_infer.so.8"),
}
"""The libraries to open by major version, newest first; never the shim, which aborts where one of its parts is missing.

cuDNN 9's one pulls in all that is needed, and what it pulls in is found through it.
"""


class DataType(IntEnum):
    """`cudnnDataType_t`: what an element is."""

    FLOAT = 0
    DOUBLE = 1
    HALF = 2
    BFLOAT16 = 9


class TensorFormat(IntEnum):
    """`cudnnTensorFormat_t`: how a tensor lies in memory."""

    NCHW = 0
    NHWC = 1


class Mode(IntEnum):
    """`cudnnConvolutionMode_t`; CROSS_CORRELATION is what deep learning calls a convolution."""

    CONVOLUTION = 0
    CROSS_CORRELATION = 1


class Math(IntEnum):
    """`cudnnMathType_t`: whether tensor cores may be used; DEFAULT allows TF32 for FLOAT from Ampere on."""

    DEFAULT = 0
    TENSOR_OP = 1
    TENSOR_OP_ALLOW_CONVERSION = 2
    FMA = 3


class Determinism(IntEnum):
    """`cudnnDeterminism_t`: whether results repeat bit by bit."""

    NON_DETERMINISTIC = 0
    DETERMINISTIC = 1


class Forward(IntEnum):
    """`cudnnConvolutionFwdAlgo_t`."""

    IMPLICIT_GEMM = 0
    IMPLICIT_PRECOMP_GEMM = 1
    GEMM = 2
    DIRECT = 3
    FFT = 4
    FFT_TILING = 5
    WINOGRAD = 6
    WINOGRAD_NONFUSED = 7


class BackwardData(IntEnum):
    """`cudnnConvolutionBwdDataAlgo_t`."""

    ALGO_0 = 0
    ALGO_1 = 1
    FFT = 2
    FFT_TILING = 3
    WINOGRAD = 4
    WINOGRAD_NONFUSED = 5


class BackwardFilter(IntEnum):
    """`cudnnConvolutionBwdFilterAlgo_t`."""

    ALGO_0 = 0
    ALGO_1 = 1
    FFT = 2
    ALGO_3 = 3
    WINOGRAD = 4
    WINOGRAD_NONFUSED = 5
    FFT_TILING = 6


class AlgoPerf(Structure):
    """`cudnnConvolution…AlgoPerf_t`, alike for the three operations: 48 bytes; `time` in milliseconds."""

    _fields_ = (
        ("algo", c_int),
        ("status", c_int),
        ("time", c_float),
        ("memory", c_size_t),
        ("determinism", c_int),
        ("math", c_int),
        ("reserved", c_int * 3),
    )


@dataclass(frozen=True)
class Signature:
    """A function's argument types, the library of cuDNN 8 that exports it, its result (a status) and the majors."""

    arguments: tuple[Any, ...]
    library8: str
    result: Any = c_int
    majors: tuple[int, ...] = (9, 8)

    def library(self, major: int) -> str:
        """The library of cuDNN `major` to look the function up in."""
        return self.library8 if major == 8 else LIBRARIES[major][0]


_INFER, _TRAIN, _OPS = LIBRARIES[8]
_P, _I, _I64, _SIZE = c_void_p, c_int, c_int64, c_size_t
_OUT_P, _OUT_I, _OUT_SIZE = POINTER(c_void_p), POINTER(c_int), POINTER(c_size_t)


def _algorithms(operation: str, library8: str) -> Iterator[tuple[str, Signature]]:
    # The three operations are alike: two operands are read, the third is written.
    problem = (_P, _P, _P, _P, _P)  # the handle; descriptors of two operands, the convolution, the result
    perf = (_I, _OUT_I, POINTER(AlgoPerf))
    yield f"cudnnGet{operation}AlgorithmMaxCount", Signature((_P, _OUT_I), library8)
    yield f"cudnnGet{operation}Algorithm_v7", Signature((*problem, *perf), library8)
    yield f"cudnnGet{operation}WorkspaceSize", Signature((*problem, _I, _OUT_SIZE), library8)
    tensors = (_P, _P, _P, _P, _P)  # descriptor and data of two operands, the convolution
    run = (_P, _P, *tensors, _I, _P, _SIZE, _P, _P, _P)
    yield f"cudnn{operation}", Signature(run, library8)
    search = (_P, *tensors, _P, _P, *perf, _P, _SIZE)
    yield f"cudnnFind{operation}AlgorithmEx", Signature(search, library8)


FUNCTIONS: dict[str, Signature] = {
    "cudnnGetVersion": Signature((), _OPS, c_size_t),
    "cudnnGetErrorString": Signature((_I,), _OPS, c_char_p),
    "cudnnGetLastErrorString": Signature((c_char_p, _SIZE), _OPS, None, majors=(9,)),
    "cudnnCnnVersionCheck": Signature((), _INFER, majors=(9,)),
    "cudnnCnnInferVersionCheck": Signature((), _INFER, majors=(8,)),
    "cudnnCnnTrainVersionCheck": Signature((), _TRAIN, majors=(8,)),
    "cudnnCreate": Signature((_OUT_P,), _OPS),
    "cudnnDestroy": Signature((_P,), _OPS),
    "cudnnSetStream": Signature((_P, _P), _OPS),
    "cudnnCreateTensorDescriptor": Signature((_OUT_P,), _OPS),
    "cudnnSetTensor4dDescriptor": Signature((_P, _I, _I, _I, _I, _I, _I), _OPS),
    "cudnnSetTensorNdDescriptor": Signature((_P, _I, _I, _OUT_I, _OUT_I), _OPS),
    "cudnnSetTensorNdDescriptorEx": Signature((_P, _I, _I, _I, _OUT_I), _OPS),
    "cudnnGetTensor4dDescriptor": Signature((_P, *(_OUT_I,) * 9), _OPS),
    "cudnnGetTensorNdDescriptor": Signature((_P, _I, _OUT_I, _OUT_I, _OUT_I, _OUT_I), _OPS),
    "cudnnGetTensorSizeInBytes": Signature((_P, _OUT_SIZE), _OPS),
    "cudnnDestroyTensorDescriptor": Signature((_P,), _OPS),
    "cudnnCreateFilterDescriptor": Signature((_OUT_P,), _OPS),
    "cudnnSetFilter4dDescriptor": Signature((_P, _I, _I, _I, _I, _I, _I), _OPS),
    "cudnnSetFilterNdDescriptor": Signature((_P, _I, _I, _I, _OUT_I), _OPS),
    "cudnnGetFilter4dDescriptor": Signature((_P, *(_OUT_I,) * 6), _OPS),
    "cudnnGetFilterNdDescriptor": Signature((_P, _I, _OUT_I, _OUT_I, _OUT_I, _OUT_I), _OPS),
    "cudnnDestroyFilterDescriptor": Signature((_P,), _OPS),
    "cudnnCreateConvolutionDescriptor": Signature((_OUT_P,), _INFER),
    "cudnnSetConvolution2dDescriptor": Signature((_P, *(_I,) * 8), _INFER),
    "cudnnSetConvolutionNdDescriptor": Signature((_P, _I, _OUT_I, _OUT_I, _OUT_I, _I, _I), _INFER),
    "cudnnGetConvolution2dDescriptor": Signature((_P, *(_OUT_I,) * 8), _INFER),
    "cudnnGetConvolutionNdDescriptor": Signature((_P, _I, *(_OUT_I,) * 6), _INFER),
    "cudnnSetConvolutionMathType": Signature((_P, _I), _INFER),
    "cudnnGetConvolutionMathType": Signature((_P, _OUT_I), _INFER),
    "cudnnSetConvolutionGroupCount": Signature((_P, _I), _INFER),
    "cudnnGetConvolutionGroupCount": Signature((_P, _OUT_I), _INFER),
    "cudnnDestroyConvolutionDescriptor": Signature((_P,), _INFER),
    "cudnnBackendCreateDescriptor": Signature((_I, _OUT_P), _INFER),
    "cudnnBackendSetAttribute": Signature((_P, _I, _I, _I64, _P), _INFER),
    "cudnnBackendFinalize": Signature((_P,), _INFER),
    "cudnnBackendGetAttribute": Signature((_P, _I, _I, _I64, POINTER(c_int64), _P), _INFER),
    "cudnnBackendExecute": Signature((_P, _P, _P), _INFER),
    "cudnnBackendDestroyDescriptor": Signature((_P,), _INFER),
    "cudnnGetConvolution2dForwardOutputDim": Signature((_P, _P, _P, *(_OUT_I,) * 4), _INFER),
    "cudnnGetConvolutionNdForwardOutputDim": Signature((_P, _P, _P, _I, _OUT_I), _INFER),
    **dict(_algorithms("ConvolutionForward", _INFER)),
    **dict(_algorithms("ConvolutionBackwardData", _INFER)),
    **dict(_algorithms("ConvolutionBackwardFilter", _TRAIN)),
}
"""Every function that is called, by its name."""
