"""Which rearrangements torch makes without a copy, in modules as people write them."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from torch import Tensor, nn

from latte_cli import load
from latte_cli.estimator.storages import Storages
from latte_cli.estimator.views import uncopied_views
from latte_cli.layers import Copy, Phase


class Heads(nn.Module):
    """Attention whose heads are seen, not laid, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        heads = self.project(x).view(batch, steps, 4, width // 4).transpose(1, 2)
        y = F.scaled_dot_product_attention(heads, heads, heads)
        return self.out(y.transpose(1, 2).reshape(batch, steps, width))


class Shuffle(nn.Module):
    """Channels in another order, as ShuffleNet lays them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.second(y)


class ChannelsLast(nn.Module):
    """A norm over channels that are moved to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, 8, 3), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * 2


class Added(nn.Module):
    """Two dimensions swapped for an operator that takes any strides."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.project(x).transpose(1, 2))


@pytest.mark.parametrize(
    ("module", "shape", "unpriced"),
    [
        (Heads(), (2, 16, 32), -1),
        (Shuffle(), (2, 4, 12, 12), 0),
        (ChannelsLast(), (2, 4, 12, 12), 1),
        (Added(), (2, 16, 16), -1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_rearrangement_is_a_copy_where_torch_makes_one(
    module: nn.Module, shape: tuple[int, ...], unpriced: int
) -> None:
    """`unpriced` is how many more torch makes backward: a norm lays out its saved input again. Products and attention
    take gradients as they lie, where one copy is priced."""
    network = load(module, torch.zeros(shape))
    nodes = [node for node in network.nodes if isinstance(node.layer, Copy) and node.layer.operation == "transpose"]
    views = uncopied_views(network, Storages(network))
    x = torch.randn(shape, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as forward:
        y = module(x)
    gradient = torch.ones(y.shape)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as backward:
        torch.autograd.grad(y, (x, *module.parameters()), gradient)
    assert nodes
    for phase, profile in ((Phase.FORWARD, forward), (Phase.BACKWARD, backward)):
        made = sum(event.name == "aten::clone" for event in profile.events())
        priced = sum((node.name, phase) not in views for node in nodes)
        assert made - priced == (unpriced if phase is Phase.BACKWARD else 0)
