"""Calls that run channels last amid a model that does not, because it has permuted what they read."""

from collections.abc import Sequence
from contextlib import suppress

from latte_cli.estimator.memory import CallPosition
from latte_cli.estimator.steps import Work
from latte_cli.estimator.storages import Storages
from latte_cli.lookup import Lookup, NotProfiled, Pair, Timing
from latte_cli.precisions import Layout
from latte_cli.strategies import OWN


def turned_calls(lookup: Lookup, storages: Storages, works: Sequence[Work]) -> dict[CallPosition, Timing | None]:
    """Their timings in that layout, as torch runs them; None where they were not measured in it."""
    names = storages.channels_last if lookup.layout is Layout.NCHW else set()
    calls = [work for work in works if work.name in names]
    timings = _channels_last(lookup, tuple(dict.fromkeys(work.pair for work in calls))) if calls else {}
    return {(work.name, work.phase): timings.get(work.pair) for work in calls}


def _channels_last(lookup: Lookup, pairs: Sequence[Pair]) -> dict[Pair, Timing]:
    other = Lookup(
        lookup.store, lookup.slug, precision=lookup.precision, layout=Layout.CHANNELS_LAST, threads=lookup.threads
    )
    found: dict[Pair, tuple[Timing, ...]] = {}
    with suppress(NotProfiled):
        found = other.measured_timings(pairs)
    return {
        pair: next((each for each in timings if each.task.algorithm in OWN), timings[0])
        for pair, timings in found.items()
    }
