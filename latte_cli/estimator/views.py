"""Views: which rearrangements torch makes without a copy, since no later operation needs another layout."""

from latte_cli.estimator.memory import CallPosition
from latte_cli.estimator.storages import Storages
from latte_cli.estimator.strides import Strides
from latte_cli.layers import Copy, Phase
from latte_cli.network import Network
from latte_cli.network.graph import Node


def uncopied_views(network: Network, storages: Storages) -> frozenset[CallPosition]:
    """The forward and backward calls of rearrangements that move no data.

    A rearrangement is measured as the copy that it leads to. It leads to none where each reader takes the data as it
    lies. The gradient of a `transpose` is a view too; the call before copies it, where that needs another layout. Other
    rearrangements make a new gradient.
    """
    forward = _copied_by_readers(network, storages)
    backward = _copied_gradients(network, storages)
    makers = {node.output: node for node in network.nodes}
    found: set[CallPosition] = set()
    for node in network.nodes:
        if isinstance(node.layer, Copy) and _is_view(node, storages):
            if node.output not in forward:
                found.add((node.name, Phase.FORWARD))
            if node.layer.operation == "transpose" and not _is_copied_before(node, makers, backward, storages):
                found.add((node.name, Phase.BACKWARD))
    return frozenset(found)


def _is_view(node: Node, storages: Storages) -> bool:
    return node.layer.shares_storage and node.name not in storages.copies


def _copied_by_readers(network: Network, storages: Storages) -> set[str]:
    """The activations that a reader copies, itself or after it has seen them otherwise."""
    copied: set[str] = set()
    for node in reversed(network.nodes):
        if node.layer.shares_storage and node.inputs:
            if node.name in storages.copies or node.output in copied:
                copied.add(node.inputs[0])
        elif node.name in storages.unready:
            copied.add(node.read[0])
    return copied


def _copied_gradients(network: Network, storages: Storages) -> set[str]:
    """The activations whose gradients the call that made the activation copies first."""
    arriving: dict[str, Strides] = {}
    lying = [(node, storages.pass_gradient(node, arriving)) for node in reversed(network.nodes)]
    return {node.output for node, strides in lying if storages.gradient_copies(node, strides)[0]}


def _is_copied_before(node: Node, makers: dict[str, Node], copied: set[str], storages: Storages) -> bool:
    """Whether the gradient that leaves a view is copied by what made its input, or by a view before it."""
    maker = makers.get(node.inputs[0])
    while maker is not None:
        if maker.output in copied:
            return True
        maker = makers.get(maker.inputs[0]) if maker.inputs and _is_view(maker, storages) else None
    return False
