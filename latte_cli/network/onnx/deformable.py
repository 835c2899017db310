"""ONNX's deformable convolution: samples between pixels, then a convolution's product."""

from math import prod

from latte_cli.errors import LatteError
from latte_cli.layers import Copy, Elementwise, Linear, MatMul, Other, Shape, View
from latte_cli.network.onnx.operation import Operation, Reader, Tensor


def _deformable(op: Operation) -> object:
    """The samples that each window takes of each group of channels, in columns, and the columns' product."""
    x, weight, offsets, groups = op.input(), op.weight(1), op.input(2), op.integer("group", 1)
    fits = len(weight.shape) == len(x.shape) == len(offsets.shape) > 2 and groups > 0
    if not fits or weight.shape[1] * groups != x.shape[1] or weight.shape[0] % groups:
        raise LatteError(f"weights of {weight.shape} in {groups} groups do not fit an input of {x.shape}")
    if op.folds:
        return op.constant((x.shape[0], weight.shape[0], *offsets.shape[2:]))
    places = tuple(op.activation(tensor) for tensor in (offsets, op.optional(4)) if tensor is not None)
    read = (op.activation(x), *places)
    rows, wide = x.shape[0] * prod(offsets.shape[2:]), prod(weight.shape[1:])
    layer = Other(operation="deformable_samples", shapes=tuple(one.shape for one in read), output=(groups, rows, wide))
    columns = op.step("samples", layer, *read)
    product = _product if groups == 1 else _grouped_product
    return product(op, columns, weight, op.optional(3), (x.shape[0], *offsets.shape[2:]))


def _product(op: Operation, columns: Tensor, weight: Tensor, bias: Tensor | None, places: Shape) -> Tensor:
    _, rows, wide = columns.shape
    layer = Linear(rows=rows, in_features=wide, out_features=weight.shape[0], bias=bias is not None)
    flat = op.step("flat", View(shape=columns.shape, output=(rows, wide)), columns)
    y = op.step("product", layer, flat, parameters=(weight, *(() if bias is None else (bias,))))
    return _channels_first(op, y, (1, rows, weight.shape[0]), places)


def _grouped_product(op: Operation, columns: Tensor, weight: Tensor, bias: Tensor | None, places: Shape) -> Tensor:
    groups, rows, wide = columns.shape
    each = weight.shape[0] // groups
    w = op.activation(weight)
    banks = op.step("banks", View(shape=w.shape, output=(groups, each, wide)), w)
    turn = Copy(operation="transpose", shape=banks.shape, output=(groups, wide, each), order=(0, 2, 1))
    y = op.step("product", MatMul(batch=groups, m=rows, k=wide, n=each), columns, op.step("turned", turn, banks))
    if bias is None:
        return _channels_first(op, y, y.shape, places)
    b = op.activation(bias)
    added = op.step("bias", View(shape=b.shape, output=(groups, 1, each)), b)
    y = op.step("biased", Elementwise(operation="add", shapes=(y.shape, added.shape)), y, added)
    return _channels_first(op, y, y.shape, places)


def _channels_first(op: Operation, y: Tensor, shape: Shape, places: Shape) -> Tensor:
    """Rows of channels, (groups, rows, channels of each), as images."""
    groups, rows, each = shape
    batch, *spatial = places
    split = op.step("places", View(shape=y.shape, output=(groups, batch, rows // batch, each)), y)
    order = (1, 0, 3, 2)
    output = tuple(split.shape[axis] for axis in order)
    turned = op.step("channels", Copy(operation="transpose", shape=split.shape, output=output, order=order), split)
    return op.view(turned, (batch, groups * each, *spatial))


READERS: dict[str, Reader] = {"DeformConv": _deformable}
"""Operators by name, each with what turns it into layers."""
