"""A strategy: what it must know of a call, and what it selects of the call's candidates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import Kind
from latte_cli.layers import Convolution
from latte_cli.lookup import Timing
from latte_cli.precisions import Layout, Precision
from latte_cli.strategies.candidates import Candidates, Selection, fastest
from latte_cli.strategies.rules import StrategyRule


class Need(StrEnum):
    """What a strategy must know of a call that was not timed."""

    ALGORITHMS = "algorithms"
    """The algorithms that ran layers of its sort: `Candidates.untimed`."""
    TIMINGS = "timings"
    """Their predicted timings, of a convolution: `Candidates.timings`."""
    SELECTION = "selection"
    """What the learned selector takes for a convolution: `Candidates.selected`."""


Choose: TypeAlias = Callable[[Candidates], Selection]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Who chooses: `choose` selects one of a call's candidates, which hold what the strategy has a `need` of.

    On a GPU the whole model has the layout `layouts` says for its precision, NCHW for others. `rule_of_gpu` says that
    a CPU leaves such a framework no choice, so that the rule is a stand-in there. `search` says what it runs of a
    convolution that it has not met, to choose among it.
    """

    name: str
    choose: Choose
    need: Need
    layouts: Mapping[Precision, Layout] = field(default_factory=dict)
    rule_of_gpu: bool = False
    search: Callable[[Candidates], Sequence[Timing]] | None = None

    def layout(self, precision: Precision, kind: Kind) -> Layout:
        """The memory layout of activations on a device of `kind`."""
        return self.layouts.get(precision, Layout.NCHW) if kind.offers_choice else Layout.NCHW


def latte(candidates: Candidates) -> Selection:
    """The fastest that was timed and fits the call's limit; else what the learned selector takes."""
    if candidates.timings:
        return _selection(fastest(candidates.timings, candidates.limit_bytes))
    return candidates.selected or framework_default(candidates)


def by_rule(rule: StrategyRule) -> Choose:
    """What `rule` takes for a convolution; the framework's default for other layers."""

    def choose(candidates: Candidates) -> Selection:
        if candidates.timings and isinstance(candidates.layer, Convolution):
            return _selection(rule(candidates))
        return framework_default(candidates)

    return choose


def choose_fixed(name: str) -> Choose:
    """The algorithm `name` wherever it computes the call, and the framework's default elsewhere."""

    def choose(candidates: Candidates) -> Selection:
        timed = (timing for timing in candidates.timings if _is_named(timing.task.algorithm, name))
        if timing := next(timed, None):
            return _selection(timing)
        untimed = (algorithm for algorithm in candidates.untimed if _is_named(algorithm, name))
        algorithm = min(untimed, key=repr, default=None)  # the same one in every process
        return Selection(algorithm=algorithm) if algorithm else framework_default(candidates)

    return choose


def framework_default(candidates: Candidates) -> Selection:
    """The framework's own choice, whether or not it was timed."""
    return Selection(algorithm=FRAMEWORK_DEFAULT, timing=candidates.timing_of(FRAMEWORK_DEFAULT))


def _is_named(algorithm: Algorithm, name: str) -> bool:
    return algorithm.name.upper() == name.upper()


def _selection(timing: Timing) -> Selection:
    return Selection(algorithm=timing.task.algorithm, timing=timing)
