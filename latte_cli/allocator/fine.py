"""Fine allocation: a width of its own for each channel group, as an integer program on the estimator's times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from latte_cli.allocator.costs import Array, Costs, Levels, Widths
from latte_cli.allocator.pricing import Pricer, Round
from latte_cli.allocator.program import GAP, Program
from latte_cli.allocator.sub_models import SubModel
from latte_cli.estimator import Step, Work
from latte_cli.estimator.memory import memory
from latte_cli.fleet import FleetClass, Objective
from latte_cli.network import Network
from latte_cli.network.channels import groups_to_cut, resize

SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)
"""The shares of a group's channels that it may keep, unless others are asked for."""

_ATTEMPTS = 6
_NEAR = 0.015  # of the round duration: what is left is not worth another attempt
_STRICTER = 1.01
_STARTS = (0.5, 0.0, 1.0)
_POLISHING = 200
_EXCHANGES = 8


def levels(network: Network, shares: Sequence[float] = SHARES) -> Levels:
    """The widths that `shares` leave each channel group; raises LatteError where there are no groups."""
    return {group.name: tuple(sorted({group.width(share) for share in shares})) for group in groups_to_cut(network)}


class Search:
    """Looks for the best widths of one class; what was priced is kept for other round durations.

    The time of a step is the sum of its calls, corrected by what the estimator says of whole steps: the upper end of
    its interval over the sum, at the widths found. Raises LatteError as `levels` and the estimator do.
    """

    def __init__(
        self, pricer: Pricer, fleet_class: FleetClass, objective: Objective, shares: Sequence[float] = SHARES
    ) -> None:
        self._pricer, self._class, self._objective = pricer, fleet_class, objective
        self._network = pricer.whole(fleet_class.batch)
        self._step = Step(optimizer=pricer.optimizer(fleet_class))
        self.levels = levels(self._network, shares)
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

    def best(self, duration_s: float) -> Round | None:
        """The round with the highest objective that meets `duration_s`; None where even the shortest does not."""
        if self.priced(self._at(1.0)).meets(duration_s):
            return self.priced(self._at(1.0))
        if all(self.priced(self._at(share)).high_s is None for share in (0.5, 0.0)):
            return None
        for share in (0.5,) if self._costs.tabular else _STARTS:
            self._look_from(self._at(share), duration_s)
            meeting = [key for key, each in self._rounds.items() if each.meets(duration_s)]
            if meeting:
                return self._rounds[max(meeting, key=self._value)]
        return None

    def _look_from(self, widths: dict[str, int], duration_s: float) -> None:
        """Price what looks best from `widths`, then from there, until the round is as long as it may be."""
        seen: set[tuple[int, ...]] = set()
        stricter = 1.0
        for _ in range(_ATTEMPTS):
            found = self._solved(widths, stricter, duration_s) or self._shortest(widths)
            widths = self._polished(found, stricter, duration_s)
            again = tuple(widths.values()) in seen
            seen.add(tuple(widths.values()))
            made = self.priced(widths)
            near = made.high_s is not None and (1 - _NEAR) * duration_s <= made.high_s <= duration_s
            if made.high_s is None and not again:
                self._cuts.append(self._cut(widths, made))
            elif near or (again and made.meets(duration_s)) or self._little_more(widths, duration_s):
                return
            elif again:
                stricter *= _STRICTER

    def _little_more(self, widths: Widths, duration_s: float) -> bool:
        """Whether these widths, whose round is too long, are worth hardly more than the best of those that meet it."""
        values = [self._value(key) for key, each in self._rounds.items() if each.meets(duration_s)]
        return bool(values) and self._value(tuple(widths.values())) <= max(values) + GAP * abs(max(values))

    def _at(self, share: float) -> dict[str, int]:
        """The level of each group at this share of its levels."""
        return {name: options[round(share * (len(options) - 1))] for name, options in self.levels.items()}

    def priced(self, widths: Widths) -> Round:
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
        near = self.priced(widths)
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

    def _solved(self, at: Widths, stricter: float, duration_s: float) -> dict[str, int] | None:
        """The widths with the highest objective whose round seems to meet `duration_s`, seen from `at`."""
        program, round_row, fixed_s = self._program(at, stricter)
        program.limit(round_row, duration_s - fixed_s)
        _, parameters = self._costs.tables(at)
        goal = program.row(parameters) if self._objective is Objective.PARAMETERS else program.alone(self._logarithms)
        return program.solved(goal)

    def _shortest(self, at: Widths) -> dict[str, int]:
        """The widths with the shortest round, seen from `at`; the least of all where the memory is not enough."""
        program, round_row, _ = self._program(at, 1.0)
        return program.solved(-round_row) or self._at(0.0)

    def _program(self, at: Widths, stricter: float) -> tuple[Program, Array, float]:
        """The program with its limits on the memory, and the round as coefficients and a constant, in seconds."""
        seconds, parameters = self._costs.tables(at)
        program = Program(self.levels, seconds.pairs)
        each_s, bits_s = self._class.steps * self._ratio(at) * stricter, self._class.schedule.moving_s(1)
        for cut in self._cuts:
            row = program.row(parameters) * cut.bytes_per_parameter + program.alone(cut.by_width)
            program.limit(row, cut.limit_bytes - cut.bytes_per_parameter * parameters.constant)
        round_row = program.row(seconds) * each_s + program.row(parameters) * bits_s
        return program, round_row, self._class.overhead_s + each_s * seconds.constant + bits_s * parameters.constant

    @property
    def _logarithms(self) -> dict[str, Array]:
        return {name: np.log(np.array(widths) / widths[-1]) for name, widths in self.levels.items()}

    # Behind concatenations tables are exact nearby only: from what they say, single steps that are priced exactly

    def _polished(self, widths: dict[str, int], stricter: float, duration_s: float) -> dict[str, int]:
        """Better widths nearby: quicker ones until the round seems to meet `duration_s`, then those worth more."""
        if self._costs.tabular:
            return widths
        ratio = self._ratio(widths) * stricter
        room_s = duration_s - self._class.round_s(ratio * self._costs.seconds(widths), self._costs.parameters(widths))
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

    def _cut(self, widths: Widths, exceeding: Round) -> "_Cut":
        """What is live at that moment, as far as it follows from the parameters and from each group's width."""
        precision = self._class.precision
        held = memory(resize(self._network, widths), self._step, precision)
        peak, parameters = held.peak, self._costs.parameters(widths)
        flowing = peak.activations_bytes + peak.temporary_bytes
        per_channel = {}
        for name, options in self.levels.items():
            other = options[0] if widths[name] != options[0] else options[-1]
            if other == widths[name]:
                continue
            changed = memory(resize(self._network, {**widths, name: other}), self._step, precision)
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
