"""Whatever a model file holds: a network, or one error with a hint; never another exception, never much memory."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from latte_cli.errors import LatteError
from latte_cli.network import load, zoo
from latte_cli.network.onnx import read
from latte_cli.network.onnx.operators import OPERATORS

LENET = zoo.export("lenet")
RESNET = zoo.export("resnet8", batch_size=2)


def attempt(content: bytes, batch_size: int | None = None, *, allow_unknown: bool = False) -> None:
    found = read(content, name="model", sha256="", batch_size=batch_size, allow_unknown=allow_unknown)
    assert found.nodes or found.constants or set(found.outputs) <= {name for name, _ in found.inputs}
    assert found.parameters >= 0
    if 0 not in found.shapes[found.outputs[0]]:
        assert found.loss().rows > 0


def refused(content: bytes | onnx.ModelProto, message: str, batch_size: int | None = None) -> None:
    if not isinstance(content, bytes):
        content = content.SerializeToString()
    with pytest.raises(LatteError, match=message) as caught:
        attempt(content, batch_size)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def model(*nodes: onnx.NodeProto, shape: tuple[int | str, ...] = (1, 3, 8, 8), **constants: Any) -> onnx.ModelProto:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(list(nodes), "graph", [given], [output], initializer=stored))


def node(kind: str, *inputs: str, output: str = "y", **values: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], name=f"{kind}_node", **values)


def declared(name: str, *dims: int) -> TensorProto:
    """A tensor that claims to be of `dims` and holds nothing."""
    return TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT)


# --- files


def test_a_missing_file_is_an_error_with_a_hint(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(LatteError, match=f"cannot read `{re.escape(str(path))}`") as caught:
            load(path)
        assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"PK\x03\x04 a zip", b"hello, world\n", b"\x80\x02}q\x00."])
def test_what_is_no_onnx_file_is_said_to_be_none(content: bytes) -> None:
    refused(content, "is not an ONNX model")


def test_a_file_cut_anywhere_is_an_error_or_a_network() -> None:
    for end in range(0, len(LENET), 17):
        with pytest.raises(LatteError):
            attempt(LENET[:end])


def test_deep_nesting_is_an_error() -> None:
    content = b""
    for _ in range(2000):  # a graph in an attribute of a node of a graph ...
        attribute = b"\x32" + _length(content) + content
        inner = b"\x2a" + _length(attribute) + attribute
        content = b"\x0a" + _length(inner) + inner
    refused(b"\x3a" + _length(content) + content, "is not an ONNX model")


def _length(content: bytes) -> bytes:
    size, text = len(content), b""
    while size > 127:
        text, size = text + bytes([size & 127 | 128]), size >> 7
    return text + bytes([size])


# --- graphs


def test_a_circle_is_named() -> None:
    refused(model(node("Add", "x", "z"), node("Relu", "y", output="z")), "in a circle through `")


def test_a_dangling_input_is_named() -> None:
    refused(model(node("Add", "x", "nowhere")), "nothing writes `nowhere`, which `Add_node` reads")


def test_a_missing_output_is_named() -> None:
    refused(model(node("Relu", "x", output="other")), "nothing writes `y`, which the graph reads")


def test_a_tensor_that_is_written_twice_is_named() -> None:
    refused(model(node("Relu", "x"), node("Abs", "x")), "`y` is written twice")
    refused(model(node("Relu", "x", output="x"), node("Abs", "x")), "`x` is written twice")


def test_a_graph_without_outputs_or_layers_is_an_error() -> None:
    bare = model(node("Relu", "x"))
    del bare.graph.output[:]
    refused(bare, "names no outputs")


def test_a_graph_of_shapes_alone_is_a_network_without_layers() -> None:
    found = read(model(node("Shape", "x")).SerializeToString(), name="m", sha256="", batch_size=2, allow_unknown=False)
    assert (found.nodes, found.shapes["y"]) == ((), (4,))


def chain(count: int) -> bytes:
    nodes = [helper.make_node("Relu", [f"a{index}"], [f"a{index + 1}"]) for index in range(count)]
    long = model(*nodes, shape=(1, 3))
    long.graph.input[0].name, long.graph.output[0].name = "a0", f"a{count}"
    content: bytes = long.SerializeToString()
    return content


def test_thirty_thousand_nodes_are_read_and_twice_as_many_refused() -> None:
    attempt(chain(30_000))
    refused(chain(60_000), "has more than 50000 nodes, which are not read")


# --- sizes


@pytest.mark.parametrize("size", [-2, 2**40, 2**50, 2**63 - 1])
def test_an_input_of_an_absurd_size_is_refused(size: int) -> None:
    refused(model(node("Relu", "x"), shape=(1, 3, size, 8)), "input `x` has an impossible shape")


@pytest.mark.parametrize("batch_size", [0, -8, 2**60])
def test_an_absurd_batch_is_refused(batch_size: int) -> None:
    refused(LENET, "batch size cannot be|impossible shape", batch_size)


def test_an_open_dimension_beside_the_batch_is_named() -> None:
    refused(model(node("Relu", "x"), shape=("N", 3, "height", 8)), "leaves the size of `height` open")


def test_minus_one_is_an_open_dimension() -> None:
    refused(model(node("Relu", "x"), shape=(-1, 3, -1, 8)), r"leaves the size of `x\[2\]` open")


def test_an_input_without_a_shape_is_an_error() -> None:
    shapeless = model(node("Relu", "x"))
    shapeless.graph.input[0].type.tensor_type.ClearField("shape")
    refused(shapeless, "is not a tensor with a shape")


@pytest.mark.parametrize("dims", [(2**50, 3, 3, 3), (-1, 3, 3, 3), (1,) * 4000])
def test_a_declared_tensor_of_an_absurd_shape_is_refused(dims: tuple[int, ...]) -> None:
    made = model(node("Conv", "x", "w"))
    made.graph.initializer.append(declared("w", *dims))
    refused(made, "`w` has an impossible shape")


def test_a_huge_declared_tensor_is_not_allocated() -> None:
    made = model(node("Conv", "x", "w"))
    made.graph.initializer.append(declared("w", 2**35, 3, 3, 3))
    attempt(made.SerializeToString())


def test_a_huge_constant_is_not_allocated() -> None:
    sizes = np.asarray([2**38, 2**38], np.int64)
    fill = model(node("ConstantOfShape", "s", output="c"), node("Add", "x", "c"), s=sizes, shape=(1, 1))
    attempt(fill.SerializeToString())
    counts = {"a": np.int64(0), "b": np.int64(2**39), "c": np.int64(1)}
    attempt(
        model(
            node("Range", "a", "b", "c", output="r"), node("Add", "x", "r"), shape=(1, 1), **counts
        ).SerializeToString()
    )
    refused(model(node("Tile", "x", "t"), t=np.asarray([2**39] * 4, np.int64)), "impossible shape")


def test_doubling_forty_times_is_an_error() -> None:
    nodes = [helper.make_node("Concat", [f"a{at}", f"a{at}"], [f"a{at + 1}"], axis=1) for at in range(60)]
    made = model(*nodes, shape=(1, 3))
    made.graph.input[0].name, made.graph.output[0].name = "a0", "a60"
    refused(made, "a concat layer cannot have a tensor of")


WEIGHT = np.zeros((4, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pads": [-9] * 4}, "a convolution layer cannot have pad_before"),
        ({"pads": [2**62] * 4}, "cannot have a tensor of"),
        ({"pads": [1]}, "`pads` has 1 numbers for 2 spatial dimensions"),
        ({"strides": [0, 0]}, r"cannot have stride \(0, 0\)"),
        ({"strides": [0, 0], "auto_pad": "SAME_UPPER"}, "strides"),
        ({"strides": [1, 1, 1]}, "`strides` has 3 numbers"),
        ({"dilations": [2**40, 1]}, "cannot have a tensor of"),
        ({"dilations": [9, 9]}, "cannot have a tensor of"),
        ({"group": 0}, "do not fit"),
        ({"group": -3}, "do not fit"),
        ({"group": 2**62}, "do not fit"),
        ({"group": 1.5}, "`group` is not of the type INT"),
        ({"strides": "two"}, "`strides` is not of the type INTS"),
        ({"auto_pad": "LEFT"}, "`auto_pad` is `LEFT`"),
    ],
)
def test_a_convolution_that_cannot_be_is_explained(values: dict[str, Any], message: str) -> None:
    refused(model(node("Conv", "x", "w", **values), w=WEIGHT), f"`Conv` node `Conv_node`.*{message}")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (model(node("MaxPool", "x", kernel_shape=[9, 9])), "cannot have a tensor of"),
        (model(node("MaxPool", "x")), "cannot have kernel"),
        (model(node("MaxPool", "x", kernel_shape=[2, 2]), shape=(1, 3)), "has no spatial dimensions"),
        (model(node("LeakyRelu", "x", alpha=float("nan"))), "`alpha` is not a finite number"),
        (model(node("Concat", "x", "x", axis=9)), "axis 9 does not exist in 4 dimensions"),
        (model(node("Concat")), "has no inputs"),
        (model(node("Transpose", "x", perm=[0, 1, 1, 2])), "is no order of 4 dimensions"),
        (model(node("Relu")), "input 0 is missing"),
        (model(node("Conv", "x")), "input 1 is missing"),
        (model(node("Conv", "x", "w"), w=WEIGHT[:, :2]), "do not fit"),
        (model(node("Conv", "x", "w", "b"), w=WEIGHT, b=np.zeros(5, np.float32)), "`b` has the shape"),
        (model(node("Reshape", "x", "s"), s=np.asarray([7, 7])), "does not reshape to"),
        (model(node("Reshape", "x", "s"), s=np.asarray([-1, -1])), "does not reshape to"),
        (model(node("Reshape", "x", "s"), s=np.asarray([1.5])), "does not hold integers"),
        (model(node("Reshape", "x", "s"), s=np.asarray(["a"])), "text is not computed with"),
        (model(node("Split", "x", output="y", axis=1, split=[1, 1])), "are not the whole of 3"),
        (model(node("Slice", "x", "a", "b"), a=np.asarray([5]), b=np.asarray([2, 3])), "is malformed"),
        (model(node("Squeeze", "x", "a"), a=np.asarray([0, 0])), "name a dimension twice"),
        (model(node("Gemm", "x", "x")), "is not one of matrices"),
        (model(node("MatMul", "x", "w"), w=np.zeros((9, 2), np.float32)), "cannot be multiplied"),
        (model(node("Add", "x", "w"), w=np.zeros(5, np.float32)), "do not broadcast"),
        (model(node("Cast", "x", to=10**6)), "element type 1000000"),
    ],
)
def test_an_operator_that_cannot_be_is_explained(made: onnx.ModelProto, message: str) -> None:
    refused(made, message)


# --- anything


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), content=st.sampled_from([LENET, RESNET]))
def test_changed_bytes_bring_out_nothing_but_an_error_with_a_hint(data: st.DataObject, content: bytes) -> None:
    changed = bytearray(content)
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=8)):
        changed[place] = value
    settle(bytes(changed), data)


ODD = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 2**31, 2**39, 2**40, 2**62, 2**63 - 1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), content=st.sampled_from([LENET, RESNET]))
def test_changed_graphs_bring_out_nothing_but_an_error_with_a_hint(data: st.DataObject, content: bytes) -> None:
    graph_of = onnx.load_model_from_string(content)
    for change in data.draw(
        st.lists(st.sampled_from([_operator, _input, _attribute, _dimension]), min_size=1, max_size=4)
    ):
        change(data, graph_of.graph)
    settle(graph_of.SerializeToString(), data)


def settle(content: bytes, data: st.DataObject) -> None:
    batch_size, allow_unknown = data.draw(st.sampled_from([None, 8])), data.draw(st.booleans())
    try:
        attempt(content, batch_size, allow_unknown=allow_unknown)
    except LatteError as error:
        assert error.hint, error.message


def _operator(data: st.DataObject, graph: onnx.GraphProto) -> None:
    data.draw(st.sampled_from(list(graph.node))).op_type = data.draw(st.sampled_from(sorted(OPERATORS)))


def _input(data: st.DataObject, graph: onnx.GraphProto) -> None:
    changed = data.draw(st.sampled_from([each for each in graph.node if each.input]))
    names = [name for each in graph.node for name in (*each.input, *each.output, "")]
    changed.input[data.draw(st.integers(0, len(changed.input) - 1))] = data.draw(st.sampled_from(names))


def _attribute(data: st.DataObject, graph: onnx.GraphProto) -> None:
    changed = data.draw(st.sampled_from([each for each in graph.node if each.attribute]))
    attribute = data.draw(st.sampled_from(list(changed.attribute)))
    if attribute.ints:
        attribute.ints[data.draw(st.integers(0, len(attribute.ints) - 1))] = data.draw(st.sampled_from(ODD))
    attribute.i, attribute.f = data.draw(st.sampled_from(ODD)), data.draw(st.floats(width=32))


def _dimension(data: st.DataObject, graph: onnx.GraphProto) -> None:
    size = data.draw(st.sampled_from(ODD))
    if data.draw(st.booleans()):
        data.draw(st.sampled_from(list(graph.input[0].type.tensor_type.shape.dim))).dim_value = size
    else:
        tensor = data.draw(st.sampled_from([each for each in graph.initializer if each.data_type == TensorProto.INT64]))
        values = numpy_helper.to_array(tensor).copy()
        values[data.draw(st.integers(0, len(values) - 1))] = size
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
