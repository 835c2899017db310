"""Costs: what the widths of single channel groups add to the time and the size of a training step, as tables."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latte_cli.allocator.upper_ends import CallTime, Weigh, mean_seconds
from latte_cli.estimator import LOSS, UPDATE, Step, Work, step_calls
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

    `price` tells the times of calls; sums are of what these `weigh`. Nodes that no more than two groups decide are
    exact in tables; those behind a concatenation depend on sums of many widths, and stand in tables as what each group
    alone changes from where the tables are made.
    """

    def __init__(
        self, network: Network, step: Step, levels: Levels, price: Callable[[Sequence[Work]], Sequence[CallTime]]
    ) -> None:
        """Raises LatteError where the network's channels cannot be followed."""
        self._network, self._step, self._price = network, step, price
        self._resizing = resizing_of(network)
        self.levels = levels
        self._times: dict[tuple[Layer, Phase], CallTime] = {}
        self._layers: dict[tuple[str, tuple[int, ...]], Layer] = {}
        self._sizes: CostTable | None = None
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
                phases=tuple(self._network.phases(node)),
                first_of=first_of,
            )

    @cached_property
    def tabular(self) -> bool:
        """Whether the tables are exact wherever they are made."""
        return all(len(each.owners) <= _PAIR for each in self._owned)

    def calls(self, widths: Widths) -> list[tuple[Layer, CallTime]]:
        """All calls of a step at these widths."""
        layers = [(each, self._layer(each, [widths[name] for name in each.owners])) for each in self._owned]
        self._price_new((each, layer) for each, layer in layers)
        found = [(layer, self._times[layer, phase]) for each, layer in layers for phase in each.phases]
        return [*found, *self._loss, *self._update_at(self.parameters(widths))]

    def seconds(self, widths: Widths, weigh: Weigh = mean_seconds) -> float:
        """The seconds of all calls of a step at these widths."""
        return sum(weigh(layer, time) for layer, time in self.calls(widths))

    def parameters(self, widths: Widths) -> int:
        """How many parameters there are at these widths."""
        return sum(_count(each, self._layer(each, [widths[name] for name in each.owners])) for each in self._owned)

    def changes(self, widths: Widths, others: Widths, weigh: Weigh = mean_seconds) -> dict[str, tuple[float, int]]:
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
        _, slope = self._update(weigh)
        found = {}
        for name, change in changes.items():
            parameters = sum(_count(each, after) - _count(each, before) for each, before, after in change)
            seconds = sum(
                self._of(each, after, weigh) - self._of(each, before, weigh) for each, before, after in change
            )
            found[name] = seconds + slope * parameters, parameters
        return found

    def sizes(self, at: Widths) -> CostTable:
        """The parameters, where nodes that many groups decide are near `at`."""
        if self._sizes is None or not self.tabular:
            self._sizes = self._table(at, lambda each, layer: float(_count(each, layer)))
        return self._sizes

    def times(self, at: Widths, weigh: Weigh = mean_seconds) -> CostTable:
        """The seconds, where nodes that many groups decide are near `at`."""
        self._price_new(
            (each, self._layer(each, widths)) for each in self._owned for widths in self._combinations(each, at)
        )
        parameters = self.sizes(at)
        seconds = self._table(at, lambda each, layer: self._of(each, layer, weigh))
        base, slope = self._update(weigh)
        loss = sum(weigh(layer, time) for layer, time in self._loss)
        constant = seconds.constant + loss + base + slope * parameters.constant
        single = dict(seconds.single)
        for name, values in parameters.single.items():
            single[name] = single.get(name, 0.0) + slope * values
        pairs = {key: values + slope * parameters.pairs[key] for key, values in seconds.pairs.items()}
        return CostTable(levels=self.levels, constant=constant, single=single, pairs=pairs)

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
            if (layer, phase) not in self._times
        }
        if wanted:
            self._times.update(zip(wanted, self._price(list(wanted.values())), strict=True))

    def _of(self, each: _Owned, layer: Layer, weigh: Weigh) -> float:
        return sum(weigh(layer, self._times[layer, phase]) for phase in each.phases)

    # Besides the nodes: the loss, which no width changes, and the update, by the number of parameters

    @cached_property
    def _loss(self) -> list[tuple[Layer, CallTime]]:
        works = [work for work in step_calls(self._network, self._step) if work.name == LOSS]
        return [(work.layer, time) for work, time in zip(works, self._price(works), strict=True)] if works else []

    def _update(self, weigh: Weigh) -> tuple[float, float]:
        """What an update counts for, as a + b parameters."""
        if not self._updates:
            return 0.0, 0.0
        (least, layer, low), (most, _, high) = self._updates
        slope = max(0.0, (weigh(layer, high) - weigh(layer, low)) / (most - least)) if most > least else 0.0
        return weigh(layer, low) - slope * least, slope

    def _update_at(self, parameters: int) -> Iterator[tuple[Layer, CallTime]]:
        """The update of so many parameters."""
        if self._updates:
            (_, layer, low), _ = self._updates
            base_s, slope_s = self._update(mean_seconds)
            base_half_s, slope_half_s = self._update(lambda _, time: time.half_s)
            seconds, half_s = base_s + slope_s * parameters, base_half_s + slope_half_s * parameters
            yield layer, replace(low, seconds=seconds, half_s=half_s)

    @cached_property
    def _updates(self) -> tuple[tuple[int, Layer, CallTime], ...]:
        """The updates of the smallest and of the largest network, with their parameters, as calls of one layer."""
        if self._step.optimizer == "none":
            return ()
        ends = [self.parameters({name: each[at] for name, each in self.levels.items()}) for at in (0, -1)]
        tensors = len(self._network.trained_sizes)
        updates = [Optimizer(function=self._step.optimizer, tensors=tensors, elements=size) for size in ends]
        works = [Work(name=UPDATE, layer=layer, phase=Phase.UPDATE) for layer in updates]
        times = [replace(each, alike=1.0, errs_with=UPDATE) for each in self._price(works)]
        return tuple((size, updates[0], time) for size, time in zip(ends, times, strict=True))


def _count(each: _Owned, layer: Layer) -> int:
    return sum(prod(layer.parameter_shapes[at]) for at in each.first_of)
