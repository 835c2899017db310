"""Which numbers of a file's stored tensors a constant consists of, so that each is counted once."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import TypeAlias

from latte_cli.layers import Shape

Indices: TypeAlias = range | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The numbers of the stored tensor `origin` at `index`, along each of its dimensions.

    `axes` says for each dimension of the constant along which one of the stored tensor it runs, -1 for one of size 1
    that was put in; it is None where a reshape has mixed them.
    """

    origin: str
    shape: Shape
    index: tuple[Indices, ...]
    axes: tuple[int, ...] | None

    @property
    def label(self) -> str:
        """The stored tensor's name, followed by what is taken of it."""
        if not self.partial:
            return self.origin
        taken = ", ".join(_text(indices, size) for indices, size in zip(self.index, self.shape, strict=True))
        return f"{self.origin}[{taken}]"

    @property
    def partial(self) -> bool:
        """Whether it is less than the stored tensor, or in another order."""
        return not all(_covers(indices, size) for indices, size in zip(self.index, self.shape, strict=True))

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(map(len, self.index))


def whole(origin: str, shape: Shape) -> Part:
    """All of a stored tensor."""
    return Part(origin=origin, shape=shape, index=tuple(map(range, shape)), axes=tuple(range(len(shape))))


def _covers(indices: Indices, size: int) -> bool:
    return indices == range(size)


def _text(indices: Indices, size: int) -> str:
    if _covers(indices, size):
        return ":"
    if isinstance(indices, range):
        end = indices.stop if indices.stop >= 0 else ""
        return f"{indices.start}:{end}" + (f":{indices.step}" if indices.step != 1 else "")
    return f"({' '.join(map(str, indices))})"


def taken(part: Part, axis: int, indices: Indices) -> Part | None:
    """The `part` with only `indices` along the constant's dimension `axis`; None where they are not to be followed."""
    if part.axes is None:
        return None
    own = part.axes[axis]
    if own < 0:
        return part if len(indices) == 1 else None
    before = part.index[own]
    if isinstance(before, range) and isinstance(indices, range):
        chosen: Indices = before[indices.start : indices.stop if indices.stop >= 0 else None : indices.step]
    else:
        chosen = tuple(before[at] for at in indices)
    return replace(part, index=(*part.index[:own], chosen, *part.index[own + 1 :]))


def reordered(part: Part, order: Sequence[int]) -> Part:
    """The `part` with the constant's dimensions in another `order`."""
    return part if part.axes is None else replace(part, axes=tuple(part.axes[axis] for axis in order))


def reshaped(part: Part, before: Shape, after: Shape) -> Part:
    """The `part` behind a reshape: its dimensions are followed where only those of size 1 came or went."""
    if before == after or part.axes is None:
        return part
    if [size for size in before if size != 1] != [size for size in after if size != 1]:
        return replace(part, axes=None)
    wide = iter([axis for axis, size in zip(part.axes, before, strict=True) if size != 1])
    return replace(part, axes=tuple(next(wide) if size != 1 else -1 for size in after))


def overlaps(named: Iterable[tuple[str, tuple[Part, ...]]]) -> Iterator[tuple[str, int]]:
    """For each of the `named` parameters how many of its numbers are in those before it, where there are any."""
    earlier: dict[str, list[Part]] = {}
    for name, parts in named:
        covered = 0
        for part in parts:
            others = earlier.setdefault(part.origin, [])
            covered += _covered(part, [other for other in others if not _disjoint(part, other)])
            others.append(part)
        if covered:
            yield name, covered


def _disjoint(part: Part, other: Part) -> bool:
    return any(_apart(own, others) for own, others in zip(part.index, other.index, strict=True))


def _apart(own: Indices, other: Indices) -> bool:
    if not own or not other:
        return True
    (first, last), (its_first, its_last) = _ends(own), _ends(other)
    return last < its_first or its_last < first or (own != other and not set(own) & set(other))


def _ends(indices: Indices) -> tuple[int, int]:
    if isinstance(indices, range):
        return min(indices[0], indices[-1]), max(indices[0], indices[-1])
    return min(indices), max(indices)


def _covered(part: Part, others: Sequence[Part]) -> int:
    """How many numbers of `part` are in one of `others`: indices that are in the same ones are counted together."""
    if not others:
        return 0
    if any(_within(part, other) for other in others):
        return prod(map(len, part.index))
    alike = [_alike(own, [other.index[axis] for other in others]) for axis, own in enumerate(part.index)]
    return sum(
        prod(counts[key] for counts, key in zip(alike, keys, strict=True))
        for keys in product(*alike)
        if any(all(key[at] for key in keys) for at in range(len(others)))
    )


def _within(part: Part, other: Part) -> bool:
    return all(
        own == its or _covers(its, size) for own, its, size in zip(part.index, other.index, part.shape, strict=True)
    )


def _alike(own: Indices, others: Sequence[Indices]) -> Mapping[tuple[bool, ...], int]:
    """How many indices are in the same ones of `others`."""
    known: list[Collection[int]] = [other if isinstance(other, range) else frozenset(other) for other in others]
    return Counter(tuple(index in other for other in known) for index in own)
