"""Choices: what a strategy takes for each call, with the estimator's timing of it."""

from collections.abc import Sequence
from dataclasses import replace

from latte_cli.estimator.predictions import Predictions
from latte_cli.strategies import Candidates, Selection, Strategy


def selections(strategy: Strategy, calls: Sequence[Candidates], predictions: Predictions) -> list[Selection]:
    """What `strategy` takes for each of `calls`; without a timing where nothing can be said of it.

    The timing is the one it was chosen by, and a predicted one for what was not timed or where the estimator replaces
    rows.
    """
    selected = [strategy.choose(call) for call in calls]
    replaces = predictions.models.replaces_rows
    ways = [(call.pair, one.algorithm) for call, one in zip(calls, selected, strict=True)]
    wanted = [replaces or one.timing is None for one in selected]
    if not any(wanted):
        return selected
    timings = predictions.timings(way for way, is_wanted in zip(ways, wanted, strict=True) if is_wanted)
    return [
        replace(one, timing=timings[way]) if is_wanted else one
        for way, one, is_wanted in zip(ways, selected, wanted, strict=True)
    ]
