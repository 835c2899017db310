"""Sub-models: a network with fewer channels in its groups."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Layer, Shape
from latte_cli.network.channels.groups import ChannelGroup, channel_groups, grouped
from latte_cli.network.channels.trace import FULL_WIDTH, Ids, Trace, lost
from latte_cli.network.graph import Network, Node


def sub_model(network: Network, width: float) -> Network:
    """`network` with the share `width` of each group's channels (0 < width <= 1), rounded up to what it can keep.

    Raises LatteError for another width and for a network whose channels cannot be cut.
    """
    if width == 1:
        return network
    groups = groups_to_cut(network)
    return _cut(network, groups, {group.name: group.width(width) for group in groups})


def groups_to_cut(network: Network) -> tuple[ChannelGroup, ...]:
    """The network's channel groups; raises LatteError where there are none."""
    groups = channel_groups(network)
    if not groups:
        raise LatteError(f"`{network.name}` has no channels that can be cut", hint=FULL_WIDTH)
    return groups


def resize(network: Network, widths: Mapping[str, int]) -> Network:
    """`network` with as many channels in each named group as `widths` says; the other groups stay whole.

    Raises LatteError for a group it does not have and for a number of channels that the group cannot have.
    """
    groups = channel_groups(network)
    named = {group.name: group for group in groups}
    for name, width in widths.items():
        if name not in named:
            raise unknown("channel group", name, named)
        group = named[name]
        if not 0 < width <= group.channels or width % group.multiple:
            of = f"multiples of {group.multiple} up to {group.channels}"
            raise LatteError(f"channel group `{name}` cannot have {width} channels", hint=f"it can have {of}")
    return _cut(network, groups, widths)


def _cut(network: Network, groups: Sequence[ChannelGroup], widths: Mapping[str, int]) -> Network:
    dropped: Counter[str] = Counter()
    for group in groups:
        fewer = group.channels - widths.get(group.name, group.channels)
        dropped.update({node: fewer * times for node, times in Counter(group.nodes).items()})
    if not any(dropped.values()):
        return network
    shapes: dict[str, Shape] = dict(network.inputs)
    nodes = []
    for node in network.nodes:
        before = node.layer.input_shapes
        inputs = [shapes.get(name, shape) for name, shape in zip(node.read, before, strict=True)]
        layer = _resized(node, inputs, dropped[node.name])
        shapes[node.output] = layer.output_shape
        nodes.append(replace(node, layer=layer))
    return replace(network, nodes=tuple(nodes), sha256="")


def _resized(node: Node, inputs: Sequence[Shape], dropped: int) -> Layer:
    layer = node.layer
    if not dropped and tuple(inputs) == layer.input_shapes:
        return layer
    wide = layer.made_channels
    try:
        resized = layer.resized(inputs, wide - dropped if wide else None)
    except LatteError as exc:
        raise LatteError(f"cannot cut the channels at `{node.name}`: {exc.message}", hint=FULL_WIDTH) from exc
    made = resized.output_shape[layer.channel_axis] if wide else 0
    if resized.input_shapes != tuple(inputs) or made != wide - dropped:
        raise LatteError(f"cannot cut the channels at `{node.name}` ({layer.kind})", hint=FULL_WIDTH)
    return resized


class Resizing:
    """The nodes of `network` at any widths of its channel groups, one at a time."""

    def __init__(self, network: Network) -> None:
        """Raises LatteError naming the node where channels cannot be followed, or lie along two dimensions at once."""
        self.network = network
        self._trace = Trace(network)
        found = grouped(self._trace)
        self.groups = tuple(group for group, _ in found)
        self._group_of = {root: group.name for group, roots in found for root in roots}
        self._channels = {group.name: group.channels for group in self.groups}
        made: dict[str, Counter[str]] = {node.name: Counter() for node in network.nodes}
        for group in self.groups:
            for name in group.nodes:
                made[name][group.name] += 1
        self._made = made
        self._read = {
            node.name: [self._along(node, ids) for ids in self._trace.read[node.name]] for node in network.nodes
        }

    def owners(self, node: Node) -> tuple[str, ...]:
        """The groups whose widths decide the node's layer, in the order of `groups`."""
        names = set(self._made[node.name])
        for _, repeats in filter(None, self._read[node.name]):
            names |= set(repeats)
        return tuple(group.name for group in self.groups if group.name in names)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of groups, one that a node with weights reads and one that it makes, that weights lie between."""
        found = {
            (first, second): None
            for node in self.network.nodes
            for second in self._made[node.name]
            for _, repeats in filter(None, self._read[node.name])
            for first in repeats
            if first != second
        }
        return tuple(found)

    def layer(self, node: Node, widths: Mapping[str, int]) -> Layer:
        """The node's layer where each named group has that many channels, and the others all of theirs.

        Raises LatteError for widths that it cannot have.
        """
        inputs = []
        for shape, along in zip(node.layer.input_shapes, self._read[node.name], strict=True):
            if along is not None:
                axis, repeats = along
                fewer = sum(times * self._fewer(name, widths) for name, times in repeats.items())
                shape = (*shape[:axis], shape[axis] - fewer, *shape[axis + 1 :])
            inputs.append(shape)
        dropped = sum(times * self._fewer(name, widths) for name, times in self._made[node.name].items())
        return _resized(node, inputs, dropped)

    def _fewer(self, name: str, widths: Mapping[str, int]) -> int:
        return self._channels[name] - widths.get(name, self._channels[name])

    def _along(self, node: Node, ids: Ids) -> tuple[int, Counter[str]] | None:
        """The dimension that the channels lie along, and how often each of a group is there; None without any."""
        if ids.size == 1:
            return None
        if ids.size != max(ids.shape):
            raise lost(node)
        counts = Counter(self._group_of[root] for root in self._trace.roots(ids) if root in self._group_of)
        if any(count % self._channels[name] for name, count in counts.items()):
            raise lost(node)
        repeats = Counter({name: count // self._channels[name] for name, count in counts.items()})
        return (ids.shape.index(ids.size), repeats) if repeats else None
