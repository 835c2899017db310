"""Examples: what a selector's models are fitted to, as arrays that are made once for all parts of an evaluation."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

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

_BLOCK = 1 << 14  # chosen: decisions whose columns are made together; 9 MB
_REFUSED = 1.0  # the loss of what did not run: that of an algorithm which takes for ever
_SURE = 1.0  # the gain of a winner of which no times are known; chosen: as if the next took e times as long


@dataclass(frozen=True, kw_only=True)
class CandidateExamples:
    """Decisions as arrays: for each one its features, the place of its device, its phase, the number of its shape.

    The candidates of decision `i` are `starts[i]` to `starts[i + 1]`: their algorithms' places, what each loses, 1 -
    best time / time or how often it did not win, how often it won, and `needs_bytes`, its workspace, which is not a
    number where unknown. `gains` are the logarithms of the second best time over the best, `counts` the rows behind a
    decision.
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

    def take(self, chosen: Indices) -> "CandidateExamples":
        """Those of the decisions `chosen`, in that order."""
        counts = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(counts)])
        cells = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], counts)
        return CandidateExamples(
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


def examples_of(
    decisions: Sequence[Decision], algorithms: Sequence[Algorithm], devices: Sequence[str]
) -> CandidateExamples:
    """What was tried in `decisions`, by the places in `algorithms` and `devices`."""
    places = {algorithm: index for index, algorithm in enumerate(algorithms)}
    counts = [len(decision.ran) + sum(one in places for one in decision.refused) for decision in decisions]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    cells = np.empty((starts[-1], 4))
    for decision, start, count in zip(decisions, starts[:-1].tolist(), counts, strict=True):
        if count:
            cells[start : start + count] = _cells(decision, places)
    numbers: dict[object, int] = {}
    return CandidateExamples(
        features=columns_of_decisions(decisions),
        devices=np.array([devices.index(decision.device.slug) for decision in decisions]),
        phases=[decision.phase for decision in decisions],
        shapes=np.array([numbers.setdefault(decision.shape, len(numbers)) for decision in decisions]),
        starts=starts,
        indices=cells[:, 0].astype(np.int64),
        losses=cells[:, 1].copy(),
        wins=cells[:, 2].copy(),
        gains=np.array([_gain(decision) for decision in decisions]),
        counts=np.array([decision.count for decision in decisions], dtype=np.float64),
        needs_bytes=cells[:, 3].copy(),
    )


def _cells(decision: Decision, places: dict[Algorithm, int]) -> list[tuple[int, float, float, float]]:
    """Place, loss, share of wins and workspace of each algorithm that was tried."""
    unknown = float("nan")
    refused = [(places[one], _REFUSED, 0.0, unknown) for one in decision.refused if one in places]
    if not decision.timings:
        shares = [(one, decision.share(one)) for one in decision.candidates]
        return [(places[one], 1 - share, share, unknown) for one, share in shares] + refused
    best_s = min(decision.times_s.values())
    needed = {timing.task.algorithm: timing.workspace_bytes for timing in decision.timings}
    return [
        (
            places[one],
            1 - best_s / time_s,
            float(time_s == best_s),
            unknown if (bytes_ := needed[one]) is None else float(bytes_),
        )
        for one, time_s in decision.times_s.items()
    ] + refused


def _gain(decision: Decision) -> float:
    """The logarithm of the second best time over the best."""
    if len(decision.times_s) < 2:
        return _SURE
    first, second = sorted(decision.times_s.values())[:2]
    return log(second / first)


def seen_columns(pairs: Sequence[Pair], settings: Settings, device: Device) -> Matrix:
    """The columns that a model may look at."""
    return np.hstack([matrix(pairs, settings, device), details([layer for layer, _ in pairs])])


def columns_of_decisions(decisions: Sequence[Decision]) -> Matrix:
    """The columns of each decision, computed together for all of one device and settings."""
    groups: defaultdict[tuple[Device, Settings], list[int]] = defaultdict(list)
    for row, decision in enumerate(decisions):
        groups[decision.device, decision.settings].append(row)
    columns: npt.NDArray[np.float32] = np.empty((len(decisions), len(COLUMNS)), dtype=np.float32)
    for (device, settings), rows in groups.items():
        rows.sort(key=lambda row: hash(decisions[row].layer))  # what the phases of a layer share is computed once
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            pairs = [(decisions[row].layer, decisions[row].phase) for row in part]
            columns[part] = seen_columns(pairs, settings, device)
    return columns
