"""Networks as torch modules: what was read from a file, run and trained as a model written by hand would be."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from numpy.typing import NDArray
from torch import Tensor, nn

from latte_cli.errors import LatteError
from latte_cli.layers import Copy, Embedding, Recurrent, View
from latte_cli.network.graph import Network, Node
from latte_cli.network.module.filling import constants_of, fill
from latte_cli.network.module.layers import Compute, Function, layer_module
from latte_cli.optimizers import update_rule

__all__ = [
    "NetworkModule",
    "layer_module",
    "optimizer",
    "random_inputs",
    "random_targets",
    "scored",
    "training_step",
]

_Step: TypeAlias = tuple[Compute, tuple[int, ...], int, tuple[int, ...]]


class NetworkModule(nn.Module):
    """`network` as a module: the activations it is given in, its output out (a tuple where it has several).

    Weights are those of `weights`, arrays by the names that nodes have for their parameters and constants, else drawn
    from `seed` by Kaiming's rule; nodes that name the same parameters share them, and what the network keeps as it is
    is not trained. An activation is dropped after its last use, as in a model written by hand. Raises LatteError for a
    layer that cannot be run.
    """

    def __init__(self, network: Network, *, weights: Mapping[str, NDArray[Any]] | None = None, seed: int = 0) -> None:
        super().__init__()
        if network.constants or not network.nodes:
            raise LatteError(f"`{network.name}` returns what depends on no input", hint="there is nothing to run")
        self.network = network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            beside = {name for name, _ in network.bare if name not in network.frozen}
            self.layers = nn.ModuleList(_layer(node, weights, beside) for node in network.nodes)
            self.apply(_initialise)
        if weights is not None:
            for node, layer in zip(network.nodes, self.layers, strict=True):
                fill(node, layer, weights)
        _share_parameters(network.nodes, self.layers)
        _freeze_parameters(network, self.layers)
        slots = {name: slot for slot, name in enumerate(network.shapes)}
        self._spare = [None] * len(network.nodes)
        self._program = _program(network, self.layers, slots)
        self._results = [slots[name] for name in network.outputs]

    def forward(self, *inputs: Tensor, after: Callable[[int, Any], None] | None = None) -> Any:
        """The network's output; `after` hears each node's place and its result as soon as that is there."""
        slots: list[Any] = [*inputs, *self._spare]
        for at, (compute, sources, target, dead) in enumerate(self._program):
            slots[target] = compute(*[slots[source] for source in sources])
            if after:
                after(at, slots[target])
            for slot in dead:
                slots[slot] = None
        results = [slots[slot] for slot in self._results]
        return results[0] if len(results) == 1 else tuple(results)


def _layer(node: Node, weights: Mapping[str, NDArray[Any]] | None, trained: Collection[str]) -> nn.Module:
    """A node's module; of the constants that it reads those that are `trained` are parameters."""
    statistics = len(node.parameters) + len(node.given) > len(node.layer.parameter_shapes) and not node.untracked
    if node.weights_given and (statistics or isinstance(node.layer, Recurrent)):
        message = f"`{node.name}` computes with weights that another layer computes, or that are given"
        raise LatteError(f"{message}: a {node.layer.kind} layer cannot be run so", hint="`latte estimate` prices it")
    if weights is not None and "row_groups" in dict(node.attributes):
        message = f"`{node.name}` puts rows into groups by their numbers, which cannot be run here"
        raise LatteError(message, hint="`latte estimate` prices it")
    constants = constants_of(node, weights, trained) if weights is not None else {}
    layer = layer_module(node.layer, dict(node.attributes), constants, inputs=len(node.read))
    return _Given(layer, node) if len(node.inputs) > len(node.read) else layer


class _Given(nn.Module):
    """A layer that reads more than its own inputs: weights that were computed, or sizes, which it knows."""

    def __init__(self, layer: nn.Module, node: Node) -> None:
        super().__init__()
        given = [*layer.named_parameters()][len(node.parameters) :] if node.weights_given else []
        self.names = [name for name, _ in given]
        self.shapes = [parameter.shape for _, parameter in given]
        self.inputs, self.layer = len(node.read), layer
        for _, parameter in given:
            parameter.requires_grad_(False)

    def forward(self, *inputs: Tensor) -> Tensor:
        own, given = inputs[: self.inputs], inputs[self.inputs :]
        if not self.names:
            return self.layer(*own)
        weights = {name: one.reshape(shape) for name, one, shape in zip(self.names, given, self.shapes, strict=False)}
        return torch.func.functional_call(self.layer, weights, own)


def _initialise(module: nn.Module) -> None:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)


def _named(node: Node, layer: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """A module's parameters with the network's names for them, of which a recurrent layer's are parts."""
    for at, (path, parameter) in enumerate(layer.named_parameters()):
        if isinstance(node.layer, Recurrent):
            at = 2 if ".bias" in path else int(".weight_hh" in path)
        if at < len(node.parameters):
            yield node.parameters[at], path, parameter


def _share_parameters(nodes: Sequence[Node], layers: nn.ModuleList) -> None:
    shared: dict[tuple[str, str], tuple[nn.Parameter, bool]] = {}
    for at, (node, layer) in enumerate(zip(nodes, layers, strict=True)):
        turned = bool(dict(node.attributes).get("stored_by_inputs"))
        for name, path, parameter in list(_named(node, layer)):
            key = name, path if isinstance(node.layer, Recurrent) else ""
            first, first_turned = shared.setdefault(key, (parameter, turned))
            if isinstance(layer, nn.Linear) and first.dim() > 1 and turned is not first_turned:
                layers[at] = _Turned(first, layer.bias)
            elif first.shape == parameter.shape:
                owner, _, attribute = path.rpartition(".")
                setattr(layer.get_submodule(owner), attribute, first)


class _Turned(nn.Module):
    """A linear layer whose weight another layer has, the other way round."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)


def _freeze_parameters(network: Network, layers: Iterable[nn.Module]) -> None:
    """Let nothing train what the network keeps as it is: frozen parameters, and buffers that layers compute with."""
    for node, layer in zip(network.nodes, layers, strict=True):
        for name, _, parameter in _named(node, layer):
            if name in network.frozen:
                parameter.requires_grad_(False)


def _program(network: Network, layers: Iterable[nn.Module], slots: Mapping[str, int]) -> tuple[_Step, ...]:
    """What to call, the slots it reads, the one it writes, and those that nobody reads any more."""
    wanted = set(network.outputs)
    steps: list[_Step] = []
    for node, layer in reversed(list(zip(network.nodes, layers, strict=True))):
        dead = {*node.inputs, node.output} - wanted
        wanted |= dead
        compute = layer.compute if isinstance(layer, Function) else layer
        compute = partial(_detached, compute) if node.detached else compute
        sources = tuple(slots[name] for name in node.inputs)
        steps.append((compute, sources, slots[node.output], tuple(slots[name] for name in dead)))
    return tuple(reversed(steps))


def _detached(compute: Compute, *inputs: Tensor) -> Tensor:
    """The result of a layer that no gradient passes."""
    return compute(*inputs).detach()


def random_inputs(network: Network, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Normally distributed activations of the shapes that `network` is given; indices where it looks them up."""
    generator, entries = torch.Generator().manual_seed(seed), _entries(network)
    return tuple(
        torch.randint(entries[name], shape, generator=generator)
        if name in entries
        else torch.randn(shape, generator=generator)
        for name, shape in network.inputs
    )


def _entries(network: Network) -> dict[str, int]:
    """The inputs that are indices of embeddings, with how many entries the smallest of their tables has."""
    found: dict[str, int] = {}
    for node in reversed(network.nodes):
        if isinstance(node.layer, Embedding):
            found[node.inputs[0]] = min(node.layer.entries, found.get(node.inputs[0], node.layer.entries))
        elif isinstance(node.layer, View | Copy) and node.output in found:
            found[node.inputs[0]] = min(found[node.output], found.get(node.inputs[0], found[node.output]))
    return found


def random_targets(network: Network, *, seed: int = 0) -> Tensor:
    """A class for each row of the scores, which is what `training_step` compares it with."""
    loss, generator = network.loss(), torch.Generator().manual_seed(seed)
    return torch.randint(loss.classes, (loss.rows,), generator=generator)


def optimizer(name: str, parameters: Iterable[Tensor]) -> torch.optim.Optimizer | None:
    """The optimizer `name` with the arguments of its rule, None for `none`; raises LatteError for an unknown one."""
    rule = update_rule(name)
    if not rule.torch_class:
        return None
    made: torch.optim.Optimizer = getattr(torch.optim, rule.torch_class)(parameters, **rule.arguments)
    return made


def training_step(
    module: nn.Module, inputs: Sequence[Tensor], targets: Tensor, optimizer: torch.optim.Optimizer | None
) -> Tensor:
    """One step as users write it: clear the gradients, forward, cross-entropy, backward, update; returns the loss."""
    (optimizer or module).zero_grad(set_to_none=True)
    result = module(*inputs)  # held until the step ends, as a training loop does
    loss = scored(module, result, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    if optimizer:
        optimizer.step()
    return loss.detach()


def scored(module: nn.Module, result: Tensor | tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """The cross-entropy of the scores among what `module` returned."""
    scores = result[_scores_at(module)] if isinstance(result, tuple) else result
    if scores.dim() > 3:  # a map, whose channels are the classes
        return F.cross_entropy(scores, targets.reshape(scores.shape[0], *scores.shape[2:]))
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), targets)


def _scores_at(module: nn.Module) -> int:
    """The place of the scores among a network's outputs; for another module the last."""
    network = getattr(module, "network", None)
    return network.outputs.index(network.scores) if isinstance(network, Network) else -1
