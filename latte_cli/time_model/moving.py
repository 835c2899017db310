"""Moving: another device's time model, moved to where a few rows of this one say that it is."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import hypot, isnan, log, sqrt
from statistics import fmean

import numpy as np

from latte_cli.devices import Device
from latte_cli.lookup import Z80, Z95, Timing
from latte_cli.time_model.card import TimeModelCard
from latte_cli.time_model.fitting import functions_of, medians_of, ranges_of
from latte_cli.time_model.groups import kind_and_phase, label_of
from latte_cli.time_model.model import Prior, TimeModel
from latte_cli.time_model.rooflines import rooflines_of

_SPREADS = tuple(0.05 * step for step in range(1, 21))  # chosen: of the logarithm, from nothing to a factor of 2.7
_TRUSTED = 20  # chosen: as many residuals as the other device's quantiles count for
_QUANTILE_ZS = (-Z95, -Z80, Z80, Z95)


def move_model(timings: Sequence[Timing], device: Device, fingerprint: str, prior: Prior) -> TimeModel:
    """The model of `prior` with a factor for each kind and phase, drawn to the one that all kinds have in common.

    Of n rows of a kind and phase, whose errors spread by s, the mean counts as n τ² / (n τ² + s²): τ is how far kinds
    and phases are apart, as is most likely by their rows. The intervals are those of the other device's model, as much
    wider as its errors here, with what the factors leave uncertain. Kinds that it does not know get rooflines.
    """
    tasks = [timing.task for timing in timings]
    ratios = np.array([log(timing.device_s) for timing in timings]) - prior.log_times(tasks)
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for task, ratio in zip(tasks, ratios.tolist(), strict=True):
        if not isnan(ratio):
            groups[kind_and_phase(task)].append(ratio)
    theirs = prior.model.card
    wider = _wider(groups, theirs)
    spreads = {key: wider * _spread(theirs, key) for key in (*theirs.counts, *groups)}
    offsets, doubts = _offsets(groups, spreads)
    unknown = [timing for timing, ratio in zip(timings, ratios.tolist(), strict=True) if isnan(ratio)]
    own_ranges, own_functions = ranges_of(tasks), functions_of(tasks)
    card = TimeModelCard(
        device=device.slug,
        fingerprint=fingerprint,
        rows=len(tasks),
        rooflines=rooflines_of(unknown),
        algorithms=sorted({label_of(task.algorithm) for task in tasks}),
        quantiles=_quantiles(theirs, spreads, doubts, wider),
        counts=dict(Counter(map(kind_and_phase, tasks))),
        alike=_alike(theirs, spreads, doubts),
        ranges={
            key: _both(own_ranges.get(key, {}), theirs.ranges.get(key, {})) for key in {**theirs.ranges, **own_ranges}
        },
        functions={
            kind: sorted({*own_functions.get(kind, ()), *theirs.functions.get(kind, ())})
            for kind in {**theirs.functions, **own_functions}
        },
        host_s={**theirs.host_s, **medians_of(tasks, [timing.host_s for timing in timings])}
        if device.kind.queued
        else {},
        power_w=medians_of(tasks, [timing.power_w for timing in timings]),
        offsets=offsets,
        prior=prior.device.slug,
        prior_fingerprint=theirs.fingerprint,
    )
    return TimeModel(card, {}, prior)


def _spread(card: TimeModelCard, key: str) -> float:
    """The deviation of the logarithm of a kind and phase, from the ends of its 80 % interval."""
    _, low, high, _ = next(card.quantiles[each] for each in (key, key.partition(" ")[0], "") if each in card.quantiles)
    return (high - low) / 2 / Z80


def _wider(groups: Mapping[str, Sequence[float]], card: TimeModelCard) -> float:
    """How much more the model errs here than on its own device, once each kind and phase has its own factor."""
    squares, count = float(_TRUSTED), float(_TRUSTED)
    for key, ratios in groups.items():
        mean = fmean(ratios)
        squares += sum((ratio - mean) ** 2 for ratio in ratios) / _spread(card, key) ** 2
        count += len(ratios) - 1
    return sqrt(squares / count)


def _offsets(
    groups: Mapping[str, Sequence[float]], spreads: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """The logarithms of the factors by kind and phase, under "" for those without rows, and how uncertain they are."""
    if not groups:
        return {}, {}
    means = np.array([np.mean(ratios) for ratios in groups.values()])
    errors = np.array([spreads[key] ** 2 / len(ratios) for key, ratios in groups.items()])

    def center(spread: float) -> tuple[float, float, float]:
        """The common factor's logarithm with its variance, and the log-likelihood."""
        variances = spread**2 + errors
        weights = 1 / variances
        common = float((weights * means).sum() / weights.sum())
        likelihood = float(-0.5 * (np.log(variances) + (means - common) ** 2 / variances).sum())
        return common, 1 / float(weights.sum()), likelihood

    spread = max(_SPREADS, key=lambda each: center(each)[2])
    common, doubt, _ = center(spread)
    shares = spread**2 / (spread**2 + errors)
    offsets = {
        key: float(common + share * (mean - common)) for key, share, mean in zip(groups, shares, means, strict=True)
    }
    doubts = {
        key: sqrt((1 - share) * spread**2 + (1 - share) ** 2 * doubt) for key, share in zip(groups, shares, strict=True)
    }
    return {"": common, **offsets}, {"": hypot(spread, sqrt(doubt)), **doubts}


def _quantiles(
    card: TimeModelCard, spreads: Mapping[str, float], doubts: Mapping[str, float], wider: float
) -> dict[str, list[float]]:
    """The other device's quantiles, as much `wider`, with the doubt about the factor; of every kind and phase."""
    found = {}
    for key in ("", *spreads):
        theirs = next(card.quantiles[each] for each in (key, key.partition(" ")[0], "") if each in card.quantiles)
        doubt = doubts.get(key, doubts.get("", 1.0))
        found[key] = sorted(
            z / abs(z) * hypot(wider * quantile, z * doubt) for z, quantile in zip(_QUANTILE_ZS, theirs, strict=True)
        )
    return found


def _alike(card: TimeModelCard, spreads: Mapping[str, float], doubts: Mapping[str, float]) -> dict[str, float]:
    """The share of the errors' variance that calls of a kind and phase have in common: the doubt about their factor."""
    found = {}
    for key, spread in spreads.items():
        doubt = doubts.get(key, doubts.get("", 1.0))
        found[key] = (card.alike.get(key, 1.0) * spread**2 + doubt**2) / (spread**2 + doubt**2)
    return found


def _both(own: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The ranges of sizes that either device's rows have."""
    found = {}
    for name in {**theirs, **own}:
        ranges = [each[name] for each in (own, theirs) if name in each]
        found[name] = [min(low for low, _ in ranges), max(high for _, high in ranges)]
    return found
