"""Layers of a step as the lines of a table: one for each, equal ones together, or the heaviest and the rest."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from latte_cli.estimator import BESIDE, Estimate, LayerTime
from latte_cli.report import shorten

_SEPARATORS = re.compile(r"[./]")
_HEAVIEST = 10  # chosen: with the totals they fit a screen of 24 lines
_FEWEST = 5  # chosen: fewer say too little, whatever the screen


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """A line of a table: `count` layers together, and the calls that they make in each of the estimates."""

    name: str
    calls: tuple[tuple[LayerTime, ...], ...]
    count: int = 1
    rest: bool = False

    @property
    def times_s(self) -> tuple[float, ...]:
        """What its calls take in each of the estimates, in seconds."""
        return tuple(sum(call.count * call.device_s for call in own) for own in self.calls)

    @property
    def costs(self) -> bool:
        """Whether it takes time anywhere."""
        return any(call.device_s or call.host_s for own in self.calls for call in own)

    def title(self, width: int) -> str:
        """Its name in so many characters, and how many layers it covers."""
        if self.rest:
            return f"{self.count} more layer{'s' * (self.count > 1)}"
        times = f" x {self.count}" if self.count > 1 else ""
        return shorten(self.name, width - len(times)) + times


@dataclass(frozen=True, kw_only=True)
class ShownRows:
    """The lines of a table, and how many `free` layers, which take no time, they leave out.

    `together` says that some lines cover several equal layers.
    """

    rows: Sequence[LayerRow]
    free: int = 0
    together: bool = False

    @property
    def layers(self) -> int:
        """How many layers there are, those included that take no time."""
        return self.free + sum(row.count for row in self.rows)

    @property
    def cut(self) -> bool:
        """Whether a layer has no separate line."""
        return self.free > 0 or any(row.count > 1 for row in self.rows)


def shown_rows(estimates: Sequence[Estimate], *, room: int | None, every: bool, beside: bool = True) -> ShownRows:
    """The lines of a table of the estimates' layers, of which a screen has `room` for so many; None for any number.

    `every` takes each layer. Otherwise those that take no time are left out; where the others do not fit, equal ones
    of a module become one line, and where that is not enough, the heaviest ten and their rest are left. `beside` says
    whether the loss and the update have lines.
    """
    rows = [*_rows(estimates, beside)]
    if every:
        return ShownRows(rows=rows)
    costly = [row for row in rows if row.costs or row.name in BESIDE]
    free = len(rows) - len(costly)
    if room is None or len(costly) <= room:
        return ShownRows(rows=costly, free=free)
    equal = fold_equal(costly)
    together = len(equal) < len(costly)
    if len(equal) <= room:
        return ShownRows(rows=equal, free=free, together=together)
    heaviest = heaviest_rows(equal, max(_FEWEST, min(_HEAVIEST, room - 1)))
    together = any(row.count > 1 and not row.rest for row in heaviest)
    return ShownRows(rows=heaviest, free=free, together=together)


def _rows(estimates: Sequence[Estimate], beside: bool) -> Iterator[LayerRow]:
    """A line for each layer, in the order of the network."""
    found: dict[str, list[list[LayerTime]]] = {}
    for at, estimate in enumerate(estimates):
        for part in estimate.parts:
            if beside or part.name not in BESIDE:
                found.setdefault(part.name, [[] for _ in estimates])[at].append(part)
    for name, calls in found.items():
        yield LayerRow(name=name, calls=tuple(map(tuple, calls)))


def fold_equal(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """The lines with equal layers of one module as one, where the first of them was."""
    groups: defaultdict[object, list[LayerRow]] = defaultdict(list)
    for row in rows:
        groups[(_module(row.name), tuple(tuple(map(_call, own)) for own in row.calls))].append(row)
    names = [common_name([row.name for row in group]) for group in groups.values()]
    unique = Counter(names)
    return [
        LayerRow(name=name if unique[name] == 1 else group[0].name, calls=_all_calls(group), count=len(group))
        for name, group in zip(names, groups.values(), strict=True)
    ]


def _all_calls(rows: Sequence[LayerRow]) -> tuple[tuple[LayerTime, ...], ...]:
    """The calls of several lines, in each of the estimates."""
    each = zip(*(row.calls for row in rows), strict=True)
    return tuple(tuple(call for own in calls for call in own) for calls in each)


def _call(call: LayerTime) -> object:
    """What calls have to share so that one line covers both."""
    return call.layer, call.stage, call.algorithm, call.layout, call.source, call.count, call.device_s


def _module(name: str) -> tuple[str, ...]:
    """The path of the module that holds the blocks of a layer: what comes before the first number, else its parent."""
    if name in BESIDE:
        return (name,)
    path = _SEPARATORS.split(name)
    before = [*takewhile(lambda piece: not piece.isdigit(), path)]
    return tuple(before if len(before) < len(path) else path[:-1])


def common_name(names: Sequence[str]) -> str:
    """What the names share, with a star for what differs: `layer1.*.conv*` of `layer1.0.conv1` and `layer1.1.conv2`."""
    if len(set(names)) == 1:
        return names[0]
    paths = [re.split(r"([./])", name) for name in names]
    if len({*map(len, paths)}) == 1:
        return "".join(map(_common_piece, zip(*paths, strict=True)))
    start = [pieces[0] for pieces in takewhile(lambda pieces: len({*pieces}) == 1, zip(*paths, strict=False))]
    return "".join(start) + "*"


def _common_piece(pieces: Sequence[str]) -> str:
    """What pieces of a path share at their start, without cutting a number."""
    if len({*pieces}) == 1:
        return pieces[0]
    same = takewhile(lambda signs: len({*signs}) == 1, zip(*pieces, strict=False))
    return "".join(signs[0] for signs in same).rstrip("0123456789") + "*"


def heaviest_rows(rows: Iterable[LayerRow], most: int) -> list[LayerRow]:
    """The `most` lines that take longest anywhere, the longest first, and one for all others together."""
    ordered = sorted(rows, key=lambda row: -max(row.times_s))
    first, others = ordered[:most], ordered[most:]
    if len(others) == 1:
        return ordered
    if not others:
        return first
    count = sum(row.count for row in others)
    return [*first, LayerRow(name="", calls=_all_calls(others), count=count, rest=True)]
