"""Moves: what another level of one channel group, or of two at once, changes in sums over cells."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from latte_cli.allocator.cells import Array, Cells, Indices

_Entry: TypeAlias = tuple[Indices, Indices, float]
"""Rows of a selection, and the cell and the sign that each of them gets."""


@dataclass(frozen=True, kw_only=True)
class Moves:
    """The cells of the new levels of each move's two groups (twice the same for one group), and what it changes.

    `linear` are the changes of linear sums, `squares` that of the sum of squares.
    """

    ends: Indices
    linear: Array
    squares: Array


class Neighbourhood:
    """The moves that there are between levels of `cells`."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._group = np.repeat(np.arange(len(cells.counts)), cells.counts)
        self._sharing: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for number, scope in enumerate(cells.scopes):
            for pair in combinations(scope, 2):
                self._sharing[pair].append(number)
        apart = np.triu(self._group[:, None] != self._group[None])
        for first, second in self._sharing:
            apart[np.ix_(cells.single(first), cells.single(second))] = False
        self._apart = np.argwhere(apart)

    def levels(self, chosen: Indices, ends: Indices) -> Indices:
        """The levels after the move with these ends."""
        after = chosen.copy()
        after[self._group[ends]] = ends - self._cells.starts[self._group[ends]]
        return after

    def moves(
        self, chosen: Indices, linear: Array, halves: Any, sums: Array, shares: Array, *, least: float = -np.inf
    ) -> Moves:
        """The moves from `chosen` that change the first of the linear sums, whose cells `linear` has, by over `least`.

        The sparse `halves` add up to `sums` there, and their squares count by `shares`.
        """
        single = _selection(self._single(chosen), len(self._group), self._cells.size)
        own, own_halves = single @ linear, single @ halves
        own_squares = squares_changed(own_halves, sums, shares)
        moving = np.ones(len(self._group), dtype=bool)
        moving[self._cells.starts + chosen] = False

        alone = np.flatnonzero(moving & (own[:, 0] > least))
        apart = self._apart[moving[self._apart].all(axis=1) & (own[self._apart, 0].sum(axis=1) > least)]
        one, other = apart.T
        crossed = ((own_halves * shares[None]) @ own_halves.T).toarray()[one, other]

        ends, entries = self._joint(chosen)
        joint = single[ends[:, 0]] + single[ends[:, 1]] + _selection(entries, len(ends), self._cells.size)
        joint_linear = joint @ linear
        kept = moving[ends].all(axis=1) & (joint_linear[:, 0] > least)
        joint_squares = squares_changed(joint[kept] @ halves, sums, shares)
        return Moves(
            ends=np.concatenate([np.stack([alone, alone], axis=1), apart, ends[kept]]),
            linear=np.concatenate([own[alone], own[one] + own[other], joint_linear[kept]]),
            squares=np.concatenate(
                [own_squares[alone], own_squares[one] + own_squares[other] + 2 * crossed, joint_squares]
            ),
        )

    def _single(self, chosen: Indices) -> Iterator[_Entry]:
        """For each level of each group, the cells that it adds and, below zero, those that go."""
        for group, level in enumerate(chosen):
            own = self._cells.single(group)
            yield own, own, 1.0
            yield own, np.full_like(own, own[level]), -1.0
        for number, scope in enumerate(self._cells.scopes):
            block = self._cells.block(number)
            here = block[tuple(chosen[list(scope)])]
            for group in scope:
                own, line = self._cells.single(group), _plane(block, scope, chosen, (group,))
                yield own, line, 1.0
                yield own, np.full_like(own, here), -1.0

    def _joint(self, chosen: Indices) -> tuple[Indices, list[_Entry]]:
        """The ends of moves of two groups that share blocks, and the cells that these change beyond single moves."""
        ends, entries, count = [np.zeros((0, 2), dtype=np.int64)], [], 0
        for (first, second), numbers in self._sharing.items():
            own, others = self._cells.single(first), self._cells.single(second)
            ends.append(np.stack(np.meshgrid(own, others, indexing="ij"), axis=-1).reshape(-1, 2))
            rows = count + np.arange(len(ends[-1]))
            count += len(rows)
            for number in numbers:
                plane = _plane(self._cells.block(number), self._cells.scopes[number], chosen, (first, second))
                at, to = np.broadcast_to(plane[:, [chosen[second]]], plane.shape), plane[[chosen[first]]]
                here = np.full_like(plane, plane[chosen[first], chosen[second]])
                entries += [
                    (rows, plane.ravel(), 1.0),
                    (rows, at.ravel(), -1.0),
                    (rows, np.broadcast_to(to, plane.shape).ravel(), -1.0),
                    (rows, here.ravel(), 1.0),
                ]
        return np.concatenate(ends), entries


def squares_changed(changes: Any, sums: Array, shares: Array) -> Array:
    """What changes of the sums of halves, a row each, change in the sum of their squares."""
    found: Array = changes @ (2 * shares * sums) + changes.power(2) @ shares
    return found


def _plane(block: Indices, scope: tuple[int, ...], chosen: Indices, free: tuple[int, ...]) -> Indices:
    """The cells of a block at any level of the `free` groups, where the others have the levels `chosen`."""
    return block[tuple(slice(None) if group in free else chosen[group] for group in scope)]


def _selection(entries: Iterable[_Entry], count: int, size: int) -> Any:
    """The sparse matrix whose product with a table adds up, for each row, cells with their signs."""
    from scipy.sparse import csr_array

    entries = list(entries)
    if not entries:
        return csr_array((count, size))
    rows, columns = (np.concatenate([each[at] for each in entries]) for at in (0, 1))
    signs = np.repeat([sign for *_, sign in entries], [len(each) for each, *_ in entries])
    return csr_array((signs, (rows, columns)), shape=(count, size))
