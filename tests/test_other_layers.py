"""Layers of kind `other`: choices by places, sorts and sums along axes run as what the program said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from computed_alike import assert_computes_alike, trained
from torch import Tensor, nn

from latte_cli import LatteError, load
from latte_cli.layers import Other
from latte_cli.network.channels import sub_model
from latte_cli.network.module import NetworkModule, layer_module, random_inputs


class Choosing(nn.Module):
    """Tokens that are embedded and worked on by `choose`, between linear layers of which one pair can be cut."""

    def __init__(self, choose: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.choose, self.table, self.places = choose, nn.Embedding(11, 8), nn.Embedding(16, 8)
        self.wide, self.narrow, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)
        self.row = nn.Parameter(torch.randn(8))
        self.register_buffer("order", torch.tensor([3, 0, 2, 5]))
        self.register_buffer("pairs", torch.arange(48).reshape(6, 8) % 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) + self.places(tokens) * self.row
        return self.head(self.choose(self, self.narrow(F.relu(self.wide(x))), tokens))


def _pooled_at_the_end(m: Any, x: Tensor, tokens: Tensor) -> Tensor:
    """The row of the largest token, as CLIP pools."""
    return x[torch.arange(x.shape[0]), tokens.argmax(-1)]


def _counted_places(m: Any, x: Tensor, tokens: Tensor) -> Tensor:
    """Places that padding has no part in, as RoBERTa's."""
    mask = tokens.ne(1).int()
    return x + m.places((torch.cumsum(mask, 1).type_as(mask) * mask).long() + 1)


def _routed(m: Any, x: Tensor, tokens: Tensor) -> Tensor:
    """The two largest scores weigh what they belong to, as in a router."""
    values, at = torch.topk(x.softmax(-1), 2, dim=-1)
    return (x.gather(-1, at) * values).sum(-1, keepdim=True) + x


WAYS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "pooled at the end": _pooled_at_the_end,
    "counted places": _counted_places,
    "routed": _routed,
    "put one number": lambda m, x, tokens: x.scatter(1, m.pairs[:3].expand(2, 3, 8), 0.25),
    "the larger at places": lambda m, x, tokens: x.scatter_reduce(1, m.pairs.expand(2, 6, 8), x * 2, "amax"),
    "least": lambda m, x, tokens: x + x.topk(3, 1, largest=False).values.mean(1, keepdim=True),
    "gathered": lambda m, x, tokens: x.gather(1, m.pairs.expand(2, 6, 8)),
    "scattered": lambda m, x, tokens: x.scatter(1, m.pairs.expand(2, 6, 8), x * 2),
    "scattered and added": lambda m, x, tokens: x.scatter_add(1, m.pairs.expand(2, 6, 8), x * 2),
    "summed along": lambda m, x, tokens: x.cumsum(1),
    "multiplied along": lambda m, x, tokens: x.sigmoid().cumprod(1),
    "largest so far": lambda m, x, tokens: x.cummax(1).values,
    "sorted": lambda m, x, tokens: x.sort(1, descending=True).values,
    "in the order of the tokens": lambda m, x, tokens: x.gather(1, tokens.argsort(1).unsqueeze(-1).expand_as(x)),
    "the middle": lambda m, x, tokens: x - x.median(1, keepdim=True).values,
    "the third": lambda m, x, tokens: x - x.kthvalue(3, 1, keepdim=True).values,
    "one for each token": lambda m, x, tokens: x + F.one_hot(tokens % 8, 8).float(),
    "rows at places": lambda m, x, tokens: x.index_add(1, m.order, x[:, :4]),
    "rows put": lambda m, x, tokens: x.index_copy(1, m.order, x[:, :4] * 2),
    "rows filled": lambda m, x, tokens: x.index_fill(1, m.order, 0.5),
    "put by index": lambda m, x, tokens: x.index_put((torch.arange(2), tokens.argmax(-1)), m.row),
    "put by a mask": lambda m, x, tokens: x.index_put((tokens > 4,), m.row),
    "bucketed": lambda m, x, tokens: x + m.places(torch.bucketize(x.mean(-1), m.row.detach().sort().values)),
    "a diagonal": lambda m, x, tokens: x + x.diagonal(0, 1, 2).sum(-1)[:, None, None],
    "windows": lambda m, x, tokens: x[:, :4] + x.unfold(1, 3, 1).mean(-1),
    "angles": lambda m, x, tokens: torch.atan2(x, x.roll(1, 1)),
    "sampled": lambda m, x, tokens: (
        F.grid_sample(x[:, None], x[..., :2].tanh().unsqueeze(2), align_corners=False).reshape(2, 6, 1).expand(2, 6, 8)
    ),
}
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 10, 8]])


@pytest.mark.parametrize("name", WAYS)
def test_an_operation_that_no_kind_describes_runs_as_the_program_said(name: str, tmp_path: Path) -> None:
    network = assert_computes_alike(Choosing(WAYS[name]), TOKENS, tmp_path)
    for width in (0.5, 0.25):
        sub = sub_model(network, width)
        module = NetworkModule(sub)
        assert module(*random_inputs(sub)).shape == network.shapes[network.outputs[0]]
        assert trained(module) == sub.trained_parameters < network.trained_parameters


@pytest.mark.parametrize("name", ["pooled at the end", "counted places", "routed", "sorted", "summed along"])
def test_it_runs_at_another_batch_than_that_of_the_export(name: str) -> None:
    network = load(Choosing(WAYS[name]), TOKENS, batch_size=3)
    module = NetworkModule(network)
    assert module(*random_inputs(network)).shape == network.shapes[network.outputs[0]]


def test_an_operation_that_is_not_in_the_tables_is_refused_by_name() -> None:
    network = load(Choosing(lambda m, x, tokens: x + torch.linalg.svdvals(x)[:, :1, None]), TOKENS)
    with pytest.raises(LatteError, match="unknown operation to run"):
        NetworkModule(network)


def test_a_layer_alone_does_not_say_what_it_reads() -> None:
    with pytest.raises(LatteError, match="unknown operation to run `gather`"):
        layer_module(Other(operation="gather", shapes=((3, 4), (2,)), output=(2, 4)))


def test_what_a_file_names_is_never_called(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"places": (0,), "argument.x": "rm"}
    for name in ("__class__", "load_library", "exec", "linalg_svd", "_dir"):
        with pytest.raises(LatteError, match="unknown operation to run"):
            layer_module(Other(operation=name, shapes=((2,),), output=(2,)), attributes)


@pytest.mark.parametrize("indexing", ["ij", "xy"])
@pytest.mark.parametrize("computed", [False, True])
def test_a_grid_of_places_is_read_and_computed(indexing: str, computed: bool, tmp_path: Path) -> None:
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            places = (y.mean((0, 2)), y.mean((0, 1))) if computed else (torch.arange(4.0), torch.arange(6.0))
            rows, columns = torch.meshgrid(*places, indexing=indexing)
            grid = rows - 2 * columns
            return y * (grid.T if indexing == "xy" else grid)

    assert_computes_alike(Grid(), torch.randn(2, 4, 5), tmp_path)


def test_a_part_that_holds_nothing_is_joined_to_others(tmp_path: Path) -> None:
    class Prefixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            return torch.cat((y[:, :0], y[:, 0:] * 2), 1)

    assert_computes_alike(Prefixed(), torch.randn(2, 4, 5), tmp_path)
