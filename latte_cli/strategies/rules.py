"""The rules by which frameworks choose among candidates: pure functions, each with its source in its docstring.

They are those of the frameworks' GPU libraries, as their sources have them.
"""

from collections.abc import Callable
from typing import TypeAlias

from latte_cli.algorithms import FRAMEWORK_BENCHMARK, FRAMEWORK_DEFAULT, HEURISTIC, LISTED
from latte_cli.engines import PYTORCH_FALLBACK, XLA_MODES, Heuristic
from latte_cli.layers import Phase
from latte_cli.lookup import Timing, fits_workspace, workspace_bytes
from latte_cli.precisions import Precision
from latte_cli.strategies.candidates import Candidates, fastest, quickest, repeats

StrategyRule: TypeAlias = Callable[[Candidates], Timing]
"""Takes one of at least one timings."""


def pytorch(candidates: Candidates, *, deterministic: bool = False) -> Timing:
    """PyTorch 2.x with its default flags: its own op, as measured; under memory pressure the next of the library's
    ranking that can be allocated (aten/src/ATen/native/cudnn/Conv_v8.cpp, `try_plans`). `deterministic` is torch's flag
    of that name: the first of the listed engines whose results repeat, where engines were timed."""
    limit_bytes = candidates.limit_bytes
    repeating = [one for one in _tried_by_pytorch(candidates) if repeats(one) and fits_workspace(one, limit_bytes)]
    if deterministic and repeating:
        return repeating[0]
    default = candidates.timing_of(FRAMEWORK_DEFAULT)
    if default and fits_workspace(default, limit_bytes):
        return default
    candidates = candidates.among(_tried_by_pytorch(candidates))
    others = (timing for timing in candidates.fitting_timings() if timing.task.algorithm.library == HEURISTIC.library)
    return next(others, default or candidates.smallest())


def _tried_by_pytorch(candidates: Candidates) -> list[Timing]:
    return candidates.engines(Heuristic.INSTANT, also=PYTORCH_FALLBACK[candidates.operation])


def pytorch_benchmark(candidates: Candidates, *, benchmark_limit: int = 10) -> Timing:
    """PyTorch 2.x with `cudnn.benchmark`: its own op in that mode where that was measured; else the fastest of the
    first `benchmark_limit` (0: all) of the library's ranking that fit the free memory (Conv_v8.cpp,
    `get_plans_from_find`)."""
    if candidates.depthwise:
        return pytorch(candidates)
    measured = candidates.timing_of(FRAMEWORK_BENCHMARK)
    if measured and fits_workspace(measured, candidates.limit_bytes) and benchmark_limit == 10:
        return measured
    candidates = candidates.among(_tried_by_pytorch(candidates))
    tried = candidates.fitting_timings()[: benchmark_limit or None]
    return quickest(tried) or candidates.smallest()


def benchmark_candidates(candidates: Candidates, *, benchmark_limit: int = 10) -> list[Timing]:
    """What `pytorch_benchmark` tries of a shape that it has not met, as far as it was timed; none where that is not
    known, and of what torch computes without cuDNN."""
    if candidates.depthwise:
        return []
    tried = candidates.among(_tried_by_pytorch(candidates)).fitting_timings()
    return [one for one in tried if one.task.algorithm.library == HEURISTIC.library][: benchmark_limit or None]


def pytorch_legacy(candidates: Candidates, *, benchmark: bool = False, deterministic: bool = False) -> Timing:
    """PyTorch before its graph API: the first of `cudnnGet…_v7` that can be allocated; with `benchmark` the fastest of
    `cudnnFind…Ex` that fits the free memory; `deterministic`: algorithm 1, or the fastest that is (Conv_v7.cpp)."""
    if candidates.depthwise:
        return pytorch(candidates)
    if deterministic and not benchmark:
        return candidates.timing_numbered(1) or deterministic_only(candidates)
    if benchmark:
        return (
            deterministic_only(candidates)
            if deterministic
            else fastest(candidates.tried_timings, candidates.limit_bytes)
        )
    return _first_that_fits(candidates)


def _first_that_fits(candidates: Candidates) -> Timing:
    return next(iter(candidates.fitting_timings()), candidates.smallest())


def _listed_for_xla(candidates: Candidates) -> list[Timing]:
    return candidates.engines(*XLA_MODES)


def tensorflow(candidates: Candidates, *, workspace_limit: int = 4096 * 2**20, autotune: bool = True) -> Timing:
    """TensorFlow: every candidate once, the fastest whose scratch is within the limit; where that cannot be allocated,
    the fastest that needs none. Without autotuning the first candidate (core/kernels/conv_ops_gpu.cc,
    `AllocateScratchOrFallback`; TF_CUDNN_WORKSPACE_LIMIT_IN_MB, TF_CUDNN_USE_AUTOTUNE)."""
    candidates = candidates.among(_listed_for_xla(candidates))
    allowed = [timing for timing in candidates.tried_timings if fits_workspace(timing, workspace_limit)] or [
        candidates.smallest()
    ]
    chosen = quickest(allowed) if autotune else allowed[0]
    if chosen and fits_workspace(chosen, candidates.limit_bytes):
        return chosen
    return quickest(timing for timing in allowed if not workspace_bytes(timing)) or candidates.smallest()


def xla(candidates: Candidates, *, tolerance: float = 4e-6) -> Timing:
    """XLA, and so JAX: of the results within `tolerance` seconds of the fastest the one with the least scratch, among
    those that can be allocated (xla/service/gpu/autotuning/conv_algorithm_picker.cc, at autotune level 4)."""
    candidates = candidates.among(_listed_for_xla(candidates))
    able = candidates.fitting_timings() or [candidates.smallest()]
    least_s = min(timing.device_s for timing in able)
    close = [timing for timing in able if timing.device_s <= least_s + tolerance]
    return min(close, key=lambda timing: (workspace_bytes(timing), timing.device_s))


def onednn_default(candidates: Candidates) -> Timing:
    """oneDNN by itself: the first of its list that fits, with the formats that it likes best
    (`dnnl_primitive_desc_create`); PyTorch's own op where it lists none."""
    listed = (timing for timing in candidates.fitting_timings() if timing.task.algorithm.library == LISTED.library)
    return next(listed, None) or pytorch(candidates)


ORT_SEARCHES = {
    "exhaustive": (Heuristic.B,),
    "heuristic": (Heuristic.A, Heuristic.INSTANT),
    "default": (Heuristic.FALLBACK,),
}
"""The values of `cudnn_conv_algo_search`, and the heuristic that each asks from ONNX Runtime 1.20 on."""

_ORT_WORKSPACE_BYTES = 32 * 2**20  # onnxruntime/core/providers/cuda/nn/conv.h, AlgoSearchWorkspaceSize


def onnxruntime(
    candidates: Candidates, *, search: str = "exhaustive", max_workspace: bool = True, frontend: bool = True
) -> Timing:
    """ONNX Runtime on a GPU, with its options `cudnn_conv_algo_search` and `cudnn_conv_use_max_workspace`.

    From 1.20 on, with cuDNN 9, it has a `frontend`: forward takes the first engine that the heuristic lists, whatever
    workspace it needs (onnxruntime/core/providers/cuda/nn/conv.cc, `CreateCudnnFeExecutionPlan`). Before, without
    listed engines, and backward: `exhaustive` is the fastest of `cudnnFind…Ex` that fits, within 32 MiB without
    `max_workspace`; `heuristic` the first of `cudnnGet…_v7`, backward the first that can be allocated; `default`
    algorithm 1 (conv.cc, `UpdateState`; orttraining/training_ops/cuda/nn/conv_shared.cc).
    """
    forward = candidates.phase is Phase.FORWARD
    engines = candidates.engines(*ORT_SEARCHES[search]) if frontend and forward else []
    if engines:
        return engines[0]
    if search == "default":
        return candidates.timing_numbered(1) or candidates.tried_timings[0]
    if search == "heuristic":
        return candidates.tried_timings[0] if forward else _first_that_fits(candidates)
    limits = (candidates.limit_bytes, None if max_workspace else _ORT_WORKSPACE_BYTES)
    return fastest(candidates.tried_timings, min((limit for limit in limits if limit is not None), default=None))


def mindspore(candidates: Candidates) -> Timing:
    """MindSpore with `conv_fprop_algo=normal` and its siblings: the first of `cudnnGet…_v7`, whatever workspace it
    takes; in fp16 algorithm 1 (`SelectForwardAlgorithm` and its siblings, of its GPU plugin)."""
    return _half(candidates) or candidates.tried_timings[0]


def mindspore_performance(candidates: Candidates) -> Timing:
    """MindSpore with `conv_fprop_algo=performance`: the first of `cudnnFind…`, which can try only what it can allocate;
    in fp16 algorithm 1 (`SelectForwardAlgorithm` and its siblings, of its GPU plugin)."""
    return _half(candidates) or fastest(candidates.tried_timings, candidates.limit_bytes)


def _half(candidates: Candidates) -> Timing | None:
    return candidates.timing_numbered(1) if candidates.precision is Precision.FP16 else None


def exhaustive(candidates: Candidates) -> Timing:
    """The fastest of everything timed that fits: what a search over all of it would find."""
    return fastest(candidates.timings, candidates.limit_bytes)


def deterministic_only(candidates: Candidates) -> Timing:
    """The fastest that fits and whose results repeat bit by bit."""
    repeating = [timing for timing in candidates.timings if repeats(timing)]
    return fastest(repeating or candidates.timings, candidates.limit_bytes)
