"""Ordered dropout (FjORD, Horváth et al., 2021): each step trains a nested part of a device's sub-model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latte_cli.federated.aggregation import Arrays, ParameterIndices
from latte_cli.federated.data import Examples
from latte_cli.federated.recipe import GoOn, Recipe
from latte_cli.federated.training import Descent, Trained, TrainingWork, batch_loss, batches_of, check_finite, scores_in
from latte_cli.network import Network
from latte_cli.network.module import NetworkModule


@dataclass(frozen=True, kw_only=True)
class NestedPart:
    """A nested part: its `network`, where its parameters lie in the `whole` network's, and the module that runs it."""

    network: Network
    indices: ParameterIndices
    module: NetworkModule

    @staticmethod
    def of(network: Network, indices: ParameterIndices) -> "NestedPart":
        """The part, with a module whose own parameters are never used."""
        return NestedPart(network=network, indices=indices, module=NetworkModule(network))


def train_parts(
    parts: Sequence[NestedPart],
    arrays: Arrays,
    examples: Examples,
    recipe: Recipe,
    *,
    seed: int,
    go_on: GoOn = lambda steps: True,
) -> Trained:
    """Train `arrays`, the parameters of the largest of `parts`; each step trains one of them, drawn uniformly.

    It takes steps as `train_network` does. Momentum goes on in what a step leaves out. The same seed gives the same
    result. Raises LatteError where training diverges.
    """
    largest = max(parts, key=lambda part: part.network.parameters)
    values = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}
    chosen = [_named_blocks(part, largest.indices) for part in parts]
    descent = Descent(recipe, values.values())
    order, work = np.random.default_rng(seed), TrainingWork(recipe, go_on)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        for _ in work.epochs():
            batches = batches_of(examples, largest.network.batch_size, order.permutation(len(examples)))
            for images, targets, count in batches:
                if work.is_over():
                    break
                at = int(order.integers(len(parts)))
                cut = {own: values[name][where] for own, (name, where) in chosen[at].items()}
                descent.clear()
                result = torch.func.functional_call(parts[at].module, cut, (images,))
                found = batch_loss(scores_in(parts[at].network, result), targets)
                found.backward()  # type: ignore[no-untyped-call]
                descent.step()
                work.count(count, float(found.detach()))
    arrays = {name: value.detach().numpy().copy() for name, value in values.items()}
    check_finite(arrays, recipe)
    return Trained(arrays=arrays, loss=work.loss, steps=work.steps, examples=work.examples)


def _named_blocks(part: NestedPart, outer: ParameterIndices) -> dict[str, tuple[str, Any]]:
    """For each parameter of the part's module, the network's name of it and where it lies in the largest part's."""
    names = {id(parameter): name for name, parameter in part.module.named_parameters()}
    found = {}
    for node, layer in zip(part.network.nodes, part.module.layers, strict=True):
        for name, parameter in zip(part.network.parameter_names(node), layer.parameters(), strict=True):
            found[names[id(parameter)]] = (name, _block(part.indices[name], outer[name]))
    return found


def _block(inner: tuple[NDArray[np.int64], ...], outer: tuple[NDArray[np.int64], ...]) -> Any:
    """The first numbers of each dimension as slices; else lists of them."""
    indices = [np.searchsorted(whole, part) for part, whole in zip(inner, outer, strict=True)]
    if all(len(each) == each[-1] + 1 for each in indices):
        return tuple(slice(0, len(each)) for each in indices)
    return tuple(torch.from_numpy(each) for each in np.ix_(*indices))
