"""Every operator of ONNX that is read, and what is done with the others."""

from latte_cli.network.onnx import (
    attention,
    deformable,
    equations,
    inferred,
    opaque,
    pointwise,
    products,
    recurrent,
    shapes,
    windows,
)
from latte_cli.network.onnx.operation import NotConstant, Operation
from latte_cli.network.onnx.shapes import MAKING

OPERATORS = (
    windows.READERS
    | products.READERS
    | equations.READERS
    | deformable.READERS
    | pointwise.READERS
    | shapes.READERS
    | recurrent.READERS
    | attention.READERS
    | opaque.READERS
    | MAKING
)
"""Every operator that can be read, by name."""


def leave_layers(op: Operation) -> None:
    """Let the operator's reader, or ONNX's inference where there is none or values are missing, leave its layers."""
    reader = OPERATORS.get(op.kind)
    empty = any(0 in tensor.shape for tensor in op.given if not tensor.constant)
    try:
        if reader is not None and not empty:
            reader(op)
            return
    except NotConstant:
        op.nodes.clear()
        op.results.clear()
    inferred.read(op)
