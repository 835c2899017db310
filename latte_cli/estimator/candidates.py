"""Candidates of a network's calls: their timings known, and what a strategy needs of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from latte_cli.estimator.predictions import Predictions
from latte_cli.layers import Convolution
from latte_cli.lookup import Lookup, Pair, Timing
from latte_cli.precisions import Precision
from latte_cli.strategies import OWN, Candidates, EngineLists, Need, rank_timings

CallRequest: TypeAlias = tuple[Pair, int | None]
"""A layer's phase at its place in a step, and the workspace in bytes that it may take there (None: any)."""


@dataclass(frozen=True, kw_only=True)
class KnownTimings:
    """The timings of a network's calls that were measured or lie between neighbours, as the library ranks them.

    `lists` are what cuDNN's heuristics listed for them; rows of that many library `versions` were read.
    """

    timings: Mapping[Pair, tuple[Timing, ...]]
    lists: Mapping[Pair, EngineLists]
    precision: Precision
    versions: int

    @property
    def alone(self) -> int:
        """How many phases of convolutions were timed as the framework runs them, and in no other way."""
        return sum(
            isinstance(layer, Convolution) and all(timing.task.algorithm in OWN for timing in timings)
            for (layer, _), timings in self.timings.items()
        )


def known_timings(lookup: Lookup, measured: Mapping[Pair, tuple[Timing, ...]], pairs: Sequence[Pair]) -> KnownTimings:
    """What is known of `pairs`: what was `measured`, else what lies between neighbours."""
    known = dict(measured)
    known |= {pair: found for pair in pairs if pair not in known and (found := lookup.interpolate(pair))}
    rankings = lookup.rankings(known)
    return KnownTimings(
        timings={pair: tuple(rank_timings(timings, rankings[pair])) for pair, timings in known.items()},
        lists=lookup.engine_lists(known),
        precision=lookup.precision,
        versions=len(lookup.versions()),
    )


def candidates_for(
    calls: Sequence[CallRequest], need: Need, known: KnownTimings, predictions: Predictions
) -> list[Candidates]:
    """What there is to choose from for each call; where nothing is known of it, what a strategy has a `need` of."""
    unknown = [call for call in calls if call[0] not in known.timings]
    convolutions = [call for call in unknown if isinstance(call[0][0], Convolution)]
    timings, selected, untimed = known.timings, {}, {}
    if convolutions and need is Need.TIMINGS:
        timings = {**predictions.alternatives(pair for pair, _ in convolutions), **timings}
    if convolutions and need is Need.SELECTION:
        selected = dict(zip(convolutions, predictions.select(convolutions), strict=True))
    if unknown and need is Need.ALGORITHMS:
        untimed = {pair: predictions.models.lookup.run_before(pair) for pair in dict.fromkeys(p for p, _ in unknown)}
    return [
        Candidates(
            layer=pair[0],
            phase=pair[1],
            timings=timings.get(pair, ()),
            limit_bytes=limit_bytes,
            precision=known.precision,
            lists=known.lists.get(pair, {}),
            untimed=untimed.get(pair, ()),
            selected=selected.get((pair, limit_bytes)),
        )
        for pair, limit_bytes in calls
    ]
