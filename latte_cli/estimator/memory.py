"""The memory of a training step: what is live at each call, as autograd and torch's allocator keep it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

from latte_cli.backends.host import LARGE_BLOCK_BYTES
from latte_cli.estimator.steps import LOSS, UPDATE, Step
from latte_cli.estimator.storages import Storages
from latte_cli.estimator.strides import Strides, contiguous_strides
from latte_cli.layers import INDEX_BYTES, Attention, Convolution, Copy, Phase, Stored
from latte_cli.network import Network, Node
from latte_cli.optimizers import update_rule
from latte_cli.precisions import Precision

RETURNED_BYTES = 2 * LARGE_BLOCK_BYTES  # mallopt(3): M_TRIM_THRESHOLD follows M_MMAP_THRESHOLD, at twice its value
"""How much may be free at the top of glibc's heap."""

CallPosition: TypeAlias = tuple[str, Phase]
"""A node's name, or UPDATE or LOSS, and a phase."""

Observer: TypeAlias = Callable[[Mapping[str, int]], None]
"""Hears at each moment which blocks a step holds besides what it is given and what lasts: bytes by name."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The live bytes while one call runs; `temporary` are gradients of activations, workspace and the like."""

    name: str
    phase: Phase
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    temporary_bytes: int

    @property
    def live_bytes(self) -> int:
        """All of them together."""
        held = self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes
        return held + self.activations_bytes + self.temporary_bytes


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a step holds, call by call, with the optimizer's states in place as from the second step on.

    `whole` are the calls whose moment has all that they hold, so that no workspace comes on top.
    """

    timeline: tuple[Moment, ...]
    whole: frozenset[CallPosition] = frozenset()

    @property
    def peak(self) -> Moment:
        """The moment with the most live bytes."""
        return max(self.timeline, key=lambda moment: moment.live_bytes)

    def with_workspaces(self, workspaces: Mapping[CallPosition, int]) -> "Memory":
        """The same step with the workspace bytes that are known of its calls; those of one moment come one by one."""
        most: dict[CallPosition, int] = {}
        for (name, phase), needed_bytes in workspaces.items():
            position = (name, moment_of(phase))
            most[position] = max(needed_bytes, most.get(position, 0))
        timeline = (
            replace(moment, temporary_bytes=moment.temporary_bytes + extra) if extra else moment
            for moment in self.timeline
            for position in ((moment.name, moment.phase),)
            for extra in (0 if position in self.whole else most.get(position, 0),)
        )
        return replace(self, timeline=tuple(timeline))

    def live_bytes(self) -> dict[CallPosition, int]:
        """What is live at each call, the most if a place comes again."""
        live: dict[CallPosition, int] = {}
        for moment in self.timeline:
            position = (moment.name, moment.phase)
            live[position] = max(moment.live_bytes, live.get(position, 0))
        return live


def returned_bytes(network: Network, timeline: Iterable[Moment], precision: Precision) -> int:
    """The gradients that a step frees at its end above all that its forward pass held; 0 for at most RETURNED_BYTES.

    glibc gives what is free at the top of its heap back to the system, and the next step gets it again page by page.
    Below lies what forward used, which the scores keep in place. Blocks of over LARGE_BLOCK_BYTES are not of the heap:
    they are got anew within each call that is timed.
    """
    sizes = (precision.arithmetic.weight_bytes * size for size in network.trained_sizes.values())
    gradients = sum(size for size in sizes if size <= LARGE_BLOCK_BYTES)
    forward = (moment for moment in timeline if moment.phase is Phase.FORWARD)
    above = gradients - max((moment.activations_bytes + moment.temporary_bytes for moment in forward), default=0)
    return above if above > RETURNED_BYTES else 0


def moment_of(phase: Phase) -> Phase:
    """The moment in which a phase runs: both halves of a convolution's backward pass share one."""
    return Phase.BACKWARD if phase in (Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER) else phase


def memory(
    network: Network,
    step: Step,
    precision: Precision,
    *,
    fused: bool = False,
    storages: Storages | None = None,
    observe: Observer | None = None,
) -> Memory:
    """The memory of a training step of `network`, without the workspaces of its calls.

    The training loop holds the network's outputs until the step ends, as `scores = model(x)` does. `fused` says that
    the step runs in the kernels of a GPU (see `Layer.saved`). `storages` are the network's own; without them they are
    found here.
    """
    simulation = _Simulation(network, step, precision, fused, storages or Storages(network))
    simulation.observe = observe
    return Memory(timeline=tuple(simulation.run()), whole=frozenset(simulation.whole))


class _Simulation:
    """Walks through a step, with a count of how many hold each activation's storage."""

    def __init__(self, network: Network, step: Step, precision: Precision, fused: bool, storages: Storages) -> None:
        self.network, self.step, self.fused = network, step, fused
        self.element = precision.element_bytes
        self.weight = precision.arithmetic.weight_bytes
        self.storages = storages
        self.roots = storages.roots
        self.sizes = {name: self.element * prod(shape) for name, shape in network.shapes.items()}
        self.sizes |= {node.output: 0 for node in network.nodes if isinstance(node.layer, Stored)}
        self.reads = Counter(self.roots[name] for node in network.nodes for name in node.inputs)
        self.reads.update(self.roots[name] for name in network.outputs)
        self.saved = {node.name: self._saved_activations(node) for node in network.nodes}
        self.held: Counter[str] = Counter()
        self.beside: dict[str, int] = {}
        self.gradients = 0
        self.ready: dict[str, int] = {}
        self.observe: Observer | None = None
        self.whole: set[CallPosition] = set()
        self.flowing: dict[str, int] = {}
        self.arriving: dict[str, Strides] = {}
        own = self.weight * network.parameters
        self.parameters = own + network.buffer_bytes
        self.rule = update_rule(step.optimizer)
        self.states = self.weight * self.rule.states * network.trained_parameters
        if step.accumulate > 1:  # the pass that holds most finds the gradients of those before
            self.ready = {name: self.weight * size for name, size in network.trained_sizes.items()}
            self.gradients = sum(self.ready.values())
        self.given = sum(self.sizes[name] for name, _ in network.inputs) + self._targets_bytes()

    def run(self) -> Iterator[Moment]:
        yield from self._forward()
        yield from self._backward()
        if self.step.optimizer != "none":
            largest = max(self.network.trained_sizes.values(), default=0)
            temporary = self.weight * largest * self.rule.temporaries
            yield self._moment(UPDATE, Phase.UPDATE, temporary)

    def _targets_bytes(self) -> int:
        """What the scores are compared with: classes as 64-bit integers, or as many numbers."""
        if not self.network.outputs or self.step.loss == "none":
            return 0
        classes = self.step.loss == "cross-entropy"
        return INDEX_BYTES * self.network.loss().rows if classes else self.sizes[self.network.scores]

    def _moment(self, name: str, phase: Phase, temporary: int = 0) -> Moment:
        live = sum(self.sizes[root] for root, count in self.held.items() if count > 0)
        temporary += sum(self.flowing.values())
        if self.observe:
            self.observe(self._blocks())
        return Moment(
            name=name,
            phase=phase,
            parameters_bytes=self.parameters,
            gradients_bytes=self.gradients,
            optimizer_bytes=self.states,
            activations_bytes=live + sum(self.beside.values()) + self.given + min(0, temporary),
            temporary_bytes=max(0, temporary),
        )

    def _blocks(self) -> dict[str, int]:
        """The blocks of this moment but for what is temporary, by what they are and whose."""
        blocks = {"inputs and targets": self.given}
        blocks |= {f"activation {root}": self.sizes[root] for root, count in self.held.items() if count > 0}
        blocks |= {f"saved by {name}": size for name, size in self.beside.items()}
        blocks |= {f"gradient of {name}": size for name, size in self.ready.items()}
        return blocks | {f"gradient at {root}": size for root, size in self.flowing.items()}

    def _forward(self) -> Iterator[Moment]:
        left = Counter(self.reads)
        inputs = {name for name, _ in self.network.inputs}
        for node in self.network.nodes:
            root = self.roots[node.output]
            if root == node.output and root not in inputs:
                self.held[root] += 1  # until its last reader in forward
            for name in self._kept_storages(node):
                self.held[name] += 1
            self.beside[node.name] = self.saved[node.name][1]
            yield self._moment(node.name, Phase.FORWARD, self._copies(node, Phase.FORWARD))
            for name in node.inputs:
                left[self.roots[name]] -= 1
                if not left[self.roots[name]] and self.roots[name] not in inputs:
                    self.held[self.roots[name]] -= 1
            if not left[root] and root == node.output:
                self.held[root] -= 1

    def _backward(self) -> Iterator[Moment]:
        network = self.network
        if not network.outputs or self.step.loss == "none" or network.scores not in network.trained_activations:
            return
        scores = self.sizes[network.scores]
        loss = network.loss().saved_tensors(trains=False, flows=(True,), fused=self.fused)
        kept, gradients = (self.element * loss.elements, 2) if self.step.loss == "cross-entropy" else (0, 1)
        yield self._moment(LOSS, Phase.FORWARD, kept)
        yield self._moment(LOSS, Phase.BACKWARD, kept + gradients * scores)
        self.flowing[self.storages.gradients[network.scores]] = scores
        self.arriving[network.scores] = contiguous_strides(network.shapes[network.scores])
        for node in reversed(network.nodes):
            if node.output in network.trained_activations:
                yield self._step_back(node)
            for name in self._kept_storages(node):
                self.held[name] -= 1
            del self.beside[node.name]

    def _step_back(self, node: Node) -> Moment:
        """One node backward: gradients of its inputs appear beside that of its output, which then goes."""
        network, gradients, before = self.network, self.storages.gradients, self._gradients_bytes
        own, split = gradients[node.output], isinstance(node.layer, Copy) and node.layer.operation == "split"
        added = self._copies(node, Phase.BACKWARD) + self._pass_layout(node)
        passes = node.layer.passes_gradient or node.name in self.storages.copies
        arriving = self.flowing.pop(own, 0) if passes else 0
        for name in dict.fromkeys(name for name in node.inputs if name in network.trained_activations):
            root = gradients[name]
            if root in self.flowing and root != own:
                added += 0 if split else self.sizes[name]  # two gradients are added; parts are put together at once
            elif root != own:
                self.flowing[root] = arriving if passes else self.sizes[name]
                arriving = 0
        if node.layer.makes_all_gradients and node.read[0] not in network.trained_activations:
            added += self.sizes[node.read[0]]
        again = self._gradients_of(node)
        grown = None if self.fused else node.layer.backward_growth(**self._needs(node))
        if grown is not None:
            self.whole.add((node.name, Phase.BACKWARD))
            added += before - self.sizes[node.output] + self.element * grown - self._gradients_bytes
        else:
            added += again
        moment = self._moment(node.name, Phase.BACKWARD, added)
        if own not in {gradients[name] for name in node.inputs}:
            self.flowing.pop(own, None)
        return moment

    @property
    def _gradients_bytes(self) -> int:
        """The gradients that are there, of parameters and of activations."""
        return self.gradients + sum(self.flowing.values())

    def _needs(self, node: Node) -> dict[str, Any]:
        """Whether a node trains a parameter, and which of its inputs take a gradient."""
        return {"trains": self.network.trains(node), "flows": self.network.flows(node)}

    def _copies(self, node: Node, phase: Phase) -> int:
        """What a call copies first: an input that lies otherwise than it needs, and the weights of another layout."""
        copied, layer = node.layer.layout_needs, node.layer
        needed = copied.forward if phase is Phase.FORWARD else copied.backward
        size = self.sizes[node.read[0]] if needed and self._is_unready(node) else 0
        if node.name in self.storages.channels_last and isinstance(layer, Convolution):
            alike = prod(layer.kernel) == 1 or layer.in_channels == layer.groups
            size += 0 if alike else self.weight * prod(layer.weight_shape)
        return size

    def _is_unready(self, node: Node) -> bool:
        """Whether a node does not take its first input as it lies; a GPU's one call for attention does."""
        return node.name in self.storages.unready and not (self.fused and isinstance(node.layer, Attention))

    def _pass_layout(self, node: Node) -> int:
        """Note how the gradients of a node's inputs lie; what it takes to copy the one of its output first."""
        shape = self.network.shapes[node.output]
        arriving = self.arriving.pop(node.output, contiguous_strides(shape))
        for name in node.inputs:
            if name in self.network.trained_activations and name not in self.arriving:
                self.arriving[name] = self.storages.gradient_strides(node, name, arriving)
        numbers, beside = self.storages.gradient_copies(node, arriving)
        return self.element * numbers + beside

    def _gradients_of(self, node: Node) -> int:
        """Note the gradients of a node's parameters, which stay; one that is shared is there once.

        Returns what they take besides where they are added to those of an earlier pass.
        """
        sizes = self.network.trained_sizes
        names = {name for name in self.network.parameter_names(node) if name in sizes}
        made = {name: self.weight * sizes[name] for name in names if name not in self.ready}
        self.ready |= made
        self.gradients += sum(made.values())
        return self.weight * sum(sizes[name] for name in names) if self.step.accumulate > 1 else 0

    def _kept_storages(self, node: Node) -> Iterable[str]:
        """The storages that a node holds for its backward pass; the network's inputs are there anyway."""
        if node.output not in self.network.trained_activations:
            return ()
        inputs = {name for name, _ in self.network.inputs}
        return {self.roots[name] for name in self.saved[node.name][0]} - inputs

    def _saved_activations(self, node: Node) -> tuple[tuple[str, ...], int]:
        """The activations that backward needs again, and bytes beside them."""
        if node.output not in self.network.trained_activations:
            return (), 0
        saved = node.layer.saved_tensors(**self._needs(node), fused=self.fused)
        inputs = (node.read[position] for position in saved.inputs if position < len(node.read))
        names = (*inputs, *((node.output,) if saved.output else ()))
        extra = self.element * saved.elements + saved.other_bytes
        if self._is_unready(node) and node.layer.layout_needs.kept and saved.inputs:
            return names[1:], extra + self.sizes[node.read[saved.inputs[0]]]
        return names, extra
