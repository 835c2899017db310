"""What an operator makes of what it is given: that it reads all that varies, and which constants it only rearranges."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

from latte_cli.layers import Shape
from latte_cli.network.graph import JOINED
from latte_cli.network.onnx.graph import KEEPS_ORIGIN
from latte_cli.network.onnx.operation import Operation, Tensor, Unreadable
from latte_cli.network.onnx.origins import Indices, Part, reordered, reshaped, taken
from latte_cli.network.onnx.shapes import slices

_BESIDE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Split", "Squeeze", "Unsqueeze", "TopK", "Trilu", "CumSum"), (1,)),
    **dict.fromkeys(("OneHot", "CastLike", "Upsample", "CenterCropPad"), (1,)),
    **dict.fromkeys(("Resize", "Dropout"), (1, 2, 3)),
    "Slice": (1, 2, 3, 4),
    "Attention": (6,),
    "latte.GroupedMatMul": (2,),
    "Pad": (1, 3),
    "BatchNormalization": (3, 4),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
}
"""The inputs, by their places, that say sizes, places or grids: they are read, which costs nothing."""


_GRIDS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "Clip"), (1, 2)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (5, 6)),  # first states that are zeros
    "Pad": (2,),
    "OneHot": (2,),
}
"""Further inputs whose numbers are no parameters, though they may be real numbers that the file holds."""


def check_reads(op: Operation) -> None:
    """Let what says sizes be read by the first node of `op`; raises Unreadable where another input is read by none."""
    read = {name for node in op.nodes for name in node.inputs}
    for index, tensor in enumerate(op.inputs if op.nodes else ()):
        if tensor is None or tensor.constant or tensor.name in read:
            continue
        if index not in _BESIDE.get(op.kind, ()) and not op.kind.startswith("Reduce"):
            raise Unreadable(f"what it does with its input `{tensor.name}` is not known")
        op.nodes[0] = replace(op.nodes[0], inputs=(*op.nodes[0].inputs, tensor.name))
        read.add(tensor.name)


def left_aside(op: Operation) -> Iterator[Tensor]:
    """The trained tensors among the inputs that no node of `op` has, but for statistics and the like."""
    held = {name for node in op.nodes for name in node.parameters} | op.lifted
    for index, tensor in enumerate(op.inputs if op.nodes else ()):
        if tensor is not None and tensor.trained and tensor.name not in held and computes_with(op, index):
            yield tensor


def computes_with(op: Operation, index: int) -> bool:
    """Whether what the input at `index` holds may be parameters: no sizes, grids, statistics or bounds."""
    return index not in _BESIDE.get(op.kind, ()) and index not in _GRIDS.get(op.kind, ())


def rearranged(op: Operation, index: int, shape: Shape, *, in_steps: bool) -> tuple[Part, ...]:
    """The parts of stored tensors that the constant output at `index`, of `shape`, consists of.

    There are none where it is more than another order of them, or where a module makes it `in_steps` of its tensors;
    exporters write several end to end that are one weight.
    """
    if not op.given:
        return ()
    if op.kind == "Concat":
        parts = [tensor.parts for tensor in op.given]
        one = not in_steps or JOINED in op.outputs[0]
        return tuple(replace(part, axes=None) for own in parts for part in own) if all(parts) and one else ()
    x = op.input()
    if op.kind == "Transpose":
        if in_steps and any(part.axes is None for part in x.parts):
            return ()
        order = op.integers("perm") or tuple(reversed(range(len(x.shape))))
        return tuple(reordered(part, order) for part in x.parts)
    if op.kind in _CASTS and not x.countable:  # whole numbers: places, no weights
        return ()
    if op.kind in KEEPS_ORIGIN:
        return tuple(reshaped(part, x.shape, shape) for part in x.parts)
    cuts = _TAKING[op.kind](op, index) if op.kind in _TAKING and len(x.parts) == 1 else None
    part: Part | None = x.parts[0] if cuts is not None else None
    for axis, indices in cuts or ():
        part = taken(part, axis, indices) if part is not None else None
    return () if part is None else (reshaped(part, _before(op, shape), shape),)


_CASTS = ("Cast", "CastLike")


def _before(op: Operation, shape: Shape) -> Shape:
    """The shape of what was taken before a dimension of one index was dropped."""
    if op.kind != "Gather":
        return shape
    axis = op.axis(op.integer("axis"), len(op.input().shape))
    return (*shape[:axis], 1, *shape[axis:])


_Cuts: TypeAlias = list[tuple[int, Indices]] | None


def _sliced(op: Operation, index: int) -> _Cuts:
    cuts = slices(op)
    return [(axis, range(*cut.indices(op.input().shape[axis]))) for axis, cut in enumerate(cuts) if cut != slice(None)]


def _gathered(op: Operation, index: int) -> _Cuts:
    """One index; several are a look-up, which happens in each step."""
    x, at = op.input(), op.input(1)
    axis = op.axis(op.integer("axis"), len(x.shape))
    if at.values is None or at.shape:
        return None
    one = int(at.values) % x.shape[axis]
    return [(axis, range(one, one + 1))]


def _split(op: Operation, index: int) -> _Cuts:
    if not all(op.outputs[: index + 1]):
        return None
    axis = op.axis(op.integer("axis"), len(op.input().shape))
    start = sum(op.results[name].shape[axis] for name in op.outputs[:index])
    return [(axis, range(start, start + op.results[op.outputs[index]].shape[axis]))]


_TAKING = {"Slice": _sliced, "Gather": _gathered, "Split": _split}
"""Operators that take a part, each with the indices that they take along dimensions."""
