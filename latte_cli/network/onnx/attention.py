"""ONNX's attention as one operator."""

from latte_cli.errors import LatteError
from latte_cli.layers import Attention, Concat, Copy, Shape, View
from latte_cli.network.onnx.operation import Operation, Reader, Tensor, Unreadable

_Y, _KEY, _VALUE, _SCORES = range(4)


def _attention(op: Operation) -> object:
    """Queries, keys and values of four dimensions, or of three that heads are split from."""
    q, k, v = (op.input(index) for index in range(3))
    q, k, v = (op.activation(tensor) if tensor.trained else tensor for tensor in (q, k, v))
    if any(tensor.constant for tensor in (q, k, v)) and not op.folds:
        raise Unreadable("attention to constants is not known")
    packed = len(q.shape) == 3
    heads, key_heads = op.integer("q_num_heads"), op.integer("kv_num_heads")
    if packed:
        q, k, v = (
            _split(op, tensor, count, label)
            for tensor, count, label in ((q, heads, "q"), (k, key_heads, "k"), (v, key_heads, "v"))
        )
    if any(len(tensor.shape) != 4 for tensor in (q, k, v)):
        raise LatteError(f"attention of {q.shape}, {k.shape} and {v.shape} is not known")
    k = _extended(op, k, op.optional(4), _KEY)
    v = _extended(op, v, op.optional(5), _VALUE)
    mask = op.optional(3)
    mask = op.activation(mask) if mask is not None and mask.trained else mask
    read = (q, k, v, mask) if mask is not None and not mask.constant else (q, k, v)
    layer = Attention(
        batch=q.shape[0],
        heads=q.shape[1],
        key_heads=k.shape[1],
        queries=q.shape[2],
        keys=k.shape[2],
        width=q.shape[3],
        value_width=v.shape[3],
        causal=bool(op.integer("is_causal")),
        dropout=op.real("dropout") > 0,
        composed=bool(op.integer("composed")),
        mask=mask.shape if len(read) > 3 and mask is not None else (),
    )
    _check(layer, k, v)
    if not packed:
        return op.result(layer, *read)
    y = op.step("heads", layer, *read, attributes=op.numbers, constants=op.constant_inputs)
    batch, count, queries, width = y.shape
    joined = op.step("steps_first", _transposed(y.shape), y)
    return op.result(View(shape=joined.shape, output=(batch, queries, count * width)), joined)


def _check(layer: Attention, k: Tensor, v: Tensor) -> None:
    keys = (layer.batch, layer.key_heads, layer.keys)
    if k.shape != (*keys, layer.width) or v.shape[:3] != keys:
        raise LatteError(f"keys of {k.shape} and values of {v.shape} do not fit {layer.input_shapes[0]}")


def _transposed(shape: Shape) -> Copy:
    order = (0, 2, 1, 3)
    return Copy(operation="transpose", shape=shape, output=tuple(shape[axis] for axis in order), order=order)


def _split(op: Operation, tensor: Tensor, heads: int, label: str) -> Tensor:
    """(batch, steps, heads · width) as (batch, heads, steps, width)."""
    if len(tensor.shape) != 3 or heads < 1 or tensor.shape[2] % heads:
        raise LatteError(f"{tensor.shape} does not split into {heads} heads")
    batch, steps, width = tensor.shape
    split = op.step(f"{label}_split", View(shape=tensor.shape, output=(batch, steps, heads, width // heads)), tensor)
    return op.step(f"{label}_heads", _transposed(split.shape), split)


def _extended(op: Operation, tensor: Tensor, past: Tensor | None, index: int) -> Tensor:
    """Keys or values behind those of the past, which together are an output as well."""
    wanted = index < len(op.outputs) and bool(op.outputs[index])
    if past is not None and past.constant:
        raise Unreadable("a past that is a constant is not known")
    if past is not None:
        layer = Concat(shapes=(past.shape, tensor.shape), axis=2)
        if wanted:
            return op.result(layer, past, tensor, index=index)
        return op.step(f"past_{index}", layer, past, tensor)
    if wanted:
        op.result(View(shape=tensor.shape, output=tensor.shape), tensor, index=index)
    return tensor


READERS: dict[str, Reader] = {"Attention": _attention}
"""Operators by name, each with what turns it into layers."""
