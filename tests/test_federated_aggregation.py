from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli.allocator import catalogue
from latte_cli.allocator.channels import Method, kept_channels
from latte_cli.errors import LatteError
from latte_cli.federated import models
from latte_cli.federated.aggregation import (
    MOST_EXAMPLES,
    AggregationRule,
    ServerMomentum,
    Update,
    aggregate,
    channel_importance,
    check_update,
    groups,
    indices_of,
    part,
)

LENET = models.network_from(models.content("lenet", image_size=16), batch=4)
RESNET20 = models.network_from(models.content("resnet20", image_size=8), batch=4)
PIXELS = {"fc1.weight": 4}
"""Of lenet's second input dimension, where a channel is there once a pixel."""
SIDES = {
    "conv1": (None, "conv1"),
    "conv2": ("conv1", "conv2"),
    "fc1": ("conv2", "fc1"),
    "fc2": ("fc1", "fc2"),
    "fc3": ("fc2", None),
}
"""The channel groups that lenet's layers read and write, by the structure of the network."""


def arrays(network, seed):
    generator = np.random.default_rng(seed)
    sizes = {
        name: shape
        for node in network.nodes
        for name, shape in zip(network.parameter_names(node), node.layer.parameter_shapes, strict=True)
    }
    return {name: generator.standard_normal(shape, np.float32) for name, shape in sizes.items()}


def update(network, seed, *, width=0.5, method=Method.RANDOM, examples=10, depth=1.0):
    sub_model = catalogue(network, (width,), (depth,))[0]
    channels = kept_channels(method, groups(network), dict(sub_model.widths), round_number=0, device=seed)
    drawn = part(network, arrays(network, seed), channels, sub_model.dropped)
    return Update(kept=channels, arrays=drawn, examples=examples, dropped=sub_model.dropped)


def held(update, name, at):
    """The value that `update` has for a number of lenet's parameter, None where it does not hold it."""
    layer, kind = name.split(".")
    reads, writes = SIDES[layer]
    index = list(at)
    for axis, (group, pixels) in enumerate([(writes, 1), (reads, PIXELS.get(name, 1))][: 2 if kind == "weight" else 1]):
        if group is not None and group in update.kept:
            channel, pixel = divmod(at[axis], pixels)
            channels = update.kept[group].tolist()
            if channel not in channels:
                return None
            index[axis] = channels.index(channel) * pixels + pixel
    return float(update.arrays[name][tuple(index)])


def by_hand(whole, updates, weights):
    found = {}
    for name, value in whole.items():
        found[name] = value.copy()
        for at in np.ndindex(value.shape):
            seen = [(held(each, name, at), weight) for each, weight in zip(updates, weights, strict=True)]
            seen = [(number, weight) for number, weight in seen if number is not None]
            if seen:
                found[name][at] = sum(n * w for n, w in seen) / sum(w for _, w in seen)
    return found


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from([0.25, 0.5, 1.0]), st.integers(1, 10**6)), max_size=5),
    st.sampled_from(AggregationRule),
)
def test_updates_one_by_one_give_the_bits_of_all_at_once(drawn, rule):
    """All at once, as it was: the sums of a parameter over all updates, then those of the next."""
    whole = arrays(LENET, 99)
    updates = [update(LENET, at, width=width, examples=examples) for at, (width, examples) in enumerate(drawn)]
    found = aggregate(LENET, whole, updates, rule)
    for name, value in whole.items():
        total, weights = np.zeros(value.shape), np.zeros(value.shape)
        for each in updates:
            weight = float(each.examples) if rule is AggregationRule.EXAMPLES else 1.0
            block = np.ix_(*indices_of(LENET, each.kept)[name])
            total[block] += weight * each.arrays[name].astype(np.float64)
            weights[block] += weight
        touched, wanted = weights > 0, value.copy()
        wanted[touched] = (total[touched] / weights[touched]).astype(value.dtype)
        assert found[name].tobytes() == wanted.tobytes()


@pytest.mark.parametrize("rule", AggregationRule)
@pytest.mark.parametrize("method", [Method.NESTED, Method.ROLLING, Method.RANDOM])
def test_each_number_is_the_mean_over_those_that_hold_it(rule, method):
    whole = arrays(LENET, 99)
    updates = [
        update(LENET, at, width=width, method=method, examples=7 + at**3) for at, width in enumerate((0.25, 0.5, 0.75))
    ]
    found = aggregate(LENET, whole, updates, rule)
    wanted = by_hand(whole, updates, [each.examples if rule is AggregationRule.EXAMPLES else 1 for each in updates])
    assert set(found) == set(wanted) == set(whole)
    for name, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, err_msg=name)


def test_whole_networks_give_the_weighted_mean_of_fedavg():
    updates = [replace(update(RESNET20, at, width=1.0), examples=count) for at, count in enumerate((3, 50))]
    found = aggregate(RESNET20, arrays(RESNET20, 9), updates)
    for name, value in found.items():
        both = [each.arrays[name] for each in updates]
        np.testing.assert_allclose(value, np.average(both, axis=0, weights=(3, 50)), rtol=2e-5, atol=1e-6)


def test_what_nobody_holds_keeps_its_value_and_the_rest_is_taken_over():
    whole, only = arrays(RESNET20, 1), update(RESNET20, 2, width=0.25, method=Method.NESTED)
    found = aggregate(RESNET20, whole, [only])
    changed = {name: found[name] != value for name, value in whole.items()}
    assert found["layer1.0.conv1.weight"].shape == (16, 16, 3, 3)
    assert changed["layer1.0.conv1.weight"].sum() == 4 * 4 * 9
    np.testing.assert_array_equal(found["layer1.0.conv1.weight"][:4, :4], only.arrays["layer1.0.conv1.weight"])
    np.testing.assert_array_equal(found["fc.bias"], only.arrays["fc.bias"])
    assert aggregate(RESNET20, whole, []).keys() == whole.keys()


def test_blocks_that_a_sub_model_lacks_keep_their_values():
    whole, shallow = arrays(RESNET20, 1), update(RESNET20, 2, width=1.0, depth=0.34)
    assert "layer1.2.add" in shallow.dropped
    found = aggregate(RESNET20, whole, [check_update(RESNET20, shallow)])
    np.testing.assert_array_equal(found["layer1.2.conv1.weight"], whole["layer1.2.conv1.weight"])
    assert (found["layer1.0.conv1.weight"] != whole["layer1.0.conv1.weight"]).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), width=st.sampled_from((0.25, 0.5, 0.9)), method=st.sampled_from(list(Method)[:5]))
def test_a_part_that_comes_back_as_it_was_changes_nothing(seed, width, method):
    whole = arrays(LENET, seed)
    widths = dict(catalogue(LENET, (width,))[0].widths)
    channels = kept_channels(method, groups(LENET), widths, round_number=seed, device=3, seed=seed)
    same = Update(kept=channels, arrays=part(LENET, whole, channels), examples=5)
    found = aggregate(LENET, whole, [check_update(LENET, same)] * 3)
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_places_of_the_same_channels_are_worked_out_once():
    channels = {"conv1": np.array([0, 2])}
    assert indices_of(LENET, channels) is indices_of(LENET, {"conv1": np.array([0, 2])})
    assert indices_of(LENET, channels) is not indices_of(LENET, {"conv1": np.array([0, 3])})


def test_the_importance_of_a_channel_is_the_norm_of_the_weights_that_make_it():
    whole = arrays(RESNET20, 4)
    found = channel_importance(RESNET20, whole)
    inner = next(group for group in groups(RESNET20) if group.name == "layer1.0.conv1")
    np.testing.assert_allclose(
        found[inner.name], np.linalg.norm(whole["layer1.0.conv1.weight"].reshape(16, -1), axis=1), rtol=1e-6
    )
    assert set(found) == {group.name for group in groups(RESNET20)}
    tied = next(group for group in groups(RESNET20) if len(group.nodes) > 1)
    makers = [whole[f"{node}.weight"].reshape(tied.channels, -1) for node in tied.nodes]
    np.testing.assert_allclose(found[tied.name], np.linalg.norm(np.concatenate(makers, axis=1), axis=1), rtol=1e-5)


GOOD = update(LENET, 1)


def changed(name, change):
    return replace(GOOD, arrays={**GOOD.arrays, name: change(GOOD.arrays[name].copy())})


def spoiled(number):
    def change(array):
        array.flat[3] = number
        return array

    return change


BAD = {
    "a missing parameter": (
        replace(GOOD, arrays={name: each for name, each in GOOD.arrays.items() if name != "fc2.bias"}),
        "the parameter `fc2.bias` is missing",
    ),
    "an unknown parameter": (
        replace(GOOD, arrays={**GOOD.arrays, "fc2.bia": np.ones(3)}),
        "unknown parameter `fc2.bia`",
    ),
    "another shape": (changed("conv2.weight", lambda each: each[1:]), "`conv2.weight` has the shape (7, 3, 5, 5)"),
    "a shape that would broadcast": (changed("fc2.bias", lambda each: each[:1]), "`fc2.bias` has the shape (1,)"),
    "a number": (changed("fc2.bias", lambda each: np.float32(1)[()]), "`fc2.bias` has the shape ()"),
    "doubles": (changed("fc2.bias", lambda each: each.astype(np.float64)), "`fc2.bias` is of the type float64"),
    "texts": (changed("fc2.bias", lambda each: each.astype(str)), "`fc2.bias` is of the type <U"),
    "no number": (changed("fc1.weight", spoiled(np.nan)), "`fc1.weight` holds what is no number"),
    "an infinite number": (changed("fc1.weight", spoiled(np.inf)), "`fc1.weight` holds what is no number"),
    "no examples": (replace(GOOD, examples=0), "it trained on 0 examples"),
    "fewer than no examples": (replace(GOOD, examples=-5), "it trained on -5 examples"),
    "too many examples": (replace(GOOD, examples=MOST_EXAMPLES + 1), "it trained on 1000000001 examples"),
    "half an example": (replace(GOOD, examples=0.5), "`0.5` is no number of examples"),
    "an unknown group": (replace(GOOD, kept={**GOOD.kept, "conv3": np.arange(2)}), "unknown channel group `conv3`"),
    "a channel that does not exist": (
        replace(GOOD, kept={**GOOD.kept, "conv1": np.array([0, 1, 6])}),
        "channel group `conv1` cannot keep [0, 1, 6]",
    ),
    "a channel below 0": (
        replace(GOOD, kept={**GOOD.kept, "conv1": np.array([-1, 0, 1])}),
        "channel group `conv1` cannot keep [-1, 0, 1]",
    ),
    "channels twice": (replace(GOOD, kept={**GOOD.kept, "conv1": np.array([1, 1, 2])}), "of `conv1` do not ascend"),
    "channels out of order": (
        replace(GOOD, kept={**GOOD.kept, "conv1": np.array([2, 1, 3])}),
        "the channels kept of `conv1` do not ascend",
    ),
    "no channels": (
        replace(GOOD, kept={**GOOD.kept, "conv1": np.array([], dtype=np.int64)}),
        "channel group `conv1` cannot keep []",
    ),
    "channels as fractions": (replace(GOOD, kept={**GOOD.kept, "conv1": np.array([0.5, 1, 2])}), "keeps no list of"),
    "channels in a table": (replace(GOOD, kept={**GOOD.kept, "conv1": np.ones((3, 1), int)}), "keeps no list of"),
    "fewer channels than it has": (
        replace(GOOD, kept={**GOOD.kept, "conv1": np.array([0])}),
        "`conv1.weight` has the shape (3, 1, 5, 5)",
    ),
    "a block that does not exist": (replace(GOOD, dropped=("layer1",)), "unknown residual block `layer1`"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_update_is_named(case):
    bad, message = BAD[case]
    with pytest.raises(LatteError) as error:
        check_update(LENET, bad)
    assert message in error.value.message
    assert error.value.hint


def test_a_good_update_passes():
    assert check_update(LENET, GOOD) is GOOD


def test_a_server_s_step_that_overflows_is_forgotten():
    most = np.float32(3e38)
    momentum = ServerMomentum(0.9)
    before = {"a": np.array([most, 0, 1], np.float32)}
    averaged = {"a": np.array([-most, 1, 1], np.float32)}
    for _ in range(3):
        found = momentum.after(before, averaged)
        assert np.array_equal(found["a"], averaged["a"])
        before, averaged = averaged, before
    small = ({"a": np.zeros(1, np.float32)}, {"a": np.ones(1, np.float32)})
    momentum = ServerMomentum(0.5)
    assert [momentum.after(*small)["a"][0] for _ in range(3)] == [1, 1.5, 1.75]
