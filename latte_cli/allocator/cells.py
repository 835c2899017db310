"""Cells: the entries of tables that add up over channel groups, and over blocks of groups that share layers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Widths: TypeAlias = Mapping[str, int]
"""How many channels each channel group keeps, by its name."""

Levels: TypeAlias = Mapping[str, tuple[int, ...]]
"""The widths that each channel group may have, least first."""


class Cells:
    """One cell for each level of each group, then blocks: a cell for each choice of levels of groups that share layers.

    `counts` are the levels of each group; `scopes` name the groups of each block by their places, which rise.
    """

    def __init__(self, levels: Levels, shared: Iterable[Sequence[str]]) -> None:
        """`shared` names the groups of each block, in any order; what comes again shares one block."""
        self.levels = levels
        self._places = {name: place for place, name in enumerate(levels)}
        self.counts = np.array([len(each) for each in levels.values()])
        self.starts = np.cumsum(self.counts) - self.counts
        scopes = dict.fromkeys(tuple(sorted(self._places[name] for name in names)) for names in shared)
        self._numbers = {scope: number for number, scope in enumerate(scopes)}
        self.scopes = tuple(scopes)
        sizes = np.array([self.counts[list(scope)].prod() for scope in scopes], dtype=np.int64)
        self._block_starts = self.counts.sum() + np.cumsum(sizes) - sizes
        self._strides = np.zeros((len(scopes), len(levels)), dtype=np.int64)
        for number, scope in enumerate(scopes):
            self._strides[number, list(scope)] = [
                self.counts[list(scope[at:])].prod() for at in range(1, 1 + len(scope))
            ]
        self.size = int(self.counts.sum() + sizes.sum())

    def single(self, group: int) -> Indices:
        """The cells of a group, named by its place, by its levels."""
        return np.arange(self.starts[group], self.starts[group] + self.counts[group])

    def block(self, number: int) -> Indices:
        """The cells of a block, with an axis for each group of its scope."""
        shape = self.counts[list(self.scopes[number])]
        cells: Indices = self._block_starts[number] + np.arange(shape.prod()).reshape(shape)
        return cells

    def of_groups(self, names: Sequence[str]) -> Indices:
        """The cells of these groups, one or more that share a block, with an axis for each in their order."""
        places = [self._places[name] for name in names]
        if len(places) == 1:
            return self.single(places[0])
        scope = tuple(sorted(places))
        return self.block(self._numbers[scope]).transpose([scope.index(place) for place in places])

    def indices_of(self, widths: Widths) -> Indices:
        """The level of each group at these widths."""
        return np.array([options.index(widths[name]) for name, options in self.levels.items()])

    def widths(self, chosen: Indices) -> dict[str, int]:
        """The width of each group at these levels."""
        return {name: options[at] for (name, options), at in zip(self.levels.items(), chosen, strict=True)}

    def of(self, chosen: Indices) -> Indices:
        """The cells that count at these levels; a row of cells for each row of levels."""
        return np.concatenate([self.starts + chosen, self._block_starts + chosen @ self._strides.T], axis=-1)


@dataclass(frozen=True, kw_only=True)
class UpdateTable:
    """The seconds of an update of so many `parameters` (rising), and how far above them it may be."""

    parameters: Array
    seconds: Array
    halves_s: Array

    def added_to(self, parameters: Array, seconds: Array, squares: Array) -> tuple[Array, Array]:
        """T and B² of steps that add up to these without their updates."""
        half_s = np.interp(parameters, self.parameters, self.halves_s)
        return seconds + np.interp(parameters, self.parameters, self.seconds), squares + half_s**2

    @property
    def slope_s(self) -> float:
        """The seconds of a parameter more."""
        (least, *_, most), (low_s, *_, high_s) = self.parameters.tolist(), self.seconds.tolist()
        return max(0.0, (high_s - low_s) / (most - least)) if most > least else 0.0


NO_UPDATE = UpdateTable(parameters=np.zeros(2), seconds=np.zeros(2), halves_s=np.zeros(2))


@dataclass(frozen=True, kw_only=True)
class StepSums:
    """What a step adds up to without its update: seconds of its calls, parameters, and how long calls may take more.

    `halves_s` has the sum of those that err together, for each such set of calls.
    """

    seconds: float
    parameters: float
    halves_s: Array


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """The sums of steps: those of `constant`, and what each of `cells` adds.

    `amounts` has the seconds and parameters of each cell, `halves_s` its halves (sparse), `shares` the share of the
    squared sum of each set of calls that err together in the variance of the step. `update` comes on top.
    """

    cells: Cells
    constant: StepSums
    amounts: Array
    halves_s: Any
    shares: Array
    update: UpdateTable

    def at(self, chosen: Indices) -> StepSums:
        """The sums at these levels."""
        cells = self.cells.of(chosen)
        seconds, parameters = self.amounts[cells].sum(axis=0)
        return StepSums(
            seconds=self.constant.seconds + float(seconds),
            parameters=self.constant.parameters + float(parameters),
            halves_s=self.constant.halves_s + np.asarray(self.halves_s[cells].sum(axis=0)).ravel(),
        )

    def step(self, sums: StepSums) -> tuple[float, float]:
        """T and B² of the step that adds up to this, with its update."""
        squares = np.array(self.shares @ sums.halves_s**2)
        seconds, squares = self.update.added_to(np.array(sums.parameters), np.array(sums.seconds), squares)
        return float(seconds), float(squares)
