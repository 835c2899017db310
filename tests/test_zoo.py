"""The standard networks: published sizes, valid files, any batch."""

import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Dropout, Linear, Norm
from latte_cli.network import Network, zoo
from latte_cli.network.onnx import read

PUBLISHED = {
    "alexnet": 61_100_840,
    "custom_cnn": 2_193_226,
    "lenet": 61_706,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "resnet8": 78_042,
    "resnet20": 272_474,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "vgg11": 132_863_336,
    "vgg16": 138_357_544,
}
MULTIPLY_ACCUMULATES = {
    "resnet18": 1.814e9,
    "resnet50": 4.089e9,
    "mobilenet_v1": 0.5687e9,
    "mobilenet_v2": 0.3008e9,
    "vgg16": 15.47e9,
}


def network(content: bytes, batch_size: int | None = None) -> Network:
    return read(content, name="model", sha256="", batch_size=batch_size, allow_unknown=False)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_network_has_the_parameters_that_were_published(name: str) -> None:
    assert network(zoo.export(name)).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", MULTIPLY_ACCUMULATES)
def test_a_network_does_the_work_that_was_published(name: str) -> None:
    work = sum(layer.workload for layer in network(zoo.export(name)).layers)
    assert work == pytest.approx(MULTIPLY_ACCUMULATES[name], rel=1e-3)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_file_without_weights_is_small_and_passes_the_checker(name: str) -> None:
    content = zoo.export(name)
    assert len(content) < 80_000
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_network_reads_at_any_batch_size_from_an_open_or_a_fixed_one(name: str) -> None:
    entry = zoo.ZOO[name]
    for content in (zoo.export(name), zoo.export(name, batch_size=4)):
        found = network(content, 8)
        assert found.inputs == (("input", (8, entry.channels, entry.image_size, entry.image_size)),)
        assert found.shapes[found.outputs[0]] == (8, entry.classes)
        assert not found.unknown


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_smallest_image_works_and_a_smaller_one_is_refused(name: str) -> None:
    entry = zoo.ZOO[name]
    found = network(zoo.export(name, image_size=entry.smallest, classes=3))
    assert found.shapes[found.outputs[0]] == (1, 3)
    with pytest.raises(LatteError) as caught:
        zoo.export(name, image_size=entry.smallest - 1)
    assert str(entry.smallest) in str(caught.value.hint)


@pytest.mark.parametrize(("name", "image_size"), [("alexnet", 64), ("vgg11", 32), ("vgg16", 96), ("alexnet", 320)])
def test_a_network_with_a_wide_classifier_takes_other_images(name: str, image_size: int) -> None:
    found = network(zoo.export(name, image_size=image_size), 2)
    assert found.shapes[found.outputs[0]] == (2, 1000)


def test_a_larger_image_leaves_the_classifier_as_it_is() -> None:
    assert network(zoo.export("vgg11", image_size=256)).parameters == PUBLISHED["vgg11"]


@pytest.mark.parametrize("name", ["custom_cnn", "lenet", "resnet8", "mobilenet_v2"])
def test_onnx_computes_what_a_file_with_weights_says(name: str) -> None:
    import numpy as np

    content = zoo.export(name, weights=True, batch_size=2, image_size=32, classes=5)
    found = network(content)
    x = np.random.default_rng(0).standard_normal(found.inputs[0][1], np.float32)
    (y,) = ReferenceEvaluator(onnx.load_model_from_string(content)).run(None, {"input": x})
    assert y.shape == found.shapes[found.outputs[0]] == (2, 5)
    assert np.isfinite(y).all()
    assert y.std() > 1e-3


def test_weights_follow_from_the_seed() -> None:
    first, again, other = (zoo.export("lenet", weights=True, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_weights_change_no_layer() -> None:
    assert network(zoo.export("resnet8", weights=True)) == network(zoo.export("resnet8"))


def test_layers_are_named_as_in_torchvision() -> None:
    nodes = {node.name: node for node in network(zoo.export("resnet18")).nodes}
    assert nodes["layer1.0.conv1"].parameters == ("layer1.0.conv1.weight",)
    assert nodes["fc"].parameters == ("fc.weight", "fc.bias")
    assert nodes["bn1"].attributes == (("epsilon", 1e-5), ("momentum", 0.9))
    assert isinstance(nodes["layer2.0.downsample.0"].layer, Convolution)
    assert isinstance(nodes["layer2.0.downsample.1"].layer, Norm)


def test_dropout_is_active() -> None:
    dropouts = [node for node in network(zoo.export("mobilenet_v2")).nodes if isinstance(node.layer, Dropout)]
    assert [node.attributes for node in dropouts] == [(("ratio", 0.2),)]


def test_the_custom_cnn_is_the_one_of_the_papers() -> None:
    layers = network(zoo.export("custom_cnn")).layers
    assert [layer.out_channels for layer in layers if isinstance(layer, Convolution)] == [32, 64, 128]
    assert [layer.out_features for layer in layers if isinstance(layer, Linear)] == [256, 10]


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(LatteError, match="unknown model `resnet19`") as caught:
        zoo.export("resnet19")
    assert caught.value.hint == "did you mean `resnet18`?"


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"classes": -1}, {"image_size": 10**6}])
def test_sizes_that_make_no_network_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(LatteError):
        zoo.export("resnet18", **sizes)
