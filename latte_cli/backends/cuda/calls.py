"""What a task calls on a GPU: an algorithm of cuDNN's by name, or the layer as torch runs it."""

from collections.abc import Callable
from contextlib import suppress
from ctypes import c_void_p
from dataclasses import dataclass, replace
from functools import lru_cache
from zlib import crc32

import torch
from torch import Tensor

from latte_cli.algorithms import (
    FRAMEWORK_BENCHMARK,
    FRAMEWORK_DEFAULT,
    HEURISTIC,
    Algorithm,
    known_algorithm,
)
from latte_cli.backends.contract import Facts, Failed, Unsupported
from latte_cli.backends.native import cudnn
from latte_cli.backends.native.closeable import KEPT
from latte_cli.backends.torch.layers import (
    FRAMEWORK_CONVOLUTIONS,
    LayerCall,
    Operands,
    bias_gradient,
    layer_call,
    nbytes,
    operands,
)
from latte_cli.engines import PREFIX, Heuristic, is_engine
from latte_cli.layers import Convolution, Phase, layer_text
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Settings, Task

_PROFILED_OF = 8  # chosen: one layer and phase in eight is profiled, which takes longer than timing it
_LONGEST_NAME = 160  # chosen: the arguments of templates make names of kernels far longer


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A task's call, how to find out what else is known of it, and memory that has to outlive it."""

    call: LayerCall
    facts: Callable[[], Facts]
    holds: tuple[object, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Tensors:
    """A convolution's operands on the GPU and its description to cuDNN, or why there is none."""

    layer: Convolution
    settings: Settings
    operands: Operands
    problem: cudnn.Problem | Unsupported

    def describe(self) -> cudnn.Problem:
        if isinstance(self.problem, Unsupported):
            raise self.problem
        return self.problem


class Calls:
    """Makes tasks ready on the current GPU; the operands of the last convolution are kept for its next algorithm."""

    def __init__(self, library: cudnn.Library, handle: int) -> None:
        self._library, self._handle = library, handle
        self._target = cudnn.EngineTarget(library, handle=handle)
        self._kept: _Tensors | None = None
        self._graph: cudnn.EngineGraph | None = None
        self._plan: cudnn.ExecutionPlan | None = None

    def ready(self, task: Task) -> Ready:
        """The call of `task`; raises Unsupported and what torch raises. The call before it can be made no more."""
        self._end_plan()
        if not isinstance(task.layer, Convolution):
            self._drop()
            return _by_torch(task, layer_call(task.layer, task.phase, task.settings, "cuda"))
        if is_engine(task.algorithm):
            return self._by_engine(task, task.layer)
        if task.algorithm.library == "cudnn":
            return self._by_cudnn(task, task.layer)
        if task.algorithm not in (FRAMEWORK_DEFAULT, FRAMEWORK_BENCHMARK):
            raise Unsupported(f"no {task.algorithm.name} on a GPU")
        layer, compute = task.layer, FRAMEWORK_CONVOLUTIONS[task.phase]
        o = self._tensors(layer, task.settings).operands
        used = o.record() if task.phase is Phase.FORWARD else o
        return _by_torch(task, LayerCall(call=lambda: compute(layer, used), first=o.just_written(task.phase)))

    def ranking(self, question: Question) -> tuple[str, ...]:
        """The names of cuDNN's algorithms that a ranker would take, best first; raises Unsupported."""
        layer, phase, settings, ranker = question.layer, question.phase, question.settings, question.ranker
        if ranker.library != HEURISTIC.library or not isinstance(layer, Convolution):
            raise Unsupported(f"no {ranker} on a GPU for a {layer.kind} layer")
        if ranker.mode:
            with self._graph_of(layer, phase, settings) as graph:
                return tuple(f"{PREFIX}{index}" for index in graph.list_engines(Heuristic[ranker.mode]))
        found = self._tensors(layer, settings).describe().heuristic(self._handle, phase)
        return tuple(dict.fromkeys(ranked.algorithm.name for ranked in found if ranked.status_ok))

    def engines(self, layer: Convolution, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
        """cuDNN's engines that take `phase` of `layer` and keep its precision; none where it cannot be described."""
        try:
            with self._graph_of(layer, phase, settings) as graph:
                return tuple(engine.algorithm for engine in graph.engines() if engine.keeps(settings.precision))
        except (Unsupported, Failed):
            return ()

    def _graph_of(self, layer: Convolution, phase: Phase, settings: Settings) -> cudnn.EngineGraph:
        _check_placed(layer, settings)
        return cudnn.graph(self._target, layer, phase, settings.precision, settings.layout)

    def _by_engine(self, task: Task, layer: Convolution) -> Ready:
        o = self._tensors(layer, task.settings).operands
        self._graph = self._graph_of(layer, task.phase, task.settings)
        engine = self._graph.engine(task.algorithm.name)
        self._plan = plan = self._graph.plan(task.algorithm.name)
        into = _written_tensor(o, task.phase)
        addresses = {name: tensor.data_ptr() for name, tensor in _with(o, task.phase, into).items()}
        size = plan.workspace_bytes
        workspace = torch.empty(size, dtype=torch.uint8, device="cuda") if size else None
        run = plan.bind(self._handle, **addresses, workspace=workspace.data_ptr() if workspace is not None else 0)
        facts = Facts(workspace_bytes=size, deterministic=engine.deterministic, notes=engine.notes)
        return _without_bias(task, layer, o, into, run, facts, workspace)

    def _end_plan(self) -> None:
        for each in (self._plan, self._graph):
            if each is not None:
                each.close()
        self._plan = self._graph = None

    def _by_cudnn(self, task: Task, layer: Convolution) -> Ready:
        tensors = self._tensors(layer, task.settings)
        problem, o = tensors.describe(), tensors.operands
        size = problem.workspace_bytes(self._handle, task.phase, task.algorithm)
        workspace = torch.empty(size, dtype=torch.uint8, device="cuda") if size else None
        into = _written_tensor(o, task.phase)
        addresses = {name: tensor.data_ptr() for name, tensor in _with(o, task.phase, into).items()}
        run = problem.bind(
            self._handle,
            task.phase,
            task.algorithm,
            **addresses,
            workspace=workspace.data_ptr() if workspace is not None else 0,
            workspace_bytes=size,
        )
        about = known_algorithm(task.algorithm)
        facts = Facts(workspace_bytes=size, deterministic=about.deterministic if about else None)
        return _without_bias(task, layer, o, into, run, facts, workspace)

    def _tensors(self, layer: Convolution, settings: Settings) -> _Tensors:
        kept = self._kept
        if kept is None or (kept.layer, kept.settings) != (layer, settings):
            self._drop()
            kept = self._kept = _Tensors(
                layer=layer,
                settings=settings,
                operands=operands(layer, settings, "cuda"),
                problem=self._problem(layer, settings),
            )
        return kept

    def _problem(self, layer: Convolution, settings: Settings) -> cudnn.Problem | Unsupported:
        try:
            _check_placed(layer, settings)
            return cudnn.problem(self._library, layer, settings.precision, settings.layout)
        except Unsupported as exc:
            return exc

    def _drop(self) -> None:
        if self._kept is not None and isinstance(self._kept.problem, cudnn.Problem):
            self._kept.problem.close()
        self._kept = None


def _check_placed(layer: Convolution, settings: Settings) -> None:
    if len(layer.input) == 1 and settings.layout is Layout.CHANNELS_LAST:
        raise Unsupported("torch keeps the tensors of 1-D layers channels first")


def _without_bias(
    task: Task,
    layer: Convolution,
    o: Operands,
    into: Tensor,
    run: Callable[[], None],
    facts: Facts,
    workspace: Tensor | None,
) -> Ready:
    """A library's call `run` that writes `into`, and what torch adds to it.

    The bias is no part of any algorithm: as in torch, a separate kernel adds it. The workspace lives as long as what
    writes to it.
    """

    def call() -> Tensor:
        run()
        if task.phase is Phase.FORWARD and o.b is not None:
            into.add_(o.b.view(-1, *(1,) * len(layer.kernel)))
        elif task.phase is Phase.BACKWARD_FILTER:
            bias_gradient(layer, o)
        return into

    def told() -> Facts:
        return replace(facts, kernels=kernel_names(run) if is_engine(task.algorithm) and _is_profiled(task) else ())

    return Ready(call=LayerCall(call=call, first=o.just_written(task.phase)), facts=told, holds=(workspace,))


@lru_cache
def _open_once(index: int) -> tuple[cudnn.Library, int]:
    library = cudnn.open_library()
    return library, library.handle(index)


@lru_cache(maxsize=KEPT)  # what it evicts closes itself
def _problem_of(layer: Convolution, precision: Precision, layout: Layout, index: int) -> cudnn.Problem:
    library, _ = _open_once(index)
    return cudnn.problem(library, layer, precision, layout)


@lru_cache(maxsize=KEPT)  # what it evicts closes itself
def _plan_of(
    name: str, layer: Convolution, phase: Phase, precision: Precision, layout: Layout, index: int
) -> cudnn.ExecutionPlan:
    library, handle = _open_once(index)
    return cudnn.graph(cudnn.EngineTarget(library, handle=handle), layer, phase, precision, layout).plan(name)


def _prepare(
    algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings, index: int
) -> tuple[int, Callable[[c_void_p, c_void_p, c_void_p, c_void_p], None]]:
    """The bytes of workspace that a call takes, and the call, which is given addresses; raises Unsupported."""
    _, handle = _open_once(index)
    if is_engine(algorithm):
        plan = _plan_of(algorithm.name, layer, phase, settings.precision, settings.layout, index)
        return plan.workspace_bytes, plan.caller(handle)
    problem = _problem_of(layer, settings.precision, settings.layout, index)
    size = problem.workspace_bytes(handle, phase, algorithm)
    return size, problem.caller(handle, phase, algorithm, workspace_bytes=size)


def cudnn_computation(
    algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings, device: str
) -> Callable[[Operands], Tensor]:
    """A function that computes `phase` with cuDNN's `algorithm` on the current stream of the GPU `device`.

    The workspace comes from torch's allocator, which keeps it until the stream is done. Raises Unsupported.
    """
    if algorithm == FRAMEWORK_DEFAULT:
        own = FRAMEWORK_CONVOLUTIONS[phase]
        return lambda o: own(layer, o)
    if algorithm.library != HEURISTIC.library:
        raise Unsupported(f"no {algorithm.name} on {device}")
    index = torch.device(device).index or 0
    library, handle = _open_once(index)
    size, call = _prepare(algorithm, layer, phase, settings, index)
    form = torch.channels_last if settings.layout is Layout.CHANNELS_LAST else torch.contiguous_format
    shape = {
        Phase.FORWARD: layer.output_shape,
        Phase.BACKWARD_DATA: layer.input_shapes[0],
        Phase.BACKWARD_FILTER: layer.weight_shape,
    }[phase]

    def compute(o: Operands) -> Tensor:
        into = torch.empty(shape, dtype=o.w.dtype, device=o.w.device, memory_format=form)
        workspace = torch.empty(size, dtype=torch.uint8, device=o.w.device) if size else None
        places = {"x": o.x, "w": o.w, "y": o.gy} | {_WRITTEN[phase]: into}
        held = [places[name].contiguous(memory_format=form) for name in ("x", "w", "y")]  # copies live until the call
        x, w, y = (c_void_p(tensor.data_ptr()) for tensor in held)
        library.set_stream(handle, torch.cuda.current_stream(index).cuda_stream)
        call(x, w, y, c_void_p(workspace.data_ptr() if workspace is not None else None))
        if phase is Phase.FORWARD and o.b is not None:
            into.add_(o.b.view(-1, *(1,) * len(layer.kernel)))
        return into

    return compute


_WRITTEN = {Phase.FORWARD: "y", Phase.BACKWARD_DATA: "x", Phase.BACKWARD_FILTER: "w"}


def _written_tensor(o: Operands, phase: Phase) -> Tensor:
    """Memory for what a phase writes."""
    return torch.empty_like({Phase.FORWARD: o.gy, Phase.BACKWARD_DATA: o.x, Phase.BACKWARD_FILTER: o.w}[phase])


def _with(o: Operands, phase: Phase, into: Tensor) -> dict[str, Tensor]:
    """The tensors in the places of cuDNN's x, w and y."""
    places = {"x": o.x, "w": o.w, "y": o.gy}
    places[_WRITTEN[phase]] = into
    return places


def _by_torch(task: Task, call: LayerCall) -> Ready:
    def facts() -> Facts:
        call.reset()
        workspace_bytes = gpu_peak_bytes(call.call)
        call.reset()
        return Facts(workspace_bytes=workspace_bytes, kernels=kernel_names(call.call) if _is_profiled(task) else ())

    return Ready(call=call, facts=facts)


def _is_profiled(task: Task) -> bool:
    """Whether the kernels of this layer and phase belong to the share that is looked at."""
    return (
        isinstance(task.layer, Convolution)
        and crc32(f"{layer_text(task.layer)} {task.phase}".encode()) % _PROFILED_OF == 0
    )


def gpu_peak_bytes(call: Callable[[], object]) -> int:
    """The peak that torch's allocator holds on the GPU during `call`, less what the call leaves or returns."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return max(0, peak - max(torch.cuda.memory_allocated() - before, nbytes(result)))


def kernel_names(call: Callable[[], object]) -> tuple[str, ...]:
    """The names of the kernels that `call` runs on the GPU, in their order; nothing where no profiler can be had."""
    from torch.profiler import ProfilerActivity, profile, supported_activities

    if ProfilerActivity.CUDA not in supported_activities():  # type: ignore[no-untyped-call]
        return ()
    with suppress(RuntimeError):
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            call()
            torch.cuda.synchronize()
        events = (event for event in seen.events() or () if event.device_type.name == "CUDA")
        names = (event.name for event in sorted(events, key=lambda event: event.time_range.start))
        return tuple(name[:_LONGEST_NAME] for name in names if not name.startswith(("Memset", "Memcpy")))
    return ()
