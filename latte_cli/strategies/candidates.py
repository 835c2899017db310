"""Candidates: what there is to choose from for one call, and what of it is selected."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TypeAlias

from latte_cli.algorithms import FRAMEWORK_BENCHMARK, FRAMEWORK_DEFAULT, Algorithm, known_algorithm
from latte_cli.engines import PREFIX, Heuristic, is_engine
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.lookup import Pair, Timing, fits_workspace, workspace_bytes
from latte_cli.precisions import Precision

OWN = (FRAMEWORK_DEFAULT, FRAMEWORK_BENCHMARK)
"""What the framework takes by itself."""

EngineLists: TypeAlias = Mapping[str, Sequence[str]]
"""The names of cuDNN's engines, best first, by the mode of the heuristic that listed them."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bytes that one call's workspace may take, and that the process may hold at any time (None: any number).

    Raises LatteError for what is no number of bytes.
    """

    workspace_bytes: int | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for limit in (self.workspace_bytes, self.memory_bytes):
            if limit is not None and not (isinstance(limit, Integral) and limit >= 0):
                raise LatteError(f"{limit!r} is not a number of bytes", hint="as in `2 * 2**30`, for 2 GiB")


NO_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The algorithm to run a call with, and its timing where there is one.

    `confidence` is the learned selector's, 0 to 1, where it chose.
    """

    algorithm: Algorithm
    timing: Timing | None = None
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What there is to choose from for one call of `phase` of `layer`, whose workspace has a limit (None: any).

    `timings` are known or predicted, in the order of `rank_timings`; `lists` are what cuDNN's heuristics answered where
    engines were requested. Where nothing was timed, a strategy may need `untimed`, the algorithms that ran layers of
    this sort, or `selected`, what the learned selector takes. A rule tries no more than `narrowed`, where that is set.
    """

    layer: Layer
    phase: Phase
    timings: Sequence[Timing] = ()
    limit_bytes: int | None = None
    precision: Precision = Precision.FP32
    lists: EngineLists = field(default_factory=dict)
    untimed: Collection[Algorithm] = ()
    selected: Selection | None = None
    narrowed: Sequence[Timing] = ()

    @property
    def pair(self) -> Pair:
        """What decides the call's time."""
        return self.layer, self.phase

    @property
    def operation(self) -> Phase:
        """The convolution that the library computes."""
        return self.layer.computed_as(self.phase) if isinstance(self.layer, Convolution) else self.phase

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved by itself."""
        return isinstance(self.layer, Convolution) and self.layer.depthwise

    @property
    def tried_timings(self) -> Sequence[Timing]:
        """What a rule tries: the library's own algorithms as it ranks them.

        Where its ranking is not known, they are in the order of its numbers; where no library's algorithm was timed,
        all that were timed, the framework's own first. cuDNN's engines are not among them: rules that know them ask
        for `engines`.
        """
        if self.narrowed:
            return self.narrowed
        named = [timing for timing in self.timings if not is_engine(timing.task.algorithm)]
        own = FRAMEWORK_DEFAULT.library
        return [timing for timing in named if timing.task.algorithm.library != own] or named or self.timings

    def engines(self, *modes: Heuristic, also: Iterable[int] = ()) -> list[Timing]:
        """The engines that were timed, in the order of these heuristics' lists and of `also`, each once."""
        listed = (name for mode in modes for name in self.lists.get(mode.name, ()))
        timed = {timing.task.algorithm.name: timing for timing in self.timings if is_engine(timing.task.algorithm)}
        names = dict.fromkeys((*listed, *(f"{PREFIX}{index}" for index in also)))
        return [timed[name] for name in names if name in timed]

    def among(self, engines: Sequence[Timing]) -> "Candidates":
        """The candidates of which a rule tries `engines` alone; as they are where there are none."""
        return replace(self, narrowed=engines) if engines else self

    def fitting_timings(self) -> list[Timing]:
        """What is tried, best rank first, if its workspace fits what is free."""
        return [timing for timing in self.tried_timings if fits_workspace(timing, self.limit_bytes)]

    def timing_of(self, algorithm: Algorithm) -> Timing | None:
        """The timing of `algorithm`, whether or not it fits."""
        return next((timing for timing in self.timings if timing.task.algorithm == algorithm), None)

    def timing_numbered(self, vendor_id: int) -> Timing | None:
        """What is tried and has the library's number `vendor_id`."""
        return next((timing for timing in self.tried_timings if timing.task.algorithm.vendor_id == vendor_id), None)

    def smallest(self) -> Timing:
        """What is tried with the least workspace: what is left where nothing fits."""
        return min(self.tried_timings, key=workspace_bytes)


def quickest(timings: Iterable[Timing]) -> Timing | None:
    """The timing with the least time, or None of none."""
    return min(timings, key=lambda timing: timing.device_s, default=None)


def fastest(timings: Sequence[Timing], limit_bytes: int | None = None) -> Timing:
    """The fastest of `timings` whose workspace fits the limit; where none fits, the one with the least workspace."""
    found = quickest(timing for timing in timings if fits_workspace(timing, limit_bytes))
    return found or min(timings, key=workspace_bytes)


def repeats(timing: Timing) -> bool:
    """Whether results repeat bit by bit, as observed or else as known of the algorithm."""
    if timing.deterministic is not None:
        return timing.deterministic
    about = known_algorithm(timing.task.algorithm)
    return about is None or about.deterministic


def rank_timings(timings: Sequence[Timing], ranking: Sequence[str] = ()) -> Sequence[Timing]:
    """The timings in the order of the library's own heuristic, `ranking`, which names its algorithms.

    What it does not name follows: the framework's own first, then by the library's numbers.
    """
    indices = {name: index for index, name in enumerate(ranking)}

    def index(timing: Timing) -> tuple[int, bool, int, str]:
        algorithm = timing.task.algorithm
        number = len(timings) if algorithm.vendor_id is None else algorithm.vendor_id
        return indices.get(algorithm.name, len(indices)), algorithm not in OWN, number, algorithm.name

    return sorted(timings, key=index)
