"""A plan that is checked: every class of it counts, whether it had a sub-model or not."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_allocator import GIB, PHONE, recorded
from test_plan_files import model, network, planned, price, shared  # noqa: F401 - fixtures

from latte_cli.allocator import Method, check_plan, round_of, shared_out
from latte_cli.errors import LatteError


class Prices:
    """Prices that are `slower` times those of the plan, or need another amount of memory, by class."""

    def __init__(self, whole, changes):
        self.whole, self._changes = lambda batch: whole, changes

    def __call__(self, sub_model, fleet_class):
        slower, memory_bytes = self._changes.get(fleet_class.name, (1, GIB))
        step_s = price(sub_model, fleet_class).step_high_s / 1.2
        return round_of(sub_model, fleet_class, recorded(slower * step_s, memory_bytes=memory_bytes))


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    duration_s=st.sampled_from((1e-3, 2.0, 12.0, 1e4)),
    data=st.data(),
)
def test_every_class_trains_and_finishes_or_is_named(network, counts, duration_s, data):  # noqa: F811
    classes = tuple(
        replace(PHONE, name="slow" if number == 1 else f"c{number}", count=count) for number, count in enumerate(counts)
    )
    changes = {
        each.name: (data.draw(st.sampled_from((1, 1, 0.5, 3))), data.draw(st.sampled_from((GIB, GIB, 1 << 40))))
        for each in classes
    }
    plan = planned(network, duration_s=duration_s, classes=classes)
    file = shared_out(plan, network, objective="catalogue", method=Method.NESTED)
    prices = Prices(network, changes)
    found = check_plan(file, prices, lambda each: each)
    named = [each.name for each in (*found.late, *found.too_large, *found.without)]
    finishing = [
        each.fleet_class.name
        for each in plan.devices
        if each.sub_model and prices(each.sub_model, each.fleet_class).meets(duration_s)
    ]
    assert sorted((*named, *finishing)) == sorted(each.name for each in classes)
    assert [each.fleet_class.name for each in found.devices if each.feasible] == finishing
    assert all(
        each.least_s is None for each, before in zip(found.devices, plan.devices, strict=True) if before.feasible
    )


def test_a_sub_model_of_another_size_is_named(network):  # noqa: F811
    file = shared(network)
    first = file.plan.devices[0]
    wrong = replace(first, sub_model=replace(first.sub_model, parameters=1))
    plan = replace(file.plan, devices=(wrong, *file.plan.devices[1:]))
    with pytest.raises(LatteError, match="parameters, not 1 as the plan says"):
        check_plan(replace(file, plan=plan), Prices(network, {}), lambda each: each)
