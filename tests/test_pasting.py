"""Commands in hints and warnings can be pasted: they name the model and the options that were typed."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from running import ended, here

from latte_cli.cli.pasting import with_model
from latte_cli.network.zoo import export

COMMAND = re.compile(r"`latte ([^`]*)`")
REFERENCE = ("--device", "reference")


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose name has to be quoted."""
    path = tmp_path_factory.mktemp("a b") / "le net.onnx"
    path.write_bytes(export("lenet"))
    return path


@pytest.mark.parametrize(
    ("text", "pasted"),
    [
        ("`latte profile MODEL` does", "`latte profile m.onnx --batch-size 8` does"),
        ("`latte profile --suite network FILE` does", "`latte profile m.onnx --batch-size 8` does"),
        ("`latte profile MODEL --batch-size 4`", "`latte profile m.onnx --batch-size 4`"),
        ("`latte estimate MODEL --format json > FILE`", "`latte estimate m.onnx --format json > FILE`"),
        ("`latte profile --budget 2m` and MODEL", "`latte profile --budget 2m` and MODEL"),
        ("`latte store check`; `latte tune MODEL`", "`latte store check`; `latte tune m.onnx`"),
        ("no command", "no command"),
    ],
)
def test_a_command_names_the_model_and_its_options_once(text: str, pasted: str) -> None:
    assert with_model("m.onnx", {"profile": ["--batch-size 8"]}, text) == pasted


def commands_in(stderr: str) -> Iterator[list[str]]:
    for command in COMMAND.findall(stderr):
        yield shlex.split(command.partition(" > ")[0])


@pytest.mark.parametrize(
    "words",
    [
        ("estimate", "--batch-size", 8, *REFERENCE),
        ("estimate", "--batch-size", 8, *REFERENCE, "--precision", "fp32", "--layout", "nchw"),
        ("estimate", "--batch-size", "max:1GiB", *REFERENCE),
        ("estimate", "--batch-size", 4, "--device", "raspberry-pi-5"),
        ("explain", "--batch-size", 8, *REFERENCE),
        ("compare", "--batch-size", "4,8", *REFERENCE),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_commands_in_warnings_name_the_model_and_can_be_run(lenet: Path, words: tuple[object, ...]) -> None:
    command, *options = words
    done = here(command, lenet, *options)
    found = [each for each in commands_in(done.stderr) if each[0] == "profile"]
    assert found, done.stderr
    for each in found:
        assert str(lenet) in each
        assert "--batch-size" in each
        assert not {"MODEL", "FILE"} & set(each)
        assert ended(*each, "--dry-run").returncode == 0


def test_a_warning_about_another_device_says_where_to_profile(lenet: Path) -> None:
    h200 = ("--device", "nvidia-h200")
    assert "; on that device `latte profile " in here("estimate", lenet, "--batch-size", 8, *h200).stderr


def test_a_baseline_of_another_batch_is_written_again_as_it_was_asked(lenet: Path, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    words = ("estimate", lenet, *REFERENCE, "--format", "json")
    before.write_text(here(*words, "--batch-size", 8).stdout)
    limits = ("--baseline", before, "--max-regression", "5%")
    done = here("estimate", lenet, *REFERENCE, "--batch-size", 16, *limits, code=1)
    (again,) = commands_in(done.stderr)
    before.write_text(here(*again).stdout)
    here("estimate", lenet, *REFERENCE, "--batch-size", 16, *limits)


def test_a_failed_check_has_no_next_command(lenet: Path) -> None:
    words = ("estimate", lenet, "--batch-size", 8, *REFERENCE, "--fail-above")
    assert "next: " not in here(*words, "1us", code=3).stderr
    assert "next: " in here(*words, "1h").stderr


def test_a_baseline_without_a_difference_has_no_empty_table(lenet: Path, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    words = ("estimate", lenet, "--batch-size", 8, *REFERENCE)
    before.write_text(here(*words, "--format", "json").stdout)
    done = here(*words, "--baseline", before)
    assert "\nno layer differs\nstep " in done.stdout + done.stderr
    assert "difference  algorithm" not in done.stdout + done.stderr


FLEET = """
round_duration: 1h
classes:
  - {class: jetson, device: nvidia-jetson-nano, count: 5, samples: 20, batch: 16, bandwidth: {up: 10Mbit, down: 50Mbit}}
  - {class: pi, device: raspberry-pi-5, count: 2, samples: 20, batch: 4, bandwidth: {up: 5Mbit, down: 20Mbit}}
"""


def test_each_doubt_about_a_fleet_is_said_once_with_a_command_for_its_batches(lenet: Path, tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    done = here("allocate", lenet, "--fleet", tmp_path / "fleet.yaml")
    said = [line for line in done.stderr.splitlines() if "data sheet" in line]
    assert len(said) == 1
    assert said[0].startswith("warning: class `jetson`, likewise `pi`: ")
    (command,) = commands_in(said[0])
    assert command[:2] == ["profile", str(lenet)]
    assert [size for word, size in pairwise(command) if word == "--batch-size"] == ["4", "16"]
