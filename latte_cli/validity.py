"""Validity: whether a document is one by its JSON Schema, told fast and without words for what is wrong with it."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, TypeAlias

Test: TypeAlias = Callable[[Any], bool]
"""Whether a value is valid."""

LARGEST_INTEGER = 2**63 - 1
"""What NumPy's and Arrow's widest integers hold; one beyond is none."""

CHECKED_BY_READER = "x-checked-by-reader"
"""Beside `additionalProperties`: there is so much of them that the reader checks it itself."""

_ANNOTATIONS = frozenset(("$schema", "$id", "title", "description", CHECKED_BY_READER, "x-not-finite"))


class UnknownKeyword(ValueError):
    """A schema says something that is not read here."""


def validity_test(schema: Mapping[str, Any] | bool) -> Test:
    """The test of `schema`; raises UnknownKeyword for a schema that needs another validator.

    It agrees with Draft 2020-12, but numbers are finite, and integers are neither floats nor beyond 64 bits.
    """
    if isinstance(schema, bool):
        return lambda value: schema
    tests = [_KEYWORDS[name](schema[name], schema) for name in _keywords(schema)]
    if len(tests) == 1:
        return tests[0]
    return lambda value: all(test(value) for test in tests)


def _keywords(schema: Mapping[str, Any]) -> list[str]:
    """The names of the tests in a schema; raises UnknownKeyword for others than annotations."""
    for name in schema:
        if name not in _KEYWORDS and name not in _ANNOTATIONS:
            raise UnknownKeyword(name)
    return [name for name in schema if name in _KEYWORDS]


def is_number(value: object) -> bool:
    """Whether it is a finite number, which a truth is not."""
    if isinstance(value, float):
        return isfinite(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def is_integer(value: object) -> bool:
    """Whether it is a whole number of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_INTEGER


_TYPES: Mapping[str, Test] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": is_number,
    "integer": is_integer,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


# Each keyword's test, from its value and the schema that it stands in


def _type(wanted: str | Sequence[str], schema: Mapping[str, Any]) -> Test:
    if isinstance(wanted, str):
        return _TYPES[wanted]
    tests = [_TYPES[name] for name in wanted]
    return lambda value: any(test(value) for test in tests)


def _words(wanted: Sequence[str | None], schema: Mapping[str, Any]) -> Test:
    if not all(word is None or isinstance(word, str) for word in wanted):
        raise UnknownKeyword("enum")  # 1, 1.0 and true would have to be told apart
    words = frozenset(wanted)
    return lambda value: (value is None or isinstance(value, str)) and value in words


def _pattern(text: str, schema: Mapping[str, Any]) -> Test:
    expression = re.compile(text)
    return lambda value: not isinstance(value, str) or expression.search(value) is not None


def _items(wanted: Mapping[str, Any] | bool, schema: Mapping[str, Any]) -> Test:
    test, first = validity_test(wanted), len(schema.get("prefixItems", ()))
    return lambda value: not isinstance(value, list) or all(map(test, value[first:] if first else value))


def _prefix_items(wanted: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> Test:
    tests = [validity_test(each) for each in wanted]
    return lambda value: not isinstance(value, list) or all(test(one) for test, one in zip(tests, value, strict=False))


def _properties(wanted: Mapping[str, Mapping[str, Any]], schema: Mapping[str, Any]) -> Test:
    tests = {name: validity_test(each) for name, each in wanted.items()}
    return lambda value: (
        not isinstance(value, dict) or all(test(value[name]) for name, test in tests.items() if name in value)
    )


def _additional(wanted: bool | Mapping[str, Any], schema: Mapping[str, Any]) -> Test:
    named = schema.get("properties", {}).keys()
    if schema.get(CHECKED_BY_READER):
        return lambda value: True
    if wanted is False:
        return lambda value: not isinstance(value, dict) or value.keys() <= named
    test = validity_test(wanted)
    return lambda value: (
        not isinstance(value, dict) or all(test(one) for name, one in value.items() if name not in named)
    )


def _requirement(wanted: Sequence[str], schema: Mapping[str, Any]) -> Test:
    names = frozenset(wanted)
    return lambda value: not isinstance(value, dict) or names <= value.keys()


def _one_of(wanted: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> Test:
    tests = [validity_test(each) for each in wanted]
    return lambda value: sum(test(value) for test in tests) == 1


_KEYWORDS: Mapping[str, Callable[[Any, Mapping[str, Any]], Test]] = {
    "type": _type,
    "const": lambda wanted, schema: _words((wanted,), schema),
    "enum": _words,
    "pattern": _pattern,
    "minimum": lambda least, schema: lambda value: not is_number(value) or value >= least,
    "maximum": lambda most, schema: lambda value: not is_number(value) or value <= most,
    "exclusiveMinimum": lambda below, schema: lambda value: not is_number(value) or value > below,
    "minItems": lambda least, schema: lambda value: not isinstance(value, list) or len(value) >= least,
    "maxItems": lambda most, schema: lambda value: not isinstance(value, list) or len(value) <= most,
    "items": _items,
    "prefixItems": _prefix_items,
    "properties": _properties,
    "additionalProperties": _additional,
    "required": _requirement,
    "oneOf": _one_of,
}
