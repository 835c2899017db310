"""Training: what a device does with its sub-model in a round, and how good the whole network is after it."""

import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.sgd import sgd

from latte_cli.errors import LatteError
from latte_cli.federated.aggregation import Arrays
from latte_cli.federated.data import Examples
from latte_cli.federated.recipe import GoOn, NetworkScore, Recipe
from latte_cli.layers import Convolution, Linear
from latte_cli.network import Network
from latte_cli.network.module import NetworkModule

_IGNORED = -100  # torch's default `ignore_index`
"""The target of an example that is there to fill up a batch."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The `arrays` after `steps`, the last epoch's mean `loss`, and `examples`, each as often as it was trained on.

    A step took `step_s` seconds on average, with the standard deviation `spread_s`.
    """

    arrays: dict[str, NDArray[Any]]
    loss: float
    steps: int
    examples: int
    step_s: float = 0.0
    spread_s: float = 0.0


def initial(network: Network, *, seed: int, weights: Arrays | None = None) -> dict[str, NDArray[Any]]:
    """The parameters that training begins with: those of `weights`, else drawn from `seed` by Kaiming's rule."""
    return _parameters_of(network, NetworkModule(network, weights=weights, seed=seed))


def train_network(
    network: Network,
    arrays: Arrays,
    examples: Examples,
    recipe: Recipe,
    *,
    seed: int,
    whole: Network | None = None,
    go_on: GoOn = lambda steps: True,
) -> Trained:
    """Train `network`, a sub-model of `whole` (default: all of it), from `arrays` on `examples`.

    It takes one step at least, and others until all epochs are done or `go_on` says no. Steps take the network's batch
    size. The last batch of an epoch is filled up with examples from its start: those
    count for batch norms, and not for the loss. The same seed gives the same result. Raises LatteError for examples
    that the network cannot take, layers that cannot be trained so, and where training diverges.
    """
    _check_examples(network, examples)
    module = _module_with(network, arrays)
    if recipe.scaled and whole is not None:
        _scale(network, module, whole)
    descent = Descent(recipe, module.parameters())
    absent = torch.from_numpy(~np.isin(np.arange(_classes(network)), examples.labels)) if recipe.masked else None
    order, work = np.random.default_rng(seed), TrainingWork(recipe, go_on)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        for _ in work.epochs():
            for images, targets, count in batches_of(examples, network.batch_size, order.permutation(len(examples))):
                if work.is_over():
                    break
                descent.clear()
                loss = batch_loss(scores_in(network, module(images)), targets, absent)
                loss.backward()  # type: ignore[no-untyped-call]
                descent.step()
                work.count(count, float(loss.detach()))
    found = _parameters_of(network, module)
    check_finite(found, recipe)
    step_s, spread_s = work.step_time_s
    return Trained(
        arrays=found, loss=work.loss, steps=work.steps, examples=work.examples, step_s=step_s, spread_s=spread_s
    )


class TrainingWork:
    """What a device has done of its epochs: the `steps`, the `examples` of them, and the last epoch's mean `loss`."""

    def __init__(self, recipe: Recipe, go_on: GoOn, clock: Callable[[], float] = time.perf_counter) -> None:
        self._recipe, self._go_on, self._clock = recipe, go_on, clock
        self.steps = self.examples = 0
        self._begun_s, self._times_s = 0.0, array("d")
        self._losses, self._counted, self._begins = 0.0, 0, False

    @property
    def loss(self) -> float:
        """The mean over the examples of the last epoch."""
        return self._losses / self._counted

    def epochs(self) -> Iterator[int]:
        """The epochs, until the work is over."""
        for epoch in range(self._recipe.epochs):
            if self.is_over():
                return
            self._begins = True
            yield epoch

    def is_over(self) -> bool:
        """Whether no other step is taken; there is one at least, before which the clock is asked all the same."""
        over = not self._go_on(self.steps) and self.steps > 0
        if not self.steps:
            self._begun_s = self._clock()
        return over

    @property
    def step_time_s(self) -> tuple[float, float]:
        """The mean and the standard deviation of a step, in seconds; the first one, which is slower, counts alone only.

        A step lasts from the end of the one before.
        """
        times_s = self._times_s[1:] or self._times_s
        return fmean(times_s), pstdev(times_s)

    def count(self, examples: int, loss: float) -> None:
        """Count a step on so many examples, with their mean loss."""
        if self._begins:
            self._losses, self._counted, self._begins = 0.0, 0, False
        now_s = self._clock()
        self._times_s.append(now_s - self._begun_s)
        self._begun_s = now_s
        self.steps += 1
        self.examples += examples
        self._losses += examples * loss
        self._counted += examples


def check_finite(arrays: Arrays, recipe: Recipe) -> None:
    """Raise LatteError where training has diverged, so that `arrays` hold what is no number."""
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise LatteError(f"training diverged after {recipe.epochs} epochs", hint="take a smaller learning rate")


class Descent:
    """SGD with momentum, weight decay and the recipe's proximal term, by torch's functional form.

    An optimizer of torch imports its compiler when it is made, which takes 2 s; Flower starts a process a message.
    """

    def __init__(self, recipe: Recipe, parameters: Iterable[Tensor]) -> None:
        self._recipe, self._parameters = recipe, tuple(parameters)
        self._momenta: list[Tensor | None] = [None] * len(self._parameters)
        self._first = [parameter.detach().clone() for parameter in self._parameters] if recipe.proximal else []

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update each parameter that has a gradient."""
        which = [at for at, parameter in enumerate(self._parameters) if parameter.grad is not None]
        parameters, momenta = [self._parameters[at] for at in which], [self._momenta[at] for at in which]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self._recipe.proximal:
            for at, parameter, gradient in zip(which, parameters, gradients, strict=True):
                gradient.add_(parameter - self._first[at], alpha=self._recipe.proximal)  # the gradient of the term
        sgd(
            parameters,
            gradients,
            momenta,
            lr=self._recipe.learning_rate,
            momentum=self._recipe.momentum,
            weight_decay=self._recipe.weight_decay,
            dampening=0,
            nesterov=False,
            maximize=False,
        )
        for at, momentum in zip(which, momenta, strict=True):
            self._momenta[at] = momentum


_Batch: TypeAlias = tuple[Tensor, Tensor, int]


def evaluate_network(network: Network, arrays: Arrays, examples: Examples, *, statistics: Examples) -> NetworkScore:
    """How good `network` is on `examples` with the parameters `arrays`.

    The running statistics of batch norms, which devices do not send, are the means over the batches of `statistics`.
    Raises LatteError as `train_network` does.
    """
    for each in (examples, statistics):
        _check_examples(network, each)
    module = _module_with(network, arrays).eval()
    loss, guesses = 0.0, list[NDArray[np.int64]]()
    with torch.no_grad():
        _estimate_statistics(network, module, statistics)
        for images, targets, count in batches_of(examples, network.batch_size, np.arange(len(examples))):
            scores = scores_in(network, module(images))
            guesses.append(scores.argmax(1)[:count].numpy())
            loss += count * float(batch_loss(scores, targets))
    right = np.concatenate(guesses) == examples.labels
    by_class = {label: float(right[examples.labels == label].mean()) for label in np.unique(examples.labels).tolist()}
    return NetworkScore(accuracy=float(right.mean()), loss=loss / len(examples), by_class=by_class)


def batches_of(examples: Examples, size: int, order: NDArray[np.int64]) -> Iterator[_Batch]:
    """Images and targets of each batch, and how many of its examples count."""
    for start in range(0, len(order), size):
        count = min(size, len(order) - start)
        chosen = order[start : start + size]
        if count < size:
            chosen = np.concatenate([chosen, np.resize(order, size - count)])
        targets = examples.labels[chosen]
        targets[count:] = _IGNORED
        yield torch.from_numpy(examples.images[chosen]), torch.from_numpy(targets), count


def batch_loss(scores: Tensor, targets: Tensor, absent: Tensor | None = None) -> Tensor:
    """The mean loss of the examples that count; the scores of classes that are `absent` are taken for 0."""
    if absent is not None:
        scores = scores.masked_fill(absent, 0.0)
    return F.cross_entropy(scores, targets, ignore_index=_IGNORED)


def scores_in(network: Network, result: Any) -> Tensor:
    """The scores among what a module of the network returned."""
    found: Tensor = result[network.outputs.index(network.scores)] if isinstance(result, tuple) else result
    return found


def _classes(network: Network) -> int:
    return network.shapes[network.scores][-1]


def _check_examples(network: Network, examples: Examples) -> None:
    if not len(examples):
        raise LatteError("there are no examples", hint="a device needs at least one")
    (_, shape), *others = network.inputs
    if others or len(network.shapes[network.scores]) != 2:
        raise LatteError(f"`{network.name}` does not classify single inputs", hint="only such networks can be trained")
    if examples.images.shape[1:] != shape[1:]:
        raise LatteError(
            f"the examples have the shape {examples.images.shape[1:]}", hint=f"`{network.name}` takes {shape[1:]}"
        )
    if examples.labels.min() < 0 or examples.labels.max() >= _classes(network):
        raise LatteError(
            f"there are labels from {examples.labels.min()} to {examples.labels.max()}",
            hint=f"`{network.name}` tells {_classes(network)} classes apart, from 0",
        )


def _module_with(network: Network, arrays: Arrays) -> NetworkModule:
    """The network as a module with these parameters."""
    module = NetworkModule(network)
    with torch.no_grad():
        for name, parameter in _parameters(network, module).items():
            if arrays[name].shape != tuple(parameter.shape):
                raise LatteError(
                    f"the parameter `{name}` has the shape {arrays[name].shape}",
                    hint=f"the sub-model's is {tuple(parameter.shape)}",
                )
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(arrays[name])))
    return module


def _parameters_of(network: Network, module: NetworkModule) -> dict[str, NDArray[Any]]:
    return {name: parameter.detach().numpy().copy() for name, parameter in _parameters(network, module).items()}


def _parameters(network: Network, module: NetworkModule) -> dict[str, nn.Parameter]:
    """The module's parameters by the network's names; raises LatteError where a layer holds others."""
    found: dict[str, nn.Parameter] = {}
    for node, layer in zip(network.nodes, module.layers, strict=True):
        own = list(layer.parameters())
        own = own[: len(node.parameter_shapes)] if node.weights_given else own
        if [tuple(each.shape) for each in own] != list(node.parameter_shapes):
            raise LatteError(
                f"`{node.name}` ({node.layer.kind}) cannot be trained in a federation yet",
                hint="convolutions, linear layers and norms can",
            )
        found |= dict(zip(network.parameter_names(node), own, strict=True))
    return found


def _scale(network: Network, module: NetworkModule, whole: Network) -> None:
    """Divide the outputs of layers that make fewer channels than in `whole` by the share they kept."""
    before = {node.name: node.layer for node in whole.nodes}
    for node, layer in zip(network.nodes, module.layers, strict=True):
        if isinstance(node.layer, Convolution | Linear):
            axis = node.layer.channel_axis
            share = node.layer.output_shape[axis] / before[node.name].output_shape[axis]
            if share < 1:
                layer.register_forward_hook(_divided_by(share))


def _divided_by(share: float) -> Any:
    return lambda module, inputs, output: output / share


def _estimate_statistics(network: Network, module: NetworkModule, examples: Examples) -> None:
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for images, _, count in batches_of(examples, network.batch_size, np.arange(len(examples))):
        if count == network.batch_size or len(examples) < network.batch_size:
            module(images)
    for norm in norms:
        norm.eval()
