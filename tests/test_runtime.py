"""Modules that run with chosen algorithms compute what they did before, and stay what they were."""

import copy
import io
import json
from dataclasses import replace

import pytest
import torch
from made_rows import measurement, step_layers, tasks, write
from module_clock import ModuleClock
from schemas import valid
from torch import nn

import latte_cli
from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends.cpu import onednn_calls
from latte_cli.backends.cpu.backend import libraries
from latte_cli.backends.cpu.convolutions import CONVOLUTIONS
from latte_cli.backends.host import cpu_slug
from latte_cli.devices import CPU, Device
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase
from latte_cli.network import load, zoo
from latte_cli.network.module import NetworkModule
from latte_cli.precisions import Layout, Precision
from latte_cli.runtime import Binding, Choices, read_choices, write_choices
from latte_cli.runtime.choices import choices_document
from latte_cli.runtime.convolution import TunedConv2d, layer_of, wrapper_s
from latte_cli.runtime.optimizing import own_key
from latte_cli.store import open_store
from latte_cli.tasks import Settings

SHAPE = (2, 8, 9, 10)
LAYERS = {
    "3x3": lambda: nn.Conv2d(8, 6, 3, padding=1),
    "1x1": lambda: nn.Conv2d(8, 6, 1, bias=False),
    "strided": lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
    "grouped": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=2),
    "dilated": lambda: nn.Conv2d(8, 6, 3, padding=2, dilation=2),
}
SLOW = ("WINOGRAD_2X2", "WINOGRAD_4X4", "FFT", "FFT_TILING")
CASES = [
    (name, algorithm, phase, layout)
    for name in LAYERS
    for algorithm, about in CONVOLUTIONS.items()
    for phase in about.calls
    for layout in Layout
    if algorithm not in ("DEFAULT", *SLOW)
    and about.applies(layer_of(LAYERS[name](), SHAPE), phase, Settings(precision=Precision.FP32, layout=layout))
]


def key():
    return own_key(torch.device("cpu"), Precision.FP32)


def named(algorithm):
    return algorithm if isinstance(algorithm, Algorithm) else Algorithm(library="torch", name=algorithm)


def chosen(layer, phases, layout=None):
    bindings = tuple(
        Binding(layer=layer, phase=phase, algorithm=named(algorithm), gain_s=1e-3)
        for phase, algorithm in phases.items()
    )
    return Choices(key=key(), strategy="latte", layout=layout, bindings=bindings)


def gradients(module, x):
    x = x.detach().clone().requires_grad_()
    module.zero_grad(set_to_none=True)
    y = module(x)
    y.square().sum().backward()
    return y.detach(), x.grad, *(parameter.grad for parameter in module.parameters())


def pair(name="3x3", phases=None, layout=None, shape=SHAPE):
    """A module as it was, and the same one with algorithms for the input that comes with them."""
    torch.manual_seed(0)
    plain, x = nn.Sequential(LAYERS[name](), nn.ReLU()), torch.randn(shape)
    tuned = copy.deepcopy(plain)
    choices = chosen(layer_of(plain[0], shape), phases or {Phase.FORWARD: "IM2COL_GEMM"}, layout)
    return plain, latte_cli.optimize(tuned, choices=choices), x


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "algorithm", "phase", "layout"), CASES)
def test_every_algorithm_computes_what_torch_does(name, algorithm, phase, layout):
    plain, tuned, x = pair(name, {phase: algorithm}, layout if layout is Layout.CHANNELS_LAST else None)
    assert isinstance(tuned[0], TunedConv2d)
    close(gradients(tuned, x), gradients(plain, x))
    [call] = tuned[0].calls.values()
    assert getattr(call, phase) is not None
    assert latte_cli.optimization_of(tuned).reasons == ()


@pytest.mark.skipif(onednn_calls.library() is None, reason="no oneDNN beside torch's own")
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("name", LAYERS)
def test_every_implementation_of_onednn_computes_what_torch_does(name, layout):
    settings = Settings(precision=Precision.FP32, layout=layout)
    layer = layer_of(LAYERS[name](), SHAPE)
    for phase in layer.phases:
        for algorithm in onednn_calls.candidates(layer, phase, settings):
            plain, tuned, x = pair(name, {phase: algorithm}, layout if layout is Layout.CHANNELS_LAST else None)
            close(gradients(tuned, x), gradients(plain, x))
            [call] = tuned[0].calls.values()
            assert getattr(call, phase) is not None
            assert latte_cli.optimization_of(tuned).reasons == ()


def test_all_phases_at_once_and_frozen_weights():
    phases = {Phase.FORWARD: "NNPACK", Phase.BACKWARD_DATA: "ONEDNN_ROT", Phase.BACKWARD_FILTER: "IM2COL_GEMM"}
    plain, tuned, x = pair("3x3", phases)
    close(gradients(tuned, x), gradients(plain, x))
    for module in (plain, tuned):
        module[0].weight.requires_grad_(False)
    close(gradients(tuned, x)[:2], gradients(plain, x)[:2])
    assert tuned[0].weight.grad is None


def test_the_module_stays_what_it_was():
    plain, tuned, x = pair()
    assert isinstance(tuned[0], nn.Conv2d)
    assert list(tuned.state_dict()) == list(plain.state_dict())
    tuned.load_state_dict(plain.state_dict())
    seen = []
    tuned[0].register_forward_hook(lambda module, given, result: seen.append(result.shape))
    tuned[0].register_full_backward_hook(lambda module, given, result: seen.append(result[0].shape))
    gradients(tuned, x)
    assert len(seen) == 2


def test_other_inputs_run_as_torch_runs_them():
    plain, tuned, _ = pair()
    other = torch.randn(3, 8, 5, 5)
    close(gradients(tuned, other), gradients(plain, other))
    assert list(tuned[0].calls.values()) == [None]
    close((tuned(other[0]),), (plain(other[0]),))


def test_copies_and_pickles_run_with_the_same_algorithms():
    plain, tuned, x = pair()
    gradients(tuned, x)
    copied = copy.deepcopy(tuned)
    assert copied[0].bindings is not tuned[0].bindings
    buffer = io.BytesIO()
    torch.save(tuned, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for module in (copied, loaded):
        close(gradients(module, x), gradients(plain, x))
        assert isinstance(module[0], TunedConv2d)
        assert next(iter(module[0].calls.values())) is not None


def test_second_derivatives_are_torchs_own():
    plain, tuned, x = pair("3x3", {Phase.BACKWARD_DATA: "ONEDNN_ROT", Phase.BACKWARD_FILTER: "IM2COL_GEMM"})

    def second(module):
        given = x.detach().clone().requires_grad_()
        [first] = torch.autograd.grad(module(given).square().sum(), given, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [given, *module.parameters()])

    close(second(tuned), second(plain))


def test_autocast_functional_transforms_and_no_gradients_go_through():
    plain, tuned, x = pair()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(tuned(x), plain(x))
    with torch.no_grad():
        close((tuned(x),), (plain(x),))

    def loss(parameters, module):
        return torch.func.functional_call(module, parameters, (x,)).square().sum()

    found = [torch.func.grad(loss)(dict(module.named_parameters()), module) for module in (tuned, plain)]
    close(found[0].values(), found[1].values())


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at what a resumed frame was given
def test_compiled_graphs_break_at_a_tuned_convolution_and_compute_the_same():
    plain, tuned, x = pair()
    torch._dynamo.reset()
    compiled = torch.compile(tuned, backend="eager")
    close(gradients(compiled, x), gradients(plain, x))
    assert next(iter(tuned[0].calls.values())) is not None


def test_distributed_data_parallel_trains_it(tmp_path):
    plain, tuned, x = pair("3x3", {Phase.FORWARD: "IM2COL_GEMM", Phase.BACKWARD_FILTER: "IM2COL_GEMM"})
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        close(gradients(nn.parallel.DistributedDataParallel(tuned), x)[2:], gradients(plain, x)[2:])
    finally:
        torch.distributed.destroy_process_group()


def test_what_an_algorithm_refuses_torch_computes_and_it_is_said_once():
    torch.manual_seed(0)
    plain, x = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)), torch.randn(SHAPE)
    bindings = [
        chosen(layer_of(plain[at], shape), {Phase.FORWARD: "GEMM_1X1"})
        for at, shape in enumerate((SHAPE, (2, 6, 9, 10)))
    ]
    choices = replace(bindings[0], bindings=bindings[0].bindings + bindings[1].bindings)
    tuned = latte_cli.optimize(copy.deepcopy(plain), choices=choices)
    with pytest.warns(UserWarning, match="GEMM_1X1 refuses forward") as said:
        close(gradients(tuned, x), gradients(plain, x))
    assert len(said) == 1
    assert latte_cli.optimization_of(tuned).reasons


def test_channels_last_changes_strides_and_nothing_else():
    plain, tuned, x = pair("3x3", {Phase.FORWARD: "ONEDNN_NHWC"}, Layout.CHANNELS_LAST)
    assert tuned[0].weight.is_contiguous(memory_format=torch.channels_last)
    y = tuned(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    close(gradients(tuned, x), gradients(plain, x))
    assert latte_cli.optimization_of(tuned).layout is Layout.CHANNELS_LAST


def test_what_would_corrupt_memory_in_channels_last_stays_as_it_is():
    plain = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2), nn.Conv2d(16, 8, 3))
    choices = chosen(layer_of(plain[1], (2, 16, 5, 5)), {Phase.FORWARD: "ONEDNN_NHWC"}, Layout.CHANNELS_LAST)
    tuned = latte_cli.optimize(plain, choices=choices)
    assert "past its buffers at `0`" in " ".join(latte_cli.optimization_of(tuned).reasons)
    assert tuned[0].weight.is_contiguous()
    assert not any(isinstance(each, TunedConv2d) for each in tuned)


@pytest.mark.parametrize(("plain_s", "wrapped_s", "cost_s"), [(1.0, 3.0, 2.0), (3.0, 1.0, 0.0)])
def test_the_wrapper_costs_what_calls_through_it_take_longer(plain_s, wrapped_s, cost_s):
    with ModuleClock({nn.Conv2d: plain_s, TunedConv2d: wrapped_s}) as clock:
        assert wrapper_s("cpu", clock) == cost_s


# --- deciding by a profile


@pytest.fixture
def network():
    return zoo.network("lenet", batch_size=4)


def slow_default(network, *, factor=5.0, layouts=(Layout.NCHW,)):
    """Rows of this machine in which one algorithm is faster than torch's own by a factor.

    They are so long that what the wrapper costs on a busy machine is nothing beside them.
    """
    device = Device(slug=cpu_slug(torch.get_num_threads()), kind=CPU, name="this", libraries=libraries())
    for layout in layouts:
        settings = Settings(
            precision=Precision.FP32, layout=layout, threads=torch.get_num_threads(), library_versions=libraries()
        )
        for task in tasks(step_layers(network), settings):
            time_s = 1.0 if task.algorithm == FRAMEWORK_DEFAULT else 1.0 / factor
            yield replace(measurement(task, time_s=time_s), device=device)


def store_with(tmp_path, rows):
    store = open_store(str(tmp_path / "store"), shipped=False)
    write(store, list(rows))
    return store.uri


def test_the_profile_decides_for_an_example(tmp_path, network):
    uri = store_with(tmp_path, slow_default(network))
    module = NetworkModule(network)
    x = torch.randn(network.inputs[0][1])
    expected = copy.deepcopy(module)
    assert latte_cli.optimize(module, x, store=uri) is module
    state = latte_cli.optimization_of(module)
    assert state.tuned
    assert "has no rows in channels_last" in " ".join(state.reasons)
    close((module(x),), (expected(x),))
    assert state.choices[0].chosen_s < state.choices[0].default_s


def test_without_an_example_it_decides_when_a_shape_comes_first(tmp_path):
    plain = nn.Sequential(LAYERS["3x3"](), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    shapes = [SHAPE, (3, *SHAPE[1:])]
    rows = [row for shape in shapes for row in slow_default(load(plain, torch.randn(shape)))]
    module = latte_cli.optimize(copy.deepcopy(plain), store=store_with(tmp_path, rows))
    state = latte_cli.optimization_of(module)
    assert state.choices == []
    for count, shape in enumerate(shapes, start=1):
        x = torch.randn(shape)
        for _ in range(2):
            close((module(x),), (plain(x),))
        assert len(state.choices) == count
        assert any(module[0].calls.values())
    assert state.tuned == ("0",)


def test_where_little_is_won_the_module_stays_as_it_is(tmp_path, network):
    uri = store_with(tmp_path, slow_default(network, factor=1.0))
    module = latte_cli.optimize(NetworkModule(network), torch.randn(network.inputs[0][1]), store=uri)
    assert not any(isinstance(each, TunedConv2d) for each in module.modules())
    assert "nothing is expected to make a step 3% shorter" in " ".join(latte_cli.optimization_of(module).reasons)


def test_a_machine_without_a_profile_is_an_error_with_a_hint(tmp_path, network):
    with pytest.raises(LatteError) as raised:
        latte_cli.optimize(NetworkModule(network), store=str(tmp_path / "none"))
    assert "latte profile" in (raised.value.hint or "")


def test_a_module_that_cannot_be_read_stays_as_it_is(tmp_path, network):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 6, 3)

        def forward(self, x):
            return self.conv(x) if x.sum().item() > 0 else x

    uri = store_with(tmp_path, slow_default(network))
    module = latte_cli.optimize(Odd(), torch.randn(SHAPE), store=uri)
    assert "cannot export" in " ".join(latte_cli.optimization_of(module).reasons)
    module(torch.randn(SHAPE))


# --- files


def test_choices_come_back_from_their_file_and_keep_to_the_schema(tmp_path):
    path = tmp_path / "choices.json"
    layer = load_layer()
    first = chosen(layer, {Phase.FORWARD: "NNPACK"}, Layout.CHANNELS_LAST)
    other = replace(first, key=replace(first.key, device="another-cpu"), bindings=())
    write_choices(path, first)
    write_choices(path, other)
    assert set(read_choices(path)) == {first, other}
    valid(path.read_text())
    with pytest.raises(LatteError, match="already"):
        write_choices(path, first)
    write_choices(path, replace(first, layout=None), force=True)
    assert {each.layout for each in read_choices(path)} == {None, Layout.CHANNELS_LAST}


def load_layer():
    return layer_of(LAYERS["3x3"](), SHAPE)


def test_a_file_decides_without_a_profile(tmp_path):
    path = tmp_path / "choices.json"
    torch.manual_seed(0)
    plain, x = nn.Sequential(LAYERS["3x3"]()), torch.randn(SHAPE)
    write_choices(path, chosen(layer_of(plain[0], SHAPE), {Phase.FORWARD: "NNPACK"}))
    tuned = latte_cli.optimize(copy.deepcopy(plain), choices=path)
    close(gradients(tuned, x), gradients(plain, x))
    assert latte_cli.optimization_of(tuned).tuned == ("0",)
    with pytest.raises(LatteError, match="no choices for"):
        latte_cli.optimize(copy.deepcopy(plain).to(torch.bfloat16), choices=path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"schema": "latte.choices/2"}',
        '{"schema": "latte.choices/1"}',
        '{"schema": "latte.choices/1", "entries": [{}]}',
    ],
)
def test_files_that_are_no_choices_are_refused(tmp_path, content):
    path = tmp_path / "choices.json"
    path.write_text(content)
    with pytest.raises(LatteError) as raised:
        read_choices(path)
    assert "latte tune" in (raised.value.hint or "")


def test_a_layer_in_a_file_that_is_no_convolution_is_refused(tmp_path):
    document = choices_document([chosen(load_layer(), {Phase.FORWARD: "NNPACK"})])
    document["entries"][0]["convolutions"][0]["layer"] = {
        "kind": "linear",
        "rows": 1,
        "in_features": 1,
        "out_features": 1,
    }
    path = tmp_path / "choices.json"
    path.write_text(json.dumps(document))
    with pytest.raises(LatteError, match="`linear` is not `convolution`"):
        read_choices(path)


def test_reading_and_optimizing_agree_on_layers(network):
    module = NetworkModule(network)
    read = {layer for layer in load(module, torch.randn(network.inputs[0][1])).layers if isinstance(layer, Convolution)}
    assert read == {layer for layer in network.layers if isinstance(layer, Convolution)}
    made = set()
    hooks = [
        each.register_forward_pre_hook(lambda conv, given: made.add(layer_of(conv, tuple(given[0].shape))))
        for each in module.modules()
        if isinstance(each, nn.Conv2d)
    ]
    module(torch.randn(network.inputs[0][1]))
    assert made == read
    for hook in hooks:
        hook.remove()
