"""The folding of constants: what operators compute from values that are known."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from latte_cli.layers import Shape
from latte_cli.network.onnx.operation import FOLDED_ELEMENTS, Array, Operation
from latte_cli.network.onnx.shapes import permutation, slices, uniform

Fold = Callable[..., Any]


def _quotient(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    return np.asarray(np.sign(a) * np.sign(b) * (abs(a) // abs(b)))


_BY_VALUE: dict[str, Fold] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _quotient,
    "Mod": np.mod,
    "Pow": np.power,
    "Max": np.maximum,
    "Min": np.minimum,
    "Where": np.where,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Not": np.logical_not,
    "Neg": np.negative,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Reciprocal": np.reciprocal,
}
_BY_SHAPE = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_BY_REDUCTION: dict[str, Fold] = {"ReduceProd": np.prod, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min}


def folded(op: Operation, shape: Shape) -> Array | None:
    """The values, of `shape`, that `op` computes from constants; None where they are many or not known."""
    arrays = [tensor.values for tensor in op.given]
    if not arrays or prod(shape) > FOLDED_ELEMENTS:
        return None
    known = [values for values in arrays if values is not None]
    if len(known) < len(arrays):
        return None
    with np.errstate(all="ignore"):
        values = _folded(op, known, shape)
    return values if values is not None and values.shape == shape else None


def _folded(op: Operation, arrays: list[Array], shape: Shape) -> Array | None:
    first = arrays[0]
    if op.kind in _BY_VALUE:
        return np.asarray(_BY_VALUE[op.kind](*arrays))
    if op.kind in _BY_SHAPE:
        return first.reshape(shape)
    if op.kind in _BY_REDUCTION:
        axes = tuple(op.sizes(1, "axes") or range(first.ndim))
        return np.asarray(_BY_REDUCTION[op.kind](first, axis=axes, keepdims=bool(op.integer("keepdims", 1))))
    match op.kind:
        case "Concat":
            return np.concatenate(arrays, op.integer("axis", 1))
        case "Gather":
            return np.take(first, arrays[1], op.integer("axis"))
        case "Slice":
            return first[slices(op)]
        case "Transpose":
            return first.transpose(permutation(op))
        case "Expand":
            return (
                np.full(shape, first.flat[0], first.dtype)
                if first.size == 1 or uniform(op.input())
                else (np.broadcast_to(first, shape))
            )
        case "Cast" | "CastLike":
            element = op.integer("to", TensorProto.FLOAT) if op.kind == "Cast" else op.input(1).element
            return first.astype(helper.tensor_dtype_to_np_dtype(element))
    return None
