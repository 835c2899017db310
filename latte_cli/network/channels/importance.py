"""Importance: how much each channel matters, by the weights that make it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latte_cli.network.channels.groups import ChannelGroup
from latte_cli.network.channels.resizing import resizing_of
from latte_cli.network.graph import Network


def importance(
    network: Network, groups: tuple[ChannelGroup, ...], weights: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float64]]:
    """For each channel of each of `groups` the Euclidean norm of the weights that make it, such as all of a head.

    `weights` are the network's parameters by name, in its shapes.
    """
    resizing = resizing_of(network)
    trace, wanted = resizing.trace, {group.name for group in groups}
    nodes = {node.name: node for node in network.nodes}
    squares = np.zeros(trace.ties.count)
    for name, made in trace.made.items():
        parameter, _, owners = next(trace.parameters(nodes[name]))
        weight = weights[parameter].astype(np.float64)
        for axis, ids in enumerate(owners):
            roots = made[:0] if ids is None else trace.ties.roots(ids)
            if len(roots) == weight.shape[axis] and set(made.tolist()) == set(roots.tolist()):
                others = tuple(other for other in range(weight.ndim) if other != axis)
                np.add.at(squares, roots, np.square(weight).sum(axis=others))
                break
    return {group.name: np.sqrt(squares[roots]) for group, roots in resizing.grouped if group.name in wanted}
