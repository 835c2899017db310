"""Where activations lie: which of them share a storage, with which strides, and where torch has to copy."""

from math import prod

from latte_cli.estimator.layouts import (
    gradient_copies,
    gradient_strides,
    is_ready,
    output_strides,
    runs_channels_last,
)
from latte_cli.estimator.strides import (
    Strides,
    channels_last_strides,
    contiguous_strides,
    dense_strides,
    lies_as,
    view_strides,
)
from latte_cli.layers import Attention, Copy, View
from latte_cli.network import Network, Node
from latte_cli.precisions import Layout

_FORMATS = {Layout.NCHW: contiguous_strides, Layout.CHANNELS_LAST: channels_last_strides}

_PARTIAL = ("slice", "split", "expand")
"""Views whose gradient is a tensor of another size than that of what they view."""


class Storages:
    """The storages of a network's activations, as torch's operators leave them.

    `roots` has for each activation the one whose storage it shares, `gradients` the one whose gradient is its own, seen
    otherwise, and `strides` how it lies. `copies` are the nodes that see the same data in another shape or layout and
    have to copy it, `channels_last` those that compute on inputs whose channels lie next to each other, and `unready`
    those that do not take their first input as it lies.
    """

    def __init__(self, network: Network) -> None:
        written = {node.output for node in network.nodes}
        given = [(name, shape) for name, shape in network.shapes.items() if name not in written]
        self.roots = {name: name for name, _ in given}
        self.gradients = dict(self.roots)
        self.strides: dict[str, Strides] = {name: contiguous_strides(shape) for name, shape in given}
        self.copies: set[str] = set()
        self.channels_last: set[str] = set()
        self.unready: set[str] = set()
        self._network = network
        for node in network.nodes:
            self._add(node)

    def _add(self, node: Node) -> None:
        shares = node.layer.shares_storage and bool(node.inputs)
        strides = self._view(node) if shares else None
        if shares and strides is None:
            self.copies.add(node.name)
        self.roots[node.output] = node.output if strides is None else self.roots[node.inputs[0]]
        whole = strides is not None and not (isinstance(node.layer, Copy) and node.layer.operation in _PARTIAL)
        self.gradients[node.output] = self.gradients[node.inputs[0]] if whole else node.output
        self.strides[node.output] = self._new(node) if strides is None else strides
        if node.read:
            first = self._network.shapes[node.read[0]], self.strides[node.read[0]]
            self.channels_last |= {node.name} if runs_channels_last(node.layer, *first) else set()
            self.unready |= set() if is_ready(node.layer, *first) else {node.name}

    def gradient_strides(self, node: Node, name: str, arriving: Strides) -> Strides:
        """How the gradient of a node's input lies, by the strides of the one that arrives."""
        shape = self._network.shapes[name]
        match node.layer:
            case Copy(operation="transpose", order=order):
                return tuple(arriving[order.index(axis)] for axis in range(len(order)))
            case View(output=output):
                return view_strides(output, arriving, shape) or contiguous_strides(shape)
        return gradient_strides(node.layer, shape, self.strides[name], arriving)

    def pass_gradient(self, node: Node, arriving: dict[str, Strides]) -> Strides:
        """Take from `arriving` how the gradient of a node's output lies, and note those of its inputs there."""
        network = self._network
        own = arriving.pop(node.output, contiguous_strides(network.shapes[node.output]))
        for name in node.inputs:
            if name in network.trained_activations and name not in arriving:
                arriving[name] = self.gradient_strides(node, name, own)
        return own

    def gradient_copies(self, node: Node, arriving: Strides) -> tuple[int, int]:
        """What a node copies to have the gradient that arrives as it needs it: numbers, and bytes beside."""
        match node.layer:
            case View(shape=shape, output=output):
                return prod(output) if view_strides(output, arriving, shape) is None else 0, 0
        if not node.read:
            return 0, 0
        first = node.read[0]
        return gradient_copies(node.layer, self._network.shapes[first], self.strides[first], arriving)

    def _view(self, node: Node) -> Strides | None:
        """How the output of a node lies that sees its input's data otherwise; None where torch has to copy it."""
        shape, own = self._network.shapes[node.inputs[0]], self.strides[node.inputs[0]]
        match node.layer:
            case Copy(operation="transpose", order=order):
                return tuple(own[axis] for axis in order)
            case Copy(operation="slice" | "split", output=output) if len(output) == len(own):
                return own
            case Copy(operation="expand", output=output):
                sizes = zip(shape, output[len(output) - len(shape) :], own, strict=True)
                kept = (step if size == out else 0 for size, out, step in sizes)
                return (*(0,) * (len(output) - len(shape)), *kept)
            case View(output=output):
                if node.copied or (node.layout and not lies_as(shape, own, _FORMATS[node.layout](shape))):
                    return None
                return own if output == shape else view_strides(shape, own, output)
        return contiguous_strides(node.layer.output_shape)

    def _new(self, node: Node) -> Strides:
        """How a tensor lies that a node makes, or copies to see it in another shape."""
        network, new = self._network, node.layer.output_shape
        shapes, own = [network.shapes[name] for name in node.read], [self.strides[name] for name in node.read]
        if node.layout:
            return _FORMATS[node.layout](new)
        if node.copied and shapes[0] == new:
            return dense_strides(new, own[0])
        if isinstance(node.layer, Attention):
            one_call = node.layer.one_call([name in network.trained_activations for name in node.read])
            return dense_strides(new, own[0]) if one_call else contiguous_strides(new)
        return output_strides(node.layer, shapes, own)
