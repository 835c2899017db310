"""Operators that reduce a tensor, and those that sort it or add it up along a dimension."""

from functools import partial

import numpy as np
from onnx import TensorProto

from latte_cli.network.torch_program.program import Aten, Lowering, Ref, Rules


def _reduced(low: Lowering, op: Aten, kind: str) -> object:
    x, axes = op.tensor("self", "input"), op.integers("dim")
    given = [x, low.constant(axes)] if axes else [x]
    return low.emit(kind, given, op.outputs[0], keepdims=int(op.flag("keepdim")))


def _variance(low: Lowering, op: Aten) -> object:
    x, axes = op.tensor("self", "input"), op.integers("dim")
    given = [low.constant(axes)] if axes else []
    centred = low.emit("Sub", [x, low.emit("ReduceMean", [x, *given], keepdims=1)])
    square = low.emit("Mul", [centred, centred])
    keep = int(op.flag("keepdim"))
    if op.kind == "var":
        return low.emit("ReduceMean", [square, *given], op.outputs[0], keepdims=keep)
    return low.emit("Sqrt", [low.emit("ReduceMean", [square, *given], keepdims=keep)], op.outputs[0])


def _arg(low: Lowering, op: Aten, kind: str) -> object:
    x, keep = op.tensor("self", "input"), int(op.flag("keepdim"))
    if not isinstance(op.arguments.get("dim"), int):
        x = low.emit("Reshape", [x, low.constant([-1])])
    return low.emit(kind, [x], op.outputs[0], axis=op.integer("dim", 0), keepdims=keep)


def _cumulated(low: Lowering, op: Aten) -> object:
    x, element = op.tensor("self", "input"), low.meta(op.outputs[0]).element
    if element != low.meta(x).element:  # booleans are counted, which ONNX has no sum for
        x = low.emit("Cast", [x], to=element)
    return low.emit("CumSum", [x, low.constant(op.integer("dim", 0))], op.outputs[0])


def _difference(low: Lowering, op: Aten) -> object:
    """What lies next to each other along a dimension, subtracted as often as it says."""
    x, times = op.tensor("self", "input"), op.integer("n", 1)
    boolean = low.meta(x).element == TensorProto.BOOL
    axis = low.axis(op.integer("dim", -1), low.rank(x))
    ends = [op.optional("prepend"), x, op.optional("append")]
    if ends != ["", x, ""]:
        x = low.emit("Concat", list(filter(None, ends)), axis=axis)
    bounds = [low.constant([at]) for at in (1, 2**62, 0, -1, axis)]
    for at in range(times):
        sides = [low.emit("Slice", [x, start, end, bounds[4]]) for start, end in (bounds[:2], bounds[2:4])]
        x = low.emit("Xor" if boolean else "Sub", sides, *op.outputs[:1] if at == times - 1 else ())
    return x if times else low.emit("Identity", [x], op.outputs[0])


def _top(low: Lowering, op: Aten) -> object:
    given = [op.tensor("self", "input"), low.vector(op.sizes("k"))]
    return low.emit(
        "TopK", given, *op.outputs, axis=op.integer("dim", -1), largest=int(op.flag("largest", default=True))
    )


def _extreme(low: Lowering, op: Aten, kind: str) -> object:
    """The largest or smallest of all, along a dimension with its place, or of two tensors."""
    if isinstance(op.arguments.get("other"), Ref):
        return low.emit(kind, [op.tensor("self"), op.tensor("other")], op.outputs[0])
    if len(op.outputs) == 1:
        return _reduced(low, op, f"Reduce{kind}")
    x, axis, keep = op.tensor("self"), op.integer("dim", 0), int(op.flag("keepdim"))
    low.emit(f"Reduce{kind}", [x, low.constant([axis])], op.outputs[0], keepdims=keep)
    return low.emit(f"Arg{kind}", [x], op.outputs[1], axis=axis, keepdims=keep)


def _any(low: Lowering, op: Aten, kind: str) -> object:
    x = low.emit("Cast", [op.tensor("self", "input")], to=TensorProto.FLOAT)
    axes = op.integers("dim")
    given = [x, low.constant(axes)] if axes else [x]
    found = low.emit(kind, given, keepdims=int(op.flag("keepdim")))
    return low.emit("Cast", [found], op.outputs[0], to=TensorProto.BOOL)


def _vector_norm(low: Lowering, op: Aten) -> object:
    x, axes, keep = op.tensor("self", "x", "input"), op.integers("dim"), int(op.flag("keepdim"))
    order = op.arguments.get("ord", op.arguments.get("p"))
    order = 2.0 if not isinstance(order, int | float) else float(order)
    given = [low.constant(axes)] if axes else []
    if order in (1.0, 2.0):
        return low.emit(f"ReduceL{int(order)}", [x, *given], op.outputs[0], keepdims=keep)
    size = low.emit("Abs", [x])
    if abs(order) == float("inf"):
        kind = "ReduceMax" if order > 0 else "ReduceMin"
        return low.emit(kind, [size, *given], op.outputs[0], keepdims=keep)
    powers = low.emit("Pow", [size, low.constant(order, np.float32)])
    whole = low.emit("ReduceSum", [powers, *given], keepdims=keep)
    return low.emit("Pow", [whole, low.constant(1 / order if order else 1.0, np.float32)], op.outputs[0])


def _product_of_vectors(low: Lowering, op: Aten) -> object:
    product = low.emit("Mul", [op.tensor("x", "self", "input"), op.tensor("y", "other")])
    return low.emit("ReduceSum", [product, low.constant([op.integer("dim", -1)])], op.outputs[0], keepdims=0)


def _with_mean(low: Lowering, op: Aten) -> object:
    """A variance or a deviation, and the mean with it."""
    x, axes, keep = op.tensor("self", "input"), op.integers("dim"), int(op.flag("keepdim"))
    given = [low.constant(axes)] if axes else []
    centred = low.emit("Sub", [x, low.emit("ReduceMean", [x, *given], keepdims=1)])
    square = low.emit("Mul", [centred, centred])
    if op.kind == "var_mean":
        low.emit("ReduceMean", [square, *given], op.outputs[0], keepdims=keep)
    else:
        low.emit("Sqrt", [low.emit("ReduceMean", [square, *given], keepdims=keep)], op.outputs[0])
    return low.emit("ReduceMean", [x, *given], op.outputs[1], keepdims=keep)


RULES: Rules = {
    "mean": partial(_reduced, kind="ReduceMean"),
    "sum": partial(_reduced, kind="ReduceSum"),
    "nansum": partial(_reduced, kind="ReduceSum"),
    "prod": partial(_reduced, kind="ReduceProd"),
    "amax": partial(_reduced, kind="ReduceMax"),
    "amin": partial(_reduced, kind="ReduceMin"),
    "max": partial(_extreme, kind="Max"),
    "min": partial(_extreme, kind="Min"),
    "any": partial(_any, kind="ReduceMax"),
    "all": partial(_any, kind="ReduceMin"),
    "logsumexp": partial(_reduced, kind="ReduceLogSumExp"),
    **dict.fromkeys(("linalg_vector_norm", "norm", "linalg_norm"), _vector_norm),
    **dict.fromkeys(("linalg_vecdot", "vecdot"), _product_of_vectors),
    **dict.fromkeys(("var", "std"), _variance),
    **dict.fromkeys(("var_mean", "std_mean"), _with_mean),
    "argmax": partial(_arg, kind="ArgMax"),
    "argmin": partial(_arg, kind="ArgMin"),
    "cumsum": _cumulated,
    "diff": _difference,
    "topk": _top,
}
