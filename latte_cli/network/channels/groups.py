"""Channel groups: which channels of a network go together."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, lcm

import numpy as np

from latte_cli.errors import LatteError
from latte_cli.network.channels.ties import FIXED, Ids
from latte_cli.network.channels.trace import Trace
from latte_cli.network.graph import Node


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """`channels` that are the same in every node of `nodes`, so that all keep as many of them.

    `nodes` are the convolutions and linear layers that make them; one that makes several channels for each of the
    group is named as often. A width of the group is a multiple of `multiple`.
    """

    name: str
    channels: int
    nodes: tuple[str, ...]
    multiple: int = 1

    def width(self, share: float) -> int:
        """The least number of channels that is at least `share` of them (0 < share <= 1); LatteError for another."""
        if not 0 < share <= 1:
            raise LatteError(f"a sub-model cannot have the width {share:g}", hint="a width is over 0 and at most 1")
        units = max(1, ceil(round(share * self.channels, 6) / self.multiple))
        return min(self.channels, units * self.multiple)


def group_channels(trace: Trace) -> list[tuple[ChannelGroup, list[int]]]:
    """The groups of channels that can be cut, in the order of their first node, with the numbers of their channels.

    The channels of the network's inputs and outputs, and whatever is added to them, belong to none. Those that are
    split off from others are separate groups.
    """
    while True:
        found = list(_groups(trace))
        uneven = [split for _, roots in found if (split := _uneven(trace, roots))]
        if not uneven:
            return [(_with_multiple(trace, group, roots), roots) for group, roots in found]
        for node, ids in uneven:
            trace.lose(node, [ids])


def _groups(trace: Trace) -> Iterator[tuple[ChannelGroup, list[int]]]:
    makers: dict[int, list[str]] = {}
    for node, roots in trace.made.items():
        for root in roots.tolist():
            makers.setdefault(root, []).append(node)
    makers.pop(FIXED, None)
    split = trace.memberships()
    members: dict[tuple[tuple[str, ...], tuple[int, ...]], list[int]] = {}
    for root, nodes in makers.items():
        members.setdefault((tuple(nodes), split.get(root, ())), []).append(root)
    repeats: Counter[str] = Counter()
    for (nodes_of, _), each in members.items():
        first = nodes_of[0]
        repeats[first] += 1
        name = first if repeats[first] == 1 else f"{first}#{repeats[first]}"
        yield ChannelGroup(name=name, channels=len(each), nodes=nodes_of), each


def _factors(trace: Trace, roots: list[int]) -> Iterator[tuple[Node, Ids, int]]:
    """The nodes that split these channels into parts, and into how many, unless each part has the same ones."""
    for node, ids, factor in trace.multiples:
        found = trace.ties.roots(ids).ravel()
        parts = np.sort(found.reshape(factor, -1)) if found.size % factor == 0 else found[:, None]
        if not set(roots).isdisjoint(found.tolist()) and (parts != parts[0]).any():
            yield node, ids, factor


def _uneven(trace: Trace, roots: list[int]) -> tuple[Node, Ids] | None:
    """The first node whose parts cannot have as many channels each, with what it splits."""
    whole = 1
    for node, ids, factor in _factors(trace, roots):
        whole = lcm(whole, factor)
        if len(roots) % whole:
            return node, ids
    return None


def _with_multiple(trace: Trace, group: ChannelGroup, roots: list[int]) -> ChannelGroup:
    return replace(group, multiple=lcm(1, *(factor for _, _, factor in _factors(trace, roots))))
