"""Positions: where the parameters of a sub-model lie in those of the whole network."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Convolution, Linear, Norm, Shape, Stored
from latte_cli.network.channels.groups import ChannelGroup, grouped
from latte_cli.network.channels.trace import Ids, Trace, lost
from latte_cli.network.graph import Network, Node

_STATISTICS = (3, 4)

Indices: TypeAlias = NDArray[np.int64]
"""Positions along a dimension of a parameter."""


Places: TypeAlias = dict[str, tuple[Indices, ...]]
"""For each tensor by name, the indices kept of each dimension."""


class Positions:
    """Where the tensors of sub-models lie in those of `network`.

    `kept` are the channels that stay of each named group, whatever their order; the other groups stay whole. With
    `numpy.ix_` of the indices, `whole[ix_]` is the sub-model's tensor, and `whole[ix_] = part` puts it back.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._trace = Trace(network)
        self._grouped = {group.name: (group, roots) for group, roots in grouped(self._trace)}

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """The network's channel groups."""
        return tuple(group for group, _ in self._grouped.values())

    def parameters(self, kept: Mapping[str, Sequence[int]]) -> Places:
        """Those of the parameters.

        Raises LatteError for a group there is none of, channels it does not have, and groups of convolutions that
        would keep different channels.
        """
        dropped, found = self._dropped(kept), Places()
        for node in self._network.nodes:
            for name, shape, owners in _dimensions(node, self._trace):
                index = tuple(
                    np.arange(size) if ids is None else self._left(np.broadcast_to(ids.ravel(), size), dropped)
                    for size, ids in zip(shape, owners, strict=True)
                )
                found.setdefault(name, _split_evenly(node, name, index))
        return found

    def statistics(self, kept: Mapping[str, Sequence[int]]) -> Places:
        """Those of the running means and variances of batch norms, by the names that the file has for them."""
        dropped, found = self._dropped(kept), Places()
        for node in self._network.nodes:
            if isinstance(node.layer, Norm) and node.layer.function == "batch":
                ids = _of_axis(self._trace.read[node.name][0], 1)
                size = node.layer.shape[1]
                index = np.arange(size) if ids is None else self._left(np.broadcast_to(ids.ravel(), size), dropped)
                found |= {name: (index,) for place, name in node.constants if place in _STATISTICS}
        return found

    def _dropped(self, kept: Mapping[str, Sequence[int]]) -> frozenset[int]:
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

    def _left(self, ids: Ids, dropped: frozenset[int]) -> Indices:
        return np.flatnonzero([root not in dropped for root in self._trace.roots(ids)])


def positions(network: Network, kept: Mapping[str, Sequence[int]]) -> Places:
    """Where in each parameter of `network` those of a sub-model lie; see `Positions`, which is quicker for several."""
    return Positions(network).parameters(kept)


def _dimensions(node: Node, trace: Trace) -> Iterator[tuple[str, Shape, tuple[Ids | None, ...]]]:
    """Each parameter of a node with the channels that its dimensions are of, None for those that are of none."""
    layer, ins, out = node.layer, trace.read[node.name], trace.written[node.name]
    names = node.parameters or tuple(f"{node.name}.{at}" for at in range(len(node.parameter_shapes)))
    for at, (name, shape) in enumerate(zip(names, node.parameter_shapes, strict=True)):
        match layer:
            case Convolution() if at == 0:
                first, second = (ins[0], out) if layer.transposed else (out, ins[0])
                second_ids = None if layer.groups > 1 else second
                yield name, shape, (first, second_ids, *(None,) * len(layer.kernel))
            case Linear() if at == 0:
                yield name, shape, (out, ins[0])
            case Convolution() | Linear():
                yield name, shape, (out,)
            case Stored() if layer.made_channels:
                yield name, shape, tuple(_of_axis(out, axis) for axis in range(len(shape)))
            case Norm(function="batch" | "group" | "instance"):
                yield name, shape, (_of_axis(ins[0], 1),)
            case Norm() if layer.span == 1:
                yield name, shape, (_of_axis(ins[0], ins[0].ndim - 1),)
            case _ if isinstance(layer, Norm) or not any(ids.any() for ids in (*ins, out)):
                yield name, shape, (None,) * len(shape)
            case _:
                raise lost(node)


def _of_axis(ids: Ids, axis: int) -> Ids | None:
    return ids if ids.size == ids.shape[axis] and ids.size > 1 else None


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
