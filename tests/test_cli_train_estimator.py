import csv
import json
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from made_choices import DEVICE, profile
from running import here

from latte_cli.store import Store, open_store
from latte_cli.time_model import time_model


@pytest.fixture
def store() -> Store:
    """The store that $LATTE_STORE names, with the rows of one device."""
    store = open_store(shipped=False)
    with store.writer(DEVICE) as writer:
        writer.extend(profile(DEVICE))
    return store


run = partial(here, "train-estimator")


def test_the_estimator_lies_where_estimates_look_for_it(store: Store) -> None:
    done = run()
    assert "median error" in done.stdout
    assert "convolution" in done.stdout
    notes: list[str] = []
    found = time_model(open_store(), "desk", lambda: pytest.fail("it is fitted again"), notes.append)
    assert found is not None
    assert found.card.device == "desk"
    assert not notes


def test_json_and_csv_hold_the_same_errors(store: Store, tmp_path: Path) -> None:
    arguments = ("--device", "desk", "--output", str(tmp_path))
    document = json.loads(run(*arguments, "--format", "json").stdout)
    assert document["schema"] == "latte.estimator-evaluation/1"
    keys = ["device", "kind", "phase", "rows", "median_error", "low_95", "low_80", "high_80", "high_95"]
    assert all(list(row) == keys for row in document["results"])
    rows = list(csv.DictReader(StringIO(run(*arguments, "--format", "csv").stdout)))
    assert [float(row["median_error"]) for row in rows] == [row["median_error"] for row in document["results"]]
    assert all(row["low_95"] <= row["low_80"] <= row["high_80"] <= row["high_95"] for row in document["results"])
    assert (tmp_path / "times-desk" / "card.json").is_file()


def test_an_empty_store_and_an_unknown_device_are_said_in_one_line() -> None:
    for arguments in ((), ("--device", "nobody")):
        lines = run(*arguments, code=1).stderr.splitlines()
        assert lines[0].startswith("error: ")


def test_a_folder_that_cannot_be_written_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("--output", str(tmp_path / "file"), code=1)
    assert "cannot write" in done.stderr
