"""What holds a library's memory: bounded caches close what they evict, and never what a call still uses."""

from contextlib import ExitStack
from functools import lru_cache
from typing import Any
from weakref import ref

import pytest
import torch

from latte_cli.backends.cpu import onednn_calls
from latte_cli.backends.cuda import calls
from latte_cli.backends.native import cudnn as cudnn_binding
from latte_cli.backends.native import onednn as onednn_binding
from latte_cli.backends.native.closeable import KEPT, SelfClosing
from latte_cli.backends.torch.layers import FRAMEWORK_CONVOLUTIONS, operands
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.runtime import convolution as runtime
from latte_cli.tasks import Settings, Task

pytest_plugins = ["cudnn_libraries", "onednn_libraries"]

needs_onednn = pytest.mark.skipif(onednn_calls.library() is None, reason="`pip install onednn-cpu-gomp`")


def layer(size: int, **more: Any) -> Convolution:
    return Convolution(batch=1, in_channels=1, out_channels=1, input=(size, size), kernel=(1, 1), **more)


class Noted(SelfClosing):
    """Writes its name where it is closed."""

    def __init__(self, name: str, closed: list[str]) -> None:
        stack = ExitStack()
        stack.callback(closed.append, name)
        super().__init__(stack)


def test_a_bounded_cache_closes_what_it_evicts_and_all_when_it_is_cleared() -> None:
    closed: list[str] = []
    kept = lru_cache(maxsize=2)(lambda name: Noted(name, closed))
    for name in ("a", "b", "a", "c"):
        kept(name)
    assert closed == ["b"]
    kept.cache_clear()
    assert sorted(closed) == ["a", "b", "c"]


def test_what_is_still_used_is_closed_when_its_last_user_is_gone() -> None:
    closed: list[str] = []
    kept = lru_cache(maxsize=1)(lambda name: Noted(name, closed))
    used = kept("a")
    kept("b")
    assert closed == []
    del used
    assert closed == ["a"]


def test_closing_twice_closes_once() -> None:
    closed: list[str] = []
    with Noted("a", closed) as noted:
        noted.close()
    del noted
    assert closed == ["a"]


def test_executions_of_onednn_give_their_primitives_back(
    onednn: onednn_binding.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, int] = {}
    call = type(onednn).call

    def counted(self: Any, name: str, *arguments: Any) -> None:
        made[name] = made.get(name, 0) + 1
        call(self, name, *arguments)

    monkeypatch.setattr(type(onednn), "call", counted)

    @lru_cache(maxsize=3)
    def execution(size: int) -> onednn_binding.Execution:
        described = onednn_binding.problem(onednn, layer(size), Phase.FORWARD, Precision.FP32, Layout.NCHW)
        return described.execution(described.implementations()[0])

    for size in range(4, 12):
        execution(size)
    assert made["dnnl_primitive_destroy"] == made["dnnl_primitive_create"] * 5 // 8
    execution.cache_clear()
    assert made["dnnl_primitive_destroy"] == made["dnnl_primitive_create"]
    assert made["dnnl_memory_destroy"] == made["dnnl_memory_create"]


def test_descriptors_of_cudnn_live_as_long_as_a_call_of_them(cudnn: cudnn_binding.Library) -> None:
    @lru_cache(maxsize=1)
    def problem(size: int) -> cudnn_binding.Problem:
        return cudnn_binding.problem(cudnn, layer(size), Precision.FP32, Layout.NCHW)

    used = problem(4)
    first, algorithm = ref(used), cudnn_binding.algorithms(layer(4), Phase.FORWARD)[0]
    call = used.caller(1, Phase.FORWARD, algorithm)
    del used
    problem(5)
    assert first() is not None
    del call
    assert first() is None


@needs_onednn
def test_the_process_keeps_a_bounded_number_of_computations_and_each_that_is_used_goes_on() -> None:
    settings, o = Settings(threads=1), operands(layer(4), Settings())
    onednn_calls.checked_computation.cache_clear()
    (algorithm, *_) = onednn_calls.candidates(layer(4), Phase.FORWARD, settings)

    def task(size: int) -> Task:
        return Task(layer=layer(size), phase=Phase.FORWARD, algorithm=algorithm, settings=settings)

    used, unused = onednn_calls.checked_computation(task(4)), ref(onednn_calls.checked_computation(task(5)))
    for size in range(6, 6 + KEPT):
        onednn_calls.checked_computation(task(size))
    assert onednn_calls.checked_computation.cache_info().currsize == KEPT
    assert unused() is None
    assert torch.allclose(used(o), FRAMEWORK_CONVOLUTIONS[Phase.FORWARD](layer(4), o), atol=1e-5)


@pytest.mark.parametrize("kept", [calls._problem_of, calls._plan_of, onednn_calls.checked_computation])
def test_every_cache_of_a_library_s_memory_has_the_bound(kept: Any) -> None:
    assert kept.cache_info().maxsize == KEPT


def test_a_module_keeps_the_calls_of_a_bounded_number_of_shapes() -> None:
    module = torch.nn.Conv2d(1, 1, 1)
    runtime.tune_module(module, runtime.Bindings())
    for size in range(1, runtime._MOST_SHAPES + 20):
        module(torch.ones(1, 1, size, 1))
    assert len(module.calls) == runtime._MOST_SHAPES
    assert (1, 1, size, 1) in {key[0] for key in module.calls}
