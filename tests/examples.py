"""Examples of documents: cut to the first entries of their lists, and written in few lines."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_WIDTH = 110
_SCALARS, _NAMES = 4, 2


def cut(part: Any, schema: Mapping[str, Any]) -> Any:
    """A document with one entry of each list, or as many as its schema wants, and few names where names are free."""
    if isinstance(part, list):
        most = max(1, schema.get("minItems", 0)) if any(isinstance(each, dict | list) for each in part) else _SCALARS
        places = schema.get("prefixItems", [])
        kinds = [*places, *[schema.get("items", {})] * len(part)]
        return [cut(each, kind) for each, kind in zip(part[: max(most, len(places))], kinds, strict=False)]
    if isinstance(part, dict):
        known = schema.get("properties", {})
        names = [name for name in part if name in known] or list(part)[:_NAMES]
        more = schema.get("additionalProperties")
        return {name: cut(part[name], known.get(name, more if isinstance(more, dict) else {})) for name in names}
    return part


def written(part: Any, indent: int = 0) -> str:
    """JSON in which what fits a line stands in one."""
    line = json.dumps(part, ensure_ascii=False)
    if len(line) + indent <= _WIDTH or not isinstance(part, dict | list) or not part:
        return line
    space = " " * (indent + 2)
    opened, closed = "{}" if isinstance(part, dict) else "[]"
    return f"{opened}\n{space}" + f",\n{space}".join(_items(part, indent + 2)) + f"\n{' ' * indent}{closed}"


def _items(part: Any, indent: int) -> Iterator[str]:
    """The entries, neighbours that are short together in one line."""
    if isinstance(part, list):
        yield from (written(each, indent) for each in part)
        return
    line = ""
    for name, each in part.items():
        item = f"{json.dumps(name)}: {written(each, indent)}"
        if line and ("\n" in item or "\n" in line or indent + len(line) + len(item) > _WIDTH):
            yield line
            line = item
        else:
            line = f"{line}, {item}" if line else item
    yield line
