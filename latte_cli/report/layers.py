"""Layers in documents: the shapes of what they read, write and train, the part of the module, FLOPs of a phase."""

from collections.abc import Mapping, Sequence
from typing import Any

from latte_cli.layers import Layer, Phase
from latte_cli.network import Network


def layer_figures(layer: Layer, phases: Sequence[Phase], module: str | None) -> dict[str, Any]:
    """What a document says of a layer in `phases`, beside its times; `module` is the path of the module's part."""
    return {
        "module": module,
        "input_shapes": [list(shape) for shape in layer.input_shapes],
        "output_shape": list(layer.output_shape),
        "parameter_shapes": [list(shape) for shape in layer.parameter_shapes],
        "flops": sum(layer.flops(phase) for phase in phases),
    }


def module_paths(network: Network) -> Mapping[str, str | None]:
    """The path of the module's part that each node lies in, by the node's name."""
    return {node.name: node.module for node in network.nodes}
