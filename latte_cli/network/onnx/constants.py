"""Constants that a graph computes: node by node by ONNX's own evaluator, within limits of size and work."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, OperatorSetIdProto, ValueInfoProto, helper, numpy_helper

from latte_cli.network.onnx.inferred import infer_shapes
from latte_cli.network.onnx.operation import FOLDED_ELEMENTS

Array = NDArray[Any]

_MOST_NUMBERS = 2**26  # chosen: 256 MiB in single precision; tables of positions and masks have fewer
_MOST_TIMES = 4  # chosen: weights are cast, turned and joined, and seldom repeated
_MOST_WORK = 32  # chosen: steps that go through as many numbers, some seconds in all
_CHOOSERS = ("Compress", "NonZero", "Unique")  # the values of their first input say how many numbers they give
_PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
_PRODUCT_SHARE = 32  # chosen: what a library multiplies while NumPy goes through one number
_LOOP_TIMES = 4096  # measured: up to 60 us a number, where NumPy takes 15 ns
_LOOPS = frozenset(
    (
        *("AveragePool", "CenterCropPad", "Col2Im", "Conv", "ConvInteger", "ConvTranspose", "Erf"),
        *("GRU", "GatherElements", "GatherND", "GlobalLpPool", "GridSample", "LRN", "LSTM", "LayerNormalization"),
        *("LinearAttention", "LpPool", "MaxPool", "MaxUnpool", "MelWeightMatrix"),
        *("NegativeLogLikelihoodLoss", "QLinearConv", "RNN", "Resize"),
        *("STFT", "ScatterElements", "ScatterND", "SoftmaxCrossEntropyLoss", "TensorScatter"),
        *("Scatter", "Upsample"),
    )
)
"""Operators that the evaluator computes number by number in Python."""
_POOLS = ("AveragePool", "LpPool", "MaxPool")
_CONVOLUTIONS = ("Conv", "ConvInteger", "ConvTranspose", "QLinearConv")
_BY_VALUES = ("DeformConv", "MaxRoiPool", "NonMaxSuppression", "RoiAlign", "TfIdfVectorizer")
"""Operators whose values decide how long they take; no network computes its weights with them."""


def computed(
    name: str, nodes: Sequence[NodeProto], stored: Mapping[str, Array], opsets: Iterable[OperatorSetIdProto]
) -> Array:
    """The constant `name` that `nodes`, first ones first, compute of what is `stored`.

    Raises ValueError where that cannot be done, and where it may take far more room or time than what it comes from.
    """
    opsets = list(opsets)
    most = max(_MOST_NUMBERS, _MOST_TIMES * sum(array.size for array in stored.values()))
    left, arrays = _MOST_WORK * most, dict(stored)
    last = {each: at for at, node in enumerate(nodes) for each in node.input}
    for at, node in enumerate(nodes):
        given = [arrays[each] if each else None for each in node.input]
        sizes = _sizes(node, given, opsets)
        left -= _work(node, given, sum(sizes.values()))
        if sum(array.size for array in arrays.values()) + sum(sizes.values()) > most or left < 0:
            output = max(sizes, key=lambda each: sizes[each])
            raise ValueError(f"`{output}` would hold {sizes[output]:,} numbers, or take too long")
        arrays |= _results(node, given, opsets)
        arrays = {each: array for each, array in arrays.items() if last.get(each, 0) > at or each == name}
    return arrays[name]


def _results(node: NodeProto, given: Sequence[Array | None], opsets: Sequence[OperatorSetIdProto]) -> dict[str, Array]:
    """What a node computes; raises ValueError for numbers that do not fit."""
    from onnx.reference import ReferenceEvaluator

    feeds = {name: array for name, array in zip(node.input, given, strict=True) if array is not None}
    try:
        found = ReferenceEvaluator(node, opsets={each.domain: each.version for each in opsets}).run(None, feeds)
        return {name: np.asarray(array) for name, array in zip(node.output, found, strict=True) if name}
    except Exception as exc:  # whatever the evaluator makes of them
        raise ValueError(" ".join(str(exc).split())[:120]) from exc


def _work(node: NodeProto, given: Sequence[Array | None], size: int) -> int:
    """How many numbers NumPy would go through in the time that a node takes, whose results have `size`."""
    known = [array for array in given if array is not None]
    numbers = size + sum(array.size for array in known)
    if node.op_type in _LOOPS:
        return _LOOP_TIMES * (numbers + size * _window(node, known))
    if node.op_type in _PRODUCTS:
        return numbers + size * max(known[0].shape[-2:], default=1) // _PRODUCT_SHARE
    if node.op_type == "Einsum":
        return numbers + size * _summed(node, known)
    return numbers


def _window(node: NodeProto, given: Sequence[Array]) -> int:
    """How many numbers a pool or a convolution goes through for each of its results; 0 for other operators."""
    if node.op_type in _POOLS:
        return prod(size for each in node.attribute if each.name == "kernel_shape" for size in each.ints)
    if node.op_type in _CONVOLUTIONS:
        return max((prod(array.shape[1:]) for array in given[1:]), default=0)
    return 0


def _summed(node: NodeProto, given: Sequence[Array]) -> int:
    """Over how many numbers an Einsum sums for each of its results, or more."""
    equation = "".join(each.s.decode(errors="replace") for each in node.attribute if each.name == "equation")
    left, arrow, right = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    right = right if arrow else "".join(letter for letter in left if left.count(letter) == 1)
    for term, array in zip(left.split(","), given, strict=False):
        before, dots, after = term.partition("...")
        sizes |= dict(zip(before, array.shape, strict=False))
        sizes |= dict(zip(after[::-1], array.shape[::-1], strict=False)) if dots else {}
    return prod(size for label, size in sizes.items() if label not in right)


def _sizes(node: NodeProto, given: Sequence[Array | None], opsets: Sequence[OperatorSetIdProto]) -> dict[str, int]:
    """The most numbers that each output of a node holds; raises ValueError where that is not known."""
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise ValueError(f"`{node.op_type}` runs another graph")
    if node.op_type in _BY_VALUES:
        raise ValueError(f"`{node.op_type}` is not computed of weights")
    if node.op_type in _CHOOSERS and given and given[0] is not None:
        return dict.fromkeys(node.output, given[0].size * max(1, given[0].ndim))
    graph = GraphProto(name="constant", node=[node])
    for name, array in dict(zip(node.input, given, strict=True)).items():
        if array is not None and array.size <= FOLDED_ELEMENTS:
            graph.initializer.append(numpy_helper.from_array(array, name))
        elif array is not None:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    graph.output.extend(ValueInfoProto(name=name) for name in node.output if name)
    known = infer_shapes(helper.make_model(graph, opset_imports=opsets))
    return {output.name: _size(output) for output in (known or graph).output}


def _size(value: ValueInfoProto) -> int:
    """How many numbers a value holds; raises ValueError where its shape is not known."""
    kind = value.type.tensor_type
    if not kind.HasField("shape") or not all(each.HasField("dim_value") for each in kind.shape.dim):
        raise ValueError(f"the shape of `{value.name}` is not known")
    return prod(each.dim_value for each in kind.shape.dim)
