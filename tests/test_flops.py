"""FLOPs and parameters against torch's own counter."""

from math import prod

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from latte_cli.layers import Attention, Convolution, Layer, Linear, MatMul, Phase, Shape
from latte_cli.network import Network, zoo
from latte_cli.network.module import NetworkModule, layer_module
from latte_cli.network.onnx import read

COUNTED = (Convolution, Linear, MatMul)
"""The kinds that torch's counter knows."""

aten = torch.ops.aten
FUSED = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: 2 * prod(q[:-1]) * k[-2] * 2 * q[-1],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda _, q, k, v, *__, **___: (
        2 * prod(q[:-1]) * k[-2] * 5 * q[-1]
    ),
}
"""The products of attention in one call on a CPU, for which torch's counter has no rule: two, and five backward."""

SIZES = {"alexnet": 63, "mobilenet_v2": 32, "resnet18": 32, "resnet34": 32, "resnet50": 32, "vgg11": 32, "vgg16": 32}


def overcounted(layer: Layer) -> int:
    """How often torch counts a grouped filter gradient: once for each group, each time whole."""
    return layer.groups if isinstance(layer, Convolution) else 1


def ours(found: Network) -> tuple[int, int]:
    """FLOPs forward and backward; the first layer has no data gradient."""
    forward = backward = 0
    for node in found.nodes:
        layer = node.layer
        if isinstance(layer, COUNTED):
            forward += layer.flops(Phase.FORWARD)
            flows = any(name in found.trained_activations for name in node.inputs)
            backward += layer.flops(Phase.BACKWARD_DATA) * flows + layer.flops(Phase.BACKWARD)
            backward += layer.flops(Phase.BACKWARD_FILTER) * overcounted(layer)
    return forward, backward


def counted(module: nn.Module, *inputs: torch.Tensor) -> tuple[int, int]:
    with FlopCounterMode(display=False) as forward:
        out = module(*inputs)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_flops_and_parameters_are_those_that_torch_counts(name: str) -> None:
    content = zoo.export(name, image_size=SIZES.get(name))
    found = read(content, name=name, sha256="", batch_size=2, allow_unknown=False)
    module = NetworkModule(found).to("meta")
    forward, backward = counted(module, torch.empty(found.inputs[0][1], device="meta"))
    assert ours(found) == (forward, backward)
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("mask", "trained"), [((), False), ((5, 5), False), ((5, 5), True)])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("value_width", [6, 7])
def test_attention_goes_backward_as_torch_does_on_a_cpu(
    mask: Shape, trained: bool, dropout: bool, value_width: int
) -> None:
    sizes = {"batch": 2, "heads": 4, "key_heads": 4, "queries": 5, "keys": 5, "width": 6}
    layer = Attention(**sizes, value_width=value_width, mask=mask, dropout=dropout, trained_mask=trained)
    shapes = enumerate(layer.input_shapes)
    inputs = [torch.rand(shape).requires_grad_(place < 3 or trained) for place, shape in shapes]
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        output = layer_module(layer)(*inputs)
        forward = counter.get_total_flops()
        output.sum().backward()
    assert layer.flops(Phase.FORWARD) == forward
    assert layer.flops(Phase.BACKWARD) == counter.get_total_flops() - forward
