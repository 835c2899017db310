from functools import cache
from itertools import product

import made_rows
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli.allocator.costs import Costs
from latte_cli.allocator.upper_ends import CallTime
from latte_cli.estimator import Step, step_calls
from latte_cli.layers import Activation, Concat, Convolution, Elementwise, Norm
from latte_cli.network import Network, Node, zoo
from latte_cli.network.channels import Resizing, channel_groups, resize


def seconds(works):
    return [
        CallTime(
            seconds=work.count
            * (1e-6 + work.layer.flops(work.phase) / 1e9 + (work.layer.bytes_moved(work.phase, 4) % 977) / 1e6)
        )
        for work in works
    ]


def levels(network, shares=(0.25, 0.5, 1)):
    return {group.name: tuple(sorted({group.width(share) for share in shares})) for group in channel_groups(network)}


def concatenating():
    """Three branches laid end to end, which the next convolution reads, and a residual addition."""
    made = made_rows.convolution
    layers = [
        ("a", made(2, 3, 8, 8), ("x",)),
        ("b", made(2, 3, 4, 8), ("x",)),
        ("c", made(2, 3, 12, 8), ("x",)),
        ("cat", Concat(shapes=((2, 8, 8, 8), (2, 4, 8, 8), (2, 12, 8, 8)), axis=1), ("a", "b", "c")),
        ("norm", Norm(shape=(2, 24, 8, 8), function="batch"), ("cat",)),
        ("d", made(2, 24, 8, 8), ("norm",)),
        ("sum", Elementwise(operation="add", shapes=((2, 8, 8, 8), (2, 8, 8, 8))), ("d", "a")),
        ("relu", Activation(shape=(2, 8, 8, 8), function="relu"), ("sum",)),
        ("e", made(2, 8, 5, 8), ("relu",)),
    ]
    nodes = tuple(Node(name=name, layer=layer, inputs=inputs, output=name) for name, layer, inputs in layers)
    return Network(name="concatenating", inputs=(("x", (2, 3, 8, 8)),), nodes=nodes, outputs=("e",))


NETWORKS = {
    "resnet8": zoo.network("resnet8", batch_size=2),
    "mobilenet_v2": zoo.network("mobilenet_v2", batch_size=2, image_size=32),
    "custom_cnn": zoo.network("custom_cnn", batch_size=2),
    "lenet": zoo.network("lenet", batch_size=3),
    "concatenating": concatenating(),
}


SOME = settings(max_examples=25)
"""Each draws a share for every group of its network, which are up to 33."""


@cache
def resizing_of(name):
    return Resizing(NETWORKS[name])


@cache
def costs_of(name, step):
    return Costs(NETWORKS[name], step, levels(NETWORKS[name]), seconds)


def drawn(name, data):
    return {group.name: group.width(data.draw(st.sampled_from((0.25, 0.5, 1)))) for group in resizing_of(name).groups}


@pytest.mark.parametrize("name", NETWORKS)
@SOME
@given(data=st.data())
def test_nodes_resized_one_by_one_are_those_of_the_resized_network(name, data):
    network, resizing = NETWORKS[name], resizing_of(name)
    widths = drawn(name, data)
    assert [resizing.layer(node, widths) for node in network.nodes] == list(resize(network, widths).layers)


@pytest.mark.parametrize("name", NETWORKS)
@SOME
@given(data=st.data())
def test_costs_are_those_of_the_resized_network_but_for_a_straight_update(name, data):
    network, step = NETWORKS[name], Step(optimizer="none")
    costs, widths = costs_of(name, step), drawn(name, data)
    resized = resize(network, widths)
    assert costs.parameters(widths) == resized.parameters
    assert costs.seconds(widths) == pytest.approx(
        sum(each.seconds for each in seconds(list(step_calls(resized, step))))
    )


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "concatenating"])
@SOME
@given(data=st.data())
def test_tables_are_exact_where_two_groups_at_most_decide_a_node(name, data):
    costs, widths = costs_of(name, Step()), drawn(name, data)
    at = drawn(name, data)
    time_table, parameter_table = costs.times(at), costs.sizes(at)
    assert costs.tabular
    assert time_table.at(widths) == pytest.approx(costs.seconds(widths))
    assert parameter_table.at(widths) == pytest.approx(costs.parameters(widths))


def test_behind_a_concatenation_tables_are_exact_where_they_are_made_and_one_group_away():
    network = NETWORKS["concatenating"]
    costs = Costs(network, Step(optimizer="none"), levels(network), seconds)
    assert not costs.tabular
    at = {name: options[1] for name, options in costs.levels.items()}
    table = costs.times(at)
    for name, options in costs.levels.items():
        for width in options:
            assert table.at(at | {name: width}) == pytest.approx(costs.seconds(at | {name: width}))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_group_of_another_width_adds_is_the_difference_of_the_two_steps(name):
    network = NETWORKS[name]
    costs = Costs(network, Step(), levels(network), seconds)
    widths = {group: options[0] for group, options in costs.levels.items()}
    wider = {group: options[-1] for group, options in costs.levels.items()}
    for group, (more, parameters) in costs.changes(widths, wider).items():
        raised = widths | {group: wider[group]}
        assert more == pytest.approx(costs.seconds(raised) - costs.seconds(widths), abs=1e-12)
        assert parameters == costs.parameters(raised) - costs.parameters(widths)


def test_each_layer_is_priced_once():
    network, asked = NETWORKS["resnet8"], []

    def price(works):
        asked.extend((work.layer, work.phase) for work in works)
        return seconds(works)

    costs = Costs(network, Step(), levels(network), price)
    middle = {name: options[1] for name, options in costs.levels.items()}
    costs.times(middle)
    before = len(asked)
    costs.times(middle)
    costs.seconds(middle)
    assert len(asked) == before
    assert len(set(asked)) == len(asked)


def test_a_table_adds_up_groups_and_pairs():
    costs = Costs(NETWORKS["lenet"], Step(), levels(NETWORKS["lenet"]), seconds)
    table = costs.times({name: options[0] for name, options in costs.levels.items()})
    for chosen in product(*costs.levels.values()):
        widths = dict(zip(costs.levels, chosen, strict=True))
        assert np.isclose(table.at(widths), costs.seconds(widths))


def test_the_convolutions_of_a_depthwise_block_share_a_group():
    network = NETWORKS["mobilenet_v2"]
    resizing = Resizing(network)
    owners = [resizing.owners(node) for node in network.nodes if isinstance(node.layer, Convolution)]
    assert max(map(len, owners)) == 2
