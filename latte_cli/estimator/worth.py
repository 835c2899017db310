"""Worth: which calls of a step to measure next, so that its time is known best after some seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from latte_cli.tasks import Task

_MOST_ALIKE = 0.9  # chosen: one call never tells all of its siblings


@dataclass(frozen=True, kw_only=True)
class UncertainCall:
    """A call of a step whose time is not known well: `half_s` is half of its interval times its count in the step.

    A measurement takes `cost_s`, and errs by `error_s` itself. The errors of calls of one `group` have the share
    `alike` of their variance in common.
    """

    task: Task
    half_s: float
    cost_s: float
    error_s: float = 0.0
    group: object = ""
    alike: float = 0.0


class _Group:
    """The calls of a group that are not measured yet, as sums, and how many were."""

    def __init__(self) -> None:
        self.halves_s, self.squares, self.measured = 0.0, 0.0, 0

    def add(self, half_s: float, times: int = 1) -> None:
        self.halves_s += times * half_s
        self.squares += times * half_s**2

    def variance(self, alike: float, *, less_s: float = 0.0, more: int = 0) -> float:
        """a' (Σ h)² + (1 - a) Σ h² without a call of half `less_s`, once `more` calls are measured.

        What is left of the variance in common after n measurements is a' = a (1 - a) / (1 - a + n a): each of them
        observes it with the error that is its own.
        """
        common = alike * (1 - alike) / (1 - alike + (self.measured + more) * alike)
        return common * (self.halves_s - less_s) ** 2 + (1 - alike) * (self.squares - less_s**2)


def worth_measuring(
    calls: Sequence[UncertainCall],
    budget_s: float,
    *,
    measured: Sequence[UncertainCall] = (),
    overhead_s: float = 0.0,
) -> Iterator[UncertainCall]:
    """Which of `calls` to measure within `budget_s`, the most worthwhile first, each once and none of those `measured`.

    The next one is always that which takes most off the variance of the step per second of measuring, of those whose
    cost, and `overhead_s` with it, fits what is left of the budget.
    """
    gone = {call.task for call in measured}
    left = {call.task: call for call in calls if call.task not in gone}
    groups: dict[object, _Group] = {}
    for call in left.values():
        groups.setdefault(call.group, _Group()).add(call.half_s)
    for call in measured:
        groups.setdefault(call.group, _Group()).measured += 1

    def rate(call: UncertainCall) -> float:
        return _gain(call, groups[call.group]) / max(call.cost_s + overhead_s, 1e-9)  # chosen: no cost at all divides

    while affordable := [call for call in left.values() if call.cost_s + overhead_s <= budget_s]:
        best = max(affordable, key=rate)
        del left[best.task]
        group = groups[best.group]
        group.add(best.half_s, -1)
        group.measured += 1
        budget_s -= best.cost_s + overhead_s
        yield best


def _gain(call: UncertainCall, group: _Group) -> float:
    """What measuring `call` takes off the variance of the step.

    What is left of its share, v, is v e² / (v + e²), where the measurement errs by e.
    """
    alike = min(call.alike, _MOST_ALIKE)
    own, error = (1 - alike) * call.half_s**2, call.error_s**2
    left = own * error / (own + error) if error else 0.0
    return group.variance(alike) - group.variance(alike, less_s=call.half_s, more=1) - left
