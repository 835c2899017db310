"""The ONNX reader against ONNX's own models and shape inference, against torch, and on the forms exports take."""

import io
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latte_cli.errors import LatteError
from latte_cli.layers import (
    Activation,
    Convolution,
    Copy,
    Elementwise,
    Layer,
    Linear,
    MatMul,
    Norm,
    Pool,
    Shape,
    Stored,
    View,
)
from latte_cli.network import Network, load, zoo
from latte_cli.network.onnx import read

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))


def network(model: onnx.ModelProto | bytes, batch_size: int | None = None, *, allow_unknown: bool = False) -> Network:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    found = read(content, name="model", sha256="", batch_size=batch_size, allow_unknown=allow_unknown)
    if not found.unknown:
        assert_sound(found)
    return found


def assert_sound(found: Network) -> None:
    """Every layer reads what an input or an earlier layer wrote, in the shape it was written."""
    shapes: dict[str, Shape] = dict(found.inputs)
    for node in found.nodes:
        assert node.layer.input_shapes == tuple(shapes[name] for name in node.read), node
        assert all(name in shapes for name in node.inputs), node
        assert len(node.parameters) in (0, len(node.parameter_shapes)), node
        if node.weights_given:
            given = [shapes[name] for name in node.inputs[len(node.read) :]]
            pairs = zip(node.layer.parameter_shapes, given, strict=False)
            assert all(prod(wanted) == prod(shape) for wanted, shape in pairs), node
        assert node.output not in shapes
        shapes[node.output] = node.layer.output_shape
    assert len({node.name for node in found.nodes}) == len(found.nodes)
    assert all(output in shapes | dict(found.constants) for output in found.outputs)


def model(
    nodes: list[onnx.NodeProto],
    *,
    inputs: dict[str, tuple[int | str, ...]],
    constants: dict[str, Any] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model whose last node writes its one output."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", values, [output], initializer=stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def one(kind: str, *shapes: Shape, constants: dict[str, Any] | None = None, opset: int = 17, **values: Any) -> Network:
    """The network of one operator on inputs of `shapes`, with `constants` after them."""
    names = [f"x{index}" for index in range(len(shapes))]
    node = helper.make_node(kind, [*names, *(constants or {})], ["y"], **values)
    inputs: dict[str, tuple[int | str, ...]] = dict(zip(names, shapes, strict=True))
    return network(model([node], inputs=inputs, constants=constants, opset=opset))


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


# --- whole models


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
@pytest.mark.parametrize("batch_size", [None, 8])
def test_a_light_model_reads_whole_at_any_batch(path: Path, batch_size: int | None) -> None:
    found = load(path, batch_size=batch_size)
    assert_sound(found)
    assert found.unknown == ()
    assert found.batch_size == (batch_size or 1)
    assert found.shapes[found.outputs[0]][:2] == (found.batch_size, 1000)
    assert all(name in found.trained_activations for name in found.outputs)


def test_there_are_nine_light_models() -> None:
    assert len(LIGHT) == 9


PUBLISHED = {
    "light_bvlc_alexnet": 60_965_224,
    "light_densenet121": 7_978_856 + 4 * 64,  # and four scales and shifts behind norms that have their own
    "light_resnet50": 25_557_032,
    "light_squeezenet": 1_235_496,
    "light_vgg19": 143_667_240,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_light_model_has_the_parameters_that_were_published(name: str) -> None:
    path = next(path for path in LIGHT if path.stem == name)
    assert load(path).parameters == PUBLISHED[name]


def every_model() -> Iterator[Any]:
    for path in LIGHT:
        yield pytest.param(path.read_bytes(), id=path.stem)
    for name in zoo.ZOO:
        yield pytest.param(zoo.export(name, batch_size=1), id=name)


@pytest.mark.parametrize("content", list(every_model()))
def test_every_activation_has_the_shape_that_onnx_infers(content: bytes) -> None:
    inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content), strict_mode=True)
    values = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    shapes = network(content).shapes
    common = {name for name, shape in values.items() if name in shapes and 0 not in shape}
    assert len(common) > len(shapes) // 2
    assert {name: shapes[name] for name in common} == {name: values[name] for name in common}


def test_reading_loads_neither_torch_nor_pandas() -> None:
    script = (
        "import sys; from latte_cli.network import load; load(sys.argv[1]);"
        "sys.exit(str(sorted({'torch', 'pandas', 'sklearn', 'xgboost', 'onnxruntime'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(LIGHT[0])], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


# --- exports from torch


def exported(module: Any, *inputs: Any, **options: Any) -> bytes:
    """`module` as torch's exporter of ONNX graphs writes it for training."""
    import torch

    file = io.BytesIO()
    settings = {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False} | options
    with warnings.catch_warnings():  # this exporter is deprecated; the newer one needs a further package
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, file, dynamo=False, **settings)
    return file.getvalue()


def resnet_block() -> tuple[Any, Shape]:
    from torch import Tensor, nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
            self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
            self.short = nn.Conv2d(8, 16, 1, stride=2)
            self.relu, self.drop, self.fc = nn.ReLU(), nn.Dropout(0.3), nn.Linear(16 * 7 * 7, 10)

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.fc(self.drop(self.relu(y + self.short(x)).flatten(1)))  # type: ignore[no-any-return]

    return Block(), (2, 8, 14, 14)


def depthwise() -> tuple[Any, Shape]:
    from torch import nn

    layers = (
        nn.Conv2d(6, 12, 3, groups=6, padding=1, dilation=2),
        nn.ReLU6(),
        nn.Hardswish(),
        nn.LeakyReLU(0.2),
        nn.Conv2d(12, 12, (1, 5), groups=3),
        nn.PReLU(),
        nn.AvgPool2d(3, stride=2, ceil_mode=True, count_include_pad=False),
        nn.MaxPool2d(2, padding=1),
    )
    return nn.Sequential(*layers), (2, 6, 17, 16)


def transposed() -> tuple[Any, Shape]:
    from torch import nn

    layers = (
        nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.InstanceNorm2d(6, affine=True),
        nn.Upsample(scale_factor=2),
        nn.ConvTranspose2d(6, 3, 2, dilation=2, bias=False),
    )
    return nn.Sequential(*layers), (2, 8, 5, 6)


def one_dimensional() -> tuple[Any, Shape]:
    from torch import nn

    layers = (nn.Conv1d(4, 8, 5, stride=2), nn.BatchNorm1d(8), nn.GELU(), nn.MaxPool1d(3), nn.AdaptiveAvgPool1d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3, bias=False), nn.LogSoftmax(-1)), (2, 4, 40)


def three_dimensional() -> tuple[Any, Shape]:
    from torch import nn

    layers = (nn.Conv3d(2, 4, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(4), nn.ELU(), nn.AvgPool3d(2))
    return nn.Sequential(*layers), (2, 2, 4, 8, 8)


def transformer_block() -> tuple[Any, Shape]:
    from torch import Tensor, nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
            self.mlp = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

        def forward(self, x: Tensor) -> Tensor:
            batch, length, width = x.shape
            q, k, v = self.qkv(self.norm(x)).reshape(batch, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
            weights = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1)
            x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
            return x + self.mlp(x)  # type: ignore[no-any-return]

    return Attention(), (2, 5, 32)


TORCH: dict[str, Callable[[], tuple[Any, Shape]]] = {
    "resnet_block": resnet_block,
    "depthwise": depthwise,
    "transposed": transposed,
    "one_dimensional": one_dimensional,
    "three_dimensional": three_dimensional,
    "transformer_block": transformer_block,
}


def torch_outputs(module: Any, x: Any) -> Counter[tuple[str, Shape]]:
    """The kind and output shape of each convolution, linear layer and norm that runs."""
    found: Counter[tuple[str, Shape]] = Counter()

    def note(part: Any, _: Any, output: Any) -> None:
        name = type(part).__name__
        kinds = {"Conv": "convolution", "Linear": "linear", "Norm": "norm", "Pool": "pool"}
        kind = next((kind for text, kind in kinds.items() if text in name), None)
        if kind is not None:
            shape = tuple(output.shape)
            found[kind, (prod(shape[:-1]), shape[-1]) if kind == "linear" else shape] += 1

    for part in module.modules():
        part.register_forward_hook(note)
    module(x)
    return found


@pytest.mark.parametrize("name", TORCH)
def test_an_export_has_the_layers_and_parameters_of_its_torch_module(name: str) -> None:
    import torch

    module, shape = TORCH[name]()
    x = torch.zeros(shape)
    found = network(exported(module, x))
    kinds: tuple[type[Layer], ...] = (Convolution, Linear, Norm, Pool)
    layers = Counter((layer.kind, layer.output_shape) for layer in found.layers if isinstance(layer, kinds))
    assert layers == torch_outputs(module, x)
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert found.shapes[found.outputs[0]] == tuple(module(x).shape)


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize(
    "options", [{}, {"do_constant_folding": True}, {"input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}}]
)
def test_an_export_reads_at_another_batch(name: str, options: dict[str, Any]) -> None:
    import torch

    module, shape = TORCH[name]()
    found = network(exported(module, torch.zeros(shape), **options), 7)
    assert found.shapes[found.outputs[0]] == tuple(module(torch.zeros(7, *shape[1:])).shape)


def test_weights_that_are_graph_inputs_are_parameters() -> None:
    import torch

    for make in (resnet_block, transformer_block):
        module, shape = make()
        bare = network(exported(module, torch.zeros(shape), export_params=False), 3)
        assert len(bare.inputs) == 1
        assert bare.batch_size == 3
        assert bare.parameters == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["onnx::Unsqueeze_0", "onnx::MatMul_1", "x"])
def test_an_input_on_the_right_of_a_product_is_no_parameter_whatever_it_is_called(name: str) -> None:
    column = [helper.make_node("Unsqueeze", [name, "last"], ["c"]), helper.make_node("MatMul", ["w", "c"], ["y"])]
    graph = helper.make_graph(
        column,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.ones((6, 8), np.float32), "w"),
            numpy_helper.from_array(np.array([-1]), "last"),
        ],
    )
    found = network(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString(), 3)
    assert found.inputs == ((name, (3, 8)),)
    assert found.parameters == 48


# --- single operators


def test_auto_pad_puts_the_odd_pixel_where_it_says() -> None:
    def pads(rule: str) -> tuple[Shape, Shape, Shape]:
        layer = one("Conv", (1, 1, 6, 7), constants={"w": zeros(1, 1, 3, 4)}, strides=[2, 2], auto_pad=rule).layers[0]
        assert isinstance(layer, Convolution)
        return layer.output, layer.pad_before, layer.pad_after

    assert pads("SAME_UPPER") == ((3, 4), (0, 1), (1, 2))
    assert pads("SAME_LOWER") == ((3, 4), (1, 2), (0, 1))
    assert pads("VALID") == ((2, 2), (0, 0), (0, 0))


def test_pads_may_differ_between_the_sides() -> None:
    layer = one("Conv", (1, 1, 5, 5), constants={"w": zeros(1, 1, 3, 3)}, pads=[0, 1, 2, 3]).layers[0]
    assert isinstance(layer, Convolution)
    assert (layer.pad_before, layer.pad_after, layer.output) == ((0, 1), (2, 3), (5, 7))


def test_a_matrix_product_and_its_bias_are_one_linear_layer() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["b", "h"], ["y"]),
    ]
    found = network(model(nodes, inputs={"x": ("N", 5, 8)}, constants={"w": zeros(8, 4), "b": zeros(4)}), 3)
    assert [node.layer for node in found.nodes] == [
        View(shape=(3, 5, 8), output=(15, 8)),
        Linear(rows=15, in_features=8, out_features=4),
        View(shape=(15, 4), output=(3, 5, 4)),
    ]
    assert found.nodes[1].parameters == ("w", "b")
    assert found.outputs == ("y",)


def test_a_sum_that_is_read_twice_keeps_its_addition() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["g"]),
        helper.make_node("Mul", ["h", "g"], ["y"]),
    ]
    found = network(model(nodes, inputs={"x": (3, 8)}, constants={"w": zeros(8, 4), "b": zeros(4)}))
    assert [layer.kind for layer in found.layers] == ["linear", "stored", "elementwise", "elementwise"]
    assert not found.layers[0].parameter_shapes[1:]
    assert found.parameters == 8 * 4 + 4


def test_a_product_of_two_activations_broadcasts_its_batches() -> None:
    found = one("MatMul", (2, 1, 5, 8), (3, 8, 4))
    assert MatMul(batch=6, m=5, k=8, n=4) in found.layers
    assert found.shapes["y"] == (2, 3, 5, 4)


def test_a_gemm_adds_what_is_no_bias() -> None:
    found = one("Gemm", (3, 8), constants={"w": zeros(4, 8), "c": zeros(3, 1)}, transB=1)
    assert [layer.kind for layer in found.layers] == ["stored", "linear", "elementwise"]
    assert found.parameters == 32 + 3


def test_a_constant_beside_one_activation_makes_an_activation() -> None:
    found = one("Mul", (2, 3), constants={"c": np.float32(0.1)})
    assert found.layers == (Activation(function="multiply_constant", shape=(2, 3)),)
    assert found.nodes[0].attributes == (("value", 0.1),)
    wide = one("Add", (2, 1), constants={"c": np.ones((2, 3), np.int64)})
    assert [type(layer) for layer in wide.layers] == [Copy, Activation]


def test_real_numbers_beside_an_activation_are_trained() -> None:
    found = one("Mul", (2, 3), constants={"scale": zeros(3)})
    assert found.layers == (Stored(shape=(3,)), Elementwise(operation="multiply", shapes=((2, 3), (3,))))
    assert (found.parameters, found.trained_sizes) == (3, {"scale": 3})


def test_a_mask_is_not_trained() -> None:
    found = one("Add", (2, 3), constants={"mask": np.array([0, 0, -np.inf], np.float32)})
    assert [layer.kind for layer in found.layers] == ["activation"]


def test_clips_are_named_by_their_bounds() -> None:
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    assert one("Clip", (2, 3), constants=bounds).layers == (Activation(function="relu6", shape=(2, 3)),)
    other = one("Clip", (2, 3), constants=bounds | {"high": np.float32(0.2)})
    assert other.nodes[0].attributes == (("min", 0.0), ("max", 0.2))


def test_attributes_are_the_decimals_that_were_meant() -> None:
    assert one("LeakyRelu", (2, 3), alpha=0.1).nodes[0].attributes == (("alpha", 0.1),)
    assert one("Dropout", (2, 3), constants={"ratio": np.float32(0.3)}).nodes[0].attributes == (("ratio", 0.3),)
    assert one("Dropout", (2, 3), opset=9, ratio=0.3).nodes[0].attributes == (("ratio", 0.3),)


def test_a_permutation_that_moves_no_data_is_a_view() -> None:
    assert isinstance(one("Transpose", (2, 1, 3), perm=[1, 0, 2]).layers[0], View)
    assert isinstance(one("Transpose", (2, 4, 3), perm=[1, 0, 2]).layers[0], Copy)


def test_a_concatenated_constant_is_written_beside_the_activations() -> None:
    token = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    found = one("Concat", (2, 3, 4), (2, 1, 4), constants={"token": token}, axis=1)
    assert found.shapes["y"] == (2, 5, 4)
    assert [layer.kind for layer in found.layers] == ["stored", "concat"]
    assert found.parameters == 2 * 1 * 4


def test_dead_operators_are_left_out() -> None:
    nodes = [
        helper.make_node("NotAnOperator", ["x"], ["dead"]),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    assert len(network(model(nodes, inputs={"x": (2, 3)})).nodes) == 1


def test_an_unsorted_graph_is_sorted() -> None:
    nodes = [
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Sigmoid", ["x"], ["a"]),
    ]
    unsorted = model(nodes, inputs={"x": (2, 3)})
    unsorted.graph.output[0].name = "c"
    assert [node.output for node in network(unsorted).nodes] == ["a", "b", "c"]


def test_nodes_of_one_name_are_told_apart() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="act"), helper.make_node("Relu", ["a"], ["b"], name="act")]
    assert [node.name for node in network(model(nodes, inputs={"x": (2, 3)})).nodes] == ["act", "act#2"]


def test_a_shared_weight_counts_once() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Identity", ["w"], ["same"]),
        helper.make_node("MatMul", ["h", "same"], ["y"]),
    ]
    found = network(model(nodes, inputs={"x": (3, 8)}, constants={"w": zeros(8, 8)}))
    assert [node.parameters for node in found.nodes] == [("w",), ("w",)]
    assert found.parameters == 64


# --- shapes that are computed in the graph


def test_shape_arithmetic_is_folded() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "zero_axis"], ["n1"]),
        helper.make_node("Slice", ["shape", "one", "three"], ["rest"]),
        helper.make_node("ReduceProd", ["rest"], ["size"], keepdims=0),
        helper.make_node("Div", ["size", "two"], ["half"]),
        helper.make_node("Unsqueeze", ["half", "zero_axis"], ["half1"]),
        helper.make_node("Concat", ["n1", "half1", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    numbers = {"zero": 0, "zero_axis": [0], "one": [1], "three": [3], "two": 2, "minus": [-1]}
    constants = {name: np.asarray(value, np.int64) for name, value in numbers.items()}
    found = network(model(nodes, inputs={"x": ("N", 6, 4)}, constants=constants), 5)
    assert found.layers == (View(shape=(5, 6, 4), output=(5, 12, 2)),)


@pytest.mark.parametrize(
    ("shape", "target", "wanted"),
    [
        ((2, 3, 4), (2, 12), (5, 12)),
        ((2, 3, 4), (2, -1), (5, 12)),
        ((2, 3, 4), (6, 4), (15, 4)),
        ((2, 3, 4), (0, 4, 3), (5, 4, 3)),
        ((1, 3, 4), (1, -1), (5, 12)),
        ((1, 3, 4), (3, 4), (15, 4)),
        ((2, 3, 4), (-1, 2), (30, 2)),
    ],
)
def test_a_reshape_to_the_batch_of_the_file_follows_the_batch_wanted(
    shape: Shape, target: Shape, wanted: Shape
) -> None:
    node = helper.make_node("Reshape", ["x", "target"], ["y"])
    made = model([node], inputs={"x": shape}, constants={"target": np.asarray(target, np.int64)})
    assert network(made, 5).shapes["y"] == wanted


def test_a_token_that_is_expanded_to_the_batch_of_the_file_follows_the_batch_wanted() -> None:
    nodes = [
        helper.make_node("Expand", ["token", "target"], ["tokens"]),
        helper.make_node("Concat", ["tokens", "x"], ["y"], axis=1),
    ]
    constants = {"token": zeros(1, 1, 4), "target": np.asarray((2, 1, 4), np.int64)}
    assert network(model(nodes, inputs={"x": (2, 6, 4)}, constants=constants), 5).shapes["y"] == (5, 7, 4)


def test_every_input_takes_the_batch() -> None:
    add = helper.make_node("Add", ["a", "b"], ["y"])
    found = network(model([add], inputs={"a": ("N", 3), "b": ("N", 1)}), 4)
    assert found.inputs == (("a", (4, 3)), ("b", (4, 1)))
    assert found.layers == (Elementwise(operation="add", shapes=((4, 3), (4, 1))),)


def test_an_open_batch_is_one_unless_another_is_wanted() -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    assert network(model([relu], inputs={"x": ("N", 3)})).batch_size == 1


# --- where weights are


def test_external_weights_are_never_opened() -> None:
    made = onnx.load_model_from_string(zoo.export("lenet", weights=True))
    for tensor in made.graph.initializer:
        if len(tensor.dims) > 1:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="/no/such/file")
    assert network(made).parameters == 61_706


def test_weights_may_be_sparse_or_constant_nodes() -> None:
    conv = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    constant = helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(zeros(4)))
    made = model([constant, conv], inputs={"x": (1, 2, 5, 5)})
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "w_indices")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 2, 3, 3]))
    (node,) = network(made).nodes
    assert node.parameters == ("w", "b")
    assert node.layer.parameter_shapes == ((4, 2, 3, 3), (4,))


# --- what is not known


def unknown_in_the_middle(kind: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node(kind, ["a"], ["b"], name="odd"),
        helper.make_node("Sigmoid", ["b"], ["y"], name="last"),
    ]
    return model(nodes, inputs={"x": ("N", 3, 4, 4)})


def test_an_unknown_operator_is_named_with_a_way_on() -> None:
    with pytest.raises(LatteError, match="operator `Foo` of node `odd` is not known") as caught:
        network(unknown_in_the_middle("Foo"))
    assert "--allow-unknown" in str(caught.value.hint)


def test_an_unknown_operator_takes_the_shape_that_the_file_says() -> None:
    made = unknown_in_the_middle("Foo")
    made.graph.value_info.append(helper.make_tensor_value_info(made.graph.node[1].output[0], TensorProto.FLOAT, (1, 3)))
    found = network(made, allow_unknown=True)
    assert found.unknown == ("Foo (odd)",)
    assert found.layers[-1] == Activation(function="sigmoid", shape=(1, 3))


def test_what_follows_an_unknown_shape_is_named_too() -> None:
    found = network(unknown_in_the_middle("Foo"), allow_unknown=True)
    assert found.unknown == ("Foo (odd)", "Sigmoid (last)")
    assert found.shapes[found.outputs[0]] == (1, 3, 4, 4)


def test_an_operator_of_another_domain_is_named_with_it() -> None:
    made = unknown_in_the_middle("Relu")
    made.graph.node[1].domain = "com.example"
    assert network(made, allow_unknown=True).unknown[0] == "com.example.Relu (odd)"


def test_a_kernel_that_is_computed_is_read_beside_the_image() -> None:
    nodes = [helper.make_node("Relu", ["w"], ["made"]), helper.make_node("Conv", ["x", "made"], ["y"], name="odd")]
    found = network(model(nodes, inputs={"x": (1, 2, 5, 5), "w": (4, 2, 3, 3)}))
    assert found.nodes[-1].layer.kind == "convolution"
    assert (found.nodes[-1].inputs, found.nodes[-1].weights_given, found.parameters) == (("x", "made"), True, 0)
