"""Matching: which calls of a traced step compute which layers of a network, and what each of these took."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from latte_cli.layers import Layer, Phase
from latte_cli.network import Network
from latte_cli.torch_trace.backward import forward_calls, phase_shares
from latte_cli.torch_trace.events import Category, Event
from latte_cli.torch_trace.operators import GLUE, comes_along, fits_layer, operators_of
from latte_cli.torch_trace.steps import HostCall, Role, TracedStep, operator_name

LOSS_SLOT = "(loss)"
"""The name of the slot of what compares the scores with targets."""

_CLIP = "clip-norm"
_NORMS = ("linalg_vector_norm", "_foreach_norm")


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

    `costs` are those of all calls of each slot's phase, by the slot's place, `counts` how often the slot was computed.
    `missing` are the places of slots that no call computes, `strangers` the calls that compute no slot, by name.
    `update` is what the `updates` took and the clearing of gradients, `operations` what else is done with all of them,
    by name. `beside` is loading data. `passes` is how often the step went through the network.
    """

    costs: defaultdict[tuple[int, Phase], Cost] = field(default_factory=lambda: defaultdict(Cost))
    counts: Counter[int] = field(default_factory=Counter)
    missing: tuple[int, ...] = ()
    strangers: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    update: Cost = field(default_factory=Cost)
    updates: list[HostCall] = field(default_factory=list)
    operations: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    beside: Cost = field(default_factory=Cost)

    @property
    def passes(self) -> int:
        """How often most slots were computed."""
        return Counter(self.counts.values()).most_common(1)[0][0] if self.counts else 1

    @property
    def total(self) -> Cost:
        """What all that was matched took."""
        total = Cost()
        for cost in (*self.costs.values(), *([self.update] if self.updates else ()), *self.operations.values()):
            total.add(cost)
        return total

    def call_cost(self, place: int, phase: Phase) -> Cost:
        """What one call of a slot's phase took."""
        mean = Cost()
        mean.add(self.costs[place, phase], 1 / max(1, self.counts[place]))
        return mean


def slots_of(network: Network) -> tuple[Slot, ...]:
    """What a step may compute: the network's layers that take time, then what compares the scores with targets."""
    nodes = [
        Slot(name=node.name, layer=node.layer, phases=tuple(network.phases(node)))
        for node in network.nodes
        if not node.layer.free
    ]
    return (*nodes, *_losses(network))


def _losses(network: Network) -> Iterator[Slot]:
    shape = network.shapes[network.scores] if network.outputs else ()
    if shape and all(shape):
        backward = network.scores in network.trained_activations
        phases = (Phase.FORWARD, Phase.BACKWARD) if backward else (Phase.FORWARD,)
        yield Slot(name=LOSS_SLOT, layer=network.loss(), phases=phases)


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
        """The step's calls as the network's layers.

        What lays tensors anew counts for the next call that computes a layer, whose it is in most cases.
        """
        found, waiting = Matched(), Cost()
        owners = self._owners(step.calls, found.counts)
        forward, clipping = forward_calls(step.calls), _clip_places(step.calls)
        for place, call in enumerate(step.calls):
            cost = cost_of(call)
            origin = forward.get(place) if call.role is Role.BACKWARD else place
            computed = owners.get(origin, ()) if origin is not None else ()
            if place in clipping:
                found.operations[_CLIP].add(cost)
            elif not computed and _counts_for_next(call, step.calls[origin] if origin is not None else None):
                waiting.add(cost)
                continue
            elif computed:
                cost.add(waiting)
                for owner, share in self._shares(computed):
                    self._add(found, owner, call, cost, share)
            else:
                cost.add(waiting)
                _add_beside(found, call, cost, step.calls[origin if origin is not None else place].name)
            waiting = Cost()
        found.missing = tuple(place for place in range(len(self.slots)) if place not in found.counts)
        return found

    def _shares(self, computed: Sequence[int]) -> Iterator[tuple[int, float]]:
        """The slots that one call computes, with their shares of it: those of their work."""
        work = [max(1, self.slots[place].layer.workload) for place in computed]
        for place, own in zip(computed, work, strict=True):
            yield place, own / sum(work)

    def _add(self, found: Matched, owner: int, call: HostCall, cost: Cost, of_call: float) -> None:
        """Add what a call took for one of its slots, a share of it."""
        slot = self.slots[owner]
        backward = call.role is Role.BACKWARD
        shares = phase_shares(slot.layer, slot.phases, call) if backward else [(Phase.FORWARD, 1.0)]
        for phase, share in shares:
            found.costs[owner, phase].add(cost, of_call * share)

    def _owners(self, calls: Sequence[HostCall], counts: Counter[int]) -> Mapping[int, tuple[int, ...]]:
        """The slots of each call that computes some; `counts` is brought up to how often each is computed.

        Of several slots that fit it is the first of those that were computed least often.
        """
        owners: dict[int, tuple[int, ...]] = {}
        for place, call in enumerate(calls):
            if call.role is not Role.OPERATOR:
                continue
            for event in (call.event, *call.inner):
                fitting = self._places(event)
                owner = min(fitting, key=lambda each: (counts[each], each), default=None)
                if owner is not None and (event is call.event or not counts[owner]):
                    owners[place] = self._with_followers(owner, event, counts)
                    counts.update(owners[place])
                    break
        return owners

    def _with_followers(self, owner: int, event: Event, counts: Counter[int]) -> tuple[int, ...]:
        """A slot, and those behind it that the same call computes."""
        first, found = self.slots[owner].layer, [owner]
        for place in range(owner + 1, len(self.slots)):
            if not comes_along(self.slots[place].layer, first, event) or counts[place] > counts[owner]:
                break
            found.append(place)
        return tuple(found)

    def _places(self, event: Event) -> tuple[int, ...]:
        """The slots that an operator's call may compute."""
        name = operator_name(event)
        if event.category is not Category.OPERATOR or name not in self._named:
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


def _counts_for_next(call: HostCall, origin: HostCall | None) -> bool:
    """Whether a call that computes no layer lays a tensor anew, or works on single numbers, or is its backward."""
    if call.role is Role.BACKWARD and origin is None:
        return True
    about = origin or call
    return about.role is Role.OPERATOR and (about.name in GLUE or not any(about.event.dims or ()))


def _add_beside(found: Matched, call: HostCall, cost: Cost, name: str) -> None:
    """Add what a call took that computes no layer."""
    if call.role is Role.LOADING:
        found.beside.add(cost)
    elif call.role is Role.CLEAR and (function := _fills(call)):
        found.operations[function].add(cost)
    elif call.role in (Role.UPDATE, Role.CLEAR):
        found.updates += [call] * (call.role is Role.UPDATE)
        found.update.add(cost)
    else:
        found.strangers[name].add(cost)


def _fills(call: HostCall) -> str:
    """The operation that a call which clears gradients makes; empty where it drops them."""
    names = {operator_name(event) for event in call.inner}
    return "zero-grad-foreach" if "_foreach_zero" in names else "zero-grad" if "zero" in names else ""


def _clip_places(calls: Sequence[HostCall]) -> range:
    """The places of what clips the gradients' norm: calls between the last of backward and the update, with norms."""
    ends = [place for place, call in enumerate(calls) if call.role is Role.UPDATE]
    starts = [place for place, call in enumerate(calls) if call.role is Role.BACKWARD]
    if not ends or not starts or starts[-1] > ends[0]:
        return range(0)
    between = range(starts[-1] + 1, ends[0])
    events = (event for place in between for event in (calls[place].event, *calls[place].inner))
    return between if any(operator_name(event) in _NORMS for event in events) else range(0)
