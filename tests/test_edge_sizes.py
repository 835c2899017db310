"""Layers at their smallest and oddest sizes: torch's training step holds LATTE's shapes and refusals to account."""

import logging
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from running import ended
from torch import Tensor, nn

from latte_cli.errors import LatteError
from latte_cli.estimator import Step, Untrainable, step_calls
from latte_cli.layers import Norm
from latte_cli.network import load
from latte_cli.network.module import layer_module

SIZES = (1, 2, 3)


def torch_refuses(module: nn.Module, *shape: int) -> bool:
    """Whether a training step of a module is refused for its sizes."""
    try:
        module.train()(torch.randn(shape)).sum().backward()
    except (ValueError, RuntimeError):
        return True
    return False


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("function", ["batch", "instance", "group", "layer", "rms"])
def test_a_norm_over_one_value_is_refused_as_torch_refuses_it(function: str, fixed: bool) -> None:
    found = set()
    for rank in (2, 3, 4):
        for shape in product(SIZES, (1, 2, 4), *([SIZES] * (rank - 2))):
            for span in [each for each in (1, 2, 4) if function == "group" and shape[1] % each == 0] or [1]:
                if function == "instance" and rank == 2:  # torch reads them as one image without a batch
                    continue
                layer = Norm(function=function, shape=shape, span=span, fixed=fixed and function == "batch")
                refused = torch_refuses(layer_module(layer, {}), *shape)
                assert bool(layer.untrainable) == refused, layer
                found.add(refused)
    assert found == (
        {True, False} if function in ("batch", "instance", "group") and not (fixed and function == "batch") else {False}
    )
