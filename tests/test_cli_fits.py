"""`latte estimate` with limits and several batches, end to end."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from running import ended
from schemas import valid

from latte_cli.estimator import EstimatorsByLayout, estimate_each
from latte_cli.network import zoo
from latte_cli.store import open_store

Latte = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("models") / "resnet8.onnx"
    found.write_bytes(zoo.export("resnet8"))
    return found


@pytest.fixture
def latte(path: Path, tmp_path: Path) -> Latte:
    def run(*arguments: object) -> tuple[int, str, str]:
        return ended("estimate", path, "--device", "reference", "--store", tmp_path / "none", *arguments)

    return run


def test_yes_close_and_no(latte: Latte) -> None:
    code, out, err = latte("--batch-size", 4, "--fits", "8GiB")
    assert (code, "fits 8.00 GiB: yes" in out) == (0, True)
    assert "tensors and workspaces" in out and "not measured" in out
    code, out, _ = latte("--batch-size", 4, "--fits", "300MiB")
    assert (code, "fits 300 MiB: close" in out) == (0, True)
    code, out, err = latte("--batch-size", 4, "--fits", "100MiB")
    assert (code, "fits 100 MiB: no" in out) == (3, True)
    assert "takes at least" in err and "more than 100 MiB" in err


@pytest.mark.parametrize(("room", "answer", "code"), [("8GiB", "yes", 0), ("300MiB", "close", 0), ("100MiB", "no", 3)])
def test_the_answer_is_said_where_no_table_shows_it(latte: Latte, room: str, answer: str, code: int) -> None:
    ended_with, out, err = latte("--batch-size", 4, "--fits", room, "--format", "trace")
    assert (ended_with, "traceEvents" in json.loads(out)) == (code, True)
    assert f"MiB: {answer}, " in err or f"GiB: {answer}, " in err
    ended_with, out, err = latte("--batch-size", 4, "--fits", room, "--annotate", "junit")
    suite = ElementTree.fromstring(out)[0]
    [case] = suite
    assert (ended_with, suite.get("tests"), suite.get("failures")) == (code, "1", str(int(code > 0)))
    assert case.get("name", "").startswith("fits (latte on ")
    assert (case.find("failure") is not None) == (code > 0)
    assert f"MiB: {answer}, " in err or f"GiB: {answer}, " in err


def test_the_answer_is_a_test_case_beside_others(latte: Latte) -> None:
    words = ("--batch-size", 4, "--fits", "100MiB", "--fail-above", "1h")
    code, out, _ = latte(*words, "--annotate", "junit")
    assert (code, [case.get("name", "").split()[0] for case in ElementTree.fromstring(out)[0]]) == (3, ["step", "fits"])
    code, _, err = latte(*words, "--annotate", "github")
    assert (code, err.count("::notice "), err.count("::error ")) == (3, 1, 1)


def test_the_device_s_own_memory_is_a_limit(latte: Latte) -> None:
    found = valid(latte("--batch-size", 4, "--fits", "device", "--format", "json")[1])
    [entry] = found["estimates"]
    assert entry["fits"]["answer"] == "yes"
    assert entry["fits"]["limit_bytes"] > 2**30
    assert entry["fits"]["low_bytes"] <= entry["fits"]["expected_bytes"] <= entry["fits"]["high_bytes"]
    assert entry["fits"]["live_bytes"] == entry["totals"]["memory_bytes"]
    assert "fits" not in valid(latte("--batch-size", 4, "--format", "json")[1])["estimates"][0]


def test_several_batches_are_one_table(latte: Latte) -> None:
    code, out, _ = latte("--batch-size", "32,4,8")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[3:6]] == ["4", "8", "32"]
    assert "samples per second" in lines[-1]
    assert max(map(len, lines)) <= 80
    document = valid(latte("--batch-size", "32,4,8", "--format", "json", "--fits", "1GiB")[1])
    assert document["schema"] == "latte.batches/1"
    assert [each["batch_size"] for each in document["batches"]] == [4, 8, 32]
    assert [each["fits"] for each in document["batches"]] == ["yes"] * 3
    for each in document["batches"]:
        assert each["samples_per_s"] == pytest.approx(each["batch_size"] / each["step_s"])
    rows = list(csv.DictReader(io.StringIO(latte("--batch-size", "4,8", "--format", "csv")[1])))
    assert [row["batch_size"] for row in rows] == ["4", "8"]
    assert rows[0]["fits"] == ""


def test_several_batches_of_which_none_fits_end_with_3(latte: Latte) -> None:
    assert latte("--batch-size", "4,8", "--fits", "100MiB")[0] == 3
    assert latte("--batch-size", "4,4096", "--fits", "600MiB")[0] == 0


def test_max_is_the_largest_batch_that_fits(latte: Latte) -> None:
    code, out, err = latte("--batch-size", "max:600MiB", "--format", "json")
    assert code == 0
    batch = valid(out)["model"]["batch_size"]
    assert f"the largest batch that fits 600 MiB is {batch}" in err
    for asked, answer in ((batch, "yes"), (batch + 1, "close")):
        entry = valid(latte("--batch-size", asked, "--fits", "600MiB", "--format", "json")[1])["estimates"][0]
        assert entry["fits"]["answer"] == answer
    code, out, err = latte("--batch-size", "max:100MiB")
    assert (code, out) == (3, "")
    assert "at batch 1 takes at least" in err
    (enough,) = re.findall(r"hint: `--batch-size (max:\d+MiB)` is enough", err)
    assert latte("--batch-size", enough)[0] == 0


@pytest.mark.parametrize("strategy", ["latte", "pytorch-benchmark", "exhaustive"])
def test_estimators_that_are_kept_between_batches_count_the_same_memory(strategy: str) -> None:
    kept: EstimatorsByLayout = {}
    store, slug = open_store(None), "reference-amd-epyc-family-26-model-2-2c-2t"
    for batch in (1, 4, 13):
        network = zoo.network("resnet8", batch_size=batch)
        found = estimate_each(store, slug, network, strategies=(strategy,), kept=kept)
        assert found[0].memory == estimate_each(store, slug, network, strategies=(strategy,))[0].memory
        assert found[0].step_s == pytest.approx(estimate_each(store, slug, network, strategies=(strategy,))[0].step_s)
    assert len(kept) == 1


def test_max_alone_keeps_to_what_has_to_fit(latte: Latte) -> None:
    code, out, err = latte("--batch-size", "max", "--fits", "600MiB")
    assert (code, "fits 600 MiB: yes" in out, "the largest batch that fits 600 MiB" in err) == (0, True, True)


def test_a_limit_beyond_all_batches_that_are_tried_says_so(latte: Latte) -> None:
    code, _, err = latte("--batch-size", "max:9999TiB")
    assert (code, "no batch over 1048576 was tried" in err) == (0, True)
    code, _, err = latte("--effective-batch", 10**15, "--batch-size", "max:600MiB")
    assert (code, f"fits 600 MiB and divides {10**15}" in err) == (0, True)


def test_max_keeps_to_a_limit_of_memory_too(latte: Latte) -> None:
    code, _, err = latte("--batch-size", "max:1GiB", "--memory-limit", "20MiB")
    assert code == 0, err
    batch = int(err.split("the largest batch that fits 1.00 GiB under `--memory-limit` is ")[1].split(":")[0])
    assert 1 < batch < 64
    code, _, err = latte("--batch-size", batch + 1, "--memory-limit", "20MiB")
    assert (code, "more than the limit" in err) == (3, True)


def test_batches_beyond_a_limit_of_memory_are_left_out(latte: Latte) -> None:
    code, out, err = latte("--batch-size", "4,8,512", "--memory-limit", "20MiB", "--format", "csv")
    assert (code, [row["batch_size"] for row in csv.DictReader(io.StringIO(out))]) == (0, ["4", "8"])
    assert "left out: " in err and "at batch 512" in err
    assert latte("--batch-size", "256,512", "--memory-limit", "20MiB")[0] == 3


def test_csv_has_the_memory_as_a_second_table(latte: Latte) -> None:
    code, out, _ = latte("--batch-size", 4, "--fits", "8GiB", "--format", "csv")
    [row] = csv.DictReader(io.StringIO("".join(out.splitlines(keepends=True)[-2:])))
    assert (code, row["answer"], row["limit_bytes"]) == (0, "yes", str(8 * 2**30))


def test_an_effective_batch_is_accumulated(latte: Latte) -> None:
    code, out, err = latte("--effective-batch", 1000, "--batch-size", "max:600MiB", "--format", "json")
    assert code == 0
    document = valid(out)
    batch, times = document["model"]["batch_size"], document["estimates"][0]["settings"]["accumulate"]
    assert (batch * times, batch > 1, times > 1) == (1000, True, True)
    found = valid(latte("--effective-batch", 32, "--batch-size", 8, "--format", "json")[1])
    assert found["estimates"][0]["settings"]["accumulate"] == 4
    code, _, err = latte("--effective-batch", 32, "--batch-size", 5)
    assert (code, "do not make up 32 samples" in err) == (2, True)
    code, _, err = latte("--effective-batch", 32, "--accumulate", 2)
    assert (code, "do not go together" in err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--batch-size", "4,8", "--fail-above", "1s"),
        ("--batch-size", "4,8", "--memory"),
        ("--batch-size", "4,8", "--format", "trace"),
        ("--batch-size", "4,8", "--strategy", "latte,pytorch"),
        ("--batch-size", "max:1GiB", "--strategy", "latte,pytorch"),
        ("--batch-size", "0"),
        ("--batch-size", "4", "--picture", "one.png"),
        ("--fits", "8"),
        ("--batch-size", "4,8", "--gpus", "2"),
        ("--batch-size", "4,8", "--loading-rate", "10"),
        ("--batch-size", "4,8", "--samples", "10"),
        ("--link", "25GB/s"),
        ("--data-parallel", "dp"),
        ("--force",),
        ("--epochs", "3"),
        ("--epochs", "3", "--samples", "9", "--local-steps", "4"),
        ("--upload", "1Mbit/s"),
        ("--download", "1Mbit/s"),
        ("--fits", "8GiB", "--gpus", "2", "--link", "25GB/s", "--device", "nvidia-h200-reference"),
        ("--batch-size", "max", "--gpus", "2", "--link", "25GB/s", "--device", "nvidia-h200-reference"),
        ("--memory", "--format", "trace"),
        ("--gpus", "2", "--link", "25GB/s", "--format", "trace"),
        ("--mmap-threshold", "64KiB"),
        ("--fits", "8GiB", "--mmap-threshold", "64KiB", "--device", "nvidia-h200-reference"),
        ("--checkpoint", ""),
    ],
    ids=" ".join,
)
def test_what_means_nothing_is_a_usage_error(latte: Latte, arguments: tuple[str, ...]) -> None:
    code, out, err = latte(*arguments)
    assert (code, out) == (2, ""), err
    assert "hint:" in err


def test_throughput_is_drawn(latte: Latte, tmp_path: Path) -> None:
    picture = tmp_path / "batches.svg"
    assert latte("--batch-size", "4,8", "--picture", picture)[0] == 0
    assert "samples per second" in picture.read_text()
    code, out, err = latte("--batch-size", "4,8", "--picture", picture)
    assert (code, out) == (1, "")
    assert "--force" in err


def test_json_says_null_where_the_largest_batch_still_gains(latte: Latte) -> None:
    document = json.loads(latte("--batch-size", "1,2", "--format", "json")[1])
    assert document["levels_off_at"] in (None, 1)
    assert document["limit_bytes"] is None
