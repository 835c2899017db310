"""Timing on a GPU: events around calls on a stream that is kept fed, the L2 cache flushed before each."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from latte_cli.backends import Sample
from latte_cli.backends.torch_layers import LayerCall

Pair: TypeAlias = tuple[Any, Any]

cuda: Any = torch.cuda  # its events are untyped

SHORT_S = 20e-6
"""Calls shorter than this are launched several times between two events, whose own cost would show otherwise."""

_LAUNCHES = 10
_LONGEST_SLEEP_S = 0.05
_FIRST_GUESS_S = 300e-6


@dataclass
class Pace:
    """How long one repetition takes the host and the device, as far as is known, in seconds."""

    host_s: float = _FIRST_GUESS_S
    device_s: float = 0.0
    launches: int = 1

    @property
    def lead_s(self) -> float:
        """By how much the host falls behind with each repetition."""
        return max(0.0, self.host_s - self.device_s)


class Clock:
    """Times calls on the current stream.

    The flush zeroes a buffer of twice the L2 cache. Host time is that of the dispatch of one call.
    """

    def __init__(self, *, flush_bytes: int, clock_hz: float, spoiled: Callable[[], bool]) -> None:
        """`clock_hz` is the clock of the multiprocessors; `spoiled` says whether the device is throttled now."""
        self._flush = torch.empty(flush_bytes, dtype=torch.uint8, device="cuda")
        self._clock_hz, self._spoiled = clock_hz, spoiled
        self._events: list[Pair] = []

    def samples(self, layer: LayerCall, count: int, pace: Pace) -> list[Sample]:
        """Time `count` calls; `pace` is what is known of them and is brought up to date.

        A sample is disturbed where the device had to wait for the host, or was throttled.
        """
        pairs = self._pairs(count)
        cuda.synchronize()
        self._sleep(count * pace.lead_s + 2 * pace.host_s)
        began = time.perf_counter()
        dispatched = [self._enqueue(layer, pair, pace.launches) for pair in pairs]
        host_s = time.perf_counter() - began
        cuda.synchronize()
        spoiled = self._spoiled()
        samples = [
            Sample(device_s=start.elapsed_time(end) * 1e-3 / pace.launches, host_s=passed, disturbed=starved or spoiled)
            for (start, end), (passed, starved) in zip(pairs, dispatched, strict=True)
        ]
        whole_s = pairs[0][0].elapsed_time(pairs[-1][1]) * 1e-3
        pace.host_s, pace.device_s = host_s / count, whole_s / count
        if samples[-1].device_s < SHORT_S:
            pace.launches = _LAUNCHES
        return samples

    def flush_s(self, count: int = 20) -> float:
        """How long one flush takes the device."""
        empty = LayerCall(call=self._flush.zero_)
        return sorted(sample.device_s for sample in self.samples(empty, count, Pace()))[count // 2]

    def _enqueue(self, layer: LayerCall, pair: Pair, launches: int) -> tuple[float, bool]:
        """Dispatch one repetition; the host time of a call, and whether the device was there before its work was."""
        layer.reset()
        self._flush.zero_()
        pair[0].record()
        began = time.perf_counter()
        for _ in range(launches):
            layer.call()
        passed = (time.perf_counter() - began) / launches
        starved = pair[0].query()
        pair[1].record()
        return passed, starved

    def _pairs(self, count: int) -> list[Pair]:
        while len(self._events) < count:
            self._events.append((cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)))
        return self._events[:count]

    def _sleep(self, seconds: float) -> None:
        cuda._sleep(int(min(seconds, _LONGEST_SLEEP_S) * self._clock_hz))
