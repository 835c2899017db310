"""Products of rows with the matrix of their group, as mixtures of experts have them: by shape, all rows once."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_live_modules import work
from torch import Tensor, nn

from latte_cli import load
from latte_cli.errors import LatteError
from latte_cli.network import Network
from latte_cli.network.module import NetworkModule

GROUPS, STEPS, INNER, OUT = 4, 8, 16, 24
WEIGHTS = GROUPS * INNER * OUT + INNER * INNER
Product = Callable[[Tensor, Tensor, Tensor], Tensor]


def of_torch(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return torch._grouped_mm(rows.bfloat16(), weight.bfloat16(), offs=ends).float()


def of_transformers(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    found: Tensor = torch.ops.transformers.grouped_mm_fallback(rows, weight, ends)
    return found


@pytest.fixture(scope="module", autouse=True)
def library() -> Iterator[Any]:
    """The operator that transformers defines for this, with its shapes alone."""
    with torch.library._scoped_library("transformers", "DEF") as own:
        own.define("grouped_mm_fallback(Tensor input, Tensor weight, Tensor offs) -> Tensor")

        def shapes(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
            return rows.new_empty(rows.shape[0], weight.shape[2])

        own.impl("grouped_mm_fallback", shapes, "Meta")
        yield own


class Experts(nn.Module):
    """A linear layer, then the rows in the order of their groups times the groups' matrices."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.before, self.product = nn.Linear(INNER, INNER, bias=False), product
        self.weight = nn.Parameter(torch.randn(GROUPS, INNER, OUT))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.before(x).reshape(-1, INNER)
        chosen = rows[:, :GROUPS].argmax(-1)
        ends = torch.histc(chosen.float(), GROUPS, 0, GROUPS - 1).cumsum(0).int()
        chosen, order = torch.sort(chosen)
        return self.product(rows[order], self.weight, ends)


@pytest.fixture(scope="module", params=[of_torch, of_transformers])
def program(request: pytest.FixtureRequest) -> Any:
    return torch.export.export(Experts(request.param), (torch.randn(2, STEPS, INNER),))


@pytest.mark.parametrize("batch", [None, 1, 2, 3, 7])
def test_all_rows_are_multiplied_once_and_all_matrices_are_parameters(program: Any, batch: int | None) -> None:
    found: Network = load(program, batch_size=batch)
    rows = (batch or 2) * STEPS
    forward, weights = 2 * rows * INNER * (INNER + OUT), 2 * rows * INNER * (INNER + OUT)
    assert (found.parameters, found.trained_parameters) == (WEIGHTS, WEIGHTS)
    assert work(found) == (forward, weights + 2 * rows * INNER * OUT)
    assert found.shapes[found.outputs[0]] == (rows, OUT)


class Sorted(nn.Module):
    """Rows that are sorted already."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(GROUPS, INNER, OUT))

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:
        return of_transformers(rows, self.weight, ends)


def test_rows_that_do_not_split_evenly_are_refused_by_name() -> None:
    with pytest.raises(LatteError, match="6 rows do not split evenly over 4 groups"):
        load(Sorted(), (torch.randn(6, INNER), torch.tensor([1, 2, 3, 6])))


def test_a_network_that_routes_rows_is_not_run_with_its_weights() -> None:
    found = load(Sorted(), (torch.randn(8, INNER), torch.tensor([1, 2, 3, 8])))
    with pytest.raises(LatteError, match="into groups by their numbers"):
        NetworkModule(found, weights={})
