"""Spending some seconds of measuring: within the budget, no call twice, until everything is measured."""

from collections import Counter
from itertools import count

import pytest
from recorded_gpu import DEVICE, opener

from latte_cli.estimator import Source, estimate_each
from latte_cli.estimator.spending import Spending, uncertain_calls
from latte_cli.layers import Whole
from latte_cli.network import zoo
from latte_cli.store import open_store
from latte_cli.suites import limits_of, yardstick
from latte_cli.worker import Opening, Worker

NETWORK = zoo.network("lenet", batch_size=8)


def estimates(store):
    return estimate_each(store, DEVICE.slug, NETWORK, allow_unknown=True)


def spend(store, seconds: float, *, on_yardstick: bool = True) -> Spending:
    """What was measured in so many seconds of a clock that moves by a hundredth each time it is read."""
    ticks = count()
    with Worker(Opening(device="cuda", open=opener())) as worker, store.writer(worker.device) as writer:
        spending = Spending(
            worker=worker,
            writer=writer,
            start=0.0,
            seconds=seconds,
            clock=lambda: next(ticks) / 100,
            earlier=list(store.measurements(DEVICE.slug)) if store.devices() else [],
        )
        if on_yardstick:
            spending.on_yardstick(yardstick(0, limits_of(worker.device, 0.5)))
        spending.on_step(estimates(store))
    return spending


@pytest.fixture(scope="module")
def spent(tmp_path_factory):
    """Two stores: one of a short budget, the other of one that does not end; and what was spent."""
    found = []
    for seconds in (4.0, 1e6):
        store = open_store(str(tmp_path_factory.mktemp("spent") / "store"), shipped=False)
        found.append((store, spend(store, seconds)))
    return found


def test_no_call_is_measured_twice(spent):
    for store, spending in spent:
        rows = store.measurements(DEVICE.slug)
        assert max(Counter((row.task.id, row.sweep_pass) for row in rows).values()) == 1
        assert len({row.task.id for row in rows}) == spending.calls == len({row.task for row in spending.earlier})


def test_a_short_budget_ends_before_all_is_measured_and_a_long_one_does_not(spent):
    (short, few), (long, all_of_it) = spent
    assert few.passed_s == pytest.approx(few.seconds, abs=1.0)
    assert few.calls < all_of_it.calls
    assert uncertain_calls(estimates(short))
    assert not uncertain_calls(estimates(long))
    assert {part.source for part in estimates(long)[0].parts} == {Source.MEASURED}


def test_a_network_is_run_whole_once_there_is_time_for_it(spent):
    short, long = (
        {row.task.layer for row in store.measurements(DEVICE.slug) if isinstance(row.task.layer, Whole)}
        for store, _ in spent
    )
    assert not short
    assert len(long) == 1


def test_what_is_known_is_not_measured_again(spent):
    store, _ = spent[1]
    assert spend(store, 100.0, on_yardstick=False).calls == 0
