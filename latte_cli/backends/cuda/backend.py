"""An NVIDIA GPU as a device: cuDNN's algorithms by name, and layers as torch runs them."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch

from latte_cli.algorithms import FRAMEWORK_BENCHMARK, FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends.contract import Conditions, Facts, Failed, OutOfMemory, Prepared, Sample
from latte_cli.backends.cuda.calls import Calls, Ready
from latte_cli.backends.cuda.clock import Clock, Pace
from latte_cli.backends.host import slug
from latte_cli.backends.native import cudnn
from latte_cli.backends.telemetry import open_telemetry
from latte_cli.backends.torch.checkpoints import CheckpointCall, time_on_host
from latte_cli.backends.torch.layers import REFUSALS, LayerCall, activations_type, overhead_s, random, refusal
from latte_cli.backends.torch.whole import Runs
from latte_cli.devices import CUDA, Device
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Checkpoint, Convolution, Layer, Phase, Whole
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Settings, Task

T = TypeVar("T")

_LEAST_CAPABILITY = {  # CUDA C++ Programming Guide, arithmetic instructions by compute capability
    Precision.FP32: (0, 0),
    Precision.TF32: (8, 0),
    Precision.FP16: (5, 3),
    Precision.BF16: (8, 0),
    Precision.BF16_AUTOCAST: (8, 0),
    Precision.FP16_AUTOCAST: (5, 3),
}
_ASSUMED_CACHE_BYTES = 64 * 2**20  # where an older torch has none: above the 50 MiB of an H100
_CONDITIONS_EVERY_S = 0.1  # chosen: a reading of NVML takes longer than most calls
_COPIED_BYTES = 2**29  # chosen: several times any L2 cache, and a sixteenth of the memory at most


class CudaBackend:
    """One NVIDIA GPU of this machine.

    Before each sample the L2 cache is brought to the state that a model leaves it in: a buffer of twice its size is
    zeroed, then the layer's input, or the gradient it is given, is read.
    """

    def __init__(self, *, index: int = 0, name: str | None = None, memory_share: float = 0.5) -> None:
        """`memory_share` bounds what tensors and workspaces take of the GPU's memory together.

        Raises LatteError where there is no such GPU, or torch or cuDNN cannot use it.
        """
        _check(index)
        torch.cuda.set_device(index)
        torch.cuda.set_per_process_memory_fraction(memory_share, index)
        self._properties = torch.cuda.get_device_properties(index)
        self._name = name
        self._telemetry = open_telemetry(uuid=_uuid(self._properties), index=index)
        self._library = cudnn.open_library()
        handle = self._library.handle(index)
        self._library.set_stream(handle, torch.cuda.current_stream().cuda_stream)
        self._calls = Calls(self._library, handle)
        self._runs = Runs(f"cuda:{index}")
        self._conditions, self._read_at = Conditions(), float("-inf")
        self.sound = True
        cache_bytes = getattr(self._properties, "L2_cache_size", 0) or _ASSUMED_CACHE_BYTES
        clock_hz = self._telemetry.facts.sm_clock_hz or 1e9
        self.clock = Clock(flush_bytes=2 * cache_bytes, clock_hz=clock_hz, spoiled=self._is_spoiled)
        self._reference = self._square(2048, Precision.FP16 if self._offers(Precision.FP16) else Precision.FP32)

    @cached_property
    def device(self) -> Device:
        facts, properties = self._telemetry.facts, self._properties
        peaks = {precision: self._peak(precision) for precision in Precision if self._offers(precision)}
        return Device(
            slug=slug(self._name or "", facts.name or properties.name),
            kind=CUDA,
            name=properties.name,
            memory_bytes=properties.total_memory,
            bandwidth_bytes_per_s=self._bandwidth(),
            peak_flop_per_s=peaks[Precision.FP32],
            driver=facts.driver,
            libraries=self._libraries,
            compute_capability=f"{properties.major}.{properties.minor}",
            multiprocessors=properties.multi_processor_count,
            cache_bytes=getattr(properties, "L2_cache_size", None),
            sm_clock_hz=facts.sm_clock_hz,
            memory_clock_hz=facts.memory_clock_hz,
            rated_bandwidth_bytes_per_s=facts.bandwidth_bytes_per_s,
            peaks_flop_per_s=tuple((str(precision), peak) for precision, peak in peaks.items()),
            shared_memory=bool(properties.is_integrated),
        )

    @property
    def _libraries(self) -> tuple[tuple[str, str], ...]:
        return libraries(self._library)

    def settings(self, precision: Precision, layout: Layout) -> Settings:
        if not self._offers(precision):
            raise LatteError(
                f"precision {precision} is not offered on {self._properties.name}",
                hint=f"use one of: {', '.join(one for one in Precision if self._offers(one))}",
                exit_code=ExitCode.USAGE,
            )
        return Settings(
            precision=precision,
            layout=layout,
            power_mode=self._telemetry.power_mode,
            library_versions=self._libraries,
        )

    def candidates(self, layer: Layer, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
        if phase not in layer.phases or layer.free:
            return ()
        if not isinstance(layer, Convolution):
            return (FRAMEWORK_DEFAULT,)
        if settings.precision.arithmetic.autocast:
            return FRAMEWORK_DEFAULT, FRAMEWORK_BENCHMARK  # cuDNN's own are those of its activations' type
        engines = self.guard(lambda: self._calls.engines(layer, phase, settings))
        return (FRAMEWORK_DEFAULT, FRAMEWORK_BENCHMARK, *cudnn.algorithms(layer, phase), *engines)

    def ranking(self, question: Question) -> tuple[str, ...]:
        _set_precision(question.settings.precision)
        return self.guard(lambda: self._calls.ranking(question))

    def prepare(self, task: Task) -> Prepared:
        if isinstance(task.layer, Whole):
            return self.guard(lambda: self._whole(task))
        if isinstance(task.layer, Checkpoint):
            return CheckpointCall(task.layer, task.phase, time_on_host("cuda"), "host", "cuda")
        _set_precision(task.settings.precision)
        torch.backends.cudnn.benchmark = task.algorithm == FRAMEWORK_BENCHMARK
        ready = self.guard(lambda: self._calls.ready(task))
        return _Timed(self, ready, self._backward_overhead_s if ready.call.by_autograd else 0.0)

    def _whole(self, task: Task) -> Prepared:
        _set_precision(Precision.FP32)  # a run sets its own
        torch.backends.cudnn.benchmark = False
        torch.cuda.empty_cache()
        steps = self._runs.prepare(task)
        torch.cuda.empty_cache()
        return steps

    @cached_property
    def _backward_overhead_s(self) -> float:
        return overhead_s("cuda")

    def reference(self) -> Sample:
        with torch.autocast("cuda", enabled=False):  # the state of the task at hand must not make it another kernel
            return self.clock.samples(self._reference, 1, Pace())[0]

    def conditions(self) -> Conditions:
        """What NVML says, read at most ten times a second: reading it takes longer than most calls."""
        if time.monotonic() - self._read_at >= _CONDITIONS_EVERY_S:
            self._conditions, self._read_at = self._telemetry.conditions(), time.monotonic()
        return self._conditions

    def settle(self, limit_s: float) -> bool:
        return True

    def _is_spoiled(self) -> bool:
        return bool(self.conditions().throttled)

    def _offers(self, precision: Precision) -> bool:
        least = _LEAST_CAPABILITY.get(precision)
        return least is not None and (self._properties.major, self._properties.minor) >= least

    def _square(self, size: int, precision: Precision) -> LayerCall:
        a, b = (random((size, size), Settings(precision=precision), "cuda") for _ in range(2))
        return LayerCall(call=lambda: torch.mm(a, b))

    def _best_s(self, call: LayerCall) -> float:
        return min(sample.device_s for sample in self.clock.samples(call, 5, Pace())[1:])

    def _peak(self, precision: Precision) -> float:
        size = 8192 if self._properties.multi_processor_count >= 64 else 4096
        _set_precision(precision)
        seconds = self._best_s(self._square(size, precision))
        torch.cuda.empty_cache()
        return float(f"{2 * size**3 / seconds:.3g}")

    def _bandwidth(self) -> float:
        count = min(_COPIED_BYTES, self._properties.total_memory // 16)
        source = torch.ones(count, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        seconds = self._best_s(LayerCall(call=lambda: target.copy_(source)))
        return float(f"{2 * count / seconds:.3g}")

    def guard(self, call: Callable[[], T]) -> T:
        """`call()`, with what torch and CUDA raise as our answers; a device that no longer answers makes us unsound."""
        try:
            return call()
        except torch.cuda.OutOfMemoryError as exc:
            torch.cuda.empty_cache()
            raise OutOfMemory(str(exc).partition("\n")[0]) from exc
        except (Failed, *REFUSALS) as exc:
            self._check_sound(exc)
            if isinstance(exc, Failed) or "CUDA error" in str(exc):
                raise Failed(str(exc).partition("\n")[0]) from exc
            raise refusal(exc) from exc

    def _check_sound(self, error: Exception) -> None:
        """An error that stays with the CUDA context is met again by the next call."""
        try:
            torch.cuda.synchronize()
        except RuntimeError as exc:
            self.sound = False
            raise Failed(f"{error}".partition("\n")[0]) from exc


def libraries(library: cudnn.Library | None = None) -> tuple[tuple[str, str], ...]:
    """The libraries that compute on this machine's GPUs, with their versions, in the order of their names."""
    found = library or cudnn.open_library()
    return (("cuda", torch.version.cuda or "none"), ("cudnn", found.version_text), ("torch", str(torch.__version__)))


class _Timed:
    """A task that is ready, timed on the GPU."""

    def __init__(self, backend: CudaBackend, ready: Ready, overhead_s: float) -> None:
        self._backend, self._ready, self._overhead_s = backend, ready, overhead_s
        self._pace, self._set_up = Pace(), False

    @property
    def cache_state(self) -> str:
        return "l2_input" if self._pace.launches == 1 else f"l2_input_before_{self._pace.launches}"

    def samples(self, count: int) -> list[Sample]:
        if not self._set_up:  # the first call chooses, loads and allocates, and the device waits meanwhile
            self._sample(1)
            device_s = self._sample(1)[0].device_s
            call, clock = self._ready.call, self._backend.clock
            self._pace.call_s = self._backend.guard(lambda: clock.dispatched_s(call, device_s))
            self._set_up = True
        found = self._sample(count)
        return [replace(sample, host_s=max(sample.host_s - self._overhead_s, 1e-9)) for sample in found]

    def _sample(self, count: int) -> list[Sample]:
        return self._backend.guard(lambda: self._backend.clock.samples(self._ready.call, count, self._pace))

    def facts(self) -> Facts:
        return self._backend.guard(self._ready.facts)


def gpu_usable() -> bool:
    """Whether torch can use a GPU here."""
    return torch.version.cuda is not None and torch.cuda.is_available()


def _check(index: int) -> None:
    """Raise LatteError where torch cannot use the GPU of that index."""
    if torch.version.cuda is None:
        problem = f"torch {torch.__version__} is built for CPUs alone"
    elif not torch.cuda.is_available():
        problem = "torch finds no NVIDIA GPU and driver that it can use"
    elif index >= torch.cuda.device_count():
        problem = f"there is no GPU {index}: torch sees {torch.cuda.device_count()}"
    else:
        return
    raise LatteError(f"`cuda:{index}` cannot be measured: {problem}", hint="`latte doctor --device cuda` says more")


def _uuid(properties: Any) -> str | None:
    """NVML's name for a GPU, which does not depend on the devices that are visible; None from a torch before 2.4."""
    uuid = getattr(properties, "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"


def _set_precision(precision: Precision) -> None:
    """Let torch compute fp32 in TF32, or forbid it; cast as autocast does, or not."""
    arithmetic = precision.arithmetic
    torch.set_autocast_enabled("cuda", arithmetic.autocast)
    if arithmetic.autocast:
        torch.set_autocast_dtype("cuda", activations_type(precision))
    torch.set_autocast_cache_enabled(False)  # a weight is cast once in each step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these flags have newer names, which older versions of torch lack
        torch.backends.cudnn.allow_tf32 = arithmetic.tf32
        torch.backends.cuda.matmul.allow_tf32 = arithmetic.tf32
