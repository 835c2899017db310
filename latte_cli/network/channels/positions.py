"""Positions: where the parameters of a sub-model lie in those of the whole network."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Convolution, Norm
from latte_cli.network.channels.dimensions import first_along
from latte_cli.network.channels.groups import ChannelGroup
from latte_cli.network.channels.resizing import resizing_of
from latte_cli.network.channels.ties import Ids
from latte_cli.network.graph import STATISTICS, Network, Node

Indices: TypeAlias = NDArray[np.int64]
"""Positions along a dimension of a parameter."""

IndicesByName: TypeAlias = dict[str, tuple[Indices, ...]]
"""For each tensor by name, the indices kept of each dimension."""


class Positions:
    """Where the tensors of sub-models lie in those of `network`.

    `kept` are the channels that stay of each named group, whatever their order; the other groups stay whole. With
    `numpy.ix_` of the indices, `whole[ix_]` is the sub-model's tensor, and `whole[ix_] = part` puts it back.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        resizing = resizing_of(network)
        self._trace = resizing.trace
        self._grouped = {group.name: (group, roots) for group, roots in resizing.grouped}

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """The network's channel groups."""
        return tuple(group for group, _ in self._grouped.values())

    def parameters(self, kept: Mapping[str, Sequence[int]]) -> IndicesByName:
        """Those of the parameters.

        Raises LatteError for an unknown group, channels it does not have, and groups of convolutions that
        would keep different channels.
        """
        dropped, found = self._dropped_numbers(kept), IndicesByName()
        for node in self._network.nodes:
            for name, shape, owners in self._trace.parameters(node):
                index = tuple(self._remainder(ids, size, dropped) for size, ids in zip(shape, owners, strict=True))
                found.setdefault(name, _split_evenly(node, name, index))
        return found

    def statistics(self, kept: Mapping[str, Sequence[int]]) -> IndicesByName:
        """Those of the running means and variances of batch norms, by the names that the file has for them."""
        dropped, found = self._dropped_numbers(kept), IndicesByName()
        for node in self._network.nodes:
            if isinstance(node.layer, Norm) and node.layer.function == "batch":
                ids = first_along(self._trace.read[node.name][0], 1)
                index = self._remainder(ids, node.layer.shape[1], dropped)
                found |= {name: (index,) for place, name in node.constants if place in STATISTICS}
        return found

    def _dropped_numbers(self, kept: Mapping[str, Sequence[int]]) -> frozenset[int]:
        """The numbers of the channels that go."""
        for name, channels in kept.items():
            if name not in self._grouped:
                raise unknown("channel group", name, self._grouped)
            group, chosen = self._grouped[name][0], set(map(int, channels))
            if len(chosen) != len(channels) or not chosen <= set(range(group.channels)) or not chosen:
                raise LatteError(
                    f"channel group `{name}` cannot keep {list(channels)[:8]}",
                    hint=f"different numbers from 0 to {group.channels - 1}",
                )
        return frozenset(
            roots[channel]
            for group, roots in self._grouped.values()
            for channel in set(range(group.channels)) - set(map(int, kept.get(group.name, range(group.channels))))
        )

    def _remainder(self, ids: Ids | None, size: int, dropped: frozenset[int]) -> Indices:
        """The places that stay along a dimension; all of one whose channels are the same."""
        roots = np.zeros(1, dtype=np.int64) if ids is None else self._trace.ties.roots(ids)
        if (roots == roots[0]).all():
            return np.arange(size)
        return np.flatnonzero([root not in dropped for root in roots.tolist()])


def positions(network: Network, kept: Mapping[str, Sequence[int]]) -> IndicesByName:
    """Where in each parameter of `network` those of a sub-model lie; see `Positions`, which is quicker for several."""
    return Positions(network).parameters(kept)


def _split_evenly(node: Node, name: str, index: tuple[Indices, ...]) -> tuple[Indices, ...]:
    """The indices of a grouped convolution's weight, whose second dimension counts within a group."""
    layer = node.layer
    if not isinstance(layer, Convolution) or layer.groups == 1 or layer.depthwise or name != (*node.parameters, "")[0]:
        return index
    size = len(index[0])
    each = [index[0][at * size // layer.groups : (at + 1) * size // layer.groups] for at in range(layer.groups)]
    within = layer.out_channels // layer.groups
    if any(set(part // within) != {at} for at, part in enumerate(each)):
        raise LatteError(f"the groups of `{node.name}` would keep different channels", hint="keep as many of each")
    return index
