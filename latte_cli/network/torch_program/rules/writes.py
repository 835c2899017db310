"""Operators that write over a part of a tensor: what they make is a new tensor of both."""

from latte_cli.network.torch_program.program import Aten, Lowering, Rules

_FAR = 2**62


def written_over(low: Lowering, x: str, source: str, axis: int, cut: slice, *outputs: str) -> str:
    """`x` with `source` in place of what `cut` takes along `axis`."""
    size = low.meta(x).sizes[axis]
    start, stop, step = cut.start or 0, _FAR if cut.stop is None else cut.stop, cut.step or 1
    if size is not None:
        start, stop, step = slice(start, stop, step).indices(size)
    if step != 1:
        return _interleaved(low, x, source, axis, range(start, stop, step), *outputs)
    before = [_part(low, x, axis, 0, start)] if start else []
    after = [_part(low, x, axis, stop, _FAR)] if stop < (_FAR if size is None else size) else []
    parts = [*before, source, *after]
    if len(parts) == 1:
        return low.emit("Identity", parts, *outputs)
    return low.emit("Concat", parts, *outputs, axis=axis)


def _part(low: Lowering, x: str, axis: int, start: int, stop: int) -> str:
    return low.emit("Slice", [x, low.constant([start]), low.constant([stop]), low.constant([axis])])


def _interleaved(low: Lowering, x: str, source: str, axis: int, places: range, *outputs: str) -> str:
    """Both end to end, and then in the order in which they lie in the result."""
    size = low.meta(x).sizes[axis] or 0
    order = [size + places.index(at) if at in places else at for at in range(size)]
    both = low.emit("Concat", [x, source], axis=axis)
    return low.emit("Gather", [both, low.constant(order)], *outputs, axis=axis)


def _slice_written(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    start, stop, step = (op.arguments.get(name) for name in ("start", "end", "step"))
    if not all(each is None or isinstance(each, int) for each in (start, stop, step)):
        return low.other(op)
    axis = low.axis(op.integer("dim", 0), low.rank(x))
    return written_over(low, x, op.tensor("src"), axis, slice(start, stop, step), op.outputs[0])


def _one_written(low: Lowering, op: Aten) -> object:
    x, index = op.tensor("self", "input"), op.arguments.get("index")
    if not isinstance(index, int):
        return low.other(op)
    axis = low.axis(op.integer("dim", 0), low.rank(x))
    source = low.emit("Unsqueeze", [op.tensor("src"), low.constant([axis])])
    return written_over(low, x, source, axis, slice(index, index + 1 or None), op.outputs[0])


RULES: Rules = {"slice_scatter": _slice_written, "select_scatter": _one_written}
