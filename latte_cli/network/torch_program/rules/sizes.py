"""What depends on sizes alone: tensors that are made, and Python's own operators."""

from functools import partial

import numpy as np
from onnx import TensorProto, numpy_helper

from latte_cli.network.torch_program.program import Aten, Lowering, Ref, Rules, Symbol


def _made(low: Lowering, op: Aten, value: float = 0.0) -> object:
    like = op.optional("self") if op.kind.endswith("_like") else ""
    shape = low.emit("Shape", [like]) if like else low.vector(op.sizes("size") if "size" in op.arguments else [])
    given = op.arguments.get("fill_value", value)
    return _of_one_number(low, op, shape, float(given) if isinstance(given, int | float) else value, op.outputs[0])


def _of_one_number(low: Lowering, op: Aten, shape: str, number: float, *outputs: str) -> str:
    element = low.meta(op.outputs[0]).element
    kinds = {TensorProto.INT64: np.int64, TensorProto.BOOL: np.bool_}
    filled = numpy_helper.from_array(np.asarray([number]).astype(kinds.get(element, np.float32)))
    return low.emit("ConstantOfShape", [shape], *outputs, value=filled)


def _counted(low: Lowering, op: Aten) -> object:
    bounds = [op.arguments.get(name, default) for name, default in (("start", 0), ("end", 0), ("step", 1))]
    whole = low.meta(op.outputs[0]).element == TensorProto.INT64
    names = [
        bound.name if isinstance(bound, Symbol) else low.constant(bound, np.int64 if whole else np.float32)
        for bound in bounds
    ]
    return low.emit("Range", names, op.outputs[0])


def _scalar(low: Lowering, op: Aten) -> object:
    value = op.arguments.get("s")
    name = value.name if isinstance(value, Symbol) else low.scalar(value, op.outputs[0])
    return low.emit("Identity", [name], op.outputs[0])


def _size(low: Lowering, op: Aten) -> object:
    shape = low.emit("Shape", [op.tensor("self", "input", "a")])
    return low.emit("Gather", [shape, low.constant(op.integer("dim", 0))], op.outputs[0], axis=0)


def _arithmetic(low: Lowering, op: Aten, kind: str) -> object:
    pair = list(op.arguments.values())[:2]
    names = [each.name if isinstance(each, Ref | Symbol) else low.constant(each) for each in pair]
    return low.emit(kind, names, op.outputs[0])


def _nothing(low: Lowering, op: Aten) -> object:
    return None


def _drawn(low: Lowering, op: Aten) -> object:
    """Random numbers in place of a tensor's: a tensor that is made."""
    x = op.optional("self") or op.optional("input")
    return low.emit("ConstantOfShape", [low.emit("Shape", [x])], op.outputs[0]) if x else _made(low, op, 0.0)


def _filled(low: Lowering, op: Aten) -> object:
    """One number throughout, which may be computed."""
    value, shape = op.arguments.get("value", 0.0), low.emit("Shape", [op.tensor("self")])
    if isinstance(value, int | float):
        return _of_one_number(low, op, shape, float(value), op.outputs[0])
    given = value.name if isinstance(value, Ref) else low.scalar(value, op.tensor("self"))
    return low.emit("Add", [_of_one_number(low, op, shape, 0.0), given], op.outputs[0])


def _opaque_constant(low: Lowering, op: Aten) -> object:
    """Numbers that follow from sizes, of which the shape is enough."""
    meta = low.meta(op.outputs[0])
    zeros = numpy_helper.from_array(np.zeros(1, np.int64 if meta.element == TensorProto.INT64 else np.float32))
    return low.emit("ConstantOfShape", [low.constant(low.shape_of(op.outputs[0]))], op.outputs[0], value=zeros)


_RANDOM = (
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "empty_strided"),
    *("new_empty", "new_empty_strided", "empty_permuted"),
)

RULES: Rules = {
    **dict.fromkeys(
        ("zeros", "zeros_like", "new_zeros", "full", "full_like", "new_full", "empty", "empty_like"), _made
    ),
    **{name: partial(_made, value=1.0) for name in ("ones", "ones_like", "new_ones")},
    **dict.fromkeys(_RANDOM, _made),
    **dict.fromkeys(("bernoulli", "normal", "uniform", "exponential", "random", "log_normal", "cauchy"), _drawn),
    **dict.fromkeys(("fill", "zero"), _filled),
    **dict.fromkeys(("eye", "linspace", "logspace", "triu_indices", "tril_indices", "hann_window"), _opaque_constant),
    "arange": _counted,
    "scalar_tensor": _scalar,
    "sym_size": _size,
    **dict.fromkeys(("_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range"), _nothing),
    **dict.fromkeys(("_functional_assert_async", "_functional_assert_scalar", "record_stream"), _nothing),
    "sym_constrain_range_for_size": _nothing,
}

ARITHMETIC: Rules = {
    "add": partial(_arithmetic, kind="Add"),
    "sub": partial(_arithmetic, kind="Sub"),
    "mul": partial(_arithmetic, kind="Mul"),
    "floordiv": partial(_arithmetic, kind="Div"),
    "mod": partial(_arithmetic, kind="Mod"),
}
"""The rules of Python's own operators, which compute with sizes."""
