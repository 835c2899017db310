"""Searches: what it costs to try algorithms of a shape that has not been met, and what results that repeat cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from latte_cli.layers import Convolution
from latte_cli.lookup import Pair, Timing
from latte_cli.strategies import Candidates, Selection, Strategy, repeats

RUNS = 2  # PyTorch: one to warm up and one to time (aten/src/ATen/native/cudnn/Conv_v8.cpp, `benchmark_plan`)
"""How often a search runs each candidate."""


@dataclass(frozen=True, kw_only=True)
class ShapeSearch:
    """What one convolution's search in one phase runs: seconds of all runs, and the most workspace of one, if known."""

    time_s: float
    runs: int
    workspace_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class SearchCost:
    """What searching algorithms costs: each of the `searches` runs once, when its shape is first met.

    Of the `unknown_pairs` it is not known what a search tries. Building what is tried is not in it.
    """

    searches: tuple[tuple[Pair, ShapeSearch], ...]
    unknown_pairs: tuple[Pair, ...] = ()

    @property
    def time_s(self) -> float:
        """Seconds on the device of all runs."""
        return sum(each.time_s for _, each in self.searches)

    @property
    def workspace_bytes(self) -> int | None:
        """The most workspace of one run; None where that of one is not known."""
        sizes = [each.workspace_bytes for _, each in self.searches]
        known = [size for size in sizes if size is not None]
        return max(known) if len(known) == len(sizes) else None

    @property
    def shapes(self) -> int:
        """How many convolutions, each in one phase, are searched."""
        return len(self.searches)

    @property
    def runs(self) -> int:
        """How often a candidate runs."""
        return sum(each.runs for _, each in self.searches)

    @property
    def unknown(self) -> int:
        """How many convolutions, each in one phase, there are of which it is not known what is tried."""
        return len(self.unknown_pairs)


def combined_search(costs: Sequence[SearchCost]) -> SearchCost | None:
    """What the searches of several steps cost together: a shape that several have is searched once; None for none."""
    searches: dict[Pair, ShapeSearch] = {}
    for cost in costs:
        searches = dict(cost.searches) | searches
    unknown = dict.fromkeys(pair for cost in costs for pair in cost.unknown_pairs if pair not in searches)
    return SearchCost(searches=tuple(searches.items()), unknown_pairs=tuple(unknown)) if costs else None


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
    known = [(pair, _search(timings)) for pair, timings in tried.items() if timings]
    if not known:
        return None
    return SearchCost(
        searches=tuple(known), unknown_pairs=tuple(pair for pair, timings in tried.items() if not timings)
    )


def _search(timings: Sequence[Timing]) -> ShapeSearch:
    sizes = [timing.workspace_bytes for timing in timings]
    told = [size for size in sizes if size is not None]
    return ShapeSearch(
        time_s=sum(RUNS * timing.device_s for timing in timings),
        runs=RUNS * len(timings),
        workspace_bytes=max(told) if len(told) == len(sizes) else None,
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
