"""Models from standard input and from packed files, and the words for what is no model file, end to end."""

import gzip
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from running import ended, here, latte

from latte_cli.errors import LatteError
from latte_cli.network import load
from latte_cli.network.weights import weights

DEVICE = ("--device", "nvidia-h200-reference")
LATTE = str(Path(sys.executable).with_name("latte"))


def piped(content: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([LATTE, "estimate", "-", *DEVICE, *words], input=content, capture_output=True, check=False)


def test_a_model_comes_from_standard_input(model: Path) -> None:
    done = piped(model.read_bytes(), "--format", "csv")
    assert (done.returncode, done.stdout.decode()) == (0, here("estimate", model, *DEVICE, "--format", "csv").stdout)
    several = piped(model.read_bytes(), "--batch-size", "2,4")  # the model is read for each
    assert several.returncode == 0, several.stderr
    assert b"next: `latte estimate MODEL --batch-size" in several.stderr


def test_nothing_on_standard_input_is_said() -> None:
    done = piped(b"")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: standard input is empty\nhint: ")


def test_a_packed_model_is_that_model(model: Path, tmp_path: Path) -> None:
    packed = tmp_path / f"{model.name}.gz"
    content = model.read_bytes()
    packed.write_bytes(
        gzip.compress(content[:100]) + gzip.compress(content[100:])
    )  # of two members, as `cat` joins them
    assert load(packed) == load(model)
    assert here("estimate", packed, *DEVICE).stdout == here("estimate", model, *DEVICE).stdout
    with pytest.raises(LatteError, match="is packed by gzip"):
        weights(packed)


@pytest.mark.parametrize("end", [1, 5, 30, -1])
def test_a_packed_model_that_is_cut_is_refused(model: Path, tmp_path: Path, end: int) -> None:
    packed = tmp_path / "m.onnx.gz"
    packed.write_bytes(gzip.compress(model.read_bytes())[:end])
    with pytest.raises(LatteError) as caught:
        load(packed)
    assert caught.value.hint


def test_a_file_that_unpacks_without_end_is_refused_early(tmp_path: Path) -> None:
    packed = tmp_path / "bomb.onnx.gz"
    with packed.open("wb") as file:
        member = gzip.compress(bytes(2**20))
        file.write(member * 1024)  # a gibibyte in a mebibyte
    with pytest.raises(LatteError, match=r"unpacks to more than [0-9]{2,3} MiB"):
        load(packed)


def test_what_is_no_file_of_a_model_has_words_of_its_own(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.onnx").touch()
    for name, words, hint in (
        ("pipe", "it is a pipe", "`latte estimate -` reads a model from standard input"),
        ("empty.onnx", "it is empty", "make it again"),
        (".", "it is a folder", "name the `.onnx` or `.pt2` file in it"),
        ("none.onnx", "No such file", "`latte zoo list`"),
    ):
        error, said = here("estimate", tmp_path / name, *DEVICE, code=1).stderr.splitlines()
        assert error.startswith(f"error: cannot read `{tmp_path / name}`: {words}")
        assert hint in said


def test_a_device_file_is_no_model() -> None:
    assert "it is not a file" in here("estimate", "/dev/zero", *DEVICE, code=1).stderr


def test_an_absurd_batch_is_told_to_be_too_large(model: Path) -> None:
    done = here("estimate", model, *DEVICE, "--batch-size", 10**9)
    assert "times the device's memory; lower `--batch-size`" in done.stderr


def test_the_command_to_type_next_can_be_pasted(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "my model.onnx"
    path.write_bytes(model.read_bytes())
    for words in ((), ("--batch-size", "2,4")):
        err = ended("estimate", path, *DEVICE, *words).stderr
        command = err.split("next: `")[1].split("`")[0]
        assert shlex.split(command)[:3] in (["latte", "estimate", str(path)], ["latte", "allocate", str(path)])
    assert f"`latte estimate '{path}2'`" in latte("zoo", "export", "lenet", f"{path}2").stderr


@pytest.mark.parametrize("more", [(), ("--batch-size", "2,4"), ("--batch-size", "max:1GiB")], ids=" ".join)
def test_a_store_that_is_not_there_is_said_once(model: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    store = tmp_path / "typo"
    done = here("estimate", model, "--store", store, *DEVICE, *more)
    assert done.stderr.count(f"warning: there is no store `{store}`") == 1
    store.mkdir()
    assert "there is no store" not in here("estimate", model, "--store", store, *DEVICE, *more).stderr
    assert "there is no store" not in here("estimate", model, *DEVICE, *more).stderr
