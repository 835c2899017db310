"""A network: a graph of layers with every size known."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TypeAlias

from latte_cli.errors import LatteError
from latte_cli.layers import INDEX_BYTES, Layer, MatMul, Optimizer, Phase, Shape, SoftmaxCrossEntropy, Transfer
from latte_cli.network.regions import Region
from latte_cli.operations import OPERATIONS
from latte_cli.optimizers import update_rule
from latte_cli.precisions import Layout

Value: TypeAlias = float | str | tuple[float, ...]

DETACHED = "detached"
"""The attribute of a node that no gradient passes."""

JOINED = "+"
"""What stands between the names of a module's tensors that are one weight of a layer, end to end."""

STATISTICS = (3, 4)
"""The places of a batch norm's running mean and variance among what it reads."""

ABSENT = "?"
"""What the names of tensors end in that an operator of ONNX wants and the module has not."""

LAID, COPIED = "laid", "copied"
"""The attributes of a view that is asked to lie in a layout, and of one that is a copy in any case."""


_NUMBER_BYTES = 4  # running statistics are in single precision, whatever the weights are


def part_named(name: str) -> tuple[str, tuple[slice | list[int], ...]]:
    """The stored tensor that a parameter's `name` says it is a part of, and what it has of each of its dimensions."""
    origin, _, taken = name.removesuffix("]").partition("[")
    return origin, tuple(map(_read_indices, taken.split(", "))) if taken else ()


_PATH = re.compile(r"\w+(\.\w+)*")


def _exported_path(name: str) -> str | None:
    """`layer1.0.conv1` of a node that torch's exporter calls `/layer1/layer1.0/conv1/Conv`."""
    path: list[str] = []
    for scope in name.split("/")[1:-1]:
        if path and scope.startswith(f"{path[-1]}."):
            path.pop()
        path.append(scope)
    found = ".".join(path)
    return found if name.startswith("/") and _PATH.fullmatch(found) else None


def _read_indices(text: str) -> slice | list[int]:
    if text.startswith("("):
        return [int(each) for each in text.strip("()").split()]
    return slice(*(int(each) if each else None for each in text.split(":")))


@dataclass(frozen=True, kw_only=True)
class Node:
    """A layer at its place in a network: it reads the activations `inputs` and writes the activation `output`.

    `parameters` are the model file's names for the layer's trained tensors, in the order of its `parameter_shapes`;
    `attributes` are values that change what a layer computes but not how long it takes (a norm's epsilon, where a
    slice starts, how a copy lies); `constants` are the constant tensors it reads besides, as (place among the
    operator's inputs, the file's name for it). What `inputs` has beyond those of the layer is read at no cost: numbers
    that say sizes, or, with `weights_given`, what stands in for the parameters of the layer that come after its own.
    `calls` are the calls of the module's parts that it lies in, from the outermost on: a part's path, with `@1` and so
    on behind it for further calls of the same part.
    """

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    output: str
    parameters: tuple[str, ...] = ()
    attributes: tuple[tuple[str, Value], ...] = ()
    constants: tuple[tuple[int, str], ...] = ()
    weights_given: bool = False
    calls: tuple[str, ...] = field(default=(), compare=False)

    @property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        """Shapes of what it trains itself, but for weights that are given."""
        shapes = self.layer.parameter_shapes
        return shapes[: len(self.parameters)] if self.weights_given else shapes

    @property
    def read(self) -> tuple[str, ...]:
        """The inputs that its layer reads."""
        return self.inputs[: len(self.layer.input_shapes)]

    @property
    def given(self) -> tuple[str, ...]:
        """The inputs that stand in for parameters of its layer."""
        return self.inputs[len(self.layer.input_shapes) :] if self.weights_given else ()

    @property
    def statistics(self) -> tuple[str, ...]:
        """The running statistics of a norm, if the file says them."""
        if not self.layer.buffer_bytes:
            return ()
        if self.weights_given:
            return tuple(self.inputs[place] for place in STATISTICS if place < len(self.inputs))
        return tuple(name for place, name in self.constants if place in STATISTICS)

    @property
    def untracked(self) -> bool:
        """Whether it is a norm that keeps no running statistics."""
        return bool(self.statistics) and all(each.removesuffix("/value").endswith(ABSENT) for each in self.statistics)

    @property
    def module(self) -> str | None:
        """The path of the module's part that it lies in; None where nothing tells.

        That is its innermost call, else what its parameters are called by (`conv1.weight`), else the name that torch's
        exporter gives it (`/layer1/layer1.0/conv1/Conv`).
        """
        if self.calls:
            return self.calls[-1].partition("@")[0]
        owners = {part_named(name)[0].rpartition(".")[0] for name in self.parameters}
        if len(owners) == 1 and _PATH.fullmatch(owner := owners.pop()):
            return owner
        return _exported_path(self.name)

    @property
    def detached(self) -> bool:
        """Whether no gradient passes it."""
        return any(name == DETACHED for name, _ in self.attributes)

    @property
    def layout(self) -> Layout | None:
        """The layout that its output is asked to lie in, so that what lies otherwise is copied; None for any."""
        return next((each for each in Layout if (LAID, each.value) in self.attributes), None)

    @property
    def copied(self) -> bool:
        """Whether it copies what it reads, however that lies."""
        return any(name == COPIED for name, _ in self.attributes)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A model: nodes in an order in which they can run, the activations it is given and those it returns.

    `inputs` are (name, shape) pairs, batch first; `constants` are those of `outputs` that depend on no input.
    `unknown` names the operators that were let pass unread, `unpriced` the work of weights in operators that no kind of
    layer describes; `notes` say what was assumed in reading; `frozen` are the parameters that are not trained, and
    `shared` says of how many numbers of a parameter other ones before it consist too. `bare` are parameters that no
    layer holds, with how many numbers each has, and `bare_shapes` their shapes; `buffers` are tensors that are kept but
    are no parameters, even where layers hold them, with their bytes. `wanted` are inputs whose gradient a step makes
    too. `checkpoints` are regions that the module itself checkpoints, and `sequences` the paths of its parts that are
    an `nn.Sequential`.
    """

    name: str
    inputs: tuple[tuple[str, Shape], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    sha256: str = ""
    unknown: tuple[str, ...] = field(default=())
    constants: tuple[tuple[str, Shape], ...] = ()
    notes: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()
    unpriced: tuple[str, ...] = ()
    shared: tuple[tuple[str, int], ...] = ()
    bare: tuple[tuple[str, int], ...] = ()
    bare_shapes: tuple[tuple[str, Shape], ...] = ()
    buffers: tuple[tuple[str, int], ...] = ()
    wanted: tuple[str, ...] = ()
    checkpoints: tuple[Region, ...] = ()
    sequences: frozenset[str] = frozenset()

    @property
    def batch_size(self) -> int:
        """The first dimension of the first input."""
        return self.inputs[0][1][0] if self.inputs and self.inputs[0][1] else 1

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in the order they run, repeats included."""
        return tuple(node.layer for node in self.nodes)

    @cached_property
    def parameters(self) -> int:
        """How many numbers its layers hold, frozen ones included; a tensor that several layers share counts once."""
        return sum(self.parameter_sizes.values())

    @cached_property
    def trained_parameters(self) -> int:
        """How many numbers it trains."""
        return sum(self.trained_sizes.values())

    @cached_property
    def trained_sizes(self) -> Mapping[str, int]:
        """The parameters that are trained, with how many numbers each has."""
        return {name: size for name, size in self.parameter_sizes.items() if name not in self.frozen}

    def parameter_names(self, node: Node) -> tuple[str, ...]:
        """The names of a node's parameters, invented where the file has none."""
        count = len(node.parameter_shapes)
        return (*node.parameters[:count], *(f"{node.name}.{at}" for at in range(len(node.parameters), count)))

    def trains(self, node: Node) -> bool:
        """Whether a parameter of the node is trained: its own, what replaces it, or one next to its inputs.

        In layers that compute the gradient of their weight in its own call (convolutions), only the weight counts: the
        gradient of a bias is a sum, which has no price.
        """
        if Phase.BACKWARD_FILTER in node.layer.phases:
            own, given = self.parameter_names(node), node.given
            return own[0] not in self.frozen if own else any(name in self.trained_activations for name in given[:1])
        return self._trains_itself(node) or any(name in self.trained_activations for name in node.given)

    def phases(self, node: Node) -> Iterator[Phase]:
        """The phases of a node in a training step; of a product of activations, one half of backward may do."""
        yield Phase.FORWARD
        if node.output not in self.trained_activations:
            return
        flows = self.flows(node)
        if isinstance(node.layer, MatMul) and sum(flows) == 1:
            yield Phase.BACKWARD_DATA if flows[0] else Phase.BACKWARD_FILTER
            return
        if Phase.BACKWARD in node.layer.phases:
            yield Phase.BACKWARD
            return
        if Phase.BACKWARD_DATA in node.layer.phases and any(flows):
            yield Phase.BACKWARD_DATA
        if self.trains(node):
            yield Phase.BACKWARD_FILTER

    def flows(self, node: Node) -> tuple[bool, ...]:
        """Which of the inputs that its layer reads take a gradient."""
        return tuple(name in self.trained_activations for name in node.read)

    def _trains_itself(self, node: Node) -> bool:
        beside = (name for _, name in node.constants if name in self._bare_names)
        return any(name not in self.frozen for name in (*self.parameter_names(node), *beside))

    @cached_property
    def _bare_names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.bare)

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each activation by name, as its readers say it where nothing that is known writes it."""
        made = {node.output: node.layer.output_shape for node in self.nodes}
        found = dict(self.inputs) | dict(self.constants) | made
        for node in self.nodes if self.unknown else ():
            for name, shape in zip(node.inputs, node.layer.input_shapes, strict=False):
                found.setdefault(name, shape)
        return found

    @cached_property
    def trained_activations(self) -> frozenset[str]:
        """The activations a gradient flows back to: those that depend on what is trained, and on a wanted input."""
        found = {name for name, _ in self.inputs if name in self.wanted}
        for node in self.nodes:
            if not node.detached and (self._trains_itself(node) or any(name in found for name in node.inputs)):
                found.add(node.output)
        return frozenset(found & self._reached) if any(node.detached for node in self.nodes) else frozenset(found)

    @cached_property
    def _reached(self) -> frozenset[str]:
        """The activations that a gradient of an output would flow back to, whatever they depend on."""
        found = set(self.outputs)
        for node in reversed(self.nodes):
            if node.output in found and not node.detached:
                found.update(node.inputs)
        return frozenset(found)

    @cached_property
    def scores(self) -> str:
        """The output that the loss is taken of: the last one that a gradient flows back to, else the last."""
        trained = (name for name in reversed(self.outputs) if name in self.trained_activations)
        return next(trained, self.outputs[-1])

    def loss(self) -> SoftmaxCrossEntropy:
        """The softmax cross-entropy over the scores: their last dimension, or the channels of a map.

        Raises LatteError if they are empty.
        """
        shape = self.shapes[self.scores] or (1,)
        classes = shape[1] if len(shape) > 3 else shape[-1]
        if not prod(shape):
            raise LatteError(f"`{self.scores}` holds no scores: its shape is {shape}", hint="use `--loss none`")
        return SoftmaxCrossEntropy(rows=prod(shape) // classes, classes=classes)

    def transfer(self) -> Transfer:
        """The copy of a batch of all inputs to a device with its own memory."""
        return Transfer(elements=sum(prod(shape) for _, shape in self.inputs))

    def optimizer(self, function: str) -> Optimizer:
        """The update of all trained parameters by `function`; raises LatteError for a network without any."""
        sizes = self.trained_sizes
        if not sizes:
            raise LatteError(f"`{self.name}` has no parameters to train", hint="use `--optimizer none`")
        shapes = tuple(self.trained_shapes.values()) if update_rule(function).factored else ()
        return Optimizer(function=function, tensors=len(sizes), elements=sum(sizes.values()), shapes=shapes)

    def updates(self, functions: Sequence[str]) -> Iterator[Optimizer]:
        """The updates by the optimizers, and the operations on all parameters, that `functions` name."""
        for function in functions:
            layer = self.operation(function) if function in OPERATIONS else self.optimizer(function)
            if layer is not None:
                yield layer

    def operation(self, function: str) -> Optimizer | None:
        """The operation `function` over all trained parameters, or over what an average of the model is made of.

        None where there is nothing to do it with.
        """
        sizes = self.trained_sizes
        if function == "ema":
            sizes = self.parameter_sizes
        elif function == "ema-buffers":
            sizes = self.buffer_numbers
        return Optimizer(function=function, tensors=len(sizes), elements=sum(sizes.values())) if sizes else None

    @cached_property
    def trained_shapes(self) -> Mapping[str, Shape]:
        """The shapes of the parameters that are trained; one that is partly another's is a vector of the rest."""
        shapes = dict(self.bare_shapes)
        for node in self.nodes:
            shapes |= zip(self.parameter_names(node), node.parameter_shapes, strict=True)
        known = ((name, size, shapes.get(name, (size,))) for name, size in self.trained_sizes.items())
        return {name: shape if prod(shape) == size else (size,) for name, size, shape in known}

    @property
    def buffer_numbers(self) -> Mapping[str, int]:
        """How many numbers each buffer has: of a norm its means, its variances and its count of batches."""
        kept = {name: size // _NUMBER_BYTES for name, size in self.buffers if size >= _NUMBER_BYTES}
        for node in self.nodes:
            if node.layer.buffer_bytes and not node.untracked:
                channels = (node.layer.buffer_bytes - INDEX_BYTES) // _NUMBER_BYTES // 2
                names = (*node.statistics, *(f"{node.name}.statistics.{at}" for at in range(2)))[:2]
                kept |= {names[0]: channels, names[1]: channels, f"{names[0]}.count": 1}
        return kept

    @property
    def buffer_bytes(self) -> int:
        """What the buffers hold, and the running statistics of norms that have some: those that several share once."""
        statistics = {
            node.statistics or (node.name,): node.layer.buffer_bytes for node in self.nodes if not node.untracked
        }
        return sum(size for _, size in self.buffers) + sum(statistics.values())

    @cached_property
    def parameter_sizes(self) -> Mapping[str, int]:
        """How many numbers each parameter has that no other one before it has."""
        shared, kept = dict(self.shared), dict(self.buffers)
        sizes = {
            name: max(0, prod(shape) - shared.get(name, 0))
            for node in self.nodes
            for name, shape in zip(self.parameter_names(node), node.parameter_shapes, strict=True)
        }
        own = {name: size for name, size in sizes.items() if size or name not in shared}
        return {name: size for name, size in (own | dict(self.bare)).items() if name not in kept}
