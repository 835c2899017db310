"""Documents held to their schemas, with no key that the schema does not name."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator

from latte_cli import documents


def valid(text: str) -> Any:
    """The document in `text`, which has to keep to the schema that it names."""
    document = json.loads(text)
    _strict(document["schema"]).validate(document)
    return document


def check(arguments: Sequence[object], printed: str) -> None:
    """Hold what a command printed to its schema, where that is JSON."""
    if "json" in map(str, arguments) and printed.startswith("{"):
        valid(printed)


@lru_cache
def _strict(name: str) -> Any:
    return Draft202012Validator(closed(documents.schema(name)))


def closed(part: Any) -> Any:
    """The schema without keys beyond those that it names."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    found = {name: closed(each) for name, each in part.items()}
    return {"additionalProperties": False, **found} if isinstance(part.get("properties"), dict) else found
