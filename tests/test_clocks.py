"""Two clocks: the slower of host and device sets the pace of a step."""

from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

import pytest

from latte_cli.estimator.clocks import Spans, in_order, one_clock, schedule_calls, two_clocks
from latte_cli.estimator.steps import CLIP, EMA, LOSS, UPDATE
from latte_cli.layers import Phase
from latte_cli.waits import Waits


@dataclass(frozen=True)
class Made:
    name: str
    phase: Phase
    device_s: float
    host_s: float
    count: int = 1
    waits: Waits = Waits.NEVER
    again: bool = False


def step(device_s: float, host_s: float, nodes: int = 4) -> list[Made]:
    names = [f"conv{index}" for index in range(nodes)]
    own = [Made(name, phase, device_s, host_s) for name in names for phase in (Phase.FORWARD, Phase.BACKWARD)]
    loss = [Made(LOSS, phase, device_s, host_s) for phase in (Phase.FORWARD, Phase.BACKWARD)]
    return [*own, *loss, Made(UPDATE, Phase.UPDATE, device_s, host_s)]


def test_on_one_clock_times_add_up() -> None:
    spans = one_clock(step(2.0, 5.0))
    assert spans == Spans(forward_s=8.0, backward_s=8.0, update_s=2.0, other_s=4.0)


def test_a_slow_device_works_without_a_pause_after_the_first_call() -> None:
    assert two_clocks(step(2.0, 0.5)).step_s == pytest.approx(0.5 + 11 * 2.0)


def test_a_slow_host_sets_the_pace_and_the_last_call_follows() -> None:
    assert two_clocks(step(0.5, 2.0)).step_s == pytest.approx(11 * 2.0 + 0.5)


def test_a_graph_costs_the_host_nothing() -> None:
    assert two_clocks(step(0.5, 2.0), asked_at_once=True).step_s == pytest.approx(11 * 0.5)


def test_the_device_catches_up_while_the_host_is_ahead() -> None:
    """A long call hides the asking for the short ones behind it."""
    long_one = Made("conv", Phase.FORWARD, 10.0, 1.0)
    short = [Made(f"relu{index}", Phase.FORWARD, 0.1, 1.0) for index in range(5)]
    assert two_clocks([long_one, *short]).forward_s == pytest.approx(1.0 + 10.0 + 5 * 0.1)
    assert two_clocks([*short, long_one]).forward_s == pytest.approx(6 * 1.0 + 10.0)


def test_backward_runs_from_the_end_of_the_network() -> None:
    """The first backward call waits for nothing but the loss; it is the last node's."""
    first, last = (Made(name, Phase.BACKWARD, time_s, 1.0) for name, time_s in (("first", 0.1), ("last", 10.0)))
    assert two_clocks([first, last]).backward_s == pytest.approx(1.0 + 10.0 + 0.1)


def test_repeated_calls_are_made_as_often() -> None:
    calls = [Made("conv", Phase.FORWARD, 2.0, 0.5, count=3)]
    assert two_clocks(calls).forward_s == pytest.approx(0.5 + 3 * 2.0)
    assert one_clock(calls).forward_s == pytest.approx(6.0)


@pytest.mark.parametrize("asked_at_once", [False, True])
@pytest.mark.parametrize(("device_s", "host_s"), [(2.0, 0.5), (0.5, 2.0)])
def test_a_step_lasts_until_its_last_scheduled_call_ends(device_s: float, host_s: float, asked_at_once: bool) -> None:
    calls = step(device_s, host_s)
    times = list(schedule_calls(calls, asked_at_once=asked_at_once))
    assert two_clocks(calls, asked_at_once=asked_at_once).step_s == pytest.approx(times[-1].end_s)
    assert all(before.end_s <= after.start_s for before, after in pairwise(times))
    assert all(each.start_s >= each.asked_s + (0.0 if asked_at_once else host_s) for each in times)


@pytest.mark.parametrize(("device_s", "host_s"), [(2.0, 0.5), (0.5, 2.0), (1.0, 1.0)])
def test_between_logs_the_host_runs_ahead_and_the_slower_of_both_sets_the_pace(device_s: float, host_s: float) -> None:
    calls, one = step(device_s, host_s), two_clocks(step(device_s, host_s)).step_s
    slower = len(calls) * max(device_s, host_s)
    for log_every in (1, 2, 7, 1000):
        expected = (one + (log_every - 1) * slower) / log_every
        assert two_clocks(calls, log_every=log_every).step_s == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(40))
def test_steps_without_a_log_are_one_long_step(seed: int) -> None:
    """Whatever the calls are: what repeats itself is not walked through again."""
    draw = Random(seed)
    names = [f"node{index}" for index in range(draw.randint(1, 6))]
    calls = [
        Made(name, phase, draw.choice((0.1, 1.0, 5.0)) * draw.random(), draw.random(), draw.randint(1, 3))
        for name in names
        for phase in (Phase.FORWARD, Phase.BACKWARD)
    ]
    ends = (UPDATE, CLIP, EMA)
    waits = [Waits.NEVER] if draw.random() < 0.5 else list(Waits)
    calls += [Made(name, Phase.UPDATE, draw.random(), draw.random(), 1, draw.choice(waits)) for name in ends]
    log_every = draw.randint(2, 60)
    host_s = device_s = 0.0
    for call in [each for _ in range(log_every) for each in in_order(calls) for _ in range(each.count)]:
        if call.waits is not Waits.NEVER:
            host_s = max(host_s, device_s)
        if call.waits is Waits.THROUGHOUT:
            host_s = device_s = host_s + max(call.host_s, call.device_s)
        else:
            host_s += call.host_s
            device_s = max(host_s, device_s) + call.device_s
    assert two_clocks(calls, log_every=log_every).step_s == pytest.approx(device_s / log_every)


def test_a_host_that_waits_before_a_call_asks_for_it_late() -> None:
    long_one, last = Made("conv", Phase.FORWARD, 10.0, 1.0), Made(UPDATE, Phase.UPDATE, 1.0, 0.5)
    assert two_clocks([long_one, last]).update_s == pytest.approx(1.0)
    assert two_clocks([long_one, replace(last, waits=Waits.BEFORE)]).update_s == pytest.approx(1.5)


def test_a_host_that_waits_all_through_a_call_takes_it_together_with_the_device() -> None:
    """Its own time has the waiting in it already."""
    long_one, last = Made("conv", Phase.FORWARD, 10.0, 1.0), Made(UPDATE, Phase.UPDATE, 3.0, 3.5, 1, Waits.THROUGHOUT)
    assert two_clocks([long_one, last]).update_s == pytest.approx(3.5)


def test_a_graph_waits_for_nobody() -> None:
    calls = [Made(UPDATE, Phase.UPDATE, 1.0, 5.0, 1, waits) for waits in Waits]
    assert two_clocks(calls, asked_at_once=True).step_s == pytest.approx(3.0)
