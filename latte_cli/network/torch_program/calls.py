"""Calls of a module's parts, which a program names for each of its nodes."""

from collections.abc import Mapping
from typing import Any


def calls_of(node: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The calls of the module's parts that a node lies in, from the outermost on, each with the name of its class.

    A call is the part's path, with `@1` and so on behind it where the part is called again.
    """
    stack = str((node.get("metadata") or {}).get("nn_module_stack", ""))
    found = []
    for entry in stack.split(";") if stack else ():
        key, _, rest = entry.partition(",")
        path, _, kind = rest.rpartition(",")
        _, again, number = key.rpartition("@")
        found.append((f"{path}@{number}" if again and number.isdigit() else path, kind))
    return found
