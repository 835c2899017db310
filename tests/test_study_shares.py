"""What the devices of a study are given to train, and how long a round takes them."""

from dataclasses import replace

import pytest
from small_study import BANDWIDTH, CLASSES, CPU, GPU, study

from latte_cli.allocator import Deadline, paced_duration_s
from latte_cli.errors import LatteError
from latte_cli.federated.study import METHODS
from latte_cli.federated.study.methods import LEVELS
from latte_cli.federated.study.shares import ScenarioPrices, TunedOption, tuning_options
from latte_cli.fleet import Method as Channels
from latte_cli.store import open_store

TUNED = {name: method for name, method in METHODS.items() if method.tuned}


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
    return ScenarioPrices(found, open_store(str(tmp_path_factory.mktemp("prices"))))


def dropping(duration):
    return TunedOption(duration=duration, deadline=Deadline.DROP)


def stopping(duration, width=1.0):
    return TunedOption(duration=duration, width=width, deadline=Deadline.PARTIAL)


@pytest.fixture(scope="module")
def fleet(prices):
    return prices.fleet(prices.study.scenarios[0], [100, 100, 100, 100])


def test_a_slower_device_takes_so_many_times_as_long_for_its_steps_and_as_long_to_send(prices, fleet):
    moving_s = 32 * prices.network.parameters * (1 / 20e6 + 1 / 100e6)
    assert fleet.whole_s[2] - moving_s == pytest.approx(4 * (fleet.whole_s[0] - moving_s))
    assert fleet.slowest_s == fleet.whole_s[2]


def test_levels_go_by_peak_speed_and_do_not_see_the_strategy(prices, fleet):
    shared = fleet.share_out(METHODS["heterofl"], TunedOption(duration=0.3))
    widths = [shared.sub_models[at].width for at in range(4)]
    assert widths[0] == widths[1] == widths[3] == 1.0
    assert widths[2] < 1
    flops = [prices.flops(level) for level in prices.levels]
    within = [level.width for level, each in zip(prices.levels, flops, strict=True) if each <= 0.3 * flops[0]]
    assert widths[2] == max(within)
    assert fleet.share_out(METHODS["fedrolex"], TunedOption(duration=1e-9)).sub_models[2].width == min(LEVELS)
    assert shared.limit_s is None
    assert fleet.share_out(METHODS["hermes"], TunedOption(duration=0.3)).shares[2].first_s == fleet.whole_s[2]


def test_latte_gives_each_device_the_largest_that_meets_the_duration(prices, fleet):
    shared = fleet.share_out(METHODS["latte"], dropping(0.6))
    duration_s = 0.6 * fleet.slowest_s
    assert shared.limit_s == duration_s
    for at, fleet_class in enumerate(fleet.classes):
        meeting = []
        for entry in prices.catalogue:
            found = prices.round(entry, fleet_class)
            if found.high_s <= duration_s:
                meeting.append((entry.parameters, entry.id, found.round_s))
        parameters, name, round_s = max(meeting)
        assert (shared.sub_models[at].id, shared.sub_models[at].parameters) == (name, parameters)
        assert shared.shares[at].round_s == pytest.approx(round_s)
    assert shared.sub_models[2].width < 1


def test_nobody_can_take_part_in_rounds_that_are_too_short(fleet):
    assert fleet.share_out(METHODS["latte"], dropping(1e-6)).shares == {}


def test_latte_prunes_with_sizes_of_its_own(fleet):
    shared = fleet.share_out(METHODS["latte+hermes"], dropping(0.6))
    assert shared.shares[2].first_s == fleet.whole_s[2] > shared.shares[2].limit_s == shared.limit_s
    assert shared.shares[2].round_s <= shared.limit_s


def test_a_step_of_fjord_takes_the_mean_over_its_levels(prices, fleet):
    shared = fleet.share_out(METHODS["fjord"], TunedOption(duration=1.0))
    assert shared.sub_models[0].width == 1.0
    steps = []
    for level in prices.levels:
        moving_s = 32 * level.parameters * (1 / 20e6 + 1 / 100e6)
        steps.append(prices.round(level, fleet.classes[0]).round_s - moving_s)
    sending_s = 32 * prices.network.parameters * (1 / 20e6 + 1 / 100e6)
    assert shared.shares[0].round_s == pytest.approx(sum(steps) / len(steps) + sending_s)


def test_a_small_global_model_is_one_for_all(prices, fleet):
    shared = fleet.share_out(METHODS["fedavg-small"], TunedOption(width=0.5))
    assert shared.small.width == 0.5
    assert {each.widths for each in shared.sub_models.values()} == {()}
    assert shared.shares[2].round_s < fleet.whole_s[2]


def test_fine_widths_meet_the_duration_and_keep_more(prices):
    fine = ScenarioPrices(replace(prices.study, fine=True), open_store(None))
    fleet = fine.fleet(fine.study.scenarios[0], [100, 100, 100, 100])
    shared = fleet.share_out(METHODS["latte"], dropping(0.6))
    assert all(share.round_s <= shared.limit_s for share in shared.shares.values())
    widths = dict(shared.sub_models[2].widths)
    assert len({width / whole for width, whole in zip(widths.values(), (32, 64, 128, 256), strict=True)}) > 1


def test_a_device_whose_memory_is_too_small_takes_no_part(prices):
    tight = study(scenarios=[{"scenario": "s", "classes": [{**CLASSES[0], "memory": "1kB"}, CLASSES[1]]}])
    fleet = ScenarioPrices(tight, open_store(None)).fleet(tight.scenarios[0], [50] * 4)
    for name in METHODS:
        assert set(fleet.share_out(METHODS[name], dropping(1.0)).shares) == {2, 3}, name


def test_devices_that_stop_in_time_all_take_part_with_what_they_can_train_a_quarter_of(prices, fleet):
    shared = fleet.share_out(METHODS["latte"], stopping(0.2))
    duration_s = 0.2 * fleet.slowest_s
    assert set(shared.shares) == {0, 1, 2, 3}
    for share in shared.shares.values():
        seconds, steps = share.work(1.0, first=False)
        assert 1 <= steps <= share.steps
        assert seconds <= duration_s or steps == 1
    assert shared.sub_models[0].parameters >= shared.sub_models[2].parameters
    wider = fleet.share_out(METHODS["latte"], stopping(1.0))
    assert all(wider.sub_models[at].parameters >= shared.sub_models[at].parameters for at in range(4))


def test_choices_by_flops_do_not_see_the_algorithms_and_their_steps_still_take_what_they_take(prices, fleet):
    by_flops = fleet.share_out(METHODS["latte-by-flops"], stopping(0.3))
    own = fleet.share_out(METHODS["latte"], stopping(0.3))
    assert by_flops.sub_models[0] == by_flops.sub_models[1]
    for shared in (by_flops, own, fleet.share_out(METHODS["latte-by-beta"], stopping(0.3))):
        for at, share in shared.shares.items():
            found = prices.round(shared.sub_models[at], fleet.classes[at])
            slower = 4 if at == 2 else 1
            assert share.step_s == pytest.approx(slower * found.step_s)


def test_tiers_may_be_set_apart_from_the_end_of_the_round_and_fit_the_memory(prices, fleet):
    tuned = replace(prices.study, tuning=replace(prices.study.tuning, tiers=(0.3, 1.0)))
    options = tuning_options(METHODS["heterofl"], tuned)
    assert {each.tier for each in options} == {0.3, 1.0}
    assert "tiers 0.3" in str(next(each for each in options if each.tier == 0.3))
    apart = fleet.share_out(METHODS["heterofl"], replace(stopping(0.9), tier=0.3))
    assert apart.sub_models == fleet.share_out(METHODS["heterofl"], TunedOption(duration=0.3)).sub_models
    assert apart.limit_s == 0.9 * fleet.slowest_s
    whole_bytes = prices.round(prices.whole, fleet.classes[0]).memory_bytes
    memory = f"{whole_bytes // 2}B"
    tight = study(scenarios=[{"scenario": "s", "classes": [{**CLASSES[0], "memory": memory}, CLASSES[1]]}])
    tight_fleet = ScenarioPrices(tight, open_store(None)).fleet(tight.scenarios[0], [50] * 4)
    shared = tight_fleet.share_out(METHODS["heterofl"], TunedOption(duration=1.0))
    assert shared.sub_models[0].width < 1 and 0 in shared.shares


def test_the_server_trains_no_channels_that_no_device_trains(prices, fleet):
    short = replace(stopping(1e-6), tier=1e-6)
    shared = fleet.share_out(METHODS["heterofl"], replace(short, tier=0.3))
    assert shared.small is None
    shared = fleet.share_out(METHODS["heterofl"], replace(short, width=0.5, tier=0.3))
    assert shared.small.width == 0.5
    nested = replace(METHODS["latte"], channels=Channels.NESTED)
    shared = fleet.share_out(nested, short)
    widest = max(shared.sub_models.values(), key=lambda each: each.parameters)
    assert widest.width < 1
    server = shared.small.of(prices.network)
    assert server.parameters == widest.parameters
    for each in shared.sub_models.values():
        assert each.of(server).parameters == each.parameters
    assert fleet.share_out(nested, stopping(1.0)).small is None
    rolling = fleet.share_out(METHODS["latte"], short)
    assert max(each.width for each in rolling.sub_models.values()) < 1 and rolling.small is None


def test_tiers_may_cut_a_model_of_a_width_that_is_tuned_too(prices, fleet):
    tuned = replace(prices.study, tuning=replace(prices.study.tuning, tiers=(0.5, 1.0), tier_widths=(0.5, 1.0)))
    options = tuning_options(METHODS["heterofl"], tuned)
    assert {(each.width, each.tier) for each in options} == {(0.5, 0.5), (0.5, 1.0), (1.0, 0.5), (1.0, 1.0)}
    assert {each.width for each in tuning_options(METHODS["fjord"], tuned)} == {1.0}
    narrow = fleet.share_out(METHODS["heterofl"], replace(stopping(0.9, width=0.5), tier=1.0))
    alone = fleet.share_out(METHODS["fedavg-small"], stopping(0.9, width=0.5))
    assert narrow.small.width == 0.5
    slowest = min(range(4), key=lambda at: prices.peak_flop_per_s(prices.study.scenarios[0].devices[at]))
    assert narrow.sub_models[slowest].of(narrow.small.of(prices.network)) == narrow.small.of(prices.network)
    assert narrow.shares[slowest] == alone.shares[slowest]


def test_what_latte_cuts_of_a_small_model_is_priced_as_what_it_is(prices, fleet):
    shared = fleet.share_out(METHODS["latte"], stopping(0.5, width=0.5))
    small = shared.small.of(prices.network)
    alone = fleet.share_out(METHODS["fedavg-small"], TunedOption(width=0.5))
    assert shared.small.width == 0.5
    for at, sub_model in shared.sub_models.items():
        assert sub_model.of(small).parameters <= small.parameters
        if not sub_model.widths:
            assert shared.shares[at].step_s == alone.shares[at].step_s


def test_every_method_is_tuned_over_the_same_ends_of_rounds(prices):
    tuning = replace(
        prices.study.tuning, deadlines=tuple(Deadline), round_durations=(0.2, 0.4), levels=(0.5,), latte_widths=(0.5, 1)
    )
    own = replace(prices.study, tuning=tuning)
    ends = {(deadline, duration) for deadline in (Deadline.DROP, Deadline.PARTIAL) for duration in (0.2, 0.4)}
    for name, method in TUNED.items():
        options = tuning_options(method, own)
        assert len(set(options)) == len(options), name
        has = {each for each in ends if name != "fedbuff" or each[0] is Deadline.PARTIAL}
        assert {(each.deadline, each.duration) for each in options} >= has, name


def test_the_factor_of_the_proximal_term_is_tuned(prices):
    tuned = replace(prices.study, tuning=replace(prices.study.tuning, proximal=(0.01, 0.1)))
    options = tuning_options(METHODS["fedprox"], tuned)
    without = tuning_options(METHODS["fedavg"], tuned)
    assert options == tuple(replace(each, proximal=factor) for factor in (0.01, 0.1) for each in without)
    assert str(options[-1]) == "0.7, drop, proximal 0.1"
    assert {each.proximal for each in without} == {0.0}


def test_fedbuff_is_tuned_over_buffers_widths_and_ends_by_which_nothing_is_lost(prices):
    tuning = replace(prices.study.tuning, deadlines=tuple(Deadline), buffers=(2, 8), levels=(0.5,))
    options = tuning_options(METHODS["fedbuff"], replace(prices.study, tuning=tuning))
    ends = [(None, Deadline.NONE), (0.4, Deadline.PARTIAL), (0.7, Deadline.PARTIAL)]
    wanted = [(width, buffer, *end) for width in (0.5, 1.0) for buffer in (2, 8) for end in ends]
    assert [(each.width, each.buffer, each.duration, each.deadline) for each in options] == wanted
    assert str(options[1]) == "width 0.5, 0.4, partial, buffer 2"
    only_dropping = replace(prices.study, tuning=replace(tuning, deadlines=(Deadline.DROP,)))
    assert {each.deadline for each in tuning_options(METHODS["fedbuff"], only_dropping)} == {Deadline.NONE}
    assert {
        each.buffer for name in METHODS if name != "fedbuff" for each in tuning_options(METHODS[name], prices.study)
    } == {0}


def test_every_method_that_has_rounds_may_draw_more_devices(prices):
    own = replace(prices.study, tuning=replace(prices.study.tuning, over_selections=(1.0, 1.3)))
    for name, method in TUNED.items():
        plain, found = tuning_options(method, prices.study), tuning_options(method, own)
        more = () if name == "fedbuff" else tuple(replace(each, over_selection=1.3) for each in plain)
        assert set(found) == {*plain, *more}, name
    assert str(TunedOption(over_selection=1.3)) == "over-selection 1.3"


def test_who_would_always_be_late_takes_no_part_in_rounds_that_drop_work(fleet):
    shared = fleet.share_out(METHODS["fedavg"], dropping(0.5))
    assert set(shared.shares) == {at for at, whole_s in enumerate(fleet.whole_s) if whole_s <= 0.5 * fleet.slowest_s}


def test_latte_without_tuning_gives_devices_parts_of_the_whole_network_in_rounds_of_its_own_rule(fleet):
    (option,) = tuning_options(METHODS["latte-untuned"], fleet._prices.study)
    shared = fleet.share_out(METHODS["latte-untuned"], option)
    rounds = [[fleet._price(device, each) for each in fleet._prices.catalogue] for device in range(len(fleet.classes))]
    assert shared.limit_s == paced_duration_s(rounds) < fleet.slowest_s
    assert shared == fleet.share_out(METHODS["latte"], stopping(shared.limit_s / fleet.slowest_s))


def test_devices_of_a_study_may_be_known_by_their_data_sheets(tmp_path):
    same = {"bandwidth": BANDWIDTH}
    classes = [
        {"class": "card", "device": "nvidia-geforce-rtx-4090", **same},
        {"class": "board", "device": "raspberry-pi-5", **same},
    ]
    found = ScenarioPrices(study(scenarios=[{"scenario": "sheets", "classes": classes}]), open_store(str(tmp_path)))
    scenario = found.study.scenarios[0]
    assert found.peak_flop_per_s(scenario.devices[0]) > 100 * found.peak_flop_per_s(scenario.devices[1]) > 1e12
    fleet = found.fleet(scenario, [100, 100])
    assert fleet.whole_s[1] > fleet.whole_s[0]
    for name in ("heterofl", "latte"):
        assert set(fleet.share_out(METHODS[name], dropping(1.5)).shares) == {0, 1}
    with pytest.raises(LatteError, match="has no rows, which `--estimator beta` learns from"):
        fleet.share_out(METHODS["latte-by-beta"], dropping(1.5))
