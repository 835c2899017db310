"""Operators that rearrange tensors or see them in another shape."""

from math import prod
from typing import Any

from onnx import TensorProto

from latte_cli.network.graph import COPIED, DETACHED
from latte_cli.network.torch_program.program import Aten, Lowering, Ref, Rules, Symbol, layout_attribute
from latte_cli.precisions import Layout

_FAR = 2**62


def _same(low: Lowering, op: Aten) -> object:
    return low.emit("Identity", [op.tensor("self", "input", "data")], op.outputs[0])


def _laid(low: Lowering, op: Aten) -> object:
    """The same numbers in a memory format: a copy where they do not lie so yet."""
    return low.emit("Identity", [op.tensor("self", "input")], op.outputs[0], **layout_attribute(op, Layout.NCHW))


def _cloned(low: Lowering, op: Aten) -> object:
    """A copy in any case, which lies as the tensor does unless a memory format is given."""
    return low.emit("Identity", [op.tensor("self", "input")], op.outputs[0], **{COPIED: 1}, **layout_attribute(op))


def _detached(low: Lowering, op: Aten) -> object:
    """The same tensor, which no gradient passes."""
    return low.emit("Identity", [op.tensor("self", "input")], op.outputs[0], **{DETACHED: 1})


def _copied(low: Lowering, op: Aten) -> object:
    """What is written over all of a tensor takes its place."""
    x, source = op.tensor("self"), op.tensor("src")
    if low.meta(x).sizes == low.meta(source).sizes:
        return low.emit("Identity", [source], op.outputs[0])
    return low.emit("Expand", [source, low.emit("Shape", [x])], op.outputs[0])


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


def permutation(low: Lowering, op: Aten) -> list[int]:
    """Where each dimension of what an operator permutes comes from."""
    rank = low.rank(op.tensor("self", "input"))
    order = list(range(rank))
    if op.kind == "permute":
        order = [low.axis(axis, rank) for axis in op.integers("dims")]
    elif op.kind in ("movedim", "moveaxis"):
        moved = [low.axis(axis, rank) for axis in op.integers("source")]
        places = [low.axis(axis, rank) for axis in op.integers("destination")]
        rest = iter(axis for axis in order if axis not in moved)
        order = [moved[places.index(at)] if at in places else next(rest) for at in order]
    elif rank > 1:
        plain = op.kind in ("t", "numpy_T")
        last = (-2, -1) if op.kind in ("mT", "mH", "adjoint", "matrix_H") else None
        first = "axis" if op.kind == "swapaxes" else "dim"
        a, b = last or ((0, rank - 1) if plain else (op.integer(f"{first}0", 0), op.integer(f"{first}1", 1)))
        a, b = low.axis(a, rank), low.axis(b, rank)
        order[a], order[b] = order[b], order[a]
    return order


def _permuted(low: Lowering, op: Aten) -> object:
    return low.emit("Transpose", [op.tensor("self", "input")], op.outputs[0], perm=permutation(low, op))


def _expanded(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    if op.kind == "expand_as":
        return low.emit("Expand", [x, low.emit("Shape", [op.tensor("other")])], op.outputs[0])
    sizes = [1 if size == -1 else size for size in op.sizes("size")]
    return low.emit("Expand", [x, low.vector(sizes)], op.outputs[0])


def _meshgrid(low: Lowering, op: Aten) -> object:
    """Places along each axis, repeated along the others; `xy` takes the first two the other way round."""
    axes = list(range(len(op.outputs)))
    if op.text("indexing") == "xy":
        axes[:2] = reversed(axes[:2])
    for axis, x, output in zip(axes, op.tensors("tensors"), op.outputs, strict=True):
        along = low.emit("Reshape", [x, low.constant([-1 if at == axis else 1 for at in range(len(axes))])])
        low.emit("Expand", [along, low.constant(low.shape_of(output))], output)
    return None


def _broadcast(low: Lowering, op: Aten) -> object:
    """Several tensors in the shape that they have together."""
    for x, output in zip(op.tensors("tensors"), op.outputs, strict=True):
        if low.meta(x).sizes == low.meta(output).sizes:
            low.emit("Identity", [x], output)
        else:
            low.emit("Expand", [x, low.constant(low.shape_of(output))], output)
    return None


def _repeated(low: Lowering, op: Aten) -> object:
    x, repeats = op.tensor("self", "input"), op.sizes("dims" if op.kind == "tile" else "repeats")
    more = len(repeats) - low.rank(x)
    if more > 0:
        x = low.emit("Unsqueeze", [x, low.constant(list(range(more)))])
    return low.emit("Tile", [x, low.vector([*[1] * max(0, -more), *repeats])], op.outputs[0])


def _sliced(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    start, end, step = (op.arguments.get(name) for name in ("start", "end", "step"))
    within: dict[str, int] = {}
    if op.kind == "narrow" and isinstance(start, int):
        length = op.arguments.get("length")
        end = start + length if isinstance(length, int) else length
        end, within = (_FAR, {}) if start < 0 == end else (end, {"within": 1})
    bounds = [0 if start is None else start, _FAR if end is None else end]
    bounds = [min(bound, _FAR) if isinstance(bound, int) else bound for bound in bounds]
    begin, stop = (low.vector([bound]) for bound in bounds)
    axis, by = low.constant([op.integer("dim", 0)]), low.constant([1 if step is None else step])
    return low.emit("Slice", [x, begin, stop, axis, by], op.outputs[0], **within)


def _selected(low: Lowering, op: Aten) -> object:
    x, axis = op.tensor("self", "input"), op.integer("dim", 0)
    index = op.arguments.get("index")
    if isinstance(index, Ref | Symbol):
        return low.emit("Gather", [x, index.name], op.outputs[0], axis=axis)
    if not isinstance(index, int) or low.meta(x).element != TensorProto.FLOAT:
        return low.emit("Gather", [x, low.constant(index)], op.outputs[0], axis=axis)
    ends = (index, index + 1 or _FAR)  # a view, as a slice is
    cut = low.emit("Slice", [x, *(low.constant([end]) for end in ends), low.constant([axis])])
    return low.emit("Squeeze", [cut, low.constant([axis])], op.outputs[0])


def _indexed(low: Lowering, op: Aten) -> object:
    """Indices side by side take what a Gather takes; masks, and indices with dimensions between, are no layer's."""
    x, indices = op.tensor("self", "input"), op.tensors("indices")
    given = [(axis, name) for axis, name in enumerate(indices) if name]
    masks = [name for _, name in given if low.meta(name).element in (TensorProto.BOOL, TensorProto.UINT8)]
    if len(given) == 1 and not masks:
        axis, name = given[0]
        return low.emit("Gather", [x, name], op.outputs[0], axis=axis)
    adjacent = [axis for axis, _ in given] == list(range(given[0][0], given[0][0] + len(given))) if given else False
    sizes = low.meta(x).sizes
    if masks or not adjacent or None in sizes[given[0][0] + 1 :]:
        return low.other(op, "index", [x, *(name for _, name in given)])
    return _indexed_side_by_side(low, op, x, given)


def _indexed_side_by_side(low: Lowering, op: Aten, x: str, given: list[tuple[int, str]]) -> object:
    """Indices of adjacent dimensions are one of the dimension that these are together."""
    sizes, first = low.meta(x).sizes, given[0][0]
    last = first + len(given) - 1
    places = ""
    for axis, name in given:
        step = prod(size or 1 for size in sizes[axis + 1 : last + 1])
        part = low.emit("Mul", [name, low.constant(step)]) if step != 1 else name
        places = low.emit("Add", [places, part]) if places else part
    flat = low.constant([*[0] * first, -1, *(size or 0 for size in sizes[last + 1 :])])
    return low.emit("Gather", [low.emit("Reshape", [x, flat]), places], op.outputs[0], axis=first)


def _blocks(low: Lowering, op: Aten) -> object:
    """Channels as pixels of a finer image, or the other way."""
    wide = op.kind == "pixel_shuffle"
    factor = op.integer("upscale_factor" if wide else "downscale_factor", 1)
    kind = "DepthToSpace" if wide else "SpaceToDepth"
    return low.emit(kind, [op.tensor("self", "input")], op.outputs[0], blocksize=factor, mode="CRD")


def _channels_shuffled(low: Lowering, op: Aten) -> object:
    x, groups = op.tensor("self", "input"), op.integer("groups", 1)
    channels = low.meta(x).sizes[1] or groups
    rest = low.rank(x) - 2
    apart = low.emit("Reshape", [x, low.constant([0, groups, channels // groups, *_rest(low, x, 2)])])
    turned = low.emit("Transpose", [apart], perm=[0, 2, 1, *range(3, 3 + rest)])
    return low.emit("Reshape", [turned, low.constant([0, channels, *_rest(low, x, 2)])], op.outputs[0])


def _rest(low: Lowering, x: str, start: int) -> list[int]:
    return [size if size is not None else -1 for size in low.meta(x).sizes[start:]]


def _repeated_in_place(low: Lowering, op: Aten) -> object:
    """Each element several times in a row."""
    x, repeats, axis = op.tensor("self"), op.arguments.get("repeats"), op.arguments.get("dim")
    if not isinstance(repeats, int) or not isinstance(axis, int):
        return low.other(op)
    axis = low.axis(axis, low.rank(x))
    thin = low.emit("Unsqueeze", [x, low.constant([axis + 1])])
    tiled = low.emit("Tile", [thin, low.constant([repeats if at == axis + 1 else 1 for at in range(low.rank(x) + 1)])])
    return low.emit("Reshape", [tiled, low.constant(low.shape_of(op.outputs[0]))], op.outputs[0])


def _looked_up_in_bags(low: Lowering, op: Aten) -> object:
    """A look-up whose rows are then added up, bag by bag."""
    rows = low.emit("Gather", [op.tensor("weight"), op.tensor("indices")], axis=0)
    return low.other(op, "bags", [rows, *filter(None, [op.optional("offsets")])])


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
        size = op.arguments.get("split_size")
        own: dict[str, Any] = {"part": size} if isinstance(size, int) else {}
        return low.emit("Split", [x], *op.outputs, axis=axis, num_outputs=len(sizes), **own)
    return low.emit("Split", [x, low.constant(sizes)], *op.outputs, axis=axis)


def _joined(low: Lowering, op: Aten) -> object:
    axis, parts = op.integer("dim", 0), list(op.tensors("tensors"))
    if op.kind == "stack":
        parts = [low.emit("Unsqueeze", [part, low.constant([axis])]) for part in parts]
    elif low.rank(op.outputs[0]) > 1:  # torch lets tensors of one dimension and no elements stand among others
        parts = [part for part in parts if low.meta(part).sizes != (0,)] or parts[:1]
    if len(parts) == 1:
        return low.emit("Identity", parts, op.outputs[0])
    return low.emit("Concat", parts, op.outputs[0], axis=axis)


def _looked_up(low: Lowering, op: Aten) -> object:
    return low.emit("Gather", [op.tensor("weight"), op.tensor("indices")], op.outputs[0], axis=0)


def _gathered(low: Lowering, op: Aten) -> object:
    given = [op.tensor("self", "input"), op.tensor("index")]
    return low.emit("GatherElements", given, op.outputs[0], axis=op.integer("dim", 0))


_REDUCTIONS = {"add": "add", "multiply": "mul"}


def _scattered(low: Lowering, op: Aten) -> object:
    """Numbers, or one number, that are put to places, or added there."""
    x, places, value = op.tensor("self", "input"), op.tensor("index"), op.arguments.get("value")
    if value is None:
        source = op.tensor("src")
    else:
        number = value.name if isinstance(value, Ref) else low.scalar(value, x)
        source = low.emit("Expand", [number, low.emit("Shape", [places])])
    way = "add" if op.kind == "scatter_add" else _REDUCTIONS.get(op.text("reduce"), "none")
    return low.emit("ScatterElements", [x, places, source], op.outputs[0], axis=op.integer("dim", 0), reduction=way)


def _triangle(low: Lowering, op: Aten) -> object:
    given = [op.tensor("self", "input"), low.constant(op.integer("diagonal", 0))]
    return low.emit("Trilu", given, op.outputs[0], upper=int(op.kind == "triu"))


def _flipped(low: Lowering, op: Aten) -> object:
    axes = op.integers("dims")
    ends = [low.constant([value] * len(axes)) for value in (-1, -_FAR)]
    given = [op.tensor("self", "input"), *ends, low.constant(axes), low.constant([-1] * len(axes))]
    return low.emit("Slice", given, op.outputs[0])


def _rolled(low: Lowering, op: Aten) -> object:
    """What is moved past an end comes in again at the other; without axes all numbers are in a row."""
    x = op.tensor("self", "input")
    shifts, axes = op.integers("shifts"), op.integers("dims")
    sizes = low.meta(x).sizes
    if not axes:
        flat = _turned(
            low, low.emit("Reshape", [x, low.constant([-1])]), shifts[0], 0, prod(size or 0 for size in sizes)
        )
        return low.emit("Reshape", [flat, low.constant(low.shape_of(op.outputs[0]))], op.outputs[0])
    for shift, axis in zip(shifts, axes, strict=True):
        x = _turned(low, x, shift, axis, sizes[axis] or 0)
    return low.emit("Identity", [x], op.outputs[0])


def _turned(low: Lowering, x: str, shift: int, axis: int, size: int) -> str:
    """What is moved along one dimension, whose `size` is 0 where it is open."""
    shift = shift % size if size else shift
    if not shift:
        return x
    ends = ((-shift, _FAR), (0, -shift))
    parts = [low.emit("Slice", [x, *(low.constant([end]) for end in pair), low.constant([axis])]) for pair in ends]
    return low.emit("Concat", parts, axis=axis)


RULES: Rules = {
    "contiguous": _laid,
    "clone": _cloned,
    **dict.fromkeys(("alias", "lift_fresh", "lift_fresh_copy", "lift"), _same),
    **dict.fromkeys(("detach", "detach_copy"), _detached),
    "copy": _copied,
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "_reshape_alias"), _reshaped),
    **dict.fromkeys(("flatten", "unflatten", "view_as", "reshape_as"), _reshaped_as_told),
    "squeeze": _squeezed,
    "unsqueeze": _unsqueezed,
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T", "movedim", "swapaxes"), _permuted),
    **dict.fromkeys(("swapdims", "moveaxis", "mT", "mH", "adjoint", "matrix_H"), _permuted),
    **dict.fromkeys(("expand", "expand_as"), _expanded),
    "broadcast_tensors": _broadcast,
    "meshgrid": _meshgrid,
    **dict.fromkeys(("repeat", "tile"), _repeated),
    **dict.fromkeys(("slice", "narrow"), _sliced),
    **dict.fromkeys(("select", "index_select"), _selected),
    **dict.fromkeys(("index", "_unsafe_index"), _indexed),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _blocks),
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _channels_shuffled),
    "repeat_interleave": _repeated_in_place,
    **dict.fromkeys(("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"), _looked_up_in_bags),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unbind", "tensor_split", "unsafe_split"), _split),
    **dict.fromkeys(("cat", "stack", "concat", "concatenate"), _joined),
    "embedding": _looked_up,
    "gather": _gathered,
    **dict.fromkeys(("scatter", "scatter_add"), _scattered),
    "tril": _triangle,
    "triu": _triangle,
    "flip": _flipped,
    "roll": _rolled,
}
