"""What depends on sizes alone: tensors that are made, and Python's own operators."""

from functools import partial

import numpy as np
from onnx import TensorProto, numpy_helper

from latte_cli.network.torch_program.program import Aten, Lowering, Ref, Rules, Symbol


def _made(low: Lowering, op: Aten, value: float = 0.0) -> object:
    element = low.meta(op.outputs[0]).element
    like = op.optional("self") if op.kind.endswith("_like") else ""
    sizes = op.sizes("size") if "size" in op.arguments else []
    shape = low.emit("Shape", [like]) if like else low.vector(sizes)
    given = op.arguments.get("fill_value", value)
    number = float(given) if isinstance(given, int | float) else value
    plain = TensorProto.FLOAT if element not in (TensorProto.INT64, TensorProto.BOOL) else element
    kinds = {TensorProto.INT64: np.int64, TensorProto.BOOL: np.bool_}
    filled = numpy_helper.from_array(np.asarray([number]).astype(kinds.get(plain, np.float32)))
    return low.emit("ConstantOfShape", [shape], op.outputs[0], value=filled)


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


RULES: Rules = {
    **dict.fromkeys(
        ("zeros", "zeros_like", "new_zeros", "full", "full_like", "new_full", "empty", "empty_like"), _made
    ),
    **{name: partial(_made, value=1.0) for name in ("ones", "ones_like", "new_ones")},
    "arange": _counted,
    "scalar_tensor": _scalar,
    "sym_size": _size,
    **dict.fromkeys(("_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range"), _nothing),
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
