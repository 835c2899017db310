"""Statuses: what the functions of oneDNN return, and the exceptions they become."""

from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported

NAMES: dict[int, str] = {
    0: "success",
    1: "out_of_memory",
    2: "invalid_arguments",
    3: "unimplemented",
    4: "last_impl_reached",
    5: "runtime_error",
    6: "not_required",
    7: "invalid_graph",
    8: "invalid_graph_op",
    9: "invalid_shape",
    10: "invalid_data_type",
}
"""Names without their `dnnl_` by number (`dnnl_status_t`); version 2 has them up to 6."""

OUT_OF_MEMORY, INVALID_ARGUMENTS, UNIMPLEMENTED, LAST_REACHED = 1, 2, 3, 4


def status_name(status: int) -> str:
    """The status as oneDNN's headers name it: `dnnl_unimplemented`, or `dnnl_status 99` for a new one."""
    return f"dnnl_{NAMES[status]}" if status in NAMES else f"dnnl_status {status}"


def status_error(call: str, status: int) -> Exception:
    """The exception for `status` (not 0), returned by the function `call`.

    Unsupported where this layer cannot be run this way, OutOfMemory, or Failed.
    """
    message = f"{call}: {status_name(status)}"
    if status == OUT_OF_MEMORY:
        return OutOfMemory(message)
    if status == UNIMPLEMENTED or (status == INVALID_ARGUMENTS and _describes_a_layer(call)):
        return Unsupported(message)
    return Failed(message)


def _describes_a_layer(call: str) -> bool:
    # Sizes that oneDNN does not take are invalid arguments; elsewhere those are a fault of the caller.
    return "convolution" in call or "memory_desc" in call or "iterator_create" in call
