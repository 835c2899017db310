"""Footers and pages that lie, or that Arrow does not survive; each in a separate process, which lives on."""

import io
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import odd_parts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from append_rows import DEVICE
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.store import open_store, thrift
from latte_cli.store.chunks import Chunk, check_pages, describe, row_groups

READ = """
import sys
import pyarrow as pa
from latte_cli.store.parts import Damaged, PartDirectory
directory = PartDirectory(sys.argv[1])
(part,) = directory.parts(sys.argv[2])
try:
    print(directory.read(part).num_rows, "rows")
except Damaged as error:
    print(error)
print(pa.default_memory_pool().max_memory())
"""

FOOTERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a histogram that is too short": (odd_parts.DAMAGED["a histogram that is too short"], "histogram size mismatch"),
    "statistics that are too short": (odd_parts.DAMAGED["statistics that are too short"], "no number for its least"),
    "a list that is longer": (lambda: odd_parts.one_long_list(5), "its pages hold 8,388,608 values"),
}


def put(folder: Path, content: bytes) -> Path:
    """A part in a store."""
    path = folder / f"device={DEVICE.slug}" / "part-0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("what", FOOTERS)
def test_a_footer_that_lies_ends_no_process_and_takes_no_memory(tmp_path: Path, what: str) -> None:
    make, problem = FOOTERS[what]
    put(tmp_path, make())
    command = [sys.executable, "-c", READ, str(tmp_path), DEVICE.slug]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, most_bytes = done.stdout.splitlines()
    assert problem in said
    assert int(most_bytes) < 1 << 23


def test_what_is_set_aside_displaces_nothing(tmp_path: Path) -> None:
    for content in (b"one", b"two", b"three"):
        put(tmp_path, content)
        open_store(str(tmp_path), shipped=False, skip=lambda error: None).check(set_aside=True)
    kept = sorted((tmp_path / ".damaged").rglob("*.parquet"))
    assert sorted(path.read_bytes() for path in kept) == [b"one", b"three", b"two"]


@cache
def pages() -> tuple[Chunk, bytes]:
    """A chunk of numbers with its pages: a dictionary and one of data."""
    table = pa.table({"a": [1, 2, 2, None] * 9})
    file = io.BytesIO()
    pq.write_table(table, file)
    content = file.getvalue()
    length = int.from_bytes(content[-8:-4], "little")
    (group,) = row_groups(describe(content[-8 - length : -8]).groups, ("a",))
    chunk = group.chunks["a"]
    assert (chunk.values, group.rows) == (36, 36)
    return chunk, content[chunk.start : chunk.end]


def test_good_pages_pass() -> None:
    check_pages(*pages())


@given(st.data())
def test_pages_with_a_byte_changed_are_read_or_refused(data: st.DataObject) -> None:
    chunk, good = pages()
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_pages(chunk, bytes(content))
    except ValueError:
        return


@given(st.binary(max_size=60))
def test_bytes_that_are_no_struct_are_refused(content: bytes) -> None:
    try:
        _, end = thrift.read_struct(content)
    except ValueError:
        return
    assert 0 < end <= len(content)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "too early"),
        (b"\x18\x05ab\x00", "too early"),
        (b"\x1c" * 20, "too deeply"),
        (b"\x05\x02\x00", "odd order"),
        (b"\x15" + b"\xff" * 5 + b"\x01\x00", "too long"),
        (b"\x15\xff\xff\xff\xff\x7f\x00", "too large"),
        (b"\x1b\x00\x00", "type 11"),
        (b"\x19\x1b\x00", "list of type 11"),
    ],
)
def test_each_way_in_which_bytes_are_no_struct_is_told(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        thrift.read_struct(content)


def test_a_struct_is_read_by_the_types_of_its_fields() -> None:
    content = b"\x15\x03\x16\xac\x02\x11\x12\x18\x02hi\x19\x25\x02\x04\x1c\x15\x0a\x00\x00"
    found, end = thrift.read_struct(content)
    key = thrift.key
    assert found == {
        key(1, thrift.I32): -2,
        key(2, thrift.I64): 150,
        key(3, 1): True,
        key(4, 1): False,
        key(5, thrift.BINARY): b"hi",
        key(6, thrift.LIST): [1, 2],
        key(7, thrift.STRUCT): {key(1, thrift.I32): 5},
    }
    assert end == len(content)
