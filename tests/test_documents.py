"""Documents: every one has a schema, keeps to it, and is refused by one line where it does not."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemas import valid

from latte_cli import documents
from latte_cli.allocator import Method, plan_document, read_plan
from latte_cli.backends.cuda import deviceless
from latte_cli.documents import DocumentSource
from latte_cli.errors import LatteError
from latte_cli.estimator.records import AGAIN
from latte_cli.federated.study.files import Files
from latte_cli.layers import Convolution, Phase, layer_text
from latte_cli.network import zoo
from latte_cli.precisions import Layout, Precision
from latte_cli.runtime import read_choices
from latte_cli.selector import artefact
from latte_cli.thresholds import read_estimates

ROOT = Path(__file__).parents[1]
FROZEN = Path(__file__).parent / "frozen"
NAMES = sorted(json.loads(path.read_text())["$id"] for path in documents.SCHEMAS.glob("*.json"))
SOURCE = DocumentSource(where="`file.json`", fault="is not a plan", hint="make another")


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one_and_stands_under_its_name(name: str) -> None:
    Draft202012Validator.check_schema(documents.schema(name))
    assert documents.schema(name)["title"]


def test_the_page_names_every_schema() -> None:
    page = (ROOT / "docs" / "reference" / "documents.md").read_text("utf-8")
    assert re.findall(r"^\| `(\S+)` \|.*schemas/(\S+)\)", page, re.MULTILINE) == [
        (name, documents.file_name(name)) for name in re.findall(r"^\| `(\S+)` \|", page, re.MULTILINE)
    ]
    assert sorted(re.findall(r"^\| `(\S+)` \|", page, re.MULTILINE)) == NAMES


def test_every_document_that_the_package_names_has_a_schema() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "latte_cli").rglob("*.py"))
    assert set(re.findall(r'"(latte[.-][a-z-]+/\d+)"', sources)) <= set(NAMES)


WORDS = {"precision": Precision, "layout": Layout, "phase": Phase, "method": Method}


@pytest.mark.parametrize("name", NAMES)
def test_the_words_of_a_schema_are_those_of_the_code(name: str) -> None:
    for key, words in enums(documents.schema(name)):
        if kind := WORDS.get(key):
            known = {str(each) for each in kind}
            assert words - {AGAIN} <= known if kind is Phase else words == known


def enums(part: Any, key: str = "") -> Iterator[tuple[str, set[str]]]:
    """The keys of a schema whose values are of a closed set, and the texts in it."""
    if isinstance(part, dict):
        if isinstance(part.get("enum"), list):
            yield key, {each for each in part["enum"] if isinstance(each, str)}
        for name, each in part.items():
            yield from enums(each, name)


@pytest.mark.parametrize("path", sorted(FROZEN.glob("*.json")), ids=lambda path: path.stem)
def test_what_commands_print_keeps_to_its_schema(path: Path) -> None:
    document = json.loads(path.read_text())
    if isinstance(document, dict) and "schema" in document:
        valid(path.read_text())
    else:
        assert path.stem == "report" or path.stem.endswith("-trace")


def test_the_schemas_are_read_only_where_a_document_is() -> None:
    code = "import sys, latte_cli.cli, latte_cli.documents; assert 'jsonschema' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Real documents, changed

RUN = {"times_s": [0, 2.5], "accuracies": [0.1, 0.5], "idle": 0.25, "late": 0, "gone": 1, "failed": 0, "devices": 4} | {
    "personal": None,
    "reason": "",
    "by_device": [0.25, 1],
}
CONVOLUTION = next(layer for layer in zoo.network("lenet", batch_size=2).layers if isinstance(layer, Convolution))
TRAINING = {"rounds": [0, 2], "accuracies": [0.1, 0.5], "losses": [2.3, None], "personal": None, "failed": 0} | {
    "reason": "",
    "by_device": [0.25, 1],
}
ENTRY = {
    "device": "desk",
    "kind": "cpu",
    "threads": 1,
    "library_versions": {"torch": "2.13.0"},
    "precision": "fp32",
    "limits": {"workspace_bytes": None, "memory_bytes": 5},
    "strategy": "latte",
    "layout": "nchw",
    "step": {"default_s": 1.0, "layout_s": None, "chosen_s": 0.5, "measured": True},
    "reasons": ["none"],
    "convolutions": [
        {
            "layer": json.loads(layer_text(CONVOLUTION)),
            "phase": "forward",
            "library": "torch",
            "algorithm": "NNPACK",
            "vendor_id": None,
            "gain_s": 0.1,
        }
    ],
}


def frozen(name: str) -> Any:
    return json.loads((FROZEN / f"{name}.json").read_text())


def plan() -> Any:
    found = frozen("allocate-fine")
    for each in found["devices"]:
        del each["windows"][1:]
    return found


def card(name: str) -> Any:
    (path,) = (ROOT / "models").glob(f"{name}-reference-*/card.json")
    return json.loads(path.read_text())


def read_study(path: Path, kind: str) -> Any:
    return Files(path.parent.parent, kind).read(path.stem)


def checked(name: str) -> Callable[[Path], Any]:
    return lambda path: documents.load_document(path, name, SOURCE)


def read_selector(path: Path) -> Any:
    """The card alone is the document; where it can be read, its trees are missing here."""
    return artefact.load_selector(path.parent)


READERS: dict[str, tuple[Callable[[], Any], Callable[[Path], Any]]] = {
    "plan": (plan, lambda path: plan_document(read_plan(path))),
    "estimate": (lambda: frozen("estimate"), read_estimates),
    "choices": (lambda: {"schema": "latte.choices/1", "entries": [ENTRY]}, read_choices),
    "device": (lambda: {"deviceName": "a GPU", "deviceVer": 900, "more": [1, 2]}, deviceless.read_properties),
    "selector": (lambda: card("selector"), read_selector),
    "times": (lambda: card("times"), checked("latte.times/2")),
    "run": (
        lambda: {"schema": "latte.study-runs/1", "key": "card", "run": RUN, "configuration": {"a": [1]}},
        lambda path: read_study(path, "runs"),
    ),
    "training": (
        lambda: {"schema": "latte.study-trainings/1", "key": "card", "training": TRAINING, "configuration": {}},
        lambda path: read_study(path, "trainings"),
    ),
    "catalogue": (
        lambda: [{"id": "w1", "widths": {"conv1": 8}, "parameters": 9, "dropped": ["b"]}],
        checked("latte.catalogue/1"),
    ),
}


def real(name: str) -> Any:
    """A real document of the kind, to be changed."""
    return copy.deepcopy(READERS[name][0]())


FOLDERS = {"run": "runs", "training": "trainings"}


@cache
def places(name: str) -> list[tuple[Any, ...]]:
    """Every place in a document of the kind but the document itself, few of long lists."""
    return [each for each in _places(real(name)) if each]


def _places(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    keys = list(part)[:12] if isinstance(part, dict) else range(min(2, len(part))) if isinstance(part, list) else ()
    for key in keys:
        yield from _places(part[key], (*path, key))


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 2**31, 2**63, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf"), "x", ""),
    *([], {}, [[]], [{}], [None], {"": 1}, ["x"], [1, 2, 3], {"schema": 1}, "a\nb", "\ud800", "forwards", "a" * 999),
)


def deep(levels: int) -> Any:
    found: Any = 1
    for at in range(levels):
        found = [found] if at % 2 else {"a": found}
    return found


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", READERS)
def test_a_changed_document_is_read_or_refused_in_one_line(name: str, data: st.DataObject, folder: Path) -> None:
    document = real(name)
    for path in data.draw(st.lists(st.sampled_from(places(name)), min_size=1, max_size=2)):
        part: Any = document
        try:
            for key in path[:-1]:
                part = part[key]
            part[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # what was changed before is gone
        if isinstance(part, str):
            continue  # a text came in the place of what held it
        match data.draw(st.sampled_from(("delete", "other", "more", "deep"))):
            case "delete":
                del part[path[-1]]
            case "other":
                part[path[-1]] = data.draw(st.sampled_from(ODD))
            case "deep":
                part[path[-1]] = deep(data.draw(st.sampled_from((3, 40, 400))))
            case "more" if isinstance(part, dict):
                part["more"] = data.draw(st.sampled_from(ODD))
    file = folder / FOLDERS.get(name, "") / "card.json"
    file.write_text(json.dumps(document), "utf-8")
    read(name, file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("documents")
    for each in FOLDERS.values():
        (found / each).mkdir()
    return found


def read(name: str, file: Path) -> None:
    try:
        READERS[name][1](file)
    except LatteError as error:
        assert len(error.message.splitlines()) == 1
        assert len(error.message) < 400
        assert error.hint
        assert error.exit_code == 1


@pytest.mark.parametrize("name", READERS)
def test_a_document_is_read_as_it_is(name: str, tmp_path: Path) -> None:
    file = tmp_path / FOLDERS.get(name, "") / "card.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(real(name)))
    if name == "selector":
        with pytest.raises(LatteError, match=r"the file of its `losses\.ubj` is missing"):
            read_selector(file)
    else:
        READERS[name][1](file)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff", b"[]", b"1", b"null", b'"x"', b"NaN", b"\0", b"9" * 9999, b'{"schema": 1}'),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'{"schema": "latte.other/9"}', b'{"a": 1, "a": 2}'),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_document_is_refused_in_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / FOLDERS.get(name, "") / "card.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    if content == b"[]" and name == "catalogue":
        return
    with pytest.raises(LatteError):
        READERS[name][1](file)
    read(name, file)


def changed(change: Callable[[Any], object], name: str = "choices") -> str:
    document = real(name)
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        (changed(lambda it: it["entries"].append(3)), "`entries[1]`: `3` is not an object", "latte tune"),
        (
            changed(lambda it: it["entries"][0]["convolutions"][0].update(phase="forwards")),
            "`entries[0].convolutions[0].phase`: `forwards` is not one of forward, backward_data, backward_filter",
            "did you mean `forward`?",
        ),
        (changed(lambda it: it["entries"][0].pop("layout")), "`entries[0]`: `layout` is missing", "latte tune"),
        (changed(lambda it: it["entries"][0].update(threads=-1)), "`entries[0].threads`: `-1` is too small", None),
        (changed(lambda it: it["entries"][0].update(threads=1.0)), "`1.0` is not a whole number", None),
        (changed(lambda it: it["entries"][0].update(threads=2**63)), "is not a whole number", None),
        (changed(lambda it: it["entries"][0]["step"].update(chosen_s=float("inf"))), "Infinity is no number", None),
        (changed(lambda it: it.update(entries=deep(40))), "it is nested too deeply", None),
        ('{"schema": "latte.choices/1", "schema": "latte.choices/1"}', "`schema` is there twice", None),
        ('{"schema": "latte.plan/1"}', "it has the schema `latte.plan/1`, not `latte.choices/1`", "latte tune"),
        ("{}", "it says no schema, not `latte.choices/1`", None),
        ('{"schema": "latte.choices/1", "entries": [{"threads": 1e999}]}', "`Infinity` is not a whole number", None),
    ],
)
def test_what_is_wrong_is_named_by_its_place(content: str, said: str, hint: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(LatteError) as caught:
        read_choices(tmp_path / "a.json")
    assert said in caught.value.message
    assert (hint or "") in (caught.value.hint or "")


def test_no_more_is_read_than_a_document_may_have(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" " * 100)
    with pytest.raises(LatteError, match="more than 99 bytes"):
        documents.load_document(tmp_path / "a.json", "latte.plan/1", SOURCE, most_bytes=99)
    with pytest.raises(documents.Missing, match="No such file"):
        documents.load_document(tmp_path / "b.json", "latte.plan/1", SOURCE)
    for path in (tmp_path, "a\0b"):
        with pytest.raises(LatteError, match="cannot read"):
            documents.load_document(path, "latte.plan/1", SOURCE)
