"""Views: what a program writes over a part of a tensor is read by all later readers of the tensor or the part."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from computed_alike import assert_computes_alike
from torch import Tensor, nn

from latte_cli import LatteError, load
from latte_cli.network.module import NetworkModule
from latte_cli.network.weights import weights


class Written(nn.Module):
    """A linear layer whose result `write` changes in parts."""

    def __init__(self, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.write, self.first, self.last = write, nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.write(self.first(x)))


VIEWS: tuple[Callable[[Random, Tensor], Tensor], ...] = (
    lambda draw, y: y[draw.randrange(y.shape[0])] if y.dim() > 1 else y[1:],
    lambda draw, y: y[..., draw.randrange(y.shape[-1])] if y.dim() > 1 else y[:-1],
    lambda draw, y: y[draw.randrange(y.shape[0]) :],
    lambda draw, y: y[..., : draw.randint(1, y.shape[-1])],
    lambda draw, y: y[..., :: draw.randint(1, 3)],
    lambda draw, y: y.transpose(0, -1),
    lambda draw, y: y.permute(*draw.sample(range(y.dim()), y.dim())),
    lambda draw, y: y.unsqueeze(draw.randint(0, y.dim())),
    lambda draw, y: y.view(-1) if y.is_contiguous() else y.mT if y.dim() > 1 else y,
    lambda draw, y: y.flatten() if y.is_contiguous() else y.squeeze(),
    lambda draw, y: y.narrow(0, 0, draw.randint(1, y.shape[0])),
    lambda draw, y: y.movedim(0, -1),
)
WRITES: tuple[Callable[[Random, Tensor, Tensor], Tensor], ...] = (
    lambda draw, view, y: view.mul_(0.5),
    lambda draw, view, y: view.neg_(),
    lambda draw, view, y: view.add_(1),
    lambda draw, view, y: view.zero_(),
    lambda draw, view, y: view.fill_(2.0),
    lambda draw, view, y: view.copy_(y.mean()),
    lambda draw, view, y: view.copy_(view * 3),
)


def random_writes(seed: int) -> Callable[[Tensor], Tensor]:
    """Writes over random parts, of which some are read afterwards beside the tensor."""

    def write(y: Tensor) -> Tensor:
        draw, kept = Random(seed), [y]
        y = y * 2
        for _ in range(draw.randint(1, 4)):
            view = y
            for _ in range(draw.randint(0, 3)):
                view = draw.choice(VIEWS)(draw, view)
                if draw.random() < 0.3:
                    kept.append(view)
            whole = view.numel() == y.numel()  # would leave numbers alone, of which a network keeps no values
            draw.choice(WRITES[:3] if whole else WRITES)(draw, view, y)
        return y + sum(each.sum() for each in kept)

    return write


@pytest.mark.parametrize("seed", range(24))
def test_random_writes_over_parts_compute_what_torch_computes(seed: int, tmp_path: Path) -> None:
    assert_computes_alike(Written(random_writes(seed)), torch.randn(2, 4, 5), tmp_path)


def _mask(y: Tensor) -> Tensor:
    """A mask of numbered windows, as Swin's."""
    mask = y.new_zeros((4, 6))
    for count, (rows, columns) in enumerate(((slice(0, 2), slice(0, 3)), (slice(0, -2), slice(-3, None)))):
        mask[rows, columns] = count
    return y + (mask.unsqueeze(0) - mask.unsqueeze(1).transpose(1, 2).transpose(1, 2)[:, 0]).masked_fill(mask != 0, -1)


def _collected(y: Tensor) -> Tensor:
    found = torch.zeros_like(y)
    for at in range(4):
        found[:, at] = y[:, 3 - at] * at
    return found


def _earlier_view(y: Tensor) -> Tensor:
    y = y * 2
    row = y[:, 0]
    y.mul_(3)
    return y + row.unsqueeze(1)


def _functional(y: Tensor) -> Tensor:
    y = torch.slice_scatter(y, y[:, 1:3] * 2, 1, 1, 3)
    y = torch.select_scatter(y, y[:, :, 2].tanh(), 2, -1)
    return torch.slice_scatter(y, y[..., ::2] * 3, 2, 0, 6, 2)


def _without_gradient(y: Tensor) -> Tensor:
    mask = torch.ones(4, 6)
    with torch.no_grad():
        mask[1] = 0
        mask[:, 2:4].mul_(0.5)
    return y * mask


def _of_nothing(y: Tensor) -> Tensor:
    """Windows that do not divide a side leave parts without a row, as in Swin for videos."""
    mask = y.new_zeros((4, 6))
    for count, rows in enumerate((slice(-4), slice(-4, -4), slice(0, None))):
        mask[rows].fill_(count)
        mask[rows, 1:] = count + 1
    y = y * 2
    y[:, 4:].mul_(3)
    y[..., 6:] = 1
    return y + mask


WAYS = {
    "of nothing": _of_nothing,
    "mask": _mask,
    "collected": _collected,
    "earlier view": _earlier_view,
    "functional": _functional,
    "without gradient": _without_gradient,
}


@pytest.mark.parametrize("name", WAYS)
def test_what_is_written_over_a_part_is_there_for_all_that_read_it(name: str, tmp_path: Path) -> None:
    network = assert_computes_alike(Written(WAYS[name]), torch.randn(2, 4, 5), tmp_path)
    larger = load(tmp_path / "model.pt2", batch_size=3)
    assert larger.layers == load(Written(WAYS[name]), torch.randn(3, 4, 5)).layers
    assert larger.parameters == network.parameters


def test_a_mask_that_is_written_of_numbers_alone_is_a_constant(tmp_path: Path) -> None:
    network = assert_computes_alike(Written(_mask), torch.randn(2, 4, 5), tmp_path)
    assert [layer.kind for layer in network.layers] == [
        "view",
        "linear",
        "view",
        "activation",
        "view",
        "linear",
        "view",
    ]


def test_a_bias_that_is_written_over_in_a_part_trains_the_rest(tmp_path: Path) -> None:
    class Swin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(5, 12)

        def forward(self, x: Tensor) -> Tensor:
            bias = self.qkv.bias.clone()
            bias[4:8].zero_()
            return F.linear(x, self.qkv.weight, bias)

    network = assert_computes_alike(Swin(), torch.randn(2, 4, 5), tmp_path)
    assert network.unpriced == ()


def test_a_view_that_is_not_written_through_is_refused_by_name_when_it_is_read(tmp_path: Path) -> None:
    def write(y: Tensor) -> Tensor:
        y = y * 2
        y.diagonal(0, 1, 2).zero_()
        return y

    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Written(write), (torch.randn(2, 4, 5),)), path)
    with pytest.raises(LatteError, match="changes a part of `mul` in place, which is not followed"):
        load(path)
    assert load(Written(write), torch.randn(2, 4, 5)).layers


def test_what_is_written_over_a_tensor_s_copy_without_gradient_is_read_there(tmp_path: Path) -> None:
    def write(y: Tensor) -> Tensor:
        scale = (y * 2).detach()
        scale[:, 1] = 3
        return y * scale

    module, x, path = Written(write), torch.randn(2, 4, 5), tmp_path / "model.pt2"
    torch.export.save(torch.export.export(module, (x,)), path)
    built = NetworkModule(load(path), weights=weights(path))
    torch.testing.assert_close(built(x), module(x))
