"""Where activations lie: which of them share a storage, and where torch has to copy for another shape."""

from collections.abc import Mapping
from itertools import accumulate
from math import prod
from operator import mul
from typing import TypeAlias

from latte_cli.layers import Activation, Attention, Copy, Dropout, Elementwise, Recurrent, Shape, View
from latte_cli.network import Network, Node

Strides: TypeAlias = tuple[int, ...]
"""How many numbers apart neighbours lie, dimension by dimension, as torch counts."""


_LAID_ANEW = ("contiguous", "clone")
"""How torch.export calls what these operators return, which are read as views."""


class Storages:
    """The storages of a network's activations, as torch's operators leave them.

    `roots` has for each activation the one whose storage it shares, `copies` the nodes that see the same data in
    another shape and have to copy it, and `made_contiguous` those that lay an input end to end before they use it.
    """

    def __init__(self, network: Network) -> None:
        given = (*network.inputs, *network.constants)
        self.roots = {name: name for name, _ in given}
        self.copies: set[str] = set()
        self.made_contiguous: set[str] = set()
        strides = {name: contiguous_strides(shape) for name, shape in given}
        for node in network.nodes:
            found = _strides(node, network, strides)
            shares = node.layer.shares_storage and bool(node.inputs) and found is not None
            self.roots[node.output] = self.roots[node.inputs[0]] if shares else node.output
            if found is None:
                self.copies.add(node.name)
            if isinstance(node.layer, Recurrent) and not _is_contiguous(strides, network.shapes, node.inputs[0]):
                self.made_contiguous.add(node.name)
            strides[node.output] = found or contiguous_strides(node.layer.output_shape)


def contiguous_strides(shape: Shape) -> Strides:
    """The strides of a tensor that lies end to end."""
    return tuple(reversed(list(accumulate((1, *reversed(shape[1:])), mul)))) if shape else ()


def view_strides(shape: Shape, strides: Strides, wanted: Shape) -> Strides | None:
    """The strides of the same data in the shape `wanted`; None where no view has them, so that torch copies."""
    if 0 in shape:
        return contiguous_strides(wanted)
    runs: list[tuple[int, int]] = []  # dimensions that lie end to end, as one size and one stride
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        joined = bool(runs) and runs[-1][1] == size * stride
        runs.append((size * runs.pop()[0], stride) if joined else (size, stride))
    found: list[int] = []
    for size in reversed(wanted):
        if size == 1:
            found.append(1)
        elif not runs or runs[-1][0] % size:
            return None
        else:
            count, stride = runs.pop()
            found.append(stride)
            if count > size:
                runs.append((count // size, stride * size))
    return tuple(reversed(found))


def _is_contiguous(strides: Mapping[str, Strides], shapes: Mapping[str, Shape], name: str) -> bool:
    return view_strides(shapes[name], strides[name], (prod(shapes[name]),)) is not None


def dense_strides(shape: Shape, like: Strides) -> Strides:
    """The strides of a new tensor whose dimensions lie in the order of those of another."""
    order = sorted(range(len(shape)), key=lambda axis: -like[axis])
    laid = dict(zip(order, contiguous_strides(tuple(shape[axis] for axis in order)), strict=True))
    return tuple(laid[axis] for axis in range(len(shape)))


def _strides(node: Node, network: Network, strides: Mapping[str, Strides]) -> Strides | None:
    """How a node's output lies; None where it is a view that torch has to copy."""
    if not node.inputs:
        return contiguous_strides(node.layer.output_shape)
    shapes, new = network.shapes, node.layer.output_shape
    shape, own = shapes[node.inputs[0]], strides[node.inputs[0]]
    match node.layer:
        case Copy(operation="transpose", order=order):
            return tuple(own[axis] for axis in order)
        case Copy(operation="slice" | "split", output=output) if len(output) == len(own):
            return own
        case Copy(operation="expand", output=output):
            sizes = zip(shape, output[len(output) - len(shape) :], own, strict=True)
            return (*(0,) * (len(output) - len(shape)), *(step if size == out else 0 for size, out, step in sizes))
        case View() if node.output.startswith(_LAID_ANEW):
            return own if _is_contiguous(strides, shapes, node.inputs[0]) else None
        case View(output=output):
            return view_strides(shape, own, output)
        case Activation() | Dropout() | Elementwise():
            alike = (strides[name] for name in node.read if shapes[name] == new)
            return next((dense_strides(new, each) for each in alike if 0 not in each), contiguous_strides(new))
        case Attention() if node.layer.one_call([name in network.trained_activations for name in node.read]):
            return dense_strides(new, own)
    return contiguous_strides(new)
