"""What each operator of a `torch.export` program is in ONNX."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from onnx import TensorProto, numpy_helper

from latte_cli.errors import LatteError
from latte_cli.network.torch_program.program import Aten, Lowering, Ref, Symbol

Rule: TypeAlias = Callable[[Lowering, Aten], object]

_FAR = 2**62


# Windows


def _convolution(low: Lowering, op: Aten) -> object:
    x, weight = op.tensor("input", "self"), op.tensor("weight")
    rank = low.rank(weight) - 2
    attributes: dict[str, Any] = {
        "strides": op.integers("stride", rank, 1),
        "dilations": op.integers("dilation", rank, 1),
        "group": op.integer("groups", 1),
    }
    if isinstance(op.arguments.get("padding"), str):
        attributes["auto_pad"] = "VALID" if op.text("padding") == "valid" else "SAME_UPPER"
    else:
        attributes["pads"] = op.integers("padding", rank) * 2
    kind = "Conv"
    if op.kind.startswith("conv_transpose") or op.flag("transposed"):
        kind, attributes["output_padding"] = "ConvTranspose", op.integers("output_padding", rank)
    unbatched = low.rank(x) == rank + 1
    x = low.emit("Unsqueeze", [x, low.constant([0])]) if unbatched else x
    if not unbatched:
        return low.emit(kind, [x, weight, op.optional("bias")], op.outputs[0], **attributes)
    y = low.emit(kind, [x, weight, op.optional("bias")], **attributes)
    return low.emit("Squeeze", [y, low.constant([0])], op.outputs[0])


def _pool(low: Lowering, op: Aten, kind: str, rank: int) -> object:
    kernel = op.integers("kernel_size", rank)
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": op.integers("stride", rank) if op.arguments.get("stride") else kernel,
        "pads": op.integers("padding", rank) * 2,
        "ceil_mode": int(op.flag("ceil_mode")),
    }
    if kind == "MaxPool":
        attributes["dilations"] = op.integers("dilation", rank, 1)
    else:
        attributes["count_include_pad"] = int(op.flag("count_include_pad", default=True))
    return low.emit(kind, [op.tensor("self", "input")], *op.outputs, **attributes)


def _adaptive_pool(low: Lowering, op: Aten, kind: str, rank: int) -> object:
    x, wanted = op.tensor("self", "input"), op.integers("output_size", rank)
    sizes = low.meta(x).sizes[-rank:]
    if all(size == 1 for size in wanted):
        return low.emit(f"Global{kind}", [x], op.outputs[0])
    if any(size is None or size % want for size, want in zip(sizes, wanted, strict=True)):
        raise LatteError(
            f"`{op.target}` of {sizes} to {wanted} has windows of different sizes",
            hint="export the model at a size that its adaptive pool divides",
        )
    window = [(size or 1) // want for size, want in zip(sizes, wanted, strict=True)]
    return low.emit(kind, [x], op.outputs[0], kernel_shape=window, strides=window)


def _resized(low: Lowering, op: Aten, mode: str) -> object:
    x = op.tensor("self", "input")
    sizes = low.meta(op.outputs[0]).sizes
    if None in sizes[2:]:
        raise LatteError(f"`{op.target}` to a symbolic size is not known", hint="export it at a fixed image size")
    spatial = [size or 1 for size in sizes[2:]]
    axes = list(range(2, len(sizes)))
    corners = op.flag("align_corners")
    rule = "align_corners" if corners else "asymmetric" if mode == "nearest" else "half_pixel"
    given = [x, "", "", low.constant(spatial)]
    return low.emit("Resize", given, op.outputs[0], mode=mode, axes=axes, coordinate_transformation_mode=rule)


def _padded(low: Lowering, op: Aten, mode: str = "constant") -> object:
    x = op.tensor("self", "input")
    mode = {"replicate": "edge", "circular": "wrap"}.get(op.text("mode", mode), op.text("mode", mode))
    pads, rank = op.integers("pad") or op.integers("padding"), low.rank(x)
    before, after = [0] * rank, [0] * rank
    for at in range(len(pads) // 2):
        before[rank - 1 - at], after[rank - 1 - at] = pads[2 * at], pads[2 * at + 1]
    value = op.number("value", 0.0)
    given = [x, low.constant([*before, *after])]
    if mode == "constant" and value:
        given.append(low.constant(value, np.float32))
    return low.emit("Pad", given, op.outputs[0], mode=mode)


# Products


def _linear(low: Lowering, op: Aten) -> object:
    x, weight, bias = op.tensor("input", "self"), op.tensor("weight"), op.optional("bias")
    if low.rank(x) == 2:
        return low.emit("Gemm", [x, weight, bias], op.outputs[0], transB=1)
    turned = low.emit("Transpose", [weight], perm=[1, 0])
    if not bias:
        return low.emit("MatMul", [x, turned], op.outputs[0])
    return low.emit("Add", [low.emit("MatMul", [x, turned]), bias], op.outputs[0])


def _addmm(low: Lowering, op: Aten) -> object:
    given = [op.tensor("mat1"), op.tensor("mat2"), op.tensor("self", "input")]
    return low.emit("Gemm", given, op.outputs[0], alpha=op.number("alpha", 1.0), beta=op.number("beta", 1.0))


def _matmul(low: Lowering, op: Aten) -> object:
    return low.emit("MatMul", [op.tensor("self", "input"), op.tensor("other", "mat2", "vec")], op.outputs[0])


def _baddbmm(low: Lowering, op: Aten) -> object:
    product = low.emit("MatMul", [op.tensor("batch1"), op.tensor("batch2")])
    return low.emit("Add", [product, op.tensor("self", "input")], op.outputs[0])


def _einsum(low: Lowering, op: Aten) -> object:
    return low.emit("Einsum", op.tensors("tensors"), op.outputs[0], equation=op.text("equation"))


def _attention(low: Lowering, op: Aten) -> object:
    given = [op.tensor("query"), op.tensor("key"), op.tensor("value")]
    mask = op.optional("attn_mask") or op.optional("attn_bias")
    return low.emit("Attention", [*given, mask], op.outputs[0], is_causal=int(op.flag("is_causal")))


# Norms


def _ones(low: Lowering, op: Aten, what: str, shape: list[int]) -> str:
    """A norm's tensor; where it has none, ones or zeros that change nothing."""
    if found := op.optional(what):
        return found
    name = f"{low.label}.{what}?"
    values = np.full(shape, 0.0 if what in ("bias", "running_mean") else 1.0, np.float32)
    low.constants.setdefault(name, numpy_helper.from_array(values, name))
    return name


def _channels(low: Lowering, x: str) -> int:
    size = low.meta(x).sizes[1] if low.rank(x) > 1 else None
    if size is None:
        raise LatteError(f"the channels of `{x}` are not known", hint="export it with a fixed number of channels")
    return size


def _batch_norm(low: Lowering, op: Aten) -> object:
    x = op.tensor("input", "self")
    shape = [_channels(low, x)]
    given = [_ones(low, op, name, shape) for name in ("weight", "bias", "running_mean", "running_var")]
    values = {"epsilon": op.number("eps", 1e-5), "momentum": 1.0 - op.number("momentum", 0.1)}
    return low.emit("BatchNormalization", [x, *given], op.outputs[0], **values)


def _layer_norm(low: Lowering, op: Aten) -> object:
    x, own = op.tensor("input", "self"), op.integers("normalized_shape")
    given = [x, _ones(low, op, "weight", own), op.optional("bias")]
    axis, epsilon = -len(own), op.number("eps", 1e-5)
    return low.emit("LayerNormalization", given, *op.outputs, axis=axis, epsilon=epsilon)


def _rms_norm(low: Lowering, op: Aten) -> object:
    x, own = op.tensor("input", "self"), op.integers("normalized_shape")
    given = [x, _ones(low, op, "weight", own)]
    return low.emit("RMSNormalization", given, op.outputs[0], axis=-len(own), epsilon=op.number("eps", 1e-5))


def _group_norm(low: Lowering, op: Aten) -> object:
    x = op.tensor("input", "self")
    given = [x, *(_ones(low, op, name, [_channels(low, x)]) for name in ("weight", "bias"))]
    groups = op.integer("num_groups", op.integer("group", 1))
    return low.emit("GroupNormalization", given, op.outputs[0], num_groups=groups, epsilon=op.number("eps", 1e-5))


def _instance_norm(low: Lowering, op: Aten) -> object:
    x = op.tensor("input", "self")
    given = [x, *(_ones(low, op, name, [_channels(low, x)]) for name in ("weight", "bias"))]
    return low.emit("InstanceNormalization", given, op.outputs[0], epsilon=op.number("eps", 1e-5))


# Element by element


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


# Shapes


def _same(low: Lowering, op: Aten) -> object:
    return low.emit("Identity", [op.tensor("self", "input", "data")], op.outputs[0])


def _reshaped(low: Lowering, op: Aten) -> object:
    name = "size" if "size" in op.arguments else "shape"
    return low.emit("Reshape", [op.tensor("self", "input"), low.vector(op.sizes(name))], op.outputs[0])


def _reshaped_as_told(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    ends = [low.axis(op.integer(*end), low.rank(x)) for end in (("start_dim", 0), ("end_dim", -1))]
    if op.kind == "flatten" and ends == [1, low.rank(x) - 1]:
        return low.emit("Flatten", [x], op.outputs[0], axis=1)
    return low.emit("Reshape", [x, low.constant(low.shape_of(op.outputs[0]))], op.outputs[0])


def _squeezed(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    wanted = op.integers("dim") or list(range(low.rank(x)))
    axes = [low.axis(axis, low.rank(x)) for axis in wanted]
    ones = [axis for axis in axes if low.rank(x) and low.meta(x).sizes[axis] == 1]
    if not ones:
        return low.emit("Identity", [x], op.outputs[0])
    return low.emit("Squeeze", [x, low.constant(ones)], op.outputs[0])


def _unsqueezed(low: Lowering, op: Aten) -> object:
    return low.emit("Unsqueeze", [op.tensor("self", "input"), low.constant([op.integer("dim", 0)])], op.outputs[0])


def _permuted(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    rank = low.rank(x)
    order = list(range(rank))
    if op.kind == "permute":
        order = [low.axis(axis, rank) for axis in op.integers("dims")]
    elif op.kind == "movedim":
        moved = [low.axis(axis, rank) for axis in op.integers("source")]
        places = [low.axis(axis, rank) for axis in op.integers("destination")]
        rest = iter(axis for axis in order if axis not in moved)
        order = [moved[places.index(at)] if at in places else next(rest) for at in order]
    elif rank > 1:
        plain = op.kind in ("t", "numpy_T")
        a, b = (0, rank - 1) if plain else (op.integer("dim0", 0), op.integer("dim1", 1))
        a, b = low.axis(a, rank), low.axis(b, rank)
        order[a], order[b] = order[b], order[a]
    return low.emit("Transpose", [x], op.outputs[0], perm=order)


def _expanded(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    if op.kind == "expand_as":
        return low.emit("Expand", [x, low.emit("Shape", [op.tensor("other")])], op.outputs[0])
    sizes = [1 if size == -1 else size for size in op.sizes("size")]
    return low.emit("Expand", [x, low.vector(sizes)], op.outputs[0])


def _repeated(low: Lowering, op: Aten) -> object:
    x, repeats = op.tensor("self", "input"), op.sizes("dims" if op.kind == "tile" else "repeats")
    more = len(repeats) - low.rank(x)
    if more > 0:
        x = low.emit("Unsqueeze", [x, low.constant(list(range(more)))])
    return low.emit("Tile", [x, low.vector([*[1] * max(0, -more), *repeats])], op.outputs[0])


def _sliced(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    start, end, step = (op.arguments.get(name) for name in ("start", "end", "step"))
    if op.kind == "narrow" and isinstance(start, int):
        length = op.arguments.get("length")
        end = start + length if isinstance(length, int) else length
    bounds = [0 if start is None else start, _FAR if end is None else end]
    bounds = [min(bound, _FAR) if isinstance(bound, int) else bound for bound in bounds]
    begin, stop = (low.vector([bound]) for bound in bounds)
    axis, by = low.constant([op.integer("dim", 0)]), low.constant([1 if step is None else step])
    return low.emit("Slice", [x, begin, stop, axis, by], op.outputs[0])


def _selected(low: Lowering, op: Aten) -> object:
    x, axis = op.tensor("self", "input"), op.integer("dim", 0)
    index = op.arguments.get("index")
    if isinstance(index, Ref | Symbol):
        return low.emit("Gather", [x, index.name], op.outputs[0], axis=axis)
    return low.emit("Gather", [x, low.constant(index)], op.outputs[0], axis=axis)


def _indexed(low: Lowering, op: Aten) -> object:
    """One index takes what a Gather takes; more of them side by side take what a GatherND does."""
    x, indices = op.tensor("self", "input"), op.tensors("indices")
    given = [(axis, name) for axis, name in enumerate(indices) if name]
    if len(given) == 1:
        axis, name = given[0]
        return low.emit("Gather", [x, name], op.outputs[0], axis=axis)
    return low.emit("index", [x, *(name for _, name in given)], op.outputs[0], domain="aten")


def _split(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    axis = low.axis(op.integer("dim", 0), low.rank(x))
    sizes = [low.meta(output).sizes[axis] if low.rank(output) > axis else 1 for output in op.outputs]
    if op.kind == "unbind":
        parts = [low.fresh("part") for _ in op.outputs]
        low.emit("Split", [x, low.constant([1] * len(parts))], *parts, axis=axis)
        for part, output in zip(parts, op.outputs, strict=True):
            low.emit("Squeeze", [part, low.constant([axis])], output)
        return None
    if None in sizes:
        return low.emit("Split", [x], *op.outputs, axis=axis, num_outputs=len(sizes))
    return low.emit("Split", [x, low.constant(sizes)], *op.outputs, axis=axis)


def _joined(low: Lowering, op: Aten) -> object:
    axis, parts = op.integer("dim", 0), list(op.tensors("tensors"))
    if op.kind == "stack":
        parts = [low.emit("Unsqueeze", [part, low.constant([axis])]) for part in parts]
    return low.emit("Concat", parts, op.outputs[0], axis=axis)


def _looked_up(low: Lowering, op: Aten) -> object:
    return low.emit("Gather", [op.tensor("weight"), op.tensor("indices")], op.outputs[0], axis=0)


def _gathered(low: Lowering, op: Aten, kind: str) -> object:
    given = [op.tensor("self", "input"), op.tensor("index")]
    if "src" in op.arguments and op.optional("src"):
        given.append(op.tensor("src"))
    return low.emit(kind, given, op.outputs[0], axis=op.integer("dim", 0))


def _triangle(low: Lowering, op: Aten) -> object:
    given = [op.tensor("self", "input"), low.constant(op.integer("diagonal", 0))]
    return low.emit("Trilu", given, op.outputs[0], upper=int(op.kind == "triu"))


def _flipped(low: Lowering, op: Aten) -> object:
    axes = op.integers("dims")
    ends = [low.constant([value] * len(axes)) for value in (-1, -_FAR)]
    given = [op.tensor("self", "input"), *ends, low.constant(axes), low.constant([-1] * len(axes))]
    return low.emit("Slice", given, op.outputs[0])


def _rolled(low: Lowering, op: Aten) -> object:
    x, zero = op.tensor("self", "input"), 0
    shifts, axes = op.integers("shifts"), op.integers("dims")
    for at, (shift, axis) in enumerate(zip(shifts, axes, strict=True)):
        ends = ((-shift, _FAR), (zero, -shift))
        parts = [
            low.emit("Slice", [x, low.constant([start]), low.constant([end]), low.constant([axis])])
            for start, end in ends
        ]
        outputs = op.outputs[:1] if at == len(axes) - 1 else ()
        x = low.emit("Concat", parts, *outputs, axis=axis)
    return x


# What depends on sizes alone


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


# Recurrent layers


def _recurrent(low: Lowering, op: Aten, kind: str) -> object:
    """A stack of layers, each with its directions, as one ONNX operator each."""
    x, weights = op.tensor("input"), list(op.tensors("params"))
    directions, each = 1 + op.flag("bidirectional"), 4 if op.flag("has_biases", default=True) else 2
    layers, batch_first = op.integer("num_layers", 1), op.flag("batch_first")
    if len(weights) != layers * directions * each:
        raise LatteError(f"`{op.target}` node `{op.name}` has {len(weights)} weights", hint="export it again")
    x = low.emit("Transpose", [x], perm=[1, 0, 2]) if batch_first else x
    last: list[list[str]] = [[] for _ in op.outputs[1:]]
    for layer in range(layers):
        own = weights[layer * directions * each : (layer + 1) * directions * each]
        x, states = _one_layer(low, op, kind, x, own, directions)
        for found, state in zip(last, states, strict=False):
            found.append(state)
        if layer < layers - 1 and op.flag("train") and op.number("dropout", 0.0):
            x = low.emit("Dropout", [x, low.constant(op.number("dropout", 0.0), np.float32)])
    if batch_first:
        low.emit("Transpose", [x], op.outputs[0], perm=[1, 0, 2])
    else:
        low.emit("Identity", [x], op.outputs[0])
    for found, output in zip(last, op.outputs[1:], strict=False):
        low.emit("Concat", found, output, axis=0)
    return None


def _one_layer(
    low: Lowering, op: Aten, kind: str, x: str, weights: list[str], directions: int
) -> tuple[str, list[str]]:
    each = len(weights) // directions
    stacked = [_stacked(low, weights[place::each]) for place in range(each)]
    bias = low.emit("Concat", stacked[2:], axis=1) if each == 4 else ""
    hidden = low.meta(weights[1]).sizes[-1] or 1
    outputs = [low.fresh(part) for part in ("states", "hidden", "cell")[: len(op.outputs)]]
    way = "bidirectional" if directions == 2 else "forward"
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    low.emit(kind, [x, *stacked[:2], bias], *outputs, hidden_size=hidden, direction=way, torch_order=1, **more)
    turned = low.emit("Transpose", [outputs[0]], perm=[0, 2, 1, 3])
    return low.emit("Reshape", [turned, low.constant([0, 0, -1])]), outputs[1:]


def _stacked(low: Lowering, names: list[str]) -> str:
    parts = [low.emit("Unsqueeze", [name, low.constant([0])]) for name in names]
    return parts[0] if len(parts) == 1 else low.emit("Concat", parts, axis=0)


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

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    **{f"max_pool{n}d": partial(_pool, kind="MaxPool", rank=n) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": partial(_pool, kind="MaxPool", rank=n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": partial(_pool, kind="AveragePool", rank=n) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": partial(_adaptive_pool, kind="AveragePool", rank=n) for n in (1, 2, 3)},
    **{f"_adaptive_avg_pool{n}d": partial(_adaptive_pool, kind="AveragePool", rank=n) for n in (2, 3)},
    **{f"adaptive_max_pool{n}d": partial(_adaptive_pool, kind="MaxPool", rank=n) for n in (1, 2, 3)},
    **{f"upsample_nearest{n}d": partial(_resized, mode="nearest") for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": partial(_resized, mode="nearest") for n in (1, 2, 3)},
    **{name: partial(_resized, mode="linear") for name in ("upsample_linear1d", "upsample_bilinear2d")},
    **{name: partial(_resized, mode="linear") for name in ("upsample_trilinear3d", "_upsample_bilinear2d_aa")},
    **{name: partial(_resized, mode="cubic") for name in ("upsample_bicubic2d", "_upsample_bicubic2d_aa")},
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **{f"reflection_pad{n}d": partial(_padded, mode="reflect") for n in (1, 2, 3)},
    **{f"replication_pad{n}d": partial(_padded, mode="edge") for n in (1, 2, 3)},
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot"), _matmul),
    "baddbmm": _baddbmm,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    **dict.fromkeys(
        ("batch_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
        _batch_norm,
    ),
    "_batch_norm_with_update": _batch_norm,
    "layer_norm": _layer_norm,
    "native_layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
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
    **dict.fromkeys(("contiguous", "clone", "detach", "alias", "lift_fresh", "lift_fresh_copy", "lift"), _same),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "_reshape_alias"), _reshaped),
    **dict.fromkeys(("flatten", "unflatten", "view_as", "reshape_as"), _reshaped_as_told),
    "squeeze": _squeezed,
    "unsqueeze": _unsqueezed,
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T", "movedim", "swapaxes"), _permuted),
    **dict.fromkeys(("expand", "expand_as"), _expanded),
    **dict.fromkeys(("repeat", "tile"), _repeated),
    **dict.fromkeys(("slice", "narrow"), _sliced),
    **dict.fromkeys(("select", "index_select"), _selected),
    "index": _indexed,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unbind", "tensor_split", "unsafe_split"), _split),
    **dict.fromkeys(("cat", "stack", "concat"), _joined),
    "embedding": _looked_up,
    "gather": partial(_gathered, kind="GatherElements"),
    "scatter": partial(_gathered, kind="ScatterElements"),
    "scatter_add": partial(_gathered, kind="ScatterElements"),
    "tril": _triangle,
    "triu": _triangle,
    "flip": _flipped,
    "roll": _rolled,
    **dict.fromkeys(
        ("zeros", "zeros_like", "new_zeros", "full", "full_like", "new_full", "empty", "empty_like"), _made
    ),
    **{name: partial(_made, value=1.0) for name in ("ones", "ones_like", "new_ones")},
    "arange": _counted,
    "scalar_tensor": _scalar,
    "sym_size": _size,
    "lstm": partial(_recurrent, kind="LSTM"),
    "gru": partial(_recurrent, kind="GRU"),
    "rnn_tanh": partial(_recurrent, kind="RNN"),
    "rnn_relu": partial(_recurrent, kind="RNN"),
    **dict.fromkeys(("_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range"), _nothing),
    "sym_constrain_range_for_size": _nothing,
}
"""The rules by the operator's name, without its overload and without the `_` of what works in place."""

ARITHMETIC: Mapping[str, Rule] = {
    "add": partial(_arithmetic, kind="Add"),
    "sub": partial(_arithmetic, kind="Sub"),
    "mul": partial(_arithmetic, kind="Mul"),
    "floordiv": partial(_arithmetic, kind="Div"),
    "mod": partial(_arithmetic, kind="Mod"),
}
"""The rules of Python's own operators, which compute with sizes."""
