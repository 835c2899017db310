"""Files that are no models: what they are is said, by name and ending, and a name that is nearly right is put right."""

import gzip
from pathlib import Path

import pytest
from running import here

from latte_cli.errors import LatteError
from latte_cli.network import load
from latte_cli.network.foreign import FIRST_BYTES, SIGNATURES, foreign_kind
from latte_cli.network.zoo import export

DEVICE = ("--device", "reference")


@pytest.mark.parametrize(("at", "signature", "kind"), SIGNATURES)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path: Path, at: int, signature: bytes, kind: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x10" * at + signature + bytes(range(64)))
    done = here("estimate", path, *DEVICE, code=1)
    assert done.stderr.splitlines()[0] == f"error: cannot read `{path}`: it is {kind}"
    assert done.stdout == ""


def test_the_picture_of_the_readme_is_called_a_picture() -> None:
    path = Path(__file__).parents[1] / "docs" / "study.png"
    assert "study.png`: it is a PNG picture" in here("estimate", path, *DEVICE, code=1).stderr


@pytest.mark.parametrize("text", ["import torch\n", "größer\n" * 100, "round_duration: 1m\n", "# Title\n"])
def test_a_text_is_called_a_text(text: str) -> None:
    for end in range(8):  # a character may be cut at the end
        start = text.encode()[: FIRST_BYTES - end]
        assert foreign_kind(start) == "a text"


@pytest.mark.parametrize("name", ["lenet", "resnet18"])
def test_models_are_no_foreign_files(name: str) -> None:
    content = export(name)
    assert foreign_kind(content[:FIRST_BYTES]) is None
    assert foreign_kind(gzip.compress(content)[:FIRST_BYTES]) is None
    assert foreign_kind(b"PK\x03\x04" + bytes(30)) is None
    assert foreign_kind(b"") is None


@pytest.mark.parametrize("length", [50, 2000])
def test_a_model_that_is_cut_is_named_with_its_ending(model: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(model.read_bytes()[:length])
    with pytest.raises(LatteError, match=r"`[^`]*cut\.onnx`"):
        load(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(LatteError, match=r"`[^`]*cut\.onnx`"):
        load(path)
    assert load(model).name == model.stem


@pytest.mark.parametrize(
    ("typed", "there", "meant"),
    [
        ("resnet18.onx", "resnet18.onnx", True),
        ("resnet18", "resnet18.onnx", True),
        ("resnet81.pt2", "resnet18.pt2", True),
        ("resnet18.onnx", "resnet18.onnx.gz", True),
        ("none.onnx", "empty.onnx", False),
        ("resnet18.onnx", "resnet18.txt", False),
    ],
)
def test_a_name_that_is_nearly_right_is_put_right(tmp_path: Path, typed: str, there: str, meant: bool) -> None:
    (tmp_path / there).write_bytes(b"\x08")
    said = here("estimate", tmp_path / typed, *DEVICE, code=1).stderr.splitlines()[1]
    assert (said == f"hint: did you mean `{tmp_path / there}`?") is meant
