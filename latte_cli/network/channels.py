"""Channel groups: which channels of a network go together, and the network with fewer of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, lcm
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import (
    Activation,
    Concat,
    Convolution,
    Copy,
    Dropout,
    Elementwise,
    Layer,
    Linear,
    Norm,
    Pool,
    Reduce,
    Shape,
    Softmax,
    View,
    reshape_runs,
)
from latte_cli.network import Network, Node

Ids: TypeAlias = NDArray[np.int64]
"""Who the channels of an activation are: as many dimensions as it has, of size 1 where the number does not matter."""

Indices: TypeAlias = NDArray[np.int64]
"""Positions along a dimension of a parameter."""

_FIXED = 0
_FULL_WIDTH = "use `--widths 1`: sub-models of such networks are not known yet"


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """`channels` that are the same in every node of `nodes`, so that all keep as many of them.

    `nodes` are the convolutions and linear layers that make them; one that makes several channels for each of the
    group is named as often. A width of the group is a multiple of `multiple`.
    """

    name: str
    channels: int
    nodes: tuple[str, ...]
    multiple: int = 1

    def width(self, share: float) -> int:
        """The least number of channels that is at least `share` of them."""
        units = max(1, ceil(round(share * self.channels, 6) / self.multiple))
        return min(self.channels, units * self.multiple)


def channel_groups(network: Network) -> tuple[ChannelGroup, ...]:
    """The groups of channels that can be cut, in the order of their first node.

    The channels of the network's inputs and outputs, and whatever is added to them, belong to none. Raises LatteError
    naming the node where channels cannot be followed.
    """
    return tuple(group for group, _ in _grouped(_Trace(network)))


def _grouped(trace: "_Trace") -> list[tuple[ChannelGroup, list[int]]]:
    """The groups, each with the numbers that stand for its channels."""
    makers: dict[int, list[str]] = {}
    for node, ids in trace.made.items():
        for root in trace.roots(ids):
            makers.setdefault(root, []).append(node)
    makers.pop(trace.root(_FIXED), None)
    members: dict[tuple[str, ...], list[int]] = {}
    for root, nodes in makers.items():
        members.setdefault(tuple(nodes), []).append(root)
    repeats: Counter[str] = Counter()
    groups = []
    for nodes_of, roots in members.items():
        first = nodes_of[0]
        repeats[first] += 1
        name = first if repeats[first] == 1 else f"{first}#{repeats[first]}"
        multiple = trace.multiple(frozenset(roots))
        groups.append((ChannelGroup(name=name, channels=len(roots), nodes=nodes_of, multiple=multiple), roots))
    return groups


def positions(network: Network, kept: Mapping[str, Sequence[int]]) -> dict[str, tuple[Indices, ...]]:
    """Where in each parameter of `network` the parameters of a sub-model lie: the indices kept of each dimension.

    `kept` are the channels that stay of each named group, whatever their order; the other groups stay whole. With
    `numpy.ix_` of the indices, `whole[ix_]` is the sub-model's parameter, and `whole[ix_] = part` puts it back.
    Raises LatteError for a group there is none of, channels it does not have, and groups of convolutions that would
    keep different channels.
    """
    trace = _Trace(network)
    grouped = _grouped(trace)
    named = {group.name: group for group, _ in grouped}
    for name, channels in kept.items():
        if name not in named:
            raise unknown("channel group", name, named)
        if len(set(channels)) != len(channels) or not set(channels) <= set(range(named[name].channels)) or not channels:
            raise LatteError(
                f"channel group `{name}` cannot keep {list(channels)[:8]}",
                hint=f"different numbers from 0 to {named[name].channels - 1}",
            )
    dropped = {
        roots[channel]
        for group, roots in grouped
        for channel in set(range(group.channels)) - set(kept.get(group.name, range(group.channels)))
    }

    def left(ids: Ids) -> Indices:
        return np.flatnonzero([root not in dropped for root in trace.roots(ids)])

    found: dict[str, tuple[Indices, ...]] = {}
    for node in network.nodes:
        for name, shape, owners in _dimensions(node, trace):
            index = tuple(
                np.arange(size) if ids is None else left(np.broadcast_to(ids.ravel(), size))
                for size, ids in zip(shape, owners, strict=True)
            )
            found.setdefault(name, _split_evenly(node, name, index))
    return found


def _dimensions(node: Node, trace: "_Trace") -> Iterator[tuple[str, Shape, tuple[Ids | None, ...]]]:
    """Each parameter of a node with the channels that its dimensions are of, None for those that are of none."""
    layer, ins, out = node.layer, trace.read[node.name], trace.written[node.name]
    names = node.parameters or tuple(f"{node.name}.{at}" for at in range(len(layer.parameter_shapes)))
    for at, (name, shape) in enumerate(zip(names, layer.parameter_shapes, strict=True)):
        match layer:
            case Convolution() if at == 0:
                first, second = (ins[0], out) if layer.transposed else (out, ins[0])
                second_ids = None if layer.groups > 1 else second
                yield name, shape, (first, second_ids, *(None,) * len(layer.kernel))
            case Linear() if at == 0:
                yield name, shape, (out, ins[0])
            case Convolution() | Linear():
                yield name, shape, (out,)
            case Norm(function="batch" | "group" | "instance"):
                yield name, shape, (_of_axis(ins[0], 1),)
            case Norm() if layer.span == 1:
                yield name, shape, (_of_axis(ins[0], ins[0].ndim - 1),)
            case _:
                yield name, shape, (None,) * len(shape)


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


def sub_model(network: Network, width: float) -> Network:
    """`network` with the share `width` of each group's channels (0 < width <= 1), rounded up to what it can keep.

    Raises LatteError for another width and for a network whose channels cannot be cut.
    """
    if not 0 < width <= 1:
        raise LatteError(f"a sub-model cannot have the width {width:g}", hint="a width is over 0 and at most 1")
    if width == 1:
        return network
    groups = channel_groups(network)
    if not groups:
        raise LatteError(f"`{network.name}` has no channels that can be cut", hint=_FULL_WIDTH)
    return _cut(network, groups, {group.name: group.width(width) for group in groups})


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
        inputs = [shapes.get(name, shape) for name, shape in zip(node.inputs, before, strict=True)]
        layer = _resized(node, inputs, dropped[node.name])
        shapes[node.output] = layer.output_shape
        nodes.append(replace(node, layer=layer))
    return replace(network, nodes=tuple(nodes), sha256="")


def _resized(node: Node, inputs: Sequence[Shape], dropped: int) -> Layer:
    layer = node.layer
    if not dropped and tuple(inputs) == layer.input_shapes:
        return layer
    wide = _made(layer)
    try:
        resized = layer.resized(inputs, wide - dropped if wide else None)
    except LatteError as exc:
        raise LatteError(f"cannot cut the channels at `{node.name}`: {exc.message}", hint=_FULL_WIDTH) from exc
    made = resized.output_shape[_axis(layer)] if wide else 0
    if resized.input_shapes != tuple(inputs) or made != wide - dropped:
        raise LatteError(f"cannot cut the channels at `{node.name}` ({layer.kind})", hint=_FULL_WIDTH)
    return resized


def _made(layer: Layer) -> int:
    """How many channels a layer makes of its own; 0 where they are its input's."""
    match layer:
        case Convolution() if layer.groups != layer.in_channels or layer.groups == 1:
            return layer.out_channels
        case Linear():
            return layer.out_features
    return 0


def _axis(layer: Layer) -> int:
    return 1 if isinstance(layer, Convolution) else len(layer.output_shape) - 1


class _Trace:
    """Gives each channel that a node makes a number, follows them through the network and ties those that must agree.

    Tying more than needed is safe: it leaves channels that cannot be cut apart.
    """

    def __init__(self, network: Network) -> None:
        self.made: dict[str, Ids] = {}
        self.read: dict[str, Sequence[Ids]] = {}
        self.written: dict[str, Ids] = {}
        self._parents = [_FIXED]
        self._multiples: list[tuple[Node, Ids, int]] = []
        self._owners: dict[str, tuple[Ids, Ids]] = {}
        known: dict[str, Ids] = {name: _unnumbered(shape) for name, shape in network.inputs}
        for node in network.nodes:
            before = zip(node.inputs, node.layer.input_shapes, strict=True)
            ins = [known[name] if name in known else _unnumbered(shape) for name, shape in before]
            known[node.output] = self._outgoing(node, ins)
            self.read[node.name], self.written[node.name] = ins, known[node.output]
            self._share(node, ins, known[node.output])
        for name in network.outputs:
            self.tie(known.get(name, _unnumbered(())), np.array(_FIXED))

    def root(self, at: int) -> int:
        """The number that stands for all those tied to `at`."""
        parents = self._parents
        while parents[at] != at:
            parents[at] = at = parents[parents[at]]
        return at

    def roots(self, ids: Ids) -> list[int]:
        return [self.root(at) for at in ids.ravel().tolist()]

    def tie(self, a: Ids, b: Ids) -> None:
        """Make the channels of `a` and `b`, broadcast against each other, the same."""
        first, second = np.broadcast_arrays(a, b)
        for one, other in set(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True)):
            low, high = sorted((self.root(one), self.root(other)))
            self._parents[high] = low

    def multiple(self, roots: frozenset[int]) -> int:
        """What the number of channels kept of `roots`, a group, is a multiple of."""
        found = 1
        for node, ids, factor in self._multiples:
            if roots.isdisjoint(self.roots(ids)):
                continue
            found = lcm(found, factor)
            if len(roots) % found:
                raise _lost(node)
        return found

    def _outgoing(self, node: Node, ins: Sequence[Ids]) -> Ids:
        layer = node.layer
        match layer:
            case Convolution() | Linear():
                return self._produced(node, ins[0])
            case Norm():
                if layer.function == "group":
                    self._multiples.append((node, ins[0], layer.span))
                return ins[0]
            case Activation() | Dropout() | Softmax() | Pool():
                return ins[0]
            case Elementwise():
                return self._together(node, ins, layer.output_shape)
            case Concat():
                return self._laid_end_to_end(node, layer, ins)
            case Reduce():
                return _reduced(node, layer, ins[0])
            case Copy():
                return _copied(node, layer, ins[0])
            case View():
                return _viewed(node, layer, ins[0])
        if any(ids.any() for ids in ins):
            raise _lost(node)
        return _unnumbered(layer.output_shape)

    def _produced(self, node: Node, ids: Ids) -> Ids:
        layer = node.layer
        axis = _axis(layer)
        if ids.size != ids.shape[axis]:
            raise _lost(node)
        count, shape = _made(layer), [1] * ids.ndim
        if not count:
            incoming = np.broadcast_to(ids.ravel(), layer.input_shapes[0][axis])
            out = np.repeat(incoming, layer.output_shape[axis] // len(incoming))
        else:
            out = self.made[node.name] = np.arange(count) + len(self._parents)
            self._parents.extend(out.tolist())
            if isinstance(layer, Convolution) and layer.groups > 1:
                self._multiples += [(node, ids, layer.groups), (node, out, layer.groups)]
        shape[axis] = len(out)
        return out.reshape(shape)

    def _together(self, node: Node, ins: Sequence[Ids], output: Shape) -> Ids:
        """Tie the operands, but for those that are repeated along the channels, such as a map of one channel."""
        rank = len(output)
        shapes = [(1,) * (rank - len(shape)) + shape for shape in node.layer.input_shapes]
        aligned = [ids.reshape((1,) * (rank - ids.ndim) + ids.shape) for ids in ins]
        channels = [axis for axis in range(rank) if any(ids.shape[axis] > 1 for ids in aligned)]
        tied = []
        for ids, shape in zip(aligned, shapes, strict=True):
            if all(shape[axis] == output[axis] for axis in channels):
                tied.append(ids)
            elif ids.size > 1:
                raise _lost(node)
        if not tied:
            raise _lost(node)
        for ids in tied[1:]:
            self.tie(tied[0], ids)
        return np.broadcast_to(tied[0], np.broadcast_shapes(*(ids.shape for ids in tied)))

    def _laid_end_to_end(self, node: Node, layer: Concat, ins: Sequence[Ids]) -> Ids:
        axis = layer.axis % len(layer.output_shape)
        others = np.broadcast_shapes(*((*ids.shape[:axis], 1, *ids.shape[axis + 1 :]) for ids in ins))
        if all(ids.shape[axis] == 1 for ids in ins) and max(others, default=1) > 1:
            for ids in ins[1:]:
                self.tie(ins[0], ids)
            return np.broadcast_to(ins[0], others)
        if max(others, default=1) > 1:
            raise _lost(node)
        parts = zip(ins, layer.shapes, strict=True)
        return np.concatenate([np.repeat(ids, shape[axis] // ids.shape[axis], axis) for ids, shape in parts], axis)

    def _share(self, node: Node, ins: Sequence[Ids], out: Ids) -> None:
        """Tie the channels on both sides of nodes that train the same tensor."""
        if not node.parameters:
            return
        own = (ins[0].ravel(), out.ravel())
        owner = self._owners.setdefault(node.parameters[0], own)
        if owner is own:
            return
        if any(mine.shape != first.shape for mine, first in zip(own, owner, strict=True)):
            raise _lost(node)
        for mine, first in zip(own, owner, strict=True):
            self.tie(mine, first)


def _unnumbered(shape: Shape) -> Ids:
    return np.full((1,) * len(shape), _FIXED, dtype=np.int64)


def _lost(node: Node) -> LatteError:
    return LatteError(f"cannot follow the channels through `{node.name}` ({node.layer.kind})", hint=_FULL_WIDTH)


def _reduced(node: Node, layer: Reduce, ids: Ids) -> Ids:
    axes = tuple(axis % ids.ndim for axis in layer.axes)
    if any(ids.shape[axis] > 1 for axis in axes):
        if ids.size != max(ids.shape):
            raise _lost(node)
        return _unnumbered(layer.output_shape)
    return ids if layer.keep else ids.squeeze(axes)


def _copied(node: Node, layer: Copy, ids: Ids) -> Ids:
    if layer.operation == "transpose":
        return ids.transpose(layer.order)
    pairs: Any = zip(ids.shape, layer.shape, layer.output, strict=False)
    if len(layer.shape) != len(layer.output) or any(size > 1 and old != new for size, old, new in pairs):
        raise _lost(node)
    return ids


def _viewed(node: Node, layer: View, ids: Ids) -> Ids:
    """Number the elements that a run of dimensions with channels holds; a flattened channel is there once a pixel."""
    try:
        runs = reshape_runs(layer.shape, layer.output)
    except LatteError as exc:
        raise _lost(node) from exc
    held, sizes = [1] * len(layer.shape), [1] * len(layer.output)
    for ins, outs in runs:
        if max(ids.shape[ins], default=1) > 1:
            held[ins] = layer.shape[ins]
            sizes[outs] = layer.output[outs]
    return np.broadcast_to(ids, held).reshape(sizes)
