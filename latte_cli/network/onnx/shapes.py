"""ONNX operators that rearrange tensors or compute with their shapes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
from onnx import TensorProto, helper

from latte_cli.errors import LatteError
from latte_cli.layers import Concat, Copy, Embedding, Other, Shape, View, broadcast
from latte_cli.network.graph import Value
from latte_cli.network.onnx.operation import (
    FEW_NUMBERS,
    FOLDED_ELEMENTS,
    NO_NUMBERS,
    OPEN_BATCH,
    Operation,
    Reader,
    Tensor,
    Unreadable,
    checked_shape,
    np_element,
    shortest,
    stored,
    tensor_values,
)


def _constant(op: Operation) -> object:
    for name, attribute in op.attributes.items():
        if name == "value":
            op.results[op.outputs[0]] = stored(attribute.t, op.place or op.outputs[0])
            return None
        if name == "sparse_value":
            return op.constant(tuple(attribute.sparse_tensor.dims), element=attribute.sparse_tensor.values.data_type)
        if name in ("value_int", "value_float"):
            return op.constant((), np.asarray(helper.get_attribute_value(attribute)))
        if name in ("value_ints", "value_floats"):
            values = np.asarray(helper.get_attribute_value(attribute))
            return op.constant(values.shape, values)
    raise Unreadable("a constant that holds no numbers is not known")


def _constant_of_shape(op: Operation) -> object:
    shape = checked_shape(op.sizes(0) or (), "the result")
    attribute = op.attributes.get("value")
    value = tensor_values(attribute.t) if attribute else np.zeros(1, np.float32)
    if value is None or value.size != 1 or prod(shape) > FOLDED_ELEMENTS:
        return op.constant(shape, element=attribute.t.data_type if attribute else TensorProto.FLOAT)
    return op.constant(shape, np.full(shape, value.ravel()[0], value.dtype))


def _shape(op: Operation) -> object:
    x = op.input()
    sizes = np.asarray(x.shape, np.int64)[op.integer("start") : op.integer("end", len(x.shape))]
    return op.constant(sizes.shape, sizes, computed=not x.constant or x.computed)


def _size(op: Operation) -> object:
    x = op.input()
    return op.constant((), np.asarray(min(prod(x.shape), 2**62)), computed=not x.constant or x.computed)


def _range(op: Operation) -> object:
    start, limit, step = (op.values(index) for index in range(3))
    if start is None or limit is None or step is None or not step.any():
        raise LatteError("a range needs a start, a limit and a step that is not 0")
    a, b, c = (values.ravel()[0].item() for values in (start, limit, step))
    count = max(0, int(-((a - b) // c)))
    if count > FOLDED_ELEMENTS:
        return op.constant((count,), element=np_element(start))
    return op.constant((count,), np.asarray([a + c * index for index in range(count)], start.dtype))


def _same(op: Operation) -> object:
    x = op.input()
    return op.view(x, x.shape)


def _cast(op: Operation) -> object:
    return _cast_to(op, op.integer("to", TensorProto.FLOAT))


def _cast_like(op: Operation) -> object:
    return _cast_to(op, op.input(1).element)


def _cast_to(op: Operation, element: int) -> object:
    x = op.input()
    if element not in TensorProto.DataType.values() or element in NO_NUMBERS:
        raise Unreadable(f"a cast to element type {element} is not known")
    if x.constant:
        values = None if x.values is None else x.values.astype(helper.tensor_dtype_to_np_dtype(element))
        y = op.constant(x.shape, values)
    elif element == x.element:
        return op.view(x, x.shape)
    else:
        y = op.result(Copy(operation="cast", shape=x.shape, output=x.shape), x, attributes=(("to", element),))
    op.results[y.name] = replace(y, element=element, parts=x.parts)
    return y


def _reshape(op: Operation) -> object:
    x = op.input()
    target = op.sizes(1, "shape")
    if target is None:
        raise LatteError("it names no shape")
    wanted, given = op.wanted.get(op.outputs[0]), op.optional(1)
    if op.scaled and not op.folds and not (given is not None and given.computed):
        if wanted is not None and prod(wanted) == prod(x.shape):
            return op.view(x, wanted)
        if target[:1] not in ((-1,), (0,)):
            raise LatteError(f"its shape {target} holds the batch of the export, which cannot be followed to it")
    _check_own(op, x, target, given)
    sizes = list(target)
    if not op.integer("allowzero"):
        sizes = [x.shape[at] if size == 0 else size for at, size in enumerate(sizes)]
    if sizes.count(-1) == 1:
        known = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = prod(x.shape) // known if known > 0 else 0
    if prod(sizes) != prod(x.shape):
        raise LatteError(f"{x.shape} does not reshape to {target}", hint=OPEN_BATCH)
    return op.view(x, tuple(sizes))


def _check_own(op: Operation, x: Tensor, target: Shape, given: Tensor | None) -> None:
    """Raise LatteError where the batch would go into another dimension because an export's batch was 1."""
    fixed = op.open_batch and not (op.folds or op.scaled) and not (given is not None and given.computed)
    if fixed and target[:1] == (1,) and op.batch > 1 and x.shape[:1] == (op.batch,):
        raise LatteError(f"its shape {target} holds the batch of the export")


def _flatten(op: Operation) -> object:
    x = op.input()
    axis = op.integer("axis", 1)
    axis = axis if axis == len(x.shape) else op.axis(axis, max(1, len(x.shape)))
    return op.view(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


def _squeeze(op: Operation) -> object:
    x = op.input()
    axes = op.sizes(1, "axes")
    if axes is None:
        axes = tuple(axis for axis, size in enumerate(x.shape) if size == 1)
    axes = op.axes(axes, len(x.shape))
    output = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    return op.view(x, output, (("squeezed", axes),))


def _unsqueeze(op: Operation) -> object:
    x = op.input()
    axes = op.sizes(1, "axes") or ()
    rank = len(x.shape) + len(axes)
    axes = op.axes(axes, rank)
    sizes = iter(x.shape)
    return op.view(x, tuple(1 if axis in axes else next(sizes) for axis in range(rank)), (("unsqueezed", axes),))


def permutation(op: Operation) -> tuple[int, ...]:
    """Where each dimension of a Transpose comes from; raises LatteError where each is not there once."""
    rank = len(op.input().shape)
    order = op.integers("perm") or tuple(reversed(range(rank)))
    order = tuple(op.axis(axis, rank) for axis in order)
    if sorted(order) != list(range(rank)):
        raise LatteError(f"{order} is no order of {rank} dimensions")
    return order


def _transpose(op: Operation) -> object:
    x, order = op.input(), permutation(op)
    output = tuple(x.shape[axis] for axis in order)
    wide = [axis for axis in order if x.shape[axis] > 1]
    if wide == sorted(wide):
        return op.view(x, output, (("perm", order),))
    return op.result(Copy(operation="transpose", shape=x.shape, output=output, order=order), x)


def _copied(
    op: Operation,
    operation: str,
    output: Shape,
    x: Tensor | None = None,
    attributes: tuple[tuple[str, Value], ...] = (),
    *,
    moves: bool = False,
) -> Tensor:
    """The output as a copy of `x`, or as a view where the copy would change nothing (unless it `moves` elements)."""
    x = x or op.input()
    output = checked_shape(output, "the result")
    if (output == x.shape and not moves) or op.folds:
        return op.view(x, output)
    return op.result(Copy(operation=operation, shape=x.shape, output=output), x, attributes=attributes)


def slices(op: Operation) -> tuple[slice, ...]:
    """What a Slice takes of each dimension."""
    shape = op.input().shape
    starts, ends = op.sizes(1, "starts"), op.sizes(2, "ends")
    if starts is None or ends is None:
        raise LatteError("it names no start or no end")
    axes = op.sizes(3, "axes") or tuple(range(len(starts)))
    steps = op.sizes(4) or (1,) * len(starts)
    found = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        found[op.axis(axis, len(shape))] = slice(start, end, step)
    return tuple(found)


def _slice(op: Operation) -> object:
    shape = op.input().shape
    cuts = slices(op)
    if op.integer("within") and any((cut.stop or 0) > size for cut, size in zip(cuts, shape, strict=True)):
        raise LatteError(f"what it takes goes beyond the end of {shape}")
    found = [cut.indices(size) for cut, size in zip(cuts, shape, strict=True)]
    starts, ends, steps = zip(*found, strict=True) if found else ((), (), ())
    attributes = (("starts", starts), ("ends", ends), ("steps", steps))
    turned = any(step < 0 for step in steps)
    output = tuple(len(range(*cut)) for cut in found)
    wanted = op.wanted.get(op.outputs[0], output)
    if op.own_batch == 1 and op.scaled and _first_or_all(op, wanted):
        raise LatteError("it takes the first sample or all of them, which was the same at the export's batch of 1")
    if wanted != output and not turned:
        pairs = enumerate(zip(wanted, output, starts, strict=True))
        starts = tuple(start if new == old else start * op.batch // op.own_batch for _, (new, old, start) in pairs)
        ends = tuple(start + size for start, size in zip(starts, wanted, strict=True))
        attributes, output = (("starts", starts), ("ends", ends), ("steps", steps)), wanted
    return _copied(op, "slice", output, attributes=attributes, moves=turned)


def _first_or_all(op: Operation, wanted: Shape) -> bool:
    """Whether it takes `:1` of a dimension that is the batch, which it may mean or not."""
    pairs = enumerate(zip(slices(op), op.input().shape, strict=True))
    return any(cut == slice(0, 1, 1) and size == op.batch == wanted[axis] for axis, (cut, size) in pairs)


def _gather(op: Operation) -> object:
    x, indices = op.input(), op.input(1)
    axis = op.axis(op.integer("axis"), len(x.shape))
    if x.constant and not indices.constant:
        return _embedding(op, x, indices, axis)
    taken = (*x.shape[:axis], prod(indices.shape), *x.shape[axis + 1 :])
    output = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    attributes: tuple[tuple[str, Value], ...] = (("axis", axis),)
    if indices.constant and indices.values is not None and indices.values.size <= FEW_NUMBERS:
        attributes += (("indices", tuple(int(index) for index in indices.values.ravel())),)
    if op.folds:
        return op.constant(output)
    if not indices.constant:
        layer = Other(operation="gather", shapes=(x.shape, indices.shape), output=output)
        return op.result(layer, x, indices, attributes=attributes + op.operands((0, 1)))
    constants = op.constant_inputs
    if taken == output:
        return op.result(Copy(operation="gather", shape=x.shape, output=output), x, attributes=attributes)
    copy = Copy(operation="gather", shape=x.shape, output=taken)
    y = op.step("gather", copy, x, attributes=attributes, constants=constants)
    return op.view(y, output)


def _embedding(op: Operation, table: Tensor, indices: Tensor, axis: int) -> object:
    """A look-up in a table of weights, whatever an entry's rank; along another axis none that is trained so."""
    own = table.shape[axis + 1 :]
    if axis or len(table.shape) < 2 or not table.floating:
        other = Other(
            operation="gather", shapes=(table.shape, indices.shape), output=(*table.shape[:axis], *indices.shape, *own)
        )
        return op.result(other, table, indices, attributes=(("axis", axis), *op.operands((0, 1))))
    rows = op.step("rows", View(shape=indices.shape, output=(prod(indices.shape),)), indices)
    layer = Embedding(rows=rows.shape[0], entries=table.shape[0], width=prod(own))
    shape = (*indices.shape, *own)
    if shape == layer.output_shape:
        return op.result(layer, rows, parameters=(table,))
    y = op.step("look_up", layer, rows, parameters=(table,))
    return op.view(y, shape)


def _split(op: Operation) -> object:
    x = op.input()
    axis = op.axis(op.integer("axis"), len(x.shape))
    count = len(op.outputs)
    if op.integer("num_outputs", count) != count:
        raise LatteError(f"it writes {count} outputs of {op.integer('num_outputs')}")
    if op.integer("equal"):
        _check_parts(x.shape[axis], count, "numbers")
    part = op.integer("part") or -(-x.shape[axis] // count)
    if -(-x.shape[axis] // part) != count and op.integer("part"):
        raise LatteError(f"{x.shape[axis]} numbers do not make {count} parts of {part}, as in the export")
    sizes = op.sizes(1, "split") or (part,) * (count - 1) + (x.shape[axis] - part * (count - 1),)
    if op.scaled and not op.folds:
        known = [op.wanted.get(name) for name in op.outputs]
        sizes = tuple(size if shape is None else shape[axis] for size, shape in zip(sizes, known, strict=False))
    if sum(sizes) != x.shape[axis] or len(sizes) < len(op.outputs):
        raise LatteError(f"parts of {sizes[:8]} are not the whole of {x.shape[axis]}")
    start = 0
    for index, size in enumerate(sizes[: len(op.outputs)]):
        output = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        if op.outputs[index]:
            place = (("axis", axis), ("start", start))
            op.result(Copy(operation="split", shape=x.shape, output=output), x, index=index, attributes=place)
        start += size
    return None


def _pad(op: Operation) -> object:
    x = op.input()
    pads = op.sizes(1, "pads") or ()
    axes = op.sizes(3) or tuple(range(len(x.shape)))
    if len(pads) != 2 * len(axes):
        raise LatteError(f"it has {len(pads)} pads for {len(axes)} dimensions")
    before, after = [0] * len(x.shape), [0] * len(x.shape)
    for axis, first, last in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        before[op.axis(axis, len(before))], after[op.axis(axis, len(before))] = first, last
    output = tuple(map(sum, zip(x.shape, before, after, strict=True)))
    _check_pads(op.text("mode", "constant"), x.shape, map(max, zip(before, after, strict=True)))
    value = op.scalar(2, "value") or 0.0
    ends = (("before", tuple(before)), ("after", tuple(after)))
    mode = (("mode", op.text("mode", "constant")), ("value", value))
    return _copied(op, "pad", output, attributes=(*ends, *mode), moves=any((*before, *after)))


def _check_pads(mode: str, shape: Shape, pads: Iterable[int]) -> None:
    """Raise LatteError for pads that repeat more than there is, which torch refuses."""
    for size, pad in zip(shape, pads, strict=True):
        least = {"reflect": pad + 1, "wrap": pad, "edge": 1}.get(mode, 0) if pad > 0 else 0
        if size < least:
            raise LatteError(f"a pad of {pad} by the mode `{mode}` needs a size of at least {least}, not {size}")


def _tile(op: Operation) -> object:
    x = op.input()
    repeats = op.sizes(1) or ()
    output = tuple(size * times for size, times in zip(x.shape, repeats, strict=True))
    if op.scaled and not op.folds and not op.input(1).computed:
        output = op.wanted.get(op.outputs[0], output)
    return _copied(op, "tile", output, attributes=(("repeats", repeats),))


def _expand(op: Operation) -> object:
    x, wanted = op.input(), op.input(1)
    target = checked_shape(op.sizes(1) or (), "the result")
    output = op.wanted.get(op.outputs[0])
    rank = max(len(x.shape), len(target))
    before = (*(1,) * (rank - len(x.shape)), *x.shape)
    if op.scaled and not wanted.computed and len(target) == rank and target[:1] == (op.own_batch,) and before[0] == 1:
        target = (op.batch, *target[1:])
    if op.scaled and op.folds and uniform(x):
        conflicts = zip(before, (*(1,) * (rank - len(target)), *target), strict=True)
        return op.constant(tuple(new if old == op.own_batch or old == 1 else old for old, new in conflicts))
    if op.scaled and not op.folds and not wanted.computed and output is not None:
        return _copied(op, "expand", broadcast(x.shape, output))
    return _copied(op, "expand", broadcast(x.shape, target))


def uniform(x: Tensor) -> bool:
    """Whether a constant holds one number over and over, as first states do, so that it may be of any size."""
    return x.values is not None and x.values.size > 0 and bool((x.values == x.values.flat[0]).all())


def _concat(op: Operation) -> object:
    inputs = op.given
    if not inputs:
        raise LatteError("it has no inputs")
    axis = op.axis(op.integer("axis", 1), len(inputs[0].shape))
    if op.folds:
        size = sum(tensor.shape[axis] for tensor in inputs)
        return op.constant((*inputs[0].shape[:axis], size, *inputs[0].shape[axis + 1 :]))
    inputs = tuple(op.activation(tensor) if tensor.trained else tensor for tensor in inputs)
    inputs = _repeated(op, inputs, axis) if op.wanted and not op.folds else inputs
    whole = Concat(shapes=tuple(tensor.shape for tensor in inputs), axis=axis)
    varying = [tensor for tensor in inputs if not tensor.constant]
    if len(varying) == len(inputs):
        return op.result(whole, *inputs)
    # constants are written next to what varies, as padding is
    first = varying[0]
    if len(varying) > 1:
        first = op.step("concat", Concat(shapes=tuple(tensor.shape for tensor in varying), axis=axis), *varying)
    kept = tuple(place for place, tensor in enumerate(inputs) if not tensor.constant)
    sizes = tuple(tensor.shape[axis] for tensor in inputs)
    beside: tuple[tuple[str, Value], ...] = (("axis", axis), ("sizes", sizes), ("varying", kept))
    fixed = [tensor for tensor in inputs if tensor.constant]
    if all(map(uniform, fixed)):
        beside += (("filled", tuple(shortest(tensor.values.flat[0]) for tensor in fixed if tensor.values is not None)),)
    return _copied(op, "concat_constants", whole.output_shape, first, beside)


def _repeated(op: Operation, inputs: Sequence[Tensor], axis: int) -> tuple[Tensor, ...]:
    """The inputs, of which those that an export at a batch of 1 left as they are are repeated for each sample."""
    full = [max(tensor.shape[at] for tensor in inputs) for at in range(len(inputs[0].shape))]
    found = []
    for place, tensor in enumerate(inputs):
        shape = tuple(size if at == axis else full[at] for at, size in enumerate(tensor.shape))
        if shape != tensor.shape and shape == broadcast(tensor.shape, shape) and not tensor.constant:
            layer = Copy(operation="expand", shape=tensor.shape, output=shape)
            tensor = op.step(f"repeated_{place}", layer, tensor)
        found.append(tensor)
    return tuple(found)


def _resize(op: Operation) -> object:
    """Output sizes are given, or floor(size · scale)."""
    x = op.input()
    axes = op.integers("axes") or tuple(range(len(x.shape)))
    sizes = op.sizes(3) if op.optional(3) is not None else None
    if sizes is not None:
        sizes = _of_one_scale(op, [x.shape[op.axis(axis, len(x.shape))] for axis in axes], sizes)
    else:
        scales = op.reals("scales") if "scales" in op.attributes else _scales(op)
        pairs = zip(axes, scales or (), strict=True)
        sizes = tuple(int(x.shape[op.axis(axis, len(x.shape))] * scale) for axis, scale in pairs)
    output = list(x.shape)
    for axis, size in zip(axes, sizes, strict=True):
        output[op.axis(axis, len(output))] = size
    given = op.optional(3)
    fixed = op.scaled and given is not None and not given.computed
    shape = op.wanted.get(op.outputs[0], tuple(output)) if fixed else tuple(output)
    return _copied(op, "resize", shape, attributes=op.numbers)


def _of_one_scale(op: Operation, before: Sequence[int], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes wanted, or with an aspect ratio to keep those that one scale, the least or largest of them, gives."""
    policy = op.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch" or not all(before):
        return sizes
    scales = [size / old for size, old in zip(sizes, before, strict=True)]
    scale = min(scales) if policy == "not_larger" else max(scales)
    return tuple(int(old * scale + 0.5) for old in before)


def _scales(op: Operation) -> tuple[float, ...]:
    values = op.values(2 if op.opset >= 11 and op.kind == "Resize" else 1)
    return () if values is None else tuple(float(value) for value in values.ravel())


def _moved(op: Operation, operation: str, output: Shape) -> Tensor:
    return _copied(op, operation, output, attributes=op.numbers, moves=True)


def _trilu(op: Operation) -> object:
    k = op.scalar(1) if op.optional(1) is not None else 0.0
    attributes: tuple[tuple[str, Value], ...] = (("upper", op.integer("upper", 1)),)
    attributes += () if k is None else (("k", k),)
    return _copied(op, "trilu", op.input().shape, attributes=attributes, moves=True)


def _check_parts(size: int, parts: int, what: str) -> None:
    if size % parts:
        raise LatteError(f"{size} {what} do not make {parts} equal parts")


def _depth_to_space(op: Operation) -> object:
    batch, channels, height, width = op.input().shape
    block = max(1, op.integer("blocksize", 1))
    _check_parts(channels, block**2, "channels")
    return _moved(op, "depth_to_space", (batch, channels // block**2, height * block, width * block))


def _space_to_depth(op: Operation) -> object:
    batch, channels, height, width = op.input().shape
    block = max(1, op.integer("blocksize", 1))
    _check_parts(height, block, "rows")
    _check_parts(width, block, "columns")
    return _moved(op, "space_to_depth", (batch, channels * block**2, height // block, width // block))


READERS: dict[str, Reader] = {
    "Identity": _same,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Trilu": _trilu,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Slice": _slice,
    "Gather": _gather,
    "Split": _split,
    "Pad": _pad,
    "Tile": _tile,
    "Expand": _expand,
    "Concat": _concat,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
"""Operators that move data or only see it in another shape."""

MAKING: dict[str, Reader] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Size": _size,
    "Range": _range,
}
"""Operators whose output is a constant, whatever they are given."""
