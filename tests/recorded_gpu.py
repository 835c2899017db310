"""A GPU that plays answers back: for each algorithm what a library said and how long it took, from a table.

The worker's process opens it as it opens a real device, so that a sweep, its child process and its restarts are real;
only the answers are not measured here. They have the form and the order of size of cuDNN's on a 3x3 layer.
"""

import os
import signal
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from latte_cli.algorithms import FRAMEWORK_BENCHMARK, FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends.contract import Conditions, Facts, Failed, OutOfMemory, Sample, Unsupported
from latte_cli.backends.native import cudnn
from latte_cli.devices import CUDA, Device
from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Settings, Task

DEVICE = Device(slug="recorded-gpu", kind=CUDA, name="Recorded GPU", memory_bytes=2**34, peak_flop_per_s=5e13)

RANKING = ("WINOGRAD_NONFUSED", "IMPLICIT_PRECOMP_GEMM", "IMPLICIT_GEMM")

TIMES_S = {
    "DEFAULT": 210e-6,
    "BENCHMARK": 190e-6,
    "IMPLICIT_GEMM": 520e-6,
    "IMPLICIT_PRECOMP_GEMM": 240e-6,
    "GEMM": 900e-6,
    "FFT": 3100e-6,
    "WINOGRAD_NONFUSED": 180e-6,
    "ALGO_0": 610e-6,
    "ALGO_1": 230e-6,
    "ALGO_3": 700e-6,
}
WORKSPACES = {"IMPLICIT_PRECOMP_GEMM": 2304, "GEMM": 231_211_008, "FFT": 94_371_840, "WINOGRAD_NONFUSED": 18_874_368}


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong: algorithms that break their call, the device or the process, or do not end."""

    fails: frozenset[str] = frozenset()
    breaks_the_device: frozenset[str] = frozenset()
    aborts: frozenset[str] = frozenset()
    hangs: frozenset[str] = frozenset()
    log: Path | None = None


class RecordedGpu:
    """The device; each call writes what it ran, and in which process, to the log."""

    device = DEVICE

    def __init__(self, faults: Faults) -> None:
        self._faults, self.sound = faults, True
        if faults.log:
            self._logged("opened")

    def settings(self, precision: Precision, layout: Layout) -> Settings:
        return Settings(precision=precision, layout=layout, library_versions=(("cudnn", "9.28.1"),))

    def candidates(self, layer: Layer, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
        if not isinstance(layer, Convolution):
            return (FRAMEWORK_DEFAULT,)
        return (FRAMEWORK_DEFAULT, FRAMEWORK_BENCHMARK, *cudnn.algorithms(layer, phase))

    def ranking(self, question: Question) -> tuple[str, ...]:
        return RANKING

    def prepare(self, task: Task) -> "_Ready":
        self._logged(task.algorithm.name)
        self._fault(task.algorithm.name)
        if task.algorithm.name == "FFT" and task.phase is Phase.BACKWARD_FILTER:
            raise OutOfMemory("CUDA out of memory")
        if task.algorithm.name not in TIMES_S:
            raise Unsupported("cudnnGetConvolutionForwardWorkspaceSize: NOT_SUPPORTED")
        return _Ready(task)

    def _fault(self, name: str) -> None:
        if not self.sound:
            raise Failed("CUDA error: an illegal memory access was encountered")
        if name in self._faults.fails:
            raise Failed("cudnnConvolutionForward: EXECUTION_FAILED")
        if name in self._faults.breaks_the_device:
            self.sound = False
            raise Failed("CUDA error: an illegal memory access was encountered")
        if name in self._faults.aborts:
            os.abort()
        if name in self._faults.hangs:
            signal.pause()

    def reference(self) -> Sample:
        return Sample(device_s=3e-4, host_s=1e-5)

    def conditions(self) -> Conditions:
        return Conditions(sm_clock_hz=1.98e9, temperature_c=41.0, throttled=False, throttle_reasons=0)

    def settle(self, limit_s: float) -> bool:
        return True

    def _logged(self, text: str) -> None:
        if self._faults.log:
            with self._faults.log.open("a") as log:
                log.write(f"{os.getpid()} {text}\n")


class _Ready:
    cache_state = "l2_input"

    def __init__(self, task: Task) -> None:
        self._name = task.algorithm.name

    def samples(self, count: int) -> list[Sample]:
        seconds = TIMES_S[self._name]
        return [Sample(device_s=seconds, host_s=9e-6)] * count

    def facts(self) -> Facts:
        return Facts(
            workspace_bytes=WORKSPACES.get(self._name, 0), deterministic=self._name not in ("ALGO_0", "ALGO_3")
        )


def _open(spec: str, *, faults: Faults, **more: object) -> RecordedGpu:
    return RecordedGpu(faults)


def opener(**faults: object) -> "partial[RecordedGpu]":
    """What `Opening` opens such a device with."""
    return partial(_open, faults=replace(Faults(), **faults))  # type: ignore[arg-type]
