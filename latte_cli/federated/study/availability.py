"""Availability: what happens to a scenario's devices by chance, the same for every method."""

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from math import exp, inf

import numpy as np

_PERIODS = 2**31  # over the number of any round, so that periods are other random numbers than what rounds draw

_ROUNDING = 1e-12  # chosen: a sum of times may fall short by less of the end of a period that it is to reach


@dataclass(frozen=True, kw_only=True)
class Periods:
    """How long a device is on and off on average, in seconds."""

    on_s: float
    off_s: float


@dataclass(frozen=True, kw_only=True)
class Availability:
    """What happens to devices by chance.

    A round of a device takes exp(`noise` · z) times as long as estimated, with z drawn from the normal distribution;
    with the probability `dropout` the device is gone before it returns anything. Devices come and go by the `available`
    periods; None: they are always on.
    """

    noise: float = 0.0
    dropout: float = 0.0
    available: Periods | None = None

    def chance(self, number: int, device: int, seed: int) -> tuple[float, bool]:
        """How many times as long as estimated the device takes in the round `number`, and whether it is gone."""
        if not self.noise and not self.dropout:
            return 1.0, False
        random = np.random.default_rng((seed, number, device))
        return exp(self.noise * random.standard_normal()), bool(random.random() < self.dropout)


class Presence:
    """When devices are on: an alternating renewal process for each, whose periods have exponential lengths.

    It is stationary: a device begins on with the share of the time that it is on. Users of peer-to-peer networks have
    been modelled by such processes (Yao et al., 2006, "Modeling Heterogeneous User Churn and Local Resilience of
    Unstructured P2P Networks"). With exponential lengths it is a Markov chain in continuous time; chains of steps have
    modelled the devices of federations (Rodio et al., 2023, "Federated Learning under Heterogeneous and Correlated
    Client Availability"). It depends on the seed and the device alone.
    """

    def __init__(self, periods: Periods | None, seed: int) -> None:
        self._periods, self._seed = periods, seed
        self._ends: dict[int, list[float]] = {}
        self._random: dict[int, np.random.Generator] = {}

    def among(self, devices: Collection[int], now_s: float) -> Collection[int]:
        """Those of the devices that are on."""
        if self._periods is None:
            return devices
        return {device for device in devices if self._period(self._periods, device, now_s)[0]}

    def first_s(self, devices: Collection[int], now_s: float) -> float:
        """When the first of the devices is on, from now; infinite where there is none."""
        if self._periods is None:
            return now_s if devices else inf
        periods = (self._period(self._periods, device, now_s) for device in devices)
        return min((now_s if on else end_s for on, end_s in periods), default=inf)

    def left_s(self, device: int, now_s: float) -> float:
        """How long the device stays on; 0 where it is off."""
        if self._periods is None:
            return inf
        on, end_s = self._period(self._periods, device, now_s)
        return end_s - now_s if on else 0.0

    def _period(self, periods: Periods, device: int, now_s: float) -> tuple[bool, float]:
        """Whether the device is on, and when that ends."""
        if device not in self._ends:
            self._random[device] = np.random.default_rng((self._seed, _PERIODS, device))
            begins_on = self._random[device].random() < periods.on_s / (periods.on_s + periods.off_s)
            self._ends[device] = [] if begins_on else [0.0]
        ends = self._ends[device]  # of periods that are on and off in turn
        now_s *= 1 + _ROUNDING
        while not ends or ends[-1] <= now_s:
            mean_s = periods.off_s if len(ends) % 2 else periods.on_s
            ends.append((ends[-1] if ends else 0.0) + self._random[device].exponential(mean_s))
        at = bisect_right(ends, now_s)
        return at % 2 == 0, ends[at]
