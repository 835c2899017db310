"""Ties: which numbers mean the same channel."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]
"""Who the channels of an activation are: as many dimensions as it has, of size 1 where the number does not matter."""

FIXED = 0
"""Marks what cannot be cut."""


class Ties:
    """Numbers from 0 up to `count`, and which of them are the same; the least of those that are is that of all."""

    def __init__(self) -> None:
        self.count = 1
        self._pending: list[tuple[Ids, Ids]] = []
        self._roots: Ids = np.zeros(1, dtype=np.int64)

    def new(self, *shape: int) -> Ids:
        """As many new numbers as a tensor of `shape` has places."""
        first, self.count = self.count, self.count + int(np.prod(shape))
        return np.arange(first, self.count, dtype=np.int64).reshape(shape)

    def tie(self, a: Ids, b: Ids) -> None:
        """Make the numbers of `a` and `b`, broadcast against each other, the same."""
        first, second = np.broadcast_arrays(a, b)
        self._pending.append((first.ravel(), second.ravel()))

    def fix(self, ids: Ids) -> None:
        """Let none of them be cut."""
        self.tie(ids, np.array(FIXED))

    def stiffen(self, ids: Ids, axes: tuple[int, ...]) -> None:
        """Make the numbers along `axes` the same."""
        first = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(ids.ndim))
        if ids[first].size < ids.size:
            self.tie(ids, ids[first])

    def roots(self, ids: Ids) -> Ids:
        """The numbers that represent `ids`, in their shape."""
        if self._pending or len(self._roots) < self.count:
            self._resolve()
        return self._roots[ids]

    def _resolve(self) -> None:
        """Let each number point to the least that it is tied to, and follow what that points to, until all agree."""
        every = np.arange(len(self._roots), self.count)
        roots = np.concatenate([self._roots, every])
        self._pending.append((every, every))
        first, second = (np.concatenate(side) for side in zip(*self._pending, strict=True))
        while True:
            first, second = roots[first], roots[second]
            differing = first != second
            if not differing.any():
                break
            first, second = first[differing], second[differing]
            np.minimum.at(roots, np.maximum(first, second), np.minimum(first, second))
            while (roots != roots[roots]).any():
                roots = roots[roots]
        self._roots, self._pending = roots, []
