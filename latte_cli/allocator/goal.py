"""Goals: what the duration of a round is found by where it is not given, and what holds then for each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from latte_cli.allocator.curve import CurvePoint, busiest, curve, point, shortest_point
from latte_cli.allocator.plan import Priced, largest
from latte_cli.allocator.pricing import Round


@dataclass(frozen=True, kw_only=True)
class Least:
    """What the sub-model of a class has at least: parameters, and seconds of its round."""

    parameters: int = 0
    round_s: float = 0.0

    def kept_by(self, found: Round) -> bool:
        """Whether a round with times has both."""
        return found.sub_model.parameters >= self.parameters and (found.round_s or 0.0) >= self.round_s


@dataclass(frozen=True, kw_only=True)
class PlanTarget:
    """What a plan is made for: rounds of `duration_s`, in which each class keeps at least `least` (None: anything).

    `known` are rounds of each class that do, where there is one.
    """

    duration_s: float
    least: Sequence[Least] | None = None
    known: Sequence[Round | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One of these: a mean share of the parameters (`capacity`), that of every device (`floor`), or a share of the
    round that devices wait at most (`idle`).

    `fine` says that the plan will have separate widths for each channel group, which advice then need not name.
    """

    capacity: float | None = None
    floor: float | None = None
    idle: float | None = None
    fine: bool = False

    def __bool__(self) -> bool:
        return (self.capacity, self.floor, self.idle) != (None, None, None)

    def point(self, priced: Priced, parameters: int) -> CurvePoint:
        """The round duration for it, in which each class trains the largest of its rounds.

        `parameters` are those of the whole model. Raises LatteError (code 3) where there is none.
        """
        points = curve(priced, parameters)
        if self.idle is not None:
            return busiest(points, self.idle, fine=self.fine)
        return shortest_point(points, capacity=self.capacity or 0.0, floor=self.floor or 0.0)

    def target(self, priced: Priced, parameters: int) -> PlanTarget:
        """The duration of its `point`, and what each class has to keep there; raises LatteError as `point` does."""
        duration_s = self.point(priced, parameters).round_duration_s
        return PlanTarget(
            duration_s=duration_s, least=[self.least(rounds, parameters, duration_s) for _, rounds in priced]
        )

    def least(self, rounds: Sequence[Round], parameters: int, duration_s: float) -> Least:
        """What a class has to keep for the goal to hold at the `point`, whatever else it may train.

        `rounds` are those of the class that the point was found by. The largest of them that meets the duration keeps
        this; who keeps as much, and trains as long, keeps as much on average and waits no longer.
        """
        uniform = largest(rounds, duration_s)
        if uniform is None:
            return Least(round_s=0.0 if self.idle is None else (1 - self.idle) * duration_s)
        kept = uniform.sub_model.parameters
        if self.floor is not None:
            return Least(parameters=min(kept, ceil(self.floor * parameters)))
        if self.capacity is not None:
            return Least(parameters=kept)
        return Least(parameters=kept, round_s=uniform.round_s or 0.0) if self.idle is not None else Least()


def curve_towards(
    priced: Priced, parameters: int, *, goal: Goal, duration_s: float | None = None
) -> tuple[list[CurvePoint], CurvePoint | None]:
    """The points of the curve, and the one that `goal`, or else `duration_s`, asks for; None where neither does.

    A point that a goal names by its duration is among them. Raises LatteError as `Goal.point` does.
    """
    points = curve(priced, parameters)
    if goal:
        return points, goal.point(priced, parameters)
    if duration_s is None:
        return points, None
    chosen = point(priced, duration_s, parameters)
    return sorted({*points, chosen}, key=lambda each: each.round_duration_s), chosen
