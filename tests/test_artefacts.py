"""Artefacts: files named by a digest of their bytes, and refused where they hold others."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latte_cli import artefacts
from latte_cli.documents import DocumentSource, Missing
from latte_cli.errors import LatteError
from latte_cli.store.shipped import shipped_models

CONTENT = {"losses.ubj": bytes(range(256)), "weights.safetensors": b"weights"}
SOURCE = DocumentSource(where="the selector `s`", fault="is damaged", hint="`latte train-selector` makes it again")


def save(folder: Path) -> dict[str, str]:
    artefacts.save_artefact(folder, CONTENT, lambda names: {"files": names})
    found: dict[str, str] = json.loads((folder / "card.json").read_text())["files"]
    return found


def refused(folder: Path, names: dict[str, str]) -> LatteError:
    with pytest.raises(LatteError) as caught:
        artefacts.read_artefact(folder, names, SOURCE)
    assert "\n" not in caught.value.message and caught.value.hint
    return caught.value


def test_what_is_written_is_read_and_what_was_there_goes(tmp_path: Path) -> None:
    (tmp_path / "losses-0.ubj").write_bytes(b"older")
    names = save(tmp_path)
    assert artefacts.read_artefact(tmp_path, names, SOURCE) == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {"card.json", *names.values()}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 255), other=st.binary(max_size=2))
def test_other_bytes_are_refused(tmp_path: Path, at: int, other: bytes) -> None:
    names, good = save(tmp_path), CONTENT["losses.ubj"]
    changed = good[:at] + other + good[at + 1 :]
    (tmp_path / names["losses.ubj"]).write_bytes(changed)
    if changed != good:
        assert "its `losses.ubj` is not named by a digest of its bytes" in refused(tmp_path, names).message


@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: (path.unlink(), path.mkdir()), lambda path: (path.unlink(), os.mkfifo(path))]
)
def test_what_is_no_file_is_refused(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    names = save(tmp_path)
    harm(tmp_path / names["losses.ubj"])
    assert isinstance(refused(tmp_path, names), Missing) == (harm is Path.unlink)


def test_names_that_are_none_or_stand_for_another_file_are_refused(tmp_path: Path) -> None:
    names = save(tmp_path)
    for other in ("a\0b.ubj", "\ud800.ubj", "x" * 5000 + ".ubj", names["weights.safetensors"]):
        refused(tmp_path, {**names, "losses.ubj": other})


def test_a_file_too_large_to_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = save(tmp_path)
    monkeypatch.setattr(artefacts, "_MOST_BYTES", 100)
    refused(tmp_path, names)
    with pytest.raises(LatteError, match="more than 100 bytes"):
        save(tmp_path)


def test_shipped_files_are_those_that_their_cards_name() -> None:
    models = shipped_models()
    assert models
    for path in models.glob("*/card.json"):
        card = json.loads(path.read_text())
        names = card.get("files") or {
            f"{group}-{index}.ubj": name for group, each in card["trees"].items() for index, name in enumerate(each)
        }
        assert artefacts.read_artefact(path.parent, names, SOURCE).keys() == names.keys()
        assert {"card.json", *names.values()} == {each.name for each in path.parent.iterdir()}
