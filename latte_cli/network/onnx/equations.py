"""ONNX's Einsum: sums of products that an equation names, as products of matrices, two operands at a time."""

from dataclasses import dataclass
from itertools import count
from math import prod

from latte_cli.errors import LatteError
from latte_cli.layers import Copy, Elementwise, Linear, MatMul, Reduce, Shape, View
from latte_cli.network.onnx.operation import NotConstant, Operation, Reader, Tensor

_DOTS = "..."


@dataclass(frozen=True, kw_only=True)
class _Term:
    """An operand and what its dimensions are called."""

    tensor: Tensor
    labels: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.labels, self.tensor.shape, strict=True))


def _einsum(op: Operation) -> object:
    """An equation without a repeated letter in a term; others are left to ONNX's inference."""
    terms, out = _parsed(op)
    sizes = {label: size for term in terms for label, size in term.sizes.items() if size != 1}
    sizes = {label: 1 for term in terms for label in term.labels} | sizes
    if op.folds:
        return op.constant(tuple(sizes[label] for label in out))
    names = (f"{at}" if at else "" for at in count())
    if len(terms) == 1:
        terms = [_Term(tensor=op.activation(terms[0].tensor), labels=terms[0].labels)]
    whole = terms[0]
    for at, term in enumerate(terms[1:], start=1):
        wanted = {*out, *(label for later in terms[at + 1 :] for label in later.labels)}
        whole = _contracted(op, whole, term, wanted, next(names))
    whole = _summed(op, whole, set(out), "summed")
    return _written(op, whole, out, sizes)


def has_odd_points(equation: str) -> bool:
    """Whether an operand has points that are no `...`, or several: of these ONNX's inference may find no end."""
    terms = equation.replace(" ", "").replace("->", ",").split(",")
    return any("." in term.replace(_DOTS, "", 1) for term in terms)


def _parsed(op: Operation) -> tuple[list[_Term], tuple[str, ...]]:
    """The operands with their labels, and those of the output; digits name the dimensions of `...`."""
    equation = op.text("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    written = left.split(",")
    if has_odd_points(equation):
        raise LatteError(f"`{equation[:40]}` has points that are no `...`, or several")
    if len(written) != len(op.given):
        raise LatteError(f"`{equation[:40]}` is no equation of {len(op.given)} operands")
    most = max((_spread(term, tensor.shape) for term, tensor in zip(written, op.given, strict=True)), default=0)
    terms = []
    for term, tensor in zip(written, op.given, strict=True):
        labels = _labels(term, most, _spread(term, tensor.shape))
        if len(labels) != len(tensor.shape):
            raise LatteError(f"`{equation[:40]}` does not fit {tensor.shape}")
        terms.append(_Term(tensor=tensor, labels=labels))
    once = sorted({letter for letter in left if letter.isalpha() and left.count(letter) == 1})
    dots = tuple(map(str, range(most)))
    out = _labels(right, most, most) if arrow else (*dots, *once)
    if any(len(set(term.labels)) != len(term.labels) for term in terms) or len(set(out)) != len(out):
        raise NotConstant("a letter that stands twice in a term is not known")
    _check(terms, out, equation)
    return terms, out


def _spread(term: str, shape: Shape) -> int:
    """How many dimensions `...` covers in a term."""
    return len(shape) - len(term.replace(_DOTS, "")) if _DOTS in term else 0


def _labels(term: str, most: int, own: int) -> tuple[str, ...]:
    """The labels of a term whose `...` covers the last `own` of `most` dimensions."""
    before, dots, after = term.partition(_DOTS)
    return (*before, *(map(str, range(most - own, most)) if dots else ()), *after)


def _check(terms: list[_Term], out: tuple[str, ...], equation: str) -> None:
    known: dict[str, int] = {}
    for term in terms:
        for label, size in term.sizes.items():
            if size != 1 and known.setdefault(label, size) != size:
                raise LatteError(f"`{equation[:40]}` does not fit {[one.tensor.shape for one in terms]}")
    if not {*out} <= {label for term in terms for label in term.labels}:
        raise LatteError(f"`{equation[:40]}` writes what it does not read")


def _summed(op: Operation, term: _Term, wanted: set[str], name: str) -> _Term:
    """The term without the dimensions that nothing else has, summed over."""
    gone = tuple(axis for axis, label in enumerate(term.labels) if label not in wanted)
    if not gone:
        return term
    tensor = op.activation(term.tensor)
    layer = Reduce(shape=tensor.shape, operation="sum", axes=gone, keep=False)
    labels = tuple(label for label in term.labels if label in wanted)
    return _Term(tensor=op.step(name, layer, tensor), labels=labels)


def _contracted(op: Operation, a: _Term, b: _Term, wanted: set[str], name: str) -> _Term:
    """The product of two terms, summed over what neither the output nor a later term has."""
    a, b = _without_ones(op, a, b, f"a{name}"), _without_ones(op, b, a, f"b{name}")
    a = _summed(op, a, {*wanted, *b.labels}, f"a{name}_summed")
    b = _summed(op, b, {*wanted, *a.labels}, f"b{name}_summed")
    shared = [label for label in a.labels if label in b.labels]
    batch = [label for label in shared if label in wanted]
    inner = [label for label in shared if label not in wanted]
    if not batch and inner and b.tensor.constant and not b.tensor.derived:
        return _linear(op, a, b, inner, name)
    if not batch and inner and a.tensor.constant and not a.tensor.derived:
        return _linear(op, b, a, inner, name)
    if not inner:
        return _multiplied(op, a, b, name)
    rows = [label for label in a.labels if label not in shared]
    columns = [label for label in b.labels if label not in shared]
    left = _arranged(op, a, [batch, rows, inner], f"a{name}")
    right = _arranged(op, b, [batch, inner, columns], f"b{name}")
    layer = MatMul(batch=left.shape[0], m=left.shape[1], k=left.shape[2], n=right.shape[2])
    y = op.step(f"product{name}", layer, left, right)
    return _unfolded(op, y, (*batch, *rows, *columns), a.sizes | b.sizes, name)


def _multiplied(op: Operation, a: _Term, b: _Term, name: str) -> _Term:
    """The product of two terms that is summed over nothing: number by number, as torch computes it."""
    labels = tuple(dict.fromkeys((*a.labels, *b.labels)))
    left, right = (
        _arranged(op, term, [[label] if label in term.labels else [] for label in labels], f"{side}{name}")
        for term, side in ((a, "a"), (b, "b"))
    )
    layer = Elementwise(operation="multiply", shapes=(left.shape, right.shape))
    return _Term(tensor=op.step(f"product{name}", layer, left, right), labels=labels)


def _without_ones(op: Operation, term: _Term, other: _Term, name: str) -> _Term:
    """The term without dimensions of size 1 that are wider in the other one, with which they would be repeated."""
    kept = tuple(label for label in term.labels if term.sizes[label] != 1 or other.sizes.get(label, 1) == 1)
    if kept == term.labels:
        return term
    tensor = op.activation(term.tensor)
    shape = tuple(term.sizes[label] for label in kept)
    return _Term(tensor=op.step(f"{name}_thin", View(shape=tensor.shape, output=shape), tensor), labels=kept)


def _linear(op: Operation, x: _Term, weight: _Term, inner: list[str], name: str) -> _Term:
    """A product with weights that have no dimension but those they are multiplied along and those they make."""
    rows = [label for label in x.labels if label not in inner]
    columns = [label for label in weight.labels if label not in inner]
    flat = _arranged(op, x, [rows, inner], f"x{name}")
    wide = prod(weight.sizes[label] for label in columns)
    layer = Linear(rows=flat.shape[0], in_features=flat.shape[1], out_features=wide, bias=False)
    by_inputs = weight.labels == (*inner, *columns)
    stored = (("stored_by_inputs", int(by_inputs is not weight.tensor.turned)),)
    y = op.step(f"linear{name}", layer, flat, parameters=(weight.tensor,), attributes=stored)
    return _unfolded(op, y, (*rows, *columns), x.sizes | weight.sizes, name)


def _arranged(op: Operation, term: _Term, groups: list[list[str]], name: str) -> Tensor:
    """The term's tensor with its dimensions in the order of `groups`, each group as one dimension."""
    x, sizes = op.activation(term.tensor), term.sizes
    order = tuple(term.labels.index(label) for group in groups for label in group)
    if order != tuple(range(len(order))):
        output = tuple(x.shape[axis] for axis in order)
        x = op.step(f"{name}_order", Copy(operation="transpose", shape=x.shape, output=output, order=order), x)
    flat = tuple(prod(sizes[label] for label in group) for group in groups)
    return op.step(f"{name}_flat", View(shape=x.shape, output=flat), x)


def _unfolded(op: Operation, y: Tensor, labels: tuple[str, ...], sizes: dict[str, int], name: str) -> _Term:
    shape = tuple(sizes[label] for label in labels)
    return _Term(tensor=op.step(f"unfolded{name}", View(shape=y.shape, output=shape), y), labels=labels)


def _written(op: Operation, whole: _Term, out: tuple[str, ...], sizes: dict[str, int]) -> object:
    """The output: the dimensions in its order."""
    order, x = tuple(whole.labels.index(label) for label in out), whole.tensor
    output = tuple(sizes[label] for label in out)
    if order == tuple(range(len(order))):
        return op.view(x, output)
    return op.result(Copy(operation="transpose", shape=x.shape, output=output, order=order), x)


READERS: dict[str, Reader] = {"Einsum": _einsum}
"""Operators by name, each with what turns it into layers."""
