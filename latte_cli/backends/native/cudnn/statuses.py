"""Statuses: what the functions of cuDNN return, and the exceptions they become."""

from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported

NAMES: dict[int, str] = {
    0: "SUCCESS",
    # cuDNN 8
    1: "NOT_INITIALIZED",
    2: "ALLOC_FAILED",
    3: "BAD_PARAM",
    4: "INTERNAL_ERROR",
    5: "INVALID_VALUE",
    6: "ARCH_MISMATCH",
    7: "MAPPING_ERROR",
    8: "EXECUTION_FAILED",
    9: "NOT_SUPPORTED",
    10: "LICENSE_ERROR",
    11: "RUNTIME_PREREQUISITE_MISSING",
    12: "RUNTIME_IN_PROGRESS",
    13: "RUNTIME_FP_OVERFLOW",
    14: "VERSION_MISMATCH",
    # cuDNN 9
    1001: "NOT_INITIALIZED",
    1002: "SUBLIBRARY_VERSION_MISMATCH",
    1003: "SERIALIZATION_VERSION_MISMATCH",
    1004: "DEPRECATED",
    1005: "LICENSE_ERROR",
    1006: "RUNTIME_IN_PROGRESS",
    1007: "RUNTIME_FP_OVERFLOW",
    1008: "SUBLIBRARY_LOADING_FAILED",
    2000: "BAD_PARAM",
    2001: "INVALID_VALUE",
    2002: "BAD_PARAM_NULL_POINTER",
    2003: "BAD_PARAM_MISALIGNED_POINTER",
    2004: "BAD_PARAM_NOT_FINALIZED",
    2005: "BAD_PARAM_OUT_OF_BOUND",
    2006: "BAD_PARAM_SIZE_INSUFFICIENT",
    2007: "BAD_PARAM_STREAM_MISMATCH",
    2008: "BAD_PARAM_SHAPE_MISMATCH",
    2009: "BAD_PARAM_DUPLICATED_ENTRIES",
    2010: "BAD_PARAM_ATTRIBUTE_TYPE",
    2011: "BAD_PARAM_CUDA_GRAPH_MISMATCH",
    2012: "BAD_PARAM_DESCRIPTOR_TYPE",
    3000: "NOT_SUPPORTED",
    3001: "NOT_SUPPORTED_GRAPH_PATTERN",
    3002: "NOT_SUPPORTED_SHAPE",
    3003: "NOT_SUPPORTED_DATA_TYPE",
    3004: "NOT_SUPPORTED_LAYOUT",
    3005: "NOT_SUPPORTED_INCOMPATIBLE_CUDA_DRIVER",
    3006: "NOT_SUPPORTED_INCOMPATIBLE_CUDART",
    3007: "NOT_SUPPORTED_ARCH_MISMATCH",
    3008: "NOT_SUPPORTED_RUNTIME_PREREQUISITE_MISSING",
    3009: "NOT_SUPPORTED_SUBLIBRARY_UNAVAILABLE",
    3010: "NOT_SUPPORTED_SHARED_MEMORY_INSUFFICIENT",
    3011: "NOT_SUPPORTED_PADDING",
    3012: "NOT_SUPPORTED_BAD_LAUNCH_PARAM",
    3013: "NOT_SUPPORTED_CUDA_GRAPH_NATIVE_API",
    3014: "NOT_SUPPORTED_INVALID_DYNAMIC_SHAPE",
    4000: "INTERNAL_ERROR",
    4001: "INTERNAL_ERROR_COMPILATION_FAILED",
    4002: "INTERNAL_ERROR_UNEXPECTED_VALUE",
    4003: "INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    4004: "INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    4005: "INTERNAL_ERROR_BAD_LAUNCH_PARAM",
    4006: "INTERNAL_ERROR_TEXTURE_CREATION_FAILED",
    5000: "EXECUTION_FAILED",
    5001: "EXECUTION_FAILED_CUDA_DRIVER",
    5002: "EXECUTION_FAILED_CUBLAS",
    5003: "EXECUTION_FAILED_CUDART",
    5004: "EXECUTION_FAILED_CURAND",
}
"""Names without their `CUDNN_STATUS_` by number; the numbers of cuDNN 8 and 9 do not overlap."""

_ALLOCATION = {2, 4003, 4004}
_INSTALLATION = {3005, 3006, 3008, 3009}
_NOT_SUPPORTED = {6, 9, 11, *range(3000, 4000)} - _INSTALLATION
_BAD_PARAMETER = {3, *range(2000, 3000)}


def status_name(status: int) -> str:
    """The status as cuDNN's headers name it: `CUDNN_STATUS_NOT_SUPPORTED`, or `CUDNN_STATUS 3999` for a new one."""
    return f"CUDNN_STATUS_{NAMES[status]}" if status in NAMES else f"CUDNN_STATUS {status}"


def status_error(call: str, status: int, detail: str = "") -> Exception:
    """The exception for `status` (not 0), returned by the function `call`; `detail` is cuDNN's own remark.

    Unsupported where this layer cannot be run this way, OutOfMemory, or Failed, which a part of the library that is
    missing or too old is too: it says nothing of the layer.
    """
    message = f"{call}: {status_name(status)}" + (f" ({detail})" if detail else "")
    if status in _ALLOCATION:
        return OutOfMemory(message)
    if status in _NOT_SUPPORTED or (status in _BAD_PARAMETER and _describes_a_layer(call)):
        return Unsupported(message)
    return Failed(message)


def _describes_a_layer(call: str) -> bool:
    # Sizes that cuDNN does not take are often called bad parameters; elsewhere one is a fault of the caller.
    return "Convolution" in call or ("Set" in call and "Descriptor" in call)
