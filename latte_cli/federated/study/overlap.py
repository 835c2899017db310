"""Overlap: sums over the devices that hold a number of a parameter, quick enough for thousands of rounds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latte_cli.federated.aggregation import Arrays

Index: TypeAlias = tuple[NDArray[np.int64], ...]
"""The numbers that a device holds of a parameter: those at these indices of each dimension."""


@dataclass(frozen=True, kw_only=True)
class Sum:
    """For each number of a parameter the weighted `total` over its `holders`, their `weight`, and how many they are."""

    total: NDArray[np.float64]
    weight: NDArray[np.float64]
    holders: NDArray[np.int16]

    def mean(self, value: NDArray[Any], *, fewest: int = 1) -> NDArray[Any]:
        """The mean where there are at least `fewest` holders, else `value`."""
        touched = self.holders >= fewest
        if touched.all():
            return (self.total / self.weight).astype(value.dtype)
        merged = value.copy()
        np.divide(self.total, self.weight, out=merged, where=touched, casting="same_kind")
        return merged


@dataclass(frozen=True, kw_only=True)
class HeldPart:
    """What a device holds of a network: its `arrays`, each at the place that `indices` has for it, with a `weight`."""

    indices: Mapping[str, Index]
    arrays: Arrays
    weight: float = 1.0


def sums(whole: Arrays, held: Iterable[HeldPart]) -> dict[str, Sum]:
    """The sums over all that are `held`, in double precision and in their order, for each parameter of `whole`."""
    found = {
        name: Sum(total=np.zeros(value.shape), weight=np.zeros(value.shape), holders=np.zeros(value.shape, np.int16))
        for name, value in whole.items()
    }
    for each in held:
        for name, array in each.arrays.items():
            where = block(each.indices[name])
            found[name].total[where] += each.weight * array.astype(np.float64)
            found[name].weight[where] += each.weight
            found[name].holders[where] += 1
    return found


def block(index: Index) -> Any:
    """What selects the `index` of an array: slices where channels follow each other, since lists of them take long."""
    parts: Sequence[Any] = [_run(each) for each in index]
    lists = sum(not isinstance(each, slice) for each in parts)
    return tuple(parts) if lists <= 1 else np.ix_(*index)


def _run(index: NDArray[np.int64]) -> Any:
    first, last = int(index[0]), int(index[-1])
    return slice(first, last + 1) if last - first + 1 == len(index) else index
