"""Upper ends of steps by their calls, against the intervals of the estimator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_program import random_table

from latte_cli.allocator.upper_ends import UpperEnd

amounts = st.floats(1e-6, 1e-2)


@given(seconds=amounts, spread=amounts, common=st.floats(0.01, 0.5))
def test_the_upper_end_of_the_step_that_was_priced_is_its_own(seconds, spread, common):
    high_s = seconds + (spread**2 + (common * seconds) ** 2) ** 0.5
    upper = UpperEnd.from_estimate(seconds, spread**2, seconds, high_s)
    assert upper.seconds(seconds, spread**2) == pytest.approx(high_s)
    assert upper.common == pytest.approx(common, rel=1e-3, abs=1e-3 * spread / seconds)


@given(seconds=amounts, spread=amounts, ratio=st.floats(0.5, 1.0), above=st.floats(0.0, 0.5))
def test_a_step_that_is_not_the_sum_of_its_calls_is_met_too(seconds, spread, ratio, above):
    step_s = ratio * seconds
    high_s = step_s + above * spread
    upper = UpperEnd.from_estimate(seconds, spread**2, step_s, high_s)
    assert upper.seconds(seconds, spread**2) == pytest.approx(high_s)


@pytest.mark.parametrize("seed", range(8))
def test_what_cells_add_is_what_another_layer_in_their_place_changes(seed):
    generator = np.random.default_rng(seed)
    table = random_table(generator, [2] * 5, [(0, 1), (2, 3)], growth=1e-3, alone=True)
    upper = UpperEnd(ratio=0.9, common=0.1, scale=1.05)
    here = np.zeros(5, dtype=np.int64)
    cells, before = upper.of(table, table.at(here)), upper.seconds(*table.step(table.at(here)))
    for group in range(5):
        there = here.copy()
        there[group] = 1
        changed = upper.seconds(*table.step(table.at(there))) - before
        assert cells[table.cells.of(there)].sum() - cells[table.cells.of(here)].sum() == pytest.approx(changed, rel=0.1)
