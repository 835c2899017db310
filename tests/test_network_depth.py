import pytest

from latte_cli.errors import LatteError
from latte_cli.layers import Convolution
from latte_cli.network import zoo
from latte_cli.network.depth import blocks, dropped_blocks, without
from latte_cli.network.module import NetworkModule, random_inputs


@pytest.mark.parametrize(
    ("name", "stages"), [("resnet18", (2, 1, 1, 1)), ("resnet34", (3, 3, 5, 2)), ("resnet8", (1,))]
)
def test_blocks_are_those_whose_skip_is_an_identity(name, stages):
    sizes = [block.shape for block in blocks(zoo.network(name, batch_size=2))]
    assert tuple(sizes.count(size) for size in dict.fromkeys(sizes)) == stages


def test_mobilenets_blocks_are_the_inverted_residuals_with_a_skip():
    assert len(blocks(zoo.network("mobilenet_v2", batch_size=1))) == 10


@pytest.mark.parametrize("depth", [1, 0.5, 0.25])
def test_without_blocks_the_network_still_runs_and_keeps_its_shapes(depth):
    network = zoo.network("resnet34", batch_size=2, image_size=32)
    names = dropped_blocks(network, depth)
    shorter = without(network, names)
    assert len(names) == {1: 0, 0.5: 1 + 1 + 2 + 1, 0.25: 2 + 2 + 3 + 1}[depth]
    gone = sum(isinstance(layer, Convolution) for layer in network.layers) - sum(
        isinstance(layer, Convolution) for layer in shorter.layers
    )
    assert gone == 2 * len(names)
    assert NetworkModule(shorter)(*random_inputs(shorter)).shape == (2, 1000)


def test_without_a_block_its_skip_goes_on():
    network = zoo.network("resnet8", batch_size=1)
    (name,) = (block.name for block in blocks(network))
    shorter = without(network, [name])
    assert {node.name for node in network.nodes} - {node.name for node in shorter.nodes} == blocks(network)[0].nodes
    known = {each for each, _ in shorter.inputs}
    for node in shorter.nodes:
        assert set(node.inputs) <= known
        known.add(node.output)


@pytest.mark.parametrize("depth", [0, -1, 1.5, float("nan")])
def test_a_depth_is_a_share(depth):
    with pytest.raises(LatteError, match="depth"):
        dropped_blocks(zoo.network("resnet8", batch_size=1), depth)


def test_a_network_without_residual_blocks_has_no_depth_to_choose():
    with pytest.raises(LatteError, match="no residual blocks"):
        dropped_blocks(zoo.network("vgg11", batch_size=1), 0.5)
    assert dropped_blocks(zoo.network("vgg11", batch_size=1), 1) == ()


def test_a_block_that_is_not_there_is_named():
    with pytest.raises(LatteError, match="layer9"):
        without(zoo.network("resnet8", batch_size=1), ["layer9"])
