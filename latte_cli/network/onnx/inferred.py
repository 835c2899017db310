"""ONNX operators without a separate reader: shapes by ONNX's inference, the work as a layer of kind `other`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    checker,
    defs,
    helper,
    numpy_helper,
    shape_inference,
)

from latte_cli.errors import LatteError
from latte_cli.layers import Copy, Layer, Other, View
from latte_cli.network.onnx import equations
from latte_cli.network.onnx.operation import FOLDED_ELEMENTS, LARGEST_RANK, Array, Operation, Tensor, Unreadable
from latte_cli.network.onnx.reads import computes_with

Sizes: TypeAlias = tuple[int | None, ...]

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_MOVERS = ("Expand", "Tile", "Slice", "Pad", "Resize", "Upsample", "Split")
_REDUCING = re.compile(r"Reduce[A-Z]|Squeeze")
_COMPUTED = (
    *("NonZero", "TopK", "CumSum", "ScatterND", "ScatterElements", "GatherND", "GatherElements", "OneHot", "Trilu"),
    *("Compress", "Unique", "Tile", "Range", "Pad", "Clip", "Sign", "EyeLike", "Einsum", "Mod", "ReduceMean"),
    *("BitwiseAnd", "BitwiseOr", "BitwiseNot", "Xor", "Round", "Exp", "Log", "Split", "CastLike", "ArgMax"),
)
"""Operators that are computed where all they are given is known."""


def read(op: Operation) -> None:
    """Leave a layer for each output of `op`; raises Unreadable where ONNX knows no such operator or no shapes."""
    found = _outputs(op)
    for index, name in enumerate(op.outputs):
        if name and name not in op.results:
            _leave(op, index, found)


def complete(op: Operation, wanted: Mapping[str, int]) -> None:
    """Leave a layer for each output that is `wanted` and that the operator's own reader has not left."""
    missing = [name for name in op.outputs if name and wanted.get(name) and name not in op.results]
    if not missing:
        return
    found = _outputs(op)
    for index, name in enumerate(op.outputs):
        if name in missing:
            _leave(op, index, found, label=_schema(op).outputs[index].name)


def computed(op: Operation) -> Mapping[str, Array]:
    """What `op` computes from constants with known values, by output; nothing where they are many or not known."""
    values = [None if tensor is None else tensor.values for tensor in op.inputs]
    unknown = any(value is None and tensor is not None for value, tensor in zip(values, op.inputs, strict=True))
    if op.kind not in _COMPUTED or unknown or not values or _largest(op) > FOLDED_ELEMENTS:
        return {}
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(all="ignore"):
            feeds = {name: value for name, value in zip(_names(op), values, strict=True) if value is not None}
            results = ReferenceEvaluator(_node(op), opsets={"": op.opset}).run(None, feeds)
    except Exception:  # whatever the evaluator makes of numbers that do not fit
        return {}
    return {name: np.asarray(value) for name, value in zip(op.outputs, results, strict=True) if name}


def _largest(op: Operation) -> int:
    """The most elements that a result may have, as far as that is known before it is computed."""
    try:
        found = _outputs(op)
    except LatteError:
        return FOLDED_ELEMENTS + 1
    given = max(prod(tensor.shape) for tensor in op.given)
    return max(prod(given if size is None else size for size in sizes) for sizes, _ in found.values())


def _leave(op: Operation, index: int, found: Mapping[str, tuple[Sizes, int]], *, label: str = "") -> None:
    name = op.outputs[index]
    if name not in found:
        raise Unreadable(f"the shape of its output `{name}` is not known")
    sizes, element = found[name]
    if element == TensorProto.STRING:
        raise Unreadable("text is not computed with")
    shape = op.decided(sizes, index)
    if op.folds:
        op.results[name] = Tensor(name=name, shape=shape, constant=True, element=element)
        return
    varying = {
        place: op.activation(tensor)
        for place, tensor in enumerate(op.inputs)
        if tensor is not None and (not tensor.constant or (tensor.trained and computes_with(op, place)))
    }
    layer = _layer(op, tuple(varying.values()), shape, label)
    reads = tuple(varying.values())[: len(layer.input_shapes)]
    attributes = op.numbers + (op.operands(tuple(varying), index) if isinstance(layer, Other) else ())
    op.result(layer, *reads, index=index, attributes=attributes, constants=op.constant_inputs)
    op.results[name] = Tensor(name=name, shape=shape, element=element)


def _layer(op: Operation, inputs: Sequence[Tensor], shape: tuple[int, ...], label: str) -> Layer:
    first = inputs[0].shape
    if op.kind in _VIEWS and prod(first) == prod(shape):
        return View(shape=first, output=shape)
    if op.kind in _MOVERS and not label:
        return Copy(operation=snake(op.kind), shape=first, output=shape)
    name = f"{snake(op.kind)}_{snake(label)}" if label else snake(op.kind)
    return Other(operation=name, shapes=tuple(tensor.shape for tensor in inputs), output=shape)


def snake(name: str) -> str:
    """`GridSample` as `grid_sample`, without a domain."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.rpartition(".")[2])
    return words.lower()


def _schema(op: Operation) -> Any:
    domain, _, kind = op.kind.rpartition(".")
    try:
        return defs.get_schema(kind, op.opset if not domain else 1, domain)
    except defs.SchemaError:
        pass
    try:
        return defs.get_schema(kind, domain)
    except defs.SchemaError as exc:
        raise Unreadable("") from exc


def _names(op: Operation) -> tuple[str, ...]:
    """A name for each input, unique even where two are the same."""
    return tuple("" if tensor is None else f"i{index}" for index, tensor in enumerate(op.inputs))


def _node(op: Operation) -> NodeProto:
    domain, _, kind = op.kind.rpartition(".")
    node = helper.make_node(kind, list(_names(op)), list(op.outputs), domain=domain)
    node.attribute.extend(op.attributes.values())
    return node


_FAILURES = (
    *(ValueError, TypeError, RuntimeError, IndexError, OverflowError, EncodeError),
    shape_inference.InferenceError,
)
"""What ONNX's inference raises; pybind11 makes Python's own of C++'s exceptions."""

_SHAPED = ("Reshape", "ConstantOfShape", "Expand", "Unsqueeze")
"""Operators that are given as many numbers as the result has dimensions."""


def infer_shapes(model: ModelProto, *, data_prop: bool = False) -> GraphProto | None:
    """The graph of `model` with the shapes that ONNX's inference finds, which may compute with small constants.

    None where it fails, and where it would crash, or not end, for what a node says.
    """
    if any(map(_unsafe, _all_nodes(model))):
        return None
    try:
        return shape_inference.infer_shapes(model, data_prop=data_prop).graph
    except _FAILURES:
        return None


def _all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """The nodes of the model, of its functions, and of the graphs that these run."""
    left = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while left:
        node = left.pop()
        yield node
        for attribute in node.attribute:
            left += [each for graph in (attribute.g, *attribute.graphs) for each in graph.node]


def _unsafe(node: NodeProto) -> bool:
    return any(
        (attribute.name == "batch_dims" and attribute.i < 0)
        or (attribute.name == "equation" and equations.has_odd_points(attribute.s.decode(errors="replace")))
        for attribute in node.attribute
    )


_AXES = ("axis", "axes", "batch_axis", "batch_dims", "time_axis")
"""Attributes that name dimensions of the inputs."""


def _outputs(op: Operation) -> dict[str, tuple[Sizes, int]]:
    """The sizes (None where only values decide) and element type of each output."""
    if any(tensor.element == TensorProto.STRING for tensor in op.given):
        raise Unreadable("text is not computed with")
    if op.kind in _SHAPED and (rank := _rank(op) or 0) > LARGEST_RANK:  # ONNX would make a list of that length
        raise LatteError(f"its result would have {rank} dimensions", hint="is the file damaged? export it again")
    _check_axes(op)
    schema = _schema(op)
    named = [(name, tensor) for name, tensor in zip(_names(op), op.inputs, strict=True) if tensor is not None]
    types = {name: helper.make_tensor_type_proto(tensor.element, tensor.shape) for name, tensor in named}
    data = {name: numpy_helper.from_array(tensor.values) for name, tensor in named if tensor.values is not None}
    opsets = [OperatorSetIdProto(domain="", version=op.opset)]
    if schema.domain:
        opsets.append(OperatorSetIdProto(domain=schema.domain, version=schema.since_version))
    try:
        found = shape_inference.infer_node_outputs(schema, _node(op), types, data, opset_imports=opsets)
    except (*_FAILURES, checker.ValidationError) as exc:
        raise Unreadable(f"its shapes do not fit: {_line(exc)}") from exc
    return {name: known for name, kind in found.items() if (known := _known(op, kind)) is not None}


def _check_axes(op: Operation) -> None:
    """Raise Unreadable for dimensions that no input has: one of ONNX's inferences takes them unchecked, and crashes."""
    most = max((len(tensor.shape) for tensor in op.given), default=0)
    for name in _AXES:
        given = (op.integers(name) or ()) if name == "axes" else (op.integer(name, 0),)
        if any(abs(axis) > most + len(given) for axis in given) or (name == "batch_dims" and min(given) < 0):
            raise Unreadable(f"its `{name}` names dimensions that do not exist")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _known(op: Operation, kind: Any) -> tuple[Sizes, int] | None:
    if not kind.HasField("tensor_type"):
        return None
    tensor = kind.tensor_type
    if tensor.HasField("shape"):
        sizes: Sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        return sizes, tensor.elem_type
    rank = _rank(op)
    return None if rank is None else ((None,) * rank, tensor.elem_type)


def _rank(op: Operation) -> int | None:
    """How many dimensions the output has, by the rank of the inputs and how many numbers are given."""
    first = len(op.input().shape)
    second = op.optional(1)
    count = prod(second.shape) if second is not None else 0
    if op.kind in ("Reshape", "ConstantOfShape"):
        return count if op.kind == "Reshape" else prod(op.input().shape)
    if op.kind == "Expand":
        return max(first, count)
    if op.kind == "Unsqueeze":
        return first + count
    if _REDUCING.match(op.kind) and not (op.kind != "Squeeze" and op.integer("keepdims", 1)):
        return first - count
    return first if op.kind in _MOVERS or _REDUCING.match(op.kind) else None
