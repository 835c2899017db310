"""Calls of cuDNN's algorithms on streams, in threads and in CUDA graphs."""

import math
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from gpu_convolutions import LAYERS, PHASES, PLAIN, Call, Case, bound, drawn, expected

from latte_cli.algorithms import Algorithm
from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.backends.native import cudnn
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision

PRECOMPUTED = Algorithm(library="cudnn", name="IMPLICIT_PRECOMP_GEMM", vendor_id=1)
REFUSED = (Unsupported, OutOfMemory, Failed, RuntimeError)

cuda: Any = torch.cuda  # its sleep is untyped

_SLEEP_CYCLES = 2_000_000_000  # about a second, so that the host's own work is done long before


@contextmanager
def on_stream(library: cudnn.Library, handle: int, stream: torch.cuda.Stream) -> Iterator[None]:
    """Let torch, in this thread, and `handle` use `stream` for the `with` block."""
    with torch.cuda.stream(stream):
        library.set_stream(handle, stream.cuda_stream)
        try:
            yield
        finally:
            library.set_stream(handle, torch.cuda.default_stream().cuda_stream)


def forward(layer: Convolution, algorithm: Algorithm = PRECOMPUTED) -> Case:
    return Case(layer=layer, phase=Phase.FORWARD, algorithm=algorithm)


def test_a_call_runs_on_its_stream_after_what_was_put_there_before(library: cudnn.Library, handle: int) -> None:
    case, side = forward(PLAIN), torch.cuda.Stream()
    o = drawn(case.layer, case.precision, case.layout)
    own = replace(o, x=o.x.clone())
    side_done, default_done = torch.cuda.Event(), torch.cuda.Event()
    with bound(library, handle, case, own) as call:

        def enqueue(cycles: int) -> None:
            with on_stream(library, handle, side):
                cuda._sleep(cycles)
                own.x.copy_(o.x)
                call.run()
                side_done.record(side)

        expected(case)
        enqueue(1)  # what is loaded or set up at a first call would wait for the whole device
        torch.cuda.synchronize()
        own.x.zero_()
        call.poison()
        torch.cuda.synchronize()
        enqueue(_SLEEP_CYCLES)
        default_done.record(torch.cuda.default_stream())
        default_done.synchronize()
        waited = side_done.query()
        torch.cuda.synchronize()
        assert call.error() <= case.tolerance
        assert not waited, "the default stream had to wait for the other one"


def test_a_call_on_the_default_stream_comes_after_torch_s_own_work(library: cudnn.Library, handle: int) -> None:
    case = forward(PLAIN)
    o = drawn(case.layer, case.precision, case.layout)
    own = replace(o, x=o.x.clone())
    with bound(library, handle, case, own) as call:
        call.run()
        own.x.zero_()
        cuda._sleep(_SLEEP_CYCLES // 20)
        own.x.copy_(o.x)
        call.run()
        assert call.error() <= case.tolerance


def test_threads_with_handles_of_their_own_run_different_layers_at_once(library: cudnn.Library, handle: int) -> None:
    names = ("3x3", "5x5")
    for name in names:
        expected(forward(LAYERS[name]))
    torch.cuda.synchronize()
    together = threading.Barrier(len(names))

    def work(name: str) -> tuple[int, list[float]]:
        torch.cuda.set_device(0)
        own, case = library.handle(0), forward(LAYERS[name])
        errors: list[float] = []
        with on_stream(library, own, torch.cuda.Stream()), bound(library, own, case) as call:
            for _ in range(30):
                call.poison()
                together.wait(60)
                call.run()
                errors.append(call.error())
        return own, errors

    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(work, names))
    handles = {own for own, _ in found}
    assert len(handles | {handle}) == 3
    for name, (_, errors) in zip(names, found, strict=True):
        assert all(error <= forward(LAYERS[name]).tolerance for error in errors), (name, errors)


def captured(call: Call, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a graph that stays empty because its call was refused
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            call.run()
    return graph


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("phase", PHASES)
def test_a_captured_call_gives_the_same_when_it_is_replayed(
    phase: Phase, precision: Precision, library: cudnn.Library, handle: int
) -> None:
    side = torch.cuda.Stream()
    worked: list[str] = []
    refused: dict[str, str] = {}
    for algorithm in cudnn.algorithms(PLAIN, phase):
        case = Case(layer=PLAIN, phase=phase, algorithm=algorithm, precision=precision, layout=Layout.NCHW)
        expected(case)
        torch.cuda.synchronize()
        try:
            with on_stream(library, handle, side), bound(library, handle, case) as call:
                call.run()
                torch.cuda.synchronize()
                graph = captured(call, side)
                call.poison()
                torch.cuda.synchronize()
                assert math.isnan(call.error())
                graph.replay()
                torch.cuda.synchronize()
                error = call.error()
        except REFUSED as exc:
            refused[algorithm.name] = str(exc).partition("\n")[0]
            continue
        assert error <= case.tolerance, (case, error)
        worked.append(algorithm.name)
    assert worked, refused
