"""Operators that go over a tensor element by element."""

from functools import partial
from typing import Any

import numpy as np

from latte_cli.errors import LatteError
from latte_cli.network.torch_program.program import Aten, Lowering, Ref, Rules, layout_attribute


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
    """The slopes are one for all, or one for each channel."""
    x, slopes = op.tensor("self", "input"), op.tensor("weight")
    if low.rank(x) > 2 and low.meta(slopes).sizes != (1,):
        slopes = low.emit("Reshape", [slopes, low.constant([-1, *[1] * (low.rank(x) - 2)])])
    return low.emit("PRelu", [x, slopes], op.outputs[0])


def _softmax(low: Lowering, op: Aten, kind: str) -> object:
    return low.emit(kind, [op.tensor("self", "input")], op.outputs[0], axis=op.integer("dim", -1))


def _dropout(low: Lowering, op: Aten) -> object:
    x, ratio = op.tensor("input", "self"), op.number("p", 0.5)
    if not op.flag("train", default=True) or not ratio:
        low.idle["dropout"] += bool(ratio)
        return low.emit("Identity", [x], op.outputs[0])
    features = {"features": 1} if op.kind == "feature_dropout" else {}
    return low.emit("Dropout", [x, low.constant(ratio, np.float32)], op.outputs[0], **features)


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


def _chain(low: Lowering, op: Aten, kinds: tuple[str, ...]) -> object:
    """Operators of one operand, each of what the one before gives."""
    x = op.tensor("self", "input")
    for kind in kinds[:-1]:
        x = low.emit(kind, [x])
    return low.emit(kinds[-1], [x], op.outputs[0])


def _square(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    return low.emit("Mul", [x, x], op.outputs[0])


def _with_number(low: Lowering, op: Aten, kind: str, value: float) -> object:
    x = op.tensor("self", "input")
    return low.emit(kind, [x, low.scalar(value, x)], op.outputs[0])


def _exponential(low: Lowering, op: Aten) -> object:
    """A number to the power of a tensor."""
    base = op.arguments.get("self")
    if isinstance(base, Ref):
        return _two(low, op, kind="Pow")
    exponent = op.tensor("exponent")
    return low.emit("Pow", [low.scalar(base, op.outputs[0]), exponent], op.outputs[0])


def _unequal(low: Lowering, op: Aten) -> object:
    pair = [op.arguments.get("self"), op.arguments.get("other")]
    tensors = [each.name for each in pair if isinstance(each, Ref)]
    names = [each.name if isinstance(each, Ref) else low.scalar(each, tensors[0]) for each in pair]
    return low.emit("Not", [low.emit("Equal", names)], op.outputs[0])


def _combined(low: Lowering, op: Aten, kind: str) -> object:
    """self + value · (tensor1 kind tensor2)."""
    part = low.emit(kind, [op.tensor("tensor1"), op.tensor("tensor2")])
    value = op.number("value", 1.0)
    part = part if value == 1 else low.emit("Mul", [part, low.scalar(value, op.outputs[0])])
    return low.emit("Add", [op.tensor("self"), part], op.outputs[0])


def _interpolated(low: Lowering, op: Aten) -> object:
    """self + weight · (end - self)."""
    x, weight = op.tensor("self"), op.arguments.get("weight")
    scale = weight.name if isinstance(weight, Ref) else low.scalar(weight, x)
    step = low.emit("Mul", [low.emit("Sub", [op.tensor("end"), x]), scale])
    return low.emit("Add", [x, step], op.outputs[0])


def _gated(low: Lowering, op: Aten) -> object:
    """One half of the channels times the sigmoid of the other."""
    x = op.tensor("self", "input")
    halves = [low.fresh("half") for _ in range(2)]
    low.emit("Split", [x], *halves, axis=low.axis(op.integer("dim", -1), low.rank(x)), num_outputs=2, equal=1)
    return low.emit("Mul", [halves[0], low.emit("Sigmoid", [halves[1]])], op.outputs[0])


def _shrunk(low: Lowering, op: Aten, *, soft: bool) -> object:
    limit = op.number("lambd", 0.5)
    return low.emit("Shrink", [op.tensor("self", "input")], op.outputs[0], lambd=limit, bias=limit if soft else 0.0)


def _cast(low: Lowering, op: Aten) -> object:
    x, element = op.tensor("self", "input"), low.meta(op.outputs[0]).element
    if element == low.meta(x).element:
        return low.emit("Identity", [x], op.outputs[0], **layout_attribute(op))
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
    **{name: name.capitalize() for name in ("asinh", "acosh", "atanh")},
}
_PAIRS = {
    **{"add": "Add", "sub": "Sub", "subtract": "Sub", "mul": "Mul", "multiply": "Mul", "div": "Div", "pow": "Pow"},
    **{"maximum": "Max", "minimum": "Min", "remainder": "Mod", "fmod": "Mod", "eq": "Equal", "gt": "Greater"},
    **{"lt": "Less", "ge": "GreaterOrEqual", "le": "LessOrEqual", "logical_and": "And", "bitwise_and": "And"},
    **{"__and__": "And", "__or__": "Or", "__xor__": "Xor", "bitwise_xor": "Xor"},
    **{"greater": "Greater", "greater_equal": "GreaterOrEqual", "less": "Less", "less_equal": "LessOrEqual"},
    **{"logical_or": "Or", "bitwise_or": "Or", "logical_xor": "Xor", "floor_divide": "Div", "true_divide": "Div"},
}

_CHAINS: dict[str, tuple[str, ...]] = {
    "log_sigmoid": ("Neg", "Softplus", "Neg"),
    "erfc": ("Erf",),
    "isfinite": ("IsInf", "Not"),
    "tanhshrink": ("Tanh", "Neg"),
    "sgn": ("Sign",),
    "trunc": ("Floor",),
    "fix": ("Floor",),
    "positive": ("Identity",),
    "nan_to_num": ("Identity",),
    "log2": ("Log",),
    "log10": ("Log",),
    "exp2": ("Exp",),
    "expm1": ("Exp",),
    "log1p": ("Log",),
    "absolute": ("Abs",),
    "negative": ("Neg",),
    "arctan": ("Atan",),
    "special_expit": ("Sigmoid",),
}
"""Operators of one operand that go over the tensor as often as these do, and take what these take."""

_NUMBERS = {"deg2rad": ("Mul", 0.017453292), "rad2deg": ("Mul", 57.29578)}

RULES: Rules = {
    **{name: partial(_one, kind=kind) for name, kind in _PLAIN.items()},
    **{name: partial(_two, kind=kind) for name, kind in _PAIRS.items()},
    **{name: partial(_chain, kinds=kinds) for name, kinds in _CHAINS.items()},
    **{name: partial(_with_number, kind=kind, value=value) for name, (kind, value) in _NUMBERS.items()},
    "square": _square,
    **dict.fromkeys(("ne", "not_equal"), _unequal),
    "addcmul": partial(_combined, kind="Mul"),
    "addcdiv": partial(_combined, kind="Div"),
    "lerp": _interpolated,
    "glu": _gated,
    "softshrink": partial(_shrunk, soft=True),
    "hardshrink": partial(_shrunk, soft=False),
    "pow": _exponential,
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
    **dict.fromkeys(("to", "_to_copy", "type_as", "float", "half", "to_dtype"), _cast),
}
