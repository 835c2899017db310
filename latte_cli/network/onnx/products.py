"""ONNX operators that multiply matrices: linear layers, and products of activations."""

from math import prod

from latte_cli.errors import LatteError
from latte_cli.layers import Copy, Linear, MatMul, Shape, View, broadcast
from latte_cli.network.onnx.operation import NotConstant, Operation, Reader, Tensor
from latte_cli.network.onnx.pointwise import combined


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
    """A linear layer; `by_outputs` says that the weight is given as (out, in), which decides how it is stored."""
    stored = (*_scales(op), ("stored_by_inputs", int(by_outputs is weight.turned)))
    rows = _rows(op, x)
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
    y = op.step("product", MatMul(batch=prod(lead), m=m, k=k, n=n), *flat)
    view = View(shape=y.shape, output=(*lead, m, n))
    return op.result(view, y) if result else op.step("unflattened", view, y)


def _flat_batch(op: Operation, x: Tensor, lead: Shape, label: str) -> Tensor:
    full = (*lead, *x.shape[-2:])
    if prod(full) != prod(x.shape):
        x = op.step(f"expand_{label}", Copy(operation="expand", shape=x.shape, output=full), x)
    return op.step(f"flat_{label}", View(shape=x.shape, output=(prod(lead), *full[-2:])), x)


def _matmul(op: Operation) -> object:
    a, b = op.input(), op.input(1)
    if not a.shape or not b.shape:
        raise LatteError(f"the product of {a.shape} and {b.shape} is not one of matrices")
    if b.constant and len(b.shape) > 1 and prod(b.shape) == prod(b.shape[-2:]):
        _check_inner(a.shape, b.shape[-2], b.shape)
        return _linear(op, a, b, (), b.shape[-1])
    if len(a.shape) < 2 or len(b.shape) < 2:
        return _with_vectors(op, a, b)
    _check_inner(a.shape, b.shape[-2], b.shape)
    if a.constant and prod(a.shape) == prod(a.shape[-2:]):  # W x = (xᵀ Wᵀ)ᵀ
        rows = _rows(op, _flip(op, b, "transposed"))
        layer = Linear(rows=rows.shape[0], in_features=rows.shape[1], out_features=a.shape[-2], bias=False)
        y = op.step("linear", layer, rows, parameters=(a,), attributes=(("stored_by_inputs", int(a.turned)),))
        folded = (*b.shape[:-2], b.shape[-1], a.shape[-2])
        return _flip(op, op.step("unflattened", View(shape=y.shape, output=folded), y), "", result=True)
    if (a.constant or b.constant) and not op.folds:
        raise NotConstant("a product with a batch of weights is not known")
    return _product(op, a, b, result=True)


def _with_vectors(op: Operation, a: Tensor, b: Tensor) -> object:
    """A vector on the left is a matrix of one row, on the right of one column; that dimension is dropped again."""
    if a.constant or b.constant:
        raise NotConstant("a product of a vector and a constant is not known")
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


def _einsum(op: Operation) -> object:
    """A product of two activations or of one and a matrix of weights; other equations are left to ONNX's inference."""
    equation = op.text("equation").replace(" ", "")
    ins, arrow, out = equation.partition("->")
    terms = ins.split(",")
    plain = arrow and len(terms) == 2 == len(op.given) and "." not in equation and not op.folds
    if not plain or any(len(set(term)) != len(term) for term in (*terms, out)):
        raise NotConstant("")
    a, b = op.given
    if any(len(term) != len(tensor.shape) for term, tensor in zip(terms, (a, b), strict=True)):
        raise LatteError(f"`{equation[:40]}` does not fit {a.shape} and {b.shape}")
    sizes = dict(zip("".join(terms), (*a.shape, *b.shape), strict=True))
    if any(sizes[label] != size for label, size in zip("".join(terms), (*a.shape, *b.shape), strict=True)):
        raise LatteError(f"`{equation[:40]}` does not fit {a.shape} and {b.shape}")
    first, second = terms
    batch = [label for label in first if label in second and label in out]
    inner = [label for label in first if label in second and label not in out]
    rows = [label for label in first if label not in second]
    columns = [label for label in second if label not in first]
    if set(out) != {*batch, *rows, *columns} or a.constant or (b.constant and batch):
        raise NotConstant("")
    left = _arranged(op, a, first, [batch, rows, inner], sizes, "a")
    if b.constant:
        flat = prod(sizes[label] for label in rows)
        layer = Linear(rows=flat, in_features=left.shape[-1], out_features=prod(b.shape) // left.shape[-1], bias=False)
        x = op.step("rows", View(shape=left.shape, output=layer.input_shapes[0]), left)
        by_inputs = second == "".join((*inner, *columns))
        y = op.step("linear", layer, x, parameters=(b,), attributes=(("stored_by_inputs", int(by_inputs)),))
    else:
        right = _arranged(op, b, second, [batch, inner, columns], sizes, "b")
        product = MatMul(batch=left.shape[0], m=left.shape[1], k=left.shape[2], n=right.shape[2])
        y = op.step("product", product, left, right)
    order = [*batch, *rows, *columns]
    whole = op.step("unflattened", View(shape=y.shape, output=tuple(sizes[label] for label in order)), y)
    turned = tuple(order.index(label) for label in out)
    if turned == tuple(range(len(turned))):
        return op.view(whole, whole.shape)
    output = tuple(sizes[label] for label in out)
    return op.result(Copy(operation="transpose", shape=whole.shape, output=output, order=turned), whole)


def _arranged(
    op: Operation, x: Tensor, labels: str, groups: list[list[str]], sizes: dict[str, int], name: str
) -> Tensor:
    """`x` with its dimensions in the order of `groups`, each group as one dimension."""
    order = tuple(labels.index(label) for group in groups for label in group)
    if order != tuple(range(len(order))):
        output = tuple(x.shape[axis] for axis in order)
        x = op.step(f"{name}_order", Copy(operation="transpose", shape=x.shape, output=output, order=order), x)
    flat = tuple(prod(sizes[label] for label in group) for group in groups)
    return op.step(f"{name}_flat", View(shape=x.shape, output=flat), x)


READERS: dict[str, Reader] = {"Gemm": _gemm, "MatMul": _matmul, "Einsum": _einsum}
"""Operators by name, each with what turns it into layers."""
