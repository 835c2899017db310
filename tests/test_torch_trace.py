"""Traces of torch.profiler: what is found in them, what becomes of it, and which ones are refused."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ended, latte
from torch import nn
from traces import Document, document_of, encoder, first_step, on_gpu, training_step_of, write_trace

from latte_cli.devices import CUDA, ROCM, XPU
from latte_cli.errors import LatteError
from latte_cli.estimator import Estimator, estimate_one
from latte_cli.estimator.calibration import Calibration
from latte_cli.layers import Phase
from latte_cli.measure import IN_STEP
from latte_cli.network import Network, load
from latte_cli.network.zoo import export, network
from latte_cli.precisions import Layout, Precision
from latte_cli.store import open_store
from latte_cli.torch_trace import TraceImport, TraceRequest, import_trace

HERE = TraceRequest(device="desk", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of an encoder and its program, and one of a convolutional network."""
    path = tmp_path_factory.mktemp("traces")
    torch.manual_seed(0)
    model, x = encoder(), torch.randint(0, 100, (4, 8))
    batch = torch.export.Dim("batch", min=2, max=512)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), path / "encoder.pt2")
    write_trace(path / "encoder.json", training_step_of(model, x, 10, "Adam"))
    cnn = small_cnn()
    write_trace(path / "cnn.json.gz", training_step_of(cnn, torch.randn(4, 3, 16, 16), 10, momentum=0.9))
    torch.export.save(torch.export.export(cnn, (torch.randn(4, 3, 16, 16),)), path / "cnn.pt2")
    return path


def small_cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(8, 10)),
    )


def filed(folder: Path, name: str, request: TraceRequest = HERE, store: Path | None = None) -> TraceImport:
    """A trace of the folder read into a store."""
    trace = next(folder.glob(f"{name}.json*"))
    return import_trace(trace, loader(folder / f"{name}.pt2"), open_store(str(store or folder / name)), request)


def loader(path: Path) -> Callable[[int | None], Network]:
    return lambda batch: load(path, batch_size=batch)


# What is found


@pytest.mark.parametrize(("name", "optimizer"), [("encoder", "adam"), ("cnn", "momentum")])
def test_every_layer_of_a_step_is_found(folder: Path, tmp_path: Path, name: str, optimizer: str) -> None:
    found = filed(folder, name, store=tmp_path)
    assert (found.missing, found.strangers, found.steps, found.batch) == ((), (), 3, 4)
    assert found.optimizer == optimizer
    assert found.layers > 8


def test_rows_are_samples_of_calls_within_a_step(folder: Path, tmp_path: Path) -> None:
    found = filed(folder, "cnn", store=tmp_path)
    rows = list(open_store(str(tmp_path)).measurements("desk"))
    assert len(rows) == found.rows
    assert all(len(row.device_times_s) == 3 and row.cache_state == IN_STEP for row in rows)
    assert {row.task.settings.threads for row in rows} == {1}
    assert all(row.task.settings.library_versions == () for row in rows)  # a trace does not tell
    assert {row.task.phase for row in rows} >= {Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER, Phase.UPDATE}


def test_reading_a_trace_again_adds_nothing(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        found = filed(folder, "cnn", store=tmp_path)
    assert len(list(open_store(str(tmp_path)).measurements("desk"))) == found.rows


def test_an_imported_trace_alone_prices_the_step_that_it_is_of(folder: Path, tmp_path: Path) -> None:
    for name in ("encoder", "cnn"):
        trace = tmp_path / f"{name}.json"
        trace.write_text(json.dumps(first_step(document_of(next(folder.glob(f"{name}.json*"))))))
        store = open_store(str(tmp_path / name))
        found = import_trace(trace, loader(folder / f"{name}.pt2"), store, HERE)
        network = load(folder / f"{name}.pt2", batch_size=4)
        priced = estimate_one(store, "desk", network, optimizer=str(found.optimizer))
        assert not priced.missing
        # A call shorter than the profiler's own time is not taken below zero: on a busy machine the sum is too short.
        assert 0.8 * found.step_s < priced.step_s < 1.05 * found.step_s


def test_the_parts_of_a_step_add_up_to_its_calls(folder: Path, tmp_path: Path) -> None:
    trace = document_of(folder / "encoder.json")
    marks = [event["dur"] * 1e-6 for event in trace["traceEvents"] if str(event["name"]).startswith("ProfilerStep")]
    found = filed(folder, "encoder", store=tmp_path)
    assert 0.5 * min(marks) < found.traced_s < max(marks)
    assert 0 < found.step_s < found.traced_s  # less the profiler's own time


def test_the_time_of_a_step_without_the_profiler_is_taken_at_its_word(folder: Path, tmp_path: Path) -> None:
    traced_s = filed(folder, "encoder", store=tmp_path).traced_s
    request = TraceRequest(device="desk", threads=1, step_s=0.7 * traced_s)
    assert filed(folder, "encoder", request, store=tmp_path / "told").step_s == pytest.approx(0.7 * traced_s)
    with pytest.raises(LatteError, match="over 4 times"):
        filed(folder, "encoder", TraceRequest(device="desk", step_s=1e-6), store=tmp_path / "wrong")


def test_steps_without_marks_are_told_apart_by_their_updates(folder: Path, tmp_path: Path) -> None:
    trace = document_of(folder / "encoder.json")
    trace["traceEvents"] = [each for each in trace["traceEvents"] if not str(each["name"]).startswith("ProfilerStep")]
    (tmp_path / "t.json").write_text(json.dumps(trace))
    found = import_trace(tmp_path / "t.json", loader(folder / "encoder.pt2"), open_store(str(tmp_path / "s")), HERE)
    assert (found.steps, found.missing) == (3, ())


def test_a_step_that_clips_and_fills_has_rows_of_both(tmp_path: Path) -> None:
    model, x, y = small_cnn(), torch.randn(4, 3, 16, 16), torch.randint(0, 10, (4,))
    update = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        update.zero_grad(set_to_none=False)
        nn.functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update.step()

    store = open_store(str(tmp_path / "s"))
    import_trace(write_trace(tmp_path / "t.json", step), lambda batch: load(model, x), store, HERE)
    functions = {getattr(row.task.layer, "function", "") for row in store.measurements("desk")}
    assert {"clip-norm", "zero-grad", "sgd"} <= functions


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "wide": lambda wide: nn.Conv2d(wide, wide, 3, padding=1),
    "strided": lambda wide: nn.Conv2d(wide, wide, 3, padding=1, stride=2, bias=False),
    "pointwise": lambda wide: nn.Conv2d(wide, wide, 1),
    "depthwise": lambda wide: nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
    "transposed": lambda wide: nn.ConvTranspose2d(wide, wide, 2, stride=2),
    "batch norm": lambda wide: nn.BatchNorm2d(wide),
    "group norm": lambda wide: nn.GroupNorm(2, wide),
    "instance norm": lambda wide: nn.InstanceNorm2d(wide, affine=True),
    "relu": lambda wide: nn.ReLU(),
    "relu6": lambda wide: nn.ReLU6(),
    "gelu": lambda wide: nn.GELU(),
    "silu": lambda wide: nn.SiLU(),
    "sigmoid": lambda wide: nn.Sigmoid(),
    "tanh": lambda wide: nn.Tanh(),
    "leaky": lambda wide: nn.LeakyReLU(),
    "elu": lambda wide: nn.ELU(),
    "hardswish": lambda wide: nn.Hardswish(),
    "dropout": lambda wide: nn.Dropout(),
    "max pool": lambda wide: nn.MaxPool2d(3, stride=1, padding=1),
    "average pool": lambda wide: nn.AvgPool2d(3, stride=1, padding=1),
    "softmax": lambda wide: nn.Softmax(dim=1),
}


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=2, max_size=9), st.integers(1, 4), st.integers(0, 2**16))
def test_layers_of_any_network_are_found_or_named(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], batch: int, seed: int
) -> None:
    path, wide = tmp_path_factory.mktemp("any"), 2 * random.Random(seed).randint(2, 6)
    torch.manual_seed(seed)
    body = [LAYERS[name](wide) for name in names]
    model = nn.Sequential(nn.Conv2d(3, wide, 3), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 5))
    x = torch.randn(batch + 1, 3, 12, 12)
    trace = write_trace(path / "t.json", training_step_of(model, x, 5), steps=2)
    read = load(model, x)
    store = open_store(str(path / "s"))
    found = import_trace(trace, lambda size: read, store, HERE)
    assert (found.missing, found.strangers) == ((), ())
    whole = [each["dur"] * 1e-6 for each in document_of(trace)["traceEvents"] if "ProfilerStep" in str(each["name"])]
    assert 0.3 * min(whole) < found.traced_s <= max(whole)
    rows = {(row.task.layer, row.task.phase) for row in store.measurements("desk")}
    wanted = {
        node.layer.measured_as(phase) for node in read.nodes for phase in read.phases(node) if not node.layer.free
    }
    assert wanted <= rows


class Calls(nn.Module):
    """A module of others, in a function's way."""

    def __init__(self, compute: Callable[..., torch.Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.compute, self.modules_of = compute, nn.ModuleList(modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(x, *self.modules_of)


def head(wide: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 5))


IMAGES, WORDS = (3, 6, 8, 8), (3, 7, 16)
WHOLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (lambda: Calls(lambda x, c, h: h(x + c(x)), nn.Conv2d(6, 6, 1), head(6)), IMAGES),
    "concatenated": (lambda: Calls(lambda x, c, h: h(torch.cat([x, c(x)], 1)), nn.Conv2d(6, 6, 1), head(12)), IMAGES),
    "gated": (
        lambda: Calls(lambda x, c, h: h(x * torch.sigmoid(c(x.mean((2, 3), True)))), nn.Conv2d(6, 6, 1), head(6)),
        IMAGES,
    ),
    "split": (lambda: Calls(lambda x, c, h: h(sum(torch.chunk(c(x), 2, 1))), nn.Conv2d(6, 12, 3), head(6)), IMAGES),
    "shuffled": (
        lambda: Calls(lambda x, c, h: h(nn.functional.pixel_shuffle(c(x), 2)), nn.Conv2d(6, 12, 3), head(3)),
        IMAGES,
    ),
    "resized": (
        lambda: Calls(lambda x, c, h: h(nn.functional.interpolate(c(x), scale_factor=2)), nn.Conv2d(6, 6, 3), head(6)),
        IMAGES,
    ),
    "recurrent": (lambda: Calls(lambda x, r, h: h(r(x)[0][-1]), nn.LSTM(16, 8, num_layers=2), nn.Linear(8, 5)), WORDS),
    "multiplied": (
        lambda: Calls(
            lambda x, q, h: h(torch.softmax(q(x) @ x.transpose(1, 2), -1).mean(1)), nn.Linear(16, 16), nn.Linear(7, 5)
        ),
        WORDS,
    ),
    "attending": (
        lambda: Calls(
            lambda x, q, h: h(nn.functional.scaled_dot_product_attention(q(x), x, x).mean(1)),
            nn.Linear(16, 16),
            nn.Linear(16, 5),
        ),
        WORDS,
    ),
    "normed": (lambda: Calls(lambda x, n, h: h(n(x).amax(1)), nn.RMSNorm(16), nn.Linear(16, 5)), WORDS),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_networks_are_made_of_is_found(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    make, shape = WHOLE[name]
    model, x = make(), torch.randn(shape)
    y = torch.randint(0, 5, (len(model(x)),))
    update = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        update.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        update.step()

    trace = write_trace(tmp_path / "t.json", step, steps=1)
    found = import_trace(trace, lambda batch: load(model, x), open_store(str(tmp_path / "s")), HERE)
    assert ([each for each in found.missing if "getitem" not in each], found.strangers) == ([], ())


def test_calls_within_a_step_are_not_calibrated_as_calls_alone_are(folder: Path, tmp_path: Path) -> None:
    filed(folder, "cnn", store=tmp_path)
    network, store = load(folder / "cnn.pt2", batch_size=4), open_store(str(tmp_path))
    odd = Calibration(forward_s=1.0, backward_s=1.0, host_forward=3.0)
    plain, calibrated = (
        Estimator(store, "desk", calibration=each).estimate(network, "momentum") for each in (None, odd)
    )
    assert calibrated.step_s == plain.step_s > 0


# Other devices


@pytest.mark.parametrize(
    ("name", "launch", "runtime", "kind", "slug"),
    [
        ("NVIDIA H100 80GB", "cudaLaunchKernel", "cuda_runtime", CUDA, "nvidia-h100-80gb"),
        ("AMD Instinct MI300X", "hipLaunchKernel", "cuda_runtime", ROCM, "amd-instinct-mi300x"),
        (
            "Intel Data Center GPU Max 1550",
            "urEnqueueKernelLaunch",
            "xpu_runtime",
            XPU,
            "intel-data-center-gpu-max-1550",
        ),
    ],
)
def test_kernels_are_filed_under_the_gpu_that_the_trace_names(
    folder: Path, tmp_path: Path, name: str, launch: str, runtime: str, kind: object, slug: str
) -> None:
    trace = on_gpu(document_of(folder / "encoder.json"), name, launch=launch, runtime=runtime)
    (tmp_path / "encoder.json").write_text(json.dumps(trace))
    store = open_store(str(tmp_path / "s"))
    found = import_trace(tmp_path / "encoder.json", loader(folder / "encoder.pt2"), store, TraceRequest())
    assert (found.device.slug, found.device.kind, found.missing) == (slug, kind, ())
    assert found.device.memory_bytes == 80 << 30
    rows = list(store.measurements(slug))
    kernels_s = sum(each["dur"] for each in trace["traceEvents"] if each.get("cat") == "kernel") * 1e-6
    assert 0 < sum(row.seconds or 0 for row in rows) < kernels_s
    assert any(row.kernels for row in rows)
    assert not any(row.task.settings.threads for row in rows)
    priced = estimate_one(
        open_store(str(tmp_path / "s")), slug, load(folder / "encoder.pt2", batch_size=4), optimizer="adam"
    )
    assert not priced.missing


def test_types_and_kernels_tell_the_precision(folder: Path, tmp_path: Path) -> None:
    plain = on_gpu(document_of(folder / "cnn.json.gz"), "GPU", launch="cudaLaunchKernel", runtime="cuda_runtime")
    text = json.dumps(plain)
    cases = {
        Precision.FP32: text,
        Precision.TF32: text.replace("kernel_of_", "sm80_xmma_gemm_f32f32_tf32f32_"),
        Precision.BF16: text.replace('"float"', '"c10::BFloat16"'),
        Precision.FP16_AUTOCAST: with_inner_type(plain, "c10::Half"),
    }
    for precision, content in cases.items():
        (tmp_path / "cnn.json").write_text(content)
        store = open_store(str(tmp_path / precision))
        found = import_trace(tmp_path / "cnn.json", loader(folder / "cnn.pt2"), store, TraceRequest())
        assert found.settings.precision is precision


def with_inner_type(document: Document, name: str) -> str:
    """The trace with products that are given another type than their outermost call is."""
    text = json.dumps(document)
    body: Document = json.loads(text)
    for event in body["traceEvents"]:
        types = event.get("args", {}).get("Input type")
        if types and event["name"] in (
            "aten::_convolution",
            "aten::mkldnn_convolution",
            "aten::convolution",
            "aten::addmm",
        ):
            event["args"]["Input type"] = [name if each == "float" else each for each in types]
    return json.dumps(body)


def test_strides_tell_the_layout(tmp_path: Path) -> None:
    model, x = small_cnn().to(memory_format=torch.channels_last), torch.randn(4, 3, 16, 16)
    x = x.to(memory_format=torch.channels_last)
    trace = write_trace(tmp_path / "t.json", training_step_of(model, x, 10), steps=1)
    found = import_trace(trace, lambda batch: load(model, x), open_store(str(tmp_path / "s")), HERE)
    assert found.settings.layout is Layout.CHANNELS_LAST
    assert any("trace at least 3" in doubt for doubt in found.doubts)


def test_an_apple_gpu_is_refused_since_its_kernels_are_not_timed(folder: Path, tmp_path: Path) -> None:
    text = json.dumps(document_of(folder / "cnn.json.gz"))
    (tmp_path / "t.json").write_text(text.replace("aten::mkldnn_convolution", "aten::_mps_convolution"))
    with pytest.raises(LatteError, match="Apple GPU"):
        import_trace(tmp_path / "t.json", loader(folder / "cnn.pt2"), open_store(str(tmp_path / "s")), HERE)


# What is refused


def test_a_cpu_has_to_be_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LatteError, match="does not name it") as caught:
        filed(folder, "cnn", TraceRequest(), store=tmp_path)
    assert "--device cpu" in str(caught.value.hint)
    with pytest.raises(LatteError, match="is no CPU"):
        filed(folder, "cnn", TraceRequest(device="cuda:0"), store=tmp_path)


def test_a_profile_of_another_kind_of_device_takes_no_rows(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LatteError, match="the trace of a CPU"):
        filed(folder, "cnn", TraceRequest(device="nvidia-h200-reference"), store=tmp_path)
    with pytest.raises(LatteError, match="no name for a device"):
        filed(folder, "cnn", TraceRequest(device="--"), store=tmp_path)


def test_a_trace_without_shapes_is_refused(folder: Path, tmp_path: Path) -> None:
    model, x = small_cnn(), torch.randn(4, 3, 16, 16)
    trace = write_trace(tmp_path / "t.json", training_step_of(model, x, 10), shapes=False)
    with pytest.raises(LatteError, match="no shapes") as caught:
        import_trace(trace, loader(folder / "cnn.pt2"), open_store(str(tmp_path / "s")), HERE)
    assert "record_shapes=True" in str(caught.value.hint)


def test_a_trace_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LatteError, match="another model"):
        import_trace(folder / "encoder.json", loader(folder / "cnn.pt2"), open_store(str(tmp_path / "s")), HERE)
    assert not list(open_store(str(tmp_path / "s")).devices(own=True))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_trace_that_is_cut_off_is_refused(folder: Path, tmp_path: Path, share: float) -> None:
    for name, content in (
        ("t.json", (folder / "encoder.json").read_bytes()),
        ("t.json.gz", (folder / "cnn.json.gz").read_bytes()),
    ):
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(LatteError) as caught:
            import_trace(tmp_path / name, loader(folder / "cnn.pt2"), open_store(str(tmp_path / "s")), HERE)
        assert caught.value.hint


EVENT = '{"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 1, "dur": 2, "args": {}}'
HOSTILE = {
    "empty": "",
    "no object": "[1, 2",
    "a number": "7",
    "a text": '"traceEvents"',
    "no events": "{}",
    "events that are none": '{"traceEvents": 3}',
    "only numbers": '{"traceEvents": [1, null, "x", []]}',
    "deep": '{"traceEvents": [' + "[" * 100_000,
    "deep in a fact": '{"a": ' + "[" * 100_000,
    "no time": '{"traceEvents": [' + EVENT.replace('"ts": 1', '"ts": "soon"') + "]}",
    "not a number": '{"traceEvents": [' + EVENT.replace('"ts": 1', '"ts": NaN') + "]}",
    "negative": '{"traceEvents": [' + EVENT.replace('"dur": 2', '"dur": -2') + "]}",
    "long number": '{"traceEvents": [' + EVENT.replace('"ts": 1', '"ts": 1' + "0" * 6000) + "]}",
    "shapes that are none": '{"traceEvents": [' + EVENT.replace("{}", '{"Input Dims": [[-1], ["a"]]}') + "]}",
    "binary": "\x00\x01\x02",
    "two documents": "{}{}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_trace_is_refused_in_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "t.json").write_text(HOSTILE[name])
    with pytest.raises(LatteError) as caught:
        import_trace(tmp_path / "t.json", loader(folder / "cnn.pt2"), open_store(str(tmp_path / "s")), HERE)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_an_event_longer_than_the_memory_is_refused(folder: Path, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "t.json.gz", "wt") as stream:
        stream.write('{"traceEvents": [{"name": "')
        for _ in range(64):
            stream.write("a" * (1 << 20))
    with pytest.raises(LatteError, match="no JSON"):
        import_trace(tmp_path / "t.json.gz", loader(folder / "cnn.pt2"), open_store(str(tmp_path / "s")), HERE)


# The command


def test_the_command_names_what_it_made(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "my encoder.pt2"
    model.symlink_to(folder / "encoder.pt2")
    words = ["import", "torch-trace", folder / "encoder.json", "--model", model, "--store", tmp_path / "s"]
    assert "--device cpu" in latte(*words, code=1).stderr
    done = latte(*words, "--device", "cpu")
    assert "the profiler's own" in done.stdout
    assert f"next: `latte estimate '{model}' --device" in done.stderr  # as a shell takes it
    one = json.loads(latte(*words, "--device", "desk", "--format", "json").stdout)["traces"][0]
    assert (one["device"], one["not_found"], one["batch"], one["optimizer"]) == ("desk", [], 4, "adam")
    assert latte(*words, "--device", "desk", "--format", "csv").stdout.startswith("trace,device,batch")


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_names_in_a_trace_cannot_reach_the_terminal(folder: Path, tmp_path: Path, form: str) -> None:
    trace = on_gpu(document_of(folder / "encoder.json"), "\x1b[31mGPU", launch="cudaLaunch", runtime="cuda_runtime")
    text = json.dumps(trace).replace("aten::embedding", "aten::=cmd()\\u001b[2J\\nembedding")
    (tmp_path / "t.json").write_text(text.replace("aten::index_select", "aten::other"))
    words = ["import", "torch-trace", tmp_path / "t.json", "--model", folder / "encoder.pt2", "--store", tmp_path / "s"]
    done = ended(*words, "--format", form)
    assert done.returncode == 0
    assert not {"\x1b", "\x9b"} & {*done.stdout, *done.stderr}
    assert "\n=cmd()" not in done.stdout
    assert form == "csv" or "look_up (embedding)" in done.stdout


def test_a_network_of_the_zoo_is_read_from_its_onnx_file(tmp_path: Path) -> None:
    from latte_cli.network.module import NetworkModule, random_inputs

    (tmp_path / "lenet.onnx").write_bytes(export("lenet"))
    read = network("lenet", batch_size=8)
    (x,) = random_inputs(read)
    trace = write_trace(tmp_path / "t.json", training_step_of(NetworkModule(read), x, 10))
    found = import_trace(trace, loader(tmp_path / "lenet.onnx"), open_store(str(tmp_path / "s")), HERE)
    assert (found.missing, found.strangers, found.batch) == ((), (), 8)
