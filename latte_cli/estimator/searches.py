"""Searches: what it costs to try algorithms of a shape that has not been met, and what results that repeat cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from latte_cli.layers import Convolution
from latte_cli.lookup import Pair, Timing
from latte_cli.strategies import Candidates, Selection, Strategy, repeats

RUNS = 2  # PyTorch: one to warm up and one to time (aten/src/ATen/native/cudnn/Conv_v8.cpp, `benchmark_plan`)
"""How often a search runs each candidate."""


@dataclass(frozen=True, kw_only=True)
class SearchCost:
    """What the first step pays for a search: seconds on the device of all runs, and the most workspace of one.

    The workspace is None where that of one is not known. It runs candidates of `shapes` convolutions in a phase; of
    `unknown` others it is not known what it tries. Building what is tried is not in it.
    """

    time_s: float
    workspace_bytes: int | None
    shapes: int
    runs: int
    unknown: int = 0


@dataclass(frozen=True, kw_only=True)
class RepeatingStep:
    """The `step_s` with the algorithms alone whose results repeat bit by bit; `calls` then run otherwise."""

    step_s: float
    calls: int


def search_cost(strategy: Strategy, candidates: Iterable[Candidates]) -> SearchCost | None:
    """What `strategy` pays to search the algorithms of all convolutions; None where it searches none."""
    if strategy.search is None:
        return None
    tried: dict[Pair, Sequence[Timing]] = {}
    for each in candidates:
        if isinstance(each.layer, Convolution) and not each.depthwise and each.pair not in tried:
            tried[each.pair] = strategy.search(each)
    known = [timings for timings in tried.values() if timings]
    if not known:
        return None
    sizes = [timing.workspace_bytes for timings in known for timing in timings]
    told = [size for size in sizes if size is not None]
    return SearchCost(
        time_s=sum(RUNS * timing.device_s for timings in known for timing in timings),
        workspace_bytes=max(told) if len(told) == len(sizes) else None,
        shapes=len(known),
        runs=RUNS * sum(map(len, known)),
        unknown=len(tried) - len(known),
    )


def repeating_candidates(candidates: Sequence[Candidates], selected: Sequence[Selection]) -> list[Candidates] | None:
    """The candidates without those whose results differ from run to run; None where that is no other step.

    So it is where everything that was selected repeats, and where a call has nothing else.
    """
    if all(one.timing is None or repeats(one.timing) for one in selected):
        return None
    kept = [replace(each, timings=tuple(filter(repeats, each.timings))) for each in candidates]
    lost = any(each.timings and not left.timings for each, left in zip(candidates, kept, strict=True))
    return None if lost else kept
