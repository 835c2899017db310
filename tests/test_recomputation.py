"""The regions that cost least under a limit, against every choice on random graphs, and against sqrt(n) segments."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import isqrt
from random import Random
from typing import TypeAlias

import pytest

from latte_cli.estimator.checkpoints import reruns
from latte_cli.estimator.memory import memory
from latte_cli.estimator.recomputation import Recomputation
from latte_cli.estimator.steps import Step
from latte_cli.layers import Activation, Dropout, Elementwise, Layer, Linear, View
from latte_cli.network import Network, Node, submodules
from latte_cli.network.regions import Region
from latte_cli.precisions import Precision

CallCost: TypeAlias = Callable[[int], float]

STEP = Step(optimizer="sgd")
MOST = 9


def graph(seed: int) -> Network:
    """A random network whose nodes read any of the activations before them, some of which it returns."""
    draw, made, nodes = Random(seed), ["x"], []
    width = 8
    shapes = {"x": (4, width)}
    count = draw.randint(6, 14)
    for at in range(count):
        first = draw.choice(made[-2:])
        shape = shapes[first]
        others = [name for name in made if shapes[name] == shape]
        layer: Layer = Activation(function=draw.choice(("relu", "gelu", "sigmoid", "neg")), shape=shape)
        inputs = (first,)
        match 0 if at == count - 1 else draw.randrange(6):
            case 0 | 1:
                layer = Linear(rows=4, in_features=shape[1], out_features=draw.choice((8, 32, 100)), bias=True)
            case 2:
                inputs = (first, draw.choice(others))
                layer = Elementwise(operation=draw.choice(("add", "multiply")), shapes=(shape, shape))
            case 3:
                layer = Dropout(shape=shape)
            case 4 if draw.random() < 0.3:
                layer = View(shape=shape, output=shape)
        output = f"t{at}"
        shapes[output] = layer.output_shape
        names = tuple(f"n{at}.{part}" for part, _ in zip("wb", layer.parameter_shapes, strict=False))
        nodes.append(Node(name=f"n{at}", layer=layer, inputs=inputs, output=output, parameters=names))
        made.append(output)
    outputs = {made[-1], *(name for name in made[1:] if draw.random() < 0.1)}  # the last is scored
    return Network(
        name=f"graph {seed}",
        inputs=(("x", (4, width)),),
        nodes=tuple(nodes),
        outputs=tuple(name for name in made if name in outputs),
    )


def some_regions(network: Network, draw: Random) -> list[Region]:
    count = len(network.nodes)
    spans = {tuple(sorted(draw.sample(range(count + 1), 2))) for _ in range(MOST)}
    names = [node.name for node in network.nodes]
    return [Region(name=f"{first}:{last}", nodes=tuple(names[first:last])) for first, last in sorted(spans)]


def choices(regions: Sequence[Region]) -> Iterator[tuple[Region, ...]]:
    """Every choice of regions that do not overlap."""
    for count in range(len(regions) + 1):
        for chosen in combinations(regions, count):
            if sum(len(one.nodes) for one in chosen) == len({name for one in chosen for name in one.nodes}):
                yield chosen


def peak(network: Network, regions: Sequence[Region]) -> int:
    step = Step(optimizer="sgd", checkpoints=tuple(regions))
    return memory(network, step, Precision.FP32).peak.live_bytes


def free(tensors: int) -> float:
    return 0.0


def extra(network: Network, regions: Sequence[Region], times: dict[str, float], call_s: CallCost = free) -> float:
    """What runs again, and the calls that do so."""
    found = reruns(network, regions)
    again = sum(times[network.nodes[place].name] for one in found for place in one.again)
    return again + sum(call_s(one.tensors) for one in found)


def recomputation(
    network: Network, regions: Sequence[Region], times: dict[str, float], call_s: CallCost = free
) -> Recomputation:
    return Recomputation(network, STEP, Precision.FP32, candidates=regions, again_s=times, call_s=call_s, workspaces={})


@pytest.mark.parametrize("seed", range(100))
def test_the_cheapest_regions_are_those_of_trying_every_choice(seed: int) -> None:
    draw, network = Random(seed), graph(seed)
    regions, times = some_regions(network, draw), {node.name: draw.uniform(0.5, 2) for node in network.nodes}
    each_s, tensor_s = draw.choice([(0.0, 0.0), (draw.uniform(0, 2), draw.uniform(0, 0.5))])

    def call_s(tensors: int) -> float:
        return each_s + tensors * tensor_s

    every = [(peak(network, one), extra(network, one, times, call_s)) for one in choices(regions)]
    found = recomputation(network, regions, times, call_s)
    assert found.least_bytes() == min(bytes_ for bytes_, _ in every)
    limits = sorted({bytes_ for bytes_, _ in every})
    assert found.cheapest(limits[0] - 1) is None
    for limit in draw.sample(limits, min(6, len(limits))):
        chosen = found.cheapest(limit)
        assert chosen is not None
        assert peak(network, chosen) <= limit
        least_s = min(s for bytes_, s in every if bytes_ <= limit)
        assert extra(network, chosen, times, call_s) == pytest.approx(least_s)


def segments(network: Network) -> tuple[Region, ...]:
    """As many segments as the root of the number of nodes, all but the last checkpointed (`checkpoint_sequential`)."""
    names = [node.name for node in network.nodes]
    count = isqrt(len(names))
    size = len(names) // count
    return tuple(Region(name=str(at), nodes=tuple(names[at * size : (at + 1) * size])) for at in range(count - 1))


def chain(seed: int) -> Network:
    draw = Random(seed)
    widths = [draw.choice((8, 16, 64, 200)) for _ in range(draw.randint(8, 30))]
    nodes, width = [], 8
    for at, out in enumerate(widths):
        layer: Layer = Activation(function="gelu", shape=(32, width))
        if at % 2 == 0:
            layer, width = Linear(rows=32, in_features=width, out_features=out, bias=True), out
        names = tuple(f"n{at}.{part}" for part, _ in zip("wb", layer.parameter_shapes, strict=False))
        nodes.append(Node(name=f"n{at}", layer=layer, inputs=(f"t{at}",), output=f"t{at + 1}", parameters=names))
    return Network(name="chain", inputs=(("t0", (32, 8)),), nodes=tuple(nodes), outputs=(f"t{len(nodes)}",))


@pytest.mark.parametrize("seed", range(40))
def test_of_choices_that_cost_the_same_time_one_of_the_fewest_regions_is_taken(seed: int) -> None:
    draw, network = Random(seed), chain(seed)
    regions, times = some_regions(network, draw), {node.name: draw.choice((0.0, 1.0)) for node in network.nodes}
    every = [(peak(network, one), extra(network, one, times), len(reruns(network, one))) for one in choices(regions)]
    found = recomputation(network, regions, times)
    limits = sorted({bytes_ for bytes_, _, _ in every})
    for limit in draw.sample(limits, min(6, len(limits))):
        least_s, least = min((s, count) for bytes_, s, count in every if bytes_ <= limit)
        chosen = found.cheapest(limit)
        assert chosen is not None
        assert (extra(network, chosen, times), len(chosen)) == (least_s, least)


@pytest.mark.parametrize("seed", range(20))
def test_the_cheapest_regions_are_never_slower_than_sqrt_n_segments(seed: int) -> None:
    draw, network = Random(seed), chain(seed)
    times = {node.name: draw.uniform(0.5, 2) for node in network.nodes}
    plain = segments(network)
    found = recomputation(network, (*submodules.regions(network), *plain), times)
    limit = peak(network, plain)
    chosen = found.cheapest(limit)
    assert chosen is not None
    assert peak(network, chosen) <= limit
    assert extra(network, chosen, times) <= extra(network, plain, times) * (1 + 1e-9)


def test_regions_that_stay_are_kept_and_not_chosen_again() -> None:
    network = chain(5)
    names = [node.name for node in network.nodes]
    own = Region(name="own", nodes=tuple(names[1:4]))
    times = dict.fromkeys(names, 1.0)
    network = replace(network, checkpoints=(own,))
    candidates = submodules.regions(network)
    assert not any(set(own.nodes) & set(region.nodes) for region in candidates)
    found = recomputation(network, candidates, times)
    least = min(peak(network, one) for one in choices(candidates[:8]))
    assert found.least_bytes() <= least
    chosen = found.cheapest(least)
    assert chosen is not None
    assert peak(network, chosen) <= least
