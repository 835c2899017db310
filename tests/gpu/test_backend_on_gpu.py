"""The backend on a real GPU: what it says of the device, and what it measures on it."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_convolutions import LAYERS, TOLERANCES, convolution, reference, relative_error

from latte_cli.algorithms import (
    FRAMEWORK_BENCHMARK,
    FRAMEWORK_DEFAULT,
    HEURISTIC,
    Algorithm,
    kernel_family,
    known_algorithm,
)
from latte_cli.backends.contract import OutOfMemory, Prepared, Unsupported
from latte_cli.backends.cuda import backend as cuda
from latte_cli.backends.cuda.backend import CudaBackend
from latte_cli.backends.cuda.calls import Calls, kernel_names
from latte_cli.backends.native import cudnn
from latte_cli.backends.native.cudnn.library import version
from latte_cli.backends.torch.layers import operands
from latte_cli.devices import CUDA
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Activation, Convolution, Layer, Linear, Phase
from latte_cli.measure import DriftMonitor, Evidence, Measurement, Outcome, QualityFlag, measure
from latte_cli.precisions import Layout, Precision
from latte_cli.suites import LayerLimits, quick
from latte_cli.tasks import Question, Settings, Task

# What torch warns of depends on its version: the summary shows it, and no test fails for it.
pytestmark = pytest.mark.filterwarnings("default")

LARGE = convolution(32, (64, 128), (56, 56), (3, 3), pad=(1, 1))
TINY = Activation(function="relu", shape=(1, 8, 4, 4))
GEMM = Algorithm(library="cudnn", name="GEMM", vendor_id=2)
PRECOMPUTED = Algorithm(library="cudnn", name="IMPLICIT_PRECOMP_GEMM", vendor_id=1)


def settings_of(backend: CudaBackend, precision: Precision, layout: Layout = Layout.NCHW) -> Settings:
    """Settings for the GPU; skips where it has no such precision."""
    try:
        return backend.settings(precision, layout)
    except LatteError as exc:
        pytest.skip(exc.message)


def measured(
    backend: CudaBackend,
    layer: Layer,
    phase: Phase,
    settings: Settings,
    algorithm: Algorithm = FRAMEWORK_DEFAULT,
    monitor: DriftMonitor | None = None,
) -> Measurement:
    task = Task(layer=layer, phase=phase, algorithm=algorithm, settings=settings)
    return measure(backend, task, plan=CUDA.sampling, monitor=monitor or DriftMonitor())


def prepared(backend: CudaBackend, layer: Layer, settings: Settings) -> Prepared:
    return backend.prepare(Task(layer=layer, phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT, settings=settings))


def test_the_device_tells_what_it_is(backend: CudaBackend) -> None:
    device, properties = backend.device, torch.cuda.get_device_properties(0)
    assert (device.kind, device.name) == (CUDA, properties.name)
    assert device.slug
    assert device.compute_capability == f"{properties.major}.{properties.minor}"
    assert device.memory_bytes == properties.total_memory
    assert device.multiprocessors == properties.multi_processor_count
    assert 2**18 <= (device.cache_bytes or 0) <= 2**30
    assert device.bandwidth_bytes_per_s is not None
    assert 1e9 < device.bandwidth_bytes_per_s < 1e14
    if device.rated_bandwidth_bytes_per_s:
        share = device.bandwidth_bytes_per_s / device.rated_bandwidth_bytes_per_s
        assert 0.3 < share < 1.05, share


def test_the_peaks_are_those_of_a_gpu(backend: CudaBackend) -> None:
    device = backend.device
    peaks = dict(device.peaks_flop_per_s)
    assert all(1e11 < peak < 1e17 for peak in peaks.values()), peaks
    assert device.peak_flop_per_s == peaks["fp32"]
    if int(device.compute_capability.partition(".")[0]) >= 8:
        assert set(peaks) == set(Precision)
        assert peaks["bf16"] > peaks["fp32"], peaks
        assert peaks["fp16"] > peaks["fp32"], peaks
        assert peaks["tf32"] > 0.9 * peaks["fp32"], peaks


def test_our_cudnn_is_the_one_that_torch_uses(backend: CudaBackend) -> None:
    libraries = dict(backend.device.libraries)
    number = torch.backends.cudnn.version()
    assert number is not None
    assert libraries["cudnn"] == ".".join(map(str, version(number))), cudnn.open_library()
    assert libraries["cuda"] == torch.version.cuda
    assert backend.settings(Precision.FP32, Layout.NCHW).library_versions == backend.device.libraries


def test_a_precision_that_the_gpu_does_not_offer_is_refused(
    backend: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cuda._LEAST_CAPABILITY, Precision.BF16, (99, 0))
    with pytest.raises(LatteError, match="bf16 is not offered") as raised:
        backend.settings(Precision.BF16, Layout.NCHW)
    assert raised.value.exit_code == ExitCode.USAGE
    assert "fp32" in (raised.value.hint or "")


def test_what_can_be_observed_is_in_range(backend: CudaBackend) -> None:
    conditions, reference_ = backend.conditions(), backend.reference()
    assert reference_.device_s > 0
    if conditions.sm_clock_hz is None:
        pytest.skip("NVML tells no clocks here")
    assert 1e8 < conditions.sm_clock_hz < 5e9
    assert 0 < (conditions.temperature_c or 20) < 120
    assert 1 < (conditions.power_w or 100) < 3000


def sort(layer: Layer) -> tuple[object, ...]:
    """What makes a layer another kind of work to torch: all but its sizes."""
    names = ("function", "operation", "transposed", "depthwise", "whole", "bias")
    ranks = (len(getattr(layer, "input", ())), len(getattr(layer, "shape", ())))
    return (layer.kind, *(getattr(layer, name, None) for name in names), *ranks)


def kinds() -> list[Layer]:
    """One layer of each sort that the quick suite draws."""
    found: dict[tuple[object, ...], Layer] = {}
    for wanted in quick(0, LayerLimits(flops=2e8, tensor_bytes=2e8)).wanted:
        found.setdefault(sort(wanted.layer), wanted.layer)
    return list(found.values())


def described(row: Measurement) -> str:
    task = row.task
    return f"{task.layer} {task.phase}: {row.outcome} {row.detail} {row.seconds} {row.flags}"


@pytest.mark.parametrize(
    ("precision", "layout"),
    [
        (Precision.FP32, Layout.NCHW),
        (Precision.TF32, Layout.CHANNELS_LAST),
        (Precision.FP16, Layout.CHANNELS_LAST),
        (Precision.BF16, Layout.NCHW),
        (Precision.BF16_AUTOCAST, Layout.NCHW),
    ],
)
def test_every_kind_of_layer_is_measured_in_every_phase(
    precision: Precision, layout: Layout, backend: CudaBackend
) -> None:
    settings, monitor = settings_of(backend, precision, layout), DriftMonitor()
    pairs = [(layer, phase) for layer in kinds() for phase in layer.phases]
    assert len({layer.kind for layer, _ in pairs}) >= 13
    assert all(FRAMEWORK_DEFAULT in backend.candidates(layer, phase, settings) for layer, phase in pairs)
    rows = [measured(backend, layer, phase, settings, monitor=monitor) for layer, phase in pairs]
    failures = [row for row in rows if row.outcome is not Outcome.OK or not (row.seconds or 0) > 0]
    assert not failures, "\n".join(map(described, failures))
    assert all(time_s > 0 for row in rows for time_s in (*row.device_times_s, *row.host_times_s))
    assert all(row.workspace_bytes is not None for row in rows)
    disturbed = [row for row in rows if QualityFlag.DISTURBED in row.flags]
    assert len(disturbed) < len(rows) / 2, "\n".join(map(described, disturbed))
    assert backend.sound


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16])
def test_a_large_product_runs_near_the_measured_peak(precision: Precision, backend: CudaBackend) -> None:
    settings, peaks = settings_of(backend, precision), dict(backend.device.peaks_flop_per_s)
    layer = Linear(rows=8192, in_features=4096, out_features=8192, bias=False)
    row = measured(backend, layer, Phase.FORWARD, settings)
    assert row.seconds is not None, described(row)
    rate = layer.flops(Phase.FORWARD) / row.seconds
    assert 0.2 < rate / peaks[precision] < 1.05, (rate, peaks[precision], row.flags)


def test_caches_are_flushed_before_each_long_call_and_before_ten_short_ones(backend: CudaBackend) -> None:
    settings = backend.settings(Precision.FP32, Layout.NCHW)
    long, short = prepared(backend, LARGE, settings), prepared(backend, TINY, settings)
    for ready, state in ((long, "l2_input"), (short, "l2_input_before_10")):
        ready.samples(2)
        samples = ready.samples(5)
        assert ready.cache_state == state, samples
        assert all(sample.device_s > 0 for sample in samples)
    assert sorted(sample.device_s for sample in long.samples(5))[2] > 20e-6
    assert sorted(sample.device_s for sample in short.samples(5))[2] < 20e-6


def test_what_a_convolution_of_torch_s_takes_beyond_its_tensors_is_reported(backend: CudaBackend) -> None:
    found: dict[tuple[str, Precision, Phase], int | None] = {}
    for precision in (Precision.FP32, Precision.FP16):
        settings = settings_of(backend, precision)
        for algorithm, phase in itertools.product((FRAMEWORK_DEFAULT, FRAMEWORK_BENCHMARK), LARGE.phases):
            row = measured(backend, LARGE, phase, settings, algorithm)
            assert row.outcome is Outcome.OK, described(row)
            found[algorithm.name, precision, phase] = row.workspace_bytes
    assert None not in found.values(), found
    assert any(found.values()), found
    assert max(size or 0 for size in found.values()) < 2**35, found


def test_the_workspace_of_an_algorithm_is_what_cudnn_asks_for(backend: CudaBackend, library: cudnn.Library) -> None:
    settings, handle = backend.settings(Precision.FP32, Layout.NCHW), library.handle(0)
    checked = Counter[Phase]()
    for phase in LARGE.phases:
        for algorithm in cudnn.algorithms(LARGE, phase):
            row = measured(backend, LARGE, phase, settings, algorithm)
            if row.outcome is Outcome.OK:
                with cudnn.problem(library, LARGE, Precision.FP32, Layout.NCHW) as problem:
                    assert row.workspace_bytes == problem.workspace_bytes(handle, phase, algorithm), algorithm
                about = known_algorithm(algorithm)
                assert row.deterministic is (about.deterministic if about else None)
                checked[phase] += 1
            assert row.outcome in (Outcome.OK, Outcome.UNSUPPORTED), described(row)
    assert min(checked[phase] for phase in LARGE.phases) >= 1, checked


def test_cudnn_s_heuristic_answers_with_names_of_algorithms(backend: CudaBackend) -> None:
    for phase in LARGE.phases:
        settings = backend.settings(Precision.FP32, Layout.NCHW)
        question = Question(layer=LARGE, phase=phase, ranker=HEURISTIC, settings=settings)
        row = measure(backend, question, plan=CUDA.sampling, monitor=DriftMonitor())
        assert row.evidence is Evidence.LABEL, described(row)
        assert row.ranking
        assert set(row.ranking) <= {algorithm.name for algorithm in cudnn.algorithms(LARGE, phase)}
        assert row.seconds is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_kernels_of_a_convolution_and_a_product_are_found(dtype: torch.dtype, backend: CudaBackend) -> None:
    kind: dict[str, Any] = {"device": "cuda", "dtype": dtype}
    x, w = torch.randn(8, 64, 28, 28, **kind), torch.randn(64, 64, 3, 3, **kind)
    a, b = torch.randn(512, 512, **kind), torch.randn(512, 512, **kind)

    def convolve() -> torch.Tensor:
        return torch.nn.functional.conv2d(x, w, padding=1)

    def multiply() -> torch.Tensor:
        return a @ b

    for call in (convolve, multiply):
        call()
    of_convolution, of_product = kernel_names(convolve), kernel_names(multiply)
    if not (of_convolution or of_product):
        pytest.skip("torch's profiler lists no kernels here")
    assert of_convolution
    assert of_product
    assert kernel_family(of_convolution) is not None, of_convolution


NAMES = (
    "3x3 with bias", "1x1 stride 2", "depthwise", "2 groups", "dilation 2", "1-D", "3-D",
    "transposed with output padding", "transposed 1-D",
)  # fmt: skip
UNEVEN = Convolution(
    batch=2, in_channels=8, out_channels=12, input=(15, 14), kernel=(3, 3), stride=(2, 2), pad_before=(0, 0),
    pad_after=(1, 1), bias=True,
)  # fmt: skip


def results(backend: CudaBackend, calls: Calls, layer: Convolution, settings: Settings) -> Iterator[tuple[Task, Any]]:
    """What each algorithm computes as a task, where it runs."""
    for phase in layer.phases:
        for algorithm in backend.candidates(layer, phase, settings):
            task = Task(layer=layer, phase=phase, algorithm=algorithm, settings=settings)
            try:
                backend.prepare(task)  # sets torch's flags, too
                ready = backend.guard(lambda task=task: calls.ready(task))  # type: ignore[misc]
                yield task, backend.guard(ready.call.call)
            except (Unsupported, OutOfMemory):
                assert algorithm not in (FRAMEWORK_DEFAULT, FRAMEWORK_BENCHMARK), task


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16])
def test_tasks_compute_the_whole_layer_bias_included(
    precision: Precision, layout: Layout, backend: CudaBackend, library: cudnn.Library, handle: int
) -> None:
    settings, calls = settings_of(backend, precision, layout), Calls(library, handle)
    wrong: list[str] = []
    for layer in [LAYERS[name] for name in NAMES]:
        right = reference(layer, operands(layer, settings, "cuda"))
        for task, out in results(backend, calls, layer, settings):
            about = known_algorithm(task.algorithm)
            # What torch takes may be any family, Winograd as well.
            loose = about is not None and about.family in ("winograd", "fft", "framework")
            error = relative_error(out, right[task.phase])
            if not error <= TOLERANCES[precision][loose]:
                wrong.append(f"{layer} {task.phase} {task.algorithm.name}: {error:.1e}")
    assert not wrong, "\n".join(wrong)


def test_a_layer_with_uneven_padding_is_left_to_torch(backend: CudaBackend) -> None:
    settings = backend.settings(Precision.FP32, Layout.NCHW)
    rows = [measured(backend, UNEVEN, phase, settings) for phase in UNEVEN.phases]
    assert {row.outcome for row in rows} == {Outcome.OK}, "\n".join(map(described, rows))
    (row,) = [measured(backend, UNEVEN, Phase.FORWARD, settings, PRECOMPUTED)]
    assert row.outcome is Outcome.UNSUPPORTED
    assert "pads both sides alike" in row.detail
