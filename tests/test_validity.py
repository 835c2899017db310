"""The fast test of documents agrees with the validator that says what is wrong with them."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli import documents
from latte_cli.validity import UnknownKeyword, validity_test

FROZEN = Path(__file__).parent / "frozen"
NAMES = sorted(json.loads(path.read_text())["$id"] for path in documents.SCHEMAS.glob("*.json"))
DOCUMENTS = [
    document
    for path in sorted(FROZEN.glob("*.json"))
    if isinstance(document := json.loads(path.read_text()), dict) and document.get("schema") in NAMES
]
CARDS = [json.loads(path.read_text()) for path in sorted(Path(__file__).parents[1].glob("models/*/card.json"))]
ODD = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**63,
    10**400,
    0.5,
    1.0,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    {},
    [1],
    {"x": 1},
]
ODD += ["forward", "nchw", [None], [[]], [{}], {"": []}]


def agree(name: str, document: Any) -> bool:
    """Whether `document` is valid, of which both have to say the same."""
    found: bool = documents._test(name)(document)
    assert found == (next(documents._validator(name).iter_errors(document), None) is None)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_can_be_tested_fast(name: str) -> None:
    for document in ODD:
        agree(name, document)


@pytest.mark.parametrize("document", [*DOCUMENTS, *CARDS], ids=lambda document: document["schema"])
def test_real_documents_are_valid(document: dict[str, Any]) -> None:
    assert agree(document["schema"], document)


def places(part: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a document; of a list's entries the first and the last."""
    found = [path]
    if isinstance(part, dict):
        found += [place for name, one in part.items() for place in places(one, (*path, name))]
    elif isinstance(part, list):
        found += [place for at in {0, len(part) - 1} & set(range(len(part))) for place in places(part[at], (*path, at))]
    return found


PLACES = [places(document)[1:] for document in [*DOCUMENTS, *CARDS]]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_changed_document_is_as_valid_by_both(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PLACES) - 1))
    document = copy.deepcopy([*DOCUMENTS, *CARDS][at])
    *path, last = data.draw(st.sampled_from(PLACES[at]))
    holder = document
    for step in path:
        holder = holder[step]
    match data.draw(st.sampled_from(("change", "drop", "add"))):
        case "change":
            holder[last] = data.draw(st.sampled_from(ODD))
        case "drop":
            del holder[last]
        case "add" if isinstance(holder, dict):
            holder["unknown"] = data.draw(st.sampled_from(ODD))
        case "add":
            holder.append(data.draw(st.sampled_from(ODD)))
    agree(document.get("schema") if document.get("schema") in NAMES else NAMES[0], document)


@pytest.mark.parametrize("schema", [{"not": {}}, {"items": {"anyOf": []}}, {"enum": [1]}, {"const": True}])
def test_a_keyword_that_is_not_known_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UnknownKeyword):
        validity_test(schema)
