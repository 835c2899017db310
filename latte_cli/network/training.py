"""Networks as they are trained: norms put back that an export folded away, and parameters that are frozen."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Attention, Convolution, Dropout, Norm
from latte_cli.network.graph import Network, Node

_FEWEST = 4


def folded_norms(network: Network) -> int:
    """How many norms an export for inference may have folded into convolutions; 0 where nothing speaks for it.

    That is every convolution but those that write an output, where there are at least 4, all of them have a bias, and
    no norm and no dropout is left to show a graph made for training. Networks that never had norms, such as VGG
    exported without its dropout, look the same: it can be suspected, not known.
    """
    layers = network.layers
    if any(isinstance(layer, Norm | Dropout) for layer in layers):
        return 0
    convolutions = [layer for layer in layers if isinstance(layer, Convolution)]
    if len(convolutions) < _FEWEST or not all(layer.bias for layer in convolutions):
        return 0
    return sum(_may_be_folded(node, network) for node in network.nodes)


def _may_be_folded(node: Node, network: Network) -> bool:
    return isinstance(node.layer, Convolution) and node.layer.bias and node.output not in network.outputs


def with_norms(network: Network) -> Network:
    """`network` with a batch norm in training mode after each convolution that has a bias and no norm after it.

    The norm takes the place of the bias; its parameters are called `<convolution>.norm.weight` and `.bias`.
    """
    normed = {name for node in network.nodes if isinstance(node.layer, Norm) for name in node.inputs}
    nodes: list[Node] = []
    for node in network.nodes:
        restored = _may_be_folded(node, network) and node.output not in normed
        nodes += _norm_nodes(node) if restored else [node]
    return replace(network, nodes=tuple(nodes))


def _norm_nodes(node: Node) -> Iterator[Node]:
    assert isinstance(node.layer, Convolution)
    inner = f"{node.output}/norm"
    yield replace(node, layer=replace(node.layer, bias=False), output=inner, parameters=node.parameters[:1])
    yield Node(
        name=f"{node.name}.norm",
        layer=Norm(function="batch", shape=node.layer.output_shape),
        inputs=(inner,),
        output=node.output,
        parameters=(f"{node.name}.norm.weight", f"{node.name}.norm.bias"),
    )


def freeze_parameters(network: Network, patterns: Sequence[str]) -> Network:
    """`network` without training also the parameters whose name, or whose node's name, matches one of `patterns`.

    A pattern is one of the shell's (`layer1.*`, `*.bias`). Raises LatteError for one that matches nothing.
    """
    named = {name: node.name for node in network.nodes for name in network.parameter_names(node)}
    named |= {name: name for name, _ in network.bare}
    found: set[str] = set()
    for pattern in patterns:
        matching = {name for name, node in named.items() if _matches(pattern, (name, node))}
        if not matching:
            parents = {node.rpartition(".")[0] or node for node in named.values()}
            raise unknown("parameter or layer", pattern, [*named, *named.values(), *parents])
        found |= matching
    found |= network.frozen
    if found and found >= set(named):
        raise LatteError("all parameters are frozen", hint="leave something to train, or use `--optimizer none`")
    return with_trained_masks(replace(network, frozen=frozenset(found)))


def with_trained_masks(network: Network) -> Network:
    """`network` whose attention layers say whether their mask takes a gradient, on which torch's way depends."""
    trained = network.trained_activations
    nodes = (
        replace(node, layer=replace(node.layer, trained_mask=node.read[3] in trained))
        if isinstance(node.layer, Attention) and len(node.read) > 3
        else node
        for node in network.nodes
    )
    return replace(network, nodes=tuple(nodes))


def _matches(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for name in names)
