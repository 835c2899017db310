"""Depth: the residual blocks of a network that can be left out, and the network without some of them."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Elementwise, Shape
from latte_cli.network.graph import Network, Node


@dataclass(frozen=True, kw_only=True)
class Block:
    """A branch that is added to what it began with: without its `nodes`, `output` is `skip`.

    It is called after the node that adds. Blocks of one `shape` follow each other in a stage.
    """

    name: str
    nodes: frozenset[str]
    skip: str
    output: str
    shape: Shape


def blocks(network: Network) -> tuple[Block, ...]:
    """The blocks that can be left out, in order: nobody else reads what is computed in one."""
    makers = {node.output: node for node in network.nodes}
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for node in network.nodes:
        for name in node.inputs:
            readers[name].add(node.name)
    return tuple(
        block
        for node in network.nodes
        if node.output not in network.outputs
        for block in list(_blocks_ending_in(node, makers, readers, frozenset(network.outputs)))[:1]
    )


def _blocks_ending_in(
    node: Node, makers: Mapping[str, Node], readers: Mapping[str, set[str]], outputs: Collection[str]
) -> Iterator[Block]:
    """The block that ends in `node`, if it adds one to what another began with."""
    layer = node.layer
    if not isinstance(layer, Elementwise) or layer.operation != "add" or len(set(layer.shapes)) > 1:
        return
    for skip, branch in (node.inputs, node.inputs[::-1]) if len(node.inputs) == len(("skip", "branch")) else ():
        inside = _nodes_between(skip, branch, makers)
        names = {each.name for each in inside or ()}
        closed = all(
            readers[each.output] <= {*names, node.name} and each.output not in outputs for each in inside or ()
        )
        if inside and closed:
            shape = layer.output_shape
            yield Block(
                name=node.name, nodes=frozenset({*names, node.name}), skip=skip, output=node.output, shape=shape
            )


def _nodes_between(skip: str, branch: str, makers: Mapping[str, Node]) -> list[Node] | None:
    """The nodes that lead from `skip` to `branch`, None where something else leads there too, or it does not."""
    found: dict[str, Node] = {}
    wanted = [branch]
    while wanted:
        name = wanted.pop()
        if name == skip or name in found:
            continue
        if name not in makers:
            return None
        found[name] = makers[name]
        wanted += makers[name].inputs
    return list(found.values()) if any(skip in node.inputs for node in found.values()) else None


def dropped_blocks(network: Network, depth: float) -> tuple[str, ...]:
    """The names of the blocks that the share `depth` leaves out: the last ones of each stage (0 < depth <= 1).

    Raises LatteError for another share, and for a network without blocks.
    """
    if not 0 < depth <= 1:
        raise LatteError(f"a sub-model cannot have the depth {depth:g}", hint="a depth is over 0 and at most 1")
    stages: defaultdict[Shape, list[str]] = defaultdict(list)
    for block in blocks(network) if depth < 1 else ():
        stages[block.shape].append(block.name)
    if depth < 1 and not stages:
        hint = "leave `--depths` out: depth is for residual networks"
        raise LatteError(f"`{network.name}` has no residual blocks that can be left out", hint=hint)
    return tuple(name for names in stages.values() for name in names[ceil(round(depth * len(names), 6)) :])


def without(network: Network, names: Collection[str]) -> Network:
    """`network` without the blocks called `names`; raises LatteError for one that it does not have."""
    if not names:
        return network
    known = {block.name: block for block in blocks(network)}
    for name in names:
        if name not in known:
            raise unknown("residual block", name, known)
    gone = {node for name in names for node in known[name].nodes}
    instead = {known[name].output: known[name].skip for name in names}

    def source(name: str) -> str:
        while name in instead:
            name = instead[name]
        return name

    nodes = tuple(
        replace(node, inputs=tuple(map(source, node.inputs))) for node in network.nodes if node.name not in gone
    )
    return replace(network, nodes=nodes, sha256="")
