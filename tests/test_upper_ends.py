"""Upper ends of steps by their calls, against the intervals of the estimator."""

import made_rows
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.allocator.upper_ends import CallTime, UpperEnd
from latte_cli.layers import Phase

LAYERS = [made_rows.convolution(1, 3, width, 8) for width in (4, 8, 16)]

calls = st.lists(
    st.tuples(
        st.sampled_from(LAYERS),
        st.builds(
            CallTime,
            seconds=st.floats(1e-6, 1e-2),
            half_s=st.floats(0.0, 1e-2),
            alike=st.just(0.4),
            errs_with=st.sampled_from(list(Phase)),
        ),
    ),
    min_size=1,
    max_size=8,
)


def upper_end(step, common):
    """The upper end as `intervals` has it, term by term."""
    total = sum(each.seconds for _, each in step)
    spread = 0.0
    for cause in {each.errs_with for _, each in step}:
        halves = dict.fromkeys(LAYERS, 0.0)
        for layer, each in step:
            halves[layer] += each.half_s if each.errs_with == cause else 0.0
        spread += 0.4 * sum(halves.values()) ** 2 + 0.6 * sum(half**2 for half in halves.values())
    return total + (spread + (common * total) ** 2) ** 0.5


@given(here=calls, there=calls, common=st.floats(0.01, 0.5))
def test_what_calls_add_is_the_upper_end_here_and_no_more_than_it_elsewhere(here, there, common):
    total = sum(each.seconds for _, each in here)
    seen = UpperEnd.from_estimate(here, total, upper_end(here, common))
    assert sum(seen.weigh(layer, each) for layer, each in here) == pytest.approx(upper_end(here, common))
    assert sum(seen.weigh(layer, each) for layer, each in there) <= upper_end(there, common) * (1 + 1e-6)
    moved = seen.seen_from(there)
    assert sum(moved.weigh(layer, each) for layer, each in there) == pytest.approx(upper_end(there, common), rel=1e-4)
