"""Sub-models: a network with fewer channels in its groups."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Convolution, Copy, Embedding, Layer, Linear, MatMul, Recurrent, Shape, Stored, View
from latte_cli.network.channels.groups import ChannelGroup, group_channels
from latte_cli.network.channels.rules import part_sizes
from latte_cli.network.channels.ties import Ids
from latte_cli.network.channels.trace import FULL_WIDTH, Trace
from latte_cli.network.graph import Network, Node, Value


@dataclass(frozen=True)
class _Along:
    """The channels along a dimension of an activation, and how often each of a group is there, if each is as often."""

    axis: int
    roots: Ids
    repeats: Counter[str]
    even: bool = True


_NOTHING = _Along(0, np.zeros(0, dtype=np.int64), Counter())


class Resizing:
    """The nodes of `network` at any widths of its channel groups, one at a time.

    What channels cannot be followed through keeps its width; `kept_by` names it, with the kind of layer.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.trace = Trace(network)
        for _ in network.nodes:
            self._follow()
            failing = [node for node in network.nodes if not self._fits(node)]
            if not failing:
                break
            for node in failing:
                self.trace.lose(node)

    def _follow(self) -> None:
        """Find the groups, and which of them lie along which dimension of each activation."""
        self.grouped = group_channels(self.trace)
        self.groups = tuple(group for group, _ in self.grouped)
        self._place = np.full(self.trace.ties.count, -1)  # of each number's group among all
        for at, (_, roots) in enumerate(self.grouped):
            self._place[roots] = at
        self._channels = {group.name: group.channels for group in self.groups}
        self._known: dict[int, _Along | None] = {}
        self._read = {
            node.name: [self._along(ids) for ids in self.trace.read[node.name]] for node in self.network.nodes
        }
        self._written = {node.name: self._along(self.trace.written[node.name]) for node in self.network.nodes}

    @property
    def kept_by(self) -> Mapping[str, str]:
        """The nodes that channels could not be followed through, with the kinds of their layers."""
        return self.trace.kept_by

    def owners(self, node: Node) -> tuple[str, ...]:
        """The groups whose widths decide the node's layer, in the order of `groups`."""
        names = {name for along in self._sides(node) for name in along.repeats}
        return tuple(group.name for group in self.groups if group.name in names)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of groups, one that a node with weights reads and one that it makes, that weights lie between."""
        making = {name for group in self.groups for name in group.nodes}
        found = {
            (first, second): None
            for node in self.network.nodes
            if node.name in making
            for second in (self._written[node.name] or _NOTHING).repeats
            for along in filter(None, self._read[node.name])
            for first in along.repeats
            if first != second
        }
        return tuple(found)

    def node(self, node: Node, widths: Mapping[str, int]) -> Node:
        """The node where each named group has that many channels, and the others all of theirs.

        Raises LatteError for widths that it cannot have.
        """
        layer = self.layer(node, widths)
        if layer is node.layer:
            return node
        along = self._read[node.name][0] if isinstance(layer, Copy) else None
        attributes = node.attributes if along is None else tuple(self._attributes(node, along, widths))
        return replace(node, layer=layer, attributes=attributes)

    def layer(self, node: Node, widths: Mapping[str, int]) -> Layer:
        """The layer of `node` at these widths."""
        before = zip(node.layer.input_shapes, self._read[node.name], strict=True)
        inputs = [self._shape(shape, along, widths) for shape, along in before]
        return _resize_layer(node, inputs, self._shape(node.layer.output_shape, self._written[node.name], widths))

    def _attributes(self, node: Node, along: _Along, widths: Mapping[str, int]) -> Iterator[tuple[str, Value]]:
        """Those that say where a slice begins and ends, after fewer channels."""
        given = dict(node.attributes)
        axes = given.get("axes")
        for name, value in node.attributes:
            if name == "start" and given.get("axis") == along.axis and isinstance(value, float | int):
                value = self._kept_before(along, int(value), widths)
            elif name == "sizes" and "varying" in given and given.get("axis") == along.axis:
                value = self._sizes_between_constants(along, given, widths)
            elif name in ("starts", "ends") and isinstance(value, tuple) and not isinstance(axes, tuple):
                size = node.layer.input_shapes[0][along.axis]
                stop = min(int(value[along.axis]), size)
                stop += size if stop < 0 else 0
                at = self._kept_before(along, stop, widths)
                value = (*value[: along.axis], at, *value[along.axis + 1 :])
            yield name, value

    def _sizes_between_constants(
        self, along: _Along, given: Mapping[str, Value], widths: Mapping[str, int]
    ) -> tuple[float, ...]:
        """The sizes of parts and of the constants between them, where the parts have fewer channels."""
        sizes, varying = part_sizes(given)
        ends = list(accumulate((sizes[at] for at in varying), initial=0))
        kept = [self._kept_before(along, end, widths) for end in ends]
        parts = iter(after - before for before, after in pairwise(kept))
        return tuple(next(parts) if at in varying else size for at, size in enumerate(sizes))

    def _sides(self, node: Node) -> Iterator[_Along]:
        yield from filter(None, (*self._read[node.name], self._written[node.name]))

    def _shape(self, shape: Shape, along: _Along | None, widths: Mapping[str, int]) -> Shape:
        if along is None:
            return shape
        fewer = sum(times * self._fewer(name, widths) for name, times in along.repeats.items())
        return (*shape[: along.axis], shape[along.axis] - fewer, *shape[along.axis + 1 :])

    def _kept_before(self, along: _Along, stop: int, widths: Mapping[str, int]) -> int:
        """How many channels before the place `stop` are left."""
        repeats = self._repeats(along.roots[:stop])
        return stop - sum(times * self._fewer(name, widths) for name, times in (repeats or {}).items())

    def _fewer(self, name: str, widths: Mapping[str, int]) -> int:
        return self._channels[name] - widths.get(name, self._channels[name])

    def _fits(self, node: Node) -> bool:
        """Whether the node can have the least widths, and each of its groups lies whole and even along a dimension."""
        least = {group.name: group.multiple for group in self.groups}
        for ids in (*self.trace.read[node.name], self.trace.written[node.name]):
            along = self._known[id(ids)]
            one = int(self._place[self.trace.ties.roots(ids[(slice(0, 1),) * ids.ndim]).item()])
            if along is None and one >= 0 and self.groups[one].channels > 1:
                return False
            if along is not None and not along.even:
                return False
        try:
            self.node(node, least)
        except LatteError:
            return False
        return True

    def _along(self, ids: Ids) -> _Along | None:
        """The dimension that the channels lie along, and how often each of a group is there; None without any."""
        if id(ids) not in self._known:
            found = self.trace.along(ids)
            repeats = self._repeats(found.roots) if found else None
            even = repeats is not None
            made = _Along(found.axis, found.roots, repeats or Counter(), even) if found and repeats != {} else None
            self._known[id(ids)] = made
        return self._known[id(ids)]

    def _repeats(self, roots: Ids) -> Counter[str] | None:
        """How often each channel of the groups is there; None where not each of a group is as often."""
        each, counts = np.unique(roots, return_counts=True)
        places = self._place[each]
        each, counts, places = each[places >= 0], counts[places >= 0], places[places >= 0]
        found: Counter[str] = Counter()
        for at in np.unique(places).tolist():
            own, group = counts[places == at], self.groups[at]
            if len(own) != group.channels or (own != own[0]).any():
                return None
            found[group.name] = int(own[0])
        return found


def _resize_layer(node: Node, inputs: Sequence[Shape], output: Shape) -> Layer:
    layer = node.layer
    if tuple(inputs) == layer.input_shapes and output == layer.output_shape:
        return layer
    made = output[1 if isinstance(layer, Convolution) else -1] if output else None
    match layer:
        case Copy() | View():
            resized: Layer = replace(layer, shape=inputs[0], output=output)
        case Stored():
            resized = replace(layer, shape=output)
        case MatMul():
            (batch, m, k), (_, _, n) = inputs
            resized = replace(layer, batch=batch, m=m, k=k, n=n)
        case Convolution() | Linear() | Embedding() | Recurrent():
            resized = layer.resize(inputs, made)
        case _:
            resized = layer.resize(inputs)
    if resized.input_shapes != tuple(inputs) or resized.output_shape != output:
        raise LatteError(f"cannot cut the channels at `{node.name}` ({layer.kind})", hint=FULL_WIDTH)
    return resized


@lru_cache(maxsize=4)  # chosen: a model, its batch sizes
def resizing_of(network: Network) -> Resizing:
    """The `Resizing` of a network, made once: following channels takes long, and a network is cut at many widths."""
    return Resizing(network)


def channel_groups(network: Network) -> tuple[ChannelGroup, ...]:
    """The groups of channels that can be cut, in the order of their first node; see `Resizing`."""
    return resizing_of(network).groups


def sub_model(network: Network, width: float) -> Network:
    """`network` with the share `width` of each group's channels (0 < width <= 1), rounded up to what it can keep.

    Raises LatteError for another width and for a network whose channels cannot be cut.
    """
    if width == 1:
        return network
    resizing = resizing_of(network)
    groups = _some(network, resizing)
    return _cut_channels(resizing, {group.name: group.width(width) for group in groups})


def groups_to_cut(network: Network) -> tuple[ChannelGroup, ...]:
    """The network's channel groups; raises LatteError where there are none."""
    return _some(network, resizing_of(network))


def _some(network: Network, resizing: Resizing) -> tuple[ChannelGroup, ...]:
    if not resizing.groups:
        why = "".join(f": {note}" for note in _notes(resizing)[:1])
        raise LatteError(f"`{network.name}` has no channels that can be cut{why}", hint=FULL_WIDTH)
    return resizing.groups


def resize(network: Network, widths: Mapping[str, int]) -> Network:
    """`network` with as many channels in each named group as `widths` says; the other groups stay whole.

    Raises LatteError for a group it does not have and for a number of channels that the group cannot have.
    """
    resizing = resizing_of(network)
    named = {group.name: group for group in resizing.groups}
    for name, width in widths.items():
        if name not in named:
            raise unknown("channel group", name, named)
        group = named[name]
        if not 0 < width <= group.channels or width % group.multiple:
            of = f"multiples of {group.multiple} up to {group.channels}"
            raise LatteError(f"channel group `{name}` cannot have {width} channels", hint=f"it can have {of}")
    return _cut_channels(resizing, widths)


def _cut_channels(resizing: Resizing, widths: Mapping[str, int]) -> Network:
    network = resizing.network
    nodes = tuple(resizing.node(node, widths) for node in network.nodes)
    if all(after is before for after, before in zip(nodes, network.nodes, strict=True)):
        return network
    return replace(network, nodes=nodes, sha256="", notes=(*network.notes, *_notes(resizing)))


def kept_whole(network: Network) -> tuple[str, ...]:
    """What keeps its width in every sub-model of `network`, and why."""
    return _notes(resizing_of(network))


def _notes(resizing: Resizing) -> tuple[str, ...]:
    return tuple(
        f"the channels that `{name}` ({kind}) reads keep their width: they cannot be cut there"
        for name, kind in resizing.kept_by.items()
    )
