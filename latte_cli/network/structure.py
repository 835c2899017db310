"""The structure of a network: a digest that is the same whatever its batch."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields
from math import prod

from latte_cli.layers import Whole
from latte_cli.network.graph import Network, Node

_OF_THE_BATCH = frozenset({"batch", "rows", "shape", "shapes", "output", "m", "mask"})
"""Fields of layers in which the batch may be a factor; what they say of a sample follows from the other fields, the
parameters and the inputs."""


def structure(network: Network) -> str:
    """16 hexadecimal digits of what `network` computes with one sample: its layers, parameters, edges and inputs.

    Networks with the same digits differ in their batch, or in nothing that a step's time depends on.
    """
    places = {name: place for place, (name, _) in enumerate(network.inputs)}
    samples = [[prod(shape) // max(1, network.batch_size), len(shape)] for _, shape in network.inputs]
    nodes = [_node(network, node, place, places) for place, node in enumerate(network.nodes, start=len(places))]
    outputs = [places.get(name, -1) for name in network.outputs]
    text = json.dumps([samples, nodes, outputs], separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def whole_of(network: Network) -> Whole:
    """The layer under which rows of a network that was run whole are filed, whatever file it comes from."""
    return Whole(name=structure(network), batch=network.batch_size, size=0)


def _node(network: Network, node: Node, place: int, places: dict[str, int]) -> list[object]:
    """What sets a node apart from others; its output is filed at `place`."""
    reads = [places.get(name, -1) for name in node.inputs]
    places[node.output] = place
    own = {field: value for field, value in _fields(node) if field not in _OF_THE_BATCH}
    return [node.layer.kind, own, node.parameter_shapes, reads, network.trains(node), network.flows(node)]


def _fields(node: Node) -> Iterator[tuple[str, object]]:
    for field in fields(node.layer):
        yield field.name, getattr(node.layer, field.name)
