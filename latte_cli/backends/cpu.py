"""The CPU as a device: layers run by torch, timed as they run inside a model."""

import gc
import resource
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from math import prod

import torch
from torch import Tensor

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends import Conditions, Device, OutOfMemory, Prepared, Sample, Unsupported, host
from latte_cli.backends.cpu_convolutions import CONVOLUTIONS, Operands
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Convolution, Layer, Linear, Optimizer, Phase
from latte_cli.network.module import layer_module
from latte_cli.network.module import optimizer as make_optimizer
from latte_cli.tasks import Layout, Precision, Settings, Task

_ASSUMED_CACHE_BYTES = 32 * 2**20
_QUIET_CORES = 0.3
_REFUSALS = (RuntimeError, ValueError, TypeError, NotImplementedError, LatteError)
_DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}


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
        self._flush = torch.ones((host.last_level_cache_bytes() or _ASSUMED_CACHE_BYTES) // 4)
        self._load = host.OtherLoad()
        self._load.read()
        self._reference = torch.ones(512, 512)

    @property
    def cache_state(self) -> str:
        return "last_level"

    @cached_property
    def device(self) -> Device:
        return Device(
            slug=host.cpu_slug(self.threads, self._name),
            kind="cpu",
            name=host.cpu_name(),
            memory_bytes=host.memory_bytes(),
            bandwidth_bytes_per_s=self._bandwidth(),
            peak_flop_per_s=self._peak(),
            driver="",
            libraries=_libraries(),
        )

    def settings(self, precision: Precision, layout: Layout) -> Settings:
        if precision not in _DTYPES:
            raise LatteError(
                f"precision {precision} is not offered on a CPU",
                hint=f"use one of: {', '.join(_DTYPES)}",
                exit_code=ExitCode.USAGE,
            )
        return Settings(
            precision=precision, layout=layout, threads=self.threads, library_versions=self.device.libraries
        )

    def candidates(self, layer: Layer, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
        if phase not in layer.phases or layer.free:
            return ()
        if not isinstance(layer, Convolution):
            return (FRAMEWORK_DEFAULT,)
        return tuple(
            Algorithm(library="torch", name=name) for name, rule in CONVOLUTIONS.items() if phase in rule.calls
        )

    def prepare(self, task: Task) -> Prepared:
        try:
            gc.collect(0)
            return _prepared(task, self)
        except MemoryError as exc:
            raise OutOfMemory(str(exc)) from exc
        except _REFUSALS as exc:
            raise _mapped(exc) from exc

    def reference(self) -> Sample:
        return self.timed(lambda: torch.mm(self._reference, self._reference), (), overhead_s=0.0)

    def conditions(self) -> Conditions:
        return Conditions(sm_clock_hz=host.clock_hz(), load=self._load.read(), governor=host.governor())

    def settle(self, limit_s: float) -> bool:
        """Wait, at most `limit_s`, until other processes leave the cores alone; whether they do."""
        deadline = time.monotonic() + limit_s
        while (load := self._load.read()) is not None and load > _QUIET_CORES:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True

    def timed(self, call: Callable[[], object], first: Sequence[Tensor], *, overhead_s: float) -> Sample:
        """Time one call after the caches were brought to the state of a model that has just written `first`."""
        self._flush.sum()
        for tensor in first:
            tensor.detach().sum()
        switched = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        start = time.perf_counter()
        result = call()
        passed = time.perf_counter() - start
        switched = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switched
        del result
        return Sample(device_s=max(passed - overhead_s, 1e-9), host_s=passed, disturbed=switched > 0)

    @cached_property
    def backward_overhead_s(self) -> float:
        """What a lone `backward()` call costs beyond what its node costs inside a graph: the call on an empty graph."""
        leaf = torch.zeros(1, requires_grad=True)
        seed = torch.ones(1)
        out = leaf.view(1)
        times = []
        for _ in range(300):
            leaf.grad = None
            start = time.perf_counter()
            torch.autograd.backward((out,), (seed,), retain_graph=True)
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2]

    def _peak(self) -> float:
        a = torch.ones(1024, 1024)
        best = min(self.timed(lambda: torch.mm(a, a), (a,), overhead_s=0.0).device_s for _ in range(7))
        return float(f"{2 * 1024**3 / best:.3g}")

    def _bandwidth(self) -> float:
        source = torch.ones(32 * 2**20)
        target = torch.empty_like(source)
        best = min(self.timed(lambda: target.copy_(source), (), overhead_s=0.0).device_s for _ in range(4))
        return float(f"{2 * source.nbytes / best:.3g}")


def _libraries() -> tuple[tuple[str, str], ...]:
    onednn = getattr(torch.backends.mkldnn, "VERSION", None) or _onednn_version()
    return (("onednn", onednn), ("torch", torch.__version__))


def _onednn_version() -> str:
    for line in torch.__config__.show().splitlines():
        if "MKL-DNN" in line or "oneDNN" in line:
            return next((word.strip("v,") for word in line.split() if word.startswith("v")), "none")
    return "none"


def _mapped(error: Exception) -> Exception:
    """Torch's error as our answer: no memory, or an algorithm that does not do this layer."""
    text = str(error).partition("\n")[0]
    no_memory = "can't allocate memory" in str(error) or "out of memory" in str(error).lower()
    return OutOfMemory(text) if no_memory else Unsupported(text)


class _Call:
    """A call on tensors that are ready; `first` are those the layer before it has just written."""

    def __init__(self, backend: CpuBackend, call: Callable[[], object], first: Sequence[Tensor]) -> None:
        self._backend, self._call, self._first = backend, call, first
        self._overhead_s = 0.0

    def _reset(self) -> None:
        """Undo what the last call left behind."""

    def sample(self) -> Sample:
        self._reset()
        try:
            return self._backend.timed(self._call, self._first, overhead_s=self._overhead_s)
        except MemoryError as exc:
            raise OutOfMemory(str(exc)) from exc
        except _REFUSALS as exc:
            raise _mapped(exc) from exc

    def workspace_bytes(self) -> int | None:
        """The peak of what torch's allocator held during one call, less what the call left."""
        self._reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.autograd.profiler.profile(profile_memory=True) as profile:
                result = self._call()
            held = peak = 0
            events = profile.kineto_results.events()
            for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
                held += event.nbytes()
                peak = max(peak, held)
        own = _bytes_of(result)
        return max(0, peak - max(held, own))


def _bytes_of(result: object) -> int:
    return result.nbytes if isinstance(result, Tensor) else 0


class _Backward(_Call):
    """A backward call through autograd, whose fixed cost outside of a graph is taken off."""

    def __init__(self, backend: CpuBackend, out: Tensor, leaves: Sequence[Tensor]) -> None:
        seed = torch.randn(out.shape).to(out.dtype)
        if out.dim() == 4 and out.is_contiguous(memory_format=torch.channels_last) and not out.is_contiguous():
            seed = seed.contiguous(memory_format=torch.channels_last)
        self._leaves = leaves
        super().__init__(backend, lambda: torch.autograd.backward((out,), (seed,), retain_graph=True), (seed,))
        self._overhead_s = backend.backward_overhead_s

    def _reset(self) -> None:
        for leaf in self._leaves:
            leaf.grad = None


class _Update(_Call):
    """An optimizer's step with the gradients dropped after it, as a training loop does."""

    def __init__(self, backend: CpuBackend, layer: Optimizer, dtype: torch.dtype) -> None:
        size, rest = divmod(layer.elements, layer.tensors)
        sizes = [size + (index < rest) for index in range(layer.tensors)]
        self._weights = [torch.nn.Parameter(torch.randn(count).to(dtype)) for count in sizes]
        optimizer = make_optimizer(layer.function, self._weights)
        if optimizer is None:
            raise Unsupported("no optimizer")

        def call() -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        super().__init__(backend, call, ())

    def _reset(self) -> None:
        # Nobody else may hold the gradients: dropping them returns their memory, which takes its time.
        for weight in self._weights:
            weight.grad = torch.full_like(weight, 1e-3)


def _formatted(tensor: Tensor, layout: Layout) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if layout is Layout.CHANNELS_LAST and tensor.dim() in formats:
        return tensor.contiguous(memory_format=formats[tensor.dim()])
    return tensor


@lru_cache(maxsize=4)
def _noise(dtype: torch.dtype) -> Tensor:
    return torch.randn(2**20, generator=torch.Generator().manual_seed(0)).to(dtype)


def _random(shape: tuple[int, ...], task: Task) -> Tensor:
    """Normal numbers, a million of them over and over: drawing all anew would take longer than most calls."""
    noise, count = _noise(_DTYPES[task.settings.precision]), prod(shape)
    tensor = noise[:count].clone() if count <= len(noise) else noise.repeat(-(-count // len(noise)))[:count]
    return _formatted(tensor.view(shape), task.settings.layout)


def _prepared(task: Task, backend: CpuBackend) -> _Call:
    torch.manual_seed(0)
    layer = task.layer
    if isinstance(layer, Optimizer):
        return _Update(backend, layer, _DTYPES[task.settings.precision])
    if isinstance(layer, Convolution):
        return _convolution(task, layer, backend)
    if isinstance(layer, Linear):
        return _linear(task, layer, backend)
    return _other(task, backend)


def _convolution(task: Task, layer: Convolution, backend: CpuBackend) -> _Call:
    algorithm = CONVOLUTIONS.get(task.algorithm.name)
    if algorithm is None or task.phase not in algorithm.calls:
        raise Unsupported(f"no {task.algorithm.name} for {task.phase}")
    if not algorithm.applies(layer, task.phase, task.settings):
        raise Unsupported(f"{task.algorithm.name} does not apply to this layer")
    operands = Operands(
        x=_random(layer.input_shapes[0], task),
        w=_random(layer.weight_shape, task),
        b=_random((layer.out_channels,), task) if layer.bias else None,
        gy=_random(layer.output_shape, task),
    )
    compute = algorithm.calls[task.phase]
    first = operands.x if task.phase is Phase.FORWARD else operands.gy
    return _Call(backend, lambda: compute(layer, operands), (first,))


def _linear(task: Task, layer: Linear, backend: CpuBackend) -> _Call:
    x, w = _random(layer.input_shapes[0], task), _random((layer.out_features, layer.in_features), task)
    b = _random((layer.out_features,), task) if layer.bias else None
    gy = _random(layer.output_shape, task)

    def backward_filter() -> Tensor:
        if layer.bias:
            gy.sum(0)
        return gy.t().mm(x)

    calls: dict[Phase, Callable[[], Tensor]] = {
        Phase.FORWARD: lambda: torch.nn.functional.linear(x, w, b),
        Phase.BACKWARD_DATA: lambda: gy.mm(w),
        Phase.BACKWARD_FILTER: backward_filter,
    }
    return _Call(backend, calls[task.phase], (x if task.phase is Phase.FORWARD else gy,))


def _other(task: Task, backend: CpuBackend) -> _Call:
    """A layer without a choice of algorithms: the module a model would use, recorded by autograd."""
    dtype = _DTYPES[task.settings.precision]
    module = layer_module(task.layer).to(dtype)
    inputs = [_random(shape, task).requires_grad_() for shape in task.layer.input_shapes]
    if task.phase is Phase.FORWARD:
        return _Call(backend, lambda: module(*inputs), inputs)
    return _Backward(backend, module(*inputs), [*inputs, *module.parameters()])
