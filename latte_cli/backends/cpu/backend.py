"""The CPU as a device: layers run by torch, timed as they run inside a model."""

import gc
import resource
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from latte_cli.algorithms import FRAMEWORK_DEFAULT, LISTED, Algorithm
from latte_cli.backends import host
from latte_cli.backends.contract import Conditions, Facts, OutOfMemory, Prepared, Sample, Unsupported
from latte_cli.backends.cpu import onednn_calls
from latte_cli.backends.cpu.computations import cpu_computation
from latte_cli.backends.cpu.convolutions import CONVOLUTIONS
from latte_cli.backends.telemetry import EnergyMeter
from latte_cli.backends.torch.checkpoints import CheckpointCall
from latte_cli.backends.torch.layers import (
    REFUSALS,
    LayerCall,
    bias_gradient,
    cpu_peak_bytes,
    layer_call,
    operands,
    overhead_s,
    refusal,
)
from latte_cli.backends.torch.whole import Runs
from latte_cli.devices import CPU, Device
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Checkpoint, Convolution, Layer, Phase, Transfer, Whole
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Settings, Task

_ASSUMED_CACHE_BYTES = 32 * 2**20  # where the system says nothing: a last level of a desktop's size
_QUIET_CORES = 0.3  # chosen: above one of the 10 ms that /proc/stat counts in, over the 50 ms between two readings
_TOUCHED_BYTES = 24 * 2**20  # chosen: below host.LARGE_BLOCK_BYTES, so that it is of the heap and leaves it touched
_PRECISIONS = (Precision.FP32, Precision.BF16)


class CpuBackend:
    """This machine's CPU with a fixed number of threads.

    Each sample follows a read as large as the last cache level and a touch of what the call reads first: nearest to
    the state in which the layer before leaves the caches (a hot cache flatters all layers, twice that read slows all).
    """

    def __init__(self, *, threads: int | None = None, name: str | None = None) -> None:
        cores = host.cores()
        if threads is not None and not 1 <= threads <= cores:
            raise LatteError(f"{threads} threads on {cores} cores", hint=f"use 1 to {cores}", exit_code=ExitCode.USAGE)
        self.threads = threads or cores
        torch.set_num_threads(self.threads)
        self._name = name
        self._heap, self._young = host.Heap(), True
        self.cache_state = "last_level warm_heap" if self._heap.warm else "last_level"
        self._flush = torch.ones((host.last_level_cache_bytes() or _ASSUMED_CACHE_BYTES) // 4)
        self._load = host.OtherLoad()
        self._load.read()
        self.energy = EnergyMeter()
        self._reference = torch.ones(512, 512)
        self._runs = Runs("cpu")
        self._copied = (torch.ones(8 * 2**20), torch.ones(8 * 2**20))

    @property
    def sound(self) -> bool:
        return True

    @cached_property
    def device(self) -> Device:
        return Device(
            slug=host.cpu_slug(self.threads, self._name),
            kind=CPU,
            name=host.cpu_name(),
            memory_bytes=host.memory_bytes(),
            bandwidth_bytes_per_s=self._bandwidth(),
            peak_flop_per_s=self._peak(),
            driver="",
            libraries=libraries(),
            multiprocessors=host.cores(),
            cache_bytes=host.last_level_cache_bytes(),
        )

    def settings(self, precision: Precision, layout: Layout) -> Settings:
        if precision not in _PRECISIONS:
            raise LatteError(
                f"precision {precision} is not offered on a CPU",
                hint=f"use one of: {', '.join(_PRECISIONS)}",
                exit_code=ExitCode.USAGE,
            )
        return Settings(
            precision=precision, layout=layout, threads=self.threads, library_versions=self.device.libraries
        )

    def candidates(self, layer: Layer, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
        if phase not in layer.phases or layer.free or isinstance(layer, Transfer):
            return ()
        if not isinstance(layer, Convolution):
            return (FRAMEWORK_DEFAULT,)
        torchs = (name for name, rule in CONVOLUTIONS.items() if phase in rule.calls)
        own = tuple(Algorithm(library="torch", name=name) for name in torchs)
        return (*own, *onednn_calls.candidates(layer, phase, settings))

    def ranking(self, question: Question) -> tuple[str, ...]:
        if question.ranker != LISTED or not isinstance(question.layer, Convolution):
            raise Unsupported(f"no {question.ranker} on a CPU for a {question.layer.kind} layer")
        return onednn_calls.ranking(question.layer, question.phase, question.settings)

    def prepare(self, task: Task) -> Prepared:
        if isinstance(task.layer, Whole):
            return self._runs.prepare(task)
        if isinstance(task.layer, Checkpoint):
            return CheckpointCall(task.layer, task.phase, self.time_call, self.cache_state, "cpu")
        try:
            return _Timed(self, self._call(task), task.phase)
        except MemoryError as exc:
            raise OutOfMemory(str(exc)) from exc
        except REFUSALS as exc:
            raise refusal(exc) from exc

    def _call(self, task: Task) -> LayerCall:
        """The call of `task`, on a heap without room for its large blocks and with touched room for small ones."""
        large = _largest_bytes(task) > host.LARGE_BLOCK_BYTES
        if large:
            gc.collect(0)
            self._heap.trim()
        call = _layer_call(task)
        if large or self._young:  # the first results of a young heap would fault in new pages for some six calls
            torch.ones(_TOUCHED_BYTES // 4)
            self._young = False
        return call

    def reference(self) -> Sample:
        """A product and a copy, about as long as each other: what slows memory down may leave arithmetic alone."""
        source, target = self._copied

        def both() -> None:
            torch.mm(self._reference, self._reference)
            target.copy_(source)

        return self.time_call(both)

    def conditions(self) -> Conditions:
        return Conditions(
            sm_clock_hz=host.clock_hz(),
            power_w=self.energy.take_power_w(),
            load=self._load.read(),
            governor=host.governor(),
        )

    def settle(self, limit_s: float) -> bool:
        """Wait, at most `limit_s`, until other processes leave the cores alone; whether they do."""
        deadline = time.monotonic() + limit_s
        while (load := self._load.read()) is not None and load > _QUIET_CORES:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)  # five steps of /proc/stat
        return True

    def time_call(
        self,
        call: Callable[[], object],
        first: Sequence[Tensor] = (),
        *,
        overhead_s: float = 0.0,
        drop: Callable[[], None] = lambda: None,
        freed_bytes: int = 0,
    ) -> Sample:
        """Time one call after the caches were brought to the state of a model that has just written `first`.

        A backward pass frees what it has used while it goes: `freed_bytes` were in use until just before.

        Giving back what the call made, its result and what `drop` lets go, is part of the time: a step does it too.
        """
        self._flush.sum()
        torch.ones(freed_bytes // 4)
        for tensor in first:
            tensor.detach().sum()
        switched = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        start = time.perf_counter()
        call()
        drop()
        passed = time.perf_counter() - start
        switched = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switched
        return Sample(device_s=max(passed - overhead_s, 1e-9), host_s=passed, disturbed=switched > 0)

    @cached_property
    def backward_overhead_s(self) -> float:
        return overhead_s()

    def _peak(self) -> float:
        a = torch.ones(1024, 1024)
        best = min(self.time_call(lambda: torch.mm(a, a), (a,)).device_s for _ in range(7))
        return float(f"{2 * 1024**3 / best:.3g}")

    def _bandwidth(self) -> float:
        source = torch.ones(32 * 2**20)
        target = torch.empty_like(source)
        best = min(self.time_call(lambda: target.copy_(source)).device_s for _ in range(4))
        return float(f"{2 * source.nbytes / best:.3g}")


def libraries() -> tuple[tuple[str, str], ...]:
    """The libraries that compute on this CPU, with their versions, in the order of their names.

    `onednn` is the one inside torch, `onednn_external` the one whose implementations can be had one by one.
    """
    onednn = getattr(torch.backends.mkldnn, "VERSION", None) or _onednn_version()
    external = onednn_calls.library()
    beside = (("onednn_external", external.version_text),) if external else ()
    return (("onednn", onednn), *beside, ("torch", str(torch.__version__)))


def _onednn_version() -> str:
    for line in torch.__config__.show().splitlines():
        if "MKL-DNN" in line or "oneDNN" in line:
            return next((word.strip("v,") for word in line.split() if word.startswith("v")), "none")
    return "none"


class _Timed:
    """A layer's call, timed on the CPU."""

    def __init__(self, backend: CpuBackend, layer: LayerCall, phase: Phase) -> None:
        self._backend, self._layer = backend, layer
        frees = phase in (Phase.BACKWARD, Phase.BACKWARD_DATA)
        size = sum(tensor.nbytes for tensor in layer.first)
        self._freed_bytes = size if frees and size <= host.LARGE_BLOCK_BYTES else 0
        self._overhead_s = backend.backward_overhead_s if layer.by_autograd else 0.0

    @property
    def cache_state(self) -> str:
        return self._backend.cache_state

    def samples(self, count: int) -> list[Sample]:
        with self._backend.energy.count_energy():
            return [self._sample() for _ in range(count)]

    def _sample(self) -> Sample:
        layer = self._layer
        layer.reset()
        try:
            return self._backend.time_call(
                layer.call,
                layer.first,
                overhead_s=self._overhead_s,
                drop=layer.drop,
                freed_bytes=self._freed_bytes,
            )
        except MemoryError as exc:
            raise OutOfMemory(str(exc)) from exc
        except REFUSALS as exc:
            raise refusal(exc) from exc

    def facts(self) -> Facts:
        self._layer.reset()
        known = self._layer.workspace_bytes
        return Facts(workspace_bytes=known() if known else cpu_peak_bytes(self._layer.call))


def _largest_bytes(task: Task) -> int:
    layer = task.layer
    shapes = (*layer.input_shapes, *layer.parameter_shapes, layer.output_shape)
    return task.settings.precision.element_bytes * max(map(prod, shapes))


def _layer_call(task: Task) -> LayerCall:
    layer = task.layer
    if isinstance(layer, Convolution):
        return _convolution(task, layer)
    return layer_call(layer, task.phase, task.settings)


def _convolution(task: Task, layer: Convolution) -> LayerCall:
    if task.algorithm.library == LISTED.library:
        return _by_onednn(task, layer)
    compute = cpu_computation(task.algorithm, layer, task.phase, task.settings)
    ready = operands(layer, task.settings)
    return LayerCall(call=lambda: compute(ready), first=ready.just_written(task.phase))


def _by_onednn(task: Task, layer: Convolution) -> LayerCall:
    """A call of one of oneDNN's implementations, whose result has been compared with float64's.

    The gradient of a bias is a separate sum, as it is where the implementation runs in a model.
    """
    compute, ready = onednn_calls.checked_computation(task), operands(layer, task.settings)

    def call() -> Tensor:
        if task.phase is Phase.BACKWARD_FILTER:
            bias_gradient(layer, ready)
        return compute(ready)

    return LayerCall(call=call, first=ready.just_written(task.phase), workspace_bytes=lambda: compute.workspace_bytes)
