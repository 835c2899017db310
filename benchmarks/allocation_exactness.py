"""Fine widths against every combination there is: small networks at random, on rows that are mostly predicted.

Draws networks of two to four channel groups (chains, residual additions, concatenations), two to four shares, a shipped
profile, round durations between the shortest and the whole model's, memory limits for one case in three, and both
objectives. Prices every combination, and says how far the plan falls short of the best of them. Takes about two
minutes of CPU time.

    python benchmarks/allocation_exactness.py [--cases 300] [--output docs/allocation-exactness.md]
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import inf, log
from pathlib import Path

import numpy as np

from latte_cli.allocator import Objective, Pricer, Round, Search, SubModel
from latte_cli.estimator import Estimator, Limits
from latte_cli.fleet import FleetClass
from latte_cli.layers import Activation, Concat, Convolution, Elementwise, Layer, Linear, Norm, Pool, View
from latte_cli.network import Network, Node
from latte_cli.network.channels import groups_to_cut, resize
from latte_cli.store import open_store

SLUGS = ("reference-amd-epyc-family-26-model-2-2c-2t", "nvidia-h200-reference")
NO_CONCAT = SLUGS[1]  # this profile has no row of a concatenation, nor a model of them
SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
CASES_OF_ONE = 5  # of each network, whose combinations are priced once for each memory
TOLERANCE = 1e-3


def draw_network(generator: np.random.Generator, *, concatenating: bool) -> Network:
    """A network of convolutions with two to four groups of channels that can be cut."""
    while True:
        network = _draw(generator, kinds=3 if concatenating else 2)
        if 2 <= len(groups_to_cut(network)) <= 4:
            return network


def _draw(generator: np.random.Generator, kinds: int) -> Network:
    batch, size = int(generator.choice([2, 8, 16])), int(generator.choice([8, 16, 32]))
    nodes: list[Node] = []

    def add(layer: Layer, *inputs: str) -> str:
        name = f"n{len(nodes)}"
        nodes.append(Node(name=name, layer=layer, inputs=inputs, output=name))
        return name

    def convolve(name: str, channels: int, out: int) -> str:
        kernel = int(generator.choice([1, 3]))
        convolved = add(
            Convolution(
                batch=batch,
                in_channels=channels,
                out_channels=out,
                input=(size, size),
                kernel=(kernel, kernel),
                pad_before=(kernel // 2,) * 2,
                pad_after=(kernel // 2,) * 2,
            ),
            name,
        )
        shape = (batch, out, size, size)
        if generator.random() < 0.5:
            convolved = add(Norm(shape=shape, function="batch"), convolved)
        return add(Activation(shape=shape, function="relu"), convolved)

    name, channels = "x", 3
    for _ in range(generator.integers(1, 4)):
        out = 8 * int(generator.integers(1, 9))
        match generator.integers(kinds):
            case 0:
                name, channels = convolve(name, channels, out), out
            case 1:
                first = convolve(name, channels, out)
                second = convolve(first, out, out)
                shape = (batch, out, size, size)
                name, channels = add(Elementwise(operation="add", shapes=(shape, shape)), first, second), out
            case _:
                other = 8 * int(generator.integers(1, 9))
                both = convolve(name, channels, out), convolve(name, channels, other)
                shapes = tuple((batch, each, size, size) for each in (out, other))
                name, channels = add(Concat(shapes=shapes, axis=1), *both), out + other
    whole = (size, size)
    pool = Pool(function="average", batch=batch, channels=channels, input=whole, kernel=whole, stride=whole)
    name = add(View(shape=(batch, channels, 1, 1), output=(batch, channels)), add(pool, name))
    add(Linear(rows=batch, in_features=channels, out_features=10), name)
    return Network(name="drawn", inputs=(("x", (batch, 3, size, size)),), nodes=tuple(nodes), outputs=(nodes[-1].name,))


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is asked of a search, and the objective of the best combination that meets it."""

    fleet_class: FleetClass
    objective: Objective
    duration_s: float
    best: float


class Drawn:
    """A network with shares on a profile, and the rounds of all combinations of its widths."""

    def __init__(
        self, generator: np.random.Generator, network: Network | None = None, shares: tuple[float, ...] = ()
    ) -> None:
        """`network` and `shares` are drawn too, unless they are given."""
        self._generator, self._store = generator, open_store(None)
        self.slug = SLUGS[generator.integers(len(SLUGS))]
        self.network = network or draw_network(generator, concatenating=self.slug != NO_CONCAT)
        drawn = sorted(generator.choice(SHARES, generator.integers(1, 4), replace=False).tolist())
        self.shares = shares or (*drawn, 1.0)
        self._estimators: dict[int | None, Estimator] = {}
        self.pricer = Pricer(lambda batch: self.network, self._estimator)
        groups = groups_to_cut(self.network)
        self._channels = {group.name: group.channels for group in groups}
        options = [sorted({group.width(share) for share in self.shares}) for group in groups]
        self.combinations = [dict(zip(self._channels, widths, strict=True)) for widths in product(*options)]
        self._rounds: dict[FleetClass, list[Round]] = {}

    def _estimator(self, fleet_class: FleetClass) -> Estimator:
        limit = fleet_class.memory_bytes
        if limit not in self._estimators:
            self._estimators[limit] = Estimator(self._store, self.slug, limits=Limits(memory_bytes=limit))
        return self._estimators[limit]

    def rounds(self, fleet_class: FleetClass) -> list[Round]:
        """Those of all combinations."""
        if fleet_class not in self._rounds:
            self._rounds[fleet_class] = [
                self.pricer(
                    SubModel(
                        id=str(at), widths=tuple(widths.items()), parameters=resize(self.network, widths).parameters
                    ),
                    fleet_class,
                )
                for at, widths in enumerate(self.combinations)
            ]
        return self._rounds[fleet_class]

    def value(self, objective: Objective, found: Round) -> float:
        """The objective of a round's sub-model."""
        if objective is Objective.PARAMETERS:
            return float(found.sub_model.parameters)
        return sum(log(width / self._channels[name]) for name, width in found.sub_model.widths)

    def cases(self, count: int) -> Iterator[Case]:
        """So many of them, one in three under a memory that two thirds of the combinations fit."""
        draw = self._generator
        batch = self.network.inputs[0][1][0]
        steps, rate = int(draw.integers(1, 100)), float(10 ** draw.uniform(6, 9))
        free = FleetClass(
            name="drawn", device=self.slug, samples=steps * batch, batch=batch, up_bit_per_s=rate, down_bit_per_s=rate
        )
        needs = sorted(each.memory_bytes for each in self.rounds(free))
        for _ in range(count):
            own = replace(free, memory_bytes=needs[2 * len(needs) // 3]) if draw.random() < 1 / 3 else free
            fitting = [each for each in self.rounds(own) if each.high_s is not None]
            least_s, most_s = (end(each.high_s or 0.0 for each in fitting) for end in (min, max))
            duration_s = least_s + float(draw.uniform(0.0, 1.0)) * (most_s - least_s)
            objective = list(Objective)[draw.integers(len(Objective))]
            best = max(self.value(objective, each) for each in fitting if each.meets(duration_s))
            yield Case(fleet_class=own, objective=objective, duration_s=duration_s, best=best)

    def shortfall(self, case: Case) -> float:
        """By how much of the best objective the plan falls short of it, infinite for none; negative is impossible."""
        found = Search(self.pricer, case.fleet_class, case.objective, self.shares).best(case.duration_s)
        if found is None or not found.meets(case.duration_s):
            return inf
        return (case.best - self.value(case.objective, found)) / (abs(case.best) or 1.0)


def drawn_cases(count: int, seed: int) -> Iterator[tuple[Drawn, Case]]:
    """So many cases of networks at random."""
    generator = np.random.default_rng(seed)
    while count > 0:
        drawn = Drawn(generator)
        for case in drawn.cases(min(count, CASES_OF_ONE)):
            yield drawn, case
            count -= 1


def report(count: int, seed: int) -> Iterator[str]:
    found: defaultdict[tuple[str, str, bool], list[float]] = defaultdict(list)
    networks: dict[Drawn, None] = {}
    search_s = 0.0
    for drawn, case in drawn_cases(count, seed):
        networks[drawn] = None
        started = time.process_time()
        short = drawn.shortfall(case)
        search_s += time.process_time() - started
        found[drawn.slug, case.objective, case.fleet_class.memory_bytes is not None].append(short)
    yield "# Allocation: fine widths against every combination"
    yield ""
    yield "`python benchmarks/allocation_exactness.py` prints this."
    yield ""
    sizes = [len(each.combinations) for each in networks]
    yield (
        f"{count} cases of {len(networks)} networks at random (seed {seed}), of 2 to 4 channel groups with 2 to 4 "
        f"shares: {min(sizes)} to {max(sizes)} combinations, each priced. Round durations lie between the shortest "
        f"and the whole model's. A search takes {search_s / count:.2f} s of CPU time."
    )
    yield ""
    yield f"| profile | objective | memory | cases | short by over {TOLERANCE:.1%} | the most |"
    yield "|---|---|---|--:|--:|--:|"
    for (slug, objective, limited), shorts in sorted(found.items()):
        over = sum(each > TOLERANCE for each in shorts)
        memory = "two thirds fit" if limited else "enough"
        yield f"| {slug} | {objective} | {memory} | {len(shorts)} | {over} | {max(shorts):.2%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    text = "\n".join(report(arguments.cases, arguments.seed)) + "\n"
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
