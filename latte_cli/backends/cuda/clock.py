"""Timing on a GPU: events around calls on a stream that is kept fed, the L2 cache as in a model before each."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import torch

from latte_cli.backends.contract import Sample
from latte_cli.backends.torch.layers import LayerCall

EventPair: TypeAlias = tuple[Any, Any]

cuda: Any = torch.cuda  # its events are untyped

SHORT_S = 20e-6
"""Calls shorter than this are launched several times between two events, whose own cost would show otherwise."""

_LAUNCHES = 10  # chosen: the cost of two events is then a tenth for each call
_AHEAD = 1.5  # chosen: a device that took this much longer than the host did not wait for it
_IN_A_ROW = 20  # chosen: calls enough for a median, too few to fill the queue of launches
_SHORTEST_S = 0.2e-6  # chosen: below the 0.5 us to which events measure time (CUDA: cudaEventElapsedTime)
_LONGEST_SLEEP_S = 0.05  # chosen: more than the launches of all samples take the host, and no wait to notice
_FIRST_GUESS_S = 300e-6  # chosen: above what the host takes for a repetition, flush and reset included


@dataclass
class Pace:
    """How long one repetition takes the host and the device, as far as is known, in seconds; a call alone, the host."""

    host_s: float = _FIRST_GUESS_S
    device_s: float = 0.0
    launches: int = 1
    call_s: float = 0.0

    def lead_s(self, count: int) -> float:
        """For how long the device has to be kept busy first, so that it never waits for the host's `count` repetitions.

        A device that took hardly longer than the host may have waited for it: then the host gets all the time it needs.
        """
        return (2 if self.device_s > _AHEAD * self.host_s else count + 2) * self.host_s


class Clock:
    """Times calls on the current stream.

    The flush zeroes a buffer of twice the L2 cache; then what the layer before has just written is read. Host time is
    that of the dispatch of one call among many that follow each other, as in a step. `overhead_s`, what two events add
    to the time between them, is taken off: it is what a small kernel alone takes longer than one of many.
    """

    def __init__(self, *, flush_bytes: int, clock_hz: float, spoiled: Callable[[], bool]) -> None:
        """`clock_hz` is the clock of the multiprocessors; `spoiled` says whether the device is throttled now."""
        self._flush = torch.empty(flush_bytes, dtype=torch.uint8, device="cuda")
        self._clock_hz, self._spoiled = clock_hz, spoiled
        self._events: list[EventPair] = []
        self.overhead_s = 0.0
        self.overhead_s = self._measured_overhead_s()

    def samples(self, layer: LayerCall, count: int, pace: Pace) -> list[Sample]:
        """Time `count` calls; `pace` is what is known of them and is brought up to date.

        A sample is disturbed where the device had to wait for the host, or was throttled.
        """
        pairs = self._pairs(count)
        cuda.synchronize()
        self._sleep(pace.lead_s(count))
        began = time.perf_counter()
        dispatched = [self._enqueue(layer, pair, pace.launches) for pair in pairs]
        host_s = time.perf_counter() - began
        cuda.synchronize()
        spoiled = self._spoiled()
        samples = [
            Sample(
                device_s=max(start.elapsed_time(end) * 1e-3 - self.overhead_s, _SHORTEST_S) / pace.launches,
                host_s=pace.call_s or passed,
                disturbed=starved or spoiled,
            )
            for (start, end), (passed, starved) in zip(pairs, dispatched, strict=True)
        ]
        whole_s = pairs[0][0].elapsed_time(pairs[-1][1]) * 1e-3
        pace.host_s, pace.device_s = host_s / count, whole_s / count
        if pace.launches == 1 and layer.repeatable and samples[-1].device_s < SHORT_S:
            pace.launches = _LAUNCHES
            pace.host_s *= _LAUNCHES
        return samples

    def dispatched_s(self, layer: LayerCall, device_s: float) -> float:
        """What the host takes for a call of `layer` among others that follow it at once.

        The device, which takes `device_s` for it, is not kept busy for long.
        """
        count = int(min(_IN_A_ROW, max(1, _LONGEST_SLEEP_S / device_s))) if layer.repeatable else 1
        cuda.synchronize()
        layer.reset()
        times = [time.perf_counter()]
        for _ in range(count):
            layer.call()
            layer.drop()
            times.append(time.perf_counter())
        cuda.synchronize()
        return sorted(b - a for a, b in pairwise(times))[count // 2]

    def flush_s(self, count: int = 20) -> float:
        """How long one flush takes the device."""
        empty = LayerCall(call=self._flush.zero_)
        return sorted(sample.device_s for sample in self.samples(empty, count, Pace()))[count // 2]

    def _measured_overhead_s(self) -> float:
        small = torch.zeros(4, device="cuda")
        call = LayerCall(call=lambda: small.add_(1))
        alone, of_many = (
            sorted(sample.device_s for sample in self.samples(call, 41, Pace(launches=launches)))[20]
            for launches in (1, _LAUNCHES)
        )
        return max(0.0, alone - of_many)

    def _enqueue(self, layer: LayerCall, pair: EventPair, launches: int) -> tuple[float, bool]:
        """Dispatch one repetition; the host time of a call, and whether the device was there before its work was."""
        layer.reset()
        self._flush.zero_()
        for tensor in layer.first:
            tensor.detach().amax()
        pair[0].record()
        began = time.perf_counter()
        layer.call()
        for _ in range(launches - 1):
            layer.drop()
            layer.call()
        passed = (time.perf_counter() - began) / launches
        starved = pair[0].query()
        pair[1].record()
        return passed, starved

    def _pairs(self, count: int) -> list[EventPair]:
        while len(self._events) < count:
            self._events.append((cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)))
        return self._events[:count]

    def _sleep(self, seconds: float) -> None:
        cuda._sleep(int(min(seconds, _LONGEST_SLEEP_S) * self._clock_hz))
