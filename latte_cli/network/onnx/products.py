"""ONNX operators that multiply matrices: linear layers, and products of activations."""

from functools import partial
from math import prod

from latte_cli.errors import LatteError
from latte_cli.layers import Copy, Linear, MatMul, Shape, View, broadcast
from latte_cli.network.onnx.operation import Operation, Reader, Tensor, Unreadable
from latte_cli.network.onnx.pointwise import combined

GROUPS = "row_groups"
"""The attribute of a view that puts rows into so many groups, or back; in a step it is numbers that do so."""


def _rows(op: Operation, x: Tensor) -> Tensor:
    """`x` with all but its last dimension made one."""
    rows = (prod(x.shape[:-1]), x.shape[-1])
    return op.step("rows", View(shape=x.shape, output=rows), x)


def _flip(op: Operation, x: Tensor, label: str, *, result: bool = False) -> Tensor:
    """`x` with its last two dimensions exchanged."""
    order = (*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2)
    layer = Copy(operation="transpose", shape=x.shape, output=tuple(x.shape[axis] for axis in order), order=order)
    return op.result(layer, x) if result else op.step(label, layer, x)


def _linear(
    op: Operation, x: Tensor, weight: Tensor, bias: tuple[Tensor, ...], out_features: int, *, by_outputs: bool = False
) -> Tensor:
    """A linear layer; `by_outputs` says that the weight is given as (out, in), which decides how it is stored.

    A weight that is computed in each step is given as it is.
    """
    stored = (*_scales(op), ("stored_by_inputs", int(by_outputs is weight.turned)))
    rows = _rows(op, x)
    if (weight.derived or any(one.derived for one in bias)) and not op.folds:
        weight = op.activation(weight)
        if not by_outputs:
            weight = _flip(op, weight, "by_outputs")
    layer = Linear(rows=rows.shape[0], in_features=rows.shape[1], out_features=out_features, bias=bool(bias))
    shape = (*x.shape[:-1], out_features)
    if shape == layer.output_shape:
        return op.result(layer, rows, parameters=(weight, *bias), attributes=stored)
    y = op.step("linear", layer, rows, parameters=(weight, *bias), attributes=stored)
    return op.view(y, shape)


def _scales(op: Operation) -> tuple[tuple[str, float], ...]:
    """What a Gemm multiplies its product and its bias by, where that is not 1."""
    found = ((name, op.real(name, 1.0)) for name in ("alpha", "beta"))
    return tuple((name, value) for name, value in found if value != 1.0)


def _gemm(op: Operation) -> object:
    x, weight = op.input(), op.input(1)
    if len(x.shape) != 2 or len(weight.shape) != 2:
        raise LatteError(f"the product of {x.shape} and {weight.shape} is not one of matrices")
    if op.integer("transA"):
        x = _flip(op, x, "transposed")
    if not weight.constant:
        return _gemm_of_activations(op, x, weight)
    by_outputs = bool(op.integer("transB"))
    inner, out = weight.shape[::-1] if by_outputs else weight.shape
    _check_inner(x.shape, inner, weight.shape)
    added = op.optional(2)
    if added is None or (added.constant and prod(added.shape) == out == added.shape[-1]):
        return _linear(op, x, weight, () if added is None else (added,), out, by_outputs=by_outputs)
    layer = Linear(rows=x.shape[0], in_features=inner, out_features=out, bias=False)
    stored = (*_scales(op), ("stored_by_inputs", int(by_outputs is weight.turned)))
    if weight.derived and not by_outputs and not op.folds:
        weight = _flip(op, op.activation(weight), "by_outputs")
    return _add(op, op.step("linear", layer, x, parameters=(weight,), attributes=stored), added)


def _gemm_of_activations(op: Operation, x: Tensor, other: Tensor) -> object:
    if op.integer("transB"):
        other = _flip(op, other, "transposed_b")
    _check_inner(x.shape, other.shape[0], other.shape)
    added = op.optional(2)
    if added is None:
        return _product(op, x, other, result=True)
    return _add(op, _product(op, x, other, result=False), added)


def _add(op: Operation, x: Tensor, other: Tensor) -> Tensor:
    return combined(op, "add", (x, other))


def _check_inner(shape: Shape, inner: int, other: Shape) -> None:
    if shape[-1] != inner:
        raise LatteError(f"matrices of {shape} and {other} cannot be multiplied")


def _product(op: Operation, a: Tensor, b: Tensor, *, result: bool) -> Tensor:
    """The product of two activations: batches broadcast, flattened to one dimension and back."""
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    flat = [_flat_batch(op, x, lead, label) for x, label in ((a, "a"), (b, "b"))]
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    y = op.step("product", MatMul(batch=prod(lead), m=m, k=k, n=n), *flat, attributes=_scales(op))
    view = View(shape=y.shape, output=(*lead, m, n))
    return op.result(view, y) if result else op.step("unflattened", view, y)


def _flat_batch(op: Operation, x: Tensor, lead: Shape, label: str) -> Tensor:
    full = (*lead, *x.shape[-2:])
    if prod(full) != prod(x.shape):
        x = op.step(f"expand_{label}", Copy(operation="expand", shape=x.shape, output=full), x)
    return op.step(f"flat_{label}", View(shape=x.shape, output=(prod(lead), *full[-2:])), x)


def _matmul(op: Operation) -> object:
    return _multiplied(op, op.input(), op.input(1))


def _multiplied(op: Operation, a: Tensor, b: Tensor) -> object:
    if not a.shape or not b.shape:
        raise LatteError(f"the product of {a.shape} and {b.shape} is not one of matrices")
    if _is_matrix(b) and not (a.constant and not op.folds and len(a.shape) < 2):
        _check_inner(a.shape, b.shape[-2], b.shape)
        return _linear(op, a, b, (), b.shape[-1])
    if len(a.shape) < 2 or len(b.shape) < 2:
        return _with_vectors(op, op.activation(a), op.activation(b))
    _check_inner(a.shape, b.shape[-2], b.shape)
    if _is_matrix(a) and not a.derived and not b.constant and len(a.shape) <= len(b.shape):  # W x = (xᵀ Wᵀ)ᵀ
        rows = _rows(op, _flip(op, b, "transposed"))
        layer = Linear(rows=rows.shape[0], in_features=rows.shape[1], out_features=a.shape[-2], bias=False)
        y = op.step("linear", layer, rows, parameters=(a,), attributes=(("stored_by_inputs", int(a.turned)),))
        folded = (*b.shape[:-2], b.shape[-1], a.shape[-2])
        return _flip(op, op.step("unflattened", View(shape=y.shape, output=folded), y), "", result=True)
    return _product(op, op.activation(a), op.activation(b), result=True)


def _is_matrix(tensor: Tensor) -> bool:
    """Whether it is one matrix of weights, whatever dimensions of size 1 stand before it."""
    return tensor.constant and len(tensor.shape) > 1 and prod(tensor.shape) == prod(tensor.shape[-2:])


def _integer_product(op: Operation, second: int) -> object:
    """A product of quantised matrices, as one of floating-point numbers."""
    return _multiplied(op, op.input(), op.input(second))


def _with_vectors(op: Operation, a: Tensor, b: Tensor) -> object:
    """A vector on the left is a matrix of one row, on the right of one column; that dimension is dropped again."""
    row, column = len(a.shape) == 1, len(b.shape) == 1
    inner = b.shape[-1] if column else b.shape[-2]
    _check_inner(a.shape, inner, b.shape)
    if row:
        a = op.step("row", View(shape=a.shape, output=(1, *a.shape)), a)
    if column:
        b = op.step("column", View(shape=b.shape, output=(*b.shape, 1)), b)
    y = _product(op, a, b, result=False)
    shape = y.shape[:-1] if column else y.shape
    if row:
        shape = (*shape[: -1 if column else -2], *(() if column else shape[-1:]))
    return op.view(y, shape)


def _grouped(op: Operation) -> object:
    """Rows, sorted by their group, times the matrix of their group; each group is taken to have as many rows."""
    x, weight = op.input(), op.activation(op.input(1))
    (rows, inner), (groups, _, columns) = x.shape, weight.shape
    _check_inner(x.shape, weight.shape[1], weight.shape)
    if rows % groups:
        raise Unreadable(f"{rows} rows do not split evenly over {groups} groups")
    split = View(shape=x.shape, output=(groups, rows // groups, inner))
    y = op.step(
        "product",
        MatMul(batch=groups, m=rows // groups, k=inner, n=columns),
        op.step("groups", split, x, attributes=((GROUPS, groups),)),
        weight,
    )
    return op.result(View(shape=y.shape, output=(rows, columns)), y, attributes=((GROUPS, groups),))


READERS: dict[str, Reader] = {
    "latte.GroupedMatMul": _grouped,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": partial(_integer_product, second=1),
    "QLinearMatMul": partial(_integer_product, second=3),
}
"""Operators by name, each with what turns it into layers."""
