"""Loading: what a user's own loader gives in a second, told from batches on a recorded clock, and from outside."""

import json
from pathlib import Path

import numpy as np
import pytest
from running import here
from schemas import valid

from latte_cli.errors import ExitCode, LatteError
from latte_cli.loading import Batch, loading_rate, samples_of, time_loader

MODULE = """
import numpy as np

def train():
    for _ in range(40):
        yield np.zeros((8, 3)), np.zeros(8)

def endless():
    while True:
        yield {"image": np.zeros((4, 3)), "words": ["a", "b", "c", "d"]}

def workers():
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    return DataLoader(TensorDataset(torch.zeros(96, 3)), batch_size=4, num_workers=2)

def number():
    return 3

def one():
    return [np.zeros((2, 3))]

def words():
    return [{"text": "a"}] * 9

def broken():
    yield np.zeros((2, 3))
    raise FileNotFoundError("no such picture")

NOTHING = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.py").write_text(MODULE)
    return tmp_path


def test_a_rate_is_of_the_samples_after_the_first_batch() -> None:
    batches = [Batch(at_s=0.5 * index, samples=10) for index in range(41)]
    found = loading_rate("data:train", batches, first_batch_s=3.0)
    assert (found.rate_per_s, found.batches, found.samples, found.seconds) == (20.0, 40, 400, 20.0)
    assert (found.least_per_s, found.most_per_s, found.first_batch_s) == (20.0, 20.0, 3.0)


def test_the_spread_is_that_of_ten_parts() -> None:
    times = [0.0]
    for index in range(100):
        times.append(times[-1] + (1.0 if index < 10 else 0.25))
    found = loading_rate("data:train", [Batch(at_s=at_s, samples=1) for at_s in times], first_batch_s=0.0)
    assert (found.least_per_s, found.most_per_s) == (1.0, 4.0)
    assert found.rate_per_s == pytest.approx(100 / 32.5)


def test_what_workers_had_ready_is_left_out() -> None:
    """Eight batches come at once; then one each second."""
    batches = [Batch(at_s=max(0.0, index - 7.0), samples=2) for index in range(30)]
    assert loading_rate("data:train", batches, first_batch_s=0.0).rate_per_s > 2.5
    found = loading_rate("data:train", batches, first_batch_s=0.0, ready=8)
    assert (found.rate_per_s, found.most_per_s) == (2.0, 2.0)


@pytest.mark.parametrize("count", [3, 4, 5, 11])
def test_few_batches_have_a_rate_too(count: int) -> None:
    batches = [Batch(at_s=float(index), samples=5) for index in range(count)]
    assert loading_rate("data:train", batches, first_batch_s=0.0, ready=100).rate_per_s == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (np.zeros((6, 2)), 6),
        ((np.zeros((5, 2)), np.zeros(5)), 5),
        ([3, np.zeros((4, 2))], 4),
        ({"ids": [np.zeros((7, 2))]}, 7),
        (["one", "two"], 2),
        ([np.zeros(()), 1, 2], 3),
    ],
)
def test_the_samples_of_a_batch_are_counted(batch: object, samples: int) -> None:
    assert samples_of(batch) == samples


@pytest.mark.parametrize("name", ["train", "endless", "workers"])
def test_a_loader_is_timed_in_the_folder_of_its_module(folder: Path, name: str) -> None:
    found = time_loader(f"data:{name}", folder=folder, seconds=0.2)
    assert found.target == f"data:{name}"
    assert 0 < found.least_per_s <= found.rate_per_s <= found.most_per_s
    assert found.samples == found.batches * (8 if name == "train" else 4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data:number", "returned `int`, which gives no batches"),
        ("data:one", "ended after 1 batches"),
        ("data:words", "gave `dict` without samples"),
        ("data:broken", "FileNotFoundError: no such picture"),
        ("data:NOTHING", "is no function"),
        ("data:absent", "is no function"),
        ("absent:train", "No module named 'absent'"),
    ],
)
def test_what_is_no_loader_is_said_in_one_line(folder: Path, name: str, words: str) -> None:
    with pytest.raises(LatteError) as error:
        time_loader(name, folder=folder, seconds=0.1)
    assert words in error.value.message
    assert "\n" not in error.value.message


@pytest.mark.parametrize("name", ["data", "data:", ":train", "data:a b", "../data:train"])
def test_what_names_no_function_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(LatteError, match="is no module and function") as error:
        time_loader(name, folder=folder, seconds=0.1)
    assert error.value.exit_code == ExitCode.USAGE


def test_the_command_prints_the_rate_and_what_takes_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = here("profile", "--loader", "data:train", "--budget", "1s", "--format", "json")
    valid(done.stdout)
    document = json.loads(done.stdout)
    assert (document["loader"], document["batches"]) == ("data:train", 39)
    assert "next: `latte estimate MODEL --loading-rate " in done.stderr
    for form in ("table", "csv"):
        done = here("profile", "--loader", "data:train", "--budget", "1s", "--format", form)
        assert "data:train" in done.stdout


def test_a_loader_goes_with_no_option_of_layers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = here("profile", "--loader", "data:train", "--threads", "1", code=2)
    assert "`--loader` and `--threads` do not go together" in done.stderr
    done = here("profile", "model.onnx", "--loader", "data:train", code=2)
    assert "takes no model files" in done.stderr
