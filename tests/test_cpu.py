"""The CPU as a device: its name, what it can time, and the workspace it reports."""

import inspect
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from math import prod
from multiprocessing import get_context

import pytest
import torch

from latte_cli import suites
from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends import host
from latte_cli.backends.contract import Unsupported
from latte_cli.backends.cpu.backend import CpuBackend
from latte_cli.backends.torch.layers import layer_call
from latte_cli.devices import CPU
from latte_cli.layers import Activation, Convolution, Layer, Optimizer, Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.suites import LayerLimits
from latte_cli.tasks import Settings, Task


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    return CpuBackend(threads=1, name="Test bench")


def task(backend: CpuBackend, layer: Layer, phase: Phase, algorithm: str = "DEFAULT", **more: object) -> Task:
    settings = backend.settings(more.get("precision", Precision.FP32), more.get("layout", Layout.NCHW))  # type: ignore[arg-type]
    return Task(layer=layer, phase=phase, algorithm=Algorithm(library="torch", name=algorithm), settings=settings)


def test_the_slug_holds_fleet_name_model_cores_and_threads(backend: CpuBackend) -> None:
    slug = backend.device.slug
    assert slug == host.cpu_slug(1, "Test bench")
    assert slug.startswith("test-bench-")
    assert slug.endswith(f"-{host.cores()}c-1t")
    assert host.cpu_slug() != host.cpu_slug(host.cores() + 1)


def test_naming_this_machine_imports_nothing_heavy() -> None:
    code = "import sys; from latte_cli.backends.host import cpu_slug; cpu_slug(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_device_tells_what_it_can_do(backend: CpuBackend) -> None:
    device = backend.device
    assert device.kind == CPU
    assert device.memory_bytes == host.memory_bytes() > 2**28
    assert 1e8 < (device.peak_flop_per_s or 0) < 1e14
    assert 1e8 < (device.bandwidth_bytes_per_s or 0) < 1e13
    assert dict(device.libraries)["torch"] == torch.__version__
    assert dict(device.libraries)["onednn"][0].isdigit()


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_every_kind_of_layer_can_be_timed_in_every_phase(
    backend: CpuBackend, precision: Precision, layout: Layout
) -> None:
    kinds: dict[tuple[str, str], Layer] = {}
    for item in suites.quick(0, LayerLimits(flops=2e7, tensor_bytes=2e7)).wanted:
        kinds.setdefault((item.layer.kind, getattr(item.layer, "function", "")), item.layer)
    if precision is Precision.BF16:
        del kinds["norm", "lrn"]  # torch has no bfloat16 kernel for its average over channels
    for layer in kinds.values():
        for phase in layer.phases:
            sample = backend.prepare(task(backend, layer, phase, precision=precision, layout=layout)).samples(1)[0]
            assert 0 < sample.device_s <= sample.host_s, layer


def test_im2col_reports_exactly_its_columns_as_workspace(backend: CpuBackend) -> None:
    layer = Convolution(
        batch=3, in_channels=16, out_channels=24, input=(30, 20), kernel=(3, 3), pad_before=(1, 1), pad_after=(1, 1)
    )
    prepared = backend.prepare(task(backend, layer, Phase.FORWARD, "IM2COL_GEMM"))
    assert prepared.facts().workspace_bytes == 3 * 16 * 9 * 30 * 20 * 4


def test_a_default_pointwise_product_needs_next_to_no_workspace(backend: CpuBackend) -> None:
    layer = Convolution(batch=2, in_channels=16, out_channels=16, input=(32, 32), kernel=(1, 1))
    workspace = backend.prepare(task(backend, layer, Phase.FORWARD, "GEMM_1X1")).facts().workspace_bytes
    assert workspace is not None
    assert workspace < 4096


def test_an_isolated_backward_call_is_charged_for_its_node_only(backend: CpuBackend) -> None:
    layer = Activation(function="relu", shape=(4, 8))
    sample = backend.prepare(task(backend, layer, Phase.BACKWARD)).samples(1)[0]
    assert sample.host_s - sample.device_s == pytest.approx(
        min(backend.backward_overhead_s, sample.host_s - 1e-9), rel=1e-6
    )


def test_an_update_moves_the_weights_and_drops_the_gradients() -> None:
    update = layer_call(Optimizer(function="sgd", tensors=3, elements=10), Phase.UPDATE, Settings())
    weights = inspect.getclosurevars(update.reset).nonlocals["weights"]
    assert [weight.numel() for weight in weights] == [4, 3, 3]
    before = [weight.detach().clone() for weight in weights]
    update.reset()
    update.call()
    assert all(not torch.equal(a, b) for a, b in zip(before, weights, strict=True))
    assert all(weight.grad is None for weight in weights)


def test_what_does_not_apply_is_refused_before_anything_is_allocated(backend: CpuBackend) -> None:
    layer = Convolution(batch=2**15, in_channels=2**10, out_channels=2**10, input=(2**6, 2**6), kernel=(3, 3))
    with pytest.raises(Unsupported, match="GEMM_1X1 does not apply"):
        backend.prepare(task(backend, layer, Phase.FORWARD, "GEMM_1X1"))
    with pytest.raises(Unsupported, match="no WINOGRAD_6X6"):
        backend.prepare(task(backend, layer, Phase.FORWARD, "WINOGRAD_6X6"))


def test_candidates_start_with_the_framework_s_choice(backend: CpuBackend) -> None:
    settings = backend.settings(Precision.FP32, Layout.NCHW)
    layer = Convolution(batch=2, in_channels=8, out_channels=8, input=(9, 9), kernel=(1, 1))
    for phase in layer.phases:
        found = backend.candidates(layer, phase, settings)
        assert found[0] == FRAMEWORK_DEFAULT
        assert len(found) > 5
    assert backend.candidates(layer, Phase.UPDATE, settings) == ()
    assert backend.candidates(Activation(function="relu", shape=(2, 3)), Phase.FORWARD, settings) == (
        FRAMEWORK_DEFAULT,
    )


def test_waiting_for_quiet_ends_at_its_limit(backend: CpuBackend) -> None:
    assert backend.settle(0.0) in (True, False)


@pytest.mark.alone  # it counts the page faults of a call
@pytest.mark.skipif(not host.Heap().warm, reason="another C library keeps its heap as it likes")
@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.BACKWARD])
def test_small_results_stay_on_the_heap_and_large_ones_are_mapped_anew(phase: Phase) -> None:
    shapes = [(4, 64, 64, 64), (4, 64, 224, 224), (4, 64, 64, 64)]
    tried = []
    for _ in range(2):  # where a busy machine's kernel takes pages back meanwhile, once more
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as young:  # as a worker is: its heap has no holes
            (small, few), (large, many), (again, _) = young.submit(faults, phase, shapes).result()
        assert large > 0.9 * many
        tried.append(max(small, again) / few)
        if tried[-1] < 0.1:
            break
    assert tried[-1] < 0.1


def faults(phase: Phase, shapes: list[tuple[int, ...]]) -> list[tuple[int, int]]:
    """For each shape the fewest page faults of a sample, and the pages of a result."""
    backend, results = CpuBackend(threads=1, name="Test bench"), []
    for shape in shapes:
        prepared, found = backend.prepare(task(backend, Activation(function="relu", shape=shape), phase)), []
        prepared.samples(2)
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            prepared.samples(1)
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        results.append((min(found), 4 * prod(shape) // resource.getpagesize()))
    return results
