"""Examples: what a selector's models are fitted to, as arrays that are made once for all parts of an evaluation."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log

import numpy as np
import numpy.typing as npt

from latte_cli.algorithms import Algorithm
from latte_cli.devices import Device
from latte_cli.features import Matrix, details, matrix
from latte_cli.layers import Phase
from latte_cli.lookup import Pair
from latte_cli.selector.candidates import COLUMNS, Array, Indices
from latte_cli.selector.decisions import Decision
from latte_cli.tasks import Settings

_MOST_LOST = log(50)  # chosen: of what takes fifty times as long, and of what did not run
_IMPOSSIBLE = 2.0  # a time this much longer than that of a larger batch was disturbed; docs/selector-public.md
_SHARPNESS = 10  # of targets: a tenth slower is to be e times less likely; docs/selector-public.md
_LEAST = 2  # a choice is one between two
_SURE = 1.0  # the gain of a winner of which no times are known; chosen: as if the next took e times as long


@dataclass(frozen=True, kw_only=True)
class ChoiceTable:
    """Decisions as arrays: for each one its features, the place of its device, its phase and the number of its shape.

    The candidates of decision `i` are `starts[i]` to `starts[i + 1]`: their algorithms' places, what each loses (the
    logarithm of its time over the best), how likely it should be (the share of rows that it won, or (best / time)^10),
    which sums to anything, and `needs_bytes`, its workspace, which is not
    a number where unknown. `gains` are what the second best time loses, `counts` the rows behind a decision.
    """

    features: Matrix
    devices: Indices
    phases: Sequence[Phase]
    shapes: Indices
    starts: Indices
    indices: Indices
    losses: Array
    wins: Array
    gains: Array
    counts: Array
    needs_bytes: Array

    @property
    def rows(self) -> Indices:
        """The decision of each candidate."""
        return np.repeat(np.arange(len(self.features)), np.diff(self.starts))

    def among(self, algorithms: Indices) -> "ChoiceTable":
        """The candidates among the places `algorithms` (sorted), of decisions that one of them won and two may."""
        kept = np.isin(self.indices, algorithms)
        counts, won = (
            np.add.reduceat(np.append(each, 0.0), self.starts[:-1]) if len(self.features) else np.zeros(0)
            for each in (kept.astype(np.float64), self.wins * kept)
        )
        cells = np.flatnonzero(kept)
        rest = ChoiceTable(
            features=self.features,
            devices=self.devices,
            phases=self.phases,
            shapes=self.shapes,
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            indices=self.indices[cells],
            losses=self.losses[cells],
            wins=self.wins[cells],
            gains=self.gains,
            counts=self.counts,
            needs_bytes=self.needs_bytes[cells],
        )
        return rest.take(np.flatnonzero((counts > 1) & (won > 0)))

    def take(self, chosen: Indices) -> "ChoiceTable":
        """Those of the decisions `chosen`, in that order."""
        counts = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(counts)])
        cells = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], counts)
        return ChoiceTable(
            features=self.features[chosen],
            devices=self.devices[chosen],
            phases=[self.phases[row] for row in chosen],
            shapes=self.shapes[chosen],
            starts=starts,
            indices=self.indices[cells],
            losses=self.losses[cells],
            wins=self.wins[cells],
            gains=self.gains[chosen],
            counts=self.counts[chosen],
            needs_bytes=self.needs_bytes[cells],
        )


def examples_of(decisions: Sequence[Decision], algorithms: Sequence[Algorithm], devices: Sequence[str]) -> ChoiceTable:
    """What was tried in `decisions`, by the places in `algorithms` and `devices`, without impossible times."""
    decisions = without_impossible_times(decisions)
    at = {algorithm: index for index, algorithm in enumerate(algorithms)}
    cells: list[tuple[int, float, float, float]] = []
    starts = [0]
    for decision in decisions:
        cells += _cells(decision, at)
        starts.append(len(cells))
    indices, losses, wins, needs = np.array(cells, dtype=np.float64).reshape(-1, 4).T
    numbers: dict[object, int] = {}
    return ChoiceTable(
        features=features_of(decisions),
        devices=np.array([devices.index(decision.device.slug) for decision in decisions]),
        phases=[decision.phase for decision in decisions],
        shapes=np.array([numbers.setdefault(decision.shape, len(numbers)) for decision in decisions]),
        starts=np.array(starts),
        indices=indices.astype(np.int64),
        losses=losses,
        wins=wins,
        gains=np.array([_gain(decision) for decision in decisions]),
        counts=np.array([decision.count for decision in decisions], dtype=np.float64),
        needs_bytes=needs,
    )


def without_impossible_times(decisions: Sequence[Decision]) -> list[Decision]:
    """The same decisions without times that are more than twice those of the same layer at a larger batch.

    The work only grows with the batch, so that something else ran meanwhile, or the clock was low. A decision keeps
    its times where fewer than two would be left.
    """
    result = list(decisions)
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for row, decision in enumerate(decisions):
        groups[decision.device.slug, decision.settings, decision.phase, decision.shape].append(row)
    for rows in groups.values():
        least: dict[Algorithm, float] = {}  # of all larger batches
        for batch in sorted({decisions[row].layer.batch for row in rows} if len(rows) > 1 else (), reverse=True):
            own = [row for row in rows if decisions[row].layer.batch == batch]
            for row in own:
                result[row] = _possible(decisions[row], least)
            for timing in (timing for row in own for timing in decisions[row].timings):
                algorithm = timing.task.algorithm
                least[algorithm] = min(timing.device_s, least.get(algorithm, inf))
    return result


def _possible(decision: Decision, least: Mapping[Algorithm, float]) -> Decision:
    timings = tuple(
        each for each in decision.timings if each.device_s <= _IMPOSSIBLE * least.get(each.task.algorithm, inf)
    )
    if len(timings) == len(decision.timings) or len(timings) < _LEAST:
        return decision
    return replace(decision, timings=timings)


def _cells(decision: Decision, at: dict[Algorithm, int]) -> list[tuple[int, float, float, float]]:
    """Place, loss, share of wins and workspace of each algorithm that was tried."""
    unknown = float("nan")
    refused = [(at[one], _MOST_LOST, 0.0, unknown) for one in decision.refused if one in at]
    if not decision.timings:
        shares = [(one, decision.share(one)) for one in decision.candidates]
        return [(at[one], 1 - share, share, unknown) for one, share in shares] + refused
    best_s = min(timing.device_s for timing in decision.timings)
    return [
        (
            at[timing.task.algorithm],
            min(log(timing.device_s / best_s), _MOST_LOST),
            (best_s / timing.device_s) ** _SHARPNESS,
            unknown if timing.workspace_bytes is None else float(timing.workspace_bytes),
        )
        for timing in decision.timings
    ] + refused


def _gain(decision: Decision) -> float:
    """The logarithm of the second best time over the best."""
    if len(decision.timings) < 2:
        return _SURE
    first, second = sorted(timing.device_s for timing in decision.timings)[:2]
    return log(second / first)


def seen_columns(pairs: Sequence[Pair], settings: Settings, device: Device) -> Matrix:
    """The columns that a model may look at."""
    return np.hstack([matrix(pairs, settings, device), details([layer for layer, _ in pairs])])


def features_of(decisions: Sequence[Decision]) -> Matrix:
    """The columns of each decision, computed together for all of one device and settings."""
    groups: defaultdict[tuple[Device, Settings], list[int]] = defaultdict(list)
    for row, decision in enumerate(decisions):
        groups[decision.device, decision.settings].append(row)
    result: npt.NDArray[np.float32] = np.empty((len(decisions), len(COLUMNS)), dtype=np.float32)
    for (device, settings), rows in groups.items():
        result[rows] = seen_columns([(decisions[row].layer, decisions[row].phase) for row in rows], settings, device)
    return result
