"""Costs: what the widths of single channel groups add to the time and the size of a training step, as tables."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latte_cli.estimator import LOSS, UPDATE, Step, Work, phases, step_calls
from latte_cli.layers import Layer, Optimizer, Phase
from latte_cli.network import Network, Node
from latte_cli.network.channels import resizing_of

Array: TypeAlias = NDArray[np.float64]
Widths: TypeAlias = Mapping[str, int]
"""How many channels each channel group keeps, by its name."""

Levels: TypeAlias = Mapping[str, tuple[int, ...]]
"""The widths that each channel group may have, least first."""

_PAIR = 2  # a convolution knows two groups of channels: those it reads and those it makes


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """A sum over groups and pairs of them: constant + Σ single[g][i] + Σ pairs[g, h][i, j] at the levels i and j."""

    levels: Levels
    constant: float
    single: Mapping[str, Array]
    pairs: Mapping[tuple[str, str], Array]

    def at(self, widths: Widths) -> float:
        """The sum at these widths, each one of the group's levels."""
        level = {name: self.levels[name].index(width) for name, width in widths.items()}
        alone = sum(float(values[level[name]]) for name, values in self.single.items())
        return self.constant + alone + sum(float(t[level[a], level[b]]) for (a, b), t in self.pairs.items())


@dataclass(frozen=True, kw_only=True)
class _Owned:
    """A node with the groups that decide its layer, the phases that a step runs, and the parameters that count here."""

    node: Node
    owners: tuple[str, ...]
    phases: tuple[Phase, ...]
    first_of: tuple[int, ...]


class Costs:
    """The seconds of a step's calls and the parameters of `network`, by the widths of its channel groups.

    `price` tells the seconds of calls. Nodes that no more than two groups decide are exact in tables; those behind a
    concatenation depend on sums of many widths, and stand in tables as what each group alone changes from where the
    tables are made.
    """

    def __init__(
        self, network: Network, step: Step, levels: Levels, price: Callable[[Sequence[Work]], Sequence[float]]
    ) -> None:
        """Raises LatteError where the network's channels cannot be followed."""
        self._network, self._step, self._price = network, step, price
        self._resizing = resizing_of(network)
        self.levels = levels
        self._seconds: dict[tuple[Layer, Phase], float] = {}
        self._layers: dict[tuple[str, tuple[int, ...]], Layer] = {}
        self._made: tuple[CostTable, CostTable] | None = None
        self._owned = tuple(self._of_nodes())
        self._of_group = {name: [each for each in self._owned if name in each.owners] for name in levels}

    def _of_nodes(self) -> Iterator[_Owned]:
        seen: set[str] = set()
        for node in self._network.nodes:
            names = self._network.parameter_names(node)
            first_of = tuple(at for at, name in enumerate(names) if name not in seen)
            seen |= set(names)
            yield _Owned(
                node=node,
                owners=self._resizing.owners(node),
                phases=tuple(phases(self._network, node)),
                first_of=first_of,
            )

    @cached_property
    def tabular(self) -> bool:
        """Whether the tables are exact wherever they are made."""
        return all(len(each.owners) <= _PAIR for each in self._owned)

    def seconds(self, widths: Widths) -> float:
        """The seconds of all calls of a step at these widths."""
        layers = [(each, self._layer(each, [widths[name] for name in each.owners])) for each in self._owned]
        self._price_new((each, layer) for each, layer in layers)
        return sum(self._of(each, layer) for each, layer in layers) + self._besides(self.parameters(widths))

    def parameters(self, widths: Widths) -> int:
        """How many parameters there are at these widths."""
        return sum(_count(each, self._layer(each, [widths[name] for name in each.owners])) for each in self._owned)

    def changes(self, widths: Widths, others: Widths) -> dict[str, tuple[float, int]]:
        """For each group in `others`, the seconds and parameters that its width there adds to a step at `widths`."""
        changes = {
            name: [
                (each, self._layer(each, [widths[own] for own in each.owners]), self._layer(each, moved))
                for each in self._of_group[name]
                for moved in ([width if own == name else widths[own] for own in each.owners],)
            ]
            for name, width in others.items()
        }
        self._price_new((each, layer) for change in changes.values() for each, *pair in change for layer in pair)
        _, slope = self._update
        found = {}
        for name, change in changes.items():
            parameters = sum(_count(each, after) - _count(each, before) for each, before, after in change)
            seconds = sum(self._of(each, after) - self._of(each, before) for each, before, after in change)
            found[name] = seconds + slope * parameters, parameters
        return found

    def tables(self, at: Widths) -> tuple[CostTable, CostTable]:
        """The seconds and the parameters, where nodes that many groups decide are near `at`."""
        if self._made is None or not self.tabular:
            self._made = self._tabulate(at)
        return self._made

    def _tabulate(self, at: Widths) -> tuple[CostTable, CostTable]:
        self._price_new(
            (each, self._layer(each, widths)) for each in self._owned for widths in self._combinations(each, at)
        )
        parameters = self._table(at, lambda each, layer: float(_count(each, layer)))
        seconds = self._table(at, self._of)
        base, slope = self._update
        constant = seconds.constant + self._loss + base + slope * parameters.constant
        single = dict(seconds.single)
        for name, values in parameters.single.items():
            single[name] = single.get(name, 0.0) + slope * values
        pairs = {key: values + slope * parameters.pairs[key] for key, values in seconds.pairs.items()}
        return CostTable(levels=self.levels, constant=constant, single=single, pairs=pairs), parameters

    def _combinations(self, each: _Owned, at: Widths) -> Iterator[tuple[int, ...]]:
        """The widths of the node's groups that its tables need."""
        if len(each.owners) <= _PAIR:
            yield from product(*(self.levels[name] for name in each.owners))
            return
        here = tuple(at[name] for name in each.owners)
        yield here
        for place, name in enumerate(each.owners):
            yield from ((*here[:place], width, *here[place + 1 :]) for width in self.levels[name])

    def _table(self, at: Widths, amount: Callable[[_Owned, Layer], float]) -> CostTable:
        constant = 0.0
        single = {name: np.zeros(len(levels)) for name, levels in self.levels.items()}
        pairs: dict[tuple[str, str], Array] = {}
        for each in self._owned:
            amounts = [amount(each, self._layer(each, widths)) for widths in self._combinations(each, at)]
            match each.owners:
                case ():
                    constant += amounts[0]
                case (name,):
                    single[name] += amounts
                case (first, second):
                    shape = len(self.levels[first]), len(self.levels[second])
                    pairs.setdefault((first, second), np.zeros(shape))
                    pairs[first, second] += np.reshape(amounts, shape)
                case owners:
                    here, rest = amounts[0], iter(amounts[1:])
                    constant += here
                    for name in owners:
                        single[name] += [next(rest) - here for _ in self.levels[name]]
        return CostTable(levels=self.levels, constant=constant, single=single, pairs=pairs)

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
            if (layer, phase) not in self._seconds
        }
        if wanted:
            self._seconds.update(zip(wanted, self._price(list(wanted.values())), strict=True))

    def _of(self, each: _Owned, layer: Layer) -> float:
        return sum(self._seconds[layer, phase] for phase in each.phases)

    # Besides the nodes: the loss, which no width changes, and the update, by the number of parameters

    def _besides(self, parameters: float) -> float:
        base, slope = self._update
        return self._loss + base + slope * parameters

    @cached_property
    def _loss(self) -> float:
        works = [work for work in step_calls(self._network, self._step) if work.name == LOSS]
        return sum(self._price(works)) if works else 0.0

    @cached_property
    def _update(self) -> tuple[float, float]:
        """Seconds of an update as a + b parameters, from those of the largest and of the smallest network."""
        if self._step.optimizer == "none":
            return 0.0, 0.0
        least = self.parameters({name: levels[0] for name, levels in self.levels.items()})
        most = self.parameters({name: levels[-1] for name, levels in self.levels.items()})
        tensors = len(self._network.trained_sizes)
        updates = [Optimizer(function=self._step.optimizer, tensors=tensors, elements=size) for size in (least, most)]
        works = [Work(name=UPDATE, layer=layer, phase=Phase.UPDATE) for layer in updates]
        low, high = self._price(works)
        slope = max(0.0, (high - low) / (most - least)) if most > least else 0.0
        return low - slope * least, slope


def _count(each: _Owned, layer: Layer) -> int:
    return sum(prod(layer.parameter_shapes[at]) for at in each.first_of)
