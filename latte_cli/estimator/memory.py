"""The memory of a training step: what is live at each call, as autograd and torch's allocator keep it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

from latte_cli.backends.host import LARGE_BLOCK_BYTES
from latte_cli.estimator.buckets import bucket_bytes
from latte_cli.estimator.checkpoints import RNG_STATE_BYTES, Rerun, reruns, saved_of
from latte_cli.estimator.steps import CLIP, EMA, LOSS, SCALER, UPDATE, ZERO, Step
from latte_cli.estimator.storages import Storages
from latte_cli.estimator.strides import Strides, contiguous_strides
from latte_cli.layers import INDEX_BYTES, Attention, Convolution, Copy, Phase, Recurrent, Stored
from latte_cli.network import Network, Node
from latte_cli.optimizers import COUNTER_BYTES, update_rule
from latte_cli.precisions import Precision

RETURNED_BYTES = 2 * LARGE_BLOCK_BYTES  # mallopt(3): M_TRIM_THRESHOLD follows M_MMAP_THRESHOLD, at twice its value
"""How much may be free at the top of glibc's heap."""

_AGAIN = "again "
"""What stands before the name of a storage that is made once more for the backward pass."""

CallPosition: TypeAlias = tuple[str, Phase]
"""A node's name, or one of BESIDE, and a phase."""

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

    Of several batches for one update it is the last, which meets the gradients of those before. An average of the model
    counts with the optimizer's states.

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
    simulation = Simulation(network, step, precision, fused, storages or Storages(network))
    simulation.observe = observe
    return Memory(timeline=tuple(simulation.run()), whole=frozenset(simulation.whole))


class Simulation:
    """Walks through a step, with a count of how many hold each activation's storage.

    After a run `fixed` has the bytes of each moment but for what layers keep, and `arriving_bytes` those before each
    node's backward call, by its place.
    """

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
        self.live = 0
        self.extra = 0
        self.extras: Counter[str] = Counter()
        self.gradients = 0
        self.ready: dict[str, None] = {}  # in their order, in which an allocator gets them
        self.observe: Observer | None = None
        self.whole: set[CallPosition] = set()
        self.flowing: dict[str, tuple[int, int]] = {}  # a tensor's number and bytes, which several may share
        self.made = 0
        self.fixed: dict[CallPosition, int] = {}
        self.arriving_bytes: dict[int, int] = {}
        self.arriving: dict[str, Strides] = {}
        own = self.weight * network.parameters
        self.parameters = own + network.buffer_bytes
        self.rule = update_rule(step.optimizer, on_gpu=fused)
        self.states = self._states_bytes()
        self.buckets = self._buckets_bytes()
        self.held_before = step.rest.keeps_gradients or step.accumulate > 1
        if self.held_before and network.trained_activations:
            self.gradients = self.weight * network.trained_parameters
        self.left = Counter(
            name
            for node in network.nodes
            if node.output in network.trained_activations
            for name in network.parameter_names(node)
            if name in network.trained_sizes
        )
        self.given = sum(self.sizes[name] for name, _ in network.inputs) + self._targets_bytes()
        self.reruns = reruns(network, step.checkpoints, fused=fused)
        self.region = {place: one for one in self.reruns for place in range(one.first, one.last + 1)}
        self.written = {one.first: self._storages_written(one) for one in self.reruns}
        self.state_bytes = 0 if fused else RNG_STATE_BYTES  # a GPU's is kept in the host's memory

    def run(self) -> Iterator[Moment]:
        yield from self._forward()
        yield from self._backward()
        if self.step.optimizer != "none":
            yield from self._update()

    def _update(self) -> Iterator[Moment]:
        rest = self.step.rest
        for name, is_made in ((SCALER, rest.grad_scaler), (CLIP, rest.clip_norm)):
            if is_made:
                yield self._moment(name, Phase.UPDATE, self._beside(name))
        temporary = self.weight * self.rule.temporary(tuple(self.network.trained_shapes.values()))
        yield self._moment(UPDATE, Phase.UPDATE, temporary)
        for name, is_made in ((EMA, rest.ema), (ZERO, rest.keeps_gradients)):
            if is_made:
                yield self._moment(name, Phase.UPDATE)

    def _beside(self, name: str) -> int:
        """What an operation on all gradients holds: to clip them, the norm of each, and then all of these as one."""
        return 2 * self.weight * len(self.network.trained_sizes) if name == CLIP else 0

    def _states_bytes(self) -> int:
        """What the optimizer keeps, and an average of the model with a copy of its buffers."""
        network, rule = self.network, self.rule
        states = self.weight * rule.state_numbers(network.trained_shapes.values())
        if rule.counts_on_device or not self.fused:
            states += COUNTER_BYTES * rule.counters * len(network.trained_sizes)
        return states + (self.weight * network.parameters + network.buffer_bytes if self.step.rest.ema else 0)

    def _buckets_bytes(self) -> int:
        """The gradients once more, as DistributedDataParallel keeps them without `gradient_as_bucket_view`."""
        return bucket_bytes(self.network, self.weight) if self.step.replicated else 0

    def _hold(self, root: str, count: int) -> None:
        """One more, or one less, holds a storage."""
        before = self.held[root]
        self.held[root] = before + count
        self.live += self.sizes[root] * ((before + count > 0) - (before > 0))

    def _hold_beside(self, what: str, size: int) -> None:
        """So many bytes more, or less, that are no activation."""
        self.extras[what] += size
        self.extra += size

    def _targets_bytes(self) -> int:
        """What the scores are compared with: classes as 64-bit integers, or as many numbers."""
        if not self.network.outputs or self.step.loss == "none":
            return 0
        classes = self.step.loss == "cross-entropy"
        return INDEX_BYTES * self.network.loss().rows if classes else self.sizes[self.network.scores]

    def _moment(self, name: str, phase: Phase, temporary: int = 0) -> Moment:
        temporary += self._flowing_bytes
        lasting = self.parameters + self.gradients + self.buckets + self.states + self.given
        self.fixed[name, phase] = lasting + temporary
        if self.observe:
            self.observe(self._blocks())
        return Moment(
            name=name,
            phase=phase,
            parameters_bytes=self.parameters,
            gradients_bytes=self.gradients + self.buckets,
            optimizer_bytes=self.states,
            activations_bytes=self.live + self.extra + self.given + min(0, temporary),
            temporary_bytes=max(0, temporary),
        )

    def _blocks(self) -> dict[str, int]:
        """The blocks of this moment but for what is temporary, by what they are and whose."""
        names = self.network.trained_sizes if self.held_before and self.gradients else self.ready
        gradients = {f"gradient of {name}": self.weight * self.network.trained_sizes[name] for name in names}
        blocks = {"inputs and targets": self.given, "gradients to be added": self.gradients - sum(gradients.values())}
        blocks |= {f"activation {root}": self.sizes[root] for root, count in self.held.items() if count > 0}
        blocks |= {f"gradient at {number}": size for number, size in self.flowing.values()}
        return {what: size for what, size in (blocks | self.extras | gradients).items() if size > 0}

    def _forward(self) -> Iterator[Moment]:
        left = Counter(self.reads)
        inputs = {name for name, _ in self.network.inputs}
        for place, node in enumerate(self.network.nodes):
            root = self.roots[node.output]
            if root == node.output and root not in inputs:
                self._hold(root, +1)  # until its last reader in forward
            if rerun := self.region.get(place):
                self._keep_arguments(rerun, +1 if place == rerun.first else 0)
                beside = self.saved[node.name][1]
            else:
                self._keep(node, +1)
                beside = self._dropped_bytes(node)
            yield self._moment(node.name, Phase.FORWARD, beside + self._copies(node, Phase.FORWARD))
            for name in node.inputs:
                left[self.roots[name]] -= 1
                if not left[self.roots[name]] and self.roots[name] not in inputs:
                    self._hold(self.roots[name], -1)
            if not left[root] and root == node.output:
                self._hold(root, -1)

    def _dropped_bytes(self, node: Node) -> int:
        """What a call makes for a backward pass that never comes, as a pooling the places of its greatest numbers."""
        if node.output in self.network.trained_activations or isinstance(node.layer, Recurrent):
            return 0
        saved = node.layer.saved_tensors(trains=False, flows=(True,) * len(node.read), fused=self.fused)
        return self.element * saved.elements + saved.other_bytes

    def _backward(self) -> Iterator[Moment]:
        network = self.network
        if not network.outputs or network.scores not in network.trained_activations:
            return
        scores = self.sizes[network.scores]
        if self.step.loss != "none":
            yield from self._loss(scores)
        self.flowing[self.storages.gradients[network.scores]] = self._gradient(scores)
        self.arriving[network.scores] = contiguous_strides(network.shapes[network.scores])
        for place, node in reversed([*enumerate(network.nodes)]):
            rerun = self.region.get(place)
            self.arriving_bytes[place] = (
                self.parameters + self.states + self.buckets + self.given + self._gradients_bytes
            )
            if rerun and place == rerun.trigger:
                yield from self._run_again(rerun)
            if node.output in network.trained_activations:
                yield self._step_back(node)
            if not rerun:
                self._keep(node, -1)
            elif place <= rerun.trigger:
                self._keep(node, -1, rerun)
                self._keep_arguments(rerun, -1 if place == rerun.until else 0)

    def _loss(self, scores: int) -> Iterator[Moment]:
        """The loss and its gradient, for which the cross-entropy keeps what it has of its scores.

        `F.mse_loss` squares the differences and takes their mean, which it writes where one copy of them lay: the loss
        holds that until the step ends.
        """
        if self.step.loss == "mse":
            self._hold_beside("loss", scores)
            yield self._moment(LOSS, Phase.FORWARD, scores)
            yield self._moment(LOSS, Phase.BACKWARD, scores)
        else:
            loss = self.network.loss().saved_tensors(trains=False, flows=(True,), fused=self.fused)
            kept = self.element * loss.elements
            yield self._moment(LOSS, Phase.FORWARD, kept)
            yield self._moment(LOSS, Phase.BACKWARD, kept + 2 * scores)

    def _keep(self, node: Node, count: int, rerun: Rerun | None = None) -> None:
        """Begin (+1) or end (-1) to hold what a node keeps, or what it keeps of the second run of its region."""
        for name in self.kept_storages(node):
            self._hold(self._again(name, rerun), count)
        self._hold_beside(f"saved by {node.name}", count * self.saved[node.name][1])

    def _keep_arguments(self, rerun: Rerun, count: int) -> None:
        """Begin or end to hold what a region reads."""
        inputs = {name for name, _ in self.network.inputs}
        roots = dict.fromkeys(self.roots[name] for name in rerun.arguments)
        for root in roots if count else ():
            if root not in inputs:
                self._hold(root, count)
        self._hold_beside(f"random state of {rerun.first}", count * self.state_bytes)

    def _again(self, root: str, rerun: Rerun | None) -> str:
        """The storage in a root's place in the second run of a region, which has its own but for what it reads."""
        written = rerun is not None and root in self.written[rerun.first]
        return f"{_AGAIN}{root}" if written else root

    def _storages_written(self, rerun: Rerun) -> set[str]:
        """The storages that the nodes of a region write anew."""
        nodes = self.network.nodes[rerun.first : rerun.last + 1]
        return {node.output for node in nodes if self.roots[node.output] == node.output}

    def _run_again(self, rerun: Rerun) -> Iterator[Moment]:
        """A region's forward pass once more; afterwards what its nodes keep is held."""
        own = self.network.nodes[rerun.first : rerun.last + 1]
        left = Counter(self.roots[name] for node in own for name in node.inputs)
        written = self.written[rerun.first]
        outside = {root for root in written if left[root] < self.reads[root]}  # what the region returns
        self.sizes |= {f"{_AGAIN}{root}": self.sizes[root] for root in written}
        local: dict[str, None] = {}
        for place in rerun.again:
            node = self.network.nodes[place]
            root = self.roots[node.output]
            if root == node.output:
                local[root] = None
                self._hold(f"{_AGAIN}{root}", +1)
            self._keep(node, +1, rerun)
            yield self._moment(node.name, Phase.FORWARD, self._copies(node, Phase.FORWARD))
            for name in node.inputs:
                left[self.roots[name]] -= 1
            for each in [each for each in local if not left[each] and each not in outside]:
                self._hold(f"{_AGAIN}{each}", -1)
                del local[each]
        if rerun.trigger not in rerun.again:
            self._keep(self.network.nodes[rerun.trigger], +1, rerun)
        for each in local:
            self._hold(f"{_AGAIN}{each}", -1)

    def _step_back(self, node: Node) -> Moment:
        """One node backward: gradients of its inputs appear beside that of its output, which then goes."""
        network, gradients, before = self.network, self.storages.gradients, self._gradients_bytes
        own, split = gradients[node.output], isinstance(node.layer, Copy) and node.layer.operation == "split"
        added = self._copies(node, Phase.BACKWARD) + self._pass_layout(node)
        passes = node.layer.passes_gradient or node.name in self.storages.copies
        arriving = self.flowing.pop(own, None) if passes else None
        for name in dict.fromkeys(name for name in node.inputs if name in network.trained_activations):
            root = gradients[name]
            if root in self.flowing and root != own:
                added += 0 if split else self.sizes[name]  # two gradients are added; parts are put together at once
                if self._is_shared(root, own):  # not in place
                    self.flowing[root] = self._gradient(self.sizes[name])
            elif root != own:
                self.flowing[root] = arriving or self._gradient(0 if passes else self.sizes[name])
        if node.layer.makes_all_gradients and node.read[0] not in network.trained_activations:
            added += self.sizes[node.read[0]]
        self._gradients_of(node)
        grown = None if self.fused else node.layer.backward_growth(**self._needs(node))
        if grown is not None:
            self.whole.add((node.name, Phase.BACKWARD))
            added += before - self.sizes[node.output] + self.element * grown - self._gradients_bytes
        moment = self._moment(node.name, Phase.BACKWARD, added)
        self._add_up(node)
        if own not in {gradients[name] for name in node.inputs}:
            self.flowing.pop(own, None)
        return moment

    @property
    def _gradients_bytes(self) -> int:
        """The gradients that are there, of parameters and of activations."""
        return self.gradients + self._flowing_bytes

    @property
    def _flowing_bytes(self) -> int:
        return sum(dict(self.flowing.values()).values())

    def _gradient(self, size: int) -> tuple[int, int]:
        """A new gradient of an activation."""
        self.made += 1
        return self.made, size

    def _is_shared(self, root: str, own: str) -> bool:
        """Whether an activation's gradient is another one's too, as of both terms of a sum, and not just its `own`."""
        others = (number for name, (number, _) in self.flowing.items() if name not in (root, own))
        return self.flowing[root][0] in others

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
        arriving = self.storages.pass_gradient(node, self.arriving)
        numbers, beside = self.storages.gradient_copies(node, arriving)
        return self.element * numbers + beside

    def _gradients_of(self, node: Node) -> None:
        """The gradients of a node's parameters, which stay; one that is shared is there once."""
        sizes = self.network.trained_sizes
        names = dict.fromkeys(self.network.parameter_names(node))
        fresh = [name for name in names if name in sizes and name not in self.ready]
        self.ready |= dict.fromkeys(fresh)
        self.gradients += self.weight * sum(sizes[name] for name in fresh)

    def _add_up(self, node: Node) -> None:
        """Gradients that are added to those that were there before are dropped, of a shared parameter in the end."""
        names = [name for name in self.network.parameter_names(node) if name in self.left]
        self.left.subtract(names)
        if self.held_before:
            done = {name for name in names if not self.left[name]}
            self.gradients -= self.weight * sum(self.network.trained_sizes[name] for name in done)

    def kept_storages(self, node: Node) -> Iterable[str]:
        """The storages that a node holds for its backward pass; the network's inputs are there anyway."""
        if node.output not in self.network.trained_activations:
            return ()
        inputs = {name for name, _ in self.network.inputs}
        roots = dict.fromkeys(self.roots[name] for name in self.saved[node.name][0])
        return [root for root in roots if root not in inputs]

    def _saved_activations(self, node: Node) -> tuple[tuple[str, ...], int]:
        """The activations that backward needs again, and bytes beside them."""
        saved = saved_of(self.network, node, fused=self.fused)
        if saved is None:
            return (), 0
        inputs = (node.read[position] for position in saved.inputs if position < len(node.read))
        names = (*inputs, *((node.output,) if saved.output else ()))
        extra = self.element * saved.elements + saved.other_bytes
        if self._is_unready(node) and node.layer.layout_needs.kept and saved.inputs:
            return names[1:], extra + self.sizes[node.read[saved.inputs[0]]]
        return names, extra
