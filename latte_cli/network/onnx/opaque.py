"""LATTE's own operators: programs of other frameworks become these where ONNX has no operator."""

from latte_cli.errors import LatteError
from latte_cli.layers import Other
from latte_cli.network.graph import DETACHED
from latte_cli.network.onnx.operation import Operation, Reader, Tensor
from latte_cli.network.torch_program.program import WHOLE

ALIKE = frozenset(("sort", "argsort", "msort", "cumprod", "cummax", "cummin", "logcumsumexp"))
"""Work whose results all have the shape of what it is given."""

_FIXED = frozenset(("histc",))
"""Work whose results have the same shape for every input."""


def _other(op: Operation) -> object:
    """Work that no layer describes: the file says the shape of each output, -1 for what only values decide."""
    varying = {
        place: op.activation(tensor)
        for place, tensor in enumerate(op.given)
        if not tensor.constant or (tensor.trained and not op.folds)
    }
    inputs = tuple(varying.values())
    name, elements = op.text("operation", "other"), op.integers("elements") or ()
    for index, output in enumerate(op.outputs):
        if not output:
            continue
        sizes = tuple(None if size < 0 else size for size in op.integers(f"shape{index}") or ())
        alike = inputs and name in (*ALIKE, "index_put")
        shape = op.input().shape if alike else op.decided(_at_batch(op, sizes), index)
        element = elements[index] if index < len(elements) else inputs[0].element if inputs else 1
        if inputs:
            layer = Other(operation=name, shapes=tuple(tensor.shape for tensor in inputs), output=shape)
            detached = ((DETACHED, 1),) * (element in WHOLE)
            op.result(
                layer, *inputs, index=index, attributes=op.numbers + op.operands(tuple(varying), index) + detached
            )
        op.results[output] = Tensor(name=output, shape=shape, constant=not inputs, element=element or 1)
    return None


def _at_batch(op: Operation, sizes: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The sizes at the batch that is wanted, where the first one is the batch that the file was written for."""
    varies = any(not tensor.constant for tensor in op.given)
    if op.batch == op.own_batch or not sizes or not varies or op.text("operation") in _FIXED:
        return sizes
    if sizes[0] == op.own_batch and all(size != op.own_batch for size in sizes[1:]):
        return (op.batch, *sizes[1:])
    raise LatteError(
        f"its shape {sizes} is known at a batch of {op.own_batch} only", hint="export the model at the batch wanted"
    )


READERS: dict[str, Reader] = {"latte.Other": _other}
"""Operators by name, each with what turns it into layers."""
