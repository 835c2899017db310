"""Attributes: the descriptors of cuDNN's backend API, what can be set and asked of them, and their numbers in
C (`cudnnBackendDescriptorType_t`, `cudnnBackendAttributeName_t` and their kin)."""

from ctypes import c_bool, c_char, c_float, c_int, c_int32, c_int64, c_void_p
from enum import IntEnum
from typing import Any


class DescriptorKind(IntEnum):
    """`cudnnBackendDescriptorType_t`."""

    CONVOLUTION = 1
    ENGINE = 2
    ENGINECFG = 3
    ENGINEHEUR = 4
    EXECUTION_PLAN = 5
    FORWARD = 10
    BACKWARD_FILTER = 11
    BACKWARD_DATA = 12
    OPERATIONGRAPH = 15
    VARIANT_PACK = 16
    TENSOR = 17
    DEVICEPROP = 38


class Type(IntEnum):
    """`cudnnBackendAttributeType_t`: what the values of an attribute are."""

    HANDLE = 0
    DATA_TYPE = 1
    BOOLEAN = 2
    INT64 = 3
    FLOAT = 4
    VOID_PTR = 6
    CONVOLUTION_MODE = 7
    HEUR_MODE = 8
    NUMERICAL_NOTE = 11
    BACKEND_DESCRIPTOR = 15
    BEHAVIOR_NOTE = 19
    INT32 = 23
    CHAR = 24


class Attribute(IntEnum):
    """`cudnnBackendAttributeName_t`."""

    CONVOLUTION_COMP_TYPE = 100
    CONVOLUTION_CONV_MODE = 101
    CONVOLUTION_DILATIONS = 102
    CONVOLUTION_FILTER_STRIDES = 103
    CONVOLUTION_POST_PADDINGS = 104
    CONVOLUTION_PRE_PADDINGS = 105
    CONVOLUTION_SPATIAL_DIMS = 106
    ENGINEHEUR_MODE = 200
    ENGINEHEUR_OPERATION_GRAPH = 201
    ENGINEHEUR_RESULTS = 202
    ENGINEHEUR_DEVICEPROP = 204
    ENGINECFG_ENGINE = 300
    ENGINECFG_WORKSPACE_SIZE = 303
    EXECUTION_PLAN_HANDLE = 400
    EXECUTION_PLAN_ENGINE_CONFIG = 401
    EXECUTION_PLAN_WORKSPACE_SIZE = 402
    EXECUTION_PLAN_DEVICEPROP = 407
    FORWARD_ALPHA = 700
    FORWARD_BETA = 701
    FORWARD_CONV_DESC = 702
    FORWARD_W = 703
    FORWARD_X = 704
    FORWARD_Y = 705
    BACKWARD_DATA_ALPHA = 706
    BACKWARD_DATA_BETA = 707
    BACKWARD_DATA_CONV_DESC = 708
    BACKWARD_DATA_W = 709
    BACKWARD_DATA_X = 710
    BACKWARD_DATA_Y = 711
    BACKWARD_FILTER_ALPHA = 712
    BACKWARD_FILTER_BETA = 713
    BACKWARD_FILTER_CONV_DESC = 714
    BACKWARD_FILTER_W = 715
    BACKWARD_FILTER_X = 716
    BACKWARD_FILTER_Y = 717
    OPERATIONGRAPH_HANDLE = 800
    OPERATIONGRAPH_OPS = 801
    OPERATIONGRAPH_ENGINE_GLOBAL_COUNT = 802
    TENSOR_BYTE_ALIGNMENT = 900
    TENSOR_DATA_TYPE = 901
    TENSOR_DIMENSIONS = 902
    TENSOR_STRIDES = 903
    TENSOR_UNIQUE_ID = 906
    VARIANT_PACK_UNIQUE_IDS = 1000
    VARIANT_PACK_DATA_POINTERS = 1001
    VARIANT_PACK_WORKSPACE = 1003
    ENGINE_OPERATION_GRAPH = 1300
    ENGINE_GLOBAL_INDEX = 1301
    ENGINE_NUMERICAL_NOTE = 1303
    ENGINE_BEHAVIOR_NOTE = 1305
    ENGINE_DEVICEPROP = 1307
    DEVICEPROP_DEVICE_ID = 2700
    DEVICEPROP_HANDLE = 2701
    DEVICEPROP_JSON_REPRESENTATION = 2702


class Numerical(IntEnum):
    """`cudnnBackendNumericalNote_t`: what an engine does to numbers."""

    TENSOR_CORE = 0
    DOWN_CONVERT_INPUTS = 1
    REDUCED_PRECISION_REDUCTION = 2
    FFT = 3
    NONDETERMINISTIC = 4
    WINOGRAD = 5
    WINOGRAD_TILE_4x4 = 6
    WINOGRAD_TILE_6x6 = 7
    WINOGRAD_TILE_13x13 = 8
    STRICT_NAN_PROP = 9


class Behavior(IntEnum):
    """`cudnnBackendBehaviorNote_t`: what an engine needs, or can do."""

    RUNTIME_COMPILATION = 0
    REQUIRES_FILTER_INT8x32_REORDER = 1
    REQUIRES_BIAS_INT8x32_REORDER = 2
    SUPPORTS_CUDA_GRAPH_NATIVE_API = 3
    CUBLASLT_DEPENDENCY = 4


C_TYPES: dict[Type, Any] = {
    Type.HANDLE: c_void_p,
    Type.DATA_TYPE: c_int,
    Type.BOOLEAN: c_bool,
    Type.INT64: c_int64,
    Type.FLOAT: c_float,
    Type.VOID_PTR: c_void_p,
    Type.CONVOLUTION_MODE: c_int,
    Type.HEUR_MODE: c_int,
    Type.NUMERICAL_NOTE: c_int,
    Type.BACKEND_DESCRIPTOR: c_void_p,
    Type.BEHAVIOR_NOTE: c_int,
    Type.INT32: c_int32,
    Type.CHAR: c_char,
}
"""What a value of each type is in C."""
