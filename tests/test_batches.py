"""The largest batch that fits, by bisection over batches that are read one by one."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.cli.batches import Batches, Room, parse_batches, parse_room
from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator.batches import accumulation, divisors, largest_batch


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(0, 5000), st.integers(1, 5000), st.integers(1, 10**6))
def test_the_largest_batch_fits_and_the_next_does_not(base: int, slope: int, step: int, every: int, limit: int) -> None:
    tried = []

    def needed_bytes(batch: int) -> int:
        tried.append(batch)
        return base + slope * batch + step * (batch // every)

    found = largest_batch(needed_bytes, limit)
    assert found == 0 or base + slope * found + step * (found // every) <= limit
    assert base + slope * (found + 1) + step * ((found + 1) // every) > limit
    assert len(set(tried)) == len(tried) <= 120


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(1, 10**5), st.integers(1, 10**6))
def test_a_batch_that_cannot_be_had_does_not_fit(base: int, slope: int, most: int, limit: int) -> None:
    tried = []

    def needed_bytes(batch: int) -> float:
        tried.append(batch)
        return base + slope * batch if batch <= most else inf

    assert largest_batch(needed_bytes, limit) == max(0, min(most, (limit - base) // slope))
    assert len(set(tried)) == len(tried) <= 120


def test_a_straight_line_is_found_in_few_looks() -> None:
    tried = []

    def needed_bytes(batch: int) -> int:
        tried.append(batch)
        return 250 + 13 * batch

    assert largest_batch(needed_bytes, 8192) == (8192 - 250) // 13
    assert len(tried) <= 14


def test_where_one_sample_does_not_fit_there_is_no_batch() -> None:
    assert largest_batch(lambda batch: 100 * batch, 99) == 0


def test_batches_that_make_up_an_effective_one() -> None:
    assert divisors(12) == [12, 6, 4, 3, 2, 1]
    assert accumulation(256, 32) == 8
    with pytest.raises(LatteError) as caught:
        accumulation(256, 48)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "`--batch-size 64`" in str(caught.value.hint) or "`--batch-size 32`" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("8", Batches(sizes=(8,))),
        ("32, 8,8", Batches(sizes=(8, 32))),
        ("max", Batches(room=Room())),
        ("max:device", Batches(room=Room())),
        ("4,max:8GiB", Batches(sizes=(4,), room=Room(limit_bytes=8 * 2**30))),
    ],
)
def test_batches_as_people_write_them(text: str, meant: Batches) -> None:
    assert parse_batches(text) == meant


@pytest.mark.parametrize("text", ["", "0", "-1", "8,", "1.5", "max:", "max:8", "max,max:8GiB", "most", "٣x"])
def test_other_batches_are_refused(text: str) -> None:
    with pytest.raises(LatteError) as caught:
        parse_batches(text)
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_room_is_a_size_or_the_device() -> None:
    assert (parse_room("device"), parse_room("512MiB")) == (Room(), Room(limit_bytes=512 * 2**20))
    with pytest.raises(LatteError):
        parse_room("8")
