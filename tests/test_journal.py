import json
import os
from pathlib import Path
from typing import Any

import pytest
from append_rows import DEVICE, identities, measurement
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli.errors import LatteError
from latte_cli.store import Store, open_store, schema
from latte_cli.store import journal as journals
from latte_cli.store.journal import Journal, is_live, journals_dir, lines, orphans

HEAD = {"schema": 1, "store": "here", "device": schema.device_text(DEVICE), "sequence": 0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"), shipped=False)


def orphan(folder: Path, *numbers: int, head: dict[str, Any] = HEAD) -> Path:
    """A journal as a killed writer leaves it."""
    journal = Journal.create(folder, head)
    for number in numbers:
        journal.append(schema.row(measurement(number)))
    journal.close(drop=False)
    return journal.path


def recovered(store: Store) -> list[int]:
    store.writer(DEVICE).close()
    return sorted(int(row.measured_at) for row in store.measurements(DEVICE.slug))


rows = st.dictionaries(st.text(max_size=8), st.none() | st.floats(allow_nan=False) | st.text(max_size=20), max_size=5)


@settings(deadline=None)
@given(st.lists(rows, max_size=8), st.integers(0, 10_000))
def test_a_journal_cut_anywhere_gives_back_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, appended: list[dict[str, Any]], cut: int
) -> None:
    journal = Journal.create(tmp_path_factory.mktemp("journal"), HEAD)
    ends = [journal.path.stat().st_size]
    for row in appended:
        journal.append(row)
        ends.append(journal.path.stat().st_size)
    cut %= ends[-1] + 1
    os.truncate(journal.path, cut)
    whole = sum(end <= cut for end in ends)
    assert lines(journal.path) == ([HEAD, *appended][:whole], 0)
    journal.close(drop=True)
    assert not journal.path.exists()


@settings(deadline=None)
@given(st.lists(rows, min_size=1, max_size=4), st.data())
def test_a_changed_byte_costs_the_line_it_is_in(
    tmp_path_factory: pytest.TempPathFactory, appended: list[dict[str, Any]], data: st.DataObject
) -> None:
    journal = Journal.create(tmp_path_factory.mktemp("journal"), HEAD)
    for row in appended:
        journal.append(row)
    journal.close(drop=False)
    content = bytearray(journal.path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1).filter(lambda index: content[index] != ord("\n")))
    content[at] ^= data.draw(st.sampled_from([1, 2, 64]).filter(lambda bit: content[at] ^ bit != ord("\n")))
    journal.path.write_bytes(content)
    found, damaged = lines(journal.path)
    hit = content[:at].count(b"\n")
    assert damaged == 1
    assert found == [line for index, line in enumerate([HEAD, *appended]) if index != hit]


def test_an_orphan_is_recovered_by_the_next_writer(store: Store) -> None:
    path = orphan(journals_dir(store.uri), 1, 2, 3)
    assert not is_live(path)
    assert recovered(store) == [1, 2, 3]
    assert not path.exists()


def test_the_journal_of_a_living_writer_is_left_alone(store: Store) -> None:
    with store.writer(DEVICE) as writer:
        writer.append(measurement(1))
        (path,) = journals_dir(store.uri).glob("*.journal")
        assert is_live(path)
        assert list(orphans(path.parent)) == []
        store.writer(DEVICE).close()
        assert identities(store) == set()
    assert recovered(store) == [1]


def test_a_journal_sealed_just_before_its_writer_died_is_not_sealed_twice(store: Store) -> None:
    path = orphan(journals_dir(store.uri), 1, 2)
    content = path.read_bytes()
    assert recovered(store) == [1, 2]
    path.write_bytes(content)
    assert recovered(store) == [1, 2]
    assert store.info().devices[0].parts == 1
    assert store.check().duplicates == 0


def test_orphans_of_another_store_stay_where_they_are(store: Store, tmp_path: Path) -> None:
    path = orphan(journals_dir(str(tmp_path / "another")), 1)
    store.writer(DEVICE).close()
    assert path.exists()


def test_an_orphan_without_rows_is_dropped(store: Store) -> None:
    path = orphan(journals_dir(store.uri))
    cut = orphan(journals_dir(store.uri))
    cut.write_bytes(b"")
    store.writer(DEVICE).close()
    assert not path.exists()
    assert not cut.exists()
    assert store.devices() == ()


def test_a_journal_with_a_damaged_line_is_kept_beside_when_the_rest_is_sealed(store: Store) -> None:
    path = orphan(journals_dir(store.uri), 1, 2, 3)
    head, one, two, three = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + one + two[:40] + b"#" + two[41:] + three)
    assert recovered(store) == [1, 3]
    assert not path.exists()
    assert path.with_suffix(".damaged").exists()


def test_a_journal_whose_head_is_lost_is_kept_beside(store: Store) -> None:
    path = orphan(journals_dir(store.uri), 1, 2)
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    store.writer(DEVICE).close()
    assert store.devices() == ()
    assert path.with_suffix(".damaged").exists()


def test_a_journal_of_a_newer_schema_waits_for_its_version(store: Store) -> None:
    path = orphan(journals_dir(store.uri), 1, head={**HEAD, "schema": schema.VERSION + 1})
    content = path.read_bytes()
    store.writer(DEVICE).close()
    assert path.read_bytes() == content
    assert store.devices() == ()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line_with_a_hint() -> None:
    descriptor = os.open("/dev/full", os.O_RDWR)
    journal = Journal(Path("/dev/full"), descriptor)
    with pytest.raises(LatteError, match="cannot write the journal `/dev/full`: No space left on device") as error:
        journal.append({})
    assert error.value.hint
    journal.close(drop=False)


def test_a_journal_that_cannot_be_made_is_one_line(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LatteError, match="cannot write the journal"):
        store.writer(DEVICE, journal_dir=tmp_path / "file" / "journals")


def test_a_row_is_on_disk_when_append_returns(store: Store) -> None:
    with store.writer(DEVICE) as writer:
        for number in range(3):
            writer.append(measurement(number))
            (path,) = journals.journals_dir(store.uri).glob("*.journal")
            last = path.read_bytes().splitlines()[-1]
            assert json.loads(last.partition(b" ")[2])["measured_at"] == number
