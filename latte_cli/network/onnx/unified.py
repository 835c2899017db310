"""Sizes as products, and which have to be the same: so constants that an export made for its batch are found."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

from latte_cli.layers import Shape

Size: TypeAlias = tuple[int | None, ...]
"""A dimension as a product, outer factors first; None means the batch."""

Sizes: TypeAlias = tuple[Size, ...]

BATCH: Size = (None,)

Place: TypeAlias = tuple[str, int]
"""A dimension of a constant: the constant's name, and the axis."""


class Lost(Exception):
    """The batch cannot be followed any further."""


class Loose(int):
    """A dimension of a constant that may hold the batch of the export."""

    place: Place

    def __new__(cls, size: int, place: Place) -> "Loose":
        """A `size` at a `place`."""
        found = super().__new__(cls, size)
        found.place = place
        return found


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A constant that a layer reads: its name, its shape, and along which axes it may have been made for a batch.

    A `trained` one holds the same numbers for each sample along them, and is one sample's.
    """

    name: str
    shape: Shape
    axes: tuple[int, ...]
    trained: bool = False

    @property
    def repeated(self) -> bool:
        """Whether it may be a parameter that was repeated for each sample."""
        return self.trained and bool(self.axes)


def product_of(factors: Iterable[int | None]) -> Size:
    """Factors in normal form: numbers next to each other as one, without ones."""
    found: list[int | None] = []
    for factor in factors:
        if factor == 1:
            continue
        before = found[-1] if found else None
        if factor is None or before is None or isinstance(factor, Loose) or isinstance(before, Loose):
            found.append(factor)
        else:
            found[-1] = before * factor
    return tuple(found)


def has_batch(size: Size) -> bool:
    """Whether the batch is a factor of a dimension."""
    return None in size


def follows(sizes: Sizes) -> bool:
    """Whether the batch is in it, or may be."""
    return any(factor is None or isinstance(factor, Loose) for size in sizes for factor in size)


@dataclass(kw_only=True)
class Unifier:
    """Which sizes are the same at an export's `batch`; `bound` says where in constants the batch is."""

    batch: int
    bound: dict[Place, Size] = field(default_factory=dict)

    def sizes_of(self, constant: Constant) -> Sizes:
        """The dimensions of a constant: those that are bound, and of the others those that may hold the batch."""
        return tuple(self._size_at(constant, axis, size) for axis, size in enumerate(constant.shape))

    def _size_at(self, constant: Constant, axis: int, size: int) -> Size:
        place = (constant.name, axis)
        if place in self.bound:
            return self.bound[place]
        fits = size == self.batch if constant.trained else size % max(1, self.batch) == 0
        may_hold = axis in constant.axes and size > 1 and fits
        return (Loose(size, place),) if may_hold else product_of([size])

    def same(self, sizes: Iterable[Size]) -> Size:
        """The size that `sizes`, broadcast against each other, have together; raises Lost where that is not known."""
        wide = [size for size in sizes if size]
        batched = [size for size in wide if has_batch(size)]
        if any(self._value(size) != self._value(wide[0]) for size in wide) or any(s != batched[0] for s in batched):
            raise Lost
        for size in wide:
            if batched and not has_batch(size):
                self._bind(size, batched[0])
        return (batched or wide or [()])[0]

    def _value(self, size: Size) -> int:
        return prod(self.batch if factor is None else factor for factor in size)

    def _bind(self, size: Size, to: Size) -> None:
        """Let a dimension of a constant be the size that it has to be."""
        if len(size) == 1 and isinstance(size[0], Loose):
            self.bound[size[0].place] = to
            return
        if len(size) != len(to):
            raise Lost
        for own, factor in zip(size, to, strict=True):
            if factor is None and isinstance(own, Loose) and own == self.batch:
                self.bound[own.place] = BATCH
            elif own != factor:
                raise Lost


def shapes_at(constants: Mapping[str, Constant], bound: Mapping[Place, Size], batch: int) -> dict[str, Shape]:
    """The shapes that constants with a batch in them have at another; 1 along it where all samples' are the same."""
    found: dict[str, Shape] = {}
    for (name, axis), size in bound.items():
        constant = constants[name]
        shape = found.get(name, constant.shape)
        new = 1 if constant.trained else prod(batch if factor is None else factor for factor in size)
        found[name] = (*shape[:axis], new, *shape[axis + 1 :])
    return found
