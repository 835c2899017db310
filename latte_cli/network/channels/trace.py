"""Traces: which channels of a network's activations are the same."""

from collections.abc import Sequence
from math import lcm
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latte_cli.errors import LatteError
from latte_cli.layers import (
    Activation,
    Concat,
    Convolution,
    Copy,
    Dropout,
    Elementwise,
    Linear,
    Norm,
    Pool,
    Reduce,
    Shape,
    Softmax,
    Stored,
    View,
    reshape_runs,
)
from latte_cli.network.graph import Network, Node

Ids: TypeAlias = NDArray[np.int64]
"""Who the channels of an activation are: as many dimensions as it has, of size 1 where the number does not matter."""

FIXED = 0
"""Stands for what cannot be cut."""

FULL_WIDTH = "use `--widths 1`: sub-models of such networks are not known yet"


class Trace:
    """Gives each channel that a node makes a number, follows them through the network and ties those that must agree.

    Tying more than needed is safe: it leaves channels that cannot be cut apart.
    """

    def __init__(self, network: Network) -> None:
        self.made: dict[str, Ids] = {}
        self.read: dict[str, Sequence[Ids]] = {}
        self.written: dict[str, Ids] = {}
        self._parents = [FIXED]
        self._multiples: list[tuple[Node, Ids, int]] = []
        self._owners: dict[str, tuple[Ids, ...]] = {}
        known: dict[str, Ids] = {name: _unnumbered(shape) for name, shape in network.inputs}
        for node in network.nodes:
            before = zip(node.read, node.layer.input_shapes, strict=True)
            ins = [known[name] if name in known else _unnumbered(shape) for name, shape in before]
            known[node.output] = self._outgoing(node, ins)
            self.read[node.name], self.written[node.name] = ins, known[node.output]
            self._share(node, ins, known[node.output])
        for name in network.outputs:
            self.tie(known.get(name, _unnumbered(())), np.array(FIXED))

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
                raise lost(node)
        return found

    def _outgoing(self, node: Node, ins: Sequence[Ids]) -> Ids:
        layer = node.layer
        if node.weights_given:
            for ids in ins:
                self.tie(ids, np.array(FIXED))
            return _unnumbered(layer.output_shape)
        match layer:
            case Stored():
                return (
                    self._produced(node, _unnumbered(layer.shape)) if layer.made_channels else _unnumbered(layer.shape)
                )
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
            raise lost(node)
        return _unnumbered(layer.output_shape)

    def _produced(self, node: Node, ids: Ids) -> Ids:
        layer = node.layer
        axis = layer.channel_axis
        if ids.size != ids.shape[axis]:
            raise lost(node)
        count, shape = layer.made_channels, [1] * ids.ndim
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
                raise lost(node)
        if not tied:
            raise lost(node)
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
            raise lost(node)
        parts = zip(ins, layer.shapes, strict=True)
        return np.concatenate([np.repeat(ids, shape[axis] // ids.shape[axis], axis) for ids, shape in parts], axis)

    def _share(self, node: Node, ins: Sequence[Ids], out: Ids) -> None:
        """Tie the channels on both sides of nodes that train the same tensor."""
        if not node.parameters:
            return
        own = tuple(ids.ravel() for ids in (*ins[:1], out))
        owner = self._owners.setdefault(node.parameters[0], own)
        if owner is own:
            return
        if [mine.shape for mine in own] != [first.shape for first in owner]:
            raise lost(node)
        for mine, first in zip(own, owner, strict=True):
            self.tie(mine, first)


def _unnumbered(shape: Shape) -> Ids:
    return np.full((1,) * len(shape), FIXED, dtype=np.int64)


def lost(node: Node) -> LatteError:
    """Channels that cannot be followed through a node."""
    return LatteError(f"cannot follow the channels through `{node.name}` ({node.layer.kind})", hint=FULL_WIDTH)


def _reduced(node: Node, layer: Reduce, ids: Ids) -> Ids:
    axes = tuple(axis % ids.ndim for axis in layer.axes)
    if any(ids.shape[axis] > 1 for axis in axes):
        if ids.size != max(ids.shape):
            raise lost(node)
        return _unnumbered(layer.output_shape)
    return ids if layer.keep else ids.squeeze(axes)


def _copied(node: Node, layer: Copy, ids: Ids) -> Ids:
    if layer.operation == "transpose":
        return ids.transpose(layer.order)
    pairs: Any = zip(ids.shape, layer.shape, layer.output, strict=False)
    if len(layer.shape) != len(layer.output) or any(size > 1 and old != new for size, old, new in pairs):
        raise lost(node)
    return ids


def _viewed(node: Node, layer: View, ids: Ids) -> Ids:
    """Number the elements that a run of dimensions with channels holds; a flattened channel is there once a pixel."""
    try:
        runs = reshape_runs(layer.shape, layer.output)
    except LatteError as exc:
        raise lost(node) from exc
    held, sizes = [1] * len(layer.shape), [1] * len(layer.output)
    for ins, outs in runs:
        if max(ids.shape[ins], default=1) > 1:
            held[ins] = layer.shape[ins]
            sizes[outs] = layer.output[outs]
    return np.broadcast_to(ids, held).reshape(sizes)
