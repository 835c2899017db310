"""What of a network may be checkpointed: submodules that are called once, slices of sequences, runs of nodes."""

import re
from collections import OrderedDict

import torch
from torch import Tensor, nn

from latte_cli import load
from latte_cli.network import Network, submodules, zoo
from latte_cli.network.onnx import read


class Nested(nn.Module):
    """Sequences within a list, within a part, one that is called twice, and one whose entries have names."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = nn.ModuleList(
            nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Identity(), nn.Linear(8, 8), nn.Tanh())
            for _ in range(2)
        )
        self.twice = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.named = nn.Sequential(OrderedDict(a=nn.Linear(8, 8), b=nn.ReLU(), c=nn.Linear(8, 8)))
        self.part = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)))

    def forward(self, x: Tensor) -> Tensor:
        for each in self.lists:
            x = each(x)
        return self.part(self.named(self.twice(self.twice(x))))


def regions(network: Network) -> dict[str, tuple[str, ...]]:
    return {region.name: region.nodes for region in submodules.regions(network)}


def test_a_region_is_the_nodes_of_the_parts_that_its_name_says() -> None:
    network = load(Nested(), torch.randn(4, 8))
    found = regions(network)
    assert {"lists.0", "lists.1[0:3]", "lists.1[2:4]", "named", "part.1[0:2]", "named.b"} <= found.keys()
    assert not any(name.startswith(("twice", "named[", "[")) for name in found)
    for name, nodes in found.items():
        path, start, stop = re.fullmatch(r"(.*?)(?:\[(\d+):(\d+)\])?", name).groups()
        parts = [f"{path}.{at}" for at in range(int(start), int(stop))] if start else [path]
        own = [node.name for node in network.nodes if not set(parts).isdisjoint(node.calls)]
        assert list(nodes) == own, name


def test_of_a_sequence_that_is_the_whole_module_there_are_slices() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    assert regions(load(module, torch.randn(4, 8))).keys() == {"0", "1", "2", "[0:2]", "[1:3]"}


def test_of_a_file_there_are_runs_between_places_where_one_activation_crosses() -> None:
    network = read(zoo.export("resnet8"), name="resnet8", sha256="", batch_size=2, allow_unknown=False)
    names = [node.name for node in network.nodes]
    found = regions(network)
    assert found
    for name, nodes in found.items():
        first = names.index(nodes[0])
        assert name == f"{nodes[0]}..{nodes[-1]}"
        assert list(nodes) == names[first : first + len(nodes)]
        before = {node.output for node in network.nodes[:first]}
        later = [each for node in network.nodes[first:] for each in node.inputs]
        assert len(before.intersection(later)) <= 1
