"""Recomputation: the regions that cost the least time if a step is to hold no more than a limit.

Regions that do not overlap are taken one after the other, from the network's start to its end. What is held while a
part of the network runs, forward, again or backward, depends on what the parts before it keep and on itself alone: in
the forward pass nothing behind it has run, and in the backward pass everything behind it is done. So a choice for the
first nodes matters to the others only by its bytes and by which of the activations that they read it keeps. Of two
choices for the same nodes the one that costs no less and can hold no less is left out, which loses nothing. The problem
is that of Checkmate (Jain et al., 2020), over the regions that a user can write.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from latte_cli.errors import LatteError
from latte_cli.estimator.checkpoints import RNG_STATE_BYTES, Rerun, keeping_of, rerun_of, reruns
from latte_cli.estimator.memory import CallPosition, Simulation, moment_of
from latte_cli.estimator.steps import LOSS, UPDATE, Step
from latte_cli.estimator.storages import Storages
from latte_cli.layers import Phase
from latte_cli.network import Network
from latte_cli.network.regions import Region
from latte_cli.precisions import Precision

_TICKS_PER_S = 10**12
"""Times are added as whole numbers, so that sums of the same times in another order are the same."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Some nodes up to `end` as they run in a step, with what that holds and costs.

    Each of `moments` is the bytes of a moment, and the storages from outside that it holds, as a set of bits. What the
    part keeps are the storages `kept` and `extra_bytes`.
    """

    end: int
    moments: tuple[tuple[int, int], ...]
    kept: int
    extra_bytes: int
    price: int = 0
    region: Region | None = None


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is chosen for the first nodes: its price, the bytes that it keeps, and the part that came last."""

    price: int
    held_bytes: int
    part: Stretch | None = None
    before: "_Choice | None" = None


class Recomputation:
    """Chooses among `candidates` the regions of a step to run again.

    `again_s` is how many seconds each node's forward call takes, `call_s` what the call of `torch.utils.checkpoint`
    takes for a region that saves so many tensors, `workspaces` the bytes of each call's workspace, where it has some.
    The regions that the step has already, and those of the module itself, stay.
    """

    def __init__(
        self,
        network: Network,
        step: Step,
        precision: Precision,
        *,
        candidates: Sequence[Region],
        again_s: Mapping[str, float],
        call_s: Callable[[int], float] = lambda tensors: 0.0,
        workspaces: Mapping[CallPosition, int],
        fused: bool = False,
    ) -> None:
        self._network, self._fused, self._call_s = network, fused, call_s
        self._ticks = [round(_TICKS_PER_S * again_s.get(node.name, 0.0)) for node in network.nodes]
        plain = replace(network, checkpoints=()), replace(step, checkpoints=())
        self._simulation = Simulation(*plain, precision, fused, Storages(network))
        for _ in self._simulation.run():
            pass
        self._workspaces = self._by_moment(workspaces)
        self._storages = _Held(network, self._simulation)
        self._forward = [self._at(node.name, Phase.FORWARD) or 0 for node in network.nodes]
        self._backward = [self._at(node.name, Phase.BACKWARD) for node in network.nodes]
        places = {node.name: place for place, node in enumerate(network.nodes)}
        self._fixed = {one.first: one for one in reruns(network, step.checkpoints, fused=fused)}
        keeping = keeping_of(network, fused=fused)
        self._starting: dict[int, list[Rerun]] = {}
        for region in candidates:
            first = places[region.nodes[0]]
            rerun = rerun_of(network, region, first, first + len(region.nodes) - 1, keeping)
            if (
                rerun
                and rerun.again
                and not any(one.first <= rerun.last and rerun.first <= one.last for one in self._fixed.values())
            ):
                self._starting.setdefault(first, []).append(rerun)

    def cheapest(self, limit_bytes: int) -> tuple[Region, ...] | None:
        """The regions that cost the least time with at most `limit_bytes` at the peak; None where none are enough.

        Of choices that cost the same time it is one of the fewest regions.
        """

        def price(choice: _Choice, part: Stretch, peak_bytes: int) -> int | None:
            return choice.price + part.price if peak_bytes <= limit_bytes else None

        if max(self._ends[1], self._ends[0]) > limit_bytes:
            return None
        found = self._best(price, limit_bytes - self._ends[0])
        return None if found is None else _regions(found)

    def least_bytes(self) -> int:
        """The least that the peak can be."""

        def price(choice: _Choice, part: Stretch, peak_bytes: int) -> int:
            return max(choice.price, peak_bytes)

        best = self._best(price, None, final=lambda one: max(one.price, one.held_bytes + self._ends[0]))
        if best is None:
            raise LatteError(f"`{self._network.name}` has no parts that can be checkpointed")
        return max(best.price, best.held_bytes + self._ends[0], self._ends[1])

    @cached_property
    def _ends(self) -> tuple[int, int]:
        """The bytes at the loss beside all that is kept, and at the update with what is returned."""
        fixed = self._simulation.fixed
        loss = [fixed.get((LOSS, phase), 0) for phase in (Phase.FORWARD, Phase.BACKWARD)]
        update = fixed.get((UPDATE, Phase.UPDATE), 0)
        return max(loss), update + self._storages.size(self._storages.returned)

    def _best(
        self,
        price: Callable[[_Choice, Stretch, int], int | None],
        most_held: int | None,
        final: Callable[[_Choice], int] = lambda one: one.price,
    ) -> _Choice | None:
        size, count = self._storages.size, len(self._network.nodes)
        waiting: dict[int, dict[int, list[_Choice]]] = {0: {0: [_Choice(0, 0)]}}
        for place in range(count):
            for flags, choices in self._best_choices(waiting.pop(place, {})):
                for part in self._parts(place):
                    peak = max(fixed + size(outside & ~flags) for fixed, outside in part.moments)
                    grown = size(part.kept & ~flags) + part.extra_bytes
                    after = (flags | part.kept) & self._storages.crossing[part.end]
                    own = waiting.setdefault(part.end, {}).setdefault(after, [])
                    for one in choices:
                        if most_held is not None and one.held_bytes + grown > most_held:
                            continue
                        total = price(one, part, one.held_bytes + peak)
                        if total is not None:
                            own.append(_Choice(total, one.held_bytes + grown, part, one))
        last = [one for _, choices in self._best_choices(waiting.get(count, {})) for one in choices]
        return min(last, key=final, default=None)

    def _best_choices(self, waiting: Mapping[int, list[_Choice]]) -> Iterator[tuple[int, list[_Choice]]]:
        """The choices for the same nodes that no other one is better than, by what they keep of what is read later."""
        size = self._storages.size
        kept = {flags: _frontier(choices) for flags, choices in waiting.items() if choices}
        for flags, choices in kept.items():
            for other, better in kept.items():
                if other != flags:
                    choices = _not_under(choices, better, size(flags & ~other), strict=other > flags)
            kept[flags] = choices
        yield from ((flags, choices) for flags, choices in kept.items() if choices)

    def _parts(self, place: int) -> Sequence[Stretch]:
        """The ways in which the nodes from `place` on can run."""
        known = self._known_parts
        if place not in known:
            if place in self._fixed:
                known[place] = [self._again(self._fixed[place])]
            else:
                known[place] = [self._plain(place), *map(self._again, self._starting.get(place, ()))]
        return known[place]

    @cached_property
    def _known_parts(self) -> dict[int, list[Stretch]]:
        return {}

    def _plain(self, place: int) -> Stretch:
        """A node whose activations are kept."""
        held = self._storages
        kept = held.kept[place]
        own = kept | (held.returned & held.written[place])
        moments = [(self._forward[place] + held.extra[place], held.local[place] | kept)]
        if (backward := self._backward[place]) is not None:
            moments.append((backward + held.extra[place] + held.returned_after(place), own))
        return Stretch(
            end=place + 1,
            moments=_most(moments, held.before(place), held.size),
            kept=own,
            extra_bytes=held.extra[place],
        )

    def _again(self, rerun: Rerun) -> Stretch:
        """A region that runs again."""
        held, first = self._storages, rerun.first
        outside, state = held.before(first), 0 if self._fused else RNG_STATE_BYTES
        arguments = held.of(rerun.arguments) & outside
        returned_bytes = held.returned_after(first - 1)
        moments = [
            (self._forward[place] + held.extra[place] + state, held.local[place] | arguments)
            for place in range(first, rerun.last + 1)
        ]
        kept, extra = 0, 0
        without, with_arguments = 0, 0  # the most bytes in the backward pass once the arguments are gone, and before
        lasting = self._simulation.parameters + self._simulation.states + self._simulation.given
        arriving = self._simulation.arriving_bytes.get(rerun.trigger)  # None where there is no backward pass
        beside = (arriving or 0) + state + returned_bytes - lasting
        for place in range(first, rerun.last + 1):
            if place <= rerun.trigger:
                kept |= held.kept[place] & ~outside
                extra += held.extra[place]
                if place in rerun.again and arriving is not None:
                    run = held.size(kept | held.local[place] & ~outside)
                    with_arguments = max(with_arguments, beside + self._forward[place] + run + extra)
            backward = self._backward[place]
            if backward is None:
                continue
            now = held.size(kept) + extra if place <= rerun.trigger else 0
            if place >= rerun.until:
                with_arguments = max(with_arguments, backward + now + returned_bytes + state)
            else:
                without = max(without, backward + now + returned_bytes)
        written = held.before(rerun.last + 1) & ~outside
        return Stretch(
            end=rerun.last + 1,
            moments=_most([*moments, (with_arguments, arguments), (without, 0)], outside, held.size),
            kept=arguments | held.returned & written,
            extra_bytes=state,
            price=0 if arriving is None else self._price(rerun),
            region=None if rerun.first in self._fixed else rerun.region,
        )

    def _price(self, rerun: Rerun) -> int:
        """The ticks of what runs again and of the call that does so, and then 1: of equal times, fewer regions win."""
        ticks = sum(self._ticks[place] for place in rerun.again) + round(_TICKS_PER_S * self._call_s(rerun.tensors))
        return ticks * (len(self._network.nodes) + 1) + 1

    def _at(self, name: str, phase: Phase) -> int | None:
        """The bytes of a node's call beside the activations that are held; None where it makes no such call."""
        fixed = self._simulation.fixed.get((name, phase))
        return None if fixed is None else fixed + self._workspaces.get((name, phase), 0)

    def _by_moment(self, workspaces: Mapping[CallPosition, int]) -> dict[CallPosition, int]:
        most: dict[CallPosition, int] = {}
        for (name, phase), needed in workspaces.items():
            position = (name, moment_of(phase))
            if position not in self._simulation.whole:
                most[position] = max(needed, most.get(position, 0))
        return most


class _Held:
    """The storages of a network, each a bit, and what layers keep of them."""

    def __init__(self, network: Network, simulation: Simulation) -> None:
        inputs = {name for name, _ in network.inputs}
        self._roots = simulation.roots
        owners = [node.output for node in network.nodes if self._roots[node.output] == node.output]
        self._bits = {name: 1 << at for at, name in enumerate(dict.fromkeys(owners)) if name not in inputs}
        self._sizes = [simulation.sizes[name] for name in dict.fromkeys(owners)]
        self._known: dict[int, int] = {}
        nodes = network.nodes
        self.written = [self.of([node.output]) if self._roots[node.output] == node.output else 0 for node in nodes]
        self.kept = [self._of_roots(simulation.kept_storages(node)) for node in nodes]
        self.extra = [simulation.saved[node.name][1] for node in nodes]
        self.returned = self.of(network.outputs)
        last = {bit: place for place, bit in enumerate(self.written) if bit}
        for place, node in enumerate(nodes):
            for name in node.inputs:
                if bit := self.of([name]):
                    last[bit] = max(place, last.get(bit, place))
        live, self._before = 0, [0]
        self.local: list[int] = []
        self.crossing = [0]
        ending: dict[int, int] = {}
        for bit, place in last.items():
            if not bit & self.returned:
                ending[place] = ending.get(place, 0) | bit
        for place, bit in enumerate(self.written):
            live |= bit
            self.local.append(live)
            live &= ~ending.get(place, 0)
            self._before.append(self._before[-1] | bit)
            self.crossing.append(live)

    def of(self, names: Sequence[str]) -> int:
        """The storages of activations."""
        return self._of_roots(self._roots[name] for name in names)

    def _of_roots(self, roots: Iterable[str]) -> int:
        found = 0
        for root in roots:
            found |= self._bits.get(root, 0)
        return found

    def before(self, place: int) -> int:
        """The storages that the nodes before `place` write."""
        return self._before[place]

    def returned_after(self, place: int) -> int:
        """The bytes of what the network returns that nodes behind `place` write."""
        return self.size(self.returned & ~self._before[place + 1])

    def size(self, storages: int) -> int:
        """The bytes of a set of storages."""
        found = self._known.get(storages)
        if found is None:
            left, found = storages, 0
            while left:
                low = left & -left
                found += self._sizes[low.bit_length() - 1]
                left ^= low
            self._known[storages] = found
        return found


def _most(moments: Sequence[tuple[int, int]], outside: int, size: Callable[[int], int]) -> tuple[tuple[int, int], ...]:
    """The largest of the moments that hold the same storages from `outside`."""
    found: dict[int, int] = {}
    for fixed, storages in moments:
        key = storages & outside
        found[key] = max(fixed + size(storages & ~outside), found.get(key, 0))
    return tuple((fixed, key) for key, fixed in found.items())


def _frontier(choices: list[_Choice]) -> list[_Choice]:
    """The choices that hold less than every cheaper one, the cheapest first."""
    found: list[_Choice] = []
    for one in sorted(choices, key=lambda one: (one.price, one.held_bytes)):
        if not found or one.held_bytes < found[-1].held_bytes:
            found.append(one)
    return found


def _not_under(choices: list[_Choice], better: list[_Choice], more: int, *, strict: bool) -> list[_Choice]:
    """The choices that none of the `better` ones beats even if it has to keep `more` bytes later; ties are `strict`."""
    prices = [one.price for one in better]
    found = []
    for one in choices:
        at = bisect_right(prices, one.price)
        other = better[at - 1] if at else None
        beaten = other and (
            other.held_bytes + more < one.held_bytes
            or (other.held_bytes + more == one.held_bytes and (strict or other.price < one.price))
        )
        if not beaten:
            found.append(one)
    return found


def _regions(choice: _Choice) -> tuple[Region, ...]:
    found: list[Region] = []
    each: _Choice | None = choice
    while each is not None:
        if each.part and each.part.region:
            found.append(each.part.region)
        each = each.before
    return tuple(reversed(found))
