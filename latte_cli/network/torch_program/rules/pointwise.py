"""Operators that go over a tensor element by element, and those that reduce it."""

from functools import partial
from typing import Any

import numpy as np

from latte_cli.errors import LatteError
from latte_cli.network.torch_program.program import Aten, Lowering, Ref, Rules


def _one(low: Lowering, op: Aten, kind: str, **names: tuple[str, float]) -> object:
    attributes = {name: op.number(own, default) for name, (own, default) in names.items()}
    return low.emit(kind, [op.tensor("self", "input", "data")], op.outputs[0], **attributes)


def _gelu(low: Lowering, op: Aten) -> object:
    return low.emit("Gelu", [op.tensor("self", "input")], op.outputs[0], approximate=op.text("approximate", "none"))


def _clip(low: Lowering, op: Aten, low_name: str, high_name: str, least: Any = None, most: Any = None) -> object:
    x = op.tensor("self", "input")
    bounds = (op.arguments.get(low_name, least), op.arguments.get(high_name, most))
    given = [low.constant(float(one), np.float32) if isinstance(one, int | float) else "" for one in bounds]
    return low.emit("Clip", [x, *given], op.outputs[0])


def _reciprocal_root(low: Lowering, op: Aten) -> object:
    return low.emit("Reciprocal", [low.emit("Sqrt", [op.tensor("self", "input")])], op.outputs[0])


def _prelu(low: Lowering, op: Aten) -> object:
    return low.emit("PRelu", [op.tensor("self", "input"), op.tensor("weight")], op.outputs[0])


def _softmax(low: Lowering, op: Aten, kind: str) -> object:
    return low.emit(kind, [op.tensor("self", "input")], op.outputs[0], axis=op.integer("dim", -1))


def _dropout(low: Lowering, op: Aten) -> object:
    x, ratio = op.tensor("input", "self"), op.number("p", 0.5)
    if not op.flag("train", default=True) or not ratio:
        return low.emit("Identity", [x], op.outputs[0])
    return low.emit("Dropout", [x, low.constant(ratio, np.float32)], op.outputs[0])


def _two(low: Lowering, op: Aten, kind: str, *, turned: bool = False) -> object:
    """An operator of two operands, each a tensor or a number."""
    pair = [op.arguments.get(name) for name in ("self", "other", "exponent") if name in op.arguments]
    pair = pair or [op.arguments.get("input"), op.arguments.get("other")]
    tensors = [each.name for each in pair if isinstance(each, Ref)]
    if len(pair) != 2 or not tensors:
        raise LatteError(f"`{op.target}` node `{op.name}` has no two operands", hint="export it again")
    names = [each.name if isinstance(each, Ref) else low.scalar(each, tensors[0]) for each in pair]
    return low.emit(kind, names[::-1] if turned else names, op.outputs[0])


def _where(low: Lowering, op: Aten) -> object:
    mask = op.tensor("condition", "mask")
    if op.kind == "masked_fill":
        x = op.tensor("self", "input")
        value = op.arguments.get("value")
        filled = value.name if isinstance(value, Ref) else low.scalar(value, x)
        return low.emit("Where", [mask, filled, x], op.outputs[0])
    like = op.outputs[0]
    sides = [op.arguments.get(name) for name in ("self", "other")]
    names = [each.name if isinstance(each, Ref) else low.scalar(each, like) for each in sides]
    return low.emit("Where", [mask, *names], op.outputs[0])


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
    return low.emit("CumSum", [op.tensor("self", "input"), low.constant(op.integer("dim", 0))], op.outputs[0])


def _top(low: Lowering, op: Aten) -> object:
    given = [op.tensor("self", "input"), low.vector(op.sizes("k"))]
    return low.emit("TopK", given, *op.outputs, axis=op.integer("dim", -1))


def _cast(low: Lowering, op: Aten) -> object:
    x, element = op.tensor("self", "input"), low.meta(op.outputs[0]).element
    if element == low.meta(x).element:
        return low.emit("Identity", [x], op.outputs[0])
    return low.emit("Cast", [x], op.outputs[0], to=element)


_PLAIN = {
    **{name: name.capitalize() for name in ("relu", "sigmoid", "tanh", "selu", "softplus", "erf", "exp", "log")},
    **{name: name.capitalize() for name in ("sqrt", "abs", "neg", "reciprocal", "floor", "ceil", "round", "sign")},
    **{name: name.capitalize() for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "mish")},
    "silu": "Swish",
    "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid",
    "softsign": "Softsign",
    "logical_not": "Not",
    "bitwise_not": "Not",
    "isnan": "IsNaN",
    "isinf": "IsInf",
}
_PAIRS = {
    **{"add": "Add", "sub": "Sub", "subtract": "Sub", "mul": "Mul", "multiply": "Mul", "div": "Div", "pow": "Pow"},
    **{"maximum": "Max", "minimum": "Min", "remainder": "Mod", "fmod": "Mod", "eq": "Equal", "gt": "Greater"},
    **{"lt": "Less", "ge": "GreaterOrEqual", "le": "LessOrEqual", "logical_and": "And", "bitwise_and": "And"},
    **{"logical_or": "Or", "bitwise_or": "Or", "logical_xor": "Xor", "floor_divide": "Div", "true_divide": "Div"},
}

RULES: Rules = {
    **{name: partial(_one, kind=kind) for name, kind in _PLAIN.items()},
    **{name: partial(_two, kind=kind) for name, kind in _PAIRS.items()},
    "rsub": partial(_two, kind="Sub", turned=True),
    "gelu": _gelu,
    "elu": partial(_one, kind="Elu", alpha=("alpha", 1.0)),
    "celu": partial(_one, kind="Celu", alpha=("alpha", 1.0)),
    "leaky_relu": partial(_one, kind="LeakyRelu", alpha=("negative_slope", 0.01)),
    "relu6": partial(_clip, low_name="-", high_name="-", least=0.0, most=6.0),
    "hardtanh": partial(_clip, low_name="min_val", high_name="max_val", least=-1.0, most=1.0),
    "clamp": partial(_clip, low_name="min", high_name="max"),
    "clamp_min": partial(_clip, low_name="min", high_name="-"),
    "clamp_max": partial(_clip, low_name="-", high_name="max"),
    "rsqrt": _reciprocal_root,
    "prelu": _prelu,
    **{name: partial(_softmax, kind="Softmax") for name in ("softmax", "_softmax", "_safe_softmax")},
    **{name: partial(_softmax, kind="LogSoftmax") for name in ("log_softmax", "_log_softmax")},
    **dict.fromkeys(("dropout", "native_dropout", "feature_dropout", "alpha_dropout"), _dropout),
    "where": _where,
    "masked_fill": _where,
    "mean": partial(_reduced, kind="ReduceMean"),
    "sum": partial(_reduced, kind="ReduceSum"),
    "prod": partial(_reduced, kind="ReduceProd"),
    "amax": partial(_reduced, kind="ReduceMax"),
    "amin": partial(_reduced, kind="ReduceMin"),
    "logsumexp": partial(_reduced, kind="ReduceLogSumExp"),
    "var": _variance,
    "std": _variance,
    "argmax": partial(_arg, kind="ArgMax"),
    "argmin": partial(_arg, kind="ArgMin"),
    "cumsum": _cumulated,
    "topk": _top,
    **dict.fromkeys(("to", "_to_copy", "type_as", "float", "half", "to_dtype"), _cast),
}
