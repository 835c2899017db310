"""Measuring one task: warm up, sample, judge; knows no device."""

from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from latte_cli.backends import Conditions, Device
from latte_cli.tasks import Task


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


class Mark(StrEnum):
    """A doubt about a measurement."""

    CUT = "cut"
    NOISY = "noisy"
    DRIFTED = "drifted"
    DISTURBED = "disturbed"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One row of the store: what happened when `task` was timed on `device` in one pass of a sweep.

    Times are raw samples in seconds (empty unless the outcome is ok); `summary_s` is an imported time; `drift` is the
    reference kernel's time over its median in the sweep (1 where it was not read); `detail` is the library's own word
    on a failure; `origin` says who measured; `measured_at` is seconds since the epoch.
    """

    task: Task
    device: Device
    sweep_pass: int = 0
    outcome: Outcome = Outcome.OK
    evidence: Evidence = Evidence.SAMPLES
    device_times_s: tuple[float, ...] = ()
    host_times_s: tuple[float, ...] = ()
    summary_s: float | None = None
    cache_state: str = ""
    workspace_bytes: int | None = None
    marks: tuple[Mark, ...] = ()
    drift: float = 1.0
    detail: str = ""
    before: Conditions = Conditions()
    after: Conditions = Conditions()
    origin: str = ""
    measured_at: float = 0.0

    @property
    def seconds(self) -> float | None:
        """The median of the samples on the device's clock, or the imported time; None unless the outcome is ok."""
        if self.outcome is not Outcome.OK:
            return None
        return median(self.device_times_s) if self.device_times_s else self.summary_s
