"""Availability: what happens to a scenario's devices by chance, the same for every method."""

from dataclasses import dataclass
from math import exp

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Availability:
    """What happens to devices by chance.

    A round of a device takes exp(`noise` · z) times as long as estimated, with z drawn from the normal distribution;
    with the probability `dropout` the device is gone before it returns anything.
    """

    noise: float = 0.0
    dropout: float = 0.0

    def chance(self, number: int, device: int, seed: int) -> tuple[float, bool]:
        """How many times as long as estimated the device takes in the round `number`, and whether it is gone."""
        if not self.noise and not self.dropout:
            return 1.0, False
        random = np.random.default_rng((seed, number, device))
        return exp(self.noise * random.standard_normal()), bool(random.random() < self.dropout)
