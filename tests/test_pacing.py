"""Pacing: what a device that stops by its own clock trains, against the rule as docs/federation states it."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.allocator import Round, SubModel
from latte_cli.allocator.pacing import (
    FIRST_STEPS,
    NEAR_QUICKEST,
    paced_duration_s,
    paced_round,
    steps_within,
)
from latte_cli.errors import LatteError


def priced(parameters: int, step_s: float | None, *, steps: int = 8, sending_s: float = 0.0) -> Round:
    """A round of a sub-model with so many parameters; without a time of a step it does not fit."""
    return Round(
        sub_model=SubModel(id=f"s{parameters}", widths=(), parameters=parameters),
        device="made-up",
        memory_bytes=1,
        round_s=None if step_s is None else steps * step_s + sending_s,
        step_s=step_s,
        steps=steps if step_s else 0,
        sending_s=sending_s,
    )


# Quarters of a second, so that what ends in time is decided without rounding.
TIMES = st.integers(1, 64).map(lambda quarters: quarters / 4)
STEPS = st.integers(1, 40)


@st.composite
def catalogues(draw: st.DrawFn) -> list[Round]:
    """The sub-models of a device, each with the same steps; some do not fit its memory."""
    steps = draw(STEPS)
    return [
        priced(10 * at, draw(st.none() | TIMES), steps=steps, sending_s=draw(TIMES))
        for at in range(1, draw(st.integers(1, 6)) + 1)
    ]


@given(step_s=TIMES, steps=STEPS, sending_s=TIMES, duration_s=TIMES | st.just(inf))
def test_a_device_takes_the_steps_that_end_in_time_at_least_one_and_at_most_all(
    step_s: float, steps: int, sending_s: float, duration_s: float
) -> None:
    taken = steps_within(priced(1, step_s, steps=steps, sending_s=sending_s), duration_s)
    ending = [at for at in range(1, steps + 1) if sending_s + at * step_s <= duration_s]
    assert taken == max([1, *ending])


@given(rounds=catalogues(), duration_s=TIMES)
def test_a_device_trains_the_largest_sub_model_of_which_a_step_ends_in_time(
    rounds: list[Round], duration_s: float
) -> None:
    chosen, fitting = paced_round(rounds, duration_s), [each for each in rounds if each.step_s is not None]

    enough = [each for each in fitting if each.sending_s + (each.step_s or inf) <= duration_s]
    quickest_s = min((each.sending_s + (each.step_s or inf) for each in fitting), default=inf)
    near = [each for each in fitting if each.sending_s + (each.step_s or inf) <= NEAR_QUICKEST * quickest_s]
    assert chosen == max(enough or near, key=lambda each: each.sub_model.parameters, default=None)


@given(rounds=catalogues(), durations=st.lists(TIMES, min_size=2, max_size=2).map(sorted))
def test_a_longer_round_never_gives_a_device_less_to_train(rounds: list[Round], durations: list[float]) -> None:
    short, long = (paced_round(rounds, each) for each in durations)
    enough = short is not None and short.sending_s + (short.step_s or inf)
    if short and long and enough <= durations[0]:
        assert long.sub_model.parameters >= short.sub_model.parameters
        assert steps_within(short, durations[1]) >= steps_within(short, durations[0])


@given(fleet=st.lists(catalogues(), min_size=1, max_size=5))
def test_a_round_lasts_some_times_the_shortest_first_step_of_the_slowest_device(fleet: list[list[Round]]) -> None:
    quickest = [min((each.sending_s + each.step_s for each in own if each.step_s), default=None) for own in fleet]
    slowest = [each for each in quickest if each]
    if slowest:
        assert paced_duration_s(fleet) == FIRST_STEPS * max(slowest)
    else:
        with pytest.raises(LatteError, match="no sub-model fits the memory of any device"):
            paced_duration_s(fleet)
