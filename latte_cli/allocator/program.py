"""The integer program: one level for each channel group, within limits that are sums over groups and pairs of them."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from latte_cli.allocator.costs import Array, CostTable, Levels

GAP = 5e-4  # chosen: half of the 0.1 % that a plan may fall short of the best
"""How far, relatively, a solution may be from the best."""

_SOLVER_S = 20.0  # chosen: what is found by then is taken; a user waits no longer for one class


class Program:
    """A choice of one level for each group, and of one pair of levels for each pair of groups that share a node.

    The choices of levels are integer; those of pairs follow from them.
    """

    def __init__(self, levels: Levels, pairs: Iterable[tuple[str, str]]) -> None:
        self._levels = levels
        self._single, self._pairs, size = {}, {}, 0
        for name, widths in levels.items():
            self._single[name] = slice(size, size + len(widths))
            size += len(widths)
        self._integer = size
        for first, second in pairs:
            count = len(levels[first]) * len(levels[second])
            self._pairs[first, second] = slice(size, size + count)
            size += count
        self._size = size
        self._limits: list[tuple[Array, float]] = []

    def alone(self, single: Mapping[str, Array]) -> Array:
        """The coefficients of a sum over groups."""
        row = np.zeros(self._size)
        for name, values in single.items():
            row[self._single[name]] = values
        return row

    def row(self, table: CostTable) -> Array:
        """The coefficients of a table's sum, without its constant."""
        row = self.alone(table.single)
        for key, values in table.pairs.items():
            row[self._pairs[key]] = values.ravel()
        return row

    def limit(self, row: Array, most: float) -> None:
        """Let the sum with these coefficients be at most `most`."""
        scale = np.abs(row).max() or 1.0
        self._limits.append((row / scale, most / scale))

    def solve(self, goal: Array) -> dict[str, int] | None:
        """The widths with the most of `goal`, to GAP; None where nothing is within the limits."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        equal, values = self._consistent()
        with _quiet():
            found = milp(
                -goal / (np.abs(goal).max() or 1.0),
                integrality=(np.arange(self._size) < self._integer).astype(int),
                bounds=Bounds(0, 1),
                constraints=[
                    LinearConstraint(equal, values, values),
                    *(LinearConstraint(csr_array(row[None]), -np.inf, most) for row, most in self._limits),
                ],
                options={"mip_rel_gap": GAP, "time_limit": _SOLVER_S},
            )
        if found.x is None:
            return None
        return {name: widths[int(np.argmax(found.x[self._single[name]]))] for name, widths in self._levels.items()}

    def _consistent(self) -> tuple[Any, Array]:
        """One level for each group; and for each level of a pair's group, as much of the pairs as of the level."""
        from scipy.sparse import coo_array

        rows: list[int] = []
        columns: list[int] = []
        entries: list[float] = []
        values: list[float] = []

        def add(plus: Iterable[int], minus: Iterable[int], value: float) -> None:
            for column, entry in (*((each, 1.0) for each in plus), *((each, -1.0) for each in minus)):
                rows.append(len(values))
                columns.append(column)
                entries.append(entry)
            values.append(value)

        for place in self._single.values():
            add(range(place.start, place.stop), (), 1.0)
        for (first, second), place in self._pairs.items():
            grid = np.arange(place.start, place.stop).reshape(len(self._levels[first]), len(self._levels[second]))
            for group, lines in ((first, grid), (second, grid.T)):
                for level, line in enumerate(lines.tolist()):
                    add(line, (self._single[group].start + level,), 0.0)
        shape = len(values), self._size
        return coo_array((entries, (rows, columns)), shape=shape).tocsr(), np.array(values)


@contextmanager
def _quiet() -> Iterator[None]:
    """The solver prints some lines to the process's output whatever it is told; they would be in the middle of ours."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
