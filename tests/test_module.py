"""Layers and networks as torch modules, against shapes, hand-written models and numeric oracles."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from latte_cli.errors import LatteError
from latte_cli.layers import (
    Activation,
    Attention,
    Concat,
    Convolution,
    Copy,
    Dropout,
    Elementwise,
    Embedding,
    Layer,
    Linear,
    MatMul,
    Norm,
    Optimizer,
    Pool,
    Recurrent,
    Reduce,
    Shape,
    Softmax,
    SoftmaxCrossEntropy,
    View,
)
from latte_cli.network import Network, Node, load
from latte_cli.network.module import (
    NetworkModule,
    layer_module,
    optimizer,
    random_inputs,
    random_targets,
    training_step,
)
from latte_cli.network.onnx import read
from latte_cli.network.weights import Weights
from latte_cli.network.zoo import ZOO, export

LIGHT_MODELS = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
IMAGE = (2, 4, 6, 6)


def layers_that_run() -> list[Layer]:
    uneven = Convolution(
        batch=2,
        in_channels=4,
        out_channels=8,
        groups=2,
        input=(9, 8),
        kernel=(3, 3),
        stride=(2, 2),
        pad_before=(0, 2),
        pad_after=(1, 1),
        bias=True,
    )
    shapes = ((2, 4, 5), (2, 4, 5, 5), (2, 4, 5, 5, 5))
    norms = [("batch", 1), ("layer", 1), ("layer", 2), ("group", 2), ("instance", 1), ("rms", 1), ("lrn", 3)]
    activations = ("relu", "clip", "leaky_relu", "prelu", "hard_swish", "gelu", "tanh", "softplus", "thresholded_relu")
    constants = ("add", "power", "maximum", "mean", "where")
    reductions = ("mean", "sum", "max", "prod", "l1", "l2", "log_sum_exp", "sum_square")
    return [
        uneven,
        replace(uneven, transposed=True, output_padding=(1, 0)),
        Convolution(batch=2, in_channels=3, out_channels=4, input=(9,), kernel=(3,)),
        Convolution(batch=2, in_channels=3, out_channels=4, input=(5, 5, 5), kernel=(3, 3, 2)),
        Linear(rows=3, in_features=4, out_features=5),
        Linear(rows=3, in_features=4, out_features=5, bias=False),
        MatMul(batch=2, m=3, k=4, n=5),
        *[Norm(shape=shape, function=name, span=span) for shape in shapes for name, span in norms],
        *[Norm(shape=shapes[1], function=name, span=span, affine=False) for name, span in norms],
        Norm(shape=(4, 3), function="batch"),
        *[Activation(shape=(2, 3), function=name) for name in activations],
        *[Activation(shape=(2, 3), function=f"{name}_constant") for name in constants],
        Dropout(shape=(2, 3)),
        Softmax(shape=(2, 3)),
        Softmax(shape=(2, 3), axis=0, log=True),
        SoftmaxCrossEntropy(rows=3, classes=4),
        Pool(function="average", batch=2, channels=3, input=(5, 6), kernel=(5, 6)),
        Pool(function="max", batch=2, channels=3, input=(5,), kernel=(5,)),
        Pool(function="lp", batch=2, channels=3, input=(5, 6), kernel=(5, 6)),
        Pool(function="lp", batch=2, channels=3, input=(5, 6), kernel=(2, 3), pad_after=(1, 0), ceil=True),
        *[Elementwise(operation=name, shapes=((2, 3), (3,))) for name in ("add", "multiply", "maximum", "where")],
        Elementwise(operation="add", shapes=((2, 3), (1, 3), (3,))),
        Elementwise(operation="mean", shapes=((2, 3), (2, 1))),
        Concat(shapes=((2, 3), (2, 4))),
        Concat(shapes=((2, 3), (1, 3), (4, 3)), axis=0),
        *[Reduce(shape=(2, 3, 4), operation=name, axes=(1, -1), keep=name == "sum") for name in reductions],
        Reduce(shape=(2, 3), operation="mean", axes=()),
        Copy(operation="transpose", shape=(2, 3, 4), output=(4, 2, 3), order=(2, 0, 1)),
        Copy(operation="pad", shape=(2, 3), output=(2, 5)),
        Copy(operation="slice", shape=(2, 3), output=(2, 1)),
        Copy(operation="gather", shape=(2, 3), output=(2, 4)),
        Copy(operation="tile", shape=(2, 3), output=(2, 6)),
        Copy(operation="cast", shape=(2, 3), output=(2, 3)),
        Copy(operation="depth_to_space", shape=(1, 8, 3, 3), output=(1, 2, 6, 6)),
        Copy(operation="space_to_depth", shape=(1, 2, 6, 6), output=(1, 8, 3, 3)),
        Copy(operation="expand", shape=(1, 3), output=(4, 2, 3)),
        Copy(operation="resize", shape=(1, 3, 4, 4), output=(1, 3, 8, 9)),
        Copy(operation="trilu", shape=(4, 4), output=(4, 4)),
        Copy(operation="concat_constants", shape=(2, 3), output=(2, 5)),
        View(shape=(2, 3), output=(6, 1)),
        *[
            Recurrent(function=name, steps=3, batch=2, inputs=4, hidden=5, directions=2)
            for name in ("lstm", "gru", "rnn")
        ],
        Recurrent(function="lstm", steps=3, batch=2, inputs=4, hidden=5, bias=False),
        Attention(batch=2, heads=4, key_heads=4, queries=3, keys=5, width=8, value_width=8),
        Attention(batch=2, heads=4, key_heads=2, queries=3, keys=3, width=8, value_width=8, causal=True),
        Attention(batch=2, heads=4, key_heads=4, queries=3, keys=5, width=8, value_width=6, mask=(3, 5)),
    ]


def test_an_embedding_looks_its_rows_up_and_trains_its_table() -> None:
    module = layer_module(Embedding(rows=3, entries=5, width=4))
    (table,) = module.parameters()
    result = module(torch.tensor([4, 0, 4]))
    assert torch.equal(result, table[[4, 0, 4]])
    result.sum().backward()
    assert table.grad is not None
    assert table.grad[4, 0] == 2


def test_a_recurrent_layer_writes_its_states_as_onnx_does() -> None:
    module = layer_module(Recurrent(function="lstm", steps=3, batch=2, inputs=4, hidden=5, directions=2))
    x = torch.randn(3, 2, 4)
    states, _ = next(module.children())(x)
    assert torch.equal(module(x)[:, 1], states[..., 5:])


@pytest.mark.parametrize("layer", layers_that_run(), ids=lambda layer: layer.kind)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_layer_runs_from_its_input_shapes_to_its_output_shape_and_back(layer: Layer, device: str) -> None:
    with torch.device(device):
        module = layer_module(layer)
        inputs = [torch.rand(shape, requires_grad=True) for shape in layer.input_shapes]
    result = module(*inputs)
    assert result.shape == layer.output_shape
    if isinstance(layer, Recurrent):  # whose weights torch holds direction by direction
        assert sum(own.numel() for own in module.parameters()) == layer.parameters
    else:
        assert tuple(tuple(own.shape) for own in module.parameters()) == layer.parameter_shapes
    result.sum().backward()
    assert all(given.grad is not None for given in (*inputs, *module.parameters()))


@pytest.mark.parametrize(
    ("layer", "hint"),
    [
        (Activation(shape=(2,), function="rellu"), "did you mean `relu`?"),
        (Norm(shape=(2, 3), function="bach"), "did you mean `batch`?"),
        (Pool(function="median", batch=1, channels=1, input=(3,), kernel=(3,)), "one of: average, lp, max"),
        (Elementwise(operation="adds", shapes=((2,), (2,))), "did you mean `add`?"),
        (Reduce(shape=(2,), operation="men", axes=(0,)), "did you mean `mean`?"),
        (Copy(operation="slic", shape=(2,), output=(1,)), "did you mean `slice`?"),
    ],
)
def test_an_unknown_function_is_an_error_that_says_what_is_known(layer: Layer, hint: str) -> None:
    with pytest.raises(LatteError) as caught:
        layer_module(layer)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "layer",
    [
        Optimizer(function="sgd", tensors=1, elements=3),
        Norm(shape=(2, 3, 1, 1, 1, 1), function="batch"),
        Pool(function="average", batch=1, channels=1, input=(5,), kernel=(2,), dilation=(2,)),
    ],
    ids=lambda layer: layer.kind,
)
def test_a_layer_that_torch_cannot_run_is_an_error(layer: Layer) -> None:
    with pytest.raises(LatteError):
        layer_module(layer)


def test_a_nodes_attributes_reach_the_module() -> None:
    norm = layer_module(Norm(shape=IMAGE, function="batch"), {"epsilon": 0.25, "momentum": 0.75})
    assert (norm.eps, norm.momentum) == (0.25, 0.25)
    clip = layer_module(Activation(shape=(3,), function="clip"), {"min": 0.0, "max": 6.0})
    assert clip(torch.tensor([-1.0, 3.0, 9.0])).tolist() == [0.0, 3.0, 6.0]
    assert layer_module(Dropout(shape=(3,)), {"ratio": 0.25}).p == 0.25


@st.composite
def pools_in_one_dimension(draw: st.DrawFn) -> Pool:
    function = draw(st.sampled_from(["max", "average"]))
    dilation = draw(st.integers(1, 2)) if function == "max" else 1
    pool = {
        "batch": 1,
        "channels": 1,
        "input": (draw(st.integers(4, 9)),),
        "kernel": (draw(st.integers(1, 4)),),
        "stride": (draw(st.integers(1, 3)),),
        "dilation": (dilation,),
        "pad_before": (draw(st.integers(0, 3)),),
        "pad_after": (draw(st.integers(0, 3)),),
    }
    try:
        return Pool(function=function, ceil=draw(st.booleans()), count_padding=draw(st.booleans()), **pool)
    except LatteError:
        reject()


@settings(deadline=None)
@given(pools_in_one_dimension())
def test_pools_agree_with_the_definition_for_any_padding(layer: Pool) -> None:
    x = torch.arange(1.0, layer.input[0] + 1) % 5 + 1
    result = layer_module(layer)(x[None, None])[0, 0]
    torch.testing.assert_close(result, torch.tensor(pooled(layer, x.tolist())))


def pooled(layer: Pool, x: list[float]) -> list[float]:
    (size,), (before,), (after,) = layer.input, layer.pad_before, layer.pad_after
    (kernel,), (stride,), (dilation,) = layer.kernel, layer.stride, layer.dilation
    results = []
    for index in range(layer.output[0]):
        window = [index * stride - before + dilation * tap for tap in range(kernel)]
        read = [x[at] for at in window if 0 <= at < size]
        counted = len([at for at in window if at < size + after]) if layer.count_padding else len(read)
        if layer.function == "max":
            results.append(max(read, default=float("-inf")))
        else:
            results.append(sum(read) / max(1, counted))
    return results


def test_uneven_padding_of_a_convolution_is_zeros_and_of_a_transposed_one_crops() -> None:
    sizes = {"batch": 1, "in_channels": 2, "out_channels": 2, "input": (5, 6), "kernel": (3, 3), "stride": (2, 1)}
    x = torch.rand(1, 2, 5, 6)
    plain = Convolution(**sizes, pad_before=(0, 2), pad_after=(1, 1))
    module = layer_module(plain)
    (weight,) = module.parameters()
    torch.testing.assert_close(module(x), F.conv2d(F.pad(x, (2, 1, 0, 1)), weight, stride=(2, 1)))
    module = layer_module(replace(plain, transposed=True))
    (weight,) = module.parameters()
    torch.testing.assert_close(module(x), F.conv_transpose2d(x, weight, stride=(2, 1))[:, :, 0:-1, 2:-1])


class HandWritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.body(self.body(x)) + x
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def residual_network() -> Network:
    """The layers of HandWritten: a residual connection, and one weight that two convolutions share."""
    stem = Convolution(
        batch=2, in_channels=3, out_channels=4, input=(6, 6), kernel=(3, 3), pad_before=(1, 1), pad_after=(1, 1)
    )
    body = replace(stem, in_channels=4)
    pool = Pool(function="average", batch=2, channels=4, input=(6, 6), kernel=(6, 6))
    nodes = (
        Node(name="stem", layer=stem, inputs=("x",), output="a", parameters=("stem.weight",)),
        Node(
            name="norm",
            layer=Norm(shape=IMAGE, function="batch"),
            inputs=("a",),
            output="b",
            parameters=("norm.weight", "norm.bias"),
            constants=((3, "norm.running_mean"), (4, "norm.running_var")),
        ),
        Node(name="relu", layer=Activation(shape=IMAGE, function="relu"), inputs=("b",), output="c"),
        Node(name="body1", layer=body, inputs=("c",), output="d", parameters=("body.weight",)),
        Node(name="body2", layer=body, inputs=("d",), output="e", parameters=("body.weight",)),
        Node(name="sum", layer=Elementwise(operation="add", shapes=(IMAGE, IMAGE)), inputs=("e", "c"), output="f"),
        Node(name="pool", layer=pool, inputs=("f",), output="g"),
        Node(name="flatten", layer=View(shape=(2, 4, 1, 1), output=(2, 4)), inputs=("g",), output="h"),
        Node(
            name="head",
            layer=Linear(rows=2, in_features=4, out_features=5),
            inputs=("h",),
            output="y",
            parameters=("head.weight", "head.bias"),
        ),
    )
    return Network(name="residual", inputs=(("x", (2, 3, 6, 6)),), nodes=nodes, outputs=("y",))


def loaded() -> tuple[NetworkModule, HandWritten]:
    model = HandWritten()
    model.norm.running_mean.uniform_()
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return NetworkModule(residual_network(), weights=arrays), model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_network_with_a_files_weights_computes_what_the_hand_written_model_does(
    training: bool, memory_format: torch.memory_format
) -> None:
    module, model = loaded()
    (x,) = random_inputs(module.network, seed=1)
    module.to(memory_format=memory_format).train(training)
    torch.testing.assert_close(module(x.to(memory_format=memory_format)), model.train(training)(x))


def test_a_network_has_the_parameters_of_the_hand_written_model_with_shared_ones_once() -> None:
    module, model = loaded()
    count = sum(own.numel() for own in module.parameters())
    assert count == sum(own.numel() for own in model.parameters()) == module.network.parameters


def test_gradients_are_those_of_the_hand_written_model() -> None:
    module, model = loaded()
    (x,), targets = random_inputs(module.network), random_targets(module.network)
    training_step(module, (x,), targets, None)
    training_step(model, (x,), targets, None)
    for own, other in zip(module.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_parameters_that_the_file_does_not_hold_are_drawn() -> None:
    drawn, half = (NetworkModule(residual_network(), weights=given) for given in ({}, {"head.bias": np.ones(5)}))
    own, other = dict(drawn.named_parameters()), dict(half.named_parameters())
    different = [name for name, parameter in own.items() if not torch.equal(parameter, other[name])]
    assert [tuple(own[name].shape) for name in different] == [(5,)]


def test_a_parameter_of_another_size_is_an_error() -> None:
    with pytest.raises(LatteError, match=r"has the shape \(6,\) where"):
        NetworkModule(residual_network(), weights={"head.bias": np.ones(6)})


def test_activations_are_dropped_after_their_last_use() -> None:
    module = NetworkModule(residual_network())
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))
        made.append(weakref.ref(result))

    for layer in module.layers:
        layer.register_forward_hook(watch)
    with torch.no_grad():
        module(*random_inputs(module.network))
    # of stem, norm, body, body and head: the norm reads the stem's; the second body reads the first's; the head none
    assert alive == [0, 1, 0, 1, 0]


def test_the_seed_decides_weights_inputs_and_targets_and_leaves_torchs_own_alone() -> None:
    network = residual_network()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second, other = (NetworkModule(network, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)
    assert torch.equal(*(random_inputs(network, seed=seed)[0] for seed in (5, 5)))
    assert torch.equal(*(random_targets(network, seed=seed) for seed in (5, 5)))


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_training_lowers_the_loss(name: str) -> None:
    module = NetworkModule(residual_network())
    inputs, targets = random_inputs(module.network), random_targets(module.network)
    update = optimizer(name, module.parameters())
    losses = [float(training_step(module, inputs, targets, update)) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_without_an_optimizer_the_weights_stay() -> None:
    module = NetworkModule(residual_network())
    before = module.layers[0].weight.clone()
    training_step(module, random_inputs(module.network), random_targets(module.network), optimizer("none", []))
    assert torch.equal(module.layers[0].weight, before)
    assert module.layers[0].weight.grad is not None


def test_an_unknown_optimizer_is_an_error() -> None:
    with pytest.raises(LatteError, match="unknown optimizer `adan`"):
        optimizer("adan", [])


def test_linear_and_matmul_take_activations_with_more_dimensions() -> None:
    linear = Linear(rows=6, in_features=4, out_features=5)
    nodes = (
        Node(name="linear", layer=linear, inputs=("x",), output="a"),
        Node(name="product", layer=MatMul(batch=2, m=3, k=5, n=7), inputs=("a", "z"), output="y"),
    )
    inputs = (("x", (2, 3, 4)), ("z", (2, 5, 7)))
    network = Network(name="pair", inputs=inputs, nodes=nodes, outputs=("y", "a"))
    product, hidden = NetworkModule(network)(*random_inputs(network))
    assert (product.shape, hidden.shape) == ((2, 3, 7), (2, 3, 5))


def test_a_network_is_checked_without_memory_on_the_meta_device() -> None:
    network = residual_network()
    with torch.device("meta"):
        module = NetworkModule(network)
    assert module(*(x.to("meta") for x in random_inputs(network))).shape == network.shapes["y"]


@pytest.mark.parametrize(
    "function", ["floor", "sign", "not", "isnan", "equal_constant", "less_constant", "and_constant"]
)
def test_a_layer_without_gradient_still_runs_forward(function: str) -> None:
    layer = Activation(shape=(2, 3), function=function)
    assert layer_module(layer)(torch.rand(2, 3)).shape == layer.output_shape
    comparison = Elementwise(operation="greater", shapes=((2, 3), (2, 1)))
    assert layer_module(comparison)(torch.rand(2, 3), torch.rand(2, 1)).shape == (2, 3)


def test_where_takes_its_second_input_at_positive_conditions_and_its_third_elsewhere() -> None:
    layer = Elementwise(operation="where", shapes=((2,), (2,), (1,)))
    result = layer_module(layer)(torch.tensor([1.0, 0.0]), torch.tensor([5.0, 6.0]), torch.tensor([7.0]))
    assert result.tolist() == [5.0, 7.0]


def test_an_operation_with_a_constant_takes_it_on_its_side() -> None:
    layer = Activation(shape=(2,), function="subtract_constant")
    x = torch.tensor([1.0, 2.0])
    assert layer_module(layer, {"value": 3.0})(x).tolist() == [-2.0, -1.0]
    assert layer_module(layer, {"value": 3.0, "reversed": 1.0})(x).tolist() == [2.0, 1.0]


def test_a_choice_with_two_constants_has_the_file_s_condition_and_value() -> None:
    hidden, low = torch.tensor([True, False]), torch.tensor([-5.0])
    layer, node = Activation(shape=(2,), function="where_constant"), {"reversed": 1.0}
    x = torch.tensor([1.0, 2.0])
    assert layer_module(layer, node, {0: hidden, 1: low})(x).tolist() == [-5.0, 2.0]
    with pytest.raises(LatteError, match="constants that the file does not hold"):
        layer_module(layer, node, {1: low})


def zoo_network(name: str, *, image_size: int | None = None, batch_size: int = 2) -> tuple[Network, bytes]:
    content = export(name, weights=image_size is not None, image_size=image_size)
    return read(content, name=name, sha256="", batch_size=batch_size, allow_unknown=False), content


PARAMETERS = {  # as torchvision counts them
    "alexnet": 61_100_840,
    "mobilenet_v2": 3_504_872,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "vgg11": 132_863_336,
    "vgg16": 138_357_544,
}


def on_meta(network: Network) -> tuple[NetworkModule, tuple[Shape, ...]]:
    with torch.device("meta"):
        module = NetworkModule(network)
        results = module(*(torch.empty(shape) for _, shape in network.inputs))
    results = results if isinstance(results, tuple) else (results,)
    return module, tuple(tuple(result.shape) for result in results)


@pytest.mark.parametrize("name", ZOO)
def test_each_network_of_the_zoo_becomes_a_module_of_its_shapes_and_size(name: str) -> None:
    network, _ = zoo_network(name)
    module, shapes = on_meta(network)
    assert shapes == ((2, ZOO[name].classes),)
    count = sum(own.numel() for own in module.parameters())
    assert count == network.parameters == PARAMETERS.get(name, count)


@pytest.mark.parametrize("path", sorted(LIGHT_MODELS.glob("light_*.onnx")), ids=lambda path: path.stem)
def test_each_light_model_of_the_onnx_project_becomes_a_module_of_its_shapes_and_size(path: Path) -> None:
    network = load(path, batch_size=2)
    module, shapes = on_meta(network)
    assert shapes == tuple(network.shapes[name] for name in network.outputs)
    assert sum(own.numel() for own in module.parameters()) == network.parameters


@pytest.mark.parametrize("name", sorted(ZOO.keys() - {"resnet34", "vgg11", "vgg16"}))  # the same layers as smaller ones
def test_each_kind_of_network_in_the_zoo_computes_what_the_onnx_reference_does(name: str) -> None:
    network, content = zoo_network(name, image_size=max(28, ZOO[name].smallest))
    module, (x,) = (
        NetworkModule(network, weights=Weights(onnx.load_model_from_string(content), Path("m.onnx"))),
        random_inputs(network),
    )
    model = onnx.load_model_from_string(content)
    model.opset_import[0].version = 15  # the reference takes batch norms before version 14 for training
    (expected,) = ReferenceEvaluator(model).run(None, {network.inputs[0][0]: x.numpy()})
    with torch.no_grad():
        result = module.eval()(x)
    torch.testing.assert_close(result, torch.tensor(expected), rtol=1e-4, atol=1e-5 * abs(expected).max().item())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_training_step_of_resnet18_lowers_its_loss(memory_format: torch.memory_format) -> None:
    network, _ = zoo_network("resnet18", image_size=32, batch_size=4)
    module = NetworkModule(network).to(memory_format=memory_format)
    inputs = tuple(x.to(memory_format=memory_format) for x in random_inputs(network))
    targets, update = random_targets(network), optimizer("sgd", module.parameters())
    first, second = (training_step(module, inputs, targets, update) for _ in range(2))
    assert second < first
