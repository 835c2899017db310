"""Measuring one task: warm up, sample, flag; knows no device."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil
from statistics import fmean, median, quantiles, stdev

from latte_cli.backends.contract import (
    Backend,
    Conditions,
    Facts,
    Failed,
    OutOfMemory,
    Prepared,
    Sample,
    Unsupported,
)
from latte_cli.devices import Device, Sampling
from latte_cli.tasks import Question, Task


class Outcome(StrEnum):
    """How a task ended; all but `ok` are rows too."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    TIMEOUT = "timeout"


class Evidence(StrEnum):
    """What a row holds: our samples, one imported time, or only who won."""

    SAMPLES = "samples"
    SUMMARY = "summary"
    LABEL = "label"


class QualityFlag(StrEnum):
    """A doubt about a measurement; the column of the store is called marks."""

    CUT = "cut"
    NOISY = "noisy"
    DRIFTED = "drifted"
    DISTURBED = "disturbed"


IN_STEP = "traced_step"
"""The state of the caches in a step of a network that was traced: that which the calls before have left."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One row of the store: what happened when `task` was timed, or asked, on `device` in one pass of a sweep.

    Times are raw samples in seconds (empty unless the outcome is ok); `summary_s` is an imported time; `drift` is the
    reference kernel's time over its median in the sweep (1 where it was not read); `deterministic`, `kernels` and
    `notes` are what is known of the call (see backends.Facts), `ranking` is a library's own ordered answer to a
    question; `detail` is the library's own word on a failure; `origin` says who measured; `measured_at` is
    seconds since the epoch.
    """

    task: Task | Question
    device: Device
    sweep_pass: int = 0
    outcome: Outcome = Outcome.OK
    evidence: Evidence = Evidence.SAMPLES
    device_times_s: tuple[float, ...] = ()
    host_times_s: tuple[float, ...] = ()
    summary_s: float | None = None
    cache_state: str = ""
    workspace_bytes: int | None = None
    flags: tuple[QualityFlag, ...] = ()
    drift: float = 1.0
    deterministic: bool | None = None
    kernels: tuple[str, ...] = ()
    ranking: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    detail: str = ""
    before: Conditions = Conditions()
    after: Conditions = Conditions()
    origin: str = ""
    measured_at: float = 0.0

    @property
    def seconds(self) -> float | None:
        """The median of the samples on the device's clock, or the imported time; None unless the outcome is ok."""
        if self.outcome is not Outcome.OK or self.evidence is Evidence.LABEL:
            return None
        return median(self.device_times_s) if self.device_times_s else self.summary_s


class DriftMonitor:
    """Watches the reference kernel over a sweep and says how far the device is from its usual speed."""

    def __init__(self, *, every_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._times_s: list[float] = []
        self._every_s, self._clock, self._read_at = every_s, clock, float("-inf")

    def drift(self, backend: Backend) -> float:
        """Time of the reference kernel (the best of three calls, made anew after a second) over its median so far."""
        if self._clock() - self._read_at >= self._every_s:
            self._times_s.append(min(backend.reference().device_s for _ in range(3)))
            self._read_at = self._clock()
        return self._times_s[-1] / median(self._times_s[-200:])


def measure(
    backend: Backend,
    task: Task | Question,
    *,
    plan: Sampling,
    monitor: DriftMonitor,
    best_s: float | None = None,
    sweep_pass: int = 0,
    origin: str = "",
    clock: Callable[[], float] = time.time,
) -> Measurement:
    """Time `task` on `backend`, or ask it; every way it can end is a row.

    `best_s` is the time of the fastest algorithm seen for this layer and phase. Workspace and other facts are looked
    at in the first pass only.
    """
    row = Measurement(task=task, device=backend.device, sweep_pass=sweep_pass, origin=origin, measured_at=clock())
    try:
        if isinstance(task, Question):
            return replace(row, evidence=Evidence.LABEL, ranking=backend.ranking(task))
        prepared = backend.prepare(task)
        before, drift = backend.conditions(), monitor.drift(backend)
        samples, cut = _samples(prepared, plan, best_s)
        facts = prepared.facts() if sweep_pass == 0 and not cut else Facts()
    except Unsupported as exc:
        return replace(row, outcome=Outcome.UNSUPPORTED, detail=str(exc))
    except OutOfMemory as exc:
        return replace(row, outcome=Outcome.OUT_OF_MEMORY, detail=str(exc))
    except Failed as exc:
        return replace(row, outcome=Outcome.FAILED, detail=str(exc))
    kept = _drop_disturbed(samples)
    disturbed = len(kept) < min(2, len(samples))
    kept = samples if disturbed else kept
    times = tuple(sample.device_s for sample in kept)
    return replace(
        row,
        device_times_s=times,
        host_times_s=tuple(sample.host_s for sample in kept),
        workspace_bytes=facts.workspace_bytes,
        deterministic=facts.deterministic,
        kernels=facts.kernels,
        notes=facts.notes,
        cache_state=prepared.cache_state,
        flags=_quality_flags(times, plan, drift=drift, cut=cut, disturbed=disturbed),
        drift=drift,
        before=before,
        after=backend.conditions(),
    )


def _samples(prepared: Prepared, plan: Sampling, best_s: float | None) -> tuple[list[Sample], bool]:
    """The samples, warm-up left out, and whether the algorithm was cut after it."""
    warm_up = prepared.samples(plan.warm_ups)[-1]
    if best_s is not None and warm_up.device_s > plan.cut * best_s:
        # A first call also pays for set-up: only a second slow one condemns, unless it alone took long.
        again = warm_up if warm_up.device_s > plan.enough_s else prepared.samples(1)[0]
        if again.device_s > plan.cut * best_s:
            return [again], True
    samples: list[Sample] = []
    while count := _count_wanted(samples, plan, warm_up):
        samples += prepared.samples(count)
    return samples, False


def _count_wanted(samples: Sequence[Sample], plan: Sampling, warm_up: Sample) -> int:
    """How many samples to take at once now; 0 for no more."""
    good, spent = _drop_disturbed(samples), sum(map(_lasts, samples))
    if len(samples) >= 2 * plan.most or (spent > 10 * plan.enough_s and len(samples) >= 2):
        return 0
    if len(good) >= plan.least and spent >= plan.enough_s:
        return 0
    wanted = plan.least if len(good) < plan.least else min(plan.most, _for_confidence(good, plan))
    one = spent / len(samples) if samples else _lasts(warm_up)
    return min(max(0, wanted - len(good)), max(1, int((plan.enough_s - spent) / one)))


def _for_confidence(samples: Sequence[Sample], plan: Sampling) -> int:
    """The number of samples at which the mean is known well enough, as these are scattered."""
    times = [sample.device_s for sample in samples]
    if not plan.confidence or len(times) < 2:
        return plan.most
    return ceil((1.96 * stdev(times) / fmean(times) / plan.confidence) ** 2)


def _lasts(sample: Sample) -> float:
    return max(sample.device_s, sample.host_s)


def _drop_disturbed(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if not sample.disturbed]


def _quality_flags(
    times: tuple[float, ...], plan: Sampling, *, drift: float, cut: bool, disturbed: bool
) -> tuple[QualityFlag, ...]:
    found = {
        QualityFlag.CUT: cut,
        QualityFlag.NOISY: spread(times) > plan.noisy,
        QualityFlag.DRIFTED: abs(drift - 1) > plan.drifted,
        QualityFlag.DISTURBED: disturbed,
    }
    return tuple(flag for flag, holds in found.items() if holds)


def spread(times: tuple[float, ...]) -> float:
    """Half the distance between the quartiles over the median; 0 for fewer than three times."""
    if len(times) < 3:
        return 0.0
    low, middle, high = quantiles(times, n=4, method="inclusive")
    return (high - low) / 2 / middle
