"""Regions that a module itself checkpoints, as far as its program or its run shows which nodes they are."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from latte_cli.network.graph import Node
from latte_cli.network.regions import Region
from latte_cli.network.torch_program.calls import calls_of

CHECKPOINT = re.compile(
    r"\b(?:checkpoint|ckpt|checkpoint_sequential|_?gradient_checkpointing_func)\(|\buse_reentrant\b"
)
"""What the line of code that made a node has where the node lies in a region that runs again backward."""

_PART = re.compile(
    r"(?:return |\w+ = )?[\w.]+\(self\.(?P<part>\w+(?:\.\w+|\[\d+\])*),[^()]*\buse_reentrant=False\b[^()]*\)"
)
"""A line that does nothing but checkpoint a part of the module whose line it is."""

_FRAME = re.compile(r'^ *File "', re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """That a node lies in the call `part` of a part that is checkpointed; "" where it is not known what is called."""

    part: str


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a module was seen to checkpoint: the paths of `parts` of which every call is, and whether other code is."""

    parts: frozenset[str] = frozenset()
    others: bool = False


def mark_of(node: Mapping[str, Any]) -> Mark | None:
    """The mark of a program's node; None for one that lies in no such region, as far as the program shows."""
    trace = str((node.get("metadata") or {}).get("stack_trace", ""))
    frames = [frame.strip() for frame in _FRAME.split(trace)[1:]]
    at = next((at for at, frame in enumerate(frames) if CHECKPOINT.search(frame)), None)
    if at is None:
        return None
    calls = [path for path, _ in calls_of(node)]
    found = _PART.fullmatch(frames[at].splitlines()[-1].strip())
    if not found or len(calls) <= at + 1 or any(map(CHECKPOINT.search, frames[at + 1 :])):
        return Mark(part="")
    own = re.sub(r"\[(\d+)\]", r".\1", found["part"])
    path = f"{calls[at].partition('@')[0]}.{own}".lstrip(".")
    return Mark(part=calls[at + 1] if calls[at + 1].partition("@")[0] == path else "")


def observed_marks(nodes: Sequence[Node], parts: Collection[str]) -> dict[str, Mark | None]:
    """The marks of a network's nodes, by name, where the calls of `parts` are checkpointed."""
    inner = {node.name: [call for call in node.calls if call.partition("@")[0] in parts] for node in nodes}
    return {name: Mark(part=calls[0] if len(calls) == 1 else "") if calls else None for name, calls in inner.items()}


def regions_of(marks: Mapping[str, Mark | None]) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """The regions that a network's nodes lie in by their `marks`, and the names of those of which it is not clear."""
    sizes = Counter(mark for mark in marks.values() if mark)
    regions: list[Region] = []
    unclear: list[str] = []
    for mark, run in groupby(marks, marks.__getitem__):
        names = tuple(run)
        if mark and mark.part and sizes[mark] == len(names):
            regions.append(Region(name=mark.part, nodes=names))
        else:
            unclear += names if mark else ()
    return tuple(regions), tuple(unclear)
