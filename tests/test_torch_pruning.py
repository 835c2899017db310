"""Channel groups and what is cut of the weights, against Torch-Pruning's dependency graph."""

import warnings
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from latte_cli.errors import LatteError
from latte_cli.network import Network, zoo
from latte_cli.network.channels import channel_groups, positions, resize
from latte_cli.network.module import NetworkModule
from latte_cli.network.onnx import read

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning

SIZES = {"alexnet": 63, "mobilenet_v1": 32, "mobilenet_v2": 32, "resnet18": 32, "resnet50": 32, "vgg11": 32}
NAMES = sorted(zoo.ZOO.keys() - {"resnet20", "resnet34", "vgg16"})  # the same blocks as their smaller kin
MAKERS = {
    nn.Conv2d: torch_pruning.prune_conv_out_channels,
    nn.Linear: torch_pruning.prune_linear_out_channels,
}


def network(name: str) -> Network:
    content = zoo.export(name, image_size=SIZES.get(name))
    return read(content, name=name, sha256="", batch_size=2, allow_unknown=False)


def traced(found: Network, module: NetworkModule) -> "torch_pruning.DependencyGraph":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.randn(found.inputs[0][1])
        return torch_pruning.DependencyGraph().build_dependency(module, example_inputs=example)


def names_of(found: Network, module: NetworkModule) -> dict[int, str]:
    return {id(layer): node.name for node, layer in zip(found.nodes, module.layers, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_the_groups_are_torch_pruning_s(name: str) -> None:
    found = network(name)
    module = NetworkModule(found).eval()
    graph, names = traced(found, module), names_of(found, module)
    theirs: dict[frozenset[str], int] = {}
    for layer in module.layers:
        if type(layer) in MAKERS and names[id(layer)] != found.nodes[-1].name:  # which writes the output
            group = graph.get_pruning_group(layer, MAKERS[type(layer)], idxs=[0])
            makers = [each for each, _ in group if each.handler in MAKERS.values()]
            width = layer.weight.shape[0]
            theirs[frozenset(names[id(each.target.module)] for each in makers)] = width
    assert {frozenset(group.nodes): group.channels for group in channel_groups(found)} == theirs


def kept_of(found: Network, seed: int = 0) -> dict[str, list[int]]:
    """About half of the channels of each group, drawn."""
    draw = np.random.default_rng(seed)
    return {
        group.name: sorted(map(int, draw.choice(group.channels, group.channels // 2, replace=False)))
        for group in channel_groups(found)
        if group.multiple == 1
    }


def named(module: NetworkModule) -> dict[str, nn.Parameter]:
    pairs = zip(module.network.nodes, module.layers, strict=True)
    return {
        name: parameter
        for node, layer in pairs
        for name, parameter in zip(node.parameters, layer.parameters(), strict=True)
    }


def sliced(module: NetworkModule, small: NetworkModule, kept: Mapping[str, list[int]]) -> None:
    """Fill `small` with what is kept of `module`."""
    where, whole = positions(module.network, kept), named(module)
    for name, parameter in named(small).items():
        part = whole[name].detach().numpy()[np.ix_(*where[name])]
        assert part.shape == tuple(parameter.shape), name
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(part)))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_channels_pruned_both_ways_give_the_same_model(name: str) -> None:
    found = network(name)
    module, kept = NetworkModule(found, seed=1).eval(), kept_of(found)
    small_network = resize(found, {group: len(channels) for group, channels in kept.items()})
    small = NetworkModule(small_network).eval()
    sliced(module, small, kept)
    graph, names = traced(found, module), names_of(found, module)
    layers = {names[id(layer)]: layer for layer in module.layers}
    groups = {group.name: group for group in channel_groups(found)}
    for group, channels in kept.items():
        dropped = sorted(set(range(groups[group].channels)) - set(channels))
        layer = layers[groups[group].nodes[0]]
        graph.get_pruning_group(layer, MAKERS[type(layer)], idxs=dropped).prune()
    pruned = {node.name: [tuple(p.shape) for p in layers[node.name].parameters()] for node in found.nodes}
    ours = {node.name: [tuple(p.shape) for p in layer.parameters()]
            for node, layer in zip(small_network.nodes, small.layers, strict=True)}  # fmt: skip
    assert ours == pruned
    x = torch.randn(found.inputs[0][1])
    with torch.no_grad():
        hidden = x
        values = {found.inputs[0][0]: hidden}
        for node in small_network.nodes:  # views keep the shapes of the whole network in `module`
            layer = (
                layers[node.name]
                if list(layers[node.name].parameters())
                else small.layers[index(small_network, node.name)]
            )
            values[node.output] = layer(*(values[one] for one in node.inputs))
        torch.testing.assert_close(small(x), values[small_network.outputs[0]], rtol=1e-4, atol=1e-5)


def index(found: Network, name: str) -> int:
    return [node.name for node in found.nodes].index(name)


def test_what_is_cut_can_be_put_back_in_its_place() -> None:
    found = network("resnet8")
    module, kept = NetworkModule(found), kept_of(found)
    where, whole = positions(found, kept), {name: p.detach().numpy() for name, p in named(module).items()}
    for name, values in whole.items():
        place = np.ix_(*where[name])
        again = np.full_like(values, np.nan)
        again[place] = values[place]
        held = ~np.isnan(again)
        assert held.sum() == values[place].size
        assert (again[held] == values[held]).all()


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"nowhere": [0]}, "unknown channel group"),
        ({"conv1": [0, 0]}, "cannot keep"),
        ({"conv1": [16]}, "cannot keep"),
        ({"conv1": []}, "cannot keep"),
    ],
)
def test_channels_that_are_not_there_are_refused(kept: dict[str, list[int]], message: str) -> None:
    with pytest.raises(LatteError, match=message):
        positions(network("resnet8"), kept)
