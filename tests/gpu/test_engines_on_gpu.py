"""cuDNN's engines on the GPU: each that takes a layer computes what float64 does; lists, rows, prediction."""

import json
import random
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from latte_cli.algorithms import ENGINE_LISTS, FRAMEWORK_DEFAULT, HEURISTIC
from latte_cli.backends import computation
from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.backends.cpu.onednn_calls import difference
from latte_cli.backends.cuda.backend import CudaBackend
from latte_cli.backends.native import cudnn
from latte_cli.backends.torch.layers import FRAMEWORK_CONVOLUTIONS, Operands, operands
from latte_cli.devices import CUDA
from latte_cli.engines import is_engine, rankers
from latte_cli.layers import Convolution, Phase
from latte_cli.measure import DriftMonitor, Outcome, measure
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Task

RANDOM_LAYER = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/onednn_correctness.py"))["random_layer"]
TOLERANCES = {Precision.FP32: 1e-4, Precision.TF32: 1e-2, Precision.BF16: 3e-2, Precision.FP16: 1e-2}
PLAIN = Convolution(
    batch=8, in_channels=32, out_channels=64, input=(28, 28), kernel=(3, 3), pad_before=(1, 1), pad_after=(1, 1)
)


def layers(count: int) -> list[Convolution]:
    """Random layers of two dimensions that cuDNN can describe."""
    found = (RANDOM_LAYER(random.Random(seed)) for seed in range(100 * count))
    return [layer for layer in found if len(layer.input) == 2 and layer.symmetric][:count]


def exactly(layer: Convolution, phase: Phase, o: Operands) -> torch.Tensor:
    double = Operands(x=o.x.double(), w=o.w.double(), b=None, gy=o.gy.double())
    return FRAMEWORK_CONVOLUTIONS[phase](layer, double)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("precision", TOLERANCES)
def test_each_engine_computes_what_float64_does(
    backend: CudaBackend, precision: Precision, layout: Layout, record_property: Callable[[str, object], None]
) -> None:
    settings, ran, refused, wrong = backend.settings(precision, layout), 0, 0, []
    for layer in layers(50):
        o = operands(layer, settings, "cuda")
        bare = Operands(x=o.x, w=o.w, b=None, gy=o.gy)
        for phase in layer.phases:
            expected = exactly(layer, phase, bare)
            for algorithm in backend.candidates(layer, phase, settings):
                if not is_engine(algorithm):
                    continue
                try:
                    result = computation(algorithm, layer, phase, settings, "cuda:0")(bare)
                    torch.cuda.synchronize()
                except (Unsupported, OutOfMemory, Failed):
                    refused += 1
                    continue
                ran += 1
                off = difference(result.double(), expected)
                if not off <= TOLERANCES[precision]:
                    wrong.append((algorithm.name, str(phase), off, layer))
    record_property("engines", f"{precision} {layout}: {ran} right or wrong, {refused} refused, {len(wrong)} wrong")
    assert ran > 100
    assert not wrong, wrong[:10]


def test_rows_of_engines_have_notes_workspaces_and_times(backend: CudaBackend) -> None:
    settings, monitor = backend.settings(Precision.TF32, Layout.NCHW), DriftMonitor()
    for phase in PLAIN.phases:
        candidates = backend.candidates(PLAIN, phase, settings)
        assert rankers(candidates) == (HEURISTIC, *ENGINE_LISTS)
        names = {algorithm.name for algorithm in candidates}
        for ranker in ENGINE_LISTS:
            found = backend.ranking(Question(layer=PLAIN, phase=phase, ranker=ranker, settings=settings))
            assert ranker.mode != "A" or names & set(found)
        rows = [
            measure(
                backend,
                Task(layer=PLAIN, phase=phase, algorithm=algorithm, settings=settings),
                plan=CUDA.sampling,
                monitor=monitor,
            )
            for algorithm in candidates
            if is_engine(algorithm)
        ]
        ran = [row for row in rows if row.outcome is Outcome.OK]
        assert ran
        assert all(row.workspace_bytes is not None and row.deterministic is not None for row in ran)
        assert any("TENSOR_CORE" in row.notes for row in ran)
        assert all(row.seconds and row.seconds < 0.1 for row in ran)
    assert CUDA.rounds >= 1


def test_pytorch_runs_the_kernels_of_the_engine_that_its_rule_takes(
    backend: CudaBackend, library: cudnn.Library, handle: int, record_property: Callable[[str, object], None]
) -> None:
    from latte_cli.backends.cuda.calls import kernel_names
    from latte_cli.engines import Heuristic, Listed

    settings, agreed, asked = backend.settings(Precision.TF32, Layout.NCHW), 0, 0
    target = cudnn.EngineTarget(library, handle=handle)
    for layer in [layer for layer in layers(80) if not layer.depthwise and not layer.transposed][:30]:
        o = operands(layer, settings, "cuda")
        bare = Operands(x=o.x, w=o.w, b=None, gy=o.gy)
        for phase in layer.phases:
            with cudnn.graph(target, layer, phase, settings.precision, settings.layout) as graph:
                lists = {mode: graph.list_engines(mode) for mode in Heuristic}
                listed = Listed(operation=layer.computed_as(phase), engines=list(graph.engines()), lists=lists)
            own = computation(FRAMEWORK_DEFAULT, layer, phase, settings, "cuda:0")
            for engine in listed.pytorch(settings.precision):
                try:
                    predicted = computation(engine.algorithm, layer, phase, settings, "cuda:0")
                    predicted(bare)
                    break
                except (Unsupported, OutOfMemory, Failed):
                    continue
            else:
                continue
            own(bare)
            ran, expected = (set(kernel_names(partial(call, bare))) for call in (own, predicted))
            asked += 1
            agreed += bool(expected & ran)
    record_property("prediction", f"{agreed} of {asked} calls share a kernel with the engine that PyTorch's rule takes")
    assert asked > 30
    assert agreed > 0.5 * asked


def test_the_gpu_describes_itself_for_other_machines(library: cudnn.Library, handle: int) -> None:
    if library.version < (9, 8, 0):
        pytest.skip("cuDNN 9.8 describes devices")
    text = cudnn.properties(library, handle)
    found = json.loads(text)
    assert found["deviceName"] == torch.cuda.get_device_name(0)
    with cudnn.EngineTarget(library, json=text) as target:
        graph = cudnn.graph(target, PLAIN, Phase.FORWARD, Precision.TF32, Layout.NCHW)
        here = cudnn.graph(
            cudnn.EngineTarget(library, handle=handle), PLAIN, Phase.FORWARD, Precision.TF32, Layout.NCHW
        )
        with graph, here:
            assert [each.index for each in graph.engines()] == [each.index for each in here.engines()]
