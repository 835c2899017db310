"""Fine allocation against every combination of widths there is."""

import runpy
from dataclasses import replace
from itertools import product
from math import log
from pathlib import Path

import made_rows
import numpy as np
import pytest
from test_costs import concatenating

from latte_cli.allocator import (
    Goal,
    Objective,
    Pricer,
    Search,
    SubModel,
    allocate_fine,
    catalogue,
    fine_target,
    largest,
)
from latte_cli.errors import LatteError
from latte_cli.estimator import Estimator, Limits
from latte_cli.fleet import Fleet, FleetClass
from latte_cli.network import zoo
from latte_cli.network.channels import groups_to_cut, resize
from latte_cli.store import open_store

SHARES = (0.25, 0.5, 0.75, 1.0)
PHONE = FleetClass(name="phone", device="made", samples=64, batch=2, up_bit_per_s=1e9, down_bit_per_s=1e9)


def networks():
    return {
        "lenet": zoo.network("lenet", batch_size=2),
        "resnet8": zoo.network("resnet8", batch_size=2),
        "concatenating": concatenating(),
    }


def shares(name):
    return {"resnet8": (0.5, 1.0), "lenet": (0.25, 0.5, 1.0), "concatenating": SHARES}[name]


class Case:
    """A network on a device that has measured every combination of widths, and the round of each."""

    def __init__(self, name, folder):
        self.network, self.shares = networks()[name], shares(name)
        groups = groups_to_cut(self.network)
        options = [sorted({group.width(share) for share in self.shares}) for group in groups]
        self.combinations = [
            {group.name: width for group, width in zip(groups, widths, strict=True)} for widths in product(*options)
        ]
        self.channels = {group.name: group.channels for group in groups}
        self.store = open_store(str(folder), shipped=False)
        layers = {
            layer: None for widths in self.combinations for layer in made_rows.step_layers(resize(self.network, widths))
        }
        made_rows.profile(self.store, layers)
        self.estimators = {}
        self._rounds = {}

    def pricer(self):
        return Pricer(lambda batch: self.network, self.estimator)

    def estimator(self, fleet_class):
        limit = fleet_class.memory_bytes
        if limit not in self.estimators:
            self.estimators[limit] = Estimator(self.store, made_rows.DEVICE.slug, limits=Limits(memory_bytes=limit))
        return self.estimators[limit]

    def rounds(self, fleet_class):
        if fleet_class not in self._rounds:
            price = self.pricer()
            self._rounds[fleet_class] = [
                price(
                    SubModel(
                        id=str(at), widths=tuple(widths.items()), parameters=resize(self.network, widths).parameters
                    ),
                    fleet_class,
                )
                for at, widths in enumerate(self.combinations)
            ]
        return self._rounds[fleet_class]

    def value(self, objective, sub_model):
        if objective is Objective.PARAMETERS:
            return sub_model.parameters
        return sum(log(width / self.channels[name]) for name, width in sub_model.widths)

    def whole_s(self, fleet_class):
        fitting = [each for each in self.rounds(fleet_class) if each.high_s is not None]
        return max(fitting, key=lambda each: each.sub_model.parameters).high_s

    def between(self, fleet_class, share):
        """A round duration from the shortest there is (0) to the whole model's (1)."""
        least_s = min(each.high_s for each in self.rounds(fleet_class) if each.high_s is not None)
        return least_s + share * (self.whole_s(fleet_class) - least_s)


@pytest.fixture(scope="module", params=["lenet", "resnet8", "concatenating"])
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.7, 0.9])
def test_nothing_that_meets_the_round_is_better_by_over_one_per_cent(case, objective, share):
    duration_s = case.between(PHONE, share)
    meeting = [each for each in case.rounds(PHONE) if each.meets(duration_s)]
    found = Search(case.pricer(), PHONE, objective, case.shares).best(duration_s)
    assert meeting
    assert found.meets(duration_s)
    best = max(case.value(objective, each.sub_model) for each in meeting)
    own = case.value(objective, found.sub_model)
    assert own >= best - 0.011 * abs(best), f"{own} instead of {best}"


def test_memory_limits_the_widths_too(case):
    needs = sorted(each.memory_bytes for each in case.rounds(PHONE))
    small = replace(PHONE, memory_bytes=needs[len(needs) // 2])
    for objective in Objective:
        found = Search(case.pricer(), small, objective, case.shares).best(1e9)
        meeting = [each for each in case.rounds(small) if each.meets(1e9)]
        best = max(case.value(objective, each.sub_model) for each in meeting)
        assert found.memory_bytes <= small.memory_bytes
        own = case.value(objective, found.sub_model)
        assert own >= best - 0.06 * abs(best), f"{own} instead of {best}"


def test_the_whole_model_is_taken_where_it_meets_the_round(case):
    found = Search(case.pricer(), PHONE, Objective.BALANCED, case.shares).best(case.whole_s(PHONE))
    assert dict(found.sub_model.widths) == case.channels


def test_nothing_is_found_where_even_the_smallest_takes_too_long(case):
    search = Search(case.pricer(), PHONE, Objective.BALANCED, case.shares)
    assert search.best(1e-9) is None
    least_s = min(each.high_s for each in case.rounds(PHONE))
    assert min(each.high_s for each in search.rounds) == pytest.approx(least_s, rel=0.02)


def test_a_search_serves_several_round_durations(case):
    search = Search(case.pricer(), PHONE, Objective.PARAMETERS, case.shares)
    kept = [search.best(case.between(PHONE, share)).sub_model.parameters for share in (0.9, 0.5, 0.7)]
    assert kept[1] <= kept[2] <= kept[0]


def test_widths_of_their_own_keep_at_least_what_one_width_for_all_does(case):
    price = case.pricer()
    uniform = [price(each, PHONE) for each in catalogue(case.network, case.shares)]
    for share in (0.4, 0.6, 0.8):
        duration_s = case.between(PHONE, share)
        best = largest(uniform, duration_s)
        if best is None:
            continue
        found = Search(price, PHONE, Objective.PARAMETERS, case.shares).best(duration_s)
        assert found.sub_model.parameters >= 0.99 * best.sub_model.parameters


def test_moving_the_parameters_counts(case):
    slow = replace(PHONE, up_bit_per_s=1e6, down_bit_per_s=1e6)
    whole = 64e-6 * case.network.parameters
    found = Search(case.pricer(), slow, Objective.BALANCED, case.shares).best(0.5 * whole)
    assert found.sub_model.parameters < 0.5 * whole / 64e-6


def test_a_network_without_groups_has_nothing_to_choose(tmp_path):
    network = made_rows.network()
    head = replace(network, nodes=network.nodes[:1], outputs=(network.nodes[0].output,))
    store = open_store(str(tmp_path), shipped=False)
    made_rows.profile(store, made_rows.step_layers(head))
    price = Pricer(lambda batch: head, lambda _: Estimator(store, made_rows.DEVICE.slug))
    with pytest.raises(LatteError, match="no channels that can be cut"):
        Search(price, PHONE, Objective.BALANCED)


# Goals


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_floor_takes_the_shortest_rounds_that_widths_of_their_own_allow(case, share):
    parameters, price = case.network.parameters, case.pricer()
    priced = [(PHONE, [price(each, PHONE) for each in catalogue(case.network, case.shares)])]
    goal = Goal(floor=share, fine=True)
    target = fine_target(goal, priced, parameters, price, shares=case.shares)
    keeping = [each for each in case.rounds(PHONE) if each.sub_model.parameters >= share * parameters]
    assert target.duration_s == pytest.approx(min(each.high_s for each in keeping), rel=0.01)
    assert target.duration_s <= goal.point(priced, parameters).round_duration_s
    plan = allocate_fine(
        Fleet(classes=(PHONE,)),
        price,
        target.duration_s,
        objective=Objective.BALANCED,
        shares=case.shares,
        least=target.least,
        known=target.known,
    )
    assert plan.devices[0].sub_model.parameters >= share * parameters


def test_a_mean_share_takes_the_shortest_rounds_that_widths_of_their_own_allow(case):
    parameters, price, slow = case.network.parameters, case.pricer(), replace(PHONE, name="slow", samples=128, count=3)
    classes = (PHONE, slow)
    priced = [(own, [price(each, own) for each in catalogue(case.network, case.shares)]) for own in classes]
    target = fine_target(Goal(capacity=0.5, fine=True), priced, parameters, price, shares=case.shares)

    def capacity(duration_s):
        kept = [
            max((each.sub_model.parameters for each in case.rounds(own) if each.meets(duration_s)), default=0)
            for own in classes
        ]
        return (kept[0] + 3 * kept[1]) / (4 * parameters) if all(kept) else 0.0

    durations = sorted(each.high_s for own in classes for each in case.rounds(own))
    shortest_s = next(each for each in durations if capacity(each) >= 0.5)
    assert target.duration_s == pytest.approx(shortest_s, rel=0.01)


# Predicted rows: what errs together makes the upper end of a step more than the sum of its calls' upper ends

EXACTNESS = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/allocation_exactness.py"))


def test_on_predicted_rows_no_combination_that_meets_the_round_is_better_by_over_a_thousandth():
    short = [(case, drawn.shortfall(case)) for drawn, case in EXACTNESS["drawn_cases"](15, seed=32)]
    assert not [each for each in short if each[1] > EXACTNESS["TOLERANCE"]]


def test_of_a_known_network_no_combination_that_meets_the_round_is_better_by_over_a_thousandth():
    drawn = EXACTNESS["Drawn"](
        np.random.default_rng(30), network=zoo.network("custom_cnn", batch_size=8), shares=QUARTERS
    )
    assert len(drawn.combinations) == 81
    assert not [case for case in drawn.cases(12) if drawn.shortfall(case) > EXACTNESS["TOLERANCE"]]


QUARTERS = (1 / 4, 1 / 2, 1)
