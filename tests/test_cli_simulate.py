import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from running import ended
from small_study import BANDWIDTH, CLASSES, STUDY

STUDY = STUDY | {
    "targets": [0.3, 0.999],
    "tuning": {"seed": 0, "target": 0.5, "round-durations": [0.5, 0.8], "deadlines": ["none", "drop"]},
    "scenarios": [{"scenario": "two kinds", "classes": CLASSES}],
}
PATIENCE_S = 120


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulate")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return folder


@pytest.fixture
def latte(place, monkeypatch):
    """Run the command in `place`: its exit code, stdout and stderr."""
    monkeypatch.chdir(place)
    return ended


@pytest.fixture(scope="module")
def table(place):
    """What the study's first run printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return ended("simulate", "study.yaml")


def test_the_table_says_how_soon_each_method_is_there(table, place):
    code, out, err = table
    assert code == 0
    title, header, fedavg, ours, *footer = out.splitlines()
    assert title.startswith("custom_cnn on digits, 2 rounds")
    assert "time to 30 %" in header
    assert "time to 99.9 %" in header
    assert fedavg.split()[:3] == ["two", "kinds", "fedavg"]
    assert ours.split()[:3] == ["two", "kinds", "latte"]
    assert "s (" in ours
    assert " -  " in ours
    assert any("seed 0" in line for line in footer)
    assert "wrote `study/curves.png`" in err
    assert "next: `latte simulate study.yaml" in err
    assert "<svg" in (place / "study" / "curves.svg").read_text()
    assert len(list((place / "study" / "runs").glob("*.json"))) == (3 + 3) + (2 + 3)


def test_a_second_run_reads_what_the_first_one_made(latte, table, place):
    files = sorted((place / "study").glob("*/*.json"))
    before = {path: path.stat().st_mtime_ns for path in files}
    assert latte("simulate", "study.yaml") == table
    assert {path: path.stat().st_mtime_ns for path in sorted((place / "study").glob("*/*.json"))} == before


@pytest.mark.usefixtures("table")
def test_json_has_each_run_and_csv_a_line_for_each_method(latte):
    _, out, _ = latte("simulate", "study.yaml", "--format", "json")
    document = json.loads(out)
    assert document["schema"] == "latte.study/1"
    fedavg, ours = document["results"]
    assert (fedavg["method"], ours["method"], ours["option"]) == ("fedavg", "latte", ours["option"])
    assert len(ours["runs"]) == 3
    assert ours["time_s"]["0.999"]["median"] is None
    assert ours["time_s"]["0.3"]["median"] > 0
    assert 0 <= ours["idle"]["low"] <= ours["idle"]["high"] < 1
    code, out, _ = latte("simulate", "study.yaml", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["method"] for row in rows] == ["fedavg", "latte"]
    assert float(rows[1]["time_to_0.3_s"]) == ours["time_s"]["0.3"]["median"]
    assert rows[1]["time_to_0.999_s"] == ""
    assert rows[1]["reached_0.999"] == "0"


@pytest.mark.usefixtures("table")
def test_some_methods_and_some_seeds_are_enough(latte):
    code, out, err = latte("simulate", "study.yaml", "--only", "latte", "--seeds", "1")
    assert code == 0
    assert [line.split()[2] for line in out.splitlines() if line.startswith("two kinds")] == ["latte"]
    assert "1 seeds say little about chance" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (("none.yaml",), 1, "cannot read the study `none.yaml`", "latte simulate --help"),
        (("study.yaml", "--only", "latt"), 2, "unknown method `latt`", "did you mean `latte`?"),
        (("study.yaml", "--only", "fjord"), 2, "unknown method `fjord`", "fedavg, latte"),
        (("study.yaml", "--seeds", "4"), 2, "`study.yaml` has 3 seeds, not 4", "add some"),
        (("study.yaml", "--seeds", "0"), 2, "", ""),
        (("study.yaml", "-o", "study.yaml"), 1, "`study.yaml` is no folder", "-o DIR"),
        (("study.yaml", "-o", "other"), 1, "`other` is not empty and holds no study", "another folder"),
        (("bad.yaml",), 1, "`bad.yaml`, scenario `s`, class `a`: `device` is missing", "--help"),
        (("gone.yaml",), 1, "unknown device `nowhere`", ""),
        (("model.yaml",), 1, "`custom_cn` is no model", "custom_cnn"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(latte, place, arguments, code, message, hint):
    (place / "other").mkdir(exist_ok=True)
    (place / "other" / "letter.txt").write_text("dear")
    classes = [{"class": "a", "bandwidth": BANDWIDTH}]
    (place / "bad.yaml").write_text(yaml.safe_dump(STUDY | {"scenarios": [{"scenario": "s", "classes": classes}]}))
    classes = [{"class": "a", "device": "nowhere", "count": 4, "bandwidth": BANDWIDTH}]
    (place / "gone.yaml").write_text(yaml.safe_dump(STUDY | {"scenarios": [{"scenario": "s", "classes": classes}]}))
    (place / "model.yaml").write_text(yaml.safe_dump(STUDY | {"model": "custom_cn"}))
    found, out, err = latte("simulate", *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert hint in err


def test_ctrl_c_keeps_what_is_finished_and_ends_with_130(tmp_path):
    path = tmp_path / "study.yaml"
    scenarios = [{"scenario": "one kind", "classes": [{**CLASSES[0], "count": 4}]}]
    changes = {"rounds": 6, "partition": "iid", "methods": ["fedavg"], "scenarios": scenarios}
    path.write_text(yaml.safe_dump(STUDY | changes))
    command = [str(Path(sys.executable).with_name("latte")), "simulate", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    trainings = tmp_path / "study" / "trainings"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + PATIENCE_S
        while not list(trainings.glob("*.json")) and process.poll() is None and time.monotonic() < until:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, "")
    assert err.startswith("error: interrupted")
    assert "Traceback" not in err
    found = list(trainings.iterdir())
    assert found
    for each in found:
        assert each.suffix == ".json"
        training = json.loads(each.read_text())["training"]
        assert training["rounds"][-1] == 6 or training["accuracies"][-1] >= STUDY["tuning"]["target"]
