"""The objective of the selector's trees: the fastest is to be likeliest, and what is lost the least."""

import numpy as np
import pytest

from latte_cli.selector.listwise import Listwise

NONE = float("nan")
LOSSES = np.array([[0.0, 0.5, NONE], [0.9, 0.0, 0.1], [NONE, 1.0, 0.0]])
COUNTS = np.array([1.0, 4.0, 2.0])


def objective() -> Listwise:
    return Listwise(LOSSES, COUNTS)


def test_the_gradient_is_that_of_the_objective() -> None:
    scores = np.random.default_rng(0).normal(size=LOSSES.shape)
    slopes, curvatures = objective().gradient(scores)
    for row, column in np.ndindex(*LOSSES.shape):
        step = np.zeros(LOSSES.shape)
        step[row, column] = 1e-5
        above, below = (objective().value(scores + sign * step) for sign in (1, -1))
        assert slopes[row, column] == pytest.approx((above - below) / 2e-5, abs=1e-5)
    assert (curvatures > 0).all()
    assert slopes.sum(axis=1) == pytest.approx(0, abs=1e-9)


def test_what_was_not_tried_changes_nothing() -> None:
    scores = np.zeros(LOSSES.shape)
    other = np.where(np.isnan(LOSSES), 7.0, scores)
    assert objective().value(scores) == objective().value(other)
    assert (objective().gradient(other)[0][np.isnan(LOSSES)] == 0).all()


def test_the_objective_is_least_where_the_fastest_is_sure() -> None:
    best = np.nan_to_num(LOSSES, nan=9.0) == 0
    sure, split, wrong = 9.0 * best, np.zeros(LOSSES.shape), -9.0 * best
    assert objective().value(sure) < objective().value(split) < objective().value(wrong)


def test_near_ties_share_the_target() -> None:
    tie = Listwise(np.array([[0.0, 0.001]]), np.ones(1))
    slopes, _ = tie.gradient(np.zeros((1, 2)))
    assert np.abs(slopes).max() < 0.01
