"""Layers that multiply matrices."""

import torch
from torch import nn

from latte_cli.errors import LatteError
from latte_cli.layers import Linear, MatMul
from latte_cli.network.module.layers.function import Attributes, Builders, Function


def _check_scales(attributes: Attributes) -> None:
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise LatteError("a Gemm that scales its product cannot be run", hint="`alpha` and `beta` of 1 can")


def _linear(layer: Linear, attributes: Attributes) -> nn.Module:
    _check_scales(attributes)
    return nn.Linear(layer.in_features, layer.out_features, bias=layer.bias)


def _matmul(layer: MatMul, attributes: Attributes) -> nn.Module:
    _check_scales(attributes)
    return Function(torch.matmul)


BUILDERS: Builders = {Linear: _linear, MatMul: _matmul}
