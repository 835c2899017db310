"""The virtual clock, by examples computed by hand."""

from dataclasses import replace
from itertools import accumulate
from math import ceil, exp, inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.allocator import Deadline
from latte_cli.federated.participation import participants
from latte_cli.federated.study.availability import Availability, Periods, Presence
from latte_cli.federated.study.buffers import schedule_buffers
from latte_cli.federated.study.clock import Deck, Share, schedule_rounds, tick
from latte_cli.federated.study.runs import MethodRun, TrainingHistory, on_clock

CALM = Availability()


def share(round_s, *, first_s=None, limit_s=inf, steps=1, deadline=Deadline.DROP):
    first_s = round_s if first_s is None else first_s
    return Share(
        round_s=round_s, step_s=round_s / steps, steps=steps, first_s=first_s, first_step_s=first_s / steps,
        limit_s=limit_s, deadline=deadline,
    )  # fmt: skip


def test_a_round_lasts_until_the_slowest_is_done():
    found = tick({0: 3.0, 1: 5.0, 2: 1.0}, dict.fromkeys(range(3), inf), gone={})
    assert (found.duration_s, found.done, found.late, found.gone) == (5.0, (0, 1, 2), (), ())
    assert found.waited_s == 2.0 + 0.0 + 4.0


def test_a_round_ends_at_the_limit_of_who_is_late():
    found = tick({0: 3.0, 1: 5.0, 2: 1.0}, dict.fromkeys(range(3), 4.0), gone={})
    assert (found.duration_s, found.done, found.late) == (4.0, (0, 2), (1,))
    assert found.waited_s == 1.0 + 3.0


def test_who_finishes_early_ends_the_round_early():
    assert tick({0: 3.0, 1: 2.0}, {0: 4.0, 1: 4.0}, gone={}).duration_s == 3.0


def test_nobody_waits_for_a_device_that_is_gone():
    found = tick({0: 3.0, 1: 50.0}, {0: inf, 1: inf}, gone={1: 0.0})
    assert (found.duration_s, found.done, found.gone, found.waited_s) == (3.0, (0,), (1,), 0.0)
    nobody = tick({1: 50.0}, {1: inf}, gone={1: 0.0})
    assert (nobody.duration_s, nobody.done) == (0.0, ())


def test_a_round_waits_for_those_without_a_limit_beside_one_that_is_late():
    found = tick({0: 9.0, 1: 5.0}, {0: inf, 1: 4.0}, gone={})
    assert (found.duration_s, found.done, found.late) == (9.0, (0,), (1,))
    assert found.waited_s == 4.0


def test_the_first_time_takes_as_long_as_it_takes_and_counts_once_it_was_returned():
    shares = {0: share(1.0, first_s=10.0, limit_s=2.0), 1: share(1.5, first_s=1.5, limit_s=2.0)}
    found = schedule_rounds(shares, CALM, per_round=0, rounds=3, seed=0)
    assert [each.duration_s for each in found] == [10.0, 1.5, 1.5]
    assert [each.waited_s for each in found] == [8.5, 0.5, 0.5]
    assert [each.done for each in found] == [(0, 1)] * 3


def test_devices_without_a_share_are_not_drawn():
    shares = {1: share(1.0), 2: share(2.0), 5: share(3.0)}
    found = schedule_rounds(shares, CALM, per_round=1, rounds=30, seed=3)
    assert {len(each.done) for each in found} == {1}
    assert {device for each in found for device in each.done} == {1, 2, 5}


@given(devices=st.integers(1, 30), per_round=st.integers(1, 30), seed=st.integers(0, 9), deck=st.integers(0, 5))
def test_each_device_takes_part_once_in_every_deck(devices, per_round, seed, deck):
    rounds = ceil(devices / per_round)
    dealt = [participants(devices, per_round, number, seed) for number in range(deck * rounds, (deck + 1) * rounds)]
    assert all(len(each) == len(set(each)) == min(per_round, devices) for each in dealt)
    assert {device for each in dealt for device in each} == set(range(devices))


def test_a_device_that_stops_in_time_does_as_many_whole_steps_as_end_by_then():
    own = share(10.0, steps=5, limit_s=7.0, deadline=Deadline.PARTIAL)
    assert own.work(1.0, first=True) == (6.0, 3)
    assert own.work(0.5, first=True) == (5.0, 5)
    assert own.work(4.0, first=True) == (8.0, 1)
    (found,) = schedule_rounds({0: own, 1: share(2.0)}, CALM, per_round=0, rounds=1, seed=0)
    assert (found.done, found.steps, found.duration_s) == ((0, 1), (3, 1), 6.0)


def test_no_round_begins_after_the_budget():
    found = schedule_rounds({0: share(2.0)}, CALM, per_round=0, rounds=100, seed=0, budget_s=7.0)
    assert [each.duration_s for each in found] == [2.0] * 4


def test_noise_and_drop_outs_are_those_of_the_seed_round_and_device():
    shares = {device: share(2.0, first_s=2.0) for device in range(50)}
    availability = Availability(noise=0.5, dropout=0.3)
    found = schedule_rounds(shares, availability, per_round=0, rounds=4, seed=1)
    again = schedule_rounds(shares, availability, per_round=0, rounds=4, seed=1)
    faster = {device: share(1.0, first_s=1.0) for device in range(50)}
    half = schedule_rounds(faster, availability, per_round=0, rounds=4, seed=1)
    assert found == again
    assert [each.gone for each in half] == [each.gone for each in found]
    assert [2 * each.duration_s for each in half] == pytest.approx([each.duration_s for each in found])
    assert 0.2 < sum(len(each.gone) for each in found) / 200 < 0.4
    random = np.random.default_rng((1, 0, found[0].done[0]))
    assert found[0].duration_s >= 2 * exp(0.5 * random.standard_normal())


def test_noise_makes_devices_miss_the_round_duration():
    shares = {device: share(1.0, first_s=1.0, limit_s=1.2) for device in range(40)}
    (found,) = schedule_rounds(shares, Availability(noise=0.4), per_round=0, rounds=1, seed=2)
    assert found.duration_s == 1.2
    assert 0 < len(found.late) < 40
    assert len(found.late) + len(found.done) == 40


# Without rounds (FedBuff)


def numbers(found):
    return [[(work.device, work.steps, work.version) for work in each.work] for each in found]


def test_whoever_is_done_begins_again_from_what_the_others_have_made_of_the_model():
    shares = {0: share(2.0, steps=3), 1: share(3.0), 2: share(7.0)}
    found = schedule_buffers(shares, CALM, per_round=0, buffer=2, rounds=4, seed=0, budget_s=7.0)
    # ends: 0 at 2, 4, 6, 8; 1 at 3, 6, 9; 2 at 7; of two at the same time the lower number comes first
    assert numbers(found) == [
        [(0, 3, 0), (1, 1, 0)],
        [(0, 3, 0), (0, 3, 1)],
        [(1, 1, 1), (2, 1, 0)],
    ]
    assert [each.duration_s for each in found] == [3.0, 3.0, 1.0]
    assert {(each.late, each.gone, each.waited_s) for each in found} == {((), (), 0.0)}


def test_there_begin_as_many_trainings_as_in_so_many_rounds():
    shares = {device: share(1.0 + device) for device in range(5)}
    found = schedule_buffers(shares, CALM, per_round=3, buffer=2, rounds=7, seed=1)
    assert sum(len(each.done) for each in found) == 3 * 7 - 1
    dropping = schedule_buffers(shares, Availability(dropout=0.4), per_round=3, buffer=1, rounds=70, seed=1)
    assert sum(len(each.done) + len(each.gone) for each in dropping) in range(3 * 70 - 3, 3 * 70 + 1)
    assert 0.3 < sum(len(each.gone) for each in dropping) / 210 < 0.5
    assert schedule_buffers({}, CALM, per_round=3, buffer=2, rounds=7, seed=1) == ()


def test_no_more_devices_train_at_once_than_take_part_in_a_round_and_none_twice_at_once():
    shares = {device: share(1.0 + device % 4) for device in range(9)}
    found = schedule_buffers(shares, CALM, per_round=4, buffer=1, rounds=50, seed=2)
    ends = dict(enumerate([0.0, *accumulate(each.duration_s for each in found)]))
    spans = [
        (ends[at + 1] - shares[device].round_s, ends[at + 1], device)
        for at, each in enumerate(found)
        for device in each.done
    ]
    for begin, _, device in spans:
        there = [who for began, end, who in spans if began <= begin + 1e-9 < end - 1e-9]
        assert len(there) <= 4
        assert there.count(device) == 1
    assert {device for _, _, device in spans} == set(range(9))


def test_a_device_that_stops_in_time_returns_what_it_has_learned_to_a_buffer_too():
    shares = {0: share(10.0, steps=5, limit_s=7.0, deadline=Deadline.PARTIAL), 1: share(4.0, steps=2)}
    (found,) = schedule_buffers(shares, CALM, per_round=0, buffer=2, rounds=1, seed=0)
    assert numbers([found]) == [[(1, 2, 0), (0, 3, 0)]]
    assert found.duration_s == 6.0


@given(devices=st.integers(1, 12), per_round=st.integers(1, 12), seed=st.integers(0, 9), data=st.data())
def test_a_deck_deals_as_the_rounds_do_and_passes_over_who_cannot(devices, per_round, seed, data):
    deck = Deck(range(devices), per_round, seed)
    for number in range(4):
        assert deck.draw(per_round, range(devices)) == participants(devices, per_round, number, seed)
    among = data.draw(st.sets(st.integers(0, devices - 1)))
    for _ in range(3):
        drawn = deck.draw(per_round, among)
        assert drawn == sorted(set(drawn))
        assert set(drawn) <= among
        assert len(drawn) == min(per_round, len(among))


# More devices than the server waits for, and fewer


def test_a_round_ends_when_enough_have_returned():
    seconds, limits = {0: 3.0, 1: 5.0, 2: 1.0, 3: 9.0, 4: 3.0}, dict.fromkeys(range(5), 8.0)
    found = tick(seconds, limits, {}, enough=2)
    # two return at the same time: both count
    assert (found.duration_s, found.done, found.late, found.waited_s) == (3.0, (0, 2, 4), (1, 3), 2.0)
    assert tick(seconds, limits, {}, enough=4).duration_s == 5.0
    assert tick(seconds, limits, {}, enough=5) == tick(seconds, limits, {})


def test_who_would_go_after_enough_have_returned_is_late_and_not_gone():
    seconds, limits = {0: 3.0, 1: 5.0, 2: 6.0}, dict.fromkeys(range(3), inf)
    found = tick(seconds, limits, {1: 2.0, 2: 4.0}, enough=1)
    assert (found.duration_s, found.done, found.late, found.gone) == (3.0, (0,), (2,), (1,))
    waiting = tick(seconds, limits, {1: 2.0, 2: 4.0}, enough=2)
    assert (waiting.duration_s, waiting.done, waiting.late, waiting.gone) == (4.0, (0,), (), (1, 2))


def test_the_server_draws_more_devices_than_it_waits_for():
    shares = {device: share(1.0 + device) for device in range(30)}
    found = schedule_rounds(shares, CALM, per_round=10, rounds=30, seed=3, over_selection=1.1)
    for number, each in enumerate(found):
        drawn = participants(30, 11, number, 3)
        assert each.done == tuple(drawn[:10])
        assert each.late == (drawn[10],)
        assert each.duration_s == 1.0 + drawn[9]
    plain = schedule_rounds(shares, CALM, per_round=10, rounds=30, seed=3, over_selection=1.0)
    assert plain == schedule_rounds(shares, CALM, per_round=10, rounds=30, seed=3)
    everybody = schedule_rounds(shares, CALM, per_round=25, rounds=1, seed=3, over_selection=1.3)
    assert (len(everybody[0].done), len(everybody[0].late)) == (25, 5)


def test_a_round_of_which_too_few_returned_is_void_and_its_first_times_are_still_to_come():
    shares = {device: share(1.0, first_s=4.0) for device in range(4)}
    losing = Availability(dropout=0.4)
    found = schedule_rounds(shares, losing, per_round=0, rounds=40, seed=2, least_share=0.7)
    returned, tried, again = set(), set(), 0
    for each in found:
        assert each.void == (len(each.done) < 3)
        assert each.duration_s == ((1.0 if returned >= set(each.done) else 4.0) if each.done else 0.0)
        again += tried >= set(each.done) and each.duration_s == 4.0
        tried |= set(each.done)
        returned |= set() if each.void else set(each.done)
    assert again
    assert not any(each.void for each in schedule_rounds(shares, losing, per_round=0, rounds=40, seed=2))
    training = TrainingHistory(rounds=(0, 40), accuracies=(0.1, 0.2), losses=(2.0, 1.0), personal=None, failed=0)
    assert on_clock(training, found, devices=4).void == sum(each.void for each in found)


# Devices that come and go

PERIODS = Periods(on_s=6.0, off_s=2.0)


def test_devices_are_on_for_their_share_of_the_time_in_periods_of_exponential_lengths():
    presence, devices = Presence(PERIODS, seed=4), range(2000)
    for now_s in (0.0, 1.0, 50.0):
        assert len(presence.among(devices, now_s)) / 2000 == pytest.approx(0.75, abs=0.03)
    left = [presence.left_s(device, 50.0) for device in presence.among(devices, 50.0)]
    assert np.mean(left) == pytest.approx(6.0, rel=0.1)
    assert np.mean(np.array(left) > 6.0) == pytest.approx(exp(-1), abs=0.03)
    off = set(devices) - set(presence.among(devices, 50.0))
    back = [presence.first_s([device], 50.0) - 50.0 for device in off]
    assert np.mean(back) == pytest.approx(2.0, rel=0.15)
    assert presence.first_s(off, 50.0) == 50.0 + min(back)
    assert presence.first_s(devices, 50.0) == 50.0
    assert all(presence.left_s(device, 50.0) == 0.0 for device in off)


def test_when_devices_are_on_depends_on_the_seed_and_the_device_and_not_on_who_asks():
    one, other = Presence(PERIODS, seed=4), Presence(PERIODS, seed=4)
    later = [one.among(range(30), now_s) for now_s in (90.0, 3.0, 40.0)]
    assert later == [other.among(range(30), now_s) for now_s in (90.0, 3.0, 40.0)]
    assert other.among(range(30), 40.0) == later[2]
    assert Presence(PERIODS, seed=5).among(range(30), 40.0) != later[2]
    steady = Presence(None, seed=4)
    assert (steady.among([3], 9.0), steady.first_s([3], 9.0), steady.left_s(3, 9.0)) == ([3], 9.0, inf)


def test_who_is_off_takes_no_part_and_who_goes_off_is_lost():
    shares = {device: share(1.0 + device % 3) for device in range(8)}
    availability, presence, now_s, gone = Availability(available=PERIODS), Presence(PERIODS, seed=3), 0.0, 0
    found = schedule_rounds(shares, availability, per_round=4, rounds=60, seed=3)
    for each in found:
        begin_s, end_s = now_s + each.off_s, now_s + each.duration_s
        drawn = set(each.done) | set(each.gone)
        assert drawn <= set(presence.among(shares, begin_s))
        assert len(drawn) == min(4, len(presence.among(shares, begin_s)))
        assert all(presence.left_s(device, begin_s) >= shares[device].round_s for device in each.done)
        lost = {device: presence.left_s(device, begin_s) for device in each.gone}
        assert all(left_s < shares[device].round_s for device, left_s in lost.items())
        ends = [*lost.values(), *(shares[device].round_s for device in each.done)]
        assert end_s - begin_s == pytest.approx(max(ends))
        now_s, gone = end_s, gone + len(each.gone)
    assert gone > 10
    assert len({len(each.done) for each in found}) > 2


def test_a_round_waits_for_the_first_device_to_be_on_and_nobody_is_idle_before():
    presence = Presence(PERIODS, seed=0)
    device = next(device for device in range(50) if not presence.among([device], 0.0))
    wait_s = presence.first_s([device], 0.0)
    shares = {device: share(1e-3), device + 100: share(1e-3)}
    alone = {device: share(1e-3)}
    (found,) = schedule_rounds(alone, Availability(available=PERIODS), per_round=0, rounds=1, seed=0)
    assert (found.off_s, found.duration_s, found.done) == (wait_s, pytest.approx(wait_s + 1e-3), (device,))
    training = TrainingHistory(rounds=(0, 1), accuracies=(0.1, 0.2), losses=(2.0, 1.0), personal=None, failed=0)
    waiting = tick({0: 3.0, 1: 1.0}, {0: inf, 1: inf}, {})
    later = replace(waiting, duration_s=waiting.duration_s + 5.0, off_s=5.0)
    assert on_clock(training, [later], devices=2).idle == on_clock(training, [waiting], devices=2).idle
    first = schedule_rounds(shares, Availability(available=PERIODS), per_round=0, rounds=1, seed=0)[0]
    assert first.off_s == presence.first_s(shares, 0.0)
    (buffered,) = schedule_buffers(alone, Availability(available=PERIODS), per_round=0, buffer=1, rounds=1, seed=0)
    assert (buffered.duration_s, buffered.done) == (pytest.approx(wait_s + 1e-3), (device,))


def test_where_no_device_is_on_for_long_enough_time_passes_and_nothing_is_returned():
    brief, shares = Availability(available=Periods(on_s=0.1, off_s=0.1)), {0: share(1e3), 1: share(1e3)}
    found = schedule_rounds(shares, brief, per_round=0, rounds=50, seed=0)
    assert not any(each.done for each in found)
    assert sum(len(each.gone) for each in found) >= 50
    assert sum(each.duration_s for each in found) == pytest.approx(50 * 0.15, rel=0.5)
    assert schedule_buffers(shares, brief, per_round=0, buffer=1, rounds=50, seed=0) == ()


def test_without_rounds_the_next_begins_as_soon_as_one_has_gone_off():
    shares, availability = {0: share(1e3), 1: share(1e-3)}, Availability(available=PERIODS)
    found = schedule_buffers(shares, availability, per_round=1, buffer=1, rounds=60, seed=3)
    assert {(each.done, each.gone) for each in found} == {((1,), ()), ((1,), (0,))}
    assert max(each.duration_s for each in found) < 100


def test_without_rounds_whoever_comes_on_begins_and_who_goes_off_is_replaced():
    shares = {device: share(1.0 + device % 3) for device in range(8)}
    found = schedule_buffers(shares, Availability(available=PERIODS), per_round=4, buffer=3, rounds=60, seed=3)
    presence, now_s = Presence(PERIODS, seed=3), 0.0
    for each in found:
        now_s += each.duration_s
        last = each.done[-1]
        assert presence.left_s(last, now_s - shares[last].round_s) >= shares[last].round_s * (1 - 1e-9)
    assert sum(len(each.gone) for each in found) > 10
    assert 4 * 60 - 6 <= sum(len(each.done) + len(each.gone) for each in found) <= 4 * 60
    assert 4 * sum(each.duration_s for each in found) > sum(shares[at].round_s for each in found for at in each.done)


def test_accuracies_are_put_at_the_ends_of_their_rounds():
    training = TrainingHistory(
        rounds=(0, 2, 3), accuracies=(0.1, 0.6, 0.8), losses=(2.3, 1.0, 0.5), personal=None, failed=0
    )
    ticks = [tick({0: 2.0, 1: 1.0}, {0: inf, 1: inf}, {}) for _ in range(3)]
    found = on_clock(training, ticks, devices=2)
    assert found.times_s == (0.0, 4.0, 6.0)
    assert found.idle == pytest.approx(0.25)
    assert (found.accuracy, found.late, found.gone, found.devices) == (0.8, 0, 0, 2)
    assert (found.time_s(0.5), found.time_s(0.7), found.time_s(0.9)) == (4.0, 6.0, inf)


def test_a_clock_that_never_ticks_waits_for_nobody():
    training = TrainingHistory(rounds=(0, 1), accuracies=(0.1, 0.1), losses=(2.3, 2.3), personal=None, failed=0)
    found = on_clock(training, [tick({}, {}, {})], devices=0)
    assert found == MethodRun(times_s=(0.0, 0.0), accuracies=(0.1, 0.1), idle=0.0, late=0, gone=0, failed=0, devices=0)
