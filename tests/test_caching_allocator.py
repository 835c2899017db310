"""PyTorch's caching allocator by its documented rules, in cases worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.estimator.caching_allocator import CachingAllocator, OutOfRoom, rounded_bytes, segment_bytes

KIB, MIB = 2**10, 2**20


@pytest.mark.parametrize(("size", "rounded"), [(0, 512), (1, 512), (512, 512), (513, 1024), (MIB + 1, MIB + 512)])
def test_blocks_are_multiples_of_512_bytes(size: int, rounded: int) -> None:
    assert rounded_bytes(size) == rounded


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ],
)
def test_segments_have_the_documented_sizes(size: int, segment: int) -> None:
    assert segment_bytes(size) == segment


def reserved(*sizes: int) -> CachingAllocator:
    allocator = CachingAllocator()
    for at, size in enumerate(sizes):
        allocator.allocate(at, size)
    return allocator


def test_small_blocks_share_a_segment_of_two_mebibytes() -> None:
    assert reserved(*[512 * KIB] * 4).reserved_bytes == 2 * MIB
    assert reserved(*[512 * KIB] * 5).reserved_bytes == 4 * MIB


def test_blocks_up_to_ten_mebibytes_share_a_segment_of_twenty() -> None:
    assert reserved(9 * MIB, 9 * MIB).reserved_bytes == 20 * MIB
    assert reserved(9 * MIB, 9 * MIB, 3 * MIB).reserved_bytes == 40 * MIB


def test_a_rest_of_at_most_a_mebibyte_of_a_large_segment_stays_with_its_block() -> None:
    assert reserved(19 * MIB, 2 * MIB).reserved_bytes == 40 * MIB  # 19 MiB have a segment of 20 and keep it whole
    allocator = reserved(11 * MIB)  # a segment of 12 MiB: the last one is not split off
    allocator.allocate("small", MIB)
    assert allocator.reserved_bytes == 14 * MIB


def test_small_and_large_blocks_have_pools_of_their_own() -> None:
    allocator = reserved(30 * MIB)
    allocator.free(0)
    allocator.allocate("small", 512)
    assert allocator.reserved_bytes == 32 * MIB


def test_a_free_block_is_taken_again_by_the_smallest_that_fits() -> None:
    allocator = reserved(40 * MIB, 20 * MIB)
    allocator.free(0)
    allocator.free(1)
    allocator.allocate("a", 18 * MIB)
    allocator.allocate("b", 40 * MIB)
    assert allocator.reserved_bytes == 60 * MIB


def test_free_parts_of_a_segment_join_and_those_of_two_do_not() -> None:
    allocator = reserved(9 * MIB, 9 * MIB)
    allocator.free(0)
    allocator.free(1)
    allocator.allocate("whole", 20 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    allocator = reserved(20 * MIB, 20 * MIB)
    allocator.free(0)
    allocator.free(1)
    allocator.allocate("whole", 40 * MIB)
    assert allocator.reserved_bytes == 80 * MIB


def test_under_a_limit_unused_segments_are_given_back_before_it_fails() -> None:
    allocator = CachingAllocator(60 * MIB)
    allocator.allocate(0, 30 * MIB)
    allocator.free(0)
    allocator.allocate(1, 40 * MIB)
    assert allocator.reserved_bytes == allocator.peak_bytes == 40 * MIB
    with pytest.raises(OutOfRoom):
        allocator.allocate(2, 30 * MIB)


@given(st.lists(st.tuples(st.integers(1, 40 * MIB), st.booleans()), max_size=40))
def test_what_is_reserved_holds_what_is_used(steps: list[tuple[int, bool]]) -> None:
    allocator, used = CachingAllocator(), dict[int, int]()
    for at, (size, frees) in enumerate(steps):
        allocator.allocate(at, size)
        used[at] = rounded_bytes(size)
        assert sum(used.values()) <= allocator.reserved_bytes <= allocator.peak_bytes
        if frees:
            oldest = min(used)
            del used[oldest]
            allocator.free(oldest)
    for each in used:
        allocator.free(each)
    before = allocator.reserved_bytes
    for at, (size, _) in enumerate(steps[:1]):
        allocator.allocate(at, size)  # all parts have joined again, so that the first block finds its own
    assert allocator.reserved_bytes == before
