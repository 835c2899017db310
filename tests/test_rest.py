"""The rest of a step: its memory against torch's allocator, its price, and what is refused."""

import warnings
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from made_rows import DEVICE, measurement, step_layers, tasks, write
from made_rows import network as small_network
from test_memory import network, workspaces

from latte_cli import load
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.contract import Unsupported
from latte_cli.backends.host import cpu_slug
from latte_cli.backends.torch.layers import cpu_growth, layer_call
from latte_cli.devices import CUDA
from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator import BESIDE, Estimator, Rest, Step, step_calls
from latte_cli.estimator.memory import memory
from latte_cli.estimator.steps import CLIP, EMA, SCALER, UPDATE, ZERO
from latte_cli.features import _FUNCTION_CODES
from latte_cli.layers import Optimizer, Phase, layer_from_text, layer_text
from latte_cli.network.module import NetworkModule, optimizer, random_inputs, random_targets, scored
from latte_cli.operations import ASKED, OPERATIONS, asked_name, timed_functions
from latte_cli.optimizers import OPTIMIZERS
from latte_cli.precisions import Precision
from latte_cli.profiles import spec_here
from latte_cli.store import open_store
from latte_cli.tasks import Settings
from latte_cli.waits import Waits

ALL = Rest(clip_norm=True, ema=True, grad_scaler=True, zero_grad="keep", log_every=10)
WITHIN = 0.05
SCALARS_BYTES = 64  # norms, coefficients and counts of single numbers

STEPS = {
    "keep": Step(rest=Rest(zero_grad="keep")),
    "keep, adamw-foreach": Step(optimizer="adamw-foreach", rest=Rest(zero_grad="keep")),
    "accumulate": Step(accumulate=2),
    "accumulate, keep": Step(accumulate=3, rest=Rest(zero_grad="keep")),
    "clip": Step(optimizer="momentum", rest=Rest(clip_norm=True)),
    "ema": Step(optimizer="adamw-fused", rest=Rest(ema=True)),
    "adafactor": Step(optimizer="adafactor"),
    "adafactor-foreach, all": Step(
        optimizer="adafactor-foreach", rest=Rest(clip_norm=True, ema=True, zero_grad="keep")
    ),
    "adagrad-foreach": Step(optimizer="adagrad-foreach"),
    "radam": Step(optimizer="radam"),
}


def real_peak_bytes(found, step):
    """The peak of a step as a training loop has it, the last of its batches; what lives from step to step counts."""
    module, rest = NetworkModule(found), step.rest
    update = optimizer(step.optimizer, module.parameters())
    averaged = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    inputs, targets = random_inputs(found), random_targets(found)

    def backward():
        result = module(*inputs)
        scored(module, result, targets).backward()
        return result

    def whole():
        held = backward()
        if rest.clip_norm:
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        update.step()
        if rest.ema:
            averaged.update_parameters(module)
        update.zero_grad(set_to_none=not rest.keeps_gradients)
        return held

    for _ in range(7):
        whole()
    for _ in range(step.accumulate - 1):
        backward()
    lasting = [*module.parameters(), *module.buffers(), *inputs, targets]
    lasting += [value for state in update.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    lasting += [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    lasting += [*averaged.parameters(), *averaged.buffers()] if rest.ema else []
    held = sum(tensor.nbytes for tensor in lasting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.profiler.profile(profile_memory=True) as seen:
            whole()
        events = [event for event in seen.kineto_results.events() if event.name() == "[memory]"]
    return held + max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("name", ["custom_cnn", "resnet8"])
@pytest.mark.parametrize("mode", STEPS)
def test_the_peak_of_a_step_is_that_of_torch_s_allocator(name, mode):
    found, step = network(name, 2), STEPS[mode]
    estimated = memory(found, step, Precision.FP32).with_workspaces(workspaces(found, step)).peak
    assert estimated.live_bytes == pytest.approx(real_peak_bytes(found, step), rel=WITHIN), estimated


@pytest.mark.parametrize("function", OPERATIONS)
def test_an_operation_holds_what_its_moment_says(function):
    layer = Optimizer(function=function, tensors=30, elements=60_000)
    call = layer_call(layer, Phase.UPDATE, Settings())
    call.reset()
    call.call()
    peak, left, _ = cpu_growth(lambda: call.call)
    norms = 2 * 4 * layer.tensors if function == "clip-norm" else 0
    assert left <= SCALARS_BYTES
    assert 0 <= peak - norms <= SCALARS_BYTES


def test_an_operation_does_what_torch_does():
    made = {
        name: layer_call(Optimizer(function=name, tensors=3, elements=50), Phase.UPDATE, Settings())
        for name in OPERATIONS
    }
    for call in made.values():
        call.reset()
        call.call()
        call.call()
    assert made["clip-norm"].call() == pytest.approx(1e-3 * 50**0.5)


def test_no_optimizer_is_no_call():
    with pytest.raises(Unsupported):
        layer_call(Optimizer(function="none", tensors=1, elements=2), Phase.UPDATE, Settings())


def names(step):
    works = list(step_calls(network("resnet8", 2), step))
    return [(work.name, work.layer.variant, work.count) for work in works if work.name in BESIDE]


def test_a_step_is_followed_by_what_its_loop_does_in_order():
    made = [name for name in names(Step(optimizer="adamw", rest=ALL)) if name[0] not in ("(loss)", "(accumulation)")]
    assert made == [
        (SCALER, "grad-scaler", 1),
        (CLIP, "clip-norm", 1),
        (UPDATE, "adamw", 1),
        (EMA, "ema", 1),
        (EMA, "ema-buffers", 1),
        (ZERO, "zero-grad", 1),
    ]


def test_gradients_that_are_kept_are_added_to_by_every_pass_and_cleared_as_the_optimizer_does():
    plain, kept = Step(accumulate=3), Step(accumulate=3, rest=Rest(zero_grad="keep"))
    assert ("(accumulation)", "add", 2) in names(plain)
    assert ("(accumulation)", "add", 3) in names(kept)
    assert (ZERO, "zero-grad", 1) in names(kept)
    assert (ZERO, "zero-grad-foreach", 1) in names(replace(kept, optimizer="sgd-fused"))


def test_the_host_waits_where_torch_reads_back():
    def waiting(**step):
        works = step_calls(network("resnet8", 2), Step(**step))
        return {work.name: work.waits for work in works if work.waits is not Waits.NEVER}

    scaled = Rest(grad_scaler=True)
    assert waiting() == {}
    assert waiting(rest=scaled) == {UPDATE: Waits.BEFORE}
    assert waiting(optimizer="adam-fused", rest=scaled) == {}
    assert waiting(optimizer="adafactor", rest=scaled) == {UPDATE: Waits.THROUGHOUT}
    assert waiting(rest=Rest(ema=True)) == {EMA: Waits.BEFORE}


# What it costs

SMALL = small_network()
GPU = replace(DEVICE, slug="made-up-gpu", kind=CUDA)
SETTINGS = Settings(library_versions=(("torch", "2.13.0"),))


def profiled(folder, device, *functions, precision=Precision.FP32):
    """A profile in which every call takes a millisecond on the device and a tenth of it on the host."""
    store = open_store(str(folder), shipped=False)
    settings = replace(SETTINGS, precision=precision)
    layers = [*step_layers(SMALL), *SMALL.updates(functions)]
    rows = [
        replace(measurement(task, time_s=1e-3, device=device), host_times_s=(1e-4,) * 3)
        for task in tasks(layers, settings)
        if task.algorithm == FRAMEWORK_DEFAULT
    ]
    write(store, rows)
    return Estimator(store, device.slug, strategy="pytorch", precision=precision)


def test_each_part_of_the_rest_is_a_call_with_a_price(tmp_path):
    estimator = profiled(tmp_path, DEVICE, "adamw-fused", "clip-norm", "ema", "ema-buffers", "zero-grad-foreach")
    plain = estimator.estimate(SMALL, Step(optimizer="adamw-fused"))
    rest = Rest(clip_norm=True, ema=True, zero_grad="keep")
    found = estimator.estimate(SMALL, Step(optimizer="adamw-fused", rest=rest), allow_unknown=True)
    assert found.missing == ("(accumulation) forward (elementwise)",)
    assert found.update_s - plain.update_s == pytest.approx(4e-3)


def test_an_update_that_was_not_measured_has_no_price_and_the_error_says_how_to_measure_it(tmp_path):
    estimator = profiled(tmp_path, DEVICE, "sgd", "adam")
    for step, asked in (
        (Step(optimizer="adamw-fused"), "adamw-fused"),
        (Step(rest=Rest(clip_norm=True)), "clip-norm"),
        (Step(optimizer="sgd-foreach", rest=Rest(zero_grad="keep")), "sgd-foreach,zero-grad"),
    ):
        with pytest.raises(LatteError, match="has no measurements that tell the time of ") as error:
            estimator.estimate(SMALL, step)
        assert f"on that device: `latte profile MODEL --optimizer {asked}`" in (error.value.hint or "")


def test_the_hint_for_this_machine_is_to_profile_it(tmp_path):
    estimator = profiled(tmp_path, replace(DEVICE, slug=cpu_slug(SETTINGS.threads)), "sgd")
    with pytest.raises(LatteError) as error:
        estimator.estimate(SMALL, Step(rest=Rest(clip_norm=True)))
    assert (error.value.hint or "").startswith("`latte profile MODEL --optimizer clip-norm` measures")


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(rest=Rest(clip_norm=True)), "clipping the gradients' norm (`--clip-norm`)"),
        (Step(rest=Rest(ema=True)), "the moving average (`--ema`)"),
        (Step(optimizer="adafactor"), "the update of `--optimizer adafactor`"),
    ],
)
def test_what_has_no_price_is_named_in_plain_words(tmp_path, step, words):
    with pytest.raises(LatteError) as error:
        profiled(tmp_path, DEVICE, "sgd").estimate(SMALL, step)
    assert error.value.message.startswith(f"`{DEVICE.slug}` has no measurements that tell the time of {words}")


@pytest.mark.parametrize("device", ["nvidia-h200-reference", "reference-amd-epyc-family-26-model-2-2c-2t"])
def test_shipped_models_say_nothing_of_updates_that_they_do_not_know(device):
    estimator = Estimator(open_store(None), device, strategy="pytorch")
    assert estimator.estimate(SMALL, Step(optimizer="adamw")).update_s > 0
    unknown = [Step(optimizer=name) for name in ("adamw-fused", "rmsprop", "adafactor")]
    for step in (*unknown, Step(rest=Rest(clip_norm=True)), Step(rest=Rest(ema=True))):
        with pytest.raises(LatteError, match="has no measurements that tell the time of") as error:
            estimator.estimate(SMALL, step)
        hint = error.value.hint or ""
        assert "`latte profile" in hint
        elsewhere = spec_here(estimator.device, None) is None  # a shipped profile may be of a machine like this one
        assert ("on that device: `latte profile" in hint) == elsewhere


def test_functions_keep_the_codes_that_shipped_models_know_them_by():
    known = {"batch": 1, "relu": 10, "add": 33, "mean": 40, "transpose": 46, "sgd": 53, "momentum": 54, "adam": 55}
    assert {name: _FUNCTION_CODES[name] for name in known} == known
    assert _FUNCTION_CODES["adamw"] == 56
    named = {name for name in OPTIMIZERS if name != "none"} | set(OPERATIONS)
    assert named <= _FUNCTION_CODES.keys()


def test_a_gpu_takes_rows_of_the_plain_name_for_what_torch_takes_by_itself(tmp_path):
    estimator = profiled(tmp_path, GPU, "adamw", "adamw-fused")
    plain = estimator.estimate(SMALL, Step(optimizer="adamw"))
    foreach = estimator.estimate(SMALL, Step(optimizer="adamw-foreach"))
    assert plain.step_s == foreach.step_s
    assert plain.memory == foreach.memory
    fused = estimator.estimate(SMALL, Step(optimizer="adamw-fused"))
    beside = [found.memory.timeline[-1].temporary_bytes for found in (plain, fused)]
    assert beside == [4 * SMALL.trained_parameters, 0]  # of all tensors at once, as foreach has it


# What is refused


@pytest.mark.parametrize(
    ("device", "precision", "words"),
    [
        (DEVICE, Precision.FP32, "for float16 on GPUs"),
        (GPU, Precision.FP32, "means nothing in fp32"),
        (GPU, Precision.BF16_AUTOCAST, "means nothing in bf16_autocast"),
        (GPU, Precision.FP16, "refuses gradients in float16"),
    ],
)
def test_a_grad_scaler_is_refused_where_it_means_nothing(device, precision, words):
    with pytest.raises(LatteError, match=words) as error:
        Rest(grad_scaler=True).check(device, precision, optimizer="sgd", cuda_graph=False)
    assert error.value.exit_code == ExitCode.USAGE


def test_a_grad_scaler_makes_the_host_wait_before_the_update(tmp_path):
    estimator = profiled(tmp_path, GPU, "sgd", "sgd-fused", "grad-scaler", precision=Precision.FP16_AUTOCAST)
    loop, fused = (
        estimator.estimate(SMALL, Step(optimizer=name, rest=Rest(grad_scaler=True))) for name in ("sgd", "sgd-fused")
    )
    assert loop.step_s - fused.step_s == pytest.approx(1e-4)  # the host asks when the device is through


def test_torch_refuses_to_unscale_gradients_in_float16():
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
    weight.grad = torch.ones_like(weight)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    with pytest.raises(ValueError, match="FP16 gradients"):
        scaler.unscale_(torch.optim.SGD([weight]))


def test_a_step_without_an_update_has_no_gradients_to_clip():
    for rest in (Rest(clip_norm=True), Rest(ema=True), Rest(zero_grad="keep")):
        with pytest.raises(LatteError, match="without an update"):
            rest.check(DEVICE, Precision.FP32, optimizer="none", cuda_graph=False)


def test_a_graph_cannot_hold_a_host_that_reads_back(tmp_path):
    estimator = profiled(tmp_path, GPU, "adafactor", "grad-scaler", precision=Precision.FP16_AUTOCAST)
    for step in (Step(rest=Rest(grad_scaler=True), cuda_graph=True), Step(optimizer="adafactor", cuda_graph=True)):
        with pytest.raises(LatteError, match="CUDA graph cannot hold"):
            estimator.estimate(SMALL, step)


def test_an_unknown_way_to_clear_gradients_has_a_near_match():
    with pytest.raises(LatteError, match="kep") as error:
        Rest(zero_grad="kep")
    assert error.value.hint == "did you mean `keep`?"


# What a profile times


def test_a_profile_times_the_functions_that_names_are_made_of():
    assert timed_functions(["adamw-fused", "ema"], on_gpu=False) == ("adamw-fused", "ema", "ema-buffers")
    assert timed_functions(["adamw-foreach", "grad-scaler"], on_gpu=True) == ("adamw", "grad-scaler")
    assert {asked_name(function) for function in OPERATIONS} == set(ASKED)
    with pytest.raises(LatteError, match="means nothing on a CPU"):
        timed_functions(["grad-scaler"], on_gpu=False)
    with pytest.raises(LatteError) as error:
        timed_functions(["clip-nrm"], on_gpu=True)
    assert error.value.hint == "did you mean `clip-norm`?"


# How often a loss is read


@pytest.mark.parametrize(("name", "batch_size"), [("resnet8", 4), ("vgg11", 512)])
def test_between_logs_the_slower_of_host_and_gpu_sets_the_pace_of_a_shipped_profile(name, batch_size):
    estimator = Estimator(open_store(None), "nvidia-h200-reference", strategy="pytorch")
    found = network(name, batch_size)

    def step(log_every):
        return estimator.estimate(found, Step(rest=Rest(log_every=log_every)))

    one = step(1)
    device_s = sum(part.count * part.device_s for part in one.parts)
    host_s = sum(part.count * part.host_s for part in one.parts)
    assert (host_s > device_s) == (name == "resnet8")
    for log_every in (2, 50):
        expected = (one.step_s + (log_every - 1) * max(device_s, host_s)) / log_every
        assert step(log_every).step_s == pytest.approx(expected)


def test_a_cpu_never_waits_for_itself_so_how_often_the_loss_is_read_is_refused():
    estimator = Estimator(open_store(None), "reference-amd-epyc-family-26-model-2-2c-2t", strategy="pytorch")
    with pytest.raises(LatteError, match="`--log-every` changes nothing on") as error:
        estimator.estimate(SMALL, Step(rest=Rest(log_every=50)))
    assert error.value.exit_code == ExitCode.USAGE


# What depends on shapes


class Prefixed(torch.nn.Module):
    """A layer, and a matrix that no layer holds."""

    def __init__(self):
        super().__init__()
        self.prefix, self.out = torch.nn.Parameter(torch.zeros(6, 8)), torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.out(x + self.prefix)


def test_a_factored_update_has_the_shapes_of_all_parameters():
    found = load(Prefixed(), torch.zeros(3, 6, 8))
    assert sorted(found.trained_shapes.values()) == [(4,), (4, 8), (6, 8)]
    update = found.optimizer("adafactor")
    assert layer_from_text(layer_text(update)) == update
    assert update.elements_moved(Phase.UPDATE) == 3 * 84 + 2 * (4 + (4 + 8) + (6 + 8))
    assert found.optimizer("adam").shapes == ()
    made = layer_call(update, Phase.UPDATE, Settings())
    made.reset()
    made.call()


def test_a_factored_update_without_shapes_is_no_layer():
    with pytest.raises(LatteError, match="parameters of the shapes"):
        Optimizer(function="adafactor", tensors=1, elements=12)
    with pytest.raises(LatteError, match="parameters of the shapes"):
        Optimizer(function="adam", tensors=1, elements=12, shapes=((3, 4),))


def test_the_buffers_of_an_average_are_those_of_the_module():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.Flatten())
    buffers = load(module, torch.zeros(2, 3, 8, 8)).operation("ema-buffers")
    assert (buffers.tensors, buffers.elements) == (3, 11)
    assert load(torch.nn.Linear(3, 4), torch.zeros(2, 3)).operation("ema-buffers") is None
