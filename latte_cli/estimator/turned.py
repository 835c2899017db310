"""Calls that run channels last amid a model that does not, because it has permuted what they read."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from latte_cli.estimator.memory import CallPosition
from latte_cli.estimator.steps import Work
from latte_cli.estimator.storages import Storages
from latte_cli.lookup import Lookup, NotProfiled, Pair, Timing
from latte_cli.network import Network
from latte_cli.precisions import Layout
from latte_cli.strategies import OWN
from latte_cli.suites import Drawn
from latte_cli.sweep import Wanted


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


def with_turned(drawn: Drawn, networks: Iterable[Network]) -> Drawn:
    """`drawn` with the layers of `networks` that run channels last amid a model that does not, to be measured so."""
    nodes = [(node, storages) for network in networks for storages in [Storages(network)] for node in network.nodes]
    layers = dict.fromkeys(node.layer for node, storages in nodes if node.name in storages.channels_last)
    turned = (Wanted(layer=layer, layout=Layout.CHANNELS_LAST) for layer in layers if not layer.free)
    return replace(drawn, wanted=(*drawn.wanted, *turned))
