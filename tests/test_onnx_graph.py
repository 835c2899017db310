"""The walk through an ONNX graph: open dimensions, functions, branches, loops, large weights, data elsewhere."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from test_onnx import model, network

from latte_cli.errors import LatteError
from latte_cli.layers import Attention, Embedding, Linear, MatMul, Recurrent
from latte_cli.network import Network, load, zoo
from latte_cli.network.onnx import read
from latte_cli.network.onnx.dimensions import evaluated
from latte_cli.network.onnx.external import external_file
from latte_cli.network.onnx.stripped import LARGE_BYTES, digest, stripped

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def sized(made: ModelProto, batch_size: int | None = None, **sizes: int) -> Network:
    return read(
        made.SerializeToString(), name="m", sha256="", batch_size=batch_size, allow_unknown=False,
        sizes={name.replace("__", "[").replace("_end", "]"): size for name, size in sizes.items()},
    )  # fmt: skip


def value(name: str, shape: Any = None, element: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def body(nodes: list[NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[str], **stored: Any) -> GraphProto:
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    return helper.make_graph(nodes, "body", inputs, [value(name) for name in outputs], initializer=weights)


# --- open dimensions

TOKENS = model(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    inputs={"x": ("N", "seq", 8)},
    constants={"w": np.zeros((8, 4), np.float32)},
)


def test_symbols_are_given_by_name_and_the_batch_by_either() -> None:
    assert sized(TOKENS, 2, seq=5).shapes["y"] == (2, 5, 4)
    assert sized(TOKENS, seq=5, N=3).shapes["y"] == (3, 5, 4)
    with pytest.raises(LatteError, match="the batch size cannot be 2 and `N` 3"):
        sized(TOKENS, 2, seq=5, N=3)


def test_all_open_dimensions_are_named_at_once_with_what_to_type() -> None:
    made = model([helper.make_node("Add", ["x", "z"], ["y"])], inputs={"x": ("N", "seq", 8), "z": ("N", "seq", "wide")})
    with pytest.raises(LatteError, match="leaves the size of `seq`, `wide` open") as caught:
        sized(made)
    assert caught.value.hint == "give it: --shape seq=SIZE --shape wide=SIZE"


def test_a_name_that_no_input_has_is_named_beside_what_is_open() -> None:
    with pytest.raises(LatteError, match="leaves the size of `seq` open") as caught:
        sized(TOKENS, 2, sed=5)
    assert caught.value.hint == "give it: --shape seq=SIZE (its inputs have no `sed`)"


def test_a_symbol_and_its_place_cannot_have_two_sizes() -> None:
    assert sized(TOKENS, 2, **{"seq": 5, "x[1]": 5}).shapes["y"] == (2, 5, 4)
    with pytest.raises(LatteError, match=r"one dimension cannot be `seq` 5 and `x\[1\]` 6"):
        sized(TOKENS, 2, **{"seq": 5, "x[1]": 6})


def test_open_dimensions_that_an_exporter_calls_alike_may_differ_by_place() -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], inputs={"x": ("N", "open", "open")})
    assert sized(made, 2, **{"x[1]": 5, "x[2]": 6}).shapes["y"] == (2, 5, 6)


def test_a_name_that_the_model_lacks_gets_a_near_match() -> None:
    with pytest.raises(LatteError, match="unknown dimension `sed`") as caught:
        sized(TOKENS, 2, seq=5, sed=3)
    assert "seq" in str(caught.value.hint)


def test_expressions_of_symbols_follow_from_them() -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], inputs={"x": ("N", "seq", "2*seq + 1")})
    assert sized(made, 2, seq=5).shapes["y"] == (2, 5, 11)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2*a + 1", 7), ("(a + 5)//2", 4), ("a - b", 1), ("a**9", None), ("f(a)", None), ("c", None), ("a.b", None)],
)
def test_only_sums_and_products_are_evaluated(text: str, size: int | None) -> None:
    assert evaluated(text, {"a": 3, "b": 2}) == size


def test_sizes_that_values_decide_are_named_and_may_be_given() -> None:
    made = model([helper.make_node("Reshape", ["x", "s"], ["y"])], inputs={"x": (2, 6)})
    made.graph.input.append(value("s", (2,), INT64))
    with pytest.raises(LatteError, match=r"decide the size of `y\[0\]`, `y\[1\]`") as caught:
        sized(made)
    assert caught.value.hint == "give it: --shape 'y[0]=SIZE' --shape 'y[1]=SIZE'"
    assert sized(made, y__0_end=3, y__1_end=4).layers[0].free
    assert sized(made, y__0_end=3, y__1_end=4).shapes["y"] == (3, 4)


# --- functions


def test_a_local_function_becomes_what_it_calls() -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    inner = helper.make_function("own", "Inner", ["a"], ["b"], [leaky], opsets, ["slope"])
    calls = [helper.make_node("Inner", ["x"], ["t"], domain="own", slope=0.25), helper.make_node("Tanh", ["t"], ["y"])]
    outer = helper.make_function("own", "Outer", ["x"], ["y"], calls, opsets)
    nodes = [helper.make_node("Outer", [at], [to], domain="own") for at, to in (("x", "u"), ("u", "y"))]
    made = model(nodes, inputs={"x": (2, 3)})
    made.functions.extend([inner, outer])
    found = network(made)
    assert Counter(getattr(layer, "function", layer.kind) for layer in found.layers)["leaky_relu"] == 2
    alphas = [dict(node.attributes)["alpha"] for node in found.nodes if dict(node.attributes).get("alpha")]
    assert alphas == [0.25, 0.25]


def test_a_function_that_calls_itself_is_one_error() -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    again = helper.make_node("Again", ["x"], ["y"], domain="own")
    made = model([again], inputs={"x": (2, 3)})
    made.functions.append(FunctionProto.FromString(
        helper.make_function("own", "Again", ["x"], ["y"], [again], opsets).SerializeToString()
    ))  # fmt: skip
    with pytest.raises(LatteError, match="lie 60 deep"):
        network(made)


# --- branches and loops


def branching(condition: Any = None) -> ModelProto:
    then = body([helper.make_node("Relu", ["x"], ["t"])], [], ["t"])
    wide = body([helper.make_node("MatMul", ["x", "w"], ["e"])], [], ["e"], w=np.zeros((3, 3), np.float32))
    made = model([helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=wide)], inputs={"x": (2, 3)})
    if condition is None:
        made.graph.input.append(value("c", (), BOOL))
    else:
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(condition), "c"))
    return made


def test_a_known_branch_is_taken_and_of_unknown_ones_the_costlier() -> None:
    assert [layer.kind for layer in network(branching(True)).layers if not layer.free] == ["activation"]
    assert [layer.kind for layer in network(branching(False)).layers if not layer.free] == ["linear"]
    found = network(branching())
    assert [layer.kind for layer in found.layers if not layer.free] == ["linear"]
    assert found.notes == ("`y` is taken to run its else branch, which costs more",)


def looping(*, going: bool | None = None) -> ModelProto:
    """x becomes relu(x W) in each trip, and what each wrote is gathered."""
    steps = [
        helper.make_node("MatMul", ["h", "w"], ["m"]),
        helper.make_node("Relu", ["m"], ["o"]),
        helper.make_node("Identity", ["go"], ["on"]),
        helper.make_node("Identity", ["o"], ["kept"]),
    ]
    if going is not None:
        steps[2] = helper.make_node("Constant", [], ["on"], value=numpy_helper.from_array(np.asarray(going)))
    inner = body(steps, [value("i", (), INT64), value("go", (), BOOL), value("h")], ["on", "o", "kept"])
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y", "all"], name="loop", body=inner)
    made = model([loop], inputs={"x": (2, 3)}, constants={"w": np.zeros((3, 3), np.float32)})
    made.graph.output.append(value("all"))
    return made


def test_a_loop_is_read_trip_by_trip() -> None:
    made = looping()
    made.graph.initializer.append(numpy_helper.from_array(np.asarray(4), "trips"))
    found = network(made)
    assert sum(isinstance(layer, Linear) for layer in found.layers) == 4
    assert (found.shapes["y"], found.shapes["all"]) == ((2, 3), (4, 2, 3))
    assert found.parameters == 9


def test_a_loop_ends_where_its_condition_does() -> None:
    made = looping(going=False)
    made.graph.initializer.append(numpy_helper.from_array(np.asarray(4), "trips"))
    assert network(made).shapes["all"] == (1, 2, 3)


def test_trips_that_values_decide_are_named() -> None:
    made = looping()
    made.graph.input.append(value("trips", (), INT64))
    with pytest.raises(LatteError, match="how often `loop` runs") as caught:
        network(made)
    assert caught.value.hint == "give it: --shape 'loop.trips=NUMBER'"
    found = read(
        made.SerializeToString(), name="m", sha256="", batch_size=None, allow_unknown=False, sizes={"loop.trips": 2}
    )
    assert found.shapes["all"] == (2, 2, 3)


# --- kinds that need more than one operator's look


def test_token_ids_become_an_embedding() -> None:
    made = model([helper.make_node("Gather", ["table", "x"], ["y"])], inputs={"x": ("N", 7)},
                 constants={"table": np.zeros((50, 8), np.float32)})  # fmt: skip
    made.graph.input[0].type.tensor_type.elem_type = INT64
    found = network(made, 2)
    assert found.layers[1] == Embedding(rows=14, entries=50, width=8)
    assert (found.shapes["y"], found.parameters) == ((2, 7, 8), 400)


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_in_both_layouts(kind: str, gates: int) -> None:
    weights = {name: np.zeros((2, gates * 5, size), np.float32) for name, size in (("w", 4), ("r", 5))}
    weights["b"] = np.zeros((2, gates * 10), np.float32)
    for batch_first, shape in ((0, (7, 3, 4)), (1, (3, 7, 4))):
        one = helper.make_node(kind, ["x", *weights], ["y", "h"], direction="bidirectional", hidden_size=5)
        if batch_first:
            one.attribute.append(helper.make_attribute("layout", 1))
        made = model([one], inputs={"x": shape}, constants=weights)
        made.graph.output.append(value("h"))
        found = network(made)
        layer = Recurrent(function=kind.lower(), steps=7, batch=3, inputs=4, hidden=5, directions=2)
        assert layer in found.layers
        assert found.shapes["y"] == ((3, 7, 2, 5) if batch_first else (7, 2, 3, 5))
        assert found.shapes["h"] == ((3, 2, 5) if batch_first else (2, 3, 5))


def test_attention_of_packed_heads_with_a_past() -> None:
    shapes = {"q": (2, 5, 32), "k": (2, 5, 16), "v": (2, 5, 16), "pk": (2, 2, 3, 8), "pv": (2, 2, 3, 8)}
    one = helper.make_node(
        "Attention", ["q", "k", "v", "", "pk", "pv"], ["y"], q_num_heads=4, kv_num_heads=2, is_causal=1
    )
    found = network(model([one], inputs=shapes, opset=23))
    layer = Attention(batch=2, heads=4, key_heads=2, queries=5, keys=8, width=8, value_width=8, causal=True)
    assert layer in found.layers
    assert found.shapes["y"] == (2, 5, 32)


@pytest.mark.parametrize(
    ("equation", "shapes", "product", "output"),
    [
        ("bhqd,bhkd->bhqk", ((2, 3, 5, 4), (2, 3, 6, 4)), MatMul(batch=6, m=5, k=4, n=6), (2, 3, 5, 6)),
        ("ij,jk->ki", ((2, 3), (3, 4)), MatMul(batch=1, m=2, k=3, n=4), (4, 2)),
    ],
)
def test_an_equation_of_two_activations_is_a_product(
    equation: str, shapes: tuple[Any, Any], product: MatMul, output: tuple[int, ...]
) -> None:
    one = helper.make_node("Einsum", ["a", "b"], ["y"], equation=equation)
    found = network(model([one], inputs=dict(zip("ab", shapes, strict=True))))
    assert product in found.layers
    assert found.shapes["y"] == output


# --- large files, and data elsewhere


def large() -> bytes:
    shape = (600, LARGE_BYTES // 1000)
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], inputs={"x": ("N", 600)},
                 constants={"w": np.ones(shape, np.float32)})  # fmt: skip
    content: bytes = made.SerializeToString()
    return content


def test_a_file_without_its_large_weights_says_all_but_their_values() -> None:
    content = large()
    left = stripped(content)
    assert len(left) < 1000 < LARGE_BYTES < len(content)
    whole, lean = ModelProto.FromString(content), ModelProto.FromString(left)
    assert lean.graph.initializer[0].dims == whole.graph.initializer[0].dims
    whole.graph.initializer[0].ClearField("raw_data")
    assert lean == whole
    assert network(left, 2) == network(content, 2)


def test_small_files_and_what_is_no_message_stay_as_they_are() -> None:
    small = zoo.export("lenet", weights=True)
    assert stripped(small) == small
    for noise in (b"\xff" * 2 * LARGE_BYTES, b"\x3a\xff\xff\xff\x0f" + bytes(2 * LARGE_BYTES), large()[:-5]):
        assert stripped(noise) == noise


def test_the_hash_of_a_small_file_is_the_file_s(tmp_path: Path) -> None:
    path = tmp_path / "lenet.onnx"
    path.write_bytes(zoo.export("lenet"))
    assert load(path).sha256 == digest(path.read_bytes())


def test_data_are_found_in_the_model_s_folder_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(b"0")
    for name in ("weights.bin", "sub/more.bin"):
        (folder / name).write_bytes(b"0")
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    model_path = folder / "m.onnx"
    assert external_file(model_path, "weights.bin") == (folder / "weights.bin").resolve()
    assert external_file(model_path, "sub/more.bin").name == "more.bin"
    outside = ("../outside.bin", "sub/../../outside.bin", "/etc/passwd", "link.bin", "..\\outside.bin", "file:///x")
    for location in outside:
        with pytest.raises(LatteError, match="outside of its folder"):
            external_file(model_path, location)
    for location in ("", "a\0b", "d/" * 1000):
        with pytest.raises(LatteError, match="names no file"):
            external_file(model_path, location)
    for location in ("none.bin", "sub"):
        with pytest.raises(LatteError, match="are not there"):
            external_file(model_path, location)
