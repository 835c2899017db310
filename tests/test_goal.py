"""The goal instead of a round duration holds for the plan, with one width for all and with fine widths."""

from dataclasses import replace
from functools import cached_property
from itertools import product

import made_rows
import numpy as np
import pytest
from test_fine import PHONE, SHARES, Case

from latte_cli.allocator import Goal, Objective, Pricer, Search, allocate_fine, catalogue, curve, plan_of, price_classes
from latte_cli.errors import LatteError
from latte_cli.estimator import Estimator
from latte_cli.fleet import Fleet
from latte_cli.network import zoo
from latte_cli.network.channels import Resizing
from latte_cli.store import open_store


class Shared(Case):
    """Estimates each sub-model once for all tests."""

    @cached_property
    def _pricer(self):
        return super().pricer()

    def pricer(self):
        return self._pricer


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return Shared("lenet", tmp_path_factory.mktemp("lenet"))


def drawn(generator):
    """A fleet."""
    classes = tuple(
        replace(
            PHONE,
            name=f"class {number}",
            count=int(generator.integers(1, 20)),
            samples=int(generator.integers(2, 400)),
            epochs=int(generator.integers(1, 4)),
            up_bit_per_s=float(10 ** generator.uniform(5, 9)),
        )
        for number in range(generator.integers(1, 4))
    )
    return Fleet(classes=classes)


def goal_of(generator, points):
    """Any goal, or one that a round duration just reaches."""
    kind = ("capacity", "floor", "idle")[generator.integers(3)]
    reached = getattr(points[generator.integers(len(points))], kind)
    return Goal(**{kind: reached if reached and generator.integers(4) else float(generator.uniform(0.02, 1.0))})


def holds(goal, plan, parameters):
    """Whether the goal holds, from the plan alone."""
    counts = [each.fleet_class.count for each in plan.devices]
    kept = [each.sub_model.parameters if each.sub_model else 0 for each in plan.devices]
    mean = sum(count * each for count, each in zip(counts, kept, strict=True)) / sum(counts)
    return (
        (goal.floor is None or min(kept) / parameters >= goal.floor)
        and (goal.capacity is None or mean >= goal.capacity * parameters * (1 - 1e-12))
        and (goal.idle is None or plan.idle_share <= goal.idle + 1e-12)
    )


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """ResNet-8 and its prices, on a device that has measured every layer at every width."""
    network = zoo.network("resnet8", batch_size=2)
    resizing = Resizing(network)
    levels = {group.name: sorted({group.width(share) for share in SHARES}) for group in resizing.groups}
    layers = [
        resizing.layer(node, dict(zip(owners, widths, strict=True)))
        for node in network.nodes
        for owners in (resizing.owners(node),)
        for widths in product(*(levels[name] for name in owners))
    ]
    store = open_store(str(tmp_path_factory.mktemp("residual")), shipped=False)
    made_rows.profile(store, [*layers, network.loss()])
    estimator = Estimator(store, made_rows.DEVICE.slug)
    return network, Pricer(lambda batch: network, lambda _: estimator, optimizer="none")


@pytest.mark.parametrize("seed", range(20))
def test_what_is_asked_for_holds_for_the_plan_or_is_refused(residual, seed):
    network, pricer = residual
    generator = np.random.default_rng(seed)
    fleet = drawn(generator)
    whole, shares = network.parameters, SHARES[-generator.integers(1, 5) :]
    rounds = price_classes(catalogue(network, shares), fleet, pricer)
    goal = goal_of(generator, curve(rounds, whole))
    try:
        duration_s = goal.point(rounds, whole).round_duration_s
    except LatteError as exc:
        assert exc.exit_code == 3
        durations = {each.high_s for _, its in rounds for each in its}
        complete = [plan for each in durations if (plan := plan_of(rounds, each)).feasible]
        assert not any(holds(goal, plan, whole) for plan in complete)
        return
    least = [goal.least(its, whole, duration_s) for _, its in rounds]
    fine = allocate_fine(fleet, pricer, duration_s, objective=list(Objective)[seed % 2], shares=shares, least=least)
    for plan in (plan_of(rounds, duration_s), fine):
        assert plan.feasible
        assert holds(goal, plan, whole)
        assert all(each.high_s <= duration_s for each in plan.devices)


@pytest.mark.parametrize("seed", range(8))
def test_fine_plans_say_no_more_of_the_shortest_round_than_is_known(case, seed):
    generator = np.random.default_rng(seed)
    fleet = drawn(generator)
    least_s = {each.name: min(one.high_s for one in case.rounds(each)) for each in fleet.classes}
    longest_s = max(case.whole_s(each) for each in fleet.classes)
    duration_s = float(generator.uniform(0.5 * min(least_s.values()), longest_s))

    pricer = case.pricer()

    def plan(duration_s):
        return allocate_fine(fleet, pricer, duration_s, objective=Objective.BALANCED, shares=case.shares)

    found = plan(duration_s)
    for each in found.devices:
        assert each.least_s is None
        assert each.feasible or each.found_s > duration_s
        assert found.feasible or each.found_s in [one.high_s for one in case.rounds(each.fleet_class)]
        assert not each.feasible or each.high_s <= duration_s
    if not found.feasible:
        assert found.least_s >= max(least_s.values())
        assert plan(found.least_s).feasible


def test_a_search_finds_what_the_shortest_round_and_one_width_for_all_meet(case):
    uniform = [case.pricer()(each, PHONE) for each in catalogue(case.network, case.shares)]
    shortest = Search(case.pricer(), PHONE, Objective.BALANCED, case.shares).shortest()
    assert shortest.high_s <= min(each.high_s for each in uniform)
    for each in (*uniform, shortest):
        found = Search(case.pricer(), PHONE, Objective.PARAMETERS, case.shares).best(each.high_s)
        assert found.meets(each.high_s)


def test_shares_are_of_the_model_and_not_of_the_largest_sub_model(case):
    rounds = price_classes(catalogue(case.network, (0.5, 0.25)), Fleet(classes=(PHONE,)), case.pricer())
    with pytest.raises(LatteError, match=r"every device train 50% .* at most 2[0-9.]+% fit the memory"):
        Goal(floor=0.5).point(rounds, case.network.parameters)


def test_a_share_that_is_nearly_kept_is_not_said_to_be_kept(case):
    rounds = price_classes(
        catalogue(case.network, case.shares), Fleet(classes=(replace(PHONE, memory_bytes=1),)), case.pricer()
    )
    with pytest.raises(LatteError, match="no sub-model fits the memory of any device"):
        Goal(idle=0.5).point(rounds, case.network.parameters)
    half = price_classes(catalogue(case.network, (0.5,)), Fleet(classes=(PHONE,)), case.pricer())
    share = half[0][1][0].sub_model.parameters / case.network.parameters
    with pytest.raises(LatteError) as caught:
        Goal(floor=round(share, 4) + 1e-4).point(half, case.network.parameters)
    wanted, reached = (float(part.split("%")[0].split()[-1]) for part in caught.value.message.split("%")[:2])
    assert reached < wanted
