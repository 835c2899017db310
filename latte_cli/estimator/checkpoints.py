"""Checkpoints: what of a region runs again in the backward pass, and when, as `torch.utils.checkpoint` does it.

The forward pass of a region keeps what the region reads. The first call of the backward pass that asks for a saved
tensor of the region runs the region again, until the last tensor that its first run saved is there (`use_reentrant`
False with its early stop, torch's defaults).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

from latte_cli.errors import LatteError
from latte_cli.layers import Saved
from latte_cli.network import Network, Node
from latte_cli.network.regions import Region

RNG_STATE_BYTES = 5056
"""What `torch.get_rng_state()` returns on a CPU, which each region keeps (`preserve_rng_state`)."""


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A region of a network by the places of its nodes, `first` to `last`, and what of it runs again.

    `again` are the places of the nodes that run again, before the backward call of the node at `trigger`; the region
    keeps what it reads, `arguments`, until the backward call of the node at `until`. `tensors` is how many tensors
    autograd saves of its first run.
    """

    region: Region
    first: int
    last: int
    again: range
    trigger: int
    until: int
    arguments: tuple[str, ...]
    tensors: int


class Keeping(Enum):
    """What a layer keeps for its backward call: nothing, what it reads, or what is only there once it has run."""

    NOTHING = "nothing"
    OPERANDS = "operands"
    RESULTS = "results"


@dataclass(frozen=True, kw_only=True)
class NodeKeeps:
    """What a node keeps for its backward call, and how many tensors autograd saves of it."""

    what: Keeping
    tensors: int = 0


def saved_of(network: Network, node: Node, *, fused: bool) -> Saved | None:
    """What autograd keeps of a node, beside its parameters; None where no gradient passes it."""
    if node.output not in network.trained_activations:
        return None
    return node.layer.saved_tensors(trains=network.trains(node), flows=network.flows(node), fused=fused)


def reruns(network: Network, regions: Sequence[Region], *, fused: bool = False) -> tuple[Rerun, ...]:
    """What runs again of each region that keeps anything for its backward pass, in the network's order.

    The regions that the module itself checkpoints come with those that are given. Raises LatteError for regions that
    overlap, and for one that is not consecutive nodes of the network.
    """
    places = {node.name: place for place, node in enumerate(network.nodes)}
    own = (replace(one, nodes=tuple(name for name in one.nodes if name in places)) for one in network.checkpoints)
    regions = (*(one for one in own if one.nodes), *regions)
    spans = sorted(((region, *_span(network, region, places)) for region in regions), key=lambda each: each[1])
    for (one, _, last), (other, first, _) in pairwise(spans):
        if first <= last:
            raise LatteError(f"`{one.name}` and `{other.name}` overlap", hint="checkpoint one of them")
    keeping = keeping_of(network, fused=fused) if spans else ()
    return tuple(rerun for each in spans if (rerun := rerun_of(network, *each, keeping)))


def _span(network: Network, region: Region, places: dict[str, int]) -> tuple[int, int]:
    known = sorted(places[name] for name in region.nodes if name in places)
    if len(known) != len(region.nodes) or not known or known[-1] - known[0] >= len(known):
        raise LatteError(f"`{region.name}` is not consecutive layers of `{network.name}`")
    return known[0], known[-1]


def keeping_of(network: Network, *, fused: bool) -> tuple[NodeKeeps, ...]:
    """What each node keeps of its forward call, or whether its backward call asks for parameters all the same."""
    return tuple(_node_keeps(network, node, fused) for node in network.nodes)


def _node_keeps(network: Network, node: Node, fused: bool) -> NodeKeeps:
    what = _what_is_kept(network, node, saved_of(network, node, fused=fused))
    if what is Keeping.NOTHING:
        return NodeKeeps(what=what)
    count = node.layer.saved_count(trains=network.trains(node), flows=network.flows(node), fused=fused)
    return NodeKeeps(what=what, tensors=count)


def _what_is_kept(network: Network, node: Node, saved: Saved | None) -> Keeping:
    if saved is None:
        return Keeping.NOTHING
    if replace(saved, inputs=()) != Saved():
        return Keeping.RESULTS
    reads = saved.inputs or (node.layer.parameter_shapes and any(network.flows(node)))
    return Keeping.OPERANDS if reads else Keeping.NOTHING


def rerun_of(network: Network, region: Region, first: int, last: int, keeping: Sequence[NodeKeeps]) -> Rerun | None:
    """What runs again of the nodes from `first` to `last`; None where nothing of them is kept."""
    kept = [place for place in range(first, last + 1) if keeping[place].what is not Keeping.NOTHING]
    if not kept:
        return None
    trigger = kept[-1]
    own = network.nodes[first : last + 1]
    written = {node.output for node in own}
    read = dict.fromkeys(name for node in own for name in node.inputs if name not in written)
    return Rerun(
        region=region,
        first=first,
        last=last,
        again=range(first, trigger + (keeping[trigger].what is Keeping.RESULTS)),
        trigger=trigger,
        until=kept[0],
        arguments=tuple(read),
        tensors=sum(keeping[place].tensors for place in kept),
    )
