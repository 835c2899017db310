"""Strategies: which algorithm each layer and phase of a network would run with; pure functions on timings."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.errors import unknown
from latte_cli.layers import Convolution
from latte_cli.lookup import Pair, Timing

Select: TypeAlias = Callable[[Sequence[Pair]], Sequence[Algorithm]]
"""Algorithms for convolutions that were not timed, one each, in order."""


def framework_default(pairs: Sequence[Pair]) -> Sequence[Algorithm]:
    """The framework's own choice for each of `pairs`."""
    return [FRAMEWORK_DEFAULT] * len(pairs)


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a strategy decides on: all pairs of a network, the timings known of them, and the limits.

    `select` answers for convolutions without timings; `run_before` tells which algorithms ran layers of a pair's sort.
    """

    pairs: Sequence[Pair]
    timings: Mapping[Pair, Sequence[Timing]]
    workspace_limit_bytes: int | None = None
    select: Select = framework_default
    run_before: Callable[[Pair], Collection[Algorithm]] = lambda pair: ()


Choices: TypeAlias = dict[Pair, Algorithm]
Strategy: TypeAlias = Callable[[Query], Choices]


def pytorch(query: Query) -> Choices:
    """What torch takes by itself, with its default flags: a choice of its own that knows no workspace limit."""
    return dict.fromkeys(query.pairs, FRAMEWORK_DEFAULT)


def latte(query: Query) -> Choices:
    """The fastest timed algorithm that fits the workspace limit; for convolutions without timings what is selected."""
    choices: Choices = {}
    untimed = []
    for pair in query.pairs:
        if timings := query.timings.get(pair):
            choices[pair] = fastest(timings, query.workspace_limit_bytes).task.algorithm
        elif isinstance(pair[0], Convolution):
            untimed.append(pair)
        else:
            choices[pair] = FRAMEWORK_DEFAULT
    if untimed:
        choices.update(zip(untimed, query.select(untimed), strict=True))
    return choices


def fixed(name: str) -> Strategy:
    """The algorithm `name` wherever it computes the pair, and the framework's default elsewhere."""

    def choose(query: Query) -> Choices:
        choices: Choices = {}
        for pair in query.pairs:
            timings = query.timings.get(pair)
            able = [timing.task.algorithm for timing in timings] if timings else query.run_before(pair)
            named = (algorithm for algorithm in able if algorithm.name.upper() == name.upper())
            choices[pair] = next(named, FRAMEWORK_DEFAULT)
        return choices

    return choose


STRATEGIES: dict[str, Strategy] = {"latte": latte, "pytorch": pytorch}
"""Strategies by name; `fixed:NAME` makes one more for each algorithm."""

_FIXED = "fixed:"


def by_name(name: str) -> Strategy:
    """The strategy called `name`; raises LatteError (exit code 2) for a name there is none of."""
    if name.startswith(_FIXED) and name != _FIXED:
        return fixed(name.removeprefix(_FIXED))
    if name not in STRATEGIES:
        raise unknown("strategy", name, [*STRATEGIES, _FIXED + "NAME"])
    return STRATEGIES[name]


def fixed_name(name: str) -> str | None:
    """The algorithm that the strategy `name` fixes, or None for another strategy."""
    return name.removeprefix(_FIXED) if name.startswith(_FIXED) else None


def fastest(timings: Sequence[Timing], workspace_limit_bytes: int | None = None) -> Timing:
    """The fastest of `timings` whose workspace fits the limit; where none fits, the one with the least workspace.

    A workspace that is not known counts as fitting.
    """
    fitting = [timing for timing in timings if fits(timing, workspace_limit_bytes)]
    if fitting:
        return min(fitting, key=lambda timing: timing.device_s)
    return min(timings, key=lambda timing: timing.workspace_bytes or 0)


def fits(timing: Timing, workspace_limit_bytes: int | None) -> bool:
    """Whether one call's workspace is within the limit."""
    return workspace_limit_bytes is None or (timing.workspace_bytes or 0) <= workspace_limit_bytes
