"""Fine allocation: each channel group gets its own width, chosen by the estimator's times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, prod

import numpy as np

from latte_cli.allocator.cells import Array, Indices, Levels, Widths
from latte_cli.allocator.costs import Costs
from latte_cli.allocator.elimination import Elimination
from latte_cli.allocator.goal import Least
from latte_cli.allocator.memory_limits import MemoryLimits
from latte_cli.allocator.moves import Neighbourhood
from latte_cli.allocator.plan import Plan, plan_device
from latte_cli.allocator.pricing import Pricer, Round
from latte_cli.allocator.program import Limit, Program
from latte_cli.allocator.sub_models import SubModel
from latte_cli.allocator.upper_ends import CallTime, UpperEnd
from latte_cli.estimator import Step, Work
from latte_cli.estimator.intervals import errs_with
from latte_cli.fleet import Fleet, FleetClass, Objective
from latte_cli.network.channels import groups_to_cut

SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)
"""The shares of a group's channels that it may keep by default."""

_ATTEMPTS = 12  # chosen: each finds what the last one's price changes, which soon is nothing
_CLIMBS = (2, 10)  # chosen: the first program has the interval of a round that lasts far longer or less
_TIMED, _WRONG = 3, 3  # chosen: what three rounds or more show; programs may be as many times as wrong about others
_FEW = 512  # chosen: so many sub-models are priced if need be, in some seconds
_ANYTHING = Least()


class Search:
    """Looks for the best widths of one class; what was priced is kept for other round durations.

    A program finds the best widths from tables and the upper end of a step that was priced (`Program`, `UpperEnd`).
    The estimator prices these widths, and the next program starts from them. The search ends when a program finds
    widths that were priced before. `shares` sets the widths that each group may have. Raises LatteError where there are
    no groups, and as the estimator does.
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
        self._costs = Costs(self._network, self._step, self.levels, self._times)
        self._rounds: dict[tuple[int, ...], Round] = {}
        self._memory_limits: list[Limit] = []

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

    def price(self, widths: Widths) -> Round:
        """The round at these widths, as the estimator has it."""
        key = tuple(widths[name] for name in self.levels)
        if key not in self._rounds:
            sub_model = SubModel(
                id="-".join(map(str, key)), widths=tuple(widths.items()), parameters=self._costs.parameters(widths)
            )
            self._rounds[key] = self._pricer(sub_model, self._class)
        return self._rounds[key]

    @property
    def narrowest(self) -> Round:
        """The round of the least widths."""
        return self.price(self._at(0.0))

    def best(self, duration_s: float, least: Least = _ANYTHING) -> Round | None:
        """The round with the highest objective that was found to meet `duration_s` and to have `least`; None for none.

        What the `shortest` round and one width for all groups meet is always found.
        """
        aim = _Aim(duration_s=duration_s, least=least)
        if aim.met_by(whole := self.price(self._at(1.0))):
            return whole
        self._look(aim)
        if self._best_known(aim) is None and (shortest := self.shortest()) and shortest.meets(duration_s):
            self._look(aim)
        return self._best_known(aim)

    def _look(self, aim: "_Aim") -> None:
        """Price what looks best, seen from a round that is known, then from there, until nothing better is found.

        Where there are few widths, all are priced that may be better by as much as programs were wrong; where there
        are many, what is found too long makes the next one shorter by that much.
        """
        here, slack, fitting = self._best_known(aim) or self._last_timed(), 0.0, 0
        for _ in range(_FEW if self._few else _ATTEMPTS):
            if here is None:
                return
            program = self._program(here, aim, slack)
            if self._few:
                program = replace(program, duration_s=aim.duration_s * (1 + _WRONG * self._error(program)))
            start = self._indices_of(self._best_known(aim) or here)
            if (chosen := program.best(start, climbs=dict(enumerate(_CLIMBS)).get(fitting, 0))) is None:
                return
            widths = program.cells.widths(chosen)
            if tuple(widths.values()) in self._rounds:
                if slack >= 0:
                    return
                slack = 0.0
                continue
            found = self.price(widths)
            if found.high_s is None:
                self._note_memory(widths, found)
                continue
            here, fitting = found, fitting + 1
            slack = 0.0 if self._few else min(0.0, 1 - found.high_s / aim.duration_s)

    def _error(self, program: Program) -> float:
        """By how much of a round the program is wrong at most about those that were priced; 1 where these are few."""
        timed = [each for each in self._rounds.values() if each.high_s is not None]
        if len(timed) < _TIMED:
            return 1.0
        rounds_s = program.rounds_s(np.array([self._indices_of(each) for each in timed]))
        error: float = np.max(np.abs(np.array([_high_s(each) for each in timed]) / rounds_s - 1))
        return error

    def _best_known(self, aim: "_Aim") -> Round | None:
        meeting = [key for key, each in self._rounds.items() if aim.met_by(each)]
        return self._rounds[max(meeting, key=self._value)] if meeting else None

    def _last_timed(self) -> Round | None:
        """A round that fits the memory, of medium widths or the least; None where neither does."""
        rounds = (self.price(self._at(share)) for share in (0.5, 0.0))
        return next((each for each in rounds if each.high_s is not None), None)

    def shortest(self) -> Round | None:
        """The shortest round that was found, which does not depend on what else was looked for; None where none fits.

        It starts from the shortest with one width for all groups, and goes on with the shortest that seems to be.
        """
        uniform = [self.price(self._uniform(share)) for share in self._shares]
        best = min((each for each in uniform if each.high_s is not None), key=_high_s, default=None)
        tried: set[tuple[int, ...]] = set()
        for _ in range(_FEW if self._few else _ATTEMPTS):
            if best is None:
                break
            program = self._program(best, _Aim(duration_s=_high_s(best)), 0.0)
            program = replace(program, limits=(), excluded=frozenset(tried))
            chosen = program.shortest(self._indices_of(best))
            found = self.price(program.cells.widths(chosen))
            if found is best:
                break
            tried.add(tuple(chosen.tolist()))
            if found.meets(_high_s(best)):
                best = found
        return best

    @cached_property
    def _few(self) -> bool:
        return prod(map(len, self.levels.values())) <= _FEW

    def _at(self, share: float) -> dict[str, int]:
        """The level of each group at this share of its levels."""
        return {name: options[round(share * (len(options) - 1))] for name, options in self.levels.items()}

    def _uniform(self, share: float) -> dict[str, int]:
        """This share of the channels of each group."""
        return {group.name: group.width(share) for group in self._groups}

    def _value(self, key: tuple[int, ...]) -> float:
        widths = dict(zip(self.levels, key, strict=True))
        if self._objective is Objective.PARAMETERS:
            return float(self._costs.parameters(widths))
        return sum(log(width / self.levels[name][-1]) for name, width in widths.items())

    # Programs

    def _program(self, here: Round, aim: "_Aim", slack: float) -> Program:
        """The program by tables near a round that was priced, which looks for rounds longer by `slack` of `aim`."""
        widths = dict(here.sub_model.widths)
        table = self._costs.table(widths)
        step = table.step(table.at(table.cells.indices_of(widths)))
        limits = self._memory_limits.copy()
        if aim.least.parameters:
            most = table.constant.parameters - aim.least.parameters
            limits.append(Limit(cells=-table.amounts[:, 1], most=most))
        known = (key for key, each in self._rounds.items() if not aim.met_by(each))
        return Program(
            table=table,
            elimination=self._elimination,
            neighbourhood=self._neighbourhood,
            upper=UpperEnd.from_estimate(*step, here.step_s or 0.0, here.step_high_s or 0.0),
            value=table.amounts[:, 1] if self._objective is Objective.PARAMETERS else self._logarithms,
            duration_s=aim.duration_s * (1 + slack),
            steps=self._class.steps,
            parameter_s=self._class.schedule.moving_s(1),
            fixed_s=self._class.overhead_s,
            limits=limits,
            excluded=frozenset(self._levels_of(key) for key in known),
        )

    @cached_property
    def _elimination(self) -> Elimination:
        return Elimination(self._costs.cells)

    @cached_property
    def _neighbourhood(self) -> Neighbourhood:
        return Neighbourhood(self._costs.cells)

    @cached_property
    def _logarithms(self) -> Array:
        """The logarithm of each level's share of its group's channels, by cell."""
        found = np.zeros(self._costs.cells.size)
        for place, widths in enumerate(self.levels.values()):
            found[self._costs.cells.single(place)] = np.log(np.array(widths) / widths[-1])
        return found

    def _levels_of(self, key: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(options.index(width) for options, width in zip(self.levels.values(), key, strict=True))

    def _indices_of(self, found: Round) -> Indices:
        return self._costs.cells.indices_of(dict(found.sub_model.widths))

    def _note_memory(self, widths: Widths, exceeding: Round) -> None:
        """Limit what is live at the moment that exceeded the memory; few widths are priced to know it exactly."""
        if not self._few:
            limit_bytes = self._class.memory_bytes or self._pricer.estimator(self._class).device.memory_bytes or 0
            table = self._costs.table(widths)
            self._memory_limits.append(self._memory.limit(widths, exceeding.memory_bytes, limit_bytes, table))

    @cached_property
    def _memory(self) -> MemoryLimits:
        fused = self._pricer.estimator(self._class).device.kind.queued
        return MemoryLimits(self._network, self._step, self._costs.cells, self._class.precision, fused=fused)


@dataclass(frozen=True, kw_only=True)
class _Aim:
    """What a round has to be: no longer than `duration_s`, with `least`."""

    duration_s: float
    least: Least = _ANYTHING

    def met_by(self, found: Round) -> bool:
        return found.meets(self.duration_s) and self.least.kept_by(found)


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
    """The plan in which each class has separate widths from `shares`, and at least what `least` says, class by class.

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
