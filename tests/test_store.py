import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from append_rows import DEVICE, identities, measurement
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli.algorithms import HEURISTIC, RANKERS, Algorithm
from latte_cli.backends.contract import Conditions
from latte_cli.devices import CPU, Device
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Convolution, Linear, Optimizer, Phase, View, layer_from_text
from latte_cli.measure import Evidence, Measurement, Outcome, QualityFlag
from latte_cli.precisions import Layout, Precision
from latte_cli.store import Store, open_store, schema, shipped_models, shipped_profiles
from latte_cli.store.parts import PartDirectory
from latte_cli.tasks import Question, Settings, Task

APPEND = [sys.executable, str(Path(__file__).with_name("append_rows.py"))]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"), shipped=False)


def fill(store: Store, *rows: Measurement, parts: int = 1) -> None:
    """Write `rows` into so many parts."""
    with store.writer(rows[0].device) as writer:
        for number, row in enumerate(rows):
            writer.append(row)
            if (number + 1) % -(-len(rows) // parts) == 0:
                writer.seal()


def parts(store: Store) -> list[Path]:
    return sorted(Path(store.uri).glob("device=*/part-*.parquet"))


def numbers(store: Store) -> list[int]:
    return sorted(int(row.measured_at) for row in store.measurements(DEVICE.slug))


texts = st.text(max_size=12)
words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6)
times = st.lists(st.floats(0, 1e6, width=32), max_size=4).map(tuple)
numbers_or_none = st.none() | st.floats(-1e12, 1e12)
layers = st.sampled_from(
    [
        Convolution(batch=8, in_channels=4, out_channels=8, groups=2, input=(9, 7), kernel=(3, 1), bias=True),
        Convolution(batch=1, in_channels=3, out_channels=3, input=(5, 5, 5), kernel=(2, 2, 2), transposed=True),
        Linear(rows=2, in_features=3, out_features=4),
        View(shape=(2, 6), output=(12,)),
        Optimizer(function="sgd", tensors=3, elements=2**33),
    ]
)
conditions = st.builds(
    Conditions,
    sm_clock_hz=numbers_or_none,
    throttled=st.none() | st.booleans(),
    load=numbers_or_none,
    governor=texts,
    throttle_reasons=st.none() | st.integers(0, 2**32),
)
asked = st.builds(
    Settings,
    precision=st.sampled_from(Precision),
    layout=st.sampled_from(Layout),
    threads=st.integers(0, 1024),
    cuda_graph=st.booleans(),
    power_mode=texts,
    library_versions=st.dictionaries(words, words, max_size=2).map(lambda pairs: tuple(sorted(pairs.items()))),
)
tasks = st.builds(
    Task,
    layer=layers,
    phase=st.sampled_from(Phase),
    algorithm=st.builds(Algorithm, library=words, name=texts, vendor_id=st.none() | st.integers(0, 2**40)),
    settings=asked,
)
questions = st.builds(
    Question, layer=layers, phase=st.sampled_from(Phase), ranker=st.sampled_from([*RANKERS.values()]), settings=asked
)
measurements = st.builds(
    Measurement,
    task=tasks | questions,
    device=st.just(DEVICE),
    sweep_pass=st.integers(0, 3),
    outcome=st.sampled_from(Outcome),
    evidence=st.sampled_from(Evidence),
    device_times_s=times,
    host_times_s=times,
    summary_s=st.none() | st.floats(0, 1e6),
    cache_state=texts,
    workspace_bytes=st.none() | st.integers(0, 2**50),
    flags=st.lists(st.sampled_from(QualityFlag), max_size=2).map(tuple),
    drift=st.floats(0.1, 10),
    deterministic=st.none() | st.booleans(),
    kernels=st.lists(texts, max_size=2).map(tuple),
    ranking=st.lists(texts, max_size=2).map(tuple),
    detail=texts,
    before=conditions,
    after=conditions,
    origin=texts,
    measured_at=st.floats(0, 1.7e9),
)


def identity(row: Measurement) -> tuple[str, int]:
    return row.task.id, row.sweep_pass


@settings(deadline=None, max_examples=20)
@given(st.lists(measurements, min_size=1, max_size=6, unique_by=identity))
def test_what_is_written_is_read_back(rows: list[Measurement]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, shipped=False)
        with store.writer(DEVICE, journal_dir=Path(folder) / ".journals") as writer:
            for row in rows:
                writer.append(row)
        assert store.measurements(DEVICE.slug) == sorted(rows, key=identity)
        assert identities(store) == set(map(identity, rows))


@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=20), st.integers(1, 4))
def test_of_equal_rows_the_one_measured_last_stays(drawn: list[tuple[int, int]], split: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, shipped=False)
        rows = [measurement(number, measured_at=float(at)) for number, at in drawn]
        with store.writer(DEVICE, journal_dir=Path(folder) / ".journals") as writer:
            for index, row in enumerate(rows):
                writer.append(row)
                if index % split == 0:
                    writer.seal()
        expected = {row.task.id: max(r.measured_at for r in rows if r.task == row.task) for row in rows}
        assert {row.task.id: row.measured_at for row in store.measurements(DEVICE.slug)} == expected
        store.compact()
        assert {row.task.id: row.measured_at for row in store.measurements(DEVICE.slug)} == expected
        assert store.check().duplicates == 0


def test_bytes_that_are_no_text_do_not_keep_a_row_out(store: Store) -> None:
    fill(store, measurement(1, outcome=Outcome.FAILED, detail="bad \udcff byte"))
    assert store.measurements(DEVICE.slug)[0].detail == "bad ? byte"


def test_rows_are_found_by_layer_phase_and_kind(store: Store) -> None:
    rows = [measurement(number) for number in range(200)]
    backward = Measurement(
        task=Task(
            layer=rows[7].task.layer,
            phase=Phase.BACKWARD_DATA,
            algorithm=rows[7].task.algorithm,
            settings=rows[7].task.settings,
        ),
        device=DEVICE,
    )
    fill(store, *rows, backward, parts=3)
    two = [rows[7].task.layer, rows[100].task.layer]
    assert {row.task for row in store.measurements(DEVICE.slug, layers=two)} == {
        rows[7].task,
        rows[100].task,
        backward.task,
    }
    assert store.measurements(DEVICE.slug, layers=two, phases=[Phase.BACKWARD_DATA]) == [backward]
    assert len(store.measurements(DEVICE.slug, kinds=["convolution"])) == 201
    assert store.measurements(DEVICE.slug, kinds=["linear"]) == []
    assert store.measurements(DEVICE.slug, layers=[]) == []


def test_a_table_holds_the_columns_asked_for_of_all_devices(store: Store) -> None:
    other = Device(slug="another", kind=CPU, name="another")
    fill(store, *(measurement(number) for number in range(5)))
    with store.writer(other) as writer:
        writer.append(Measurement(task=measurement(1).task, device=other))
    table = store.table(columns=["phase", "threads"])
    assert table.column_names == ["device", "phase", "threads"]
    assert table.column("device").to_pylist() == ["another"] + 5 * ["numbered"]
    assert store.table(DEVICE.slug).num_rows == 5
    with pytest.raises(LatteError, match="unknown column `phases`"):
        store.table(columns=["phases"])


def test_a_look_up_imports_neither_pandas_nor_torch_nor_xgboost(store: Store) -> None:
    fill(store, *(measurement(number) for number in range(20)), parts=2)
    program = (
        "import sys\n"
        "from append_rows import measurement\n"
        "from latte_cli.store import open_store\n"
        f"store = open_store({store.uri!r}, shipped=False)\n"
        "layers = [measurement(number).task.layer for number in (3, 4)]\n"
        "assert len(store.measurements('numbered', layers=layers, kinds=['convolution'])) == 2\n"
        "assert store.table('numbered').num_rows == 20\n"
        "store.info(), store.fingerprint('numbered')\n"
        "print(*{'pandas', 'torch', 'xgboost', 'sklearn'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_an_unknown_device_is_named_with_the_nearest_one(store: Store) -> None:
    with pytest.raises(LatteError, match="unknown device `numberd`") as empty:
        store.device("numberd")
    assert "latte profile --budget 2m" in (empty.value.hint or "")
    fill(store, measurement(1))
    with pytest.raises(LatteError) as near:
        store.measurements("numberd")
    assert near.value.exit_code is ExitCode.BAD_INPUT
    assert "did you mean `numbered`?" in (near.value.hint or "")
    assert "latte profile --budget 2m" in (near.value.hint or "")


def test_a_store_that_is_not_there_yet_is_empty(store: Store) -> None:
    assert store.devices() == ()
    assert store.info().devices == ()
    assert store.table().num_rows == 0
    assert store.check().parts == 0
    assert store.compact() == 0


def test_a_device_is_described_by_its_newest_part(store: Store) -> None:
    fill(store, measurement(5))
    updated = Device(slug=DEVICE.slug, kind=CPU, name="after an update")
    with store.writer(updated) as writer:
        writer.append(measurement(9))
    assert store.device(DEVICE.slug) == updated
    store.compact()
    assert store.devices() == (updated,)


def test_info_counts_rows_parts_and_journals(store: Store) -> None:
    fill(store, *(measurement(number) for number in range(9)), parts=3)
    with store.writer(DEVICE) as writer:
        writer.append(measurement(10))
        (live,) = store.info().journals
        assert (live.rows, live.live) == (1, True)
        (found,) = store.info().devices
    assert (found.rows, found.parts, found.first_s, found.last_s, found.shipped) == (9, 3, 0.0, 8.0, False)
    assert store.info().journals == ()


def test_a_fingerprint_changes_with_the_rows(store: Store) -> None:
    fill(store, measurement(1))
    before = store.fingerprint(DEVICE.slug)
    assert store.fingerprint(DEVICE.slug) == before
    fill(store, measurement(2))
    assert store.fingerprint(DEVICE.slug) != before


def test_shipped_profiles_are_read_behind_the_store(tmp_path: Path) -> None:
    behind = open_store(str(tmp_path / "shipped"), shipped=False)
    fill(behind, measurement(1), measurement(2, measured_at=7.0))
    store = Store(PartDirectory(tmp_path / "own"), [PartDirectory(tmp_path / "shipped")])
    assert store.info().devices[0].shipped
    fill(store, measurement(2, measured_at=7.0, detail="own"), measurement(3))
    assert {row.detail for row in store.measurements(DEVICE.slug)} == {"", "own"}
    assert len(store.measurements(DEVICE.slug)) == 3
    assert not store.info().devices[0].shipped
    store.compact()
    assert len(parts(behind)) == len(parts(store)) == 1
    assert len(store.measurements(DEVICE.slug)) == 3


def test_profiles_and_models_are_found_in_a_source_checkout() -> None:
    root = Path(__file__).parents[1]
    assert (shipped_profiles(), shipped_models()) == (root / "profiles", root / "models")


def test_the_default_store_is_named_by_the_environment_or_lies_in_the_users_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LATTE_STORE", str(tmp_path / "named"))
    assert open_store().uri == str(tmp_path / "named")
    assert open_store().models_dir == tmp_path / "named" / ".models"
    monkeypatch.delenv("LATTE_STORE")
    assert open_store().uri == str(Path(os.environ["XDG_DATA_HOME"]) / "latte" / "store")


def test_a_path_and_its_file_uri_are_one_store(store: Store) -> None:
    fill(store, measurement(1))
    same = open_store(Path(store.uri).as_uri(), shipped=False)
    assert same.uri == store.uri
    assert numbers(same) == [1]


@pytest.mark.parametrize("uri", ["nosuch://bucket/path", "s3://", "file://relative"])
def test_a_uri_that_cannot_be_opened_is_one_line(uri: str) -> None:
    with pytest.raises(LatteError, match="cannot open the store") as error:
        open_store(uri)
    assert "\n" not in error.value.message


def test_credentials_in_a_uri_are_not_shown() -> None:
    uri = "s3://name:word@bucket/path?endpoint_override=127.0.0.1:1&scheme=http&region=none"
    assert "word" not in open_store(uri, shipped=False).uri


def test_a_file_where_the_store_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(LatteError, match="file"):
        open_store(str(tmp_path / "file"), shipped=False).devices()
    with pytest.raises(LatteError, match="file"):
        fill(open_store(str(tmp_path / "file"), shipped=False), measurement(1))


def test_a_slug_that_is_no_file_name_is_refused(store: Store) -> None:
    device = Device(slug="../elsewhere", kind=CPU, name="x")
    with pytest.raises(LatteError, match="cannot be named"), store.writer(device) as writer:
        writer.append(Measurement(task=measurement(1).task, device=device))


def test_four_processes_lose_nothing(store: Store) -> None:
    writers = [
        subprocess.Popen([*APPEND, store.uri, str(100 * at), str(100 * at + 100)], stdout=subprocess.DEVNULL)
        for at in range(4)
    ]
    assert [writer.wait() for writer in writers] == 4 * [0]
    assert numbers(store) == list(range(400))
    assert store.check().damaged == ()
    assert len(parts(store)) < 50


def test_a_writer_killed_at_any_moment_loses_nothing_it_appended(store: Store) -> None:
    """4 times: append on, read the numbers it prints, kill it after some of them; what it printed must be there."""
    draw = random.Random(7)
    printed: set[int] = set()
    first = 0
    for _ in range(4):
        with subprocess.Popen([*APPEND, store.uri, str(first), "100000"], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(draw.randrange(60)):
                printed.add(int(writer.stdout.readline()))
            writer.send_signal(signal.SIGKILL)
            printed.update(int(line) for line in writer.stdout.read().split("\n")[:-1])
        first = max(printed, default=-1) + 2
    store.writer(DEVICE).close()
    found = numbers(store)
    assert len(found) == len(set(found))
    assert printed <= set(found)
    assert len(set(found) - printed) <= 4
    assert store.check().damaged == ()
    assert store.info().journals == ()


def test_readers_beside_a_writer_that_compacts_see_every_sealed_row(store: Store) -> None:
    with subprocess.Popen([*APPEND, store.uri, "0", "40", "0"], stdout=subprocess.DEVNULL) as writer:
        seen = 0
        while writer.poll() is None:
            found = len(identities(store))
            assert found >= seen
            seen = found
    assert len(identities(store)) == 40


def test_thousands_of_tasks_leave_few_files(store: Store) -> None:
    ticks = count()
    with store.writer(DEVICE, clock=lambda: float(next(ticks))) as writer:
        for number in range(2_500):
            writer.append(measurement(number))
    assert len(parts(store)) < 50
    assert len([path for path in Path(store.uri).rglob("*") if path.is_file()]) < 50
    assert len(identities(store)) == 2_500


def test_compaction_leaves_one_part_with_every_row(store: Store) -> None:
    fill(store, *(measurement(number) for number in range(40)), parts=10)
    assert store.compact(DEVICE.slug) == 10
    assert len(parts(store)) == 1
    assert numbers(store) == list(range(40))
    assert store.compact() == 1


def test_compaction_that_dies_before_it_deletes_loses_and_doubles_nothing(store: Store, tmp_path: Path) -> None:
    fill(store, *(measurement(number) for number in range(40)), parts=10)
    old = shutil.copytree(store.uri, tmp_path / "old")
    store.compact()
    for part in old.glob("device=*/part-*"):
        shutil.copy(part, parts(store)[0].parent / part.name)
    assert len(parts(store)) == 11
    assert numbers(store) == list(range(40))
    store.compact()
    assert len(parts(store)) == 1
    assert numbers(store) == list(range(40))


def test_compaction_killed_at_any_moment_loses_nothing(store: Store) -> None:
    program = (
        "import sys\nfrom latte_cli.store import open_store\n"
        "store = open_store(sys.argv[1], shipped=False)\nstore.info()\nprint(flush=True)\nstore.compact()\n"
    )
    rows = [measurement(number) for number in range(60)]
    for trial in range(4):
        fill(store, *rows, parts=10)
        with subprocess.Popen([sys.executable, "-c", program, store.uri], stdout=subprocess.PIPE) as compaction:
            assert compaction.stdout is not None
            compaction.stdout.readline()
            before = {path.name for path in parts(store)}
            # From the first change on disk to the last there is something to interrupt.
            while trial % 2 and {path.name for path in parts(store)} == before and compaction.poll() is None:
                pass
            compaction.kill()
        assert numbers(store) == list(range(60))
        assert store.check().damaged == ()


def test_two_compactions_at_once_lose_nothing(store: Store) -> None:
    fill(store, *(measurement(number) for number in range(60)), parts=20)
    program = "import sys\nfrom latte_cli.store import open_store\nopen_store(sys.argv[1], shipped=False).compact()\n"
    both = [subprocess.Popen([sys.executable, "-c", program, store.uri]) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert len(parts(store)) == 1
    assert numbers(store) == list(range(60))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_text(path: Path) -> None:
    path.write_text("not a table\n" * 50)


def replace_by_other_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"something": [1]}), path)


def leave_out_a_column(path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["phase"]), path)


DAMAGES = [cut_short, flip_a_bit, empty, replace_by_text, replace_by_other_parquet, leave_out_a_column]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_named_and_left_out_only_on_request(store: Store, damage) -> None:  # type: ignore[no-untyped-def]
    fill(store, *(measurement(number) for number in range(20)), parts=2)
    victim = parts(store)[0]
    damage(victim)
    with pytest.raises(LatteError, match=victim.name) as error:
        store.measurements(DEVICE.slug)
    assert "--set-aside" in (error.value.hint or "")
    with pytest.raises(LatteError, match=victim.name):
        store.compact()
    told: list[LatteError] = []
    reading = open_store(store.uri, shipped=False, skip=told.append)
    assert len(reading.measurements(DEVICE.slug)) == 10
    assert [error.message.startswith("damaged part") for error in told] == [True]
    assert [name for name, _ in reading.skipped_parts] == [f"device=numbered/{victim.name}"]

    findings = store.check()
    assert [name for name, _ in findings.damaged] == [f"device=numbered/{victim.name}"]
    assert (findings.parts, findings.rows, findings.set_aside) == (1, 10, ())
    (moved,) = store.check(set_aside=True).set_aside
    assert Path(moved).is_file()
    assert len(store.measurements(DEVICE.slug)) == 10
    assert store.check().damaged == ()


def test_a_damaged_part_does_not_end_a_sweep(store: Store) -> None:
    fill(store, *(measurement(number) for number in range(62)), parts=31)
    victim = parts(store)[0]
    cut_short(victim)
    fill(store, *(measurement(number) for number in range(62, 124)), parts=31)
    assert len(parts(store)) == 2
    assert victim in parts(store)
    assert numbers(open_store(store.uri, shipped=False, skip=lambda error: None)) == list(range(2, 124))


def test_parts_of_the_first_schema_are_read_and_compacted_with_newer_ones(store: Store) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = [measurement(number) for number in range(6)]
    fill(store, *written, parts=2)
    part = parts(store)[0]
    table = pq.read_table(part, partitioning=None).drop_columns(["deterministic", "kernels", "ranking", "notes"])
    for name in ("before", "after"):
        struct = table.column(name).combine_chunks()
        kept = [field for field in struct.type if field.name != "throttle_reasons"]
        older = pa.StructArray.from_arrays([struct.field(field.name) for field in kept], fields=kept)
        table = table.set_column(table.column_names.index(name), name, older)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"latte.schema": b"1"}), part)
    held = sorted(store.measurements(DEVICE.slug), key=lambda row: row.measured_at)
    assert len(held) == 6
    assert store.check().damaged == ()
    store.compact()
    assert len(parts(store)) == 1
    assert sorted(store.measurements(DEVICE.slug), key=lambda row: row.measured_at) == held
    assert all(row.after.throttle_reasons is None and row.ranking == () for row in held)


def test_a_part_of_a_newer_schema_is_an_error_of_its_own(store: Store) -> None:
    import pyarrow.parquet as pq

    fill(store, measurement(1))
    (part,) = parts(store)
    table = pq.read_table(part, partitioning=None)
    pq.write_table(
        table.replace_schema_metadata({**table.schema.metadata, b"latte.schema": str(schema.VERSION + 1).encode()}),
        part,
    )
    for read in (store.info, lambda: store.measurements(DEVICE.slug), store.table, store.compact):
        with pytest.raises(LatteError, match=f"newer schema {schema.VERSION + 1}") as error:
            read()
        assert "upgrade" in (error.value.hint or "")
    findings = store.check(set_aside=True)
    assert (findings.damaged, findings.set_aside) == ((), ())
    assert [name for name, _ in findings.unreadable] == [f"device=numbered/{part.name}"]
    assert part.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_part_that_may_not_be_read_is_not_called_damaged(store: Store) -> None:
    fill(store, measurement(1))
    parts(store)[0].chmod(0)
    with pytest.raises(LatteError, match="cannot read") as error:
        store.info()
    assert "damaged" not in error.value.message


def test_a_full_disk_is_one_line_and_keeps_what_was_appended(store: Store) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    done = subprocess.run(
        [*APPEND, store.uri, "0", "50", "1000"], preexec_fn=little_room, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "cannot write the journal" in done.stderr
    printed = [int(line) for line in done.stdout.split()]
    assert 0 < len(printed) < 50
    store.writer(DEVICE).close()
    assert numbers(store) == printed


def test_a_part_that_finds_no_room_leaves_its_rows_in_the_journal(store: Store) -> None:
    blocked = Path(store.uri) / f"device={DEVICE.slug}"
    with store.writer(DEVICE) as writer:
        blocked.rmdir()
        blocked.write_text("a file where the folder should be")
        writer.append(measurement(1))
        with pytest.raises(LatteError, match="cannot write to the store") as error:
            writer.seal()
        assert "journal" in (error.value.hint or "")
        blocked.unlink()
    assert numbers(store) == [1]


def test_merging_adds_what_is_not_there(tmp_path: Path, store: Store) -> None:
    other = open_store(str(tmp_path / "other"), shipped=False)
    fill(other, *(measurement(number) for number in range(10)), parts=3)
    fill(store, measurement(0, measured_at=100.0), measurement(1), measurement(20))
    assert store.merge(other.uri) == {DEVICE.slug: 8}
    assert numbers(store) == [*range(1, 10), 20, 100]
    assert store.merge(other.uri) == {DEVICE.slug: 0}
    assert len(parts(store)) == 2
    with pytest.raises(LatteError, match="no profiles"):
        store.merge(str(tmp_path / "nothing"))


def test_rows_of_the_shipped_profiles_keep_their_ids_and_questions_are_told_from_tasks() -> None:
    store, asked = open_store(str(shipped_profiles()), shipped=False), set()
    for info in store.info().devices:
        slug = info.device.slug
        written = store.table(slug, columns=["task_id", "layer", "library", "algorithm"]).to_pylist()
        texts = sorted({row["layer"] for row in written})[::50]
        rows = store.measurements(slug, layers=map(layer_from_text, texts))
        written = [row for row in written if row["layer"] in texts]
        ranked = {row["task_id"] for row in written if (row["library"], row["algorithm"]) in RANKERS}
        assert [row.task.id for row in rows] == [row["task_id"] for row in written]
        assert {row.task.id for row in rows if isinstance(row.task, Question)} == ranked
        assert all(bool(row.ranking) == (row.task.id in ranked) for row in rows if row.outcome is Outcome.OK)
        asked.update(row.task.ranker for row in rows if isinstance(row.task, Question))
    assert asked == {HEURISTIC}


@pytest.mark.parametrize("times", [(math.nan,), (1.0, math.inf), (-1.0,), (1e300,)])
def test_a_row_that_would_spoil_its_part_is_not_taken(store: Store, times: tuple[float, ...]) -> None:
    with store.writer(DEVICE) as writer:
        writer.append(measurement(1))
        with pytest.raises(ValueError, match="device_times_s"):
            writer.append(replace(measurement(2), device_times_s=times))
        writer.append(measurement(3))
    assert len(store.measurements(DEVICE.slug)) == 2


AHEAD_S = 30 * 86400.0


def put_ahead(store: Store, *numbers: int) -> Path:
    """A part of rows, in the store's first place, by a clock that is ahead of this one."""
    later = [schema.row(replace(measurement(each), measured_at=time.time() + AHEAD_S)) for each in numbers]
    PartDirectory(store.uri).write(DEVICE, "0", schema.table(later))
    return Path(store.uri) / f"device={DEVICE.slug}" / "part-0.parquet"


def test_rows_ahead_of_the_clock_are_read_and_give_way_to_others(store: Store) -> None:
    part = put_ahead(store, 1, 2)
    assert {row.task for row in store.measurements(DEVICE.slug)} == {measurement(1).task, measurement(2).task}
    assert {row.measured_at for row in store.measurements(DEVICE.slug)} == {0.0}
    with store.writer(DEVICE) as writer:
        writer.append(measurement(1, device_times_s=(5.0,)))
        writer.append(measurement(3))
    assert [row.device_times_s for row in store.measurements(DEVICE.slug) if row.task == measurement(1).task] == [
        (5.0,)
    ]
    found = store.check(set_aside=True)
    assert (found.damaged, found.unreadable, found.rows, found.duplicates) == ((), (), 4, 1)
    table = store.table(DEVICE.slug, ["measured_at"])
    assert max(table.column("measured_at").to_pylist()) == pytest.approx(time.time() + AHEAD_S, abs=600)
    assert part.exists()


def test_compaction_leaves_rows_ahead_of_the_clock_which_may_be_the_newer_ones(store: Store) -> None:
    part, told = put_ahead(store, 1), list[str]()
    content = part.read_bytes()
    for number in (1, 2, 3):
        with store.writer(DEVICE) as writer:
            writer.append(measurement(number))
    with pytest.raises(LatteError, match="ahead of this machine's clock"):
        store.compact()
    assert open_store(store.uri, shipped=False, skip=lambda error: told.append(error.message)).compact() == 3
    assert (part.read_bytes(), len(told)) == (content, 1)
    assert len(store.measurements(DEVICE.slug)) == 3


def test_merging_adds_rows_ahead_of_the_clock_that_are_missing_and_no_others(store: Store, tmp_path: Path) -> None:
    other = open_store(str(tmp_path / "ahead"), shipped=False)
    put_ahead(other, 1, 2)
    with store.writer(DEVICE) as writer:
        writer.append(measurement(1, device_times_s=(5.0,)))
    assert store.merge(other.uri) == {DEVICE.slug: 1}
    assert store.merge(other.uri) == {DEVICE.slug: 0}
    assert other.merge(store.uri) == {DEVICE.slug: 1}
    for each in (store, other):
        assert {row.task: row.device_times_s for row in each.measurements(DEVICE.slug)}[measurement(1).task] == (5.0,)


@pytest.mark.parametrize("killed", [False, True])
def test_rows_of_a_clock_that_was_set_back_are_kept(store: Store, killed: bool) -> None:
    ahead = measurement(1, measured_at=time.time() + 3 * 86400)
    writer = store.writer(DEVICE)
    for row in (ahead, measurement(2)):
        writer.append(row)
    if killed:
        writer._journal.close(drop=False)
        writer = store.writer(DEVICE)
    writer.close()
    assert store.check().damaged == ()
    assert {row.task for row in store.measurements(DEVICE.slug)} == {measurement(1).task, measurement(2).task}
