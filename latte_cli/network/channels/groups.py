"""Channel groups: which channels of a network go together."""

from collections import Counter
from dataclasses import dataclass
from math import ceil

from latte_cli.errors import LatteError
from latte_cli.network.channels.trace import FIXED, Trace
from latte_cli.network.graph import Network


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


def channel_groups(network: Network) -> tuple[ChannelGroup, ...]:
    """The groups of channels that can be cut, in the order of their first node.

    The channels of the network's inputs and outputs, and whatever is added to them, belong to none. Raises LatteError
    naming the node where channels cannot be followed.
    """
    return tuple(group for group, _ in grouped(Trace(network)))


def grouped(trace: Trace) -> list[tuple[ChannelGroup, list[int]]]:
    """The groups, each with the numbers that stand for its channels."""
    makers: dict[int, list[str]] = {}
    for node, ids in trace.made.items():
        for root in trace.roots(ids):
            makers.setdefault(root, []).append(node)
    makers.pop(trace.root(FIXED), None)
    members: dict[tuple[str, ...], list[int]] = {}
    for root, nodes in makers.items():
        members.setdefault(tuple(nodes), []).append(root)
    repeats: Counter[str] = Counter()
    groups = []
    for nodes_of, roots in members.items():
        first = nodes_of[0]
        repeats[first] += 1
        name = first if repeats[first] == 1 else f"{first}#{repeats[first]}"
        multiple = trace.multiple(frozenset(roots))
        groups.append((ChannelGroup(name=name, channels=len(roots), nodes=nodes_of, multiple=multiple), roots))
    return groups
