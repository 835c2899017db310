"""PyTorch's caching allocator on a GPU: how much it reserves for blocks that come and go.

The rules are those of `c10/cuda/CUDACachingAllocator.cpp` with its default settings, which
https://docs.pytorch.org/docs/stable/notes/cuda.html#memory-management describes.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from math import inf

_MIB = 2**20
ROUNDING_BYTES = 512  # kMinBlockSize
SMALL_BYTES = _MIB  # kSmallSize: the largest block of the small pool
_SMALL_SEGMENT, _SEGMENT = 2 * _MIB, 20 * _MIB  # kSmallBuffer, kLargeBuffer
_LARGE_BYTES, SEGMENT_ROUNDING_BYTES = 10 * _MIB, 2 * _MIB  # kMinLargeAlloc, kRoundLarge


class OutOfRoom(Exception):
    """A block for which the device has no room, even after all unused segments were given back."""


@dataclass(eq=False)
class _Part:
    """A part of a segment, used or free, between its neighbours."""

    size: int
    small: bool
    before: "_Part | None" = None
    after: "_Part | None" = None
    free: bool = False


@dataclass
class _Pool:
    """The free parts of one pool, smallest first; the number tells parts of one size apart, oldest first."""

    parts: list[tuple[int, int, _Part]] = field(default_factory=list)


class CachingAllocator:
    """What is reserved for named blocks on a device with room for `limit_bytes`; `peak_bytes` is the most so far."""

    def __init__(self, limit_bytes: float = inf) -> None:
        self.limit_bytes = limit_bytes
        self.reserved_bytes = self.peak_bytes = 0
        self._pools = {True: _Pool(), False: _Pool()}
        self._used: dict[object, _Part] = {}
        self._number = 0
        self._numbers: dict[int, int] = {}

    def allocate(self, name: object, size: int) -> None:
        """A block of `size` bytes; raises OutOfRoom."""
        rounded = rounded_bytes(size)
        small = rounded <= SMALL_BYTES
        part = self._best(small, rounded) or self._segment(small, rounded)
        part.free = False
        left = part.size - rounded
        if left >= ROUNDING_BYTES if small else left > SMALL_BYTES:
            rest = _Part(size=left, small=small, before=part, after=part.after)
            if part.after:
                part.after.before = rest
            part.size, part.after = rounded, rest
            self._keep(rest)
        self._used[name] = part

    def free(self, name: object) -> None:
        """Give a block back: it joins free parts beside it in its segment, which stays reserved."""
        part = self._used.pop(name)
        for other in (part.before, part.after):
            if other and other.free:
                self._forget(other)
                self._join(part, other)
        self._keep(part)

    def _best(self, small: bool, size: int) -> _Part | None:
        """The smallest free part with room for `size` bytes."""
        parts = self._pools[small].parts
        at = bisect_left(parts, (size, -1))
        return parts.pop(at)[2] if at < len(parts) else None

    def _segment(self, small: bool, size: int) -> _Part:
        """A new segment; where the device has no room, after all unused ones were given back."""
        length = segment_bytes(size)
        if self.reserved_bytes + length > self.limit_bytes:
            self._give_back_unused()
        if self.reserved_bytes + length > self.limit_bytes:
            raise OutOfRoom
        self.reserved_bytes += length
        self.peak_bytes = max(self.peak_bytes, self.reserved_bytes)
        return _Part(size=length, small=small)

    def _give_back_unused(self) -> None:
        for pool in self._pools.values():
            unused = [each for each in pool.parts if not each[2].before and not each[2].after]
            pool.parts = [each for each in pool.parts if each not in unused]
            self.reserved_bytes -= sum(part.size for _, _, part in unused)

    def _keep(self, part: _Part) -> None:
        part.free = True
        self._number += 1
        self._numbers[id(part)] = self._number
        insort(self._pools[part.small].parts, (part.size, self._number, part))

    def _forget(self, part: _Part) -> None:
        parts = self._pools[part.small].parts
        parts.pop(bisect_left(parts, (part.size, self._numbers.pop(id(part)))))

    @staticmethod
    def _join(part: _Part, other: _Part) -> None:
        part.size += other.size
        if other is part.before:
            part.before = other.before
            if other.before:
                other.before.after = part
        else:
            part.after = other.after
            if other.after:
                other.after.before = part


def rounded_bytes(size: int) -> int:
    """What a block of `size` bytes takes: a multiple of 512."""
    return max(ROUNDING_BYTES, -(-size // ROUNDING_BYTES) * ROUNDING_BYTES)


def segment_bytes(size: int) -> int:
    """The segment that is reserved for a block of `size` bytes, rounded: 2 MiB, 20 MiB, or a multiple of 2 MiB."""
    if size <= SMALL_BYTES:
        return _SMALL_SEGMENT
    if size < _LARGE_BYTES:
        return _SEGMENT
    return -(-size // SEGMENT_ROUNDING_BYTES) * SEGMENT_ROUNDING_BYTES
