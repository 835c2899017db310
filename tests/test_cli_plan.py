"""Plans from the command line: fine widths, channels, unknown durations, files and pictures."""

import csv
import json
import os

import pytest
from test_cli_allocate import latte, place  # noqa: F401 - fixtures

from latte_cli.network import load
from latte_cli.network.channels import channel_groups
from latte_cli.quantities import duration_s


@pytest.fixture
def run(latte, place, tmp_path):  # noqa: F811
    """Run `latte allocate` on LeNet, or another command, in a separate folder for what is written."""

    def command(*arguments):
        if arguments[0] in ("plan", "zoo"):
            return latte(*arguments)
        return latte("allocate", "lenet.onnx", "--fleet", "fleet.yaml", *arguments)

    return command


def planned(run, *arguments):
    code, out, err = run(*arguments, "--format", "json")
    assert code == 0, err
    return json.loads(out)


def half_way(run):
    """A round in which the slow class can train something, but not the whole model."""
    slow = planned(run, "--round-duration", "1h")["devices"][1]
    return f"{(slow['least_s'] + slow['high_s']) / 2:.6f}s"


def test_fine_widths_keep_more_than_one_width_for_all(run, place):  # noqa: F811
    duration = half_way(run)
    coarse = planned(run, "--round-duration", duration, "--widths", "1,0.75,0.5,0.25")
    for objective in ("balanced", "parameters"):
        fine = planned(
            run, "--round-duration", duration, "--fine", "--objective", objective, "--widths", "1,0.75,0.5,0.25"
        )
        assert fine["objective"] == objective
        slow = fine["devices"][1]
        assert slow["high_s"] <= duration_s(duration)
        if objective == "parameters":
            assert slow["parameters"] >= 0.99 * coarse["devices"][1]["parameters"]
        widths = next(each["widths"] for each in fine["sub_models"] if each["id"] == slow["sub_model"])
        groups = {group.name: group.channels for group in channel_groups(load(place / "lenet.onnx"))}
        assert set(widths) == set(groups)
        assert all(0 < width <= groups[name] for name, width in widths.items())


def test_fine_widths_that_no_round_meets_end_with_3_and_the_least_duration(run):
    code, out, err = run("--round-duration", "1ms", "--fine", "--format", "json")
    assert code == 3
    assert [(each["status"], each["least_s"]) for each in json.loads(out)["devices"]] == [("infeasible", None)] * 2
    assert "is met by all" in err
    duration = err.split("`--round-duration ")[1].split("`")[0]
    assert run("--round-duration", duration, "--fine")[0] == 0


@pytest.mark.parametrize("goal", [("--floor", "25%"), ("--target-capacity", "70%"), ("--max-idle", "80%")])
def test_fine_widths_hold_what_is_asked_for_instead_of_a_duration(run, goal):
    found = planned(run, *goal, "--fine", "--widths", "1,0.75,0.5,0.25")
    whole, devices = found["model"]["parameters"], found["devices"]
    count = sum(each["count"] for each in devices)
    share = float(goal[1].rstrip("%")) / 100
    kept = [each["parameters"] / whole for each in devices]
    if goal[0] == "--floor":
        assert min(kept) >= share
    elif goal[0] == "--target-capacity":
        assert sum(each["count"] * one for each, one in zip(devices, kept, strict=True)) >= share * count
    else:
        waits = [each["count"] * (1 - each["round_s"] / found["round_duration_s"]) for each in devices]
        assert sum(waits) <= share * count


def test_a_plan_is_written_shown_checked_and_compared(run, place, tmp_path):  # noqa: F811
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    duration = half_way(run)
    code, _, err = run("--round-duration", duration, "-o", str(first))
    assert (code, f"next: `latte plan show {first}`" in err) == (0, True)
    document = json.loads(first.read_text("utf-8"))
    assert planned(run, "--round-duration", duration) == document

    code, out, _ = run("plan", "show", str(first))
    assert (code, "5 of 5 devices have a sub-model" in out) == (0, True)
    assert json.loads(run("plan", "show", str(first), "--format", "json")[1]) == document

    code, out, err = run("plan", "check", str(first), "lenet.onnx")
    assert (code, "0 of 2 classes differ" in out) == (0, True)
    assert "all finish in" in err

    assert run("--round-duration", "1h", "-o", str(second))[0] == 0
    code, out, _ = run("plan", "diff", str(first), str(second), "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert [(row["class"], row["change"]) for row in rows] == [("fast", "same"), ("slow", "changed")]
    assert rows[1]["after"] == "w1"


def test_a_plan_is_checked_with_the_batch_where_the_user_says(run, tmp_path):
    path = tmp_path / "plan.json"
    assert run("--round-duration", "1h", "-o", str(path))[0] == 0
    assert run("plan", "check", str(path), "lenet.onnx", "--batch-axis", "0")[0] == 0
    code, _, errors = run("plan", "check", str(path), "lenet.onnx", "--batch-axis", "9")
    assert (code, "there is no batch axis 9" in errors) == (1, True)


def test_a_plan_that_would_be_late_today_ends_with_3(run, tmp_path):
    path = tmp_path / "plan.json"
    assert run("--round-duration", "1h", "-o", str(path))[0] == 0
    document = json.loads(path.read_text("utf-8"))
    document["round_duration_s"] = 0.9 * document["devices"][1]["high_s"]
    path.write_text(json.dumps(document), "utf-8")
    code, out, err = run("plan", "check", str(path), "lenet.onnx")
    assert code == 3
    assert "`slow` would not finish in" in err
    assert "changed" in out


def test_a_plan_in_which_some_train_nothing_is_not_said_to_finish(run, tmp_path):
    path, duration = tmp_path / "plan.json", half_way(run)
    assert run("--round-duration", duration, "-o", str(path))[0] == 0
    document = json.loads(path.read_text("utf-8"))
    fast_s = document["devices"][0]["high_s"]
    assert run("--round-duration", f"{1.01 * fast_s:.6f}s", "-o", str(path), "--force")[0] == 3
    assert [each["status"] for each in json.loads(path.read_text("utf-8"))["devices"]] == ["ok", "infeasible"]
    code, _, err = run("plan", "check", str(path), "lenet.onnx")
    assert code == 3
    assert "the plan has no sub-model for `slow` (1 of 5 devices)" in err
    assert "all finish" not in err
    code, out, _ = run("plan", "show", str(path))
    assert (code, "4 of 5 devices have a sub-model" in out) == (0, True)


def test_a_plan_is_checked_with_the_optimizer_that_it_was_made_with(run, tmp_path):
    path = tmp_path / "plan.json"
    assert run("--round-duration", "1h", "--optimizer", "none", "-o", str(path))[0] == 0
    assert {each["training"]["optimizer"] for each in json.loads(path.read_text("utf-8"))["devices"]} == {"none"}
    code, out, _ = run("plan", "check", str(path), "lenet.onnx")
    assert (code, "0 of 2 classes differ" in out) == (0, True)
    code, out, _ = run("plan", "check", str(path), "lenet.onnx", "--optimizer", "sgd")
    assert (code, "2 of 2 classes differ" in out) == (0, True)


def test_a_plan_for_another_model_ends_with_1(run, place, tmp_path):  # noqa: F811
    path = tmp_path / "plan.json"
    assert run("--round-duration", "1h", "-o", str(path))[0] == 0
    assert run("zoo", "export", "lenet", str(tmp_path / "other.onnx"), "--classes", "7")[0] == 0
    code, out, err = run("plan", "check", str(path), str(tmp_path / "other.onnx"))
    assert (code, out) == (1, "")
    assert "the plan is for another model" in err
    code, out, err = run("--round-duration", "1h", "--after", str(place / "fleet.yaml"))
    assert (code, out) == (1, "")
    assert "it is not JSON" in err


def test_rounds_go_on_from_plan_to_plan(run, tmp_path):
    path, more = tmp_path / "plan.json", ("--round-duration", half_way(run), "--channels", "least-trained")
    assert run(*more, "-o", str(path))[0] == 0
    first = json.loads(path.read_text("utf-8"))
    second = planned(run, *more, "--after", str(path))
    assert (first["channels"]["round"], second["channels"]["round"]) == (0, 1)
    for name, counts in second["frequencies"].items():
        assert sum(counts) == 2 * sum(first["frequencies"][name])
    windows = [window for each in second["devices"] for window in each["windows"]]
    assert [window["number"] for window in windows] == [0, 1, 2, 3, 4]


def test_durations_are_found_by_what_they_keep(run):
    capacity = planned(run, "--target-capacity", "60%")
    floor = planned(run, "--floor", "0.5")
    idle = planned(run, "--max-idle", "0.95")
    parameters = {each["id"]: each["parameters"] for each in floor["sub_models"]}
    assert all(parameters[each["sub_model"]] >= 0.5 * max(parameters.values()) for each in floor["devices"])
    kept = sum(each["count"] * parameters[each["sub_model"]] for each in capacity["devices"])
    assert kept >= 0.6 * 5 * max(parameters.values())
    assert idle["round_duration_s"] > 0
    shorter = f"{0.999 * floor['round_duration_s']:.9f}s"
    again = json.loads(run("--round-duration", shorter, "--format", "json")[1])
    assert min(parameters.get(each["sub_model"], 0) for each in again["devices"]) < 0.5 * max(parameters.values())


def test_the_curve_is_a_table_and_a_picture(run, tmp_path):
    code, out, _ = run("--curve")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        picture = tmp_path / f"curve{suffix}"
        code, out, _ = run("--curve", "--floor", "50%", "--picture", str(picture), "--format", "json")
        assert code == 0
        found = json.loads(out)
        assert found["chosen_s"] in [each["round_duration_s"] for each in found["points"]]
        assert picture.read_bytes().startswith(start)


def test_a_round_is_a_picture(run, tmp_path):
    picture = tmp_path / "round.svg"
    code, _, err = run("--round-duration", "1h", "--picture", str(picture))
    assert (code, f"wrote `{picture}`" in err) == (0, True)
    text = picture.read_text("utf-8")
    assert "<svg" in text
    code, _, err = run("--round-duration", "1h", "--picture", str(picture))
    assert code == 1
    assert "is there already" in err
    assert run("--round-duration", "1h", "--picture", str(picture), "--force")[0] == 0


def test_sub_models_are_written_as_files(run, tmp_path):
    folder = tmp_path / "parts"
    code, _, err = run("--round-duration", half_way(run), "--materialise", str(folder))
    assert code == 0, err
    names = {path.name for path in folder.iterdir()}
    assert "devices.csv" in names
    assert sum(name.endswith(".onnx") for name in names) == 2
    assert run("--round-duration", "1h", "--materialise", str(folder))[0] == 1
    assert load(folder / "w1.onnx").parameters == 61706


@pytest.mark.parametrize("words", [("--materialise", "parts"), ("--channels", "importance")], ids=" ".join)
def test_a_program_that_would_be_cut_is_refused_before_anything_is_read(latte, place, tmp_path, words):  # noqa: F811
    (tmp_path / "m.pt2").write_bytes(b"PK\x03\x04 and no more")
    code, out, err = latte("allocate", str(tmp_path / "m.pt2"), "--fleet", "missing.yaml", *words)
    assert (code, out) == (1, "")
    assert "is a program of torch.export, not an ONNX model" in err
    assert "hint: export it as ONNX (`torch.onnx.export`)" in err
    (tmp_path / "m.onnx.gz").write_bytes(b"\x1f\x8b\x08 and no more")
    code, out, err = latte("allocate", str(tmp_path / "m.onnx.gz"), "--fleet", "missing.yaml", *words)
    assert (code, out) == (1, "")
    assert "is packed by gzip\nhint: unpack it with `gunzip`" in err
    assert not (place / "parts").exists()


def test_sub_models_honour_the_umask(run, tmp_path):
    before = os.umask(0o027)
    try:
        code, _, err = run("--round-duration", "1h", "--materialise", str(tmp_path / "parts"))
    finally:
        os.umask(before)
    assert code == 0, err
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "parts").iterdir()} == {0o640}
    assert (tmp_path / "parts").stat().st_mode & 0o777 == 0o750


def test_a_device_without_data_is_named_and_the_others_get_theirs(run, tmp_path):
    (tmp_path / "devices.csv").write_text("device,class,samples\nidle,fast,0\nbusy,fast,100\n", "utf-8")
    code, out, err = run("--round-duration", "1h", "--devices", str(tmp_path / "devices.csv"))
    assert code == 0, err
    assert "1 of 2 devices have no data or no network and get nothing, as `idle`" in " ".join(err.split())
    assert "1 of 2 devices have a sub-model" in out


def test_devices_one_by_one_get_what_is_their_own(run, tmp_path):
    lines = ["device,class,samples", *(f"d{n},{'fast' if n % 2 else 'slow'},{100 * (n + 1)}" for n in range(20))]
    (tmp_path / "devices.csv").write_text("\n".join(lines) + "\n", "utf-8")
    out_path = tmp_path / "out.csv"
    arguments = ("--round-duration", half_way(run), "--devices", str(tmp_path / "devices.csv"))
    code, out, err = run(*arguments, "-o", str(out_path), "--format", "json")
    left_out = "no sub-model for" in err
    assert code == (3 if left_out else 0), err
    rows = list(csv.DictReader(out_path.read_text("utf-8").splitlines()))
    assert [row["device"] for row in rows] == [f"d{n}" for n in range(20)]
    assert sum(each["devices"] for each in json.loads(out)["classes"]) == 20
    assert all(float(row["high_s"]) <= duration_s(arguments[1]) for row in rows if row["high_s"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--round-duration", "1h", "--floor", "0.5"), 2, "given in two ways"),
        (("--floor", "0.5", "--curve", "--fine"), 2, "`--curve` and `--fine` do not go together"),
        (("--floor", "0.5", "--devices", "d.csv"), 2, "`--devices` and `--floor` do not go together"),
        (("--round-duration", "1h", "--devices", "d.csv", "--fine"), 2, "`--devices` and `--fine` do not go together"),
        (("--curve", "-o", "p.json"), 2, "`--curve` and `--output` do not go together"),
        (("--floor", "2"), 2, "`2` is not a share"),
        (("--floor", "0%"), 2, "`0%` is not a share"),
        (("--round-duration", "1h", "--depths", "0.5"), 1, "no residual blocks"),
        (("--round-duration", "1h", "--depths", "none"), 2, "is not a list of depths"),
        (("--round-duration", "1h", "--fine", "--depths", "0.5"), 2, "chooses widths, not depths"),
        (("--round-duration", "1h", "--picture", "round.gif"), 2, "is not the name of a picture"),
        (("--round-duration", "1h", "-o", "nowhere/plan.json"), 1, "there is no folder"),
        (("--round-duration", "1h", "-o", "lenet.onnx"), 1, "is there already"),
        (("--round-duration", "1h", "--devices", "none.csv"), 1, "cannot read `none.csv`"),
        (("--round-duration", "1h", "--devices", "d.csv", "-o", "p.json"), 2, "is no file of devices"),
        (("--round-duration", "1h", "--channels", "importance"), 1, "holds no weights"),
        (("--round-duration", "1h", "--after", "none.json"), 1, "cannot read the plan"),
    ],
)
def test_what_cannot_be_is_one_line_and_a_hint(run, arguments, code, said):
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    lines = err.splitlines()
    assert said in lines[0]
    assert [line.startswith("hint: ") for line in lines[1:]] == [True]


@pytest.mark.parametrize("arguments", [("show", "none.json"), ("check", "none.json", "lenet.onnx"), ("diff", "a", "b")])
def test_a_plan_that_is_not_there_is_named(run, arguments):
    code, out, err = run("plan", *arguments)
    assert (code, out) == (1, "")
    assert "cannot read the plan" in err
