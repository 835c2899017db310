"""Documents: JSON that comes from outside, read within bounds and checked by the schema that is named as it is."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from latte_cli.errors import LatteError, unknown
from latte_cli.files import first_bytes
from latte_cli.validity import CHECKED_BY_READER, LARGEST_INTEGER, Test, is_integer, is_number, validity_test

SCHEMAS = Path(__file__).with_name("schemas")
"""Where the JSON Schemas are, one for each document that LATTE writes or reads."""

MOST_BYTES = 1 << 27  # fifty times the estimate of a network with 10,000 layers; numbers take eight times the memory
_MOST_LISTS = 1 << 22  # chosen: lists and objects take up to 250 bytes each, and a plan for 10,000 devices has a tenth
DEEPEST = 32  # three times what any schema asks for; far from Python's limit of 1,000 calls
_MOST_SAID = 200  # letters of what is wrong with a document, whose names may have any length
_MOST_SHOWN = 40  # letters of a value or a name: an error is one line


class Missing(LatteError):
    """There is no file of that name."""


def file_name(name: str) -> str:
    """The file of the schema `latte.plan/1`: `plan-1.json`."""
    return name.removeprefix("latte").lstrip(".-").replace("/", "-") + ".json"


@lru_cache
def schema(name: str) -> Mapping[str, Any]:
    """The JSON Schema of the documents called `name`."""
    from pkgutil import get_data  # which reads out of a zip file too

    found: Mapping[str, Any] = json.loads(get_data("latte_cli", f"{SCHEMAS.name}/{file_name(name)}") or "")
    return found


@dataclass(frozen=True, kw_only=True)
class DocumentSource:
    """Where a document is from, for the one line that says what is wrong with it.

    The line begins with `where` and `fault`, as in "`FILE` is not a plan"; `hint` says how to make a good one, and
    `kind` what it is, where `where` does not.
    """

    where: str
    fault: str
    hint: str
    kind: str = ""

    def error(self, problem: str, hint: str | None = None) -> LatteError:
        """The error for a document with this problem."""
        said = " ".join(problem.split())[:_MOST_SAID]
        return LatteError(f"{self.where} {self.fault}: {said}", hint=hint or self.hint)


def load_document(
    path: Path | str, name: str, source: DocumentSource, *, most_bytes: int = MOST_BYTES
) -> dict[str, Any]:
    """The document in the file at `path`, which has to be one by the schema `name`.

    Raises LatteError naming the place that is wrong, Missing where there is no file.
    """
    document: dict[str, Any] = read(path, source, most_bytes=most_bytes, finite=_is_finite_in(name))
    check(document, name, source)
    return document


def read(path: Path | str, source: DocumentSource, *, most_bytes: int = MOST_BYTES, finite: bool = True) -> Any:
    """What the JSON file at `path` holds, whatever it is; raises LatteError as `load_document` does."""
    named = f"the {source.kind} {source.where}" if source.kind else source.where
    try:
        content = first_bytes(path, most_bytes)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise Missing(f"cannot read {named}: {exc.strerror}", hint=source.hint) from exc
    except (OSError, ValueError) as exc:  # a path with a NUL is a ValueError
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise LatteError(f"cannot read {named}: {reason}", hint=source.hint) from exc
    if len(content) > most_bytes:
        raise source.error(f"it has more than {most_bytes:,} bytes")
    return parse(content, source, finite=finite)


def parse(content: bytes | str, source: DocumentSource, *, finite: bool = True) -> Any:
    """What the JSON text holds, each key of an object once; numbers are `finite` unless that is said."""
    opened = ("[", "{") if isinstance(content, str) else (b"[", b"{")
    if sum(map(content.count, opened)) > _MOST_LISTS:  # type: ignore[arg-type]
        raise source.error(f"it has more than {_MOST_LISTS:,} lists and objects")
    try:
        document = json.loads(content, object_pairs_hook=_each_once, parse_constant=_refuse if finite else float)
    except _Refused as exc:
        raise source.error(str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise source.error("it is not JSON") from exc
    if _deep(document):
        raise source.error("it is nested too deeply")
    return document


def check(document: object, name: str, source: DocumentSource) -> None:
    """Raise LatteError naming the place where `document` does not match the schema `name`."""
    if "schema" in schema(name).get("properties", ()):
        said = document.get("schema") if isinstance(document, dict) else None
        if said != name:
            what = f"has the schema `{_short(said)}`" if isinstance(said, str) else "says no schema"
            raise source.error(f"it {what}, not `{name}`")
    if _test(name)(document):
        return
    for error in _validator(name).iter_errors(document):
        problem, nearer = _problem(error)
        raise source.error(_place(error.absolute_path) + problem, nearer)


# What JSON allows and documents do not


class _Refused(ValueError):
    """What is JSON for Python and no document."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise _Refused(f"`{_short(twice)}` is there twice")
    return found


def _refuse(constant: str) -> float:
    raise _Refused(f"{constant} is no number")


def _deep(document: object) -> bool:
    """Whether lists and objects are nested deeper than in any document."""
    level = [document]
    for _ in range(DEEPEST):
        level = [part for each in level for part in _parts(each) if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _parts(part: object) -> Iterable[Any]:
    if isinstance(part, dict):
        return part.values()
    return part if isinstance(part, list) else ()


def _is_finite_in(name: str) -> bool:
    """Whether the numbers of these documents are all finite, and not those alone whose type the schema says."""
    return not schema(name).get("x-not-finite")


@lru_cache
def _test(name: str) -> Test:
    return validity_test(schema(name))


@lru_cache
def _validator(name: str) -> Any:
    """The validator that says what is wrong: it takes long to import, and many times as long as the test."""
    from jsonschema.validators import Draft202012Validator, extend

    whole = Draft202012Validator.VALIDATORS["additionalProperties"]

    def additional(validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
        """Leaves out what there is so much of that the reader checks it itself."""
        return iter(()) if schema.get(CHECKED_BY_READER) else whole(validator, value, instance, schema)

    types = Draft202012Validator.TYPE_CHECKER.redefine_many({"number": _is_number, "integer": _is_integer})
    kind: Any = extend(Draft202012Validator, {"additionalProperties": additional}, type_checker=types)
    return kind(schema(name))


def _is_number(_: object, value: object) -> bool:
    return is_number(value)


def _is_integer(_: object, value: object) -> bool:
    return is_integer(value)


# What is wrong, in words


def _place(path: Iterable[str | int]) -> str:
    """Where it is, as `devices[3].count` and a colon; nothing for the document itself."""
    text = "".join(f"[{each}]" if isinstance(each, int) else f".{_short(each)}" for each in path)
    return f"`{text.removeprefix('.')}`: " if text else ""


_WORDS = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}


def _problem(error: Any) -> tuple[str, str | None]:
    """What is wrong, and what may be meant where that can be told."""
    value, wanted = error.instance, error.validator_value
    match error.validator:
        case "required":
            return f"`{next(name for name in wanted if name not in value)}` is missing", None
        case "additionalProperties":
            known = error.schema.get("properties", ())
            exc = unknown("key", _short(next(name for name in value if name not in known)), known)
            return exc.message, exc.hint
        case "type":
            kinds = [wanted] if isinstance(wanted, str) else wanted
            return f"{_show(value)} is not {' or '.join(_WORDS[kind] for kind in kinds)}", None
        case "const":
            return f"{_show(value)} is not {_show(wanted)}", None
        case "enum":
            names = [each for each in wanted if isinstance(each, str)]
            near = unknown("", value[:_MOST_SHOWN], names).hint or "" if isinstance(value, str) else ""
            hint = near if near.startswith("did") else None
            return f"{_show(value)} is not one of {', '.join(names)}", hint
        case "minimum" | "exclusiveMinimum":
            return f"{_show(value)} is too small", None
        case "maximum" | "exclusiveMaximum":
            return f"{_show(value)} is too large", None
        case "minItems" | "minProperties" | "minLength":
            return f"it has {len(value)} entries, not {wanted} or more", None
        case "maxItems" | "maxProperties" | "maxLength":
            return f"it has {len(value)} entries, not {wanted} or fewer", None
    return f"{_show(value)} is not what it can be", None


def _show(value: object) -> str:
    """A value in an error: whole where it is short, else by its kind."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return "a number of that size"
    return f"`{_short(value if isinstance(value, str) else json.dumps(value))}`"


def _short(text: str) -> str:
    return " ".join(text.split())[:_MOST_SHOWN]
