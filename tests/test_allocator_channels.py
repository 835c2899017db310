from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.allocator import Frequencies, Method, coverage, kept_channels
from latte_cli.allocator.channels import windows
from latte_cli.errors import LatteError
from latte_cli.network import zoo
from latte_cli.network.channels import ChannelGroup, Resizing, positions

GROUPS = (
    ChannelGroup(name="a", channels=12, nodes=("a",)),
    ChannelGroup(name="b", channels=7, nodes=("b",)),
    ChannelGroup(name="c", channels=8, nodes=("c",), multiple=2),
)
IMPORTANCE = {group.name: np.arange(group.channels, dtype=float) for group in GROUPS}
widths = st.fixed_dictionaries({"a": st.integers(1, 12), "b": st.integers(1, 7), "c": st.sampled_from((2, 4, 6, 8))})


def chosen(method, wide, *, number=0, device=0, seed=0, frequencies=None):
    return kept_channels(
        method,
        GROUPS,
        wide,
        round_number=number,
        device=device,
        seed=seed,
        frequencies=frequencies,
        importance=IMPORTANCE,
    )


@pytest.mark.parametrize("method", Method)
@given(wide=widths, number=st.integers(0, 50), device=st.integers(0, 10**6), seed=st.integers(0, 5))
def test_every_method_keeps_as_many_different_channels_as_asked_and_repeats_itself(method, wide, number, device, seed):
    found = chosen(method, wide, number=number, device=device, seed=seed)
    assert {name for name, width in wide.items() if width < {"a": 12, "b": 7, "c": 8}[name]} == set(found)
    for name, channels in found.items():
        assert len(channels) == wide[name]
        assert list(channels) == sorted(set(channels.tolist()))
        assert channels[0] >= 0
        assert channels[-1] < {"a": 12, "b": 7, "c": 8}[name]
    again = chosen(method, wide, number=number, device=device, seed=seed)
    assert all(np.array_equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("method", Method)
def test_a_group_that_is_divided_keeps_the_same_of_each_part(method):
    first, second = chosen(method, {"c": 6})["c"].reshape(2, 3)
    assert np.array_equal(second, first + 4)


def test_nested_channels_are_the_first_ones():
    assert chosen(Method.NESTED, {"a": 5}, number=3, device=9)["a"].tolist() == [0, 1, 2, 3, 4]


def test_windows_in_lock_step_start_one_further_each_round_for_all_devices_and_groups():
    for number in (0, 1, 11):
        found = chosen(Method.LOCK_STEP, {"a": 3, "b": 3}, number=number, device=number)
        assert found["a"].tolist() == sorted((number + at) % 12 for at in range(3))
        assert found["b"].tolist() == sorted((number + at) % 7 for at in range(3))


def test_rolling_windows_start_everywhere_before_one_comes_again():
    starts = Counter()
    for device in range(12):
        channels = chosen(Method.ROLLING, {"a": 1}, device=device)["a"]
        starts[int(channels[0])] += 1
    assert starts == Counter(range(12))


def test_the_least_trained_are_those_with_the_fewest_examples():
    counts = Frequencies(examples={"a": np.array([5.0, 0, 9, 1] * 3), "b": np.zeros(7), "c": np.zeros(8)})
    assert chosen(Method.LEAST_TRAINED, {"a": 6}, frequencies=counts)["a"].tolist() == [1, 3, 5, 7, 9, 11]


def test_taking_the_least_trained_keeps_counts_within_one_device_of_each_other():
    counts = Frequencies.none(GROUPS)
    for device in range(30):
        mine = chosen(Method.LEAST_TRAINED, {"a": 5, "b": 3, "c": 2}, device=device, frequencies=counts)
        counts = counts.after(mine, 10)
    for values in counts.examples.values():
        assert values.max() - values.min() <= 10
    assert sum(counts.examples["a"]) == 30 * 5 * 10


def test_the_most_important_are_kept_and_importance_has_to_be_known():
    assert chosen(Method.IMPORTANCE, {"b": 2})["b"].tolist() == [5, 6]
    with pytest.raises(LatteError, match="importance of channel group `a` is not known"):
        kept_channels(Method.IMPORTANCE, GROUPS, {"a": 1}, round_number=0, device=0)


def test_groups_that_stay_whole_are_trained_whole():
    after = Frequencies.none(GROUPS).after({"a": np.array([1, 2])}, 3)
    assert after.examples["a"].tolist() == [0, 3, 3, *[0] * 9]
    assert after.examples["b"].tolist() == [3] * 7


@pytest.mark.parametrize("width", [0, 13, -1])
def test_a_width_that_a_group_cannot_have_is_named(width):
    with pytest.raises(LatteError, match="`a` cannot have"):
        chosen(Method.NESTED, {"a": width})


def test_coverage_counts_the_pairs_that_were_trained_together():
    pairs = [("a", "b")]
    devices = [{"a": np.arange(6), "b": np.arange(3)}, {"a": np.arange(6, 12), "b": np.arange(3, 7)}]
    found = coverage(pairs, GROUPS, devices)
    assert found.share == found.least_share == pytest.approx((6 * 3 + 6 * 4) / (12 * 7))
    assert found.least_pair == ("a", "b")
    assert coverage(pairs, GROUPS, [*devices, {}]).share == 1
    assert coverage([], GROUPS, devices) is None


def test_offsets_of_their_own_train_pairs_that_windows_in_lock_step_never_do():
    groups = [ChannelGroup(name=name, channels=32, nodes=(name,)) for name in "ab"]

    def share(method):
        devices = (
            kept_channels(method, groups, {"a": 8, "b": 8}, round_number=number, device=device)
            for number in range(25)
            for device in range(8)
        )
        return coverage([("a", "b")], groups, devices).share

    assert share(Method.LOCK_STEP) < 0.6
    assert share(Method.ROLLING) > 0.98
    assert share(Method.LEAST_TRAINED) > 0.98


@given(
    wide=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    examples=st.lists(st.integers(1, 9), min_size=40, max_size=40),
)
def test_windows_laid_end_to_end_count_what_they_cover(wide, examples):
    group = GROUPS[0]
    before = Frequencies(examples={"a": np.arange(12.0)[::-1].copy()})
    found = windows((group,), {"a": np.array(wide)}, np.array(examples[: len(wide)], dtype=float), before)
    expected = before.examples["a"].copy()
    for start, width, count in zip(found.starts["a"], wide, examples, strict=False):
        for at in range(width):
            expected[(start + at) % 12] += count
    assert found.frequencies.examples["a"].tolist() == expected.tolist()


def test_windows_laid_end_to_end_are_even_to_within_one():
    group = GROUPS[0]
    wide = np.random.default_rng(0).integers(1, 13, 5000)
    found = windows((group,), {"a": wide}, np.ones(5000), Frequencies.none((group,)))
    counts = found.frequencies.examples["a"]
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == wide.sum()


def test_what_is_kept_can_be_cut_out_of_a_network_with_grouped_and_residual_channels():
    for name in ("resnet8", "mobilenet_v2"):
        network = zoo.network(name, batch_size=1)
        resizing = Resizing(network)
        for method in (Method.ROLLING, Method.RANDOM, Method.LOCK_STEP):
            wide = {group.name: group.width(0.5) for group in resizing.groups}
            mine = kept_channels(method, resizing.groups, wide, round_number=5, device=2)
            assert positions(network, mine)
        assert all({first, second} <= set(wide) for first, second in resizing.pairs)
