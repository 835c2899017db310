from collections import Counter
from dataclasses import replace
from functools import cache
from math import ceil
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli.errors import LatteError
from latte_cli.layers import (
    Activation,
    Concat,
    Convolution,
    Copy,
    Elementwise,
    Linear,
    MatMul,
    Norm,
    Other,
    Pool,
    Reduce,
    Softmax,
    View,
)
from latte_cli.network import Network, Node, load
from latte_cli.network.channels import channel_groups, resize, sub_model
from latte_cli.network.onnx import read
from latte_cli.network.zoo import ZOO, export

SHUFFLED = "shufflenet"
LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))
WIDTHS = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)


class Draft:
    """A network written down layer by layer; every method takes and returns names of activations."""

    def __init__(self, *shape):
        self.inputs = (("x", shape),)
        self.nodes = []

    def shape(self, name):
        return (dict(self.inputs) | {node.output: node.layer.output_shape for node in self.nodes})[name]

    def put(self, layer, *inputs, name=None, parameters=()):
        name = name or f"{layer.kind}{len(self.nodes)}"
        self.nodes.append(Node(name=name, layer=layer, inputs=inputs, output=name, parameters=parameters))
        return name

    def convolution(self, x, out, *, kernel=3, stride=1, groups=1, name=None, parameters=()):
        batch, channels, *image = self.shape(x)
        pad = (kernel // 2,) * len(image)
        layer = Convolution(
            batch=batch,
            in_channels=channels,
            out_channels=out,
            groups=groups,
            input=tuple(image),
            kernel=(kernel,) * len(image),
            stride=(stride,) * len(image),
            pad_before=pad,
            pad_after=pad,
        )
        return self.put(layer, x, name=name, parameters=parameters)

    def norm(self, x, function="batch", span=1):
        return self.put(Norm(shape=self.shape(x), function=function, span=span), x)

    def relu(self, x):
        return self.put(Activation(shape=self.shape(x), function="relu"), x)

    def block(self, x, out, **more):
        return self.relu(self.norm(self.convolution(x, out, **more)))

    def add(self, *xs, operation="add"):
        return self.put(Elementwise(operation=operation, shapes=tuple(map(self.shape, xs))), *xs)

    def concat(self, *xs, axis=1):
        return self.put(Concat(shapes=tuple(map(self.shape, xs)), axis=axis), *xs)

    def pool(self, x):
        batch, channels, *image = self.shape(x)
        kernel = tuple(image)
        return self.put(Pool(function="average", batch=batch, channels=channels, input=kernel, kernel=kernel), x)

    def view(self, x, *output):
        return self.put(View(shape=self.shape(x), output=output), x)

    def flatten(self, x):
        batch, *rest = self.shape(x)
        count = 1
        for size in rest:
            count *= size
        return self.view(x, batch, count)

    def transpose(self, x, *order):
        shape = self.shape(x)
        output = tuple(shape[axis] for axis in order)
        return self.put(Copy(operation="transpose", shape=shape, output=output, order=order), x)

    def linear(self, x, out, name=None):
        rows, features = self.shape(x)
        return self.put(Linear(rows=rows, in_features=features, out_features=out), x, name=name)

    def network(self, *outputs):
        return Network(name="draft", inputs=self.inputs, nodes=tuple(self.nodes), outputs=outputs, sha256="abc")


def layer(network, name):
    return next(node.layer for node in network.nodes if node.name == name)


def assert_fits_together(network):
    shapes = dict(network.inputs)
    for node in network.nodes:
        assert node.layer.input_shapes == tuple(shapes[name] for name in node.inputs), node.name
        shapes[node.output] = node.layer.output_shape


def residual():
    """A stem, an identity block, a block with a projection, and a classifier of ten classes."""
    draft = Draft(2, 3, 16, 16)
    stem = draft.block("x", 16, name="stem")
    a = draft.add(draft.norm(draft.convolution(draft.block(stem, 24, name="a1"), 16, name="a2")), stem)
    b1 = draft.block(draft.relu(a), 32, stride=2, name="b1")
    b = draft.add(draft.convolution(b1, 40, name="b2"), draft.convolution(a, 40, kernel=1, stride=2, name="b0"))
    return draft.network(draft.linear(draft.flatten(draft.pool(b)), 10, name="classes"))


def depthwise():
    """An inverted residual block with squeeze and excitation, and a depthwise multiplier."""
    draft = Draft(2, 3, 8, 8)
    stem = draft.block("x", 12, name="stem")
    wide = draft.block(stem, 36, kernel=1, name="wide")
    deep = draft.block(wide, 36, groups=36, name="deep")
    squeezed = draft.relu(draft.convolution(draft.pool(deep), 6, kernel=1, name="squeeze"))
    gate = draft.convolution(squeezed, 36, kernel=1, name="excite")
    narrow = draft.convolution(draft.add(deep, gate, operation="mul"), 12, kernel=1, name="narrow")
    doubled = draft.convolution(draft.add(narrow, stem), 24, groups=12, name="doubled")
    return draft.network(draft.linear(draft.flatten(doubled), 10, name="classes"))


def dense():
    """Two branches laid end to end, then added to what a third makes at once."""
    draft = Draft(2, 3, 8, 8)
    stem = draft.block("x", 8, name="stem")
    both = draft.concat(stem, draft.convolution(stem, 24, name="left"), draft.convolution(stem, 16, name="right"))
    total = draft.add(draft.norm(both), draft.convolution(both, 48, name="whole"))
    return draft.network(draft.pool(draft.convolution(total, 10, kernel=1, name="classes")))


def shuffled():
    """Grouped convolutions with a channel shuffle between them, and a residual around both."""
    draft = Draft(2, 3, 8, 8)
    stem = draft.convolution("x", 36, name="stem")
    x = draft.convolution(stem, 36, kernel=1, groups=3, name="in")
    x = draft.view(draft.transpose(draft.view(x, 2, 3, 12, 8, 8), 0, 2, 1, 3, 4), 2, 36, 8, 8)
    x = draft.convolution(draft.convolution(x, 36, groups=36, name="deep"), 36, kernel=1, groups=3, name="out")
    total = draft.put(Reduce(operation="mean", shape=(2, 36, 8, 8), axes=(2, 3), keep=False), draft.add(x, stem))
    return draft.network(draft.linear(total, 5, name="classes"))


def normalised():
    """Group and layer norms, channels last, and a pad."""
    draft = Draft(2, 3, 8, 8)
    x = draft.norm(draft.convolution("x", 32, name="stem"), "group", 4)
    x = draft.put(Copy(operation="pad", shape=(2, 32, 8, 8), output=(2, 32, 10, 10)), x)
    x = draft.view(draft.transpose(x, 0, 2, 3, 1), 200, 32)
    x = draft.linear(draft.relu(draft.linear(draft.norm(x, "layer"), 64, name="up")), 32, name="down")
    return draft.network(draft.linear(x, 7, name="classes"))


DRAFTS = (residual, depthwise, dense, shuffled, normalised)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_sub_model_fits_together_and_keeps_what_goes_in_and_out(draft, width):
    whole = draft()
    part = sub_model(whole, width)
    assert_fits_together(part)
    assert part.inputs == whole.inputs
    assert part.shapes[part.outputs[0]] == whole.shapes[whole.outputs[0]]


@pytest.mark.parametrize("draft", DRAFTS)
def test_the_whole_width_is_the_network_itself(draft):
    network = draft()
    assert sub_model(network, 1) is network
    assert resize(network, {group.name: group.channels for group in channel_groups(network)}) is network


@pytest.mark.parametrize("draft", DRAFTS)
def test_parameters_fall_with_the_width(draft):
    network = draft()
    counts = [sub_model(network, width).parameters for width in WIDTHS]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]


@pytest.mark.parametrize("draft", (residual, depthwise, dense))
@pytest.mark.parametrize("width", (0.7, 0.5, 1 / 3, 0.01))
def test_each_layer_that_makes_channels_keeps_the_share_rounded_up(draft, width):
    whole = draft()
    for before, after in zip(whole.layers, sub_model(whole, width).layers, strict=True):
        if isinstance(before, Convolution) and before.groups == 1 and before.out_channels not in (10, 48):
            assert after.out_channels == max(1, ceil(width * before.out_channels))


def test_a_share_that_is_whole_but_for_rounding_is_not_rounded_up():
    draft = Draft(1, 3, 4, 4)
    x = draft.convolution(draft.convolution("x", 30, name="stem"), 10)
    assert layer(sub_model(draft.network(x), 0.1), "stem").out_channels == 3


def test_what_is_added_together_is_one_group():
    groups = {group.name: group.nodes for group in channel_groups(residual())}
    assert groups == {"stem": ("stem", "a2"), "a1": ("a1",), "b1": ("b1",), "b2": ("b2", "b0")}


def test_a_depthwise_convolution_follows_its_input():
    network = depthwise()
    assert {group.name: group.nodes for group in channel_groups(network)} == {
        "stem": ("stem", "narrow"),
        "wide": ("wide", "excite"),
        "squeeze": ("squeeze",),
    }
    part = resize(network, {"wide": 9, "stem": 4})
    deep, doubled, classes = layer(part, "deep"), layer(part, "doubled"), layer(part, "classes")
    assert (deep.in_channels, deep.out_channels, deep.groups) == (9, 9, 9)
    assert (doubled.in_channels, doubled.out_channels, doubled.groups) == (4, 8, 4)
    assert classes.in_features == 8 * 8 * 8


def test_a_sum_of_branches_is_cut_branch_by_branch():
    network = dense()
    groups = {group.name: group for group in channel_groups(network)}
    assert {name: group.channels for name, group in groups.items()} == {"stem": 8, "left": 24, "right": 16}
    assert all("whole" in group.nodes for group in groups.values())
    part = resize(network, {"stem": 1, "right": 5})
    assert layer(part, "whole").out_channels == 1 + 24 + 5
    assert_fits_together(part)


def test_grouped_convolutions_stay_divisible():
    for width in WIDTHS:
        part = sub_model(shuffled(), width)
        assert layer(part, "out").groups == 3
        assert layer(part, "out").in_channels % 3 == 0
    draft = Draft(1, 3, 4, 4)
    x = draft.convolution(draft.convolution("x", 24, name="stem"), 24, groups=3, name="grouped")
    network = draft.network(draft.convolution(x, 10))
    assert [group.multiple for group in channel_groups(network)] == [3, 3]
    with pytest.raises(LatteError, match="cannot have 4 channels") as caught:
        resize(network, {"stem": 4})
    assert "multiples of 3" in (caught.value.hint or "")


def test_a_grouped_convolution_may_end_with_one_channel_a_group():
    draft = Draft(1, 3, 4, 4)
    x = draft.convolution(draft.convolution("x", 16, name="stem"), 16, groups=4, name="grouped")
    part = sub_model(draft.network(draft.convolution(x, 10)), 0.01)
    assert (layer(part, "grouped").in_channels, layer(part, "grouped").out_channels) == (4, 4)


def test_what_is_added_to_the_input_or_the_output_keeps_its_channels():
    draft = Draft(1, 8, 4, 4)
    near_input = draft.add("x", draft.convolution("x", 8, name="near_input"))
    free = draft.convolution(near_input, 6, name="free")
    out = draft.add(draft.convolution(free, 5, name="one"), draft.convolution(free, 5, name="two"))
    assert [group.name for group in channel_groups(draft.network(out))] == ["free"]


def test_layers_that_train_the_same_tensor_are_cut_alike():
    draft = Draft(1, 3, 4, 4)
    a, b = draft.convolution("x", 8, name="a"), draft.convolution("x", 8, name="b")
    c = draft.convolution(a, 6, name="c", parameters=("shared",))
    d = draft.convolution(b, 6, name="d", parameters=("shared",))
    network = draft.network(draft.convolution(draft.concat(c, d), 4))
    assert [group.nodes for group in channel_groups(network)] == [("a", "b"), ("c", "d")]


def test_a_map_of_one_channel_is_repeated_over_all():
    draft = Draft(1, 3, 4, 4)
    x = draft.convolution("x", 8, name="stem")
    gated = draft.add(x, draft.convolution(x, 1, name="map"), operation="mul")
    part = sub_model(draft.network(draft.convolution(gated, 4)), 0.25)
    assert (layer(part, "stem").out_channels, layer(part, "map").out_channels) == (2, 1)


def test_laying_images_end_to_end_ties_their_channels():
    draft = Draft(1, 3, 4, 4)
    x = draft.concat(draft.convolution("x", 8, name="a"), draft.convolution("x", 8, name="b"), axis=2)
    assert [group.nodes for group in channel_groups(draft.network(draft.convolution(x, 4)))] == [("a", "b")]


def test_what_channels_cannot_be_followed_through_keeps_its_width_and_is_named():
    draft = Draft(4, 8)
    odd = draft.put(Other(operation="odd", shapes=((4, 8),), output=(4, 8)), draft.linear("x", 8, name="near"))
    network = draft.network(draft.linear(draft.linear(odd, 6, name="free"), 5))
    part = sub_model(network, 0.5)
    assert (layer(part, "near").out_features, layer(part, "free").out_features) == (8, 3)
    assert len(part.notes) == 1
    assert "`other1`" in part.notes[0]
    assert sub_model(network, 1) is network


def test_heads_of_keys_that_are_read_once_each_are_cut_with_their_queries():
    draft = Draft(1, 4, 8)
    rows = draft.view("x", 4, 8)
    made = [draft.view(draft.linear(rows, 8, name=name), 4, 2, 4) for name in ("q", "k", "v")]
    q, k, v = draft.transpose(made[0], 1, 0, 2), draft.transpose(made[1], 1, 2, 0), draft.transpose(made[2], 1, 0, 2)
    scores = draft.put(Softmax(shape=(2, 4, 4)), draft.put(MatMul(batch=2, m=4, k=4, n=4), q, k))
    read = draft.put(MatMul(batch=2, m=4, k=4, n=4), scores, v)
    network = draft.network(draft.linear(draft.view(draft.transpose(read, 1, 0, 2), 4, 8), 5))
    assert [(group.name, group.channels) for group in channel_groups(network)] == [("q", 2)]
    part = sub_model(network, 0.5)
    assert [layer(part, name).out_features for name in "qkv"] == [4, 4, 4]
    assert_fits_together(part)


def test_the_part_that_is_split_off_has_channels_of_its_own():
    draft = Draft(1, 3, 4, 4)
    x = draft.convolution("x", 8, name="stem")
    half = Copy(operation="slice", shape=(1, 8, 4, 4), output=(1, 3, 4, 4))
    starts = (("starts", (0, 5, 0, 0)), ("ends", (1, 8, 4, 4)))
    draft.nodes.append(Node(name="half", layer=half, inputs=(x,), output="half", attributes=starts))
    network = draft.network(draft.convolution(draft.concat(draft.convolution(x, 2), "half"), 4))
    assert [group.channels for group in channel_groups(network) if group.nodes == ("stem",)] == [5, 3]
    part = resize(network, {"stem": 2, "stem#2": 1})
    assert_fits_together(part)
    cut = next(node for node in part.nodes if node.name == "half")
    assert dict(cut.attributes) == {"starts": (0, 2, 0, 0), "ends": (1, 3, 4, 4)}


def test_a_group_that_cannot_be_divided_keeps_its_width():
    draft = Draft(1, 3, 4, 4)
    x = draft.concat(draft.convolution("x", 5), draft.convolution("x", 7))
    x = draft.convolution(x, 8, groups=4, name="grouped")
    network = draft.network(draft.convolution(draft.convolution(x, 6, name="free"), 4))
    assert [group.name for group in channel_groups(network)] == ["grouped", "free"]


def test_a_network_without_channels_to_cut_says_so():
    draft = Draft(1, 3, 4, 4)
    with pytest.raises(LatteError, match="no channels that can be cut"):
        sub_model(draft.network(draft.convolution("x", 10)), 0.5)


@pytest.mark.parametrize("width", (0, -1, 1.5, float("nan"), float("inf")))
def test_a_width_is_over_0_and_at_most_1(width):
    with pytest.raises(LatteError, match="cannot have the width"):
        sub_model(residual(), width)


def test_an_unknown_group_gets_a_near_match():
    with pytest.raises(LatteError, match="unknown channel group `stern`") as caught:
        resize(residual(), {"stern": 1})
    assert caught.value.hint == "did you mean `stem`?"


def test_a_sub_model_is_no_longer_the_file_that_was_read():
    assert sub_model(residual(), 0.5).sha256 == ""


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_widths_that_groups_can_have_fit_together(data):
    network = data.draw(st.sampled_from(DRAFTS))()
    groups = channel_groups(network)
    widths = {g.name: g.multiple * data.draw(st.integers(1, g.channels // g.multiple)) for g in groups}
    part = resize(network, widths)
    assert_fits_together(part)
    dropped = Counter()
    for group in groups:
        dropped.update({name: n * (group.channels - widths[group.name]) for name, n in Counter(group.nodes).items()})
    for node in network.nodes:
        if dropped[node.name]:
            before, after = (n.output_shape for n in (node.layer, layer(part, node.name)))
            assert sum(before) - sum(after) == dropped[node.name]


def test_groups_do_not_depend_on_the_batch():
    small, large = residual(), residual()
    shapes = [(name, (5, *shape[1:])) for name, shape in large.inputs]
    nodes, known = [], dict(shapes)
    for node in large.nodes:
        resized = node.layer.resize([known[name] for name in node.inputs])
        known[node.output] = resized.output_shape
        nodes.append(replace(node, layer=resized))
    large = replace(large, inputs=tuple(shapes), nodes=tuple(nodes))
    assert channel_groups(small) == channel_groups(large)


@cache
def standard(name):
    return read(export(name), name=name, sha256="", batch_size=2, allow_unknown=False)


@cache
def light(path):
    return load(path, batch_size=2)


REAL = [pytest.param(lambda name=name: standard(name), id=name) for name in ZOO]
REAL += [pytest.param(lambda path=path: light(path), id=path.stem) for path in LIGHT]


def test_there_are_nine_light_models():
    assert len(LIGHT) == 9


@pytest.mark.parametrize("model", REAL)
def test_sub_models_of_real_networks_fit_together_and_shrink(model):
    whole = model()
    parts = [sub_model(whole, width) for width in WIDTHS[::2]]
    for part in parts:
        assert_fits_together(part)
        assert [part.shapes[name] for name in part.outputs] == [whole.shapes[name] for name in whole.outputs]
    counts = [part.parameters for part in parts]
    assert counts == sorted(set(counts), reverse=True)
    assert counts[1] < (0.6 if SHUFFLED in whole.name else 0.4) * counts[0]


@pytest.mark.parametrize("model", REAL)
def test_every_convolution_of_a_real_network_is_cut_to_the_width(model):
    whole = model()
    if SHUFFLED in whole.name:
        pytest.skip("channels that are shuffled between groups that they do not fill evenly stay")
    fixed = {whole.shapes[name][1] for name in whole.outputs}
    for before, after in zip(whole.layers, sub_model(whole, 0.5).layers, strict=True):
        if isinstance(before, Convolution) and before.out_channels not in fixed:
            least = ceil(0.5 * before.out_channels)
            assert least <= after.out_channels < least + max(2, before.groups)


@pytest.mark.parametrize("model", REAL)
def test_a_sub_model_of_a_real_network_runs(model):
    import torch

    from latte_cli.network.module import NetworkModule

    part = sub_model(model(), 0.375)
    with torch.device("meta"):
        module = NetworkModule(part)
        inputs = [torch.empty(shape) for _, shape in part.inputs]
        results = module(*inputs)
    shapes = [results.shape] if isinstance(results, torch.Tensor) else [result.shape for result in results]
    assert shapes == [part.shapes[name] for name in part.outputs]
    assert sum(weight.numel() for weight in module.parameters()) == part.parameters
