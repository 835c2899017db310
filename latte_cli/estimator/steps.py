"""A training step: the calls that a network, its loss and its optimizer make."""

from collections.abc import Iterator
from dataclasses import dataclass

from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator.checkpoints import Rerun, reruns
from latte_cli.estimator.rest import Rest
from latte_cli.layers import Checkpoint, Elementwise, Layer, Phase, Reduce
from latte_cli.lookup import Pair
from latte_cli.network import Network
from latte_cli.network.regions import Region
from latte_cli.operations import OPERATIONS
from latte_cli.optimizers import OPTIMIZERS
from latte_cli.waits import Waits

LOSSES = ("cross-entropy", "mse", "none")
"""What the scores may be compared by; the mean squared error as a difference and a mean."""

LOSS, UPDATE, ACCUMULATION = "(loss)", "(update)", "(accumulation)"
CLIP, EMA, SCALER, ZERO = "(clip norm)", "(ema)", "(grad scaler)", "(zero grad)"
BESIDE = (LOSS, ACCUMULATION, SCALER, CLIP, UPDATE, EMA, ZERO)
"""The names of what a step does besides the network's nodes and the calls of `torch.utils.checkpoint`."""


def checkpoint_name(region: Region) -> str:
    """The name of the call of `torch.utils.checkpoint` for a region."""
    return f"(checkpoint {region.name})"


class Untrainable(LatteError):
    """A step that torch refuses to make at these sizes."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a training step is made of besides the network; `accumulate` passes are made for one update.

    On a GPU a step may be captured as a CUDA graph, `cuda_graph`, which the host launches at once. `rest` is what the
    training loop does beside all that. `checkpoints` are regions whose activations are not kept but computed again in
    the backward pass. `replicated` says that DistributedDataParallel trains, whose buckets hold each gradient
    once more.
    """

    optimizer: str = "sgd"
    loss: str = "cross-entropy"
    accumulate: int = 1
    cuda_graph: bool = False
    rest: Rest = Rest()
    checkpoints: tuple[Region, ...] = ()
    replicated: bool = False

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            message = f"a step cannot have {self.accumulate} batches"
            raise LatteError(message, hint="`accumulate` is at least 1", exit_code=ExitCode.USAGE)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A call in a training step, made `count` times: `phase` of the node called `name`.

    `waits` says when the host of a device that queues calls waits for it.
    `again` says that it is made in the backward pass, for a region that is checkpointed.
    """

    name: str
    layer: Layer
    phase: Phase
    count: int = 1
    waits: Waits = Waits.NEVER
    again: bool = False

    @property
    def pair(self) -> Pair:
        """What decides its time."""
        return self.layer.measured_as(self.phase)


def step_calls(network: Network, step: Step, *, fused: bool = False) -> Iterator[Work]:
    """The calls of one training step as autograd makes them: no gradient for what depends on no trained parameter.

    `fused` says that it runs on a GPU, which computes in one call what a CPU computes in several. Raises LatteError
    where there are no layers, and where there is an optimizer but nothing to train, and Untrainable for a step that
    torch refuses.
    """
    if not network.nodes:
        raise LatteError(f"`{network.name}` holds no layers that depend on its inputs", hint="is it the right file?")
    _check_trainable(network)
    count, trained = step.accumulate, network.trained_activations
    backward = network.outputs and network.scores in trained
    again = reruns(network, step.checkpoints, fused=fused) if backward else ()
    starting, triggered = {one.first: one for one in again}, {one.trigger: one for one in again}
    for place, node in enumerate(network.nodes):
        if place in starting:
            yield _checkpoint_call(starting[place], Phase.FORWARD, count)
        for phase in network.phases(node):
            yield Work(name=node.name, layer=node.layer, phase=phase, count=count)
        if place in triggered:
            yield from _calls_again(network, triggered[place], count)
    for layer in loss_layers(network, step.loss):
        for phase in (Phase.FORWARD, Phase.BACKWARD) if backward else (Phase.FORWARD,):
            yield Work(name=LOSS, layer=layer, phase=phase, count=count)
    added = step.accumulate - (not step.rest.keeps_gradients)  # passes whose gradients are added to some
    if added and network.trained_parameters:
        shape = (network.trained_parameters,)
        addition = Elementwise(operation="add", shapes=(shape, shape))
        yield Work(name=ACCUMULATION, layer=addition, phase=Phase.FORWARD, count=added)
    if step.optimizer != "none":
        yield from _update_calls(network, step)


def _check_trainable(network: Network) -> None:
    for node in network.nodes:
        if why := node.layer.untrainable:
            message = f"torch refuses to train `{node.name}` with inputs of {node.layer.output_shape}: {why}"
            raise Untrainable(message, hint="a larger `--batch-size`, larger inputs, or another norm there")


def _checkpoint_call(rerun: Rerun, phase: Phase, count: int) -> Work:
    layer = Checkpoint(tensors=rerun.tensors)
    return Work(name=checkpoint_name(rerun.region), layer=layer, phase=phase, count=count)


def _calls_again(network: Network, rerun: Rerun, count: int) -> Iterator[Work]:
    """What a region runs again, from its end to its start as all that runs backward, and the call that does so."""
    for node in (network.nodes[place] for place in reversed(rerun.again)):
        yield Work(name=node.name, layer=node.layer, phase=Phase.FORWARD, count=count, again=True)
    yield _checkpoint_call(rerun, Phase.BACKWARD, count)


def _update_calls(network: Network, step: Step) -> Iterator[Work]:
    """What is done with the gradients, in order; where nothing else unscales them, the update has to wait for that."""
    rest, rule = step.rest, OPTIMIZERS[step.optimizer]
    if rest.grad_scaler:
        yield from _operation(network, SCALER, "grad-scaler")
    if rest.clip_norm:
        yield from _operation(network, CLIP, "clip-norm")
    scaled = rest.grad_scaler and not rule.arguments.get("fused")  # a fused update looks for inf by itself
    waits = Waits.BEFORE if scaled and rule.waits is Waits.NEVER else rule.waits
    yield Work(name=UPDATE, layer=network.optimizer(step.optimizer), phase=Phase.UPDATE, waits=waits)
    if rest.ema:
        yield from _operation(network, EMA, "ema")
        yield from _operation(network, EMA, "ema-buffers")
    if rest.keeps_gradients:
        yield from _operation(network, ZERO, "zero-grad-foreach" if rule.together else "zero-grad")


def _operation(network: Network, name: str, function: str) -> Iterator[Work]:
    layer = network.operation(function)
    if layer is not None:
        yield Work(name=name, layer=layer, phase=Phase.UPDATE, waits=OPERATIONS[function].waits)


def loss_layers(network: Network, loss: str) -> tuple[Layer, ...]:
    """What compares the scores with their targets."""
    if loss == "none" or not network.outputs:
        return ()
    if loss == "cross-entropy":
        return (network.loss(),)
    shape = network.shapes[network.scores]
    difference = Elementwise(operation="subtract", shapes=(shape, shape))
    return difference, Reduce(shape=shape, operation="mean", axes=tuple(range(len(shape))))
