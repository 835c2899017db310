"""The page with an example of each document: each keeps to its schema, and those that are frozen are what they were.

`make golden` writes the latter anew.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from examples import cut, written
from jsonschema import Draft202012Validator
from schemas import closed

from latte_cli import documents

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "document-examples.md"
FROZEN = Path(__file__).parent / "frozen"
EXAMPLE = re.compile(r"^## `(\S+)`\n\n.*?^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE = (ROOT / "docs" / "reference" / "documents.md").read_text("utf-8")
NAMES = re.findall(r"^\| `(\S+)` \|", TABLE, re.MULTILINE)
SOURCES = {
    "latte.estimate/1": "estimate-training",
    "latte.comparison/1": "compare",
    "latte.explanation/1": "explain",
    "latte.plan/1": "allocate-fine",
    "latte.plan-diff/1": "plan-diff",
    "latte.curve/1": "allocate-curve",
    "latte.assignment/1": "allocate-devices",
    "latte.zoo/1": "zoo-list",
    "latte.store-info/1": "store-info",
    "latte.store-devices/1": "store-devices",
    "latte.store-check/1": "store-check",
    "latte.import/1": "import-miopen-finddb",
}
"""The frozen documents that are shown."""


def examples() -> dict[str, str]:
    return dict(EXAMPLE.findall(PAGE.read_text("utf-8")))


def test_the_page_has_an_example_of_every_document_in_the_order_of_the_table() -> None:
    assert [*examples()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_example_keeps_to_its_schema(name: str) -> None:
    document = json.loads(examples()[name])
    assert document.get("schema", name) == name if isinstance(document, dict) else True
    Draft202012Validator(closed(documents.schema(name))).validate(document)


@pytest.mark.parametrize("name", SOURCES)
def test_an_example_is_the_beginning_of_a_document_that_was_written(name: str) -> None:
    document: Any = json.loads((FROZEN / f"{SOURCES[name]}.json").read_text("utf-8"))
    expected = f"{written(cut(document, documents.schema(name)))}\n"
    if os.environ.get("LATTE_GOLDEN"):
        page = PAGE.read_text("utf-8")
        PAGE.write_text(page.replace(examples()[name], expected), "utf-8")
    assert examples()[name] == expected


LAYERS = {
    "latte.estimate/1": ("estimates", 0, "layers", 0),
    "latte.explanation/1": ("cases", 0, "calls", 0),
    "latte.engines/1": ("calls", 0),
    "latte.verification/1": ("layers", 0),
}
"""Where documents have layers."""


@pytest.mark.parametrize("name", LAYERS)
def test_layers_say_their_shapes_the_part_of_the_module_and_flops(name: str) -> None:
    found = json.loads(examples()[name])
    for key in LAYERS[name]:
        found = found[key]
    assert {"name", "phase", "module", "input_shapes", "output_shape", "parameter_shapes", "flops"} <= found.keys()
