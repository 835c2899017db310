"""oneDNN's implementations beside torch's own ways on a CPU: which is fastest, and what the best of them saves.

Reads a profile. The fastest of the first pass is judged by the later ones, where those measured most choices again:
whoever picks the least of many noisy times flatters himself. Then times a sample of the layers anew in two states of
the caches, hot (the same call again and again) and as a model leaves them (the state of the profile), and how much of
oneDNN's time goes into reordering weights, which a model that only predicts would do once. Leave the machine alone.

    python benchmarks/onednn.py --store URI --device NAME [--sample 60] [--seed 0]
"""

import argparse
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp, log
from statistics import fmean, median

import torch

from latte_cli.algorithms import FRAMEWORK_DEFAULT, LISTED, Algorithm
from latte_cli.backends import computation
from latte_cli.backends.cpu import onednn_calls
from latte_cli.backends.cpu.backend import CpuBackend
from latte_cli.backends.native import onednn
from latte_cli.backends.native.onednn.convolutions import REORDERING
from latte_cli.backends.torch.layers import operands
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Phase
from latte_cli.report import Table, percent, write_table
from latte_cli.selector import Decision, by_pass
from latte_cli.selector.decisions import DecisionKey
from latte_cli.store import open_store

REPEATS = 9
KINDS = ("torch's default", "torch's others", "oneDNN in place", "oneDNN reordered")


def kind(algorithm: Algorithm) -> str:
    if algorithm == FRAMEWORK_DEFAULT:
        return KINDS[0]
    if algorithm.library != LISTED.library:
        return KINDS[1]
    return KINDS[3] if REORDERING in algorithm.name else KINDS[2]


def geomean(values: Iterable[float]) -> float:
    return exp(fmean(map(log, values)))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A choice: seconds by algorithm as they were when it was made, and as they were when it was judged."""

    group: tuple[str, str]
    before: dict[Algorithm, float]
    after: dict[Algorithm, float]
    first: Algorithm | None = None

    def gain(self, libraries: Sequence[str]) -> float:
        """How many times as long torch's default takes as the fastest of `libraries`, default included."""
        open_to = [a for a in self.before if a == FRAMEWORK_DEFAULT or a.library in libraries]
        best = min((a for a in open_to if a in self.after), key=lambda a: (self.before[a], a.name))
        return self.after[FRAMEWORK_DEFAULT] / self.after[best]

    @property
    def best(self) -> Algorithm:
        return min(self.before, key=lambda a: (self.before[a], a.name))

    @property
    def listed_first(self) -> float | None:
        """How many times as long torch's default takes as the first of oneDNN's own list."""
        return self.after[FRAMEWORK_DEFAULT] / self.after[self.first] if self.first in self.after else None


def lines(cases: Sequence[Case]) -> Iterator[tuple[str, ...]]:
    groups = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    for group, own in sorted(groups.items()):
        won = Counter(kind(case.best) for case in own)
        gains = sorted(case.gain(("torch", "onednn")) for case in own)
        firsts = [first for case in own if (first := case.listed_first)]
        yield (
            *group,
            str(len(own)),
            *(percent(won[name] / len(own)) for name in KINDS),
            f"{geomean(case.gain(('torch',)) for case in own):.2f}",
            f"{geomean(firsts):.2f}" if firsts else "-",
            f"{geomean(gains):.2f}",
            f"{gains[int(0.9 * (len(gains) - 1))]:.2f}",
            f"{gains[-1]:.1f}",
            percent(sum(gain > 1.2 for gain in gains) / len(own)),
        )


COLUMNS = (
    *("layout", "phase", ">choices", *(f">{name} fastest" for name in KINDS)),
    *(">torch's best", ">oneDNN's first", ">best", ">90th percentile", ">most", ">over 20 %"),
)


def judged(first: Iterable[Decision], later: Mapping[DecisionKey, Decision]) -> Iterator[Case]:
    for decision in first:
        judge = later.get(decision.key, decision)
        if FRAMEWORK_DEFAULT in decision.times_s and FRAMEWORK_DEFAULT in judge.times_s:
            group = (str(decision.settings.layout), str(decision.phase))
            yield Case(group=group, before=decision.times_s, after=judge.times_s, first=decision.heuristic)


def repeatability(first: Iterable[Decision], later: Mapping[DecisionKey, Decision]) -> float:
    """The median |ratio - 1| of a time in later passes and in the first one."""
    return median(
        abs(judge.times_s[algorithm] / time_s - 1)
        for decision in first
        if (judge := later.get(decision.key))
        for algorithm, time_s in decision.times_s.items()
        if algorithm in judge.times_s
    )


# Hot and as in a model


def hot_s(call: Callable[[], object]) -> float:
    """The median time of a call that follows the same call."""
    call()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return median(times)


def in_both(decision: Decision, backend: CpuBackend) -> tuple[Case, Case]:
    """The choice timed anew, hot and as in a model, in turn for each algorithm that ran."""
    layer, phase, settings = decision.layer, decision.phase, decision.settings
    o = operands(layer, settings)
    first = o.x if phase is Phase.FORWARD else o.gy
    hot: dict[Algorithm, float] = {}
    model: dict[Algorithm, float] = {}
    for algorithm in decision.ran:
        call = partial(computation(algorithm, layer, phase, settings, "cpu"), o)
        hot[algorithm] = hot_s(call)
        model[algorithm] = median(backend.time_call(call, (first,)).device_s for _ in range(REPEATS))
    groups = [(f"{settings.layout}, {state}", str(phase)) for state in ("hot", "as in a model")]
    return tuple(  # type: ignore[return-value]
        Case(group=group, before=times, after=times, first=decision.heuristic)
        for group, times in zip(groups, (hot, model), strict=True)
    )


def packing_share(decision: Decision, threads: int) -> float | None:
    """The share of the fastest oneDNN implementation's time that reordering weights takes; None where it does not."""
    own = [algorithm for algorithm in decision.ran if algorithm.library == LISTED.library]
    library = onednn_calls.library()
    if not own or library is None or decision.phase is Phase.BACKWARD_FILTER:
        return None
    layer, settings = decision.layer, decision.settings
    name = min(own, key=decision.times_s.__getitem__).name
    with onednn.problem(library, layer, decision.phase, settings.precision, settings.layout) as described:
        execution = described.execution(name, threads)
    if not execution.packed_bytes:
        return None
    o = operands(layer, settings)
    memory = [torch.zeros(size, dtype=torch.uint8) for size in (execution.workspace_bytes, execution.packed_bytes)]
    workspace, packed = (each.data_ptr() for each in memory)
    bias = o.b.data_ptr() if o.b is not None else 0
    places = (o.x.data_ptr(), o.w.data_ptr(), o.gy.data_ptr(), bias, workspace)
    execution.pack(places[1], packed, workspace)
    return 1 - hot_s(partial(execution, *places, packed)) / hot_s(partial(execution, *places))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", metavar="URI")
    parser.add_argument("--device", metavar="NAME", required=True)
    parser.add_argument("--sample", type=int, default=60, help="layers to time anew")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = list(open_store(options.store).measurements(options.device, kinds={"convolution"}))
    first, later = by_pass(rows)
    cases = list(judged(first, later))
    layers = sorted({decision.layer for decision in first}, key=repr)
    write_table(Table(columns=COLUMNS, rows=list(lines(cases))))
    print(f"{len(layers)} layers, {len(cases)} choices, {len(later)} judged by later passes")
    if later:
        print(f"a time in later passes differs from the first one's by {percent(repeatability(first, later))} (median)")
    wins = Counter(case.best.name for case in cases)
    print("fastest most often:", ", ".join(f"{name} {percent(n / len(cases))}" for name, n in wins.most_common(15)))
    backend = CpuBackend(threads=first[0].settings.threads)
    drawn = set(random.Random(options.seed).sample(layers, min(options.sample, len(layers))))
    sample = [decision for decision in first if decision.layer in drawn]
    both = [case for decision in sample for case in in_both(decision, backend)]
    print(f"\n{len(drawn)} layers timed anew, each hot and as in a model:")
    write_table(Table(columns=COLUMNS, rows=list(lines(both))))
    shares = [share for decision in sample if (share := packing_share(decision, backend.threads)) is not None]
    if shares:
        most = sorted(shares)[int(0.9 * (len(shares) - 1))]
        print(f"reordering weights takes {percent(median(shares))} of oneDNN's fastest (median; 90th percentile")
        print(f"{percent(most)}), hot, of {len(shares)} forward and backward-data calls that reorder them")
    return ExitCode.DONE


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LatteError as error:
        sys.exit(f"{error.message}\n{error.hint or ''}".strip())
