"""Matching: which calls of a traced step compute which layers of a network, and what each of these took."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from latte_cli.layers import Convolution, Elementwise, Layer, Linear, Phase, Reduce
from latte_cli.network import Network
from latte_cli.torch_trace.events import Category, Event
from latte_cli.torch_trace.operators import GLUE, fits_layer, operators_of
from latte_cli.torch_trace.steps import HostCall, Role, TracedStep, operator_name

LOSS = "(loss)"
_ACCUMULATES = "torch::autograd::AccumulateGrad"


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A layer of a step that a call may compute, and its phases in the step."""

    name: str
    layer: Layer
    phases: tuple[Phase, ...]


@dataclass
class Cost:
    """What calls took: on the device's clock and on the host's, by so many of the profiler's events on the host."""

    device_s: float = 0.0
    host_s: float = 0.0
    recorded: float = 0.0
    kernels: dict[str, None] = field(default_factory=dict)

    def add(self, other: "Cost", share: float = 1.0) -> None:
        """Add a share of another cost."""
        self.device_s += share * other.device_s
        self.host_s += share * other.host_s
        self.recorded += share * other.recorded
        self.kernels |= other.kernels


@dataclass(kw_only=True)
class Matched:
    """A step as a network's layers.

    `costs` are those of one call of each slot's phase, by the slot's place. `missing` are the places of slots that no
    call computes, `strangers` the calls that compute no slot, by name, with what they took. `update` is the cost of
    the update, `beside_s` the host's time for what is no part of a step (loading data), `passes` how often the step
    went through the network.
    """

    costs: dict[tuple[int, Phase], Cost]
    counts: Mapping[int, int]
    missing: tuple[int, ...]
    strangers: dict[str, Cost]
    update: Cost | None
    operations: dict[str, Cost]
    updates: list[HostCall]
    beside: Cost
    passes: int

    @property
    def total(self) -> Cost:
        """What all that was matched took."""
        total = Cost()
        for (place, _), cost in self.costs.items():
            total.add(cost, self.counts[place])
        for cost in (*([self.update] if self.update else ()), *self.operations.values()):
            total.add(cost)
        return total


def slots_of(network: Network) -> tuple[Slot, ...]:
    """What a step may compute: the network's layers that take time, then what compares the scores with targets."""
    nodes = [
        Slot(name=node.name, layer=node.layer, phases=tuple(network.phases(node)))
        for node in network.nodes
        if not node.layer.free
    ]
    return (*nodes, *_losses(network))


def _losses(network: Network) -> Iterator[Slot]:
    if not network.outputs:
        return
    backward = network.scores in network.trained_activations
    phases = (Phase.FORWARD, Phase.BACKWARD) if backward else (Phase.FORWARD,)
    shape = network.shapes[network.scores]
    if shape and all(shape):
        yield Slot(name=LOSS, layer=network.loss(), phases=phases)


class Matcher:
    """Matches steps of one network's training."""

    def __init__(self, network: Network) -> None:
        self.slots = slots_of(network)
        self._named: defaultdict[str, list[int]] = defaultdict(list)
        for place, slot in enumerate(self.slots):
            for name in dict.fromkeys(operators_of(slot.layer)):
                self._named[name].append(place)
        self._fitting: dict[tuple[object, ...], tuple[int, ...]] = {}

    def match(self, step: TracedStep) -> Matched:
        """The step's calls as the network's layers."""
        owners, counts = self._owners(step.calls)
        backward = _backward_owners(step.calls, owners)
        passes = Counter(count for count in counts.values()).most_common(1)[0][0] if counts else 1
        costs: defaultdict[tuple[int, Phase], Cost] = defaultdict(Cost)
        strangers: defaultdict[str, Cost] = defaultdict(Cost)
        update, beside, waiting = Cost(), Cost(), Cost()
        operations: defaultdict[str, Cost] = defaultdict(Cost)
        clipping = _clipping(step.calls)
        updates = []
        for place, call in enumerate(step.calls):
            cost = cost_of(call)
            if call.role is Role.LOADING:
                beside.add(cost)
                beside.add(waiting)
                waiting = Cost()
                continue
            if call.role is Role.CLEAR and (function := _fills(call)):
                operations[function].add(cost)
                continue
            if call.role in (Role.UPDATE, Role.CLEAR):
                updates += [call] * (call.role is Role.UPDATE)
                cost.add(waiting)
                update.add(cost)
                waiting = Cost()
                continue
            if place in clipping:
                operations["clip-norm"].add(cost)
                continue
            origin = backward.get(place) if call.role is Role.BACKWARD else place
            owner = owners.get(origin) if origin is not None else None
            if owner is None:
                about = step.calls[origin] if origin is not None else call
                if is_glue(about) or (origin is None and call.role is Role.BACKWARD):
                    waiting.add(cost)
                else:
                    strangers[about.name].add(cost)
                continue
            cost.add(waiting)
            waiting = Cost()
            slot = self.slots[owner]
            for phase, share in _shares(slot, call):
                costs[owner, phase].add(cost, share / max(1, counts[owner]))
        return Matched(
            costs=dict(costs),
            counts=counts,
            missing=tuple(place for place in range(len(self.slots)) if place not in counts),
            strangers=dict(strangers),
            update=update if updates else None,
            operations=dict(operations),
            updates=updates,
            beside=beside,
            passes=passes,
        )

    def _owners(self, calls: Sequence[HostCall]) -> tuple[dict[int, int], Counter[int]]:
        """The slot of each call that computes one, and how often each was computed."""
        owners: dict[int, int] = {}
        counts: Counter[int] = Counter()
        for place, call in enumerate(calls):
            if call.role is not Role.OPERATOR:
                continue
            for event in (call.event, *call.inner):
                fitting = self._places(event)
                if fitting:
                    owner = min(fitting, key=lambda each: (counts[each], each))
                    if event is call.event or not counts[owner]:
                        owners[place] = owner
                        counts[owner] += 1
                        break
        return owners, counts

    def _places(self, event: Event) -> tuple[int, ...]:
        """The slots that an operator's call may compute."""
        if event.category is not Category.OPERATOR:
            return ()
        name = operator_name(event)
        if name not in self._named:
            return ()
        key = (name, event.dims, event.values)
        if key not in self._fitting:
            places = self._named[name]
            self._fitting[key] = tuple(place for place in places if fits_layer(self.slots[place].layer, event))
        return self._fitting[key]


def cost_of(call: HostCall) -> Cost:
    """What a call took."""
    return Cost(
        device_s=call.device_s,
        host_s=max(0.0, call.charged_s - call.waited_s),
        recorded=call.recorded,
        kernels=dict.fromkeys(kernel.name for kernel, _ in call.kernels),
    )


def is_glue(call: HostCall) -> bool:
    """Whether a call lays a tensor anew, or works on single numbers."""
    return call.name in GLUE or not any(call.event.dims or ())


def _backward_owners(calls: Sequence[HostCall], owners: Mapping[int, int]) -> dict[int, int]:
    """The forward call that each backward call belongs to, by their places.

    Autograd numbers its nodes as they are made. A forward call has the number of the first node that it makes. What
    adds up a parameter's gradient has none, and follows the node that made it.
    """
    starts = [
        (call.event.sequence, place)
        for place, call in enumerate(calls)
        if call.role is Role.OPERATOR and call.event.sequence >= 0
    ]
    starts.sort()
    numbers = [number for number, _ in starts]
    found: dict[int, int] = {}
    last: int | None = None
    for place, call in enumerate(calls):
        if call.role is not Role.BACKWARD:
            continue
        if call.event.sequence >= 0:
            at = bisect_right(numbers, call.event.sequence) - 1
            last = starts[at][1] if at >= 0 else None
        if last is not None:
            found[place] = last
    return found


def _fills(call: HostCall) -> str:
    """The operation that a call which clears gradients makes; empty where it drops them."""
    names = {operator_name(event) for event in call.inner}
    return "zero-grad-foreach" if "_foreach_zero" in names else "zero-grad" if "zero" in names else ""


_NORMS = ("linalg_vector_norm", "_foreach_norm")


def _clipping(calls: Sequence[HostCall]) -> range:
    """The places of what clips the gradients' norm: calls between the last of backward and the update, with norms."""
    ends = [place for place, call in enumerate(calls) if call.role is Role.UPDATE]
    starts = [place for place, call in enumerate(calls) if call.role is Role.BACKWARD]
    if not ends or not starts or starts[-1] > ends[0]:
        return range(0)
    between = range(starts[-1] + 1, ends[0])
    clips = any(operator_name(event) in _NORMS for place in between for event in (calls[place].event, *calls[place].inner))
    return range(between.start, between.stop) if clips else range(0)


def _shares(slot: Slot, call: HostCall) -> list[tuple[Phase, float]]:
    """The phases of a slot that a call computes, with their shares of it."""
    if call.role is Role.OPERATOR:
        return [(Phase.FORWARD, 1.0)]
    phases = [phase for phase in slot.phases if phase is not Phase.FORWARD]
    if len(phases) < 2:
        return [(phase, 1.0) for phase in phases]
    if call.name == _ACCUMULATES or call.name.startswith("TBackward"):
        return [(Phase.BACKWARD_FILTER, 1.0)]
    data_s, filter_s = _parts(slot.layer, call)
    if data_s <= 0 or filter_s <= 0:
        data_s = filter_s = 1.0  # one call computes both, which are products of as many numbers
    whole_s = data_s + filter_s
    return [(Phase.BACKWARD_DATA, data_s / whole_s), (Phase.BACKWARD_FILTER, filter_s / whole_s)]


_OF_DATA = ("dgrad", "bwd_data", "backward_data", "backward_input")
_OF_FILTER = ("wgrad", "bwd_filter", "backward_filter", "backward_weight", "bwd_weight")


def _parts(layer: Layer, call: HostCall) -> tuple[float, float]:
    """The seconds of a backward call that are for the gradient of the input, and of the weight, as far as is told."""
    if isinstance(layer, Convolution) and not call.kernels:
        return _halves(layer, call)
    spent = {True: 0.0, False: 0.0}
    for event in [kernel for kernel, _ in call.kernels] or call.inner:
        name = event.name.lower()
        for is_data, words in ((True, _OF_DATA), (False, _OF_FILTER)):
            if any(word in name for word in words):
                spent[is_data] += event.lasting_s
    if isinstance(layer, Linear):
        products = [event for event in call.inner if operator_name(event) in ("mm", "bmm", "addmm")]
        if len(products) == 2:
            seconds = [_seconds_of(event, call) for event in products]
            return (seconds[0], seconds[1])
    return spent[True], spent[False]


def _halves(layer: Convolution, call: HostCall) -> tuple[float, float]:
    """The parts of a convolution's backward call on a CPU: torch shapes the gradient of the input, then the weight's."""
    ends = {
        shape: max((event.end_s for event in call.inner[2:] if event.dims and event.dims[0] == shape), default=0.0)
        for shape in (layer.input_shapes[0], layer.parameter_shapes[0])
    }
    data_end_s, filter_end_s = ends.values() if len(ends) == 2 else (0.0, 0.0)
    data_s, filter_s = data_end_s - call.event.start_s, filter_end_s - data_end_s
    return (data_s, filter_s) if min(data_s, filter_s) > 0 else (0.0, 0.0)


def _seconds_of(event: Event, call: HostCall) -> float:
    """What an inner event took: its kernels, else itself."""
    if not call.kernels:
        return event.lasting_s
    return sum(kernel.lasting_s for kernel, at_s in call.kernels if event.start_s <= at_s < event.end_s)
