from dataclasses import replace
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_allocator import HALF, PHONE, QUARTER, STEPS_S, THREE, WHOLE, recorded

from latte_cli.allocator import allocate, busiest, curve, point, round_of, shortest_point
from latte_cli.errors import ExitCode, LatteError
from latte_cli.fleet import Fleet
from latte_cli.report import Format
from latte_cli.report.plans import write_curve


def priced(*slower):
    classes = [
        replace(PHONE, name=f"{number}: x{factor}", count=count) for number, (count, factor) in enumerate(slower)
    ]
    return [
        (each, [round_of(sub, each, recorded(factor * STEPS_S[sub])) for sub in THREE])
        for each, (_, factor) in zip(classes, slower, strict=True)
    ]


def test_points_are_where_some_class_can_train_more():
    points = curve(priced((3, 1), (1, 10)))
    assert [each.round_duration_s for each in points] == sorted(each.round_duration_s for each in points)
    assert len(points) == 6
    assert points[-1].capacity == points[-1].floor == points[-1].taking_part == 1
    assert points[0].taking_part == 0.75
    assert (points[0].floor, points[0].capacity) == (0, pytest.approx(0.75 / 16))


def test_a_point_says_what_the_plan_of_its_duration_does():
    fleet = priced((3, 1), (1, 10))
    prices = {(each.name, each_round.sub_model): each_round for each, rounds in fleet for each_round in rounds}
    for found in curve(fleet):
        plan = allocate(
            THREE,
            Fleet(classes=tuple(each for each, _ in fleet)),
            lambda sub, each: prices[each.name, sub],
            found.round_duration_s,
        )
        assert found.idle == pytest.approx(plan.idle_share)
        assert (found.taking_part == 1) == plan.feasible
        shares = {WHOLE: 1, HALF: 0.25, QUARTER: 1 / 16, None: 0}
        trained = [shares[each.sub_model] for each in plan.devices]
        assert found.capacity == pytest.approx((3 * trained[0] + trained[1]) / 4)
        assert found.floor == min(trained)


def test_the_shortest_rounds_that_keep_a_share_are_no_longer_than_they_have_to_be():
    points = curve(priced((3, 1), (1, 10)))
    half = shortest_point(points, capacity=0.8)
    assert half.capacity >= 0.8
    assert half.taking_part == 1
    earlier = [each for each in points if each.round_duration_s < half.round_duration_s]
    assert all(each.capacity < 0.8 or each.taking_part < 1 for each in earlier)
    quarter = shortest_point(points, floor=0.25)
    assert quarter.floor >= 0.25
    assert all(each.floor < 0.25 for each in points if each.round_duration_s < quarter.round_duration_s)


def test_the_busiest_rounds_are_those_that_keep_most_of_those_with_so_little_waiting():
    points = curve(priced((3, 1), (1, 10)))
    found = busiest(points, 0.7)
    assert found.idle <= 0.7
    assert found.taking_part == 1
    assert all(each.capacity <= found.capacity for each in points if each.idle <= 0.7 and each.taking_part == 1)


def test_what_cannot_be_had_ends_with_3_and_says_what_can():
    points = curve(priced((3, 1), (1, 10)))
    with pytest.raises(LatteError, match="wait more than 1%") as caught:
        busiest(points, 0.01)
    assert caught.value.exit_code == ExitCode.EXCEEDED
    assert "`--fine` with a `--round-duration`" in caught.value.hint
    with pytest.raises(LatteError) as caught:
        busiest(points, 0.01, fine=True)
    assert "--fine" not in caught.value.hint
    small = replace(PHONE, memory_bytes=1)
    nothing = [(small, [round_of(sub, small, recorded(1.0)) for sub in THREE])]
    with pytest.raises(LatteError, match="at most 0% fit the memory"):
        shortest_point(curve(nothing), capacity=0.5)
    with pytest.raises(LatteError, match="every device train 20%"):
        shortest_point(curve(nothing), floor=0.2)


def test_any_duration_has_a_point():
    found = point(priced((1, 1)), 1e9)
    assert (found.capacity, found.taking_part) == (1, 1)
    assert found.idle == pytest.approx(1, abs=1e-3)
    assert point(priced((1, 1)), 1e-9).taking_part == 0


@given(factors=st.lists(st.floats(0.01, 50), min_size=1, max_size=4), counts=st.lists(st.integers(1, 3000), min_size=4))
def test_a_row_of_the_curve_holds_for_rounds_as_long_as_it_says(factors, counts):
    fleet = priced(*zip(counts, factors, strict=False))
    points, out = curve(fleet), StringIO()
    write_curve(points, None, Format.TABLE, out)
    for line in out.getvalue().splitlines()[2 : 2 + len(points)]:
        number, unit, *shares = (part for part in line.split() if part != "%")
        found = point(fleet, float(number) * {"s": 1.0, "ms": 1e-3}[unit])
        capacity, floor, _, taking_part = (float(share) / 100 - 1e-9 for share in shares)
        assert found.capacity >= capacity
        assert found.floor >= floor
        assert found.taking_part >= taking_part
