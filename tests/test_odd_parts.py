"""Odd parts, each alone and beside a good one, with every command: it is named, and good rows survive."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import odd_parts
import pyarrow.parquet as pq
import pytest
from append_rows import DEVICE, measurement
from odd_parts import DAMAGED, MISNAMED, NEWER, NUMBERS
from running import Ended, ended

from latte_cli import files
from latte_cli.errors import LatteError
from latte_cli.measure import Measurement
from latte_cli.network import zoo
from latte_cli.store import Store, checks, open_store
from latte_cli.store.journal import Journal
from latte_cli.store.parts import PartDirectory, Unreadable

ODD = {**DAMAGED, **MISNAMED, **NEWER}
READING = (("info",), ("devices",), ("compact",), ("check",), ("export", DEVICE.slug, "--skip-damaged"))
ODD_PART = "part-0.parquet"
GOOD = [measurement(number) for number in NUMBERS]


@pytest.fixture(scope="module", params=ODD)
def odd(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    """What is odd about a part, and the part."""
    return request.param, ODD[request.param]()


def put(folder: Path, content: bytes) -> Path:
    """An odd part in a store, which is the first by its name."""
    path = folder / f"device={DEVICE.slug}" / ODD_PART
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def store_with(folder: Path, *rows: Measurement) -> Store:
    store = open_store(str(folder), shipped=False, skip=lambda error: None)
    for half in (rows[::2], rows[1::2]):
        if half:
            with store.writer(DEVICE) as writer:
                writer.extend(half)
    return store


def rows_of(folder: Path) -> list[Measurement]:
    """The rows of all parts but the odd one, in the order of their numbers."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        for path in Path(copy).glob(f"device=*/{ODD_PART}"):
            path.unlink()
        return sorted(store_with(Path(copy)).measurements(DEVICE.slug), key=lambda row: row.measured_at)


def names(done: Ended, part: Path) -> bool:
    """Whether a command named the part once, in a line that can be read."""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if f"{part.parent.name}/{part.name}" in line]
    return len(lines) == 1 and len(lines[0]) < 1000 and lines[0].isprintable()


def notices(words: tuple[str, ...], folder: Path, what: str) -> bool:
    """Whether a command has to see what is odd: some read the footers alone, some write no rows elsewhere."""
    if words[:2] not in (("store", "info"), ("store", "devices")):
        return words[0] == "store" or what not in MISNAMED
    directory = PartDirectory(folder)
    part, *_ = directory.parts(DEVICE.slug)
    try:
        return not directory.footer(part)
    except Unreadable:
        return True


def ways(folder: Path, other: Path) -> Iterator[tuple[str, ...]]:
    """Every command that reads the store, and whether it goes on without the odd part."""
    yield from (("store", *words, "--store", str(folder)) for words in READING)
    yield "store", "merge", str(other), str(folder), "--skip-damaged"
    yield "store", "merge", str(folder), str(other), "--skip-damaged"
    yield "train-selector", "--device", DEVICE.slug, "--store", str(folder)


def test_an_odd_part_is_named_by_every_command_and_costs_no_good_row(tmp_path: Path, odd: tuple[str, bytes]) -> None:
    folder, other = tmp_path / "store", tmp_path / "other"
    store_with(folder, *GOOD)
    store_with(other, measurement(100))
    part = put(folder, odd[1])
    for words in ways(folder, other):
        done = ended(*words)
        assert names(done, part) or not notices(words, folder, odd[0]), (words, done.stderr)
        assert done.returncode == (1 if words[1] == "check" and odd[0] not in NEWER else done.returncode)
        assert part.read_bytes() == odd[1]
        assert rows_of(folder)[: len(GOOD)] == GOOD
    assert rows_of(folder) == rows_of(other) == [*GOOD, measurement(100)]
    assert len(list(part.parent.iterdir())) == 3  # what was merged, compacted before, and the odd one


def test_what_hands_rows_on_refuses_an_odd_part_unless_told_to_skip_it(tmp_path: Path, odd: tuple[str, bytes]) -> None:
    folder, other = tmp_path / "store", tmp_path / "other"
    store_with(folder, *GOOD)
    store_with(other, measurement(100))
    part = put(folder, odd[1])
    for words in (("export", DEVICE.slug, "--store", folder), ("merge", other, folder), ("merge", folder, other)):
        done = ended("store", *words)
        assert done.returncode == 1
        assert names(done, part), done.stderr
        assert "hint: " in done.stderr
    assert rows_of(folder) == GOOD


def test_setting_aside_moves_what_is_damaged_and_nothing_else(tmp_path: Path, odd: tuple[str, bytes]) -> None:
    store_with(tmp_path, *GOOD)
    part = put(tmp_path, odd[1])
    done = ended("store", "check", "--set-aside", "--store", tmp_path)
    assert done.returncode == 0
    assert part.exists() is (odd[0] in NEWER)
    assert (tmp_path / ".damaged" / part.parent.name / part.name).exists() is (odd[0] not in NEWER)
    assert rows_of(tmp_path) == GOOD


def test_an_odd_part_that_is_alone_is_named_and_stops_no_writer(tmp_path: Path, odd: tuple[str, bytes]) -> None:
    folder, other = tmp_path / "store", tmp_path / "other"
    store_with(other, measurement(100))
    part = put(folder, odd[1])
    for words in ways(folder, other):
        done = ended(*words)
        assert names(done, part) or not notices(words, folder, odd[0]), (words, done.stderr)
        if words[:2] == ("store", "merge"):
            break
    store_with(folder, *GOOD)
    assert rows_of(folder) == [*GOOD, measurement(100)]
    assert part.read_bytes() == odd[1]


def test_a_part_as_odd_parts_begin_is_good(tmp_path: Path) -> None:
    put(tmp_path, odd_parts.content(odd_parts.rows()))
    found = open_store(str(tmp_path), shipped=False).check()
    assert (found.parts, found.rows, found.damaged) == (1, len(GOOD), ())


@pytest.mark.parametrize("what", ["cut", "pass as text", "nothing in layer", "a deep device", f"schema {10**9}"])
def test_an_estimate_reads_around_an_odd_part(tmp_path: Path, what: str) -> None:
    (tmp_path / "lenet.onnx").write_bytes(zoo.export("lenet"))
    store_with(tmp_path, *GOOD)
    part = put(tmp_path, ODD[what]())
    done = ended("estimate", tmp_path / "lenet.onnx", "--device", DEVICE.slug, "--store", tmp_path)
    assert done.returncode == 0
    assert names(done, part), done.stderr


def test_what_no_store_would_read_is_not_taken_in(tmp_path: Path) -> None:
    with open_store(str(tmp_path), shipped=False).writer(DEVICE) as writer:
        for odd in ({"summary_s": float("nan")}, {"measured_at": 4e9}, {"measured_at": -1.0}):
            with pytest.raises(LatteError, match="are not kept: its column") as error:
                writer.extend([measurement(1, **odd)])
            assert error.value.hint
        writer.extend(GOOD)
    assert rows_of(tmp_path) == GOOD


def test_a_wrong_clock_condemns_no_part(tmp_path: Path) -> None:
    store_with(tmp_path, measurement(1, measured_at=1.79e9))
    (part,) = PartDirectory(tmp_path).parts(DEVICE.slug)
    assert PartDirectory(tmp_path, clock=lambda: 0.0).read(part).num_rows == 1


def test_compaction_makes_no_part_larger_than_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MOST_ROWS", 10)
    store = open_store(str(tmp_path), shipped=False)
    rows = [measurement(number) for number in range(25)]
    for start in range(0, len(rows), 4):
        with store.writer(DEVICE) as writer:
            writer.extend(rows[start : start + 4])
    assert store.compact() == 7
    sizes = [pq.read_metadata(path).num_rows for path in tmp_path.glob("device=*/part-*")]
    assert (max(sizes) <= 10, sum(sizes), len(sizes) <= 4) == (True, 25, True)
    assert rows_of(tmp_path) == rows
    assert store.check().damaged == ()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to files, in order, from here on."""
    done: list[str] = []
    homes: tuple[tuple[Any, str], ...] = (
        *((os, "fsync"), (Path, "replace"), (files, "sync_folder")),
        *((PartDirectory, "remove"), (Journal, "restart")),
    )
    for home, name in homes:
        original = getattr(home, name)
        monkeypatch.setattr(
            home, name, lambda *given, name=name, original=original: (done.append(name), original(*given))[1]
        )
    return done


ON_THE_DISK = ["fsync", "replace", "sync_folder", "fsync"]
"""A part's rows, its name, and the folder that holds the name."""


def test_a_part_is_on_the_disk_before_an_old_one_goes(tmp_path: Path, steps: list[str]) -> None:
    store = store_with(tmp_path, *GOOD)
    del steps[:]
    store.compact()
    assert steps == [*ON_THE_DISK, "remove", "remove"]


def test_a_part_is_on_the_disk_before_its_rows_leave_the_journal(tmp_path: Path, steps: list[str]) -> None:
    with open_store(str(tmp_path), shipped=False).writer(DEVICE) as writer:
        writer.append(GOOD[0])
        del steps[:]
        writer.seal()
        assert steps == [*ON_THE_DISK, "restart"]
