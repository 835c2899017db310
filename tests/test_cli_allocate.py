import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import made_rows
import pytest
from running import ended

from latte_cli.network import load
from latte_cli.network.channels import sub_model
from latte_cli.network.zoo import export
from latte_cli.quantities import duration_s
from latte_cli.store import open_store

WIDTHS = (1, 0.75, 0.5, 0.25)
ONE_THREAD = replace(made_rows.DEVICE, slug="made-up-cpu-2c-1t")
FLEET = """
classes:
  - class: fast
    device: made-up-cpu-2c-2t
    count: 4
    samples: 800
    batch: 8
    bandwidth: {up: 100Mbit, down: 100Mbit}
    memory: 1GiB
  - class: slow
    device: made-up-cpu-2c-1t
    samples: 800
    epochs: 3
    batch: 4
    bandwidth: {up: 10Mbit, down: 20Mbit}
    memory: 1GiB
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with LeNet, a fleet, and a store with made-up rows of two devices, the second ten times slower."""
    folder = tmp_path_factory.mktemp("allocate")
    (folder / "lenet.onnx").write_bytes(export("lenet"))
    (folder / "fleet.yaml").write_text(FLEET, "utf-8")
    store = open_store(str(folder / "store"), shipped=False)
    for device, threads, batch, slower in ((made_rows.DEVICE, 2, 8, 1), (ONE_THREAD, 1, 4, 10)):
        network = load(folder / "lenet.onnx", batch_size=batch)
        layers = [layer for width in WIDTHS for layer in made_rows.step_layers(sub_model(network, width))]
        tasks = made_rows.tasks(layers, replace(made_rows.SETTINGS, threads=threads))
        rows = [made_rows.measurement(task, time_s=slower * made_rows.seconds(task), device=device) for task in tasks]
        made_rows.write(store, rows)
    return folder


@pytest.fixture
def latte(place, monkeypatch):
    """Run the command in `place`: its exit code, stdout and stderr."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("LATTE_STORE", str(place / "store"))
    return ended


def allocated(latte, *more):
    return latte("allocate", "lenet.onnx", "--fleet", "fleet.yaml", *more)


def plan(latte, *more):
    code, out, _ = allocated(latte, "--format", "json", *more)
    return code, json.loads(out)


def test_a_long_round_lets_every_class_train_the_whole_model(latte):
    code, found = plan(latte, "--round-duration", "1h")
    assert code == 0
    assert found["schema"] == "latte.plan/1"
    assert found["round_duration_s"] == 3600
    assert found["model"]["name"] == "lenet"
    assert [each["id"] for each in found["sub_models"]] == ["w1", "w0.75", "w0.5", "w0.25"]
    assert all(set(each) == {"id", "parameters", "width", "depth", "widths", "dropped"} for each in found["sub_models"])
    assert [(each["class"], each["count"], each["sub_model"]) for each in found["devices"]] == [
        ("fast", 4, "w1"),
        ("slow", 1, "w1"),
    ]
    keys = "class count device sub_model parameters round_s low_s high_s memory_bytes status least_s"
    keys += " sheet_share training windows"
    assert [list(each) for each in found["devices"]] == [keys.split()] * 2
    for each in found["devices"]:
        assert each["status"] == "ok"
        assert each["least_s"] <= each["high_s"] <= 3600
        assert 0 < each["low_s"] < each["round_s"] < each["high_s"]


def test_a_shorter_round_gives_the_slow_class_a_smaller_sub_model(latte):
    whole = {each["class"]: each["high_s"] for each in plan(latte, "--round-duration", "1h")[1]["devices"]}
    code, found = plan(latte, "--round-duration", f"{whole['slow'] * 0.999:.9f}s")
    assert code == 0
    fast, slow = found["devices"]
    assert (fast["sub_model"], slow["sub_model"]) == ("w1", "w0.75")


def test_a_round_that_no_sub_model_meets_ends_with_3_and_still_prints_the_plan(latte):
    code, out, err = allocated(latte, "--round-duration", "100ms", "--format", "json")
    assert code == 3
    found = json.loads(out)["devices"][1]
    assert (found["status"], found["sub_model"], found["round_s"], found["high_s"]) == ("infeasible", None, None, None)
    assert found["least_s"] > 0.1
    assert "error: no sub-model for" in err
    assert "Traceback" not in err
    least = err.split("`--round-duration ")[1].split("`")[0]
    assert duration_s(least) >= found["least_s"]
    assert allocated(latte, "--round-duration", least)[0] == 0


def test_the_option_wins_over_the_file(latte, place):
    (place / "timed.yaml").write_text("round_duration: 2h" + FLEET, "utf-8")
    arguments = ("allocate", "lenet.onnx", "--fleet", "timed.yaml", "--format", "json")
    assert json.loads(latte(*arguments)[1])["round_duration_s"] == 7200
    assert json.loads(latte(*arguments, "--round-duration", "90m")[1])["round_duration_s"] == 5400


def test_the_table_fits_80_columns_and_names_the_next_command(latte, place):
    (place / "long.yaml").write_text(FLEET.replace("class: fast", "class: " + "f" * 90), "utf-8")
    for fleet, duration in (("fleet.yaml", "1h"), ("long.yaml", "1h"), ("long.yaml", "1ms")):
        code, out, err = latte("allocate", "lenet.onnx", "--fleet", fleet, "--round-duration", duration)
        assert code == (0 if duration == "1h" else 3)
        assert max(map(len, out.splitlines())) <= 80
        assert "of 5 devices have a sub-model" in out
        assert code or "`latte estimate lenet.onnx --device made-up-cpu-2c-2t --batch-size 8`" in err


def test_too_little_memory_is_told_apart_from_too_little_time(latte, place):
    (place / "small.yaml").write_text(FLEET.replace("1GiB", "1kB"), "utf-8")
    code, out, err = latte("allocate", "lenet.onnx", "--fleet", "small.yaml", "--round-duration", "1h")
    assert code == 3
    assert "infeasible: a step needs at least" in out
    assert "hint: where the memory is too small" in err


def test_memory_that_nobody_knows_is_a_warning(latte, place):
    (place / "unknown.yaml").write_text(FLEET.replace("    memory: 1GiB\n", "", 1), "utf-8")
    code, _, err = latte("allocate", "lenet.onnx", "--fleet", "unknown.yaml", "--round-duration", "1h")
    assert code == 0
    assert "warning: class `fast`: its memory is not known" in err


def test_csv_has_a_line_for_each_class(latte):
    code, out, _ = allocated(latte, "--round-duration", "1h", "--format", "csv", "--widths", "1,0.5")
    assert code == 0
    header, *lines = out.splitlines()
    assert (
        header == "class,count,device,sub_model,parameters,round_s,low_s,high_s,memory_bytes,status,least_s,sheet_share"
    )
    assert [line.split(",")[:4] for line in lines] == [
        ["fast", "4", "made-up-cpu-2c-2t", "w1"],
        ["slow", "1", "made-up-cpu-2c-1t", "w1"],
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--round-duration", "soon"), 2, "`soon` is not a duration"),
        ((), 2, "the duration of a round is not given"),
        (("--round-duration", "1h", "--widths", "1,2"), 2, "`1,2` is not a list of widths"),
        (("--round-duration", "1h", "--widths", ""), 2, "is not a list of widths"),
        (("--round-duration", "1h", "--strategy", "pytroch"), 2, "unknown strategy `pytroch`"),
        (("--round-duration", "1h", "--optimizer", "sdg"), 2, "unknown optimizer `sdg`"),
        (("--round-duration", "1h", "--fleet", "none.yaml"), 1, "cannot read the fleet `none.yaml`"),
        (("--round-duration", "1h", "--fleet", "lenet.onnx"), 1, "`lenet.onnx` is not YAML"),
    ],
)
def test_a_bad_command_line_is_one_line_and_a_hint(latte, arguments, code, said):
    found, out, err = allocated(latte, *arguments)
    assert (found, out) == (code, "")
    lines = err.splitlines()
    assert said in lines[0]
    assert lines[0].startswith("error: ")
    assert [line.startswith("hint: ") for line in lines[1:]] == [True]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("made-up-cpu-2c-1t", "made-up-cpu-2c-4t", "class `slow`, sub-model `w1`: unknown device"),
        ("memory: 1GiB", "memory: 1GiB\n    optimizer: sdg", "class `fast`, sub-model `w1`: unknown optimizer"),
        ("memory: 1GiB", "memory: 1GiB\n    strategy: latt", "class `fast`, sub-model `w1`: unknown strategy"),
        ("memory: 1GiB", "memory: 1GiB\n    precision: bf16", "class `fast`, sub-model `w1`: "),
        ("batch: 8", "batch: 0", "class `fast`: `batch`: `0` is not a whole number"),
    ],
)
def test_a_class_that_cannot_be_priced_is_named(latte, place, old, new, said):
    (place / "bad.yaml").write_text(FLEET.replace(old, new, 1), "utf-8")
    code, out, err = latte("allocate", "lenet.onnx", "--fleet", "bad.yaml", "--round-duration", "1h")
    assert code in (1, 2)
    assert out == ""
    assert said in err
    assert "hint: " in err


def test_a_model_that_cannot_be_read_is_named(latte, place):
    (place / "broken.onnx").write_bytes(b"\x08\x07junk")
    for name in ("broken.onnx", "none.onnx"):
        code, out, err = latte("allocate", name, "--fleet", "fleet.yaml", "--round-duration", "1h")
        assert (code, out) == (1, "")
        assert name.removesuffix(".onnx") in err
        assert "class `" not in err


def test_allocating_from_measured_rows_imports_neither_torch_nor_scikit_learn_nor_pandas(place):
    code = """if True:
        import sys
        from latte_cli.cli import main
        sys.argv = ["latte", "allocate", "lenet.onnx", "--fleet", "fleet.yaml", "--round-duration", "1h"]
        try:
            main()
        finally:
            sys.stderr.write(" ".join({name.partition(".")[0] for name in sys.modules}))
    """
    environment = os.environ | {"LATTE_STORE": str(place / "store")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert {"torch", "sklearn", "pandas", "xgboost", "scipy"}.isdisjoint(result.stderr.split())


def test_the_fleet_of_the_documentation_can_be_read(latte):
    from latte_cli.fleet import read_fleet

    fleet = read_fleet(Path(__file__).parents[1] / "docs/fleet.yaml")
    assert len(fleet.classes) == 3


def test_the_batch_is_where_the_user_says(latte):
    code, _, errors = latte("allocate", "lenet.onnx", "--fleet", "fleet.yaml", "--batch-axis", "9")
    assert code == 1
    assert "there is no batch axis 9" in errors
