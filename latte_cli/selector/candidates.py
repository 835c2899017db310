"""Candidates: what a model of the selector is asked about, a whole network at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from latte_cli.devices import Device
from latte_cli.features import DETAILS, FEATURES, Matrix
from latte_cli.lookup import Pair
from latte_cli.tasks import Settings

Array: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]

COLUMNS = (*FEATURES, *DETAILS)
"""The features of a layer's phase that a model may look at."""


@dataclass(frozen=True, kw_only=True)
class CandidateTable:
    """Which algorithms may compute which pairs: `rows` index `pairs`, `indices` the card's algorithms,
    of which there are `algorithms`; `features` has a row of `COLUMNS` for each pair."""

    pairs: Sequence[Pair]
    features: Matrix
    settings: Settings
    device: Device
    rows: Indices
    indices: Indices
    algorithms: int


class Model(Protocol):
    """Predicts what each candidate loses against the best one; lower is better."""

    kind: str

    def losses(self, candidates: CandidateTable) -> Array:
        """The loss of each candidate."""

    def as_files(self) -> dict[str, bytes]:
        """The model as files, by name."""
