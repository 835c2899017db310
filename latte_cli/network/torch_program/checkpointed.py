"""Regions that a module itself checkpoints, as far as its program shows which nodes they are."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

from latte_cli.network.regions import Region
from latte_cli.network.torch_program.calls import calls_of

CHECKPOINT = re.compile(
    r"\b(?:checkpoint|ckpt|checkpoint_sequential|_?gradient_checkpointing_func)\(|\buse_reentrant\b"
)
"""What the line of code that made a node has where the node lies in a region that runs again backward."""

_OTHERWISE = re.compile(r"\bcheckpoint_sequential\(|\buse_reentrant\s*=\s*True\b")
"""What a line has that checkpoints several parts at once, or in torch's older way, which runs otherwise."""

_FRAME = re.compile(r'^ *File "', re.MULTILINE)

Line: TypeAlias = tuple[str, str]
"""A line of code that checkpoints, with all lines that led to it, and the call of the part that it is a line of."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Where a node lies in a checkpointed region: the `line` that checkpoints, and the `part` called there.

    `part` is "" where the line calls no part of the module, or where it is not known what it calls.
    """

    line: Line
    part: str


def mark_of(node: Mapping[str, Any]) -> Mark | None:
    """The mark of a program's node; None for one that lies in no such region, as far as the program shows."""
    trace = str((node.get("metadata") or {}).get("stack_trace", ""))
    frames = [frame.strip() for frame in _FRAME.split(trace)[1:]]
    at = next((at for at, frame in enumerate(frames) if CHECKPOINT.search(frame)), None)
    if at is None:
        return None
    calls = [path for path, _ in calls_of(node)]
    lines = "\n".join(frames[: at + 1])
    within = len(calls) > at + 1 and not any(map(CHECKPOINT.search, frames[at + 1 :]))
    plain = within and not _OTHERWISE.search(frames[at])
    return Mark(line=(lines, calls[at] if len(calls) > at else ""), part=calls[at + 1] if plain else "")


def regions_of(marks: Mapping[str, Mark | None]) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """The regions that a network's nodes lie in by their `marks`, and the names of those of which it is not clear.

    A line that calls a part of the module is a region, and so is each call of a line that calls the entries of a list
    one by one. A line that calls a function is unclear: it may call it several times.
    """
    sizes = Counter(mark for mark in marks.values() if mark)
    parts: dict[Line, set[str]] = {}
    for mark in sizes:
        parts.setdefault(mark.line, set()).add(mark.part)
    regions: list[Region] = []
    unclear: list[str] = []
    for mark, run in groupby(marks, marks.__getitem__):
        names = tuple(run)
        if mark and _is_clear(parts[mark.line]) and sizes[mark] == len(names):
            regions.append(Region(name=mark.part, nodes=names))
        else:
            unclear += names if mark else ()
    return tuple(regions), tuple(unclear)


def _is_clear(parts: set[str]) -> bool:
    """Whether a line calls one part, or the entries of one list."""
    if "" in parts:
        return False
    lists = {path.partition("@")[0].rpartition(".")[0] for path in parts}
    entries = all(path.partition("@")[0].rpartition(".")[2].isdigit() for path in parts)
    return len({path.partition("@")[0] for path in parts}) == 1 or (len(lists) == 1 and entries)
