"""The rules of glibc's heap against glibc itself."""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from random import Random

import pytest

from latte_cli.backends.host import LARGE_BLOCK_BYTES
from latte_cli.estimator.heap import GlibcHeap

MIB = 2**20

REAL = """
import ctypes, json, sys
library = ctypes.CDLL(None)
names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in names]
library.mallinfo2.restype = Info
library.free.argtypes = [ctypes.c_void_p]
library.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
def taken():
    info = library.mallinfo2()
    return info.arena + info.hblkhd
calls = json.load(sys.stdin)
blocks = {}
first = most = taken()
for name, size in calls:
    if size:
        pointer = ctypes.c_void_p()
        assert not library.posix_memalign(ctypes.byref(pointer), 64, size)
        blocks[name] = pointer
        most = max(most, taken())
    else:
        library.free(blocks.pop(name))
print(json.dumps([most - first, taken() - first]))
"""


def glibc() -> tuple[int, ...] | None:
    version = getattr(ctypes.CDLL(None), "gnu_get_libc_version", None)
    if version is None:
        return None
    version.restype = ctypes.c_char_p
    return tuple(map(int, version().decode().split(".")))


def calls(seed: int) -> Iterator[tuple[int, int]]:
    """Blocks that come, and go in another order: (name, bytes), with 0 for one that goes.

    They are few: whether a hole takes a block of about its size hangs on a few bytes of Python's own blocks, and from
    there on the two heaps differ by up to a tenth.
    """
    draw, held = Random(seed), list[int]()
    for name in range(70):
        yield name, 64 * draw.randint(200, 16 * MIB // 64)
        held.append(name)
        while len(held) > draw.randint(4, 20):
            yield held.pop(draw.randrange(len(held))), 0


@pytest.mark.skipif(glibc() is None or (glibc() or ()) < (2, 33), reason="needs glibc's mallinfo2")
@pytest.mark.parametrize("threshold", [None, 2**17])
@pytest.mark.parametrize("seed", range(4))
def test_a_heap_takes_what_glibc_takes(seed: int, threshold: int | None) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {"MALLOC_MMAP_THRESHOLD_": str(threshold)} if threshold else {}
    given = json.dumps(list(calls(seed)))
    done = subprocess.run(
        [sys.executable, "-IS", "-c", REAL], input=given, capture_output=True, text=True, check=True, env=environment
    )
    most, _ = json.loads(done.stdout)
    heap = GlibcHeap(threshold)
    for name, size in calls(seed):
        if size:
            heap.allocate(name, size)
        else:
            heap.free(name)
    assert heap.peak_bytes == pytest.approx(most, rel=0.01 if threshold else 0.15), most


def test_a_hole_of_a_block_does_not_take_a_block_of_its_size() -> None:
    heap = GlibcHeap()
    for name in ("first", "raised"):
        heap.allocate(name, 8 * MIB)
    heap.free("raised")  # from here on blocks of this size are of the heap
    heap.free("first")
    for name in ("a", "between", "b", "last"):
        heap.allocate(name, 4 * MIB)
    before = heap.reserved_bytes
    heap.free("between")
    heap.allocate("again", 4 * MIB)
    assert heap.reserved_bytes >= before + 4 * MIB - 2**17


def test_blocks_above_the_largest_threshold_go_back_at_once() -> None:
    heap = GlibcHeap()
    for name in range(3):
        heap.allocate(name, LARGE_BLOCK_BYTES + 1)
        heap.free(name)
    assert heap.reserved_bytes == 0
    assert heap.peak_bytes < LARGE_BLOCK_BYTES + 2**17
