"""Fine allocation: a width of its own for each channel group, as an integer program on the estimator's times."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np

from latte_cli.allocator.costs import Array, Costs, Levels, Widths
from latte_cli.allocator.goal import Least
from latte_cli.allocator.plan import Plan, plan_device
from latte_cli.allocator.pricing import Pricer, Round
from latte_cli.allocator.program import GAP, Program
from latte_cli.allocator.sub_models import SubModel
from latte_cli.estimator import Step, Work
from latte_cli.estimator.memory import memory
from latte_cli.fleet import Fleet, FleetClass, Objective
from latte_cli.network.channels import groups_to_cut, resize

SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)
"""The shares of a group's channels that it may keep, unless others are asked for."""

_ATTEMPTS = 6  # chosen: the aim is corrected by what the last attempt took, which soon changes nothing
_NEAR = 0.015  # of the round duration: what is left is not worth another attempt
_STRICTER = 1.01  # chosen: less than a channel group is wide, more than rounding
_STARTS = (0.5, 0.0, 1.0)  # chosen: the middle and both ends of what groups may keep
_POLISHING = 200  # chosen: ends a search that no longer gains, each step of which prices a round
_EXCHANGES = 8  # chosen: the groups that give most; pairs of all would be priced for little
_ANYTHING = Least()


class Search:
    """Looks for the best widths of one class; what was priced is kept for other round durations.

    The time of a step is the sum of its calls, corrected by what the estimator says of whole steps: the upper end of
    its interval over the sum, at the widths found. Each group has the widths that `shares` leave it. Raises LatteError
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
        self._costs = Costs(self._network, self._step, self.levels, self._seconds)
        self._rounds: dict[tuple[int, ...], Round] = {}
        self._cuts: list[_Cut] = []

    @property
    def rounds(self) -> list[Round]:
        """All rounds that were priced."""
        return list(self._rounds.values())

    def _seconds(self, works: Sequence[Work]) -> list[float]:
        """What each call takes on the device or, where it is longer, what the host needs to ask for it."""
        estimator = self._pricer.estimator(self._class)
        queued = estimator.device.kind.queued
        parts = estimator.calls(self._network, self._step, works)
        return [part.count * (max(part.device_s, part.host_s) if queued else part.device_s) for part in parts]

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
        for share in self._starts():
            self._look_from(self._at(share), aim)
            best = self._best_known(aim)
            if best:
                return best
        self.shortest()
        return self._best_known(aim)

    def shortest(self) -> Round | None:
        """The shortest round that was found, which does not depend on what else was looked for; None where none fits.

        It starts from the shortest with one width for all groups, and goes on with the shortest that seems to be.
        """
        uniform = [self.price(self._uniform(share)) for share in self._shares]
        best = min((each for each in uniform if each.high_s is not None), key=_high_s, default=None)
        while best:
            program, round_row, _ = self._program(dict(best.sub_model.widths), _Aim(), cuts=())
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
        """Price what looks best from `widths`, then from there, until the round is as long as it may be."""
        seen: set[tuple[int, ...]] = set()
        duration_s = aim.duration_s
        for _ in range(_ATTEMPTS):
            found = self._solve(widths, aim) or self._shortest(widths, aim)
            widths = self._polish(found, aim)
            again = tuple(widths.values()) in seen
            seen.add(tuple(widths.values()))
            made = self.price(widths)
            near = made.high_s is not None and (1 - _NEAR) * duration_s <= made.high_s and aim.met_by(made)
            if made.high_s is None and not again:
                self._cuts.append(self._cut_for(widths, made))
            elif near or (again and aim.met_by(made)) or self._little_more(widths, aim):
                return
            elif again:
                aim = replace(aim, stricter=aim.stricter * _STRICTER)

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

    def _ratio(self, widths: Widths) -> float:
        """The upper end of a step's interval over the sum of its calls; near `widths`, as far as known."""
        near = self.price(widths)
        if near.step_high_s is None:
            timed = [(key, each) for key, each in self._rounds.items() if each.step_high_s is not None]
            key, near = timed[-1]
            widths = dict(zip(self.levels, key, strict=True))
        return (near.step_high_s or 0.0) / self._costs.seconds(widths)

    def _value(self, key: tuple[int, ...]) -> float:
        widths = dict(zip(self.levels, key, strict=True))
        if self._objective is Objective.PARAMETERS:
            return float(self._costs.parameters(widths))
        return sum(log(width / self._channels[name]) for name, width in widths.items())

    # The integer program

    def _solve(self, at: Widths, aim: "_Aim") -> dict[str, int] | None:
        """The widths with the highest objective whose round seems to meet the aim, seen from `at`."""
        program, round_row, fixed_s = self._program(at, aim, self._cuts)
        program.limit(round_row, aim.duration_s - fixed_s)
        _, parameters = self._costs.tables(at)
        goal = program.row(parameters) if self._objective is Objective.PARAMETERS else program.alone(self._logarithms)
        return program.solve(goal)

    def _shortest(self, at: Widths, aim: "_Aim") -> dict[str, int]:
        """The widths with the shortest round, seen from `at`; the least of all where the memory is not enough."""
        program, round_row, _ = self._program(at, replace(aim, stricter=1.0), self._cuts)
        return program.solve(-round_row) or self._at(0.0)

    def _program(self, at: Widths, aim: "_Aim", cuts: Sequence["_Cut"]) -> tuple[Program, Array, float]:
        """The program with its limits on what is kept, and the round as coefficients and a constant, in seconds."""
        seconds, parameters = self._costs.tables(at)
        program = Program(self.levels, seconds.pairs)
        each_s, bits_s = self._class.steps * self._ratio(at) * aim.stricter, self._class.schedule.moving_s(1)
        if aim.least.parameters:
            program.limit(-program.row(parameters), parameters.constant - aim.least.parameters)
        for cut in cuts:
            row = program.row(parameters) * cut.bytes_per_parameter + program.alone(cut.by_width)
            program.limit(row, cut.limit_bytes - cut.bytes_per_parameter * parameters.constant)
        round_row = program.row(seconds) * each_s + program.row(parameters) * bits_s
        return program, round_row, self._class.overhead_s + each_s * seconds.constant + bits_s * parameters.constant

    @property
    def _logarithms(self) -> dict[str, Array]:
        return {name: np.log(np.array(widths) / widths[-1]) for name, widths in self.levels.items()}

    # Behind concatenations tables are exact nearby only: from what they say, single steps that are priced exactly

    def _polish(self, widths: dict[str, int], aim: "_Aim") -> dict[str, int]:
        """Better widths nearby: quicker ones until the round seems to be short enough, then those worth more."""
        if self._costs.tabular:
            return widths
        ratio = self._ratio(widths) * aim.stricter
        room_s = aim.duration_s - self._class.round_s(
            ratio * self._costs.seconds(widths), self._costs.parameters(widths)
        )
        while room_s < 0:
            quickest = min(self._moves(widths, ratio), key=lambda move: move.taken_s, default=None)
            if quickest is None or quickest.taken_s >= 0:
                return widths
            widths, room_s = widths | quickest.widths, room_s - quickest.taken_s
        for _ in range(_POLISHING):
            better = self._best_move(widths, ratio, room_s) or self._best_exchange(widths, ratio, room_s)
            if better is None:
                break
            widths, room_s = widths | better.widths, room_s - better.taken_s
        return widths

    def _best_move(self, widths: Widths, ratio: float, room_s: float) -> "_Move | None":
        """The move with the most gain for a second among those that there is room for."""
        gaining = [move for move in self._moves(widths, ratio) if move.gain > 0 and move.taken_s <= room_s]
        return max(gaining, key=lambda move: move.gain / max(move.taken_s, 1e-12), default=None)

    def _best_exchange(self, widths: Widths, ratio: float, room_s: float) -> "_Move | None":
        """The most gain of a narrower group and a wider one together, for the few that give the most room for it."""
        giving = [move for move in self._moves(widths, ratio) if move.gain < 0 and move.taken_s < 0]
        giving.sort(key=lambda move: move.taken_s / -move.gain)
        found = [
            _Move(widths=first.widths | then.widths, taken_s=first.taken_s + then.taken_s, gain=first.gain + then.gain)
            for first in giving[:_EXCHANGES]
            for then in self._moves({**widths, **first.widths}, ratio)
            if then.taken_s <= room_s - first.taken_s
            and then.gain > -first.gain
            and not first.widths.keys() & then.widths
        ]
        return max(found, key=lambda move: move.gain, default=None)

    def _moves(self, widths: Widths, ratio: float) -> "list[_Move]":
        """Every group one or two levels up or down."""
        found = []
        for step in (-2, -1, 1, 2):
            there = {
                name: options[options.index(widths[name]) + step]
                for name, options in self.levels.items()
                if 0 <= options.index(widths[name]) + step < len(options)
            }
            for name, (more_s, further) in self._costs.changes(widths, there).items():
                balanced = self._objective is Objective.BALANCED
                gain = log(there[name] / widths[name]) if balanced else float(further)
                taken_s = self._class.steps * ratio * more_s + self._class.schedule.moving_s(further)
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
    done: Callable[[int, str], None] = lambda *_: None,
) -> Plan:
    """The plan in which each class has widths of its own from `shares`, and at least what `least` says, class by class.

    `done` hears how many classes are, and of the last. Raises LatteError as `Search` does.
    """

    def search(fleet_class: FleetClass) -> Search:
        return Search(pricer, fleet_class, objective, shares)

    devices = []
    named: dict[tuple[tuple[str, int], ...], str] = {}
    for number, each in enumerate(fleet.classes, start=1):
        looking = search(each)
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
