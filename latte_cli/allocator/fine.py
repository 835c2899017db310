"""Fine allocation: a width of its own for each channel group, as an integer program on the estimator's times."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import log, prod

import numpy as np

from latte_cli.allocator.costs import Array, Costs, CostTable, Levels, Widths
from latte_cli.allocator.goal import Least
from latte_cli.allocator.plan import Plan, plan_device
from latte_cli.allocator.pricing import Pricer, Round
from latte_cli.allocator.program import GAP, Program
from latte_cli.allocator.sub_models import SubModel
from latte_cli.allocator.upper_ends import CallTime, UpperEnd, Weigh
from latte_cli.estimator import Step, Work
from latte_cli.estimator.intervals import errs_with
from latte_cli.estimator.memory import memory
from latte_cli.fleet import Fleet, FleetClass, Objective
from latte_cli.layers import Layer
from latte_cli.network.channels import groups_to_cut, resize

SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)
"""The shares of a group's channels that it may keep, unless others are asked for."""

_ATTEMPTS = 10  # chosen: the aim is corrected by what the last attempt took, which soon changes nothing
_NEAR = 0.015  # of the round duration: what is left is not worth another attempt
_STRICTER = 1.01  # chosen: less than a channel group is wide, more than rounding
_STARTS = (0.5, 0.0, 1.0)  # chosen: the middle and both ends of what groups may keep
_POLISHING = 200  # chosen: ends a search that no longer gains, each step of which prices a round
_EXCHANGES = 8  # chosen: the groups that give most; pairs of all would be priced for little
_FEW = 512  # chosen: sub-models that are looked at one by one, in under a second
_PRICED = 60  # chosen: the last moves that are priced; some 0.1 s each for a network of 50 layers
_ANYTHING = Least()


class Search:
    """Looks for the best widths of one class; what was priced is kept for other round durations.

    The program's limit on the round is a sum over its calls: what each adds to the upper end of a step that was priced
    (`UpperEnd`). What it finds is priced, and gives another limit, until nothing changes. In the end moves of one group
    or two that may meet the round are priced. Each group has the widths that `shares` leave it. Raises LatteError
    where there are no groups, and as the estimator does.
    """

    def __init__(
        self, pricer: Pricer, fleet_class: FleetClass, objective: Objective, shares: Sequence[float] = SHARES
    ) -> None:
        self._pricer, self._class, self._objective = pricer, fleet_class, objective
        self._network = pricer.whole(fleet_class.batch)
        self._step = Step(optimizer=pricer.optimizer(fleet_class))
        self._shares = shares
        self._groups = groups_to_cut(self._network)
        self.levels: Levels = {
            group.name: tuple(sorted({group.width(share) for share in shares})) for group in self._groups
        }
        self._channels = {name: widths[-1] for name, widths in self.levels.items()}
        self._costs = Costs(self._network, self._step, self.levels, self._times)
        self._rounds: dict[tuple[int, ...], Round] = {}
        self._uppers: dict[tuple[int, ...], UpperEnd] = {}
        self._tables: dict[UpperEnd, CostTable] = {}
        self._cuts: list[_Cut] = []

    @property
    def rounds(self) -> list[Round]:
        """All rounds that were priced."""
        return list(self._rounds.values())

    def _times(self, works: Sequence[Work]) -> list[CallTime]:
        """What each call takes on the device or, where it is longer, what the host needs to ask for it."""
        estimator = self._pricer.estimator(self._class)
        queued = estimator.device.kind.queued
        rows = estimator.calls(self._network, self._step, works)
        return [
            CallTime(
                seconds=part.count * (max(part.device_s, part.host_s) if queued else part.device_s),
                half_s=part.count * (part.high_s - part.device_s),
                alike=timing.alike if timing else 1.0,
                errs_with=errs_with(part),
            )
            for part, timing in rows
        ]

    @property
    def narrowest(self) -> Round:
        """The round of the least widths."""
        return self.price(self._at(0.0))

    def best(self, duration_s: float, least: Least = _ANYTHING) -> Round | None:
        """The round with the highest objective that was found to meet `duration_s` and to have `least`; None for none.

        What the `shortest` round and one width for all groups meet is always found.
        """
        aim = _Aim(duration_s=duration_s, least=least)
        if aim.met_by(self.price(self._at(1.0))):
            return self.price(self._at(1.0))
        self._look(aim)
        while (best := self._best_known(aim)) and self._has_better_nearby(best, aim):
            pass
        return best

    def _look(self, aim: "_Aim") -> None:
        """Price what looks best; all that may do where the program is not exact and there are few widths."""
        for share in self._starts():
            self._look_from(self._at(share), aim)
            if self._best_known(aim):
                break
        if (self._cuts or not self._costs.tabular) and prod(map(len, self.levels.values())) <= _FEW:
            self._look_at_all(aim)
        if self._best_known(aim) is None:
            self.shortest()
        while self._best_known(aim) is None and self._has_shorter_nearby(aim):
            pass

    def shortest(self) -> Round | None:
        """The shortest round that was found, which does not depend on what else was looked for; None where none fits.

        It starts from the shortest with one width for all groups, and goes on with the shortest that seems to be.
        """
        uniform = [self.price(self._uniform(share)) for share in self._shares]
        best = min((each for each in uniform if each.high_s is not None), key=_high_s, default=None)
        while best:
            widths = dict(best.sub_model.widths)
            program = self._program(widths, _ANY_AIM, ())
            round_row, _ = self._row(program, widths, self._upper(widths))
            made = self.price(program.solve(-round_row) or self._at(0.0))
            if made.high_s is None or made.high_s >= _high_s(best):
                break
            best = made
        return best

    def _starts(self) -> tuple[float, ...]:
        """Where to look from; nowhere if nothing seems to fit the memory."""
        if all(self.price(self._at(share)).high_s is None for share in (0.5, 0.0)):
            return ()
        return (0.5,) if self._costs.tabular else _STARTS

    def _best_known(self, aim: "_Aim") -> Round | None:
        meeting = [key for key, each in self._rounds.items() if aim.met_by(each)]
        return self._rounds[max(meeting, key=self._value)] if meeting else None

    def _look_from(self, widths: dict[str, int], aim: "_Aim") -> None:
        """Price what looks best from `widths`, then from there, until the round is as long as it may be.

        Where tables are exact, what each of these adds to the round at most is a limit from then on.
        """
        seen: set[tuple[int, ...]] = set()
        uppers = [self._upper(widths)]
        for _ in range(_ATTEMPTS):
            found = self._solve(widths, aim, uppers) or self._shortest(widths, uppers)
            widths = self._polish(found, aim, uppers[-1])
            again = tuple(widths.values()) in seen
            seen.add(tuple(widths.values()))
            made = self.price(widths)
            meets = aim.met_by(made)
            if made.high_s is None and not again:
                self._cuts.append(self._cut_for(widths, made))
            elif (meets and (again or _high_s(made) >= (1 - _NEAR) * aim.duration_s)) or self._little_more(widths, aim):
                return
            elif again or not (meets or self._costs.tabular):
                aim = replace(aim, stricter=aim.stricter * _STRICTER)
            uppers = [*(() if meets or not self._costs.tabular else uppers), self._upper(widths)]

    def _look_at_all(self, aim: "_Aim") -> None:
        """Price all widths whose round seems to meet the aim, from those that are worth most, until one does."""
        timed = next((each for each in self.rounds if each.high_s is not None), None)
        if timed is None:
            return
        upper = self._upper(dict(timed.sub_model.widths))
        for key in sorted(product(*self.levels.values()), key=self._value, reverse=True):
            widths = dict(zip(self.levels, key, strict=True))
            if self._room(widths, aim, upper)[1] >= -_NEAR * aim.duration_s and aim.met_by(self.price(widths)):
                return

    def _has_shorter_nearby(self, aim: "_Aim") -> bool:
        """Whether a move from the shortest round that is known takes less time when it is priced."""
        known = [each for each in self.rounds if each.high_s is not None and aim.least.kept_by(each)]
        best = min(known, key=_high_s, default=None)
        if best is None:
            return False
        widths = dict(best.sub_model.widths)
        moves = sorted(self._moves(widths, self._upper(widths).weigh), key=lambda move: move.taken_s)
        tried = (self.price(widths | move.widths) for move in moves[:_EXCHANGES])
        return any(each.meets(_high_s(best)) and _high_s(each) < _high_s(best) for each in tried)

    def _has_better_nearby(self, best: Round, aim: "_Aim") -> bool:
        """Whether a move of one group, or of two, is worth more and meets the aim when it is priced."""
        widths = dict(best.sub_model.widths)
        weigh, room_s = self._upper(widths).weigh, aim.duration_s - _high_s(best)
        if not self._costs.tabular:
            room_s += _NEAR * aim.duration_s  # where tables are exact, a round is no shorter than they say
        moves = [*self._moves(widths, weigh), *self._exchanges(widths, weigh)]
        moves = [move for move in moves if move.gain > 0 and move.taken_s <= room_s]
        moves.sort(key=lambda move: -move.gain)
        return any(aim.met_by(self.price(widths | move.widths)) for move in moves[:_PRICED])

    def _little_more(self, widths: Widths, aim: "_Aim") -> bool:
        """Whether these widths, whose round is too long, are worth hardly more than the best of those that meet it."""
        best = self._best_known(aim)
        if best is None:
            return False
        value = self._value(tuple(dict(best.sub_model.widths)[name] for name in self.levels))
        return self._value(tuple(widths.values())) <= value + GAP * abs(value)

    def _at(self, share: float) -> dict[str, int]:
        """The level of each group at this share of its levels."""
        return {name: options[round(share * (len(options) - 1))] for name, options in self.levels.items()}

    def _uniform(self, share: float) -> dict[str, int]:
        """This share of the channels of each group."""
        return {group.name: group.width(share) for group in self._groups}

    def price(self, widths: Widths) -> Round:
        """The round at these widths, as the estimator has it."""
        key = tuple(widths[name] for name in self.levels)
        if key not in self._rounds:
            sub_model = SubModel(
                id="-".join(map(str, key)), widths=tuple(widths.items()), parameters=self._costs.parameters(widths)
            )
            self._rounds[key] = self._pricer(sub_model, self._class)
        return self._rounds[key]

    def _upper(self, widths: Widths) -> UpperEnd:
        """The upper end of a step seen from `widths` or, where their step does not fit, from the last one that did."""
        key, near = tuple(widths[name] for name in self.levels), self.price(widths)
        if near.step_s is None or near.step_high_s is None:
            key, near = [(key, each) for key, each in self._rounds.items() if each.step_high_s is not None][-1]
        if key not in self._uppers:
            calls = self._costs.calls(dict(zip(self.levels, key, strict=True)))
            self._uppers[key] = UpperEnd.from_estimate(calls, near.step_s or 0.0, near.step_high_s or 0.0)
        return self._uppers[key]

    def _value(self, key: tuple[int, ...]) -> float:
        widths = dict(zip(self.levels, key, strict=True))
        if self._objective is Objective.PARAMETERS:
            return float(self._costs.parameters(widths))
        return sum(log(width / self._channels[name]) for name, width in widths.items())

    # The integer program

    def _solve(self, at: Widths, aim: "_Aim", uppers: Sequence[UpperEnd]) -> dict[str, int] | None:
        """The widths with the highest objective whose round seems to meet the aim, seen from `at`."""
        program = self._program(at, aim, self._cuts)
        for upper in uppers:
            row, fixed_s = self._row(program, at, upper, stricter=aim.stricter)
            program.limit(row, aim.duration_s - fixed_s)
        sizes = self._costs.sizes(at)
        return program.solve(
            program.row(sizes) if self._objective is Objective.PARAMETERS else program.alone(self._logarithms)
        )

    def _shortest(self, at: Widths, uppers: Sequence[UpperEnd]) -> dict[str, int]:
        """The widths with the shortest round, seen from `at`; the least of all where the memory is not enough."""
        program = self._program(at, _ANY_AIM, self._cuts)
        row, _ = self._row(program, at, uppers[-1])
        return program.solve(-row) or self._at(0.0)

    def _program(self, at: Widths, aim: "_Aim", cuts: Sequence["_Cut"]) -> Program:
        """The program with its limits on what is kept."""
        parameters = self._costs.sizes(at)
        program = Program(self.levels, parameters.pairs)
        if aim.least.parameters:
            program.limit(-program.row(parameters), parameters.constant - aim.least.parameters)
        for cut in cuts:
            row = program.row(parameters) * cut.bytes_per_parameter + program.alone(cut.by_width)
            program.limit(row, cut.limit_bytes - cut.bytes_per_parameter * parameters.constant)
        return program

    def _row(self, program: Program, at: Widths, upper: UpperEnd, *, stricter: float = 1.0) -> tuple[Array, float]:
        """The round as coefficients of the program and a constant, in seconds."""
        seconds, parameters = self._times_of(at, upper), self._costs.sizes(at)
        each_s, bits_s = self._class.steps * stricter, self._class.schedule.moving_s(1)
        row = program.row(seconds) * each_s + program.row(parameters) * bits_s
        return row, self._class.overhead_s + each_s * seconds.constant + bits_s * parameters.constant

    def _times_of(self, at: Widths, upper: UpperEnd) -> CostTable:
        """What calls add to the upper end, near `at`; made once where tables are exact and so the same anywhere."""
        if not self._costs.tabular:
            return self._costs.times(at, upper.weigh)
        if upper not in self._tables:
            self._tables[upper] = self._costs.times(at, upper.weigh)
        return self._tables[upper]

    @property
    def _logarithms(self) -> dict[str, Array]:
        return {name: np.log(np.array(widths) / widths[-1]) for name, widths in self.levels.items()}

    # Behind concatenations tables are exact nearby only: from what they say, single steps that are priced exactly

    def _polish(self, widths: dict[str, int], aim: "_Aim", upper: UpperEnd) -> dict[str, int]:
        """Better widths nearby: quicker ones until the round seems to be short enough, then those worth more."""
        if self._costs.tabular:
            return widths
        weigh, room_s = self._room(widths, aim, upper)
        while room_s < 0:
            quickest = min(self._moves(widths, weigh), key=lambda move: move.taken_s, default=None)
            if quickest is None or quickest.taken_s >= 0:
                return widths
            widths = widths | quickest.widths
            weigh, room_s = self._room(widths, aim, upper)
        for _ in range(_POLISHING):
            better = self._best_move(widths, weigh, room_s) or self._best_exchange(widths, weigh, room_s)
            if better is None or self._room(widths | better.widths, aim, upper)[1] < 0:
                break
            widths = widths | better.widths
            weigh, room_s = self._room(widths, aim, upper)
        return widths

    def _room(self, widths: Widths, aim: "_Aim", upper: UpperEnd) -> tuple[Weigh, float]:
        """What calls count for seen from these widths, and how much longer the round might be."""
        here = upper.seen_from(self._costs.calls(widths))

        def weigh(layer: Layer, time: CallTime) -> float:
            return aim.stricter * here.weigh(layer, time)

        seconds, parameters = self._costs.seconds(widths, weigh), self._costs.parameters(widths)
        return weigh, aim.duration_s - self._class.round_s(seconds, parameters)

    def _best_move(self, widths: Widths, weigh: Weigh, room_s: float) -> "_Move | None":
        """The move with the most gain for a second among those that there is room for."""
        gaining = [move for move in self._moves(widths, weigh) if move.gain > 0 and move.taken_s <= room_s]
        return max(gaining, key=lambda move: move.gain / max(move.taken_s, 1e-12), default=None)

    def _best_exchange(self, widths: Widths, weigh: Weigh, room_s: float) -> "_Move | None":
        """The exchange with the most gain among those that there is room for."""
        found = [move for move in self._exchanges(widths, weigh) if move.gain > 0 and move.taken_s <= room_s]
        return max(found, key=lambda move: move.gain, default=None)

    def _exchanges(self, widths: Widths, weigh: Weigh) -> "list[_Move]":
        """A narrower group and another move together, for the few that give the most room for what they lose."""
        giving = [move for move in self._moves(widths, weigh) if move.gain < 0 and move.taken_s < 0]
        giving.sort(key=lambda move: move.taken_s / -move.gain)
        return [
            _Move(widths=first.widths | then.widths, taken_s=first.taken_s + then.taken_s, gain=first.gain + then.gain)
            for first in giving[:_EXCHANGES]
            for then in self._moves({**widths, **first.widths}, weigh)
            if not first.widths.keys() & then.widths
        ]

    def _moves(self, widths: Widths, weigh: Weigh) -> "list[_Move]":
        """Every group one or two levels up or down."""
        found = []
        for step in (-2, -1, 1, 2):
            there = {
                name: options[options.index(widths[name]) + step]
                for name, options in self.levels.items()
                if 0 <= options.index(widths[name]) + step < len(options)
            }
            for name, (more_s, further) in self._costs.changes(widths, there, weigh).items():
                balanced = self._objective is Objective.BALANCED
                gain = log(there[name] / widths[name]) if balanced else float(further)
                taken_s = self._class.steps * more_s + self._class.schedule.moving_s(further)
                move = _Move(widths={name: there[name]}, taken_s=taken_s, gain=gain)
                if step < 0 or self._within_cuts({**widths, **move.widths}):
                    found.append(move)
        return found

    # Memory: a limit on what is live at the moment that exceeded it

    def _cut_for(self, widths: Widths, exceeding: Round) -> "_Cut":
        """What is live at that moment, as far as it follows from the parameters and from each group's width."""
        precision = self._class.precision
        fused = self._pricer.estimator(self._class).device.kind.queued
        held = memory(resize(self._network, widths), self._step, precision, fused=fused)
        peak, parameters = held.peak, self._costs.parameters(widths)
        flowing = peak.activations_bytes + peak.temporary_bytes
        per_channel = {}
        for name, options in self.levels.items():
            other = options[0] if widths[name] != options[0] else options[-1]
            if other == widths[name]:
                continue
            changed = memory(resize(self._network, {**widths, name: other}), self._step, precision, fused=fused)
            moment = next(each for each in changed.timeline if (each.name, each.phase) == (peak.name, peak.phase))
            difference = moment.activations_bytes + moment.temporary_bytes - flowing
            per_channel[name] = difference / (other - widths[name])
        limit_bytes = self._class.memory_bytes or self._pricer.estimator(self._class).device.memory_bytes or 0
        per_parameter = (exceeding.memory_bytes - flowing) / parameters
        moved = sum(each * widths[name] for name, each in per_channel.items())
        return _Cut(
            bytes_per_parameter=per_parameter,
            by_width={name: each * np.array(self.levels[name]) for name, each in per_channel.items()},
            limit_bytes=limit_bytes - flowing + moved,
        )

    def _within_cuts(self, widths: Widths) -> bool:
        parameters = self._costs.parameters(widths) if self._cuts else 0
        return all(
            cut.bytes_per_parameter * parameters
            + sum(float(each[self.levels[name].index(widths[name])]) for name, each in cut.by_width.items())
            <= cut.limit_bytes
            for cut in self._cuts
        )


@dataclass(frozen=True, kw_only=True)
class _Aim:
    """What a round has to be: no longer than `duration_s`, with `least`; estimates count for `stricter` times more."""

    duration_s: float = 0.0
    least: Least = _ANYTHING
    stricter: float = 1.0

    def met_by(self, found: Round) -> bool:
        return found.meets(self.duration_s) and self.least.kept_by(found)


@dataclass(frozen=True, kw_only=True)
class _Move:
    """Other widths of some groups, the seconds that a round takes longer for it, and what the objective gains."""

    widths: dict[str, int]
    taken_s: float
    gain: float


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """bytes_per_parameter · parameters + Σ by_width[g][level of g] <= limit_bytes."""

    bytes_per_parameter: float
    by_width: Mapping[str, Array]
    limit_bytes: float


_ANY_AIM = _Aim()


def _high_s(found: Round) -> float:
    return found.high_s or 0.0


# A fleet


def allocate_fine(
    fleet: Fleet,
    pricer: Pricer,
    round_duration_s: float,
    *,
    objective: Objective,
    shares: Sequence[float] = SHARES,
    least: Sequence[Least] | None = None,
    known: Sequence[Round | None] | None = None,
    done: Callable[[int, str], None] = lambda *_: None,
) -> Plan:
    """The plan in which each class has widths of its own from `shares`, and at least what `least` says, class by class.

    `known` are rounds that do for the classes, if there are any: what is found is no worse. `done` hears how many
    classes are, and of the last. Raises LatteError as `Search` does.
    """

    def search(fleet_class: FleetClass) -> Search:
        return Search(pricer, fleet_class, objective, shares)

    devices = []
    named: dict[tuple[tuple[str, int], ...], str] = {}
    for number, each in enumerate(fleet.classes, start=1):
        looking = search(each)
        if known and (one := known[number - 1]):
            looking.price(dict(one.sub_model.widths))
        best = looking.best(round_duration_s, least[number - 1] if least else _ANYTHING)
        if best:
            name = named.setdefault(best.sub_model.widths, f"fine{len(named) + 1}")
            best = replace(best, sub_model=replace(best.sub_model, id=name))
        devices.append(plan_device(each, [best or looking.narrowest], best, complete=False))
        done(number, each.name)
    if not all(each.feasible for each in devices):
        shortest = [search(each).shortest() for each in fleet.classes]
        devices = [
            replace(each, found_s=found.high_s if found else None)
            for each, found in zip(devices, shortest, strict=True)
        ]
    sub_models = {each.sub_model.id: each.sub_model for each in devices if each.sub_model}
    return Plan(round_duration_s=round_duration_s, sub_models=tuple(sub_models.values()), devices=tuple(devices))
