"""glibc's heap: how much a process takes from the system for blocks that come and go, hole by hole.

The rules are those of glibc 2.36's `malloc/malloc.c`; `mallopt(3)` describes the thresholds.
"""

from bisect import bisect_left, insort
from collections import defaultdict

from latte_cli.backends.host import LARGE_BLOCK_BYTES

_ALIGNMENT = 64  # c10/core/alignment.h: torch's tensors on a CPU
_UNIT, _HEADER, _LEAST = 16, 8, 32  # MALLOC_ALIGNMENT, SIZE_SZ, MINSIZE
_PAGE = 4096
_TOP_PAD = _FIRST_THRESHOLD = 128 * 1024  # DEFAULT_TOP_PAD, DEFAULT_MMAP_THRESHOLD_MIN
_CACHED, _CACHED_EACH = 1040, 7  # tcache: chunks up to this size, so many of each
_FAST = 128  # the largest fast bin
_CONSOLIDATING = 64 * 1024  # FASTBIN_CONSOLIDATION_THRESHOLD
_SMALL_BINS = 1024  # MIN_LARGE_SIZE: requests from here on put fast bins together first


class GlibcHeap:
    """What glibc holds for named blocks. `reserved_bytes` is what it has from the system, `peak_bytes` the most so far.

    A block is aligned as a tensor: glibc looks for a hole with room for that, so that a block of the same size as a
    hole does not fit it. What is left of a hole goes to small objects (`malloc`), which keep holes apart.
    """

    def __init__(self, map_from: int | None = None) -> None:
        """`map_from` is MALLOC_MMAP_THRESHOLD_; without it glibc raises the threshold to the blocks that it sees."""
        self.peak_bytes = 0
        self._mapped = 0
        self._fixed = map_from is not None
        self._map_from, self._trim_from = map_from or _FIRST_THRESHOLD, _FIRST_THRESHOLD
        self._top = self._end = 0
        self._holes: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._by_size: list[tuple[int, int, int]] = []  # of one size the last one that became free comes first
        self._order: dict[int, int] = {}
        self._count = 0
        self._used: dict[object, tuple[int | None, int]] = {}
        self._cached: defaultdict[int, list[int]] = defaultdict(list)
        self._fast: defaultdict[int, list[int]] = defaultdict(list)

    @property
    def reserved_bytes(self) -> int:
        """The heap and what is mapped beside it."""
        return self._end + self._mapped

    def allocate(self, name: object, size: int) -> None:
        """A tensor's block of `size` bytes."""
        chunk = _chunk_bytes(size)
        found = self._chunk(_chunk_bytes(chunk + _ALIGNMENT + _LEAST))
        if found is None:
            self._map(name, chunk + _ALIGNMENT + _LEAST + _UNIT)
            return
        start, length = found
        if lead := -(start + _UNIT) % _ALIGNMENT:
            lead += _ALIGNMENT if lead < _LEAST else 0
            self._give_back(start, lead)
            start, length = start + lead, length - lead
        if length > chunk + _LEAST:
            self._give_back(start + chunk, length - chunk)
            length = chunk
        self._used[name] = start, length

    def allocate_object(self, name: object, size: int) -> None:
        """A small object of the program, as `malloc` gives it."""
        chunk = _chunk_bytes(size)
        if chunk <= _CACHED and self._cached[chunk]:
            self._used[name] = self._cached[chunk].pop(), chunk
            return
        found = self._chunk(chunk)
        if found is None:
            self._map(name, chunk)
        else:
            self._used[name] = found

    def free(self, name: object) -> None:
        """Give a block back."""
        start, length = self._used.pop(name)
        if start is not None:
            self._give_back(start, length)
            return
        self._mapped -= length
        if not self._fixed and self._map_from < length <= LARGE_BLOCK_BYTES:
            self._map_from, self._trim_from = length, 2 * length

    def _map(self, name: object, chunk: int) -> None:
        length = _pages(chunk + _HEADER)
        self._mapped += length
        self._used[name] = None, length
        self.peak_bytes = max(self.peak_bytes, self.reserved_bytes)

    def _chunk(self, chunk: int) -> tuple[int, int] | None:
        """The smallest hole, or the heap's end, for a chunk; None where it is mapped."""
        if chunk <= _FAST and self._fast[chunk]:
            return self._fast[chunk].pop(), chunk
        if chunk >= _SMALL_BINS or self._end - self._top < chunk + _LEAST:
            self._consolidate()
        at = bisect_left(self._by_size, (chunk, -self._count - 1, 0))
        if at < len(self._by_size):
            length, _, start = self._by_size[at]
            self._remove(start)
            if length - chunk < _LEAST:
                return start, length
            self._insert(start + chunk, length - chunk)
            return start, chunk
        if self._end - self._top < chunk + _LEAST:
            if chunk >= self._map_from:
                return None
            self._end += _pages(chunk + _TOP_PAD + _LEAST - (self._end - self._top))
            self.peak_bytes = max(self.peak_bytes, self.reserved_bytes)
        start, self._top = self._top, self._top + chunk
        return start, chunk

    def _give_back(self, start: int, length: int) -> None:
        if length <= _CACHED and len(self._cached[length]) < _CACHED_EACH:
            self._cached[length].append(start)
        elif length <= _FAST and start + length != self._top:
            self._fast[length].append(start)
        elif self._join(start, length) >= _CONSOLIDATING:
            self._consolidate()
            self._trim()

    def _consolidate(self) -> None:
        for length, starts in self._fast.items():
            for start in starts:
                self._join(start, length)
            starts.clear()

    def _trim(self) -> None:
        if self._end - self._top >= self._trim_from:
            self._end -= max(0, (self._end - self._top - _LEAST - 1 - _TOP_PAD) // _PAGE * _PAGE)

    def _join(self, start: int, length: int) -> int:
        """Make a hole, together with those beside it; its length."""
        before = self._ends.get(start)
        if before is not None:
            length += self._remove(before)
            start = before
        if start + length == self._top:
            self._top = start
            return self._end - start
        if start + length in self._holes:
            length += self._remove(start + length)
        self._insert(start, length)
        return length

    def _insert(self, start: int, length: int) -> None:
        self._holes[start] = length
        self._ends[start + length] = start
        self._count += 1
        self._order[start] = -self._count
        insort(self._by_size, (length, -self._count, start))

    def _remove(self, start: int) -> int:
        length = self._holes.pop(start)
        del self._ends[start + length]
        self._by_size.pop(bisect_left(self._by_size, (length, self._order.pop(start), start)))
        return length


def _chunk_bytes(size: int) -> int:
    """The chunk that holds `size` bytes."""
    return max(_LEAST, -(-(size + _HEADER) // _UNIT) * _UNIT)


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
