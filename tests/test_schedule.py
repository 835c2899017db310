"""Schedules: steps of an epoch and a round, what waits for data and what is moved."""

import pytest

from latte_cli.schedule import Schedule


def test_the_last_smaller_batch_is_a_step_of_its_own():
    assert Schedule(samples=100).epoch_steps(8) == 13
    assert Schedule(samples=100, epochs=3).steps(8) == 39
    assert Schedule(samples=96, epochs=3).steps(8) == 36


def test_local_steps_stand_for_epochs():
    assert Schedule(samples=100, epochs=3, local_steps=5).steps(8) == 5
    assert Schedule(local_steps=5).round_s(0.5, 8, 0) == 2.5


def test_without_samples_and_steps_there_is_no_round():
    assert Schedule().steps(8) is None
    assert Schedule().epoch_steps(8) is None
    assert Schedule().round_s(1.0, 8, 1000) is None


def test_parameters_go_down_and_up_once_a_round_at_four_bytes_each():
    schedule = Schedule(local_steps=10, up_bit_per_s=1e6, down_bit_per_s=4e6)
    assert schedule.moving_s(1_000_000) == pytest.approx(32 + 8)
    assert schedule.round_s(0.1, 8, 1_000_000) == pytest.approx(1 + 40)


def test_a_step_waits_for_its_samples_only_where_loading_is_slower():
    schedule = Schedule(local_steps=10, loading_per_s=100)
    assert schedule.paced_s(0.01, 8) == pytest.approx(0.08)
    assert schedule.paced_s(0.5, 8) == 0.5
    assert schedule.round_s(0.01, 8, 0) == pytest.approx(0.8)
