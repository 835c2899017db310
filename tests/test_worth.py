"""Which calls are worth measuring: the greedy rule, its budget, and what calls have in common."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_rows import SETTINGS

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.estimator.worth import UncertainCall, worth_measuring
from latte_cli.layers import Phase, Softmax
from latte_cli.tasks import Task


def call(number: int, half_s: float, cost_s: float = 1.0, **more) -> UncertainCall:
    task = Task(
        layer=Softmax(shape=(8, number + 2)), phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT, settings=SETTINGS
    )
    return UncertainCall(task=task, half_s=half_s, cost_s=cost_s, **more)


def variance(calls, chosen) -> float:
    """The variance of a step, up to a factor, once `chosen` are measured: written anew from the model's words."""
    chosen_tasks = {one.task for one in chosen}
    total = sum(1 / (1 / ((1 - one.alike) * one.half_s**2) + 1 / one.error_s**2) for one in chosen if one.error_s)
    for group in {one.group for one in calls}:
        own = [one for one in calls if one.group == group]
        count = sum(one.task in chosen_tasks for one in own)
        halves = [one.half_s for one in own if one.task not in chosen_tasks]
        alike = own[0].alike
        common = 1 / (1 / alike + count / (1 - alike)) if alike else 0.0
        total += common * sum(halves) ** 2 + (1 - alike) * sum(half**2 for half in halves)
    return total


ONE = st.just(1.0)


@st.composite
def call_lists(draw, costs=ONE, most: int = 7):
    alike = {group: draw(st.sampled_from((0.0, 0.3, 0.8))) for group in "ab"}
    calls = []
    for number in range(draw(st.integers(0, most))):
        group, half_s = draw(st.sampled_from("ab")), draw(st.floats(0.01, 10))
        error_s = draw(st.sampled_from((0.0, 0.1, 1.0, 3.0))) * half_s
        calls.append(call(number, half_s, draw(costs), error_s=error_s, group=group, alike=alike[group]))
    return calls


@given(call_lists(), st.integers(0, 8))
def test_at_one_cost_each_choice_takes_most_off_the_variance(calls, count):
    chosen: list[UncertainCall] = []
    for best in worth_measuring(calls, float(count)):
        left = [one for one in calls if one not in chosen]
        most = min(variance(calls, [*chosen, one]) for one in left)
        chosen.append(best)
        assert variance(calls, chosen) == pytest.approx(most, rel=1e-9, abs=1e-9)
    assert len(chosen) == min(count, len(calls))


@given(call_lists(), st.integers(0, 7))
def test_independent_calls_of_one_cost_are_the_best_set_there_is(calls, count):
    calls = [call(at, one.half_s) for at, one in enumerate(calls)]
    chosen = list(worth_measuring(calls, float(count)))
    sets = combinations(calls, min(count, len(calls)))
    assert variance(calls, chosen) == pytest.approx(min(variance(calls, one) for one in sets), abs=1e-9)


@given(call_lists(costs=st.floats(0.1, 5)), st.floats(0, 12), st.floats(0, 0.5))
def test_no_call_is_measured_twice_and_the_budget_holds(calls, budget_s, overhead_s):
    chosen = list(worth_measuring([*calls, *calls], budget_s, overhead_s=overhead_s))
    assert len({one.task for one in chosen}) == len(chosen)
    assert sum(one.cost_s + overhead_s for one in chosen) <= budget_s + 1e-9
    again = worth_measuring(calls, budget_s, measured=chosen)
    assert not {one.task for one in again} & {one.task for one in chosen}


@given(call_lists(), st.integers(1, 6))
def test_going_on_after_some_is_as_choosing_at_once(calls, count):
    at_once = list(worth_measuring(calls, float(count)))
    one_by_one: list[UncertainCall] = []
    while len(one_by_one) < count and (found := next(worth_measuring(calls, 1.0, measured=one_by_one), None)):
        one_by_one.append(found)
    assert variance(calls, one_by_one) == pytest.approx(variance(calls, at_once), rel=1e-9, abs=1e-9)


def test_seconds_go_where_they_tell_most():
    heavy_but_slow, light_and_quick = call(0, 10.0, 100.0), call(1, 5.0, 1.0)
    assert [one.task for one in worth_measuring([heavy_but_slow, light_and_quick], 200.0)] == [
        light_and_quick.task,
        heavy_but_slow.task,
    ]


def test_one_of_alike_calls_tells_of_the_others():
    alike = [call(at, 3.0, group="norm forward", alike=0.8) for at in range(4)]
    alone = call(9, 4.0, group="linear forward")
    first, second, *_ = worth_measuring([*alike, alone], 5.0)
    assert first.group == "norm forward"
    assert second is alone


def test_everything_is_measured_where_there_is_time():
    calls = [call(at, 1.0, error_s=2.0, group="a", alike=1.0) for at in range(5)]
    assert len(list(worth_measuring(calls, 10.0))) == 5
    assert len(list(worth_measuring(calls, 10.0, overhead_s=1.0))) == 5
    assert len(list(worth_measuring(calls, 9.0, overhead_s=1.0))) == 4
