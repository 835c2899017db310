"""The program: one level for each channel group, with the most value, in rounds within limits that add up in tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from latte_cli.allocator.cells import Array, Cells, CostTable, Indices
from latte_cli.allocator.elimination import Elimination
from latte_cli.allocator.moves import Neighbourhood, squares_changed
from latte_cli.allocator.upper_ends import UpperEnd

FEW = 20_000  # chosen: so many choices are all looked at, in under a second

_PRICINGS = 60  # chosen: prices move by ever less; twice as many found nothing better for ResNet-50
_NOTHING_S = 1e-9  # chosen: no round is as short, so a climb towards it ends at the shortest


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A sum over cells that is at most `most`."""

    cells: Array
    most: float


@dataclass(frozen=True, kw_only=True)
class Program:
    """The levels with the most of the sum `value` whose round takes at most `duration_s`, within `limits`.

    A round takes `steps` steps, each up to its upper end, `parameter_s` for each parameter, and `fixed_s`. The levels
    `excluded` are not to be found.
    """

    table: CostTable
    elimination: Elimination
    neighbourhood: Neighbourhood
    upper: UpperEnd
    value: Array
    duration_s: float
    steps: int
    parameter_s: float
    fixed_s: float
    limits: Sequence[Limit] = ()
    excluded: frozenset[tuple[int, ...]] = frozenset()

    @property
    def cells(self) -> Cells:
        """Those of the tables."""
        return self.table.cells

    def best(self, start: Indices, *, climbs: int = 0) -> Indices | None:
        """The best levels that were found, of few levels the best there are; None where none is within the limits.

        It is looked from `start`, and from so many levels (`climbs`) that are the best of all at prices of the limits.
        """
        if (every := self._every()) is not None:
            return self._best_of(every)
        starts = np.concatenate([start[None], self._relaxed_levels()[:climbs]]) if climbs else start[None]
        seen: set[tuple[int, ...]] = set()
        return self._best_of(np.array([self.climb(each, seen) for each in starts]))

    def shortest(self, start: Indices) -> Indices:
        """The levels with the shortest round that was found, of few levels the shortest; limits do not count."""
        if (every := self._every()) is not None:
            allowed = np.array([tuple(each) not in self.excluded for each in every.tolist()])
            every = every[allowed] if allowed.any() else every
        else:
            quickest = self.elimination.best(-self._round_cells(start), start)
            every = np.array(
                [replace(self, duration_s=_NOTHING_S, limits=()).climb(each, set()) for each in (start, quickest)]
            )
        shortest: Indices = every[np.argmin(self._excesses(*self._sums(every))[0])]
        return shortest

    def rounds_s(self, chosen: Indices) -> Array:
        """The upper ends of the rounds at these levels, in seconds; one for each row of levels."""
        linear, squares = self._sums(chosen)
        return self._round_s(linear, squares)

    def _every(self) -> Indices | None:
        """Each choice of levels; None where they are many."""
        if self.cells.counts.astype(float).prod() > FEW:
            return None
        return np.indices(self.cells.counts.tolist()).reshape(len(self.cells.counts), -1).T

    def _best_of(self, chosen: Indices) -> Indices | None:
        fitting = chosen[self._excess(*self._sums(chosen)) <= 0]
        order = np.argsort(-self._values(fitting), kind="stable")
        return next((fitting[at] for at in order if tuple(fitting[at].tolist()) not in self.excluded), None)

    def _values(self, chosen: Indices) -> Array:
        values: Array = self.value[self.cells.of(chosen)].sum(axis=-1)
        return values

    # Limits: what is added up is linear in the cells but for the squares of halves

    @cached_property
    def _linear(self) -> Array:
        """Value, seconds and parameters of every cell, then what counts for each limit."""
        return np.column_stack([self.value, self.table.amounts, *(limit.cells for limit in self.limits)])

    def _sums(self, chosen: Indices) -> tuple[Array, Array]:
        """The linear sums and the squares at these levels, a row for each row of levels."""
        from scipy.sparse import csr_array

        cells = self.cells.of(chosen)
        constant = self.table.constant
        linear = self._linear[cells].sum(axis=1)
        linear[:, 1:3] += constant.seconds, constant.parameters
        rows = np.repeat(np.arange(len(cells)), cells.shape[1])
        chosen_of = csr_array((np.ones(cells.size), (rows, cells.ravel())), shape=(len(cells), self.cells.size))
        changed = squares_changed(chosen_of @ self.table.halves_s, constant.halves_s, self.table.shares)
        return linear, changed + constant.halves_s**2 @ self.table.shares

    def _excesses(self, linear: Array, squares: Array) -> list[Array]:
        """By how much of itself each limit is exceeded, that of the round first; below 0 for what is left."""
        others = [(linear[..., at] - each.most) / (abs(each.most) or 1.0) for at, each in enumerate(self.limits, 3)]
        return [self._round_s(linear, squares) / self.duration_s - 1, *others]

    def _round_s(self, linear: Array, squares: Array) -> Array:
        """The upper ends of the rounds whose steps add up to this."""
        seconds, squares = self.table.update.added_to(linear[..., 2], linear[..., 1], squares)
        return self.fixed_s + self.parameter_s * linear[..., 2] + self.steps * self.upper.seconds(seconds, squares)

    def _excess(self, linear: Array, squares: Array) -> Array:
        """The most that any limit is exceeded by."""
        excess: Array = np.max(self._excesses(linear, squares), axis=0)
        return excess

    # Relaxed: limits have prices, which rise while the levels with the most value less prices exceed the limit

    def _relaxed_levels(self) -> Indices:
        """Levels that are best at some prices: first those within the limits, the best of them, then the nearest."""
        here = self.cells.counts // 2
        prices = np.full(1 + len(self.limits), np.ptp(self.value))
        levels = []
        for number in range(_PRICINGS):
            others = [each.cells / (abs(each.most) or 1.0) for each in self.limits]
            here = self.elimination.best(
                self.value - np.stack([self._round_cells(here) / self.duration_s, *others], axis=1) @ prices,
                here,
            )
            levels.append(here)
            excesses = np.array(self._excesses(*self._sums(here[None])))[:, 0]
            prices *= np.exp(np.clip(excesses, -1, 1) * 2 / (1 + number / 8))
        found = np.unique(np.array(levels), axis=0)
        order = np.lexsort((-self._values(found), np.maximum(self._excess(*self._sums(found)), 0.0)))
        ordered: Indices = found[order]
        return ordered

    def _round_cells(self, here: Indices) -> Array:
        """What each cell adds to rounds near these levels, but for a constant."""
        added_s = self.steps * self.upper.of(self.table, self.table.at(here))
        return added_s + self.parameter_s * self.table.amounts[:, 1]

    # Climbing: moves of one group or of two, all of which are looked at

    def climb(self, chosen: Indices, seen: set[tuple[int, ...]]) -> Indices:
        """The levels where no other level of one group, or of two, has more value within the limits.

        From outside the limits it goes towards them first. It ends at what was `seen` by another climb.
        """
        while tuple(chosen.tolist()) not in seen:
            seen.add(tuple(chosen.tolist()))
            chosen = self._better(chosen)
        return chosen

    def _better(self, chosen: Indices) -> Indices:
        """Levels with more value within the limits, the most; from outside of them, the nearest; else these."""
        linear, squares = self._sums(chosen[None])
        now = float(self._excess(linear, squares)[0])
        least = 1e-9 * np.ptp(self.value) if now <= 0 else -np.inf
        halves_s = self.table.at(chosen).halves_s
        moves = self.neighbourhood.moves(
            chosen, self._linear, self.table.halves_s, halves_s, self.table.shares, least=least
        )
        excess = self._excess(linear + moves.linear, squares + moves.squares)
        if now > 0 and not (excess <= 0).any():
            rank, wanted = excess, np.flatnonzero(excess < now)
        else:
            rank, wanted = -moves.linear[:, 0], np.flatnonzero(excess <= 0)
        ranked = wanted[np.argsort(rank[wanted], kind="stable")]
        others = (self.neighbourhood.levels(chosen, moves.ends[number]) for number in ranked)
        return next((each for each in others if tuple(each.tolist()) not in self.excluded), chosen)
