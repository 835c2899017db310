from functools import cache
from itertools import product

import made_rows
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli.allocator.costs import Costs
from latte_cli.allocator.upper_ends import CallTime
from latte_cli.estimator import UPDATE, Step, step_calls
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


def seconds_at(table, widths):
    """The seconds of a step at these widths, with its update."""
    return table.step(table.at(table.cells.indices_of(widths)))[0]


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
def test_costs_are_those_of_the_resized_network(name, data):
    network, step = NETWORKS[name], Step(optimizer="none")
    costs, widths = costs_of(name, step), drawn(name, data)
    resized = resize(network, widths)
    assert costs.parameters(widths) == resized.parameters
    assert seconds_at(costs.table(widths), widths) == pytest.approx(
        sum(each.seconds for each in seconds(list(step_calls(resized, step))))
    )


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "concatenating"])
@SOME
@given(data=st.data())
def test_tables_are_exact_where_few_groups_decide_a_node(name, data):
    costs, widths = costs_of(name, Step()), drawn(name, data)
    at = drawn(name, data)
    assert costs.tabular
    here, there = costs.table(at), Costs(NETWORKS[name], Step(), levels(NETWORKS[name]), seconds).table(widths)
    assert seconds_at(here, widths) == pytest.approx(seconds_at(there, widths))
    assert here.at(here.cells.indices_of(widths)).parameters == costs.parameters(widths)


def test_updates_are_those_of_the_resized_network():
    network = NETWORKS["lenet"]

    def price(works):
        """Updates alone, which do not grow in a straight line."""
        return [CallTime(seconds=work.layer.elements**0.5 if work.name == UPDATE else 0.0) for work in works]

    costs = Costs(network, Step(), levels(network), price)
    for chosen in product(*costs.levels.values()):
        widths = dict(zip(costs.levels, chosen, strict=True))
        assert seconds_at(costs.table(widths), widths) == pytest.approx(costs.parameters(widths) ** 0.5, rel=0.001)


def test_behind_a_concatenation_tables_are_exact_where_they_are_made_and_one_group_away():
    network = NETWORKS["concatenating"]
    costs = Costs(network, Step(optimizer="none"), levels(network), seconds, largest_block=9)
    exact = Costs(network, Step(optimizer="none"), levels(network), seconds)
    assert exact.tabular and not costs.tabular
    at = {name: options[1] for name, options in costs.levels.items()}
    table = costs.table(at)
    for name, options in costs.levels.items():
        for width in options:
            widths = at | {name: width}
            assert seconds_at(table, widths) == pytest.approx(seconds_at(exact.table(at), widths))


def test_what_errs_together_adds_up_in_one_column():
    network = NETWORKS["resnet8"]

    def price(works):
        return [
            CallTime(seconds=1.0, half_s=0.5 + each.layer.flops(each.phase) / 1e6, alike=0.25, errs_with=each.phase)
            for each in works
        ]

    costs = Costs(network, Step(optimizer="none"), levels(network), price)
    widths = {name: options[1] for name, options in costs.levels.items()}
    works = list(step_calls(resize(network, widths), Step(optimizer="none")))
    halves, of_layers = {}, {}
    for work, time in zip(works, price(works), strict=True):
        halves[work.phase] = halves.get(work.phase, 0.0) + time.half_s
        of_layers[work.phase, work.layer] = of_layers.get((work.phase, work.layer), 0.0) + time.half_s
    squares = 0.25 * sum(each**2 for each in halves.values()) + 0.75 * sum(each**2 for each in of_layers.values())
    table = costs.table(widths)
    assert table.step(table.at(table.cells.indices_of(widths))) == pytest.approx((len(works), squares))


def test_each_layer_is_priced_once():
    network, asked = NETWORKS["resnet8"], []

    def price(works):
        asked.extend((work.layer, work.phase) for work in works)
        return seconds(works)

    costs = Costs(network, Step(), levels(network), price)
    middle = {name: options[1] for name, options in costs.levels.items()}
    costs.table(middle)
    before = len(asked)
    costs.table({name: options[0] for name, options in costs.levels.items()})
    assert len(asked) == before
    assert len(set(asked)) == len(asked)


def test_the_convolutions_of_a_depthwise_block_share_a_group():
    network = NETWORKS["mobilenet_v2"]
    resizing = Resizing(network)
    owners = [resizing.owners(node) for node in network.nodes if isinstance(node.layer, Convolution)]
    assert max(map(len, owners)) == 2
