"""A training step: the calls that a network, its loss and its optimizer make, and the memory they hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from latte_cli.errors import LatteError
from latte_cli.layers import Layer, Phase
from latte_cli.lookup import Pair
from latte_cli.network import Network, Node
from latte_cli.tasks import Precision

OPTIMIZERS: dict[str, int] = {"none": 0, "sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}
"""Optimizers by name, each with the numbers of state it keeps for a parameter."""

LOSS, UPDATE = "(loss)", "(update)"
"""The names of what a step does besides the network's nodes."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One call in a training step: `phase` of the node called `name`."""

    name: str
    layer: Layer
    phase: Phase

    @property
    def pair(self) -> Pair:
        """What decides its time."""
        return self.layer, self.phase


def training_step(network: Network, optimizer: str) -> Iterator[Work]:
    """The calls of one training step as autograd makes them: no gradient for what depends on no parameter.

    Raises LatteError where there are no layers, and where there is an optimizer but nothing to train.
    """
    if not network.nodes:
        raise LatteError(f"`{network.name}` holds no layers that depend on its inputs", hint="is it the right file?")
    trained = network.trained
    for node in network.nodes:
        for phase in _phases(node, trained):
            yield Work(name=node.name, layer=node.layer, phase=phase)
    if network.outputs:
        loss = network.loss()
        for phase in (Phase.FORWARD, Phase.BACKWARD) if network.outputs[0] in trained else (Phase.FORWARD,):
            yield Work(name=LOSS, layer=loss, phase=phase)
    if optimizer != "none":
        yield Work(name=UPDATE, layer=network.optimizer(optimizer), phase=Phase.UPDATE)


def _phases(node: Node, trained: frozenset[str]) -> Iterator[Phase]:
    yield Phase.FORWARD
    if node.output not in trained:
        return
    if Phase.BACKWARD in node.layer.phases:
        yield Phase.BACKWARD
        return
    if any(name in trained for name in node.inputs):
        yield Phase.BACKWARD_DATA
    if node.layer.parameter_shapes:
        yield Phase.BACKWARD_FILTER


def memory_bytes(network: Network, optimizer: str, precision: Precision, workspace_bytes: int) -> int:
    """What a training step holds at its peak: parameters, gradients and the optimizer's state, the inputs and each
    node's output once (kept for backward; views hold nothing of their own), and the largest workspace.
    """
    element = precision.element_bytes
    own = 4 if precision is Precision.BF16_AUTOCAST else element
    activations = sum(prod(shape) for _, shape in network.inputs)
    activations += sum(prod(node.layer.output_shape) for node in network.nodes if not node.layer.free)
    return own * network.parameters * (2 + OPTIMIZERS[optimizer]) + element * activations + workspace_bytes
