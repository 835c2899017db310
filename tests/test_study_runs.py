"""Runs of a small study: four devices, three rounds, digits."""

import json
import logging
from dataclasses import replace
from math import inf

import pytest
import yaml

from latte_cli.errors import LatteError
from latte_cli.federated import client, server
from latte_cli.federated.grid import LocalGrid
from latte_cli.federated.settings import settings
from latte_cli.federated.study import METHODS, Run, Spread, Workshop, bands, parse_study, results
from latte_cli.federated.study.methods import LEVELS, Sizes
from latte_cli.federated.study.results import Result, best
from latte_cli.federated.study.shares import Prices
from latte_cli.report import pictures
from latte_cli.store import open_store

CPU, GPU = "reference-amd-epyc-family-26-model-2-2c-2t", "nvidia-h200-reference"
BANDWIDTH = {"up": "20Mbit", "down": "100Mbit"}
CLASSES = [
    {"class": "slow", "device": CPU, "count": 2, "slower": 20, "bandwidth": BANDWIDTH},
    {"class": "fast", "device": GPU, "count": 2, "bandwidth": BANDWIDTH},
]
STUDY = {
    "model": "custom_cnn",
    "image-size": 8,
    "data": "digits",
    "rounds": 3,
    "recipe": {"learning-rate": 0.02},
    "seeds": [1, 2, 3],
    "targets": [0.3, 0.6],
    "tuning": {"seed": 0, "round-durations": [0.4, 0.7], "levels": [0.25, 0.5]},
    "methods": ["fedavg", "latte"],
    "scenarios": [
        {"scenario": "calm", "classes": CLASSES},
        {"scenario": "rough", "noise": 0.3, "dropout": 0.2, "classes": CLASSES},
    ],
}


pytestmark = pytest.mark.usefixtures("one_thread")


def study(**changes):
    return parse_study(yaml.safe_dump(STUDY | changes).encode(), source="`study.yaml`")


def workshop(folder, **changes):
    return Workshop(study(**changes), open_store(str(folder / "store")), folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The small study, made once: its folder and its results."""
    folder = tmp_path_factory.mktemp("study")
    return folder, results(workshop(folder), seeds=(1, 2), methods=("fedavg", "latte"))


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.glob("*/*.json"))}


def is_trained(folder, planned):
    return (folder / "trainings" / f"{planned.training_key}.json").exists()


def test_a_small_study_says_how_soon_each_method_learns(made):
    _, found = made
    assert [(each.scenario, each.method) for each in found] == [
        (scenario, method) for scenario in ("calm", "rough") for method in ("fedavg", "latte")
    ]
    for each in found:
        assert len(each.runs) == 2
        assert each.option in ((1.0,) if each.method == "fedavg" else (0.4, 0.7))
        assert each.accuracy.median > 0.3
        for run in each.runs:
            assert run.times_s[0] == 0
            assert list(run.times_s) == sorted(run.times_s)
            assert 0 <= run.idle < 1
    calm = {each.method: each for each in found[:2]}
    assert calm["latte"].runs[0].times_s[-1] < calm["fedavg"].runs[0].times_s[-1]
    assert calm["latte"].idle.median < calm["fedavg"].idle.median
    assert any(run.gone for each in found[2:] for run in each.runs)


def test_a_run_is_a_file_and_a_training_is_shared_where_only_the_clock_differs(made):
    folder, _ = made
    trainings, runs = (list((folder / kind).glob("*.json")) for kind in ("trainings", "runs"))
    # fedavg: two seeds in two scenarios; latte: two options on the tuning seed and one on two seeds, in two scenarios
    assert len(runs) == 2 * 2 + 2 * (2 + 2)
    by_learning = {}
    for path in trainings:
        each = json.loads(path.read_text())["configuration"]
        widths = [entry["widths"] for entry in each["sub_models"].values()]
        by_learning.setdefault(any(widths), []).append(each["rounds"])
    whole = [rounds for rounds in by_learning[False] if rounds == [[0, 1, 2, 3]] * 3]
    assert len(whole) == 2
    slower = workshop(folder, scenarios=[{"scenario": "other", "classes": [*CLASSES[:1], {**CLASSES[1], "slower": 9}]}])
    planned = slower.planned("fedavg", slower.study.scenarios[0], 1.0, 1)
    assert is_trained(folder, planned)
    assert not (folder / "runs" / f"{planned.key}.json").exists()
    before = stamps(folder)
    slower.run(planned)
    assert len(stamps(folder)) == len(before) + 1
    (folder / "runs" / f"{planned.key}.json").unlink()


def test_what_is_there_is_not_made_again(made):
    folder, first = made
    before = stamps(folder)
    again = results(workshop(folder), seeds=(1, 2), methods=("fedavg", "latte"))
    assert again == first
    assert stamps(folder) == before
    path = next(iter(before))
    path.unlink()
    assert results(workshop(folder), seeds=(1, 2), methods=("fedavg", "latte")) == first
    changed = {each for each, stamp in stamps(folder).items() if before[each] != stamp}
    assert changed == {path}


def test_more_rounds_are_another_training(made):
    folder, _ = made
    longer = workshop(folder, rounds=4)
    planned = longer.planned("fedavg", longer.study.scenarios[0], 1.0, 1)
    assert not is_trained(folder, planned)
    other = workshop(folder, recipe={"learning-rate": 0.03})
    assert not is_trained(folder, other.planned("fedavg", other.study.scenarios[0], 1.0, 1))


def test_progress_is_reported(made):
    folder, _ = made
    heard = []
    results(workshop(folder), seeds=(1,), methods=("fedavg", "latte"), report=lambda *progress: heard.append(progress))
    assert heard[-1] == ("runs", 4, 4, 0.0)
    assert [done for what, done, _, _ in heard if what == "tuning"] == [1, 2, 3, 4]


def test_curves_are_bands_over_the_seeds(made, tmp_path):
    _, found = made
    panels = bands(found)
    assert list(panels) == ["calm", "rough"]
    for result, band in zip(found, [each for panel in panels.values() for each in panel], strict=True):
        assert band.times_s[-1] == min(run.times_s[-1] for run in result.runs)
        assert all(low <= middle <= high for low, middle, high in zip(band.low, band.median, band.high, strict=True))
    for suffix in (".png", ".svg"):
        pictures.save(pictures.accuracies_figure(panels, (0.3, 0.6), "a study"), tmp_path / f"curves{suffix}")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def a_run(*pairs, **more):
    times, accuracies = zip(*pairs, strict=True)
    fields = {"idle": 0.0, "late": 0, "gone": 0, "failed": 0, "devices": 1} | more
    return Run(times_s=times, accuracies=accuracies, **fields)


def test_an_accuracy_stays_until_the_next_evaluation():
    runs = (a_run((0.0, 0.1), (2.0, 0.5), (6.0, 0.9)), a_run((0.0, 0.2), (3.0, 0.4), (5.0, 0.8)))
    (band,) = bands([Result(scenario="s", method="m", option=1.0, runs=runs)])["s"]
    assert band.times_s == (0.0, 2.0, 3.0, 5.0)
    assert band.low == (0.1, 0.2, 0.4, 0.5)
    assert band.high == (0.2, 0.5, 0.5, 0.8)
    assert band.median == pytest.approx((0.15, 0.35, 0.45, 0.65))


def test_the_option_that_is_there_first_wins_else_the_most_accurate():
    quick, sure = a_run((0.0, 0.1), (2.0, 0.7), (4.0, 0.75)), a_run((0.0, 0.1), (3.0, 0.9), (6.0, 0.92))
    assert best([(0.2, quick), (0.8, sure)], 0.7) == 0.2
    assert best([(0.2, quick), (0.8, sure)], 0.9) == 0.8
    assert best([(0.2, quick), (0.8, sure)], 0.99) == 0.8


def test_what_half_of_the_seeds_did_not_reach_has_no_median():
    runs = tuple(a_run((0.0, 0.1), (float(at), accuracy)) for at, accuracy in ((1, 0.9), (2, 0.9), (3, 0.5)))
    found = Result(scenario="s", method="m", option=1.0, runs=runs)
    assert found.time_s(0.8) == Spread(median=2.0, low=1.0, high=inf)
    assert found.reached(0.8) == 2
    assert found.time_s(0.95).median == inf
    assert found.personal is None


# What devices are given


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    """Prices of the shipped profiles, for classes that differ in their strategy, and one that is slower."""
    same = {"device": CPU, "bandwidth": BANDWIDTH}
    classes = [
        {"class": "best", **same, "strategy": "exhaustive"},
        {"class": "default", **same, "strategy": "pytorch"},
        {"class": "slower", **same, "strategy": "exhaustive", "slower": 4},
        {"class": "GPU", **same, "device": GPU},
    ]
    found = study(scenarios=[{"scenario": "strategies", "classes": classes}], latte={"widths": [1, 0.7, 0.4, 0.2]})
    return Prices(found, open_store(str(tmp_path_factory.mktemp("prices"))))


@pytest.fixture(scope="module")
def fleet(prices):
    return prices.fleet(prices.study.scenarios[0], [100, 100, 100, 100])


def test_a_slower_device_takes_so_many_times_as_long_for_its_steps_and_as_long_to_send(prices, fleet):
    moving_s = 32 * prices.network.parameters * (1 / 20e6 + 1 / 100e6)
    assert fleet.whole_s[2] - moving_s == pytest.approx(4 * (fleet.whole_s[0] - moving_s))
    assert fleet.slowest_s == fleet.whole_s[2]


def test_levels_go_by_peak_speed_and_do_not_see_the_strategy(prices, fleet):
    shared = fleet.shared(METHODS["heterofl"], 0.3)
    widths = [shared.sub_models[at].width for at in range(4)]
    assert widths[0] == widths[1] == widths[3] == 1.0
    assert widths[2] < 1
    flops = [prices.flops(level) for level in prices.levels]
    within = [level.width for level, each in zip(prices.levels, flops, strict=True) if each <= 0.3 * flops[0]]
    assert widths[2] == max(within)
    assert fleet.shared(METHODS["fedrolex"], 1e-9).sub_models[2].width == min(LEVELS)
    assert shared.limit_s is None
    assert fleet.shared(METHODS["hermes"], 0.3).shares[2].first_s == fleet.whole_s[2]


def test_latte_gives_each_device_the_largest_that_meets_the_duration(prices, fleet):
    shared = fleet.shared(METHODS["latte"], 0.6)
    duration_s = 0.6 * fleet.slowest_s
    assert shared.limit_s == duration_s
    more_s = 32 * (prices.network.parameters - prices.catalogue[-1].parameters) / 100e6
    for at, fleet_class in enumerate(fleet.classes):
        meeting = []
        for entry in prices.catalogue:
            found = prices.round(entry, fleet_class)
            down_s = 32 * (prices.network.parameters - entry.parameters) / 100e6
            if found.high_s + down_s <= duration_s:
                meeting.append((entry.parameters, entry.id, found.round_s + down_s))
        parameters, name, round_s = max(meeting)
        assert (shared.sub_models[at].id, shared.sub_models[at].parameters) == (name, parameters)
        assert shared.shares[at].round_s == pytest.approx(round_s)
    assert more_s > 0
    assert shared.sub_models[2].width < 1


def test_nobody_can_take_part_in_rounds_that_are_too_short(fleet):
    assert fleet.shared(METHODS["latte"], 1e-6).shares == {}


def test_latte_prunes_with_sizes_of_its_own(fleet):
    shared = fleet.shared(METHODS["latte+hermes"], 0.6)
    assert shared.shares[2].first_s == fleet.whole_s[2] > shared.shares[2].limit_s == shared.limit_s
    assert shared.shares[2].round_s <= shared.limit_s


def test_a_step_of_fjord_takes_the_mean_over_its_levels(prices, fleet):
    shared = fleet.shared(METHODS["fjord"], 1.0)
    assert shared.sub_models[0].width == 1.0
    steps = []
    for level in prices.levels:
        moving_s = 32 * level.parameters * (1 / 20e6 + 1 / 100e6)
        steps.append(prices.round(level, fleet.classes[0]).round_s - moving_s)
    sending_s = 32 * prices.network.parameters * (1 / 20e6 + 1 / 100e6)
    assert shared.shares[0].round_s == pytest.approx(sum(steps) / len(steps) + sending_s)


def test_a_small_global_model_is_one_for_all(prices, fleet):
    shared = fleet.shared(METHODS["fedavg-small"], 0.5)
    assert shared.small.width == 0.5
    assert {each.widths for each in shared.sub_models.values()} == {()}
    assert shared.shares[2].round_s < fleet.whole_s[2]


def test_fine_widths_meet_the_duration_and_keep_more(prices):
    fine = Prices(replace(prices.study, fine=True), open_store(None))
    fleet = fine.fleet(fine.study.scenarios[0], [100, 100, 100, 100])
    shared = fleet.shared(METHODS["latte"], 0.6)
    assert all(share.round_s <= shared.limit_s for share in shared.shares.values())
    widths = dict(shared.sub_models[2].widths)
    assert len({width / whole for width, whole in zip(widths.values(), (32, 64, 128, 256), strict=True)}) > 1


def test_a_device_whose_memory_is_too_small_takes_no_part(prices):
    tight = study(scenarios=[{"scenario": "s", "classes": [{**CLASSES[0], "memory": "1kB"}, CLASSES[1]]}])
    fleet = Prices(tight, open_store(None)).fleet(tight.scenarios[0], [50] * 4)
    for name in METHODS:
        assert set(fleet.shared(METHODS[name], 1.0).shares) == {2, 3}, name


def test_a_profile_that_is_not_there_is_named(tmp_path):
    one = workshop(tmp_path, scenarios=[{"scenario": "s", "classes": [{**CLASSES[0], "device": "nowhere"}]}])
    with pytest.raises(LatteError, match=r"class `slow`.*unknown device `nowhere`"):
        one.planned("fedavg", one.study.scenarios[0], 1.0, 1)


def test_a_method_that_nobody_can_take_part_in_has_no_result(tmp_path):
    one = workshop(tmp_path, tuning={"seed": 0, "round-durations": [1e-6, 1e-5]})
    found = results(one, seeds=(1,), methods=("latte",))
    assert [(each.option, each.runs) for each in found] == [(None, ())] * 2
    assert bands(found) == {"calm": [], "rough": []}


def test_every_method_trains(tmp_path):
    names = [name for name in METHODS if METHODS[name].sizes is not Sizes.WHOLE]
    one = workshop(
        tmp_path,
        rounds=2,
        methods=names,
        tuning={"seed": 0, "round-durations": [0.6], "levels": [0.5]},
        scenarios=[{"scenario": "calm", "classes": CLASSES}],
    )
    found = {each.method: each for each in results(one, seeds=(1,), methods=names)}
    for name, result in found.items():
        (run,) = result.runs
        assert run.accuracy > run.accuracies[0], name
        assert run.failed == 0, name
        assert (run.personal is not None) == ("hermes" in name or "tailorfl" in name)


# The same federation, simulated and on Flower's messages


def test_latte_learns_what_the_same_federation_on_flower_learns(tmp_path):
    logging.getLogger("flwr").setLevel(logging.WARNING)
    alike = [{key: value for key, value in each.items() if key != "slower"} for each in CLASSES]
    changes = {"devices-per-round": 3, "scenarios": [{"scenario": "s", "classes": alike}]}
    one = workshop(tmp_path, **changes)
    planned = one.planned("latte", one.study.scenarios[0], 0.9, 7)
    simulated = one.trained(planned)

    nodes = [{"partition-id": at, "num-partitions": 4, "device": CPU if at < 2 else GPU} for at in range(4)]
    config = {"image-size": 8, "rounds": 3, "learning-rate": 0.02, "per-round": 3, "devices": 4, "seed": 7}
    config |= {"round-duration": f"{planned.shared.limit_s:.12f}s"}
    strategy, result = server.federation(LocalGrid(client.app, nodes, config), settings(config))
    for tick, each in zip(planned.ticks, strategy.rounds, strict=True):
        assert each.left_out == []
        assert [(trainer.name, trainer.sub_model) for trainer in each.trained] == [
            (f"device-{number}", planned.shared.sub_models[number].id) for number in tick.done
        ]
    assert len({each.id for each in planned.shared.sub_models.values()}) > 1
    evaluations = [result.evaluate_metrics_serverapp[number] for number in range(4)]
    assert simulated.accuracies == pytest.approx([each["accuracy"] for each in evaluations], abs=1e-9)
    assert simulated.losses == pytest.approx([each["loss"] for each in evaluations], rel=1e-4)
