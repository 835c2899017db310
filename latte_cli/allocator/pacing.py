"""Pacing: how much of its work a device does in a round that ends at a given time, and with which sub-model.

A device that stops by its own clock cannot be late: what it is given follows from mean times, not from upper ends of
intervals, which are for promises.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from latte_cli.allocator.pricing import Round
from latte_cli.errors import LatteError

NEAR_QUICKEST = 1.25  # chosen: a step that is hardly longer trains more of the network; not compared with others
"""Where no step of a device ends in time, its step takes at most so many times the quickest sub-model's."""

FIRST_STEPS = 2.0  # chosen: few, since short rounds were the quickest; docs/study.md compares it with tuned rounds
"""A round lasts so many times as long as the slowest device needs to receive, step and send at the least."""


class Deadline(StrEnum):
    """What the end of a round means for a device that has not done all its work.

    `NONE`: the round waits for it. `DROP`: its work is lost. `PARTIAL`: it stops in time, after at least one step, and
    what it has learned counts (FedProx, Li et al., 2020).
    """

    NONE = "none"
    DROP = "drop"
    PARTIAL = "partial"


def steps_within(found: Round, duration_s: float) -> int:
    """The whole steps of the round, at its mean, that end within `duration_s`: at least one, at most all."""
    left_s = max(0.0, min(duration_s - found.sending_s, 1e300))
    return max(1, min(found.steps, int(left_s / found.step_s) if found.step_s else found.steps))


def paced_round(rounds: Iterable[Round], duration_s: float) -> Round | None:
    """What a device trains that stops at `duration_s`; None where nothing fits its memory.

    It is the largest sub-model of which a step ends in time; else the largest whose step takes at most NEAR_QUICKEST
    times that of the quickest. A wide sub-model that trains few steps was as soon or sooner at its accuracy than a
    narrow one that trains more (docs/study.md).
    """
    fitting = [each for each in rounds if each.step_s is not None]
    if not fitting:
        return None
    enough = [each for each in fitting if _first_step_s(each) <= duration_s]
    quickest_s = min(_first_step_s(each) for each in fitting)
    near = (each for each in fitting if _first_step_s(each) <= NEAR_QUICKEST * quickest_s)
    return max(enough or near, key=lambda each: (each.sub_model.parameters, -(each.round_s or 0.0)))


def _first_step_s(found: Round) -> float:
    """How long it takes to receive the sub-model, to train a step and to send what was learned."""
    return found.sending_s + (found.step_s or 0.0)


def paced_duration_s(priced: Sequence[Sequence[Round]]) -> float:
    """The round duration for devices that stop by their own clock: FIRST_STEPS times the slowest one's first step.

    That is the time to receive a sub-model, to train one step of it and to send it, with the sub-model for which it is
    shortest. `priced` are the rounds of each device. Raises LatteError where nothing fits any device.
    """
    fitting = ([_first_step_s(each) for each in rounds if each.step_s is not None] for rounds in priced)
    slowest_s = max((min(steps_s) for steps_s in fitting if steps_s), default=0.0)
    if not slowest_s:
        raise LatteError("no sub-model fits the memory of any device", hint="smaller widths or batches need less")
    return FIRST_STEPS * slowest_s
