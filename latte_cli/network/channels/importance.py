"""Importance: how much each channel matters, by the weights that make it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latte_cli.layers import Convolution, Stored
from latte_cli.network.channels.groups import ChannelGroup
from latte_cli.network.graph import Network, Node


def importance(
    network: Network, groups: tuple[ChannelGroup, ...], weights: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float64]]:
    """For each channel of each of `groups` the Euclidean norm of the weights that make it.

    `weights` are the network's parameters by name, in its shapes. Groups whose layers make several channels for each
    of theirs are left out.
    """
    found: dict[str, NDArray[np.float64]] = {}
    nodes = {node.name: node for node in network.nodes}
    for group in groups:
        squares = [_squares(nodes[name], network, weights) for name in group.nodes if group.nodes.count(name) == 1]
        fitting = [each for each in squares if each.shape == (group.channels,)]
        if fitting:
            found[group.name] = np.sqrt(np.sum(fitting, axis=0))
    return found


def _squares(node: Node, network: Network, weights: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    weight = weights[network.parameter_names(node)[0]].astype(np.float64)
    if isinstance(node.layer, Stored):
        return np.square(weight.ravel())
    axis = 1 if isinstance(node.layer, Convolution) and node.layer.transposed else 0
    return np.asarray(np.square(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1).sum(axis=1))
