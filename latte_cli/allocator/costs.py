"""Costs: what the widths of single channel groups add to the time and the size of a training step, as tables."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import TypeAlias

import numpy as np

from latte_cli.allocator.cells import NO_UPDATE, Cells, CostTable, Levels, StepSums, UpdateTable, Widths
from latte_cli.allocator.upper_ends import CallTime
from latte_cli.errors import LatteError
from latte_cli.estimator import LOSS, UPDATE, Step, Work, step_calls
from latte_cli.layers import Layer, Optimizer, Phase
from latte_cli.network import Network, Node
from latte_cli.network.channels import resizing_of
from latte_cli.optimizers import update_rule

_LARGEST_BLOCK = 1000  # chosen: three groups of ten levels; so many layers are priced in a tenth of a second

_UPDATES = 129  # chosen: between two of them an update is taken to grow in a straight line

_SECONDS, _PARAMETERS = -2, -1
"""The columns of what is no half; halves have columns from 0 on."""

_Row: TypeAlias = Mapping[int, float]
"""What something adds to a step, by column."""


@dataclass(frozen=True, kw_only=True)
class _Owned:
    """A node with the groups that decide its layer, the phases that a step runs, and the parameters that count here."""

    node: Node
    owners: tuple[str, ...]
    phases: tuple[Phase, ...]
    first_of: tuple[int, ...]


class Costs:
    """What the calls of a step and the parameters of `network` add up to, by the widths of its channel groups.

    `price` gives the times of calls. Nodes whose groups have few choices of levels are exact in tables; those behind a
    concatenation may depend on many groups, and stand in tables as what each of them alone changes from where the
    tables are made.
    """

    def __init__(
        self,
        network: Network,
        step: Step,
        levels: Levels,
        price: Callable[[Sequence[Work]], Sequence[CallTime]],
        *,
        largest_block: int = _LARGEST_BLOCK,
    ) -> None:
        """`largest_block` is the most choices of levels of a node's groups that all have a cell.

        Raises LatteError where the network's channels cannot be followed.
        """
        self._largest_block = largest_block
        self._network, self._step, self._price = network, step, price
        self._resizing = resizing_of(network)
        self.levels = levels
        self._times: dict[tuple[Layer, Phase], CallTime] = {}
        self._layers: dict[tuple[str, tuple[int, ...]], Layer] = {}
        self._rows: dict[tuple[str, tuple[int, ...]], _Row] = {}
        self._columns: dict[object, int] = {}
        self._shares: list[float] = []
        self._owned = tuple(self._of_nodes())
        shared = (each.owners for each in self._owned if len(each.owners) > 1 and self._in_block(each))
        self.cells = Cells(levels, shared)
        self._exact: CostTable | None = None

    def _of_nodes(self) -> Iterator[_Owned]:
        seen: set[str] = set()
        for node in self._network.nodes:
            names = self._network.parameter_names(node)
            first_of = tuple(at for at, name in enumerate(names) if name not in seen)
            seen |= set(names)
            yield _Owned(
                node=node,
                owners=self._resizing.owners(node),
                phases=tuple(self._network.phases(node)),
                first_of=first_of,
            )

    @cached_property
    def tabular(self) -> bool:
        """Whether the tables are exact wherever they are made."""
        return all(self._in_block(each) for each in self._owned)

    def _in_block(self, each: _Owned) -> bool:
        """Whether the table has a cell for every choice of the node's levels."""
        return len(each.owners) <= 1 or prod(len(self.levels[name]) for name in each.owners) <= self._largest_block

    def parameters(self, widths: Widths) -> int:
        """How many parameters there are at these widths."""
        return sum(_count(each, self._layer(each, [widths[name] for name in each.owners])) for each in self._owned)

    def table(self, at: Widths) -> CostTable:
        """The sums of steps, where nodes that many groups decide are near `at`."""
        if self._exact is None or not self.tabular:
            self._exact = self._table(at)
        return self._exact

    def _table(self, at: Widths) -> CostTable:
        from scipy.sparse import csr_array

        self._price_new(
            (each, self._layer(each, widths)) for each in self._owned for widths in self._combinations(each, at)
        )
        constant: list[_Row] = [self._fixed]
        rows: list[tuple[int, _Row]] = []
        for each in self._owned:
            made = [self._row(each, widths) for widths in self._combinations(each, at)]
            if each.owners and self._in_block(each):
                rows += zip(self.cells.of_groups(each.owners).ravel().tolist(), made, strict=True)
            else:
                constant.append(made[0])
                alone = (cell for name in each.owners for cell in self.cells.of_groups([name]).tolist())
                rows += zip(alone, _less(*made), strict=True)
        amounts = np.zeros((self.cells.size, 2))
        halves = [(cell, column, value) for cell, row in rows for column, value in row.items() if column >= 0]
        for cell, row in rows:
            amounts[cell] += row.get(_SECONDS, 0.0), row.get(_PARAMETERS, 0.0)
        cells, columns, values = (np.array(each) for each in zip(*halves, strict=True)) if halves else ([], [], [])
        return CostTable(
            cells=self.cells,
            constant=self._step_sums(constant),
            amounts=amounts,
            halves_s=csr_array((values, (cells, columns)), shape=(self.cells.size, len(self._shares))),
            shares=np.array(self._shares),
            update=self._update,
        )

    def _step_sums(self, rows: Iterable[_Row]) -> StepSums:
        sums: defaultdict[int, float] = defaultdict(float)
        for row in rows:
            for column, value in row.items():
                sums[column] += value
        halves_s = np.array([sums[column] for column in range(len(self._shares))])
        return StepSums(seconds=sums[_SECONDS], parameters=sums[_PARAMETERS], halves_s=halves_s)

    def _combinations(self, each: _Owned, at: Widths) -> Iterator[tuple[int, ...]]:
        """The widths of the node's groups that its tables need."""
        if self._in_block(each):
            yield from product(*(self.levels[name] for name in each.owners))
            return
        here = tuple(at[name] for name in each.owners)
        yield here
        for place, name in enumerate(each.owners):
            yield from ((*here[:place], width, *here[place + 1 :]) for width in self.levels[name])

    def _layer(self, each: _Owned, widths: Sequence[int]) -> Layer:
        key = (each.node.name, tuple(widths))
        if key not in self._layers:
            named = dict(zip(each.owners, widths, strict=True))
            self._layers[key] = self._resizing.layer(each.node, named)
        return self._layers[key]

    def _price_new(self, layers: Iterable[tuple[_Owned, Layer]]) -> None:
        """Price what was not priced yet, all at once."""
        wanted = {
            (layer, phase): Work(name=each.node.name, layer=layer, phase=phase)
            for each, layer in layers
            for phase in each.phases
            if (layer, phase) not in self._times
        }
        if wanted:
            self._times.update(zip(wanted, self._price(list(wanted.values())), strict=True))

    # Rows: what a node and the loss add

    def _row(self, each: _Owned, widths: tuple[int, ...]) -> _Row:
        """What the node adds at these widths of its groups."""
        key = each.node.name, widths
        if key not in self._rows:
            layer = self._layer(each, widths)
            row = self._calls_row((layer, self._times[layer, phase]) for phase in each.phases)
            row[_PARAMETERS] += _count(each, layer)
            self._rows[key] = row
        return self._rows[key]

    def _calls_row(self, calls: Iterable[tuple[Layer, CallTime]]) -> defaultdict[int, float]:
        row: defaultdict[int, float] = defaultdict(float)
        for layer, time in calls:
            row[_SECONDS] += time.seconds
            if time.half_s:
                row[self._column(time.errs_with, time.alike)] += time.half_s
                if time.alike < 1:
                    row[self._column((time.errs_with, layer), 1 - time.alike)] += time.half_s
        return row

    def _column(self, together: object, share: float) -> int:
        if together not in self._columns:
            self._columns[together] = len(self._shares)
            self._shares.append(share)
        return self._columns[together]

    @cached_property
    def _fixed(self) -> _Row:
        """What no width changes: the loss."""
        works = [work for work in step_calls(self._network, self._step) if work.name == LOSS]
        times = self._price(works) if works else []
        return self._calls_row((work.layer, time) for work, time in zip(works, times, strict=True))

    @cached_property
    def _update(self) -> UpdateTable:
        """The update of the smallest network, of the largest, and of sizes between them."""
        if self._step.optimizer == "none":
            return NO_UPDATE
        if update_rule(self._step.optimizer).factored:
            raise LatteError(
                f"`{self._step.optimizer}` keeps what depends on the shapes of parameters, which sub-models change",
                hint="plan with another `--optimizer`",
            )
        least, most = (self.parameters({name: each[at] for name, each in self.levels.items()}) for at in (0, -1))
        sizes, tensors = np.unique(np.linspace(least, most, _UPDATES).round()), len(self._network.trained_sizes)
        layers = [Optimizer(function=self._step.optimizer, tensors=tensors, elements=int(size)) for size in sizes]
        times = self._price([Work(name=UPDATE, layer=layer, phase=Phase.UPDATE) for layer in layers])
        return UpdateTable(
            parameters=sizes,
            seconds=np.array([each.seconds for each in times]),
            halves_s=np.array([each.half_s for each in times]),
        )


def _count(each: _Owned, layer: Layer) -> int:
    return sum(prod(layer.parameter_shapes[at]) for at in each.first_of)


def _less(here: _Row, *rows: _Row) -> Iterator[_Row]:
    """What each row adds to `here`."""
    for row in rows:
        yield {column: row.get(column, 0.0) - here.get(column, 0.0) for column in {**here, **row}}
