"""Whether a module's file and the live module are one network, which computes and trains as the module does."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from latte_cli import load
from latte_cli.network import Network
from latte_cli.network.module import NetworkModule
from latte_cli.network.weights import weights


def assert_computes_alike(module: nn.Module, x: Any, folder: Path) -> Network:
    """The network of a module that is called with `x`, a tensor or a tuple; it has been run and trained."""
    given = x if isinstance(x, tuple) else (x,)
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(module, given), path)
    network = load(path)
    assert network.layers == load(module, given).layers
    wanted = module(*given)
    wanted.square().sum().backward()
    own = [each for each in module.parameters() if each.grad is not None]
    assert network.trained_parameters == sum(each.numel() for each in own)
    assert network.parameters == sum(each.numel() for each in module.parameters())
    built = NetworkModule(network, weights=weights(path))
    assert trained(built) == network.trained_parameters
    result = built(*given)
    np.testing.assert_allclose(result.detach(), wanted.detach(), atol=1e-5)
    result.square().sum().backward()
    gradients = [each.grad for each in built.parameters() if each.grad is not None]
    assert _squares(gradients) == pytest.approx(_squares(each.grad for each in own), rel=1e-4)
    return network


def trained(module: nn.Module) -> int:
    """How many numbers a module trains."""
    return sum(each.numel() for each in module.parameters() if each.requires_grad)


def _squares(tensors: Iterable[Any]) -> float:
    return sum(float(each.square().sum()) for each in tensors)
