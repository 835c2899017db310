"""Weights and biases that a module makes of several tensors in each step: read and run as torch's own module does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from computed_alike import assert_computes_alike, trained
from torch import Tensor, nn

from latte_cli.network.channels import sub_model
from latte_cli.network.module import NetworkModule, random_inputs

BATCH = 2


class Made(nn.Module):
    """Two linear layers, the second with a weight and a bias that `make` computes of this module's tensors."""

    def __init__(self, make: Callable[[Any], tuple[Tensor, Tensor | None]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.make, self.first = make, nn.Linear(6, 8)
        self.last = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))
        self.w, self.b = nn.Parameter(torch.randn(12, 8)), nn.Parameter(torch.randn(12))
        self.w4, self.v4 = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(4, 8))
        self.q, self.v = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))
        self.still = nn.Parameter(torch.randn(4), requires_grad=False)
        self.scale = nn.Parameter(torch.randn(12, 1))
        self.register_buffer("zeros", torch.randn(4))
        self.register_buffer("mask", (torch.arange(96) % 3 > 0).float().reshape(12, 8))
        self.register_buffer("places", torch.arange(12).flip(0))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.make(self)
        return self.last(F.relu(F.linear(F.relu(self.first(x)), weight, bias)))


def _written(m: Any) -> tuple[Tensor, Tensor]:
    bias = m.b.clone()
    bias[4:8].zero_()
    return m.w, bias


WAYS: dict[str, Callable[[Any], tuple[Tensor, Tensor | None]]] = {
    "joined": lambda m: (m.w, torch.cat((m.q, m.v, m.q))),
    "joined with a buffer": lambda m: (m.w, torch.cat((m.q, m.zeros, m.v))),
    "joined with zeros": lambda m: (m.w, torch.cat((m.q, torch.zeros_like(m.v), m.v))),
    "joined with a frozen one": lambda m: (m.w, torch.cat((m.q, m.still, m.v))),
    "joined twice": lambda m: (m.w, torch.cat((m.q, m.v, m.q)) + torch.cat((m.q, m.v, m.q))),
    "stacked": lambda m: (m.w, torch.stack((m.q, m.zeros, m.v)).flatten()),
    "stacked across": lambda m: (m.w, torch.stack((m.q, m.zeros, m.v), 1).reshape(-1)),
    "scaled": lambda m: (m.w, m.b * 2),
    "scaled by a parameter": lambda m: (m.w * m.scale, m.b),
    "masked": lambda m: (m.w * m.mask, m.b),
    "transposed": lambda m: (m.w.reshape(8, 12).t(), m.b),
    "sliced": lambda m: (torch.cat((m.w4, m.v4, m.w[:4])), m.b),
    "sliced apart": lambda m: (m.w, torch.cat((m.b[8:], m.b[:4], m.b[4:8]))),
    "a part": lambda m: (m.w, torch.cat((m.b[8:], m.b[:4], m.q))),
    "turned": lambda m: (m.w, m.b.flip(0)),
    "rolled": lambda m: (m.w, m.b.roll(3)),
    "padded": lambda m: (m.w, F.pad(m.q, (3, 5))),
    "repeated": lambda m: (m.w, m.q.repeat(3)),
    "spread": lambda m: (m.w, m.q[:1].expand(12)),
    "turned in part": lambda m: (m.w, torch.cat((m.b[2:6].flip(0), m.q, m.b[8:]))),
    "sliced with steps": lambda m: (m.w.reshape(24, 4)[::2].reshape(6, 8).repeat(2, 1), m.b),
    "half of it": lambda m: (m.w.reshape(24, 4)[:, :2].reshape(6, 8).repeat(2, 1), m.b),
    "rolled twice": lambda m: (m.w.roll((15, -2), (0, 1)), m.b.roll(-14, 0)),
    "turned as an activation": lambda m: (m.w * m.w.reshape(8, 12).t(), m.b),
    "one taken": lambda m: (m.w, m.w[:, 3]),
    "a slice alone": lambda m: (torch.cat((m.w, m.w))[2:14], torch.cat((m.b, m.b))[3:15]),
    "summed": lambda m: (m.w, m.b.cumsum(0)),
    "sorted": lambda m: (m.w, m.b.sort().values),
    "written over in a part": _written,
    "rearranged": lambda m: (m.w, m.b[m.places]),
    "weight joined": lambda m: (torch.cat((m.w4, m.v4, m.w4)), None),
    "weight joined with a bias": lambda m: (torch.cat((m.w4, m.v4, m.w4)), m.b),
    "both joined": lambda m: (torch.cat((m.w4, m.v4, m.w4)), torch.cat((m.q, m.v, m.zeros))),
    "weight stacked": lambda m: (torch.stack((m.w4, m.v4, m.w4)).flatten(0, 1), m.b),
    "normed": lambda m: (m.scale * m.w / m.w.norm(dim=1, keepdim=True), m.b),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_weight_that_is_made_in_each_step_is_made_of_the_module_s_own_tensors(name: str, tmp_path: Path) -> None:
    module = Made(WAYS[name])
    network = assert_computes_alike(module, torch.randn(BATCH, 6), tmp_path)
    sub = sub_model(network, 0.5)
    built = NetworkModule(sub)
    assert built(*random_inputs(sub)).shape == (BATCH, 5)
    assert trained(built) == sub.trained_parameters < network.trained_parameters


class Holding(nn.Module):
    """A layer of another kind with parameters that `call` computes."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor], **tensors: Tensor) -> None:
        super().__init__()
        self.call = call
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def holding(call: Callable[[Any, Tensor], Tensor], **shapes: tuple[int, ...]) -> Holding:
    torch.manual_seed(1)
    return Holding(call, **{name: torch.randn(shape) for name, shape in shapes.items()})


IMAGES, ROWS, TOKENS = torch.randn(2, 3, 6, 6), torch.randn(2, 5, 8), torch.tensor([[3, 1, 4], [1, 5, 9]])
KINDS: dict[str, tuple[Holding, Tensor]] = {
    "kernels joined": (
        holding(lambda m, x: F.conv2d(x, torch.cat((m.a, m.b))), a=(2, 3, 3, 3), b=(4, 3, 3, 3)),
        IMAGES,
    ),
    "channels joined": (
        holding(lambda m, x: F.conv2d(x, torch.cat((m.a, m.b), 1)), a=(4, 2, 3, 3), b=(4, 1, 3, 3)),
        IMAGES,
    ),
    "a convolution's bias joined": (
        holding(lambda m, x: F.conv2d(x, m.w, torch.cat((m.a, m.b))), w=(5, 3, 3, 3), a=(2,), b=(3,)),
        IMAGES,
    ),
    "tables joined": (holding(lambda m, x: F.embedding(x, torch.cat((m.a, m.b))), a=(4, 6), b=(7, 6)), TOKENS),
    "a part of a table": (holding(lambda m, x: F.embedding(x, m.a[2:]), a=(14, 6)), TOKENS),
    "a norm's scale": (holding(lambda m, x: F.layer_norm(x, (8,), m.a * 2, m.b), a=(8,), b=(8,)), ROWS),
    "a norm's shift": (
        holding(lambda m, x: F.layer_norm(x, (8,), m.a, torch.cat((m.b, m.c))), a=(8,), b=(3,), c=(5,)),
        ROWS,
    ),
    "rows with a joined bias": (
        holding(lambda m, x: F.linear(x, m.w, torch.cat((m.a, m.b))), w=(6, 8), a=(2,), b=(4,)),
        ROWS,
    ),
    "rows with joined weights": (
        holding(lambda m, x: F.linear(x, torch.cat((m.v, m.w)), m.a), v=(2, 8), w=(4, 8), a=(6,)),
        ROWS,
    ),
    "a product with a part": (holding(lambda m, x: x @ m.w[:, :4], w=(8, 6)), ROWS),
    "a product with both parts": (holding(lambda m, x: (x @ m.w[:, :4]) * (x @ m.w[:, 4:]), w=(8, 8)), ROWS),
    "added": (holding(lambda m, x: x + m.p[:, :5] + m.p[:, 1:6].flip(2), p=(1, 9, 8)), ROWS),
    "added and multiplied": (holding(lambda m, x: (x + m.w[0]) @ m.w, w=(8, 8)), ROWS),
}


@pytest.mark.parametrize("name", KINDS)
def test_layers_of_each_kind_are_given_what_is_made_in_each_step(name: str, tmp_path: Path) -> None:
    assert_computes_alike(*KINDS[name], tmp_path)


def test_heads_of_a_joined_bias_are_cut_with_the_channels_that_it_is_added_to(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.qkv, self.out = nn.Linear(6, 16), nn.Linear(16, 48, bias=False), nn.Linear(16, 5)
            self.q, self.v = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(16))
            self.register_buffer("k", torch.zeros(16))

        def forward(self, x: Tensor) -> Tensor:
            packed = F.linear(F.relu(self.embed(x)), self.qkv.weight, torch.cat((self.q, self.k, self.v)))
            q, k, v = packed.reshape(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
            heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            return self.out(heads.reshape(*x.shape[:2], 16))

    network = assert_computes_alike(Attention(), torch.randn(2, 5, 6), tmp_path)
    sub = sub_model(network, 0.5)
    assert sub.parameters == 6 * 8 + 8 + 8 * 24 + 8 + 8 + 8 * 5 + 5
    assert trained(NetworkModule(sub)) == sub.trained_parameters


def test_a_batch_norm_is_given_a_computed_scale(tmp_path: Path) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.a = nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            norm = self.norm
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight * self.a, norm.bias, True)

    assert_computes_alike(Normed(), IMAGES, tmp_path)
