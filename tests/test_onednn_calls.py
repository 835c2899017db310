"""oneDNN's implementations as algorithms of the CPU: listed, computed on torch's tensors, checked, timed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from latte_cli.algorithms import FRAMEWORK_DEFAULT, HEURISTIC, LISTED, Algorithm
from latte_cli.backends import computation
from latte_cli.backends.contract import Failed, Unsupported
from latte_cli.backends.cpu import onednn_calls
from latte_cli.backends.cpu.backend import CpuBackend, libraries
from latte_cli.backends.cpu.onednn_calls import check_result, difference
from latte_cli.backends.torch.layers import FRAMEWORK_CONVOLUTIONS, Operands, operands
from latte_cli.engines import rankers
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Settings, Task

pytestmark = pytest.mark.skipif(onednn_calls.library() is None, reason="`pip install onednn-cpu-gomp`")

ORDINARY: dict[str, Any] = {"batch": 2, "in_channels": 16, "out_channels": 24, "input": (20, 17), "kernel": (3, 3)}
PLAIN = Convolution(**ORDINARY, pad_before=(1, 1), pad_after=(1, 1), bias=True)
LAYERS = {
    "plain": PLAIN,
    "depthwise": Convolution(**{**ORDINARY, "out_channels": 16, "groups": 16}, stride=(2, 2)),
    "transposed": Convolution(**ORDINARY, stride=(2, 2), transposed=True, output_padding=(1, 1), bias=True),
    "1-D": Convolution(batch=2, in_channels=8, out_channels=4, input=(50,), kernel=(5,), pad_before=(4,), bias=True),
    "3-D": Convolution(batch=1, in_channels=8, out_channels=4, input=(6, 7, 8), kernel=(3, 3, 3), dilation=(1, 2, 1)),
}


def exactly(layer: Convolution, phase: Phase, o: Operands) -> torch.Tensor:
    double = Operands(x=o.x.double(), w=o.w.double(), b=None if o.b is None else o.b.double(), gy=o.gy.double())
    return FRAMEWORK_CONVOLUTIONS[phase](layer, double)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_each_implementation_computes_on_torchs_tensors(layer: Convolution, layout: Layout) -> None:
    settings = Settings(layout=layout)
    o = operands(layer, settings)
    for phase in layer.phases:
        expected = exactly(layer, phase, o)
        found = onednn_calls.candidates(layer, phase, settings)
        assert found
        for algorithm in found:
            result = computation(algorithm, layer, phase, settings, "cpu")(o)
            assert difference(result.double(), expected) < 1e-5, algorithm
            assert result.dtype == o.x.dtype
            last = {4: torch.channels_last, 5: torch.channels_last_3d} if layout is Layout.CHANNELS_LAST else {}
            assert result.is_contiguous(memory_format=last.get(result.ndim, torch.contiguous_format))


def test_other_strides_than_expected_are_copied_first() -> None:
    o = operands(PLAIN, Settings())
    last = Operands(x=o.x.contiguous(memory_format=torch.channels_last), w=o.w, b=o.b, gy=o.gy)
    for algorithm in onednn_calls.candidates(PLAIN, Phase.FORWARD, Settings()):
        compute = computation(algorithm, PLAIN, Phase.FORWARD, Settings(), "cpu")
        assert torch.equal(compute(last), compute(o))


def test_tensors_of_another_shape_or_type_are_refused() -> None:
    algorithm = onednn_calls.candidates(PLAIN, Phase.FORWARD, Settings())[0]
    compute = computation(algorithm, PLAIN, Phase.FORWARD, Settings(), "cpu")
    o = operands(PLAIN, Settings())
    for wrong in (replace(o, x=o.x[:1]), replace(o, w=o.w.double()), replace(o, b=None)):
        with pytest.raises(Unsupported, match="was made for"):
            compute(wrong)


@pytest.mark.parametrize("name", ["brgconv:sve_4096", "ref:any+reorder#9", "", "x" * 1000])
def test_a_name_of_another_machine_is_unsupported(name: str) -> None:
    with pytest.raises(Unsupported, match="implementation of oneDNN's"):
        computation(Algorithm(library="onednn", name=name), PLAIN, Phase.FORWARD, Settings(), "cpu")


def test_a_gpu_has_none_of_them() -> None:
    with pytest.raises(Unsupported, match="on cuda"):
        computation(Algorithm(library="onednn", name="ref:any"), PLAIN, Phase.FORWARD, Settings(), "cuda")


def test_the_thread_count_follows_torchs() -> None:
    o, before = operands(PLAIN, Settings()), torch.get_num_threads()
    compute = computation(
        onednn_calls.candidates(PLAIN, Phase.FORWARD, Settings())[0], PLAIN, Phase.FORWARD, Settings(), "cpu"
    )
    try:
        results = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            results.append(compute(o))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(results[0], results[1], atol=1e-4)
    assert torch.equal(results[0], results[2])


def test_several_threads_may_call_one_computation() -> None:
    o = operands(PLAIN, Settings())
    for algorithm in onednn_calls.candidates(PLAIN, Phase.BACKWARD_DATA, Settings()):
        compute = computation(algorithm, PLAIN, Phase.BACKWARD_DATA, Settings(), "cpu")
        expected = compute(o)
        with ThreadPoolExecutor(4) as threads:
            results = list(threads.map(compute, [o] * 20))
        assert all(torch.allclose(result, expected, atol=1e-4) for result in results)


def test_the_cpu_lists_them_after_torchs_own_and_names_the_library() -> None:
    backend = CpuBackend(threads=1)
    settings = backend.settings(Precision.FP32, Layout.NCHW)
    found = backend.candidates(PLAIN, Phase.FORWARD, settings)
    kinds = [algorithm.library for algorithm in found]
    assert found[0] == FRAMEWORK_DEFAULT
    assert kinds == sorted(kinds, reverse=True)
    assert {"torch", "onednn"} == set(kinds)
    versions = dict(libraries())
    assert list(versions) == ["onednn", "onednn_external", "torch"]
    assert dict(backend.device.libraries) == versions


def test_their_order_is_a_row_of_its_own() -> None:
    backend = CpuBackend(threads=1)
    settings = backend.settings(Precision.FP32, Layout.NCHW)
    found = backend.candidates(PLAIN, Phase.FORWARD, settings)
    assert rankers(found) == (LISTED,)
    names = backend.ranking(Question(layer=PLAIN, phase=Phase.FORWARD, ranker=LISTED, settings=settings))
    assert sorted(names) == sorted(each.name for each in found if each.library == LISTED.library)
    with pytest.raises(Unsupported, match="no HEURISTIC_V7 on a CPU"):
        backend.ranking(Question(layer=PLAIN, phase=Phase.FORWARD, ranker=HEURISTIC, settings=settings))
    assert onednn_calls.candidates(PLAIN, Phase.UPDATE, settings) == ()


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_each_of_them_can_be_timed(precision: Precision, layout: Layout) -> None:
    backend = CpuBackend(threads=1)
    settings = backend.settings(precision, layout)
    for phase in PLAIN.phases:
        for algorithm in onednn_calls.candidates(PLAIN, phase, settings):
            prepared = backend.prepare(Task(layer=PLAIN, phase=phase, algorithm=algorithm, settings=settings))
            assert all(sample.device_s > 0 for sample in prepared.samples(2))
            workspace = prepared.facts().workspace_bytes
            assert workspace is not None
            if algorithm.name.endswith("+reorder"):
                assert workspace > 0


def test_a_wrong_result_is_a_failure() -> None:
    o = operands(PLAIN, Settings())
    right = FRAMEWORK_CONVOLUTIONS[Phase.FORWARD](PLAIN, o)
    check_result(Settings(), right, right.double())
    for wrong in (right + 0.01, right * float("nan"), right[:1], right.index_fill(0, torch.tensor([1]), 0.0)):
        with pytest.raises(Failed, match="wrong result: off by"):
            check_result(Settings(), wrong, right.double())


WITHOUT = """
import sys
from latte_cli.backends.cpu import onednn_calls
from latte_cli.backends.cpu.backend import CpuBackend, libraries
from latte_cli.engines import rankers
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision
if sys.argv[1:]:
    import latte_cli.backends.native.onednn.find as find
    find.PACKAGE = sys.argv[1]
backend = CpuBackend(threads=1)
settings = backend.settings(Precision.FP32, Layout.NCHW)
layer = Convolution(batch=1, in_channels=2, out_channels=2, input=(5, 5), kernel=(3, 3))
print({each.library for each in backend.candidates(layer, Phase.FORWARD, settings)}, len(libraries()))
"""


def test_a_library_that_is_named_and_does_not_open_is_an_error(tmp_path: os.PathLike[str]) -> None:
    environment = {**os.environ, "LATTE_ONEDNN": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, env=environment)
    assert "LatteError: LATTE_ONEDNN is" in done.stderr


def test_without_the_library_the_rest_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT, "no-such-package"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("{'torch'} 2\n", "{'torch', 'onednn'} 3\n")  # the system may have one
