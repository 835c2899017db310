"""Elimination: the best level of each channel group, exactly, where what counts adds up over groups and blocks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from latte_cli.allocator.cells import Array, Cells, Indices

_LARGEST = 10**6  # chosen: some milliseconds; five groups of ten levels that all share layers are a tenth of it

_Scope: TypeAlias = tuple[int, ...]
"""The groups that a table has an axis for, by their places and in their order."""


@dataclass(frozen=True, kw_only=True)
class _Maximum:
    """A group that is maximised over, and the scope of the table that is left.

    Each of `terms` is the number of a table, its axis of the group, and the index that gives it all axes of the scope.
    """

    group: int
    scope: _Scope
    terms: tuple[tuple[int, int, tuple[Any, ...]], ...]


class Elimination:
    """Maximises over one group after the other, those first that share tables with few.

    Where more groups share tables than one could hold, some keep the levels that they have.
    """

    def __init__(self, cells: Cells, *, largest: int = _LARGEST) -> None:
        """`largest` is the most entries of a table."""
        self._cells, self._largest = cells, largest
        self._kept: set[int] = set()
        while (order := self._order()) is None:
            pass
        self._maxima = order

    def best(self, value: Array, here: Indices) -> Indices:
        """The levels with the greatest sum of `value`, which has an entry for each cell, seen from `here`."""
        tables = []
        for at, scope in enumerate(self._scopes()):
            groups = len(self._cells.counts)
            table = value[self._cells.single(at) if at < groups else self._cells.block(at - groups)]
            tables.append(table[tuple(here[each] if each in self._kept else slice(None) for each in scope)])
        choices = []
        for each in self._maxima:
            total = sum(np.moveaxis(tables[at], axis, 0)[index] for at, axis, index in each.terms)
            choices.append(np.argmax(total, axis=0))
            tables.append(np.max(total, axis=0))
        levels = here.copy()
        for each, choice in zip(reversed(self._maxima), reversed(choices), strict=True):
            levels[each.group] = choice[tuple(levels[list(each.scope)])]
        return levels

    def _scopes(self) -> list[_Scope]:
        """The groups of the tables that there are at first."""
        return [*((at,) for at in range(len(self._cells.counts))), *self._cells.scopes]

    def _order(self) -> list[_Maximum] | None:
        """The groups in their order; None, with one group more to keep its level, where a table would be too large."""
        scopes = [tuple(each for each in scope if each not in self._kept) for scope in self._scopes()]
        left, remaining = dict(enumerate(scopes)), set(range(len(self._cells.counts))) - self._kept
        order = []
        while remaining:
            beside = {at: _beside(at, left.values()) for at in remaining}
            sizes = {at: int(self._cells.counts[[at, *beside[at]]].prod()) for at in remaining}
            group = min(sizes, key=lambda at: (sizes[at], at))
            if sizes[group] > self._largest:
                self._kept.add(max(beside, key=lambda at: (len(beside[at]), at)))
                return None
            scope = beside[group]
            touching = {at: each for at, each in left.items() if group in each}
            terms = ((at, each.index(group), _index(each, scope)) for at, each in touching.items())
            order.append(_Maximum(group=group, scope=scope, terms=tuple(terms)))
            left = {at: each for at, each in left.items() if at not in touching} | {len(scopes): scope}
            scopes.append(scope)
            remaining.remove(group)
        return order


def _beside(group: int, scopes: Iterable[_Scope]) -> _Scope:
    """The other groups that share a table with this one."""
    return tuple(sorted({other for scope in scopes if group in scope for other in scope} - {group}))


def _index(own: _Scope, scope: _Scope) -> tuple[Any, ...]:
    """What gives a table with the axes `own`, one of which comes first, an axis for each group of `scope` behind it."""
    return (slice(None), *(slice(None) if each in own else None for each in scope))
