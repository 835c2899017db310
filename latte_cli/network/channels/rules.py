"""Rules: how channels pass each kind of layer."""

from collections.abc import Mapping, Sequence

import numpy as np

from latte_cli.errors import LatteError
from latte_cli.layers import (
    Activation,
    Attention,
    Concat,
    Convolution,
    Copy,
    Dropout,
    Elementwise,
    Embedding,
    Linear,
    MatMul,
    Norm,
    Pool,
    Recurrent,
    Reduce,
    Shape,
    Softmax,
    Stored,
    View,
    reshape_runs,
)
from latte_cli.network.channels.ties import FIXED, Ids, Ties
from latte_cli.network.graph import Node, Value

_PASSING = frozenset(("cast", "resize", "trilu", "expand"))
"""Copies that leave each dimension with channels as it is."""

_MOST_PLACES = 2**22  # four million numbers are tied in a second; of larger tables only the last dimension is cut


class Rules:
    """Numbers what comes out of a node by what goes in, and ties what the node makes the same.

    `made` are the numbers that nodes make, `multiples` what is split evenly, `parts` what is split off or left before
    it, `whole` dimensions that cannot be cut, `lost` the nodes that channels are not followed through, with the kinds
    of their layers and these channels.
    """

    def __init__(self, ties: Ties) -> None:
        self._ties = ties
        self.made: dict[str, Ids] = {}
        self.multiples: list[tuple[Node, Ids, int]] = []
        self.parts: list[Ids] = []
        self.whole: list[tuple[Node, Ids, int]] = []
        self.lost: dict[str, tuple[str, list[Ids]]] = {}

    def numbers_of_output(self, node: Node, ins: Sequence[Ids], given: Sequence[Ids] = ()) -> Ids:
        """The numbers of what a node writes; `given` are those of what stands in for its last parameters."""
        layer = node.layer
        if given:
            return self._with_given(node, ins, given)
        match layer:
            case Stored():
                return self._number_stored(node, layer)
            case Convolution() | Linear():
                return self._number_products(node, ins[0])
            case Embedding():
                self._fix_all(node, ins)
                return self._new(node, layer.width)
            case Recurrent():
                return self._recurrent(node, layer, ins)
            case Attention():
                return self._pass_attention(layer, ins)
            case MatMul():
                return self._pass_product(node, ins)
            case Norm():
                return self._pass_norm(node, layer, ins[0])
            case Activation() | Dropout() | Softmax():
                return ins[0]
            case Pool():
                return ins[0] if max(ins[0].shape[2:], default=1) == 1 else self._fix_all(node, ins)
            case Elementwise():
                return self._together(node, ins)
            case Concat():
                return self._laid_end_to_end(layer, ins)
            case Reduce():
                return self._pass_reduction(layer, ins[0])
            case Copy():
                return self._pass_copy(node, layer, ins[0])
            case View():
                return self._pass_view(node, layer, ins[0])
        return self._fix_all(node, ins)

    def _with_given(self, node: Node, ins: Sequence[Ids], given: Sequence[Ids]) -> Ids:
        """A given bias has the channels that the node makes; through other parameters channels are not followed."""
        biased = isinstance(node.layer, Convolution | Linear) and node.parameters
        out = self._number_products(node, ins[0]) if biased else self._fix_all(node, ins)
        for ids in given:
            if biased:
                self._ties.tie(self._along(out, node.layer.channel_axis), ids.ravel())
            else:
                self._ties.fix(ids)
        return out

    def _fix_all(self, node: Node, ins: Sequence[Ids]) -> Ids:
        """Let all that it reads keep its width."""
        self.lose(node, ins)
        return np.full((1,) * len(node.layer.output_shape), FIXED, dtype=np.int64)

    def lose(self, node: Node, grids: Sequence[Ids]) -> None:
        """Let channels keep their width, as they cannot be followed through the node."""
        self.lost.setdefault(node.name, (node.layer.kind, []))[1].extend(grids)
        for ids in grids:
            self._ties.fix(ids)

    def _new(self, node: Node, count: int) -> Ids:
        """New numbers along the channels that a node makes."""
        shape = [1] * len(node.layer.output_shape)
        shape[1 if isinstance(node.layer, Convolution) else -1] = count
        self.made[node.name] = self._ties.new(*shape)
        return self.made[node.name]

    def _along(self, ids: Ids, axis: int) -> Ids:
        """The numbers along `axis`, after all those at one place of it are made the same."""
        self._ties.stiffen(ids, tuple(other for other in range(ids.ndim) if other != axis % ids.ndim))
        return np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)[:, 0]

    def _number_stored(self, node: Node, layer: Stored) -> Ids:
        """Those of each place, as what it is combined with says which of its dimensions are channels."""
        shape = layer.shape
        if not layer.trained or not shape:
            return np.full((1,) * len(shape), FIXED, dtype=np.int64)
        if int(np.prod(shape)) > _MOST_PLACES:
            shape = (*(1,) * (len(shape) - 1), shape[-1])
        self.made[node.name] = self._ties.new(*shape)
        return self.made[node.name]

    def _number_products(self, node: Node, ids: Ids) -> Ids:
        layer, axis = node.layer, node.layer.channel_axis
        incoming = self._along(ids, axis)
        if layer.made_channels:
            out = self._new(node, layer.made_channels)
            if isinstance(layer, Convolution) and layer.groups > 1:
                self.multiples += [(node, incoming, layer.groups), (node, out, layer.groups)]
            return out
        wide = np.broadcast_to(incoming, layer.input_shapes[0][axis])
        shape = [1] * ids.ndim
        shape[axis] = layer.output_shape[axis]
        return np.repeat(wide, shape[axis] // len(wide)).reshape(shape)

    def _recurrent(self, node: Node, layer: Recurrent, ins: Sequence[Ids]) -> Ids:
        """Both directions keep the same channels, whose number is the size of the hidden state."""
        self._along(ins[0], -1)
        out = self._new(node, layer.hidden)
        for state in ins[1:]:
            self._ties.tie(state, out[0])
        return out

    def _pass_attention(self, layer: Attention, ins: Sequence[Ids]) -> Ids:
        """Heads go whole, and with them those of keys and values that they read; a single one of these stays."""
        for ids in ins[:3]:
            self._ties.stiffen(ids, (0, 2, 3))
        queries, *others = (ids[:1, :, :1, :1] for ids in ins[:3])
        heads = np.broadcast_to(queries, (1, layer.heads, 1, 1))
        for ids in others:
            if layer.key_heads == 1 < layer.heads:
                self._ties.fix(ids)
                continue
            read = np.broadcast_to(ids, (1, layer.key_heads, 1, 1))
            self._ties.tie(heads, np.repeat(read, layer.heads // layer.key_heads, axis=1))
        for mask in ins[3:]:
            self._mask(layer, mask, heads)
        if layer.mask and len(ins) == 3:  # a constant one
            self._ties.fix(heads if len(layer.mask) > 2 and layer.mask[-3] > 1 else np.array(FIXED))
        return queries

    def _mask(self, layer: Attention, mask: Ids, heads: Ids) -> None:
        shape = (*(1,) * (4 - len(layer.mask)), *layer.mask)
        aligned = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        self._ties.stiffen(aligned, (0, 2, 3))
        if shape[1] == 1:
            self._ties.fix(aligned)
        else:
            self._ties.tie(aligned, heads)

    def _pass_product(self, node: Node, ins: Sequence[Ids]) -> Ids:
        """Products of heads keep their size; others may sum over fewer channels."""
        left, right = ins
        if left.shape[0] > 1 or right.shape[0] > 1:
            for ids in ins:
                self._ties.stiffen(ids, (1, 2))
            self._ties.tie(left[:, :1, :1], right[:, :1, :1])
            return left[:, :1, :1] if left.shape[0] > 1 else right[:, :1, :1]
        if left.shape[1] > 1 and right.shape[2] > 1:
            return self._fix_all(node, ins)
        self._ties.stiffen(left, (1,) if left.shape[2] > 1 else ())
        self._ties.stiffen(right, (2,) if right.shape[1] > 1 else ())
        if left.shape[2] > 1 or right.shape[1] > 1:
            self._ties.tie(left[:, :1, :], right[:, :, :1].transpose(0, 2, 1))
        rows = left[:, :, :1] if left.shape[2] == 1 else np.zeros((1, 1, 1), dtype=np.int64)
        columns = right[:, :1, :] if right.shape[1] == 1 else np.zeros((1, 1, 1), dtype=np.int64)
        return rows if rows.shape[1] > 1 else columns

    def _pass_norm(self, node: Node, layer: Norm, ids: Ids) -> Ids:
        """Let the dimension that it has parameters for be cut alone, or stay."""
        if layer.function == "group":
            self.multiples.append((node, self._along(ids, 1), layer.span))
            if layer.per_group:
                return ids
        if layer.function in ("layer", "rms") and layer.affine:
            last = ids.ndim - 1
            if layer.span > 1 and max(ids.shape[-layer.span :]) > 1:
                return np.broadcast_to(self._fix_all(node, [ids]), (1,) * ids.ndim)
            if ids.size > ids.shape[last] > 1:
                self._ties.stiffen(ids, (last,))
        elif layer.affine and ids.ndim > 1 and ids.size > ids.shape[1] > 1:
            self._along(ids, 1)
        return ids

    def _together(self, node: Node, ins: Sequence[Ids]) -> Ids:
        """Tie the operands, but for those that are repeated along the channels, such as a map of one channel.

        What such an operand has along another dimension is the same for all channels, so that it stays.
        """
        output = node.layer.output_shape
        rank = len(output)
        shapes = [(1,) * (rank - len(shape)) + shape for shape in node.layer.input_shapes]
        aligned = [ids.reshape((1,) * (rank - ids.ndim) + ids.shape) for ids in ins]
        channels = [axis for axis in range(rank) if any(ids.shape[axis] > 1 for ids in aligned)]
        whole: list[tuple[Ids, Shape]] = []
        repeated: list[tuple[Ids, Shape]] = []
        for ids, shape in zip(aligned, shapes, strict=True):
            everywhere = all(shape[axis] == output[axis] for axis in channels)
            (whole if everywhere else repeated).append((ids, shape))
        for ids, _ in repeated:
            if ids.size > 1:
                self._fix_all(node, [ids])
        if not whole:
            return np.full((1,) * rank, FIXED, dtype=np.int64)
        least: Ids = min((ids for ids, _ in whole), key=lambda ids: ids.size if ids.size > 1 else np.inf)
        for ids, _ in whole:
            self._ties.tie(ids, least)
        for _, shape in repeated:
            self._ties.stiffen(least, tuple(axis for axis in channels if shape[axis] == output[axis]))
        return least

    def _laid_end_to_end(self, layer: Concat, ins: Sequence[Ids]) -> Ids:
        axis = layer.axis % len(layer.output_shape)
        others = np.broadcast_shapes(*((*ids.shape[:axis], 1, *ids.shape[axis + 1 :]) for ids in ins))
        if all(ids.shape[axis] == 1 for ids in ins) and max(others, default=1) > 1:
            for ids in ins[1:]:
                self._ties.tie(ins[0], ids)
            return np.broadcast_to(ins[0], others)
        parts = zip(ins, layer.shapes, strict=True)
        return np.concatenate(
            [np.broadcast_to(ids, (*others[:axis], shape[axis], *others[axis + 1 :])) for ids, shape in parts], axis
        )

    def _pass_reduction(self, layer: Reduce, ids: Ids) -> Ids:
        axes = tuple(axis % ids.ndim for axis in layer.axes)
        if any(size > 1 for axis, size in enumerate(ids.shape) if axis not in axes):
            self._ties.stiffen(ids, axes)
            first = ids[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(ids.ndim))]
        else:
            varies = any(ids.shape[axis] > 1 for axis in axes)
            first = np.full((1,) * ids.ndim, FIXED, dtype=np.int64) if varies else ids
        return first if layer.keep else first.squeeze(axes)

    def _pass_copy(self, node: Node, layer: Copy, ids: Ids) -> Ids:
        if layer.operation == "transpose":
            return ids.transpose(layer.order)
        if layer.operation == "expand" and len(layer.output) > len(layer.shape):
            ids = ids.reshape((1,) * (len(layer.output) - len(layer.shape)) + ids.shape)
        shape = (1,) * (len(layer.output) - len(layer.shape)) + layer.shape
        if len(shape) != len(layer.output):
            return self._fix_all(node, [ids])
        out = ids
        for axis, (old, new) in enumerate(zip(shape, layer.output, strict=True)):
            if ids.shape[axis] > 1:
                picked = self._pick_along(node, layer, out, axis, (old, new))
                if picked is None:
                    return self._fix_all(node, [ids])
                out = picked
        return out

    def _pick_along(self, node: Node, layer: Copy, ids: Ids, axis: int, sizes: tuple[int, int]) -> Ids | None:
        """The numbers left along `axis`; None where that is not known."""
        attributes, (old, new) = dict(node.attributes), sizes
        match layer.operation:
            case "slice" | "split":
                start, step = _start(attributes, axis, old), _step(attributes, axis)
                if start is None:
                    return None
                if step == 1:
                    self.parts += [part.ravel() for part in np.split(ids, [start, start + new], axis)[:2]]
                elif old != new or step != 1:
                    self.whole.append((node, ids, axis))
                return ids.take(np.arange(start, start + new * step, step), axis)
            case "gather":
                rows = attributes.get("indices")
                along = attributes.get("axis", 0)
                if not isinstance(along, int) or along % len(layer.shape) != axis:
                    return ids if old == new else None
                if not isinstance(rows, tuple) or len(rows) != new:
                    return None
                self.whole.append((node, ids, axis))
                return ids.take(np.array(rows, dtype=np.int64) % old, axis)
            case "concat_constants" if attributes.get("axis") == axis:
                return _between_constants(attributes, ids, axis)
            case "pad" if old <= new and attributes.get("mode", "constant") == "constant":
                before = attributes.get("before", (0,) * len(layer.shape))
                first = int(before[axis]) if isinstance(before, tuple) else 0
                pads = [(0, 0)] * ids.ndim
                pads[axis] = (first, new - old - first)
                return np.pad(ids, pads, constant_values=FIXED) if first >= 0 and new - old >= first else None
            case "tile" if new % old == 0:
                return np.concatenate([ids] * (new // old), axis)
        return ids if layer.operation in _PASSING and old == new else None

    def _pass_view(self, node: Node, layer: View, ids: Ids) -> Ids:
        """Number the elements that a run of dimensions with channels holds; a flattened one is there once a pixel."""
        try:
            runs = reshape_runs(layer.shape, layer.output)
        except LatteError:
            return self._fix_all(node, [ids])
        held, sizes = [1] * len(layer.shape), [1] * len(layer.output)
        for ins, outs in runs:
            if max(ids.shape[ins], default=1) > 1:
                held[ins] = layer.shape[ins]
                sizes[outs] = layer.output[outs]
        return np.broadcast_to(ids, held).reshape(sizes)


def _between_constants(attributes: Mapping[str, Value], ids: Ids, axis: int) -> Ids:
    """The numbers of parts that constants are laid between, which keep their width."""
    sizes, varying = part_sizes(attributes)
    parts = iter(np.split(ids, np.cumsum([sizes[at] for at in varying])[:-1], axis))
    fixed = [np.full((*ids.shape[:axis], size, *ids.shape[axis + 1 :]), FIXED) for size in sizes]
    return np.concatenate([next(parts) if at in varying else fixed[at] for at in range(len(sizes))], axis)


def part_sizes(attributes: Mapping[str, Value]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How large parts and constants laid end to end are, and which of them are parts."""
    sizes, varying = attributes["sizes"], attributes["varying"]
    if not isinstance(sizes, tuple) or not isinstance(varying, tuple):
        raise LatteError("constants are laid beside parts of no known size", hint="read the model's file again")
    return tuple(map(int, sizes)), tuple(map(int, varying))


def _start(attributes: Mapping[str, Value], axis: int, size: int) -> int | None:
    """Where a slice or a split begins along `axis`."""
    if "start" in attributes:
        start = attributes["start"] if attributes.get("axis", 0) == axis else 0
        return int(start) if isinstance(start, int | float) else None
    starts, axes = attributes.get("starts"), attributes.get("axes")
    if not isinstance(starts, tuple):
        return None
    places = axes if isinstance(axes, tuple) and len(axes) == len(starts) else range(len(starts))
    start = int(dict(zip(places, starts, strict=True)).get(axis, 0))
    return start + size if start < 0 else start


def _step(attributes: Mapping[str, Value], axis: int) -> int:
    steps = attributes.get("steps")
    return int(steps[axis]) if isinstance(steps, tuple) and axis < len(steps) else 1
