import csv
import json
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from append_rows import DEVICE, measurement
from running import here, latte

from latte_cli.layers import Linear, Phase
from latte_cli.measure import Measurement, Outcome
from latte_cli.store import Store, open_store
from latte_cli.tasks import Task


@pytest.fixture
def store() -> Store:
    """The store that $LATTE_STORE names, with three parts of four rows."""
    store = open_store(shipped=False)
    with store.writer(DEVICE) as writer:
        for number in range(12):
            writer.append(measurement(number))
            if number % 4 == 3:
                writer.seal()
    return store


run = partial(here, "store")


def parts(store: Store) -> list[Path]:
    return sorted(Path(store.uri).glob("device=*/part-*"))


def test_info_says_what_the_store_holds(store: Store) -> None:
    document = json.loads(run("info", "--format", "json").stdout)
    assert (document["schema"], document["store"], document["store_schema"]) == ("latte.store-info/1", store.uri, 4)
    held = {device["device"]: device for device in document["devices"]}[DEVICE.slug]
    assert (held["rows"], held["parts"], held["shipped"]) == (12, 3, False)
    assert document["rows"] == sum(device["rows"] for device in document["devices"])
    table = run("info").stdout
    assert table.startswith(f"store {store.uri}\n")
    assert "no rows wait in journals" in table
    assert run("info", "--format", "csv").stdout.startswith("device,rows,parts,size_bytes,first_s,last_s,shipped\n")


def test_info_names_rows_that_wait_in_a_journal(store: Store) -> None:
    with store.writer(DEVICE) as writer:
        writer.append(measurement(20))
        assert "being written: 1 rows" in run("info").stdout


def test_devices_lists_the_names_that_other_commands_take(store: Store) -> None:
    document = json.loads(run("devices", "--format", "json").stdout)
    assert document["schema"] == "latte.store-devices/1"
    (device,) = [device for device in document["devices"] if device["device"] == DEVICE.slug]
    assert (device["kind"], device["libraries"], device["rows"]) == ("cpu", {"torch": "2.13.0"}, 12)
    assert DEVICE.slug in run("devices").stdout
    assert f"{DEVICE.slug},cpu,{DEVICE.name},12\n" in run("devices", "--format", "csv").stdout


def test_an_export_as_csv_has_a_column_for_each_size_of_a_layer(store: Store, tmp_path: Path) -> None:
    linear = Linear(rows=2, in_features=3, out_features=4)
    task = Task(layer=linear, phase=Phase.FORWARD, algorithm=measurement(0).task.algorithm, settings=DEVICE_SETTINGS)
    with store.writer(DEVICE) as writer:
        writer.append(Measurement(task=task, device=DEVICE, outcome=Outcome.UNSUPPORTED, detail="no, never"))
    done = run("export", DEVICE.slug, "--output", str(tmp_path / "rows.csv"))
    assert "13 rows written" in done.stderr
    rows = list(csv.DictReader(StringIO((tmp_path / "rows.csv").read_text())))
    (first,) = [row for row in rows if row["layer.out_channels"] == "8"]
    assert (first["layer.input"], first["layer.groups"], first["layer.in_features"]) == ("8x8", "1", "")
    assert (first["device_times_s"], first["seconds"]) == ("0.25 0.5", "0.375")
    (other,) = [row for row in rows if row["kind"] == "linear"]
    assert (other["layer.in_features"], other["detail"], other["seconds"]) == ("3", "no, never", "")
    assert run("export", DEVICE.slug).stdout == (tmp_path / "rows.csv").read_text()


DEVICE_SETTINGS = measurement(0).task.settings


def test_an_export_as_parquet_is_one_table(store: Store, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run("export", DEVICE.slug, "-o", str(tmp_path / "rows.parquet"))
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 12
    error = run("export", "--format", "parquet", code=2).stderr
    assert error == "error: parquet needs a file\nhint: add `--output FILE`\n"


def test_an_export_overwrites_only_by_force(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    target.write_text("mine")
    assert "`--force` overwrites it" in run("export", "-o", str(target), code=1).stderr
    assert target.read_text() == "mine"
    run("export", "-o", str(target), "--force")
    assert target.read_text() != "mine"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_an_export_to_a_folder_that_is_not_there_is_one_line(store: Store, tmp_path: Path) -> None:
    error = run("export", "-o", str(tmp_path / "no" / "rows.csv"), code=1).stderr
    assert error.startswith("error: cannot write")


def test_an_unknown_device_ends_with_code_1_and_the_nearest_name(store: Store) -> None:
    error = latte("store", "export", "numberd", code=1).stderr
    assert error.startswith("error: unknown device `numberd`\nhint: did you mean `numbered`?")
    assert run("compact", "numberd", code=1).stdout == ""


def test_compact_leaves_one_part(store: Store) -> None:
    run("compact")
    assert len(parts(store)) == 1


def test_merge_adds_the_rows_of_another_store(store: Store, tmp_path: Path) -> None:
    target = str(tmp_path / "target")
    assert f"12 rows of {DEVICE.slug} added" in run("merge", store.uri, "--store", target).stderr
    assert f"0 rows of {DEVICE.slug} added" in run("merge", store.uri, "--store", target).stderr
    assert run("merge", str(tmp_path / "nothing"), code=1).stderr.startswith("error: no profiles in")


def test_check_names_damaged_parts_and_sets_them_aside(store: Store) -> None:
    victim = parts(store)[0]
    victim.write_bytes(victim.read_bytes()[:1000])
    done = run("check", "--format", "json", code=1)
    document = json.loads(done.stdout)
    assert document["schema"] == "latte.store-check/1"
    assert [part["part"] for part in document["damaged"]] == [f"device=numbered/{victim.name}"]
    assert "1 of the store's parts cannot be read" in done.stderr
    left_out = json.loads((info := run("info", "--format", "json")).stdout)["left_out"]
    assert [part["part"] for part in left_out] == [f"device=numbered/{victim.name}"]
    assert info.stderr.startswith(f"warning: left out: damaged part `device=numbered/{victim.name}`: ")
    assert victim.name in run("export", DEVICE.slug, code=1).stderr
    skipping = run("export", DEVICE.slug, "--skip-damaged")
    assert len(skipping.stdout.splitlines()) == 1 + 8
    assert victim.name in skipping.stderr
    run("check", "--set-aside")
    assert "8 rows in 2 parts, 0 duplicates" in run("check").stdout
    assert run("info").stderr == ""


def test_a_store_that_cannot_be_opened_is_one_line() -> None:
    error = run("info", "--store", "nosuch://place", code=1).stderr
    assert error.startswith("error: cannot open the store `nosuch://place`")
    assert len(error.splitlines()) == 2


@pytest.mark.parametrize(
    "words", [("store", "info"), ("store", "devices"), ("store", "check"), ("store", "compact"), ("devices",)]
)
def test_a_store_that_is_not_there_is_said_by_all_that_read_one(tmp_path, words):
    there, typo = tmp_path / "there", tmp_path / "typo"
    there.mkdir()
    assert f"there is no store `{typo}`" in latte(*words, "--store", typo).stderr
    assert "there is no store" not in latte(*words, "--store", there).stderr
