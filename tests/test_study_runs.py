"""Runs of a small study: what is trained, kept and read again, and what comes of it."""

import json
import logging
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_study import CLASSES, CPU, GPU, study

from latte_cli.allocator import Deadline
from latte_cli.errors import LatteError
from latte_cli.federated import client, server
from latte_cli.federated.grid import LocalGrid
from latte_cli.federated.settings import settings
from latte_cli.federated.study import METHODS, MethodRun, Spread, Workshop, bands, results
from latte_cli.federated.study.results import Result, _longest_s, best_option
from latte_cli.federated.study.shares import TunedOption, tuning_options
from latte_cli.report import pictures
from latte_cli.store import open_store

pytestmark = pytest.mark.usefixtures("one_thread")


def workshop(folder, **changes):
    return Workshop(study(**changes), open_store(str(folder / "store")), folder)


class Made(NamedTuple):
    """The small study: its folder, the workshop it was made in, and its results."""

    folder: Path
    workshop: Workshop
    results: list[Result]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The small study, made once."""
    folder = tmp_path_factory.mktemp("study")
    own = workshop(folder)
    return Made(folder, own, results(own, seeds=(1, 2), methods=("fedavg", "latte")))


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.glob("*/*.json"))}


def is_trained(folder, planned):
    return (folder / "trainings" / f"{planned.training_key}.json").exists()


def test_a_small_study_says_how_soon_each_method_learns(made):
    found = made.results
    assert [(each.scenario, each.method) for each in found] == [
        (scenario, method) for scenario in ("calm", "rough") for method in ("fedavg", "latte")
    ]
    for each in found:
        assert len(each.runs) == 2
        assert each.option in tuning_options(METHODS[each.method], made.workshop.study)
        assert (each.option.deadline is Deadline.DROP) or each.method == "fedavg"
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
    folder = made.folder
    trainings, runs = (list((folder / kind).glob("*.json")) for kind in ("trainings", "runs"))
    # fedavg: three options on the tuning seed; latte: two; and the one that was chosen on two seeds, in two scenarios
    assert len(runs) == 2 * (3 + 2) + 2 * (2 + 2)
    by_learning = {}
    for path in trainings:
        each = json.loads(path.read_text())["configuration"]
        widths = [entry["widths"] for entry in each["sub_models"].values()]
        by_learning.setdefault(any(widths), []).append(each["rounds"])
    whole = [each for each in by_learning[False] if [[at for at, _ in tick] for tick in each] == [[0, 1, 2, 3]] * 2]
    assert len(whole) == 3
    slower = workshop(folder, scenarios=[{"scenario": "other", "classes": [*CLASSES[:1], {**CLASSES[1], "slower": 9}]}])
    planned = slower.plan_run("fedavg", slower.study.scenarios[0], TunedOption(), 1)
    assert is_trained(folder, planned)
    assert not (folder / "runs" / f"{planned.key}.json").exists()
    before = stamps(folder)
    slower.run(planned)
    assert len(stamps(folder)) == len(before) + 1
    (folder / "runs" / f"{planned.key}.json").unlink()


def test_what_is_there_is_not_made_again(made):
    folder, _, first = made
    before = stamps(folder)
    again = results(workshop(folder), seeds=(1, 2), methods=("fedavg", "latte"))
    assert again == first
    assert stamps(folder) == before
    path = next(iter(before))
    path.unlink()
    assert results(made.workshop, seeds=(1, 2), methods=("fedavg", "latte")) == first
    changed = {each for each, stamp in stamps(folder).items() if before[each] != stamp}
    assert changed == {path}


def test_more_rounds_are_another_training(made):
    longer = workshop(made.folder, rounds=4)
    planned = longer.plan_run("fedavg", longer.study.scenarios[0], TunedOption(), 1)
    assert not is_trained(made.folder, planned)
    other = workshop(made.folder, recipe={"learning-rate": 0.03})
    assert not is_trained(made.folder, other.plan_run("fedavg", other.study.scenarios[0], TunedOption(), 1))


def test_a_run_for_tuning_ends_where_it_is_at_the_target(tmp_path):
    own = workshop(tmp_path, rounds=6)
    scenario, option = own.study.scenarios[0], TunedOption()
    whole = own.run(own.plan_run("fedavg", scenario, option, 1))
    reached = next(at for at, accuracy in enumerate(whole.accuracies) if accuracy > whole.accuracies[0])
    target = whole.accuracies[reached]
    ended = own.run(own.plan_run("fedavg", scenario, option, 1, until=target))
    assert 0 < reached < len(whole.accuracies) - 1
    assert ended.accuracies == whole.accuracies[: reached + 1]
    assert ended.times_s == whole.times_s[: reached + 1]


def test_the_proximal_term_is_another_training_and_no_term_is_none(made):
    scenario = made.workshop.study.scenarios[0]
    plain = made.workshop.plan_run("fedavg", scenario, TunedOption(), 1)
    near = made.workshop.plan_run("fedprox", scenario, TunedOption(proximal=0.1), 1)
    assert "proximal" not in plain.training["recipe"] | plain.configuration["option"]
    assert near.training == {**plain.training, "recipe": {**plain.training["recipe"], "proximal": 0.1}}
    assert made.workshop.train(near).losses != made.workshop.train(plain).losses


def test_a_federation_without_rounds_waits_for_nobody_and_trains_as_much(made):
    one = workshop(made.folder, rounds=6, **{"evaluate-every": 2})
    scenario = one.study.scenarios[0]
    plain, buffered = (
        one.plan_run(name, scenario, option, 1)
        for name, option in (("fedavg", TunedOption()), ("fedbuff", TunedOption(buffer=2)))
    )
    assert sum(len(tick.done) for tick in buffered.ticks) == sum(len(tick.done) for tick in plain.ticks) == 6 * 4
    assert (buffered.training["every"], plain.training["every"]) == (4, 2)
    assert {len(entry) for tick in buffered.training["rounds"] for entry in tick} == {3}
    runs = one.run(plain), one.run(buffered)
    assert len(runs[0].times_s) == len(runs[1].times_s) == 4
    assert runs[1].idle == 0.0
    assert runs[1].accuracy > 0.3
    assert any(tick.versions != (number, number) for number, tick in enumerate(buffered.ticks))


def test_keys_know_of_devices_that_come_and_go_where_they_do(made):
    coming = {"scenario": "calm", "available": {"on": "4s", "off": "2s"}, "classes": CLASSES}
    one = workshop(made.folder, scenarios=[coming])
    steady, found = (
        each.plan_run("fedavg", each.study.scenarios[0], TunedOption(), 1) for each in (made.workshop, one)
    )
    assert "available" not in steady.configuration["scenario"]["availability"]
    assert found.configuration["scenario"]["availability"]["available"] == {"on_s": 4.0, "off_s": 2.0}
    assert any(len(tick.done) < 4 for tick in found.ticks)


def test_a_void_round_changes_nothing_on_the_server_not_even_by_its_momentum(made):
    recipe = {"learning-rate": 0.02, "server-momentum": 0.9}
    one = workshop(made.folder, rounds=6, recipe=recipe, **{"least-share": 0.8})
    planned = one.plan_run("fedavg", one.study.scenarios[1], TunedOption(), 3)
    void = [tick.void for tick in planned.ticks]
    assert True in void[void.index(False) :] and False in void
    assert [each is None for each in planned.training["rounds"]] == void
    found = one.train(planned)
    for number, each in enumerate(void, start=1):
        assert (found.losses[number] == found.losses[number - 1]) == each
    assert one.run(planned).void == sum(void)


def test_more_devices_than_are_waited_for_are_another_run(made):
    one = workshop(made.folder, **{"devices-per-round": 2})
    plain, more = (
        one.plan_run("fedavg", one.study.scenarios[0], TunedOption(over_selection=share), 1) for share in (1.0, 1.5)
    )
    assert "over_selection" not in plain.configuration["option"]
    assert more.configuration["option"] == plain.configuration["option"] | {"over_selection": 1.5}
    assert [len(tick.late) for tick in more.ticks] == [1, 1]


def test_progress_is_reported(made):
    heard = []
    results(made.workshop, seeds=(1,), methods=("fedavg", "latte"), report=lambda *progress: heard.append(progress))
    assert heard[-1] == ("runs", 4, 4, 0.0)
    assert [done for what, done, _, _ in heard if what == "tuning"] == list(range(1, 11))


def test_curves_are_bands_over_the_seeds(made, tmp_path):
    found = made.results
    panels = bands(found)
    assert list(panels) == ["calm", "rough"]
    for result, band in zip(found, [each for panel in panels.values() for each in panel], strict=True):
        assert band.times_s[-1] == min(run.times_s[-1] for run in result.runs)
        assert all(low <= middle <= high for low, middle, high in zip(band.low, band.median, band.high, strict=True))
    for suffix in (".png", ".svg"):
        pictures.save_figure(pictures.accuracies_figure(panels, (0.3, 0.6), "a study"), tmp_path / f"curves{suffix}")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def a_run(*pairs, **more):
    times, accuracies = zip(*pairs, strict=True)
    fields = {"idle": 0.0, "late": 0, "gone": 0, "failed": 0, "devices": 1} | more
    return MethodRun(times_s=times, accuracies=accuracies, **fields)


def test_an_accuracy_stays_until_the_next_evaluation():
    runs = (a_run((0.0, 0.1), (2.0, 0.5), (6.0, 0.9)), a_run((0.0, 0.2), (3.0, 0.4), (5.0, 0.8)))
    (band,) = bands([Result(scenario="s", method="m", option=TunedOption(), runs=runs)])["s"]
    assert band.times_s == (0.0, 2.0, 3.0, 5.0)
    assert band.low == (0.1, 0.2, 0.4, 0.5)
    assert band.high == (0.2, 0.5, 0.5, 0.8)
    assert band.median == pytest.approx((0.15, 0.35, 0.45, 0.65))


def test_the_option_that_is_there_first_wins_else_the_most_accurate():
    quick, sure = a_run((0.0, 0.1), (2.0, 0.7), (4.0, 0.75)), a_run((0.0, 0.1), (3.0, 0.9), (6.0, 0.92))
    assert best_option([(0.2, quick), (0.8, sure)], 0.7) == 0.2
    assert best_option([(0.2, quick), (0.8, sure)], 0.9) == 0.8
    assert best_option([(0.2, quick), (0.8, sure)], 0.99) == 0.8


@given(
    times=st.integers(1, 4).flatmap(
        lambda seeds: st.lists(st.lists(st.just(inf) | st.integers(1, 9), min_size=seeds, max_size=seeds), min_size=1)
    )
)
def test_runs_that_are_cut_short_leave_the_best_option_as_it_is(times):
    options = [TunedOption(width=1 / at) for at in range(1, len(times) + 1)]
    tuning = replace(study().tuning, seeds=tuple(range(len(times[0]))), target=0.5)

    def run(time_s):
        return a_run((0.0, 0.1), (float(time_s), 0.6) if time_s < inf else (9.0, 0.2))

    cut = []
    for option, seconds in zip(options, times, strict=True):
        for time_s in seconds:
            longest_s = _longest_s(cut, tuning)
            cut.append((option, run(time_s if time_s <= longest_s else inf)))
    whole = [(option, run(time_s)) for option, seconds in zip(options, times, strict=True) for time_s in seconds]
    assert best_option(cut, tuning.target) == best_option(whole, tuning.target)


def test_of_several_seeds_the_median_decides():
    lucky = [a_run((0.0, 0.1), (at, 0.9)) for at in (1.0, 8.0, 9.0)]
    steady = [a_run((0.0, 0.1), (at, 0.9)) for at in (4.0, 5.0, 6.0)]
    tried = [*((0.2, run) for run in lucky), *((0.8, run) for run in steady)]
    assert best_option(tried, 0.9) == 0.8


def test_what_half_of_the_seeds_did_not_reach_has_no_median():
    runs = tuple(a_run((0.0, 0.1), (float(at), accuracy)) for at, accuracy in ((1, 0.9), (2, 0.9), (3, 0.5)))
    found = Result(scenario="s", method="m", option=TunedOption(), runs=runs)
    assert found.time_s(0.8) == Spread(median=2.0, low=1.0, high=inf)
    assert found.count_reaching(0.8) == 2
    assert found.time_s(0.95).median == inf
    assert found.personal is None


def test_the_lowest_tenth_is_the_mean_of_the_devices_with_the_lowest_accuracy():
    accuracies = (0.9, 0.3, 0.8, 0.5, *[0.95] * 16)
    run = a_run((0.0, 0.1), (1.0, 0.9), by_device=accuracies)
    assert run.lowest_tenth == pytest.approx(0.4)
    assert a_run((0.0, 0.1), by_device=(0.9, 0.2)).lowest_tenth == 0.2
    assert a_run((0.0, 0.1)).lowest_tenth is None


def test_a_profile_that_is_not_there_is_named(tmp_path):
    one = workshop(tmp_path, scenarios=[{"scenario": "s", "classes": [{**CLASSES[0], "device": "nowhere"}]}])
    with pytest.raises(LatteError, match=r"class `slow`.*unknown device `nowhere`"):
        one.plan_run("fedavg", one.study.scenarios[0], TunedOption(), 1)


def test_data_that_a_later_seed_cannot_spread_are_named_before_anything_is_trained(tmp_path):
    classes = [{**each, "count": 12} for each in CLASSES]
    one = workshop(tmp_path, alpha=0.05, scenarios=[{"scenario": "many", "classes": classes}])
    reports = []
    with pytest.raises(LatteError, match="scenario `many`: the examples cannot be spread so: in each of ten draws"):
        results(one, seeds=(2, 3), methods=("fedavg",), report=lambda *each: reports.append(each))
    assert (reports, list(tmp_path.glob("trainings/*"))) == ([], [])


def test_the_clients_of_a_source_are_the_devices_of_a_study(tmp_path):
    own = {"data": "watch", "partition": "natural", "classes": 7, "image-size": 14, "rounds": 1, "methods": ["fedavg"]}
    one = workshop(tmp_path, **own)
    found = one.run(one.plan_run("fedavg", one.study.scenarios[0], TunedOption(), 1))
    assert (found.devices, found.failed, len(found.by_device)) == (4, 0, 4)
    assert found.accuracies[-1] > found.accuracies[0]
    many = workshop(tmp_path, **own, scenarios=[{"scenario": "s", "classes": [{**CLASSES[0], "count": 21}]}])
    with pytest.raises(LatteError, match="scenario `s`: 21 devices cannot have a client each: 20 have at least 2"):
        results(many, seeds=(1,), methods=("fedavg",))


def test_a_method_that_nobody_can_take_part_in_has_no_result(tmp_path):
    one = workshop(tmp_path, tuning={"seed": 0, "round-durations": [1e-6, 1e-5], "deadlines": ["drop"]})
    found = results(one, seeds=(1,), methods=("latte",))
    assert [(each.option, each.runs) for each in found] == [(None, ())] * 2
    assert bands(found) == {"calm": [], "rough": []}


def test_every_method_trains(tmp_path):
    names = [name for name in METHODS if name != "fedavg"]
    one = workshop(
        tmp_path,
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
    planned = one.plan_run("latte", one.study.scenarios[0], TunedOption(duration=0.9, deadline=Deadline.DROP), 7)
    simulated = one.train(planned)

    nodes = [{"partition-id": at, "num-partitions": 4, "device": CPU if at < 2 else GPU} for at in range(4)]
    config = {"image-size": 8, "rounds": 2, "learning-rate": 0.02, "per-round": 3, "devices": 4, "seed": 7}
    config |= {"deadline": "drop", "learn-times": False, "round-duration": f"{planned.shared.limit_s:.12f}s"}
    strategy, result = server.federation(LocalGrid(client.app, nodes, config), settings(config))
    for tick, each in zip(planned.ticks, strategy.rounds, strict=True):
        assert each.left_out == []
        assert [(trainer.name, trainer.sub_model) for trainer in each.trained] == [
            (f"device-{number}", planned.shared.sub_models[number].id) for number in tick.done
        ]
    assert len({each.id for each in planned.shared.sub_models.values()}) > 1
    evaluations = [result.evaluate_metrics_serverapp[number] for number in range(3)]
    assert simulated.accuracies == pytest.approx([each["accuracy"] for each in evaluations], abs=1e-9)
    assert simulated.losses == pytest.approx([each["loss"] for each in evaluations], rel=1e-4)
