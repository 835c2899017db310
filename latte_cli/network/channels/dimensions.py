"""Dimensions: which channels those of a layer's parameters are."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from latte_cli.layers import Convolution, Embedding, Linear, Norm, Recurrent, Shape, Stored
from latte_cli.network.channels.ties import Ids
from latte_cli.network.graph import Node

Owned: TypeAlias = tuple[str, Shape, tuple[Ids | None, ...]]
"""A parameter's name and shape, and the channels of each of its dimensions, None for one that has none."""


def first_along(ids: Ids, axis: int) -> Ids | None:
    """The channels along `axis`, those of the first place of the other dimensions; None where there are none."""
    if ids.shape[axis] == 1:
        return None
    return np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)[:, 0]


def channels_of_parameters(node: Node, ins: Sequence[Ids], out: Ids) -> Iterator[Owned]:
    """Each parameter of a node with the channels of its dimensions."""
    names = node.parameters or tuple(f"{node.name}.{at}" for at in range(len(node.parameter_shapes)))
    for at, (name, shape) in enumerate(zip(names, node.parameter_shapes, strict=False)):
        yield name, shape, _owners(node, at, ins, out)


def _owners(node: Node, at: int, ins: Sequence[Ids], out: Ids) -> tuple[Ids | None, ...]:
    layer = node.layer
    shape = layer.parameter_shapes[at]
    match layer:
        case Convolution() if at == 0:
            read, made = first_along(ins[0], 1), first_along(out, 1)
            first, second = (read, made) if layer.transposed else (made, read)
            return (first, None if layer.groups > 1 else second, *(None,) * len(layer.kernel))
        case Convolution():
            return (first_along(out, 1),)
        case Linear():
            made = first_along(out, out.ndim - 1)
            return (made, first_along(ins[0], ins[0].ndim - 1)) if at == 0 else (made,)
        case Embedding():
            return (None, first_along(out, out.ndim - 1))
        case Stored():
            return tuple(first_along(out, axis) for axis in range(out.ndim))
        case Recurrent():
            hidden = first_along(out, out.ndim - 1)
            rows = None if hidden is None else np.tile(hidden, shape[1] // layer.hidden)
            columns = (first_along(ins[0], ins[0].ndim - 1), hidden)
            return (None, rows, columns[at]) if at < len(columns) else (None, rows)
        case Norm(function="batch" | "group" | "instance") if not layer.per_group:
            return (first_along(ins[0], 1),)
        case Norm(function="layer" | "rms", span=1):
            return (first_along(ins[0], ins[0].ndim - 1),)
    return (None,) * len(shape)
