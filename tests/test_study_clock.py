"""The virtual clock, by examples computed by hand."""

from math import exp, inf

import numpy as np
import pytest

from latte_cli.federated.study.clock import Availability, Share, participants, schedule_rounds, tick
from latte_cli.federated.study.runs import MethodRun, TrainingHistory, on_clock

CALM = Availability()


def test_a_round_lasts_until_the_slowest_is_done():
    found = tick({0: 3.0, 1: 5.0, 2: 1.0}, dict.fromkeys(range(3), inf), gone=())
    assert (found.duration_s, found.done, found.late, found.gone) == (5.0, (0, 1, 2), (), ())
    assert found.waited_s == 2.0 + 0.0 + 4.0


def test_a_round_ends_at_the_limit_of_who_is_late():
    found = tick({0: 3.0, 1: 5.0, 2: 1.0}, dict.fromkeys(range(3), 4.0), gone=())
    assert (found.duration_s, found.done, found.late) == (4.0, (0, 2), (1,))
    assert found.waited_s == 1.0 + 3.0


def test_who_finishes_early_ends_the_round_early():
    assert tick({0: 3.0, 1: 2.0}, {0: 4.0, 1: 4.0}, gone=()).duration_s == 3.0


def test_nobody_waits_for_a_device_that_is_gone():
    found = tick({0: 3.0, 1: 50.0}, {0: inf, 1: inf}, gone={1})
    assert (found.duration_s, found.done, found.gone, found.waited_s) == (3.0, (0,), (1,), 0.0)
    nobody = tick({1: 50.0}, {1: inf}, gone={1})
    assert (nobody.duration_s, nobody.done) == (0.0, ())


def test_a_round_waits_for_those_without_a_limit_beside_one_that_is_late():
    found = tick({0: 9.0, 1: 5.0}, {0: inf, 1: 4.0}, gone=())
    assert (found.duration_s, found.done, found.late) == (9.0, (0,), (1,))
    assert found.waited_s == 4.0


def test_the_first_time_takes_as_long_as_it_takes_and_counts_once_it_was_returned():
    shares = {0: Share(round_s=1.0, first_s=10.0, limit_s=2.0), 1: Share(round_s=1.5, first_s=1.5, limit_s=2.0)}
    found = schedule_rounds(shares, CALM, devices=2, per_round=0, rounds=3, seed=0)
    assert [each.duration_s for each in found] == [10.0, 1.5, 1.5]
    assert [each.waited_s for each in found] == [8.5, 0.5, 0.5]
    assert [each.done for each in found] == [(0, 1)] * 3


def test_a_device_without_a_share_is_drawn_and_does_nothing():
    found = schedule_rounds({1: Share(round_s=1.0, first_s=1.0)}, CALM, devices=3, per_round=1, rounds=30, seed=3)
    drawn = [participants(3, 1, number, 3) for number in range(30)]
    assert [each.done for each in found] == [(1,) if each == [1] else () for each in drawn]
    assert {each.duration_s for each in found} == {0.0, 1.0}


def test_devices_are_drawn_as_a_federation_on_flower_draws_them():
    for number in range(5):
        chosen = np.random.default_rng((7, number + 1)).choice(10, 4, replace=False)
        assert participants(10, 4, number, 7) == sorted(chosen)
    assert participants(4, 0, 0, 7) == participants(4, 9, 0, 7) == [0, 1, 2, 3]


def test_noise_and_drop_outs_are_those_of_the_seed_round_and_device():
    shares = {device: Share(round_s=2.0, first_s=2.0) for device in range(50)}
    availability = Availability(noise=0.5, dropout=0.3)
    found = schedule_rounds(shares, availability, devices=50, per_round=0, rounds=4, seed=1)
    again = schedule_rounds(shares, availability, devices=50, per_round=0, rounds=4, seed=1)
    faster = {device: Share(round_s=1.0, first_s=1.0) for device in range(50)}
    half = schedule_rounds(faster, availability, devices=50, per_round=0, rounds=4, seed=1)
    assert found == again
    assert [each.gone for each in half] == [each.gone for each in found]
    assert [2 * each.duration_s for each in half] == pytest.approx([each.duration_s for each in found])
    assert 0.2 < sum(len(each.gone) for each in found) / 200 < 0.4
    random = np.random.default_rng((1, 0, found[0].done[0]))
    assert found[0].duration_s >= 2 * exp(0.5 * random.standard_normal())


def test_noise_makes_devices_miss_the_round_duration():
    shares = {device: Share(round_s=1.0, first_s=1.0, limit_s=1.2) for device in range(40)}
    (found,) = schedule_rounds(shares, Availability(noise=0.4), devices=40, per_round=0, rounds=1, seed=2)
    assert found.duration_s == 1.2
    assert 0 < len(found.late) < 40
    assert len(found.late) + len(found.done) == 40


def test_accuracies_are_put_at_the_ends_of_their_rounds():
    training = TrainingHistory(
        rounds=(0, 2, 3), accuracies=(0.1, 0.6, 0.8), losses=(2.3, 1.0, 0.5), personal=None, failed=0
    )
    ticks = [tick({0: 2.0, 1: 1.0}, {0: inf, 1: inf}, ()) for _ in range(3)]
    found = on_clock(training, ticks, devices=2)
    assert found.times_s == (0.0, 4.0, 6.0)
    assert found.idle == pytest.approx(0.25)
    assert (found.accuracy, found.late, found.gone, found.devices) == (0.8, 0, 0, 2)
    assert (found.time_s(0.5), found.time_s(0.7), found.time_s(0.9)) == (4.0, 6.0, inf)


def test_a_clock_that_never_ticks_waits_for_nobody():
    training = TrainingHistory(rounds=(0, 1), accuracies=(0.1, 0.1), losses=(2.3, 2.3), personal=None, failed=0)
    found = on_clock(training, [tick({}, {}, ())], devices=0)
    assert found == MethodRun(times_s=(0.0, 0.0), accuracies=(0.1, 0.1), idle=0.0, late=0, gone=0, failed=0, devices=0)
