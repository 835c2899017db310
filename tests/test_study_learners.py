"""What devices of a study learn and how it is put together, against loops written by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from latte_cli.allocator import SubModel, catalogue
from latte_cli.allocator.channels import kept_channels
from latte_cli.federated import device, models
from latte_cli.federated.aggregation import Update, aggregate, channel_importance, groups, indices_of
from latte_cli.federated.recipe import Recipe
from latte_cli.federated.settings import FederationSettings
from latte_cli.federated.study import METHODS
from latte_cli.federated.study.clock import DeviceWork
from latte_cli.federated.study.learners import Federation, device_accuracies, learner, personal_accuracy
from latte_cli.federated.study.methods import LEVELS, SubModelSizes
from latte_cli.federated.study.ordered import NestedPart
from latte_cli.federated.study.ordered import train_parts as trained_ordered
from latte_cli.federated.study.overlap import HeldPart, block, sums
from latte_cli.federated.training import evaluate_network, initial, train_network
from latte_cli.fleet import Method as Channels

DEVICES = 4
SETTINGS = FederationSettings(image_size=8, batch=32, learning_rate=0.02, data="digits", alpha=0.3, seed=5)
WHOLE = SubModel(id="whole", widths=(), parameters=0)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network():
    return models.network_from(models.content("custom_cnn", image_size=8), batch=32)


@pytest.fixture(scope="module")
def examples(network):
    """A third of each device's examples: steps of some batches, the last of which is smaller."""
    nodes = [{"partition-id": at, "num-partitions": DEVICES} for at in range(DEVICES)]
    whole = [device.device_examples(node, SETTINGS, network)[0] for node in nodes]
    return [each.take(np.arange(0, len(each), 3)) for each in whole]


@pytest.fixture(scope="module")
def levels(network):
    return catalogue(network, LEVELS)


def federation(network, examples, name, sub_models, levels=(), **changes):
    method = METHODS[name]
    own = replace(SETTINGS, rule=method.rule, masked=method.masked, scaled=method.scaled, **changes)
    own = replace(own, method=method.channels or Channels.ROLLING)
    return Federation(
        network=network, settings=own, method=method, examples=examples, sub_models=sub_models, levels=levels
    )


def all_steps(devices):
    """So many steps that they do all their epochs."""
    return [DeviceWork(device=at, steps=10**9) for at in devices]


def seed(*numbers):
    return int(np.random.SeedSequence((SETTINGS.seed, *numbers)).generate_state(1)[0])


def mean(whole, held, fewest=1):
    """For each number the weighted mean over its holders, by full arrays; `held` are indices, arrays and weights."""
    found = {}
    for name, value in whole.items():
        total, weight, holders = np.zeros(value.shape), np.zeros(value.shape), np.zeros(value.shape)
        for where, arrays, each in held:
            if name not in arrays:
                continue
            dense, there = np.zeros(value.shape), np.zeros(value.shape)
            dense[np.ix_(*where[name])] = arrays[name]
            there[np.ix_(*where[name])] = 1
            total, weight, holders = total + each * dense, weight + each * there, holders + there
        merged = np.where(holders >= fewest, total / np.maximum(weight, 1e-30), value)
        found[name] = merged.astype(np.float32)
    return found


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in found:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-7, err_msg=name)


def cut(network, whole, widths, channels, **how):
    chosen = kept_channels(channels, groups(network), dict(widths), device=how.pop("at", 0), **how)
    where = indices_of(network, chosen)
    return where, {name: whole[name][np.ix_(*index)] for name, index in where.items()}


def test_sums_are_those_of_the_federation(network):
    random, whole = np.random.default_rng(0), initial(network, seed=0)
    updates = []
    for at, width in enumerate((1.0, 0.5, 0.3, 0.9)):
        widths = {group.name: group.width(width) for group in groups(network)}
        chosen = kept_channels(Channels.ROLLING, groups(network), widths, round_number=3, device=at)
        where = indices_of(network, chosen)
        arrays = {name: random.normal(size=tuple(map(len, index))).astype(np.float32) for name, index in where.items()}
        updates.append(Update(kept=chosen, arrays=arrays, examples=int(random.integers(1, 500))))
    held = [
        HeldPart(indices=indices_of(network, each.kept), arrays=each.arrays, weight=float(each.examples))
        for each in updates
    ]
    found = {name: each.mean(whole[name]) for name, each in sums(whole, held).items()}
    wanted = aggregate(network, whole, updates)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_a_block_selects_what_lists_of_indices_select():
    array, random = np.arange(6 * 7 * 5).reshape(6, 7, 5), np.random.default_rng(1)
    for _ in range(50):
        index = tuple(np.sort(random.permutation(n)[: random.integers(1, n + 1)]) for n in array.shape)
        np.testing.assert_array_equal(array[block(index)], array[np.ix_(*index)])
    assert block((np.arange(2, 5), np.arange(7))) == (slice(2, 5), slice(0, 7))


def test_fedavg_is_plain_federated_averaging(network, examples):
    learning = learner(federation(network, examples, "fedavg", dict.fromkeys(range(DEVICES), WHOLE)))
    whole = initial(network, seed=SETTINGS.seed)
    for number in range(2):
        assert learning.round(number, all_steps(range(DEVICES))) == []
        each = [
            train_network(network, whole, mine, SETTINGS.recipe, seed=seed(number, at)).arrays
            for at, mine in enumerate(examples)
        ]
        counts = [len(mine) for mine in examples]
        whole = {
            name: sum(n * arrays[name].astype(float) for n, arrays in zip(counts, each, strict=True)) / sum(counts)
            for name in whole
        }
        whole = {name: value.astype(np.float32) for name, value in whole.items()}
        assert_same(learning.whole, whole)


def test_fedprox_is_fedavg_whose_devices_stay_near_what_they_received(network, examples):
    own = federation(network, examples, "fedprox", dict.fromkeys(range(DEVICES), WHOLE), proximal=1.0)
    learning, whole = learner(own), initial(network, seed=SETTINGS.seed)
    assert learning.round(0, [DeviceWork(device=at, steps=2) for at in range(DEVICES)]) == []
    near = {}
    for proximal in (0.0, 1.0):
        recipe = replace(SETTINGS.recipe, proximal=proximal)
        each = [
            train_network(network, whole, mine, recipe, seed=seed(0, at), go_on=lambda steps: steps < 2).arrays
            for at, mine in enumerate(examples)
        ]
        held = [
            (indices_of(network, {}), arrays, float(len(mine))) for arrays, mine in zip(each, examples, strict=True)
        ]
        near[proximal] = mean(whole, held)
    assert_same(learning.whole, near[1.0])
    assert any(not np.allclose(near[0.0][name], near[1.0][name], rtol=1e-5, atol=1e-7) for name in whole)


def test_fedbuff_adds_the_mean_of_changes_by_their_staleness(network, examples):
    own = federation(network, examples, "fedbuff", dict.fromkeys(range(DEVICES), WHOLE), server_momentum=0.5)
    learning = learner(replace(own, last_use={0: 2, 1: 2, 2: 2}))
    ticks = [[(0, 0), (1, 0)], [(0, 0), (0, 1)], [(3, 2), (2, 0)]]
    versions, momentum = [initial(network, seed=SETTINGS.seed)], {}
    for number, tick in enumerate(ticks):
        work = [DeviceWork(device=who, steps=3, version=version) for who, version in tick]
        assert learning.round(number, work) == []
        change = {name: np.zeros(value.shape) for name, value in versions[0].items()}
        for at, (who, version) in enumerate(tick):
            begun, own_seed = versions[version], seed(number, who, at)
            after = train_network(
                network, begun, examples[who], SETTINGS.recipe, seed=own_seed, go_on=lambda steps: steps < 3
            ).arrays
            for name, array in after.items():
                change[name] += (array - begun[name]) / (1 + number - version) ** 0.5 / 2
        momentum = {name: value + 0.5 * momentum.get(name, 0) for name, value in change.items()}
        versions.append({name: (value + momentum[name]).astype(np.float32) for name, value in versions[-1].items()})
        assert_same(learning.whole, versions[-1])


def test_models_that_no_device_has_begun_from_or_will_are_forgotten(network, examples):
    own = federation(network, examples, "fedbuff", dict.fromkeys(range(DEVICES), WHOLE))
    learning = learner(replace(own, last_use={0: 1, 1: 1, 2: 2}))
    for number, versions in enumerate([(0, 0), (0, 1), (2, 2)]):
        learning.round(number, [DeviceWork(device=at, steps=1, version=version) for at, version in enumerate(versions)])
    with pytest.raises(KeyError):
        learning.round(3, [DeviceWork(device=0, steps=1, version=0)])
    assert learning.round(3, [DeviceWork(device=0, steps=1, version=3)]) == []


def test_a_round_without_devices_changes_nothing(network, examples, levels):
    for name in METHODS:
        learning = learner(federation(network, examples, name, {}, levels))
        before = {name: value.copy() for name, value in learning.whole.items()}
        assert learning.round(0, all_steps([])) == []
        assert all(np.array_equal(learning.whole[each], before[each]) for each in before)


@pytest.mark.parametrize(("name", "channels"), [("heterofl", Channels.NESTED), ("fedrolex", Channels.LOCK_STEP)])
@pytest.mark.parametrize("rooted", [False, True])
def test_levels_are_averaged_over_their_holders_and_classes_over_those_that_have_them(
    network, examples, levels, name, channels, rooted
):
    sub_models, rate = dict(enumerate(levels[1:])), 0.02 if rooted else 1e-4
    own = federation(network, examples, name, sub_models, levels, learning_rate=rate)
    if rooted:
        own = replace(own, rooted=True, settings=replace(own.settings, scaled=False))
    learning = learner(own)
    whole = initial(network, seed=SETTINGS.seed)
    recipe = Recipe(learning_rate=rate, masked=True, scaled=not rooted)
    for number in range(2):
        assert learning.round(number, all_steps([0, 1, 3])) == []
        held = []
        for at in (0, 1, 3):
            where, arrays = cut(network, whole, sub_models[at].widths, channels, at=at, round_number=number)
            roots = {
                each: np.float32(np.sqrt(array.shape[1] / whole[each].shape[1]) if rooted and array.ndim > 1 else 1)
                for each, array in arrays.items()
            }
            arrays = {each: array / roots[each] for each, array in arrays.items()}
            small = sub_models[at].of(network)
            arrays = train_network(small, arrays, examples[at], recipe, seed=seed(number, at), whole=network).arrays
            arrays = {each: array * roots[each] for each, array in arrays.items()}
            present = np.unique(examples[at].labels)
            where = where | {head: (present, *where[head][1:]) for head in ("fc2.weight", "fc2.bias")}
            arrays = arrays | {head: arrays[head][present] for head in ("fc2.weight", "fc2.bias")}
            held.append((where, arrays, 1.0))
        whole = mean(whole, held)
        assert_same(learning.whole, whole)
    assert any(len(np.unique(mine.labels)) < 10 for mine in examples)


def test_the_levels_of_heterofl_are_nested_and_those_of_fedrolex_move_by_one(network, levels):
    assert [level.width for level in levels] == [1, 0.5, 0.25, 0.125, 0.0625]
    for level in levels[1:]:
        nested, _ = cut(network, initial(network, seed=0), level.widths, Channels.NESTED, round_number=3)
        moving, _ = cut(network, initial(network, seed=0), level.widths, Channels.LOCK_STEP, round_number=3)
        width = dict(level.widths)["conv2"]
        assert nested["conv2.weight"][0].tolist() == list(range(width))
        assert moving["conv2.weight"][0].tolist() == list(range(3, width + 3))


def test_fjord_averages_nested_parts_by_examples(network, examples, levels):
    sub_models = {0: levels[0], 1: levels[2], 3: levels[4]}
    learning = learner(federation(network, examples, "fjord", sub_models, levels))
    whole = initial(network, seed=SETTINGS.seed)
    learning.round(0, all_steps([0, 1, 3]))
    held = []
    for at in (0, 1, 3):
        smaller = levels[levels.index(sub_models[at]) :]
        parts = [
            NestedPart.of(each.of(network), cut(network, whole, each.widths, Channels.NESTED, round_number=0)[0])
            for each in smaller
        ]
        where, arrays = cut(network, whole, sub_models[at].widths, Channels.NESTED, round_number=0)
        found = trained_ordered(parts, arrays, examples[at], SETTINGS.recipe, seed=seed(0, at))
        held.append((where, found.arrays, float(len(examples[at]))))
    assert_same(learning.whole, mean(whole, held))


def test_a_single_level_trains_as_the_network_itself(network, examples):
    whole = initial(network, seed=1)
    part = NestedPart.of(network, indices_of(network, {}))
    found = trained_ordered([part], whole, examples[0], SETTINGS.recipe, seed=7).arrays
    order, recipe = np.random.default_rng(7).permutation(len(examples[0])), SETTINGS.recipe
    from latte_cli.network.module import NetworkModule

    module = NetworkModule(network)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            at, kind = name.removeprefix("layers.").split(".")
            parameter.copy_(torch.from_numpy(whole[f"{network.nodes[int(at)].name}.{kind}"]))
    optimizer = torch.optim.SGD(module.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum)
    drawn = np.random.default_rng(7)
    drawn.permutation(len(examples[0]))
    for start in range(0, len(order), 32):
        batch = order[start : start + 32]
        filled = np.concatenate([batch, np.resize(order, 32 - len(batch))])
        scores = module(torch.from_numpy(examples[0].images[filled]))[: len(batch)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(scores, torch.from_numpy(examples[0].labels[batch])).backward()
        optimizer.step()
    for at, node in enumerate(network.nodes):
        for kind, parameter in module.layers[at].named_parameters():
            np.testing.assert_allclose(parameter.detach().numpy(), found[f"{node.name}.{kind}"], rtol=1e-4, atol=1e-6)


def test_a_step_of_fjord_leaves_wider_channels_alone(network, examples, levels):
    whole = initial(network, seed=1)
    parts = [
        NestedPart.of(each.of(network), cut(network, whole, each.widths, Channels.NESTED, round_number=0)[0])
        for each in levels[:2]
    ]
    recipe = Recipe(learning_rate=0.02, momentum=0.0)
    few = examples[0].take(np.arange(16))
    found = [trained_ordered(parts, whole, few, recipe, seed=at).arrays["conv1.bias"] for at in range(8)]
    assert all((each[:16] != whole["conv1.bias"][:16]).any() for each in found)
    assert {bool((each[16:] != whole["conv1.bias"][16:]).any()) for each in found} == {True, False}


@pytest.mark.parametrize("name", ["hermes", "tailorfl"])
def test_devices_prune_what_matters_least_and_share_what_others_hold(network, examples, levels, name):
    sub_models = {0: levels[1], 1: levels[2], 2: levels[3]}
    learning = learner(federation(network, examples, name, sub_models, levels))
    before = initial(network, seed=SETTINGS.seed)
    by_data = name == "tailorfl"

    # the first round: everybody trains the whole network, and keeps what matters
    assert learning.round(0, all_steps([0, 1, 2])) == []
    first = {
        at: train_network(network, before, examples[at], SETTINGS.recipe, seed=seed(0, at)).arrays for at in (0, 1, 2)
    }
    everything = indices_of(network, {})
    whole = mean(before, [(everything, first[at], 1.0) for at in first], fewest=2)
    assert_same(learning.whole, whole)

    channels, weights = {}, {}
    for at in first:
        matter = first[at]
        if by_data:
            matter = {each: np.sqrt(np.abs(array * (array - before[each]))) for each, array in matter.items()}
        scores = channel_importance(network, matter)
        widths = dict(sub_models[at].widths)
        channels[at] = {
            group: np.sort(np.argsort(-score, kind="stable")[: widths[group]]) for group, score in scores.items()
        }
        kept_share = sum(map(len, channels[at].values())) / (32 + 64 + 128 + 256)
        weights[at] = kept_share if by_data else 1.0

    # the second: two of them train what they kept, from what all made of it
    assert learning.round(1, all_steps([0, 1])) == []
    held, mine = [], {}
    for at in (0, 1):
        where = indices_of(network, channels[at])
        start = {each: whole[each][np.ix_(*index)] for each, index in where.items()}
        small = sub_models[at].of(network)
        mine[at] = train_network(small, start, examples[at], SETTINGS.recipe, seed=seed(1, at)).arrays
        held.append((where, mine[at], weights[at]))
    second = mean(whole, held, fewest=2)
    assert_same(learning.whole, second)
    assert any(not np.array_equal(second[each], whole[each]) for each in second)

    # the third: the first device goes on with its own where it was alone, else with what both made
    assert learning.round(2, all_steps([0, 2])) == []
    alone = {}
    for each, index in indices_of(network, channels[0]).items():
        other = np.zeros(before[each].shape, bool)
        other[np.ix_(*indices_of(network, channels[1])[each])] = True
        alone[each] = ~other[np.ix_(*index)]
    start = {
        each: np.where(alone[each], mine[0][each], second[each][np.ix_(*index)])
        for each, index in indices_of(network, channels[0]).items()
    }
    wanted = train_network(sub_models[0].of(network), start, examples[0], SETTINGS.recipe, seed=seed(2, 0)).arrays
    found_network, found = learning.own(0)
    assert found_network.parameters == sub_models[0].parameters
    assert_same(found, wanted)
    assert any(each.any() for each in alone.values())
    assert learning.own(3) is None


def test_devices_with_other_data_keep_other_channels(network, examples, levels):
    own = federation(network, examples, "tailorfl", dict.fromkeys(range(DEVICES), levels[2]), levels)
    learning = learner(own)
    learning.round(0, all_steps(range(DEVICES)))
    shapes = {tuple(array.shape for array in learning.own(at)[1].values()) for at in range(DEVICES)}
    assert len(shapes) == 1
    scores = personal_accuracy(learning, own, examples[0])
    assert 0 < scores <= 1
    assert personal_accuracy(learner(federation(network, examples, "fedavg", {})), own, examples[0]) is None


def test_a_network_is_as_accurate_for_a_device_as_on_its_own_mix_of_classes(examples):
    mixes = [examples[0].take(np.flatnonzero(np.isin(examples[0].labels, classes))) for classes in ((0,), (0, 1), (7,))]
    found = device_accuracies(mixes, {0: 0.5, 1: 1.0})
    ones = float((mixes[1].labels == 1).mean())
    assert found == pytest.approx((0.5, 0.5 + 0.5 * ones, 0.75))


def test_a_small_global_model_is_a_network_of_its_own(network, examples, levels):
    small = levels[2].of(network)
    learning = learner(federation(small, examples, "fedavg-small", dict.fromkeys(range(DEVICES), WHOLE)))
    for number in range(3):
        learning.round(number, all_steps(range(DEVICES)))
    assert {name: value.shape for name, value in learning.whole.items()} == {
        name: value.shape for name, value in initial(small, seed=0).items()
    }
    _, held_out = device.whole(SETTINGS, network)
    assert evaluate_network(small, learning.whole, held_out, statistics=held_out).accuracy > 0.2


_WHOLE = [name for name in METHODS if METHODS[name].sizes in (SubModelSizes.WHOLE, SubModelSizes.SMALL)]


def test_who_diverges_is_named_and_the_round_goes_on(network, examples, levels):
    for name in METHODS:
        sub_models = dict.fromkeys(range(DEVICES), levels[1] if name not in _WHOLE else WHOLE)
        spoiled = list(examples)
        spoiled[1] = replace(examples[1], images=np.full_like(examples[1].images, np.nan))
        learning = learner(federation(network, spoiled, name, sub_models, levels))
        failed = learning.round(0, all_steps([0, 1, 2]))
        assert [(at, reason.split()[0]) for at, reason in failed] == [(1, "training")], name
        assert all(np.isfinite(value).all() for value in learning.whole.values())
