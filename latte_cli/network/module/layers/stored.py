"""Stored tensors as modules that take no input."""

import torch
from torch import Tensor, nn

from latte_cli.layers import Stored
from latte_cli.network.module.layers.function import Attributes, Builders


class StoredTensor(nn.Module):
    """A stored tensor as an activation: a parameter where it is trained, else a buffer; zeros where it is not given."""

    def __init__(self, layer: Stored, values: Tensor | None = None) -> None:
        super().__init__()
        start = torch.zeros(layer.shape) if values is None else values.reshape(layer.shape)
        if layer.trained:
            self.value = nn.Parameter(start)
        else:
            self.register_buffer("value", start)

    def forward(self) -> Tensor:
        value: Tensor = self.value
        return value


def _stored(layer: Stored, attributes: Attributes) -> nn.Module:
    return StoredTensor(layer)


BUILDERS: Builders = {Stored: _stored}
