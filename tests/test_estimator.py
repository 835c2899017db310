from dataclasses import replace
from pathlib import Path

import made_rows
import onnx
import pytest
import torch
from made_rows import DEVICE, GEMM, SETTINGS, measurement, network, profile, seconds, step_layers, tasks, write
from torch import nn

import latte_cli
from latte_cli import selector as selectors
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.devices import CUDA
from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator import (
    ESTIMATORS,
    LOSS,
    UPDATE,
    DoesNotFit,
    Estimator,
    Limits,
    Rest,
    Source,
    estimate_each,
    estimate_one,
)
from latte_cli.estimator.steps import Step, step_calls
from latte_cli.layers import Norm, Phase
from latte_cli.lookup import NotProfiled
from latte_cli.measure import QualityFlag
from latte_cli.network import Network, Node, load, zoo
from latte_cli.network.onnx import read
from latte_cli.network.zoo import ZOO, export
from latte_cli.precisions import Layout, Precision
from latte_cli.store import open_store
from latte_cli.tasks import Task

NETWORK = network()


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"), shipped=False)


@pytest.fixture
def measured(store):
    profile(store, step_layers(NETWORK))
    return store


def law(layer, phase, algorithm=FRAMEWORK_DEFAULT, settings=SETTINGS):
    return seconds(Task(layer=layer, phase=phase, algorithm=algorithm, settings=settings))


def parsed(content, batch_size):
    return read(content, name="model", sha256="", batch_size=batch_size, allow_unknown=False)


def codes(estimate):
    return {warning.code for warning in estimate.warnings}


def test_totals_are_the_sums_of_the_measured_rows(measured):
    found = Estimator(measured, DEVICE.slug, strategy="pytorch").estimate(NETWORK)
    layers = [layer for layer in NETWORK.layers if not layer.free]
    assert found.forward_s == pytest.approx(sum(law(layer, Phase.FORWARD) for layer in layers), rel=1e-5)
    assert found.other_s == pytest.approx(
        sum(law(NETWORK.loss(), p) for p in (Phase.FORWARD, Phase.BACKWARD)), rel=1e-5
    )
    assert found.update_s == pytest.approx(law(NETWORK.optimizer("sgd"), Phase.UPDATE), rel=1e-5)
    assert found.step_s == pytest.approx(sum(part.device_s for part in found.parts))
    assert {part.source for part in found.parts} == {Source.MEASURED}
    assert not found.warnings
    assert not found.missing


def test_latte_is_as_fast_as_the_fastest_row_of_each_phase(measured):
    found = Estimator(measured, DEVICE.slug).estimate(NETWORK)
    chosen = {(part.name, part.phase): part.algorithm for part in found.parts}
    assert chosen["conv1", Phase.FORWARD] == FRAMEWORK_DEFAULT
    assert {chosen["conv2", phase] for phase in NETWORK.nodes[4].layer.phases} == {GEMM}
    assert found.step_s < Estimator(measured, DEVICE.slug, strategy="pytorch").estimate(NETWORK).step_s


def test_the_first_layer_has_no_backward_data(measured):
    found = Estimator(measured, DEVICE.slug).estimate(NETWORK)
    phases = [part.phase for part in found.parts if part.name == "conv1"]
    assert phases == [Phase.FORWARD, Phase.BACKWARD_FILTER]


def test_nothing_goes_back_to_what_depends_on_no_parameter():
    shape = (2, 3, 8, 8)
    plain = Norm(shape=shape, function="batch", affine=False)
    node = Node(name="norm", layer=plain, inputs=("image",), output="norm")
    only = Network(name="plain", inputs=(("image", shape),), nodes=(node,), outputs=("norm",))
    assert [(work.name, work.phase) for work in step_calls(only, Step(optimizer="none"))] == [
        ("norm", Phase.FORWARD),
        (LOSS, Phase.FORWARD),
    ]


def test_a_network_without_parameters_cannot_be_updated(measured):
    (relu,) = [node for node in NETWORK.nodes if node.name == "relu"]
    only = replace(NETWORK, inputs=((relu.inputs[0], relu.layer.input_shapes[0]),), nodes=(relu,), outputs=("relu",))
    with pytest.raises(LatteError, match="no parameters to train"):
        Estimator(measured, DEVICE.slug).estimate(only)


def test_a_network_without_layers_has_no_step(measured):
    with pytest.raises(LatteError, match="holds no layers"):
        Estimator(measured, DEVICE.slug).estimate(replace(NETWORK, nodes=(), outputs=()))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_prices_the_whole_network(measured, name):
    found = Estimator(measured, DEVICE.slug, estimator=name).estimate(NETWORK)
    assert not found.missing
    source = Source.MEASURED if name == "lookup" else Source.PREDICTED
    assert {part.source for part in found.parts if not part.layer.free} == {source}


def test_free_layers_are_listed_at_no_cost(measured):
    found = Estimator(measured, DEVICE.slug).estimate(NETWORK)
    views = [part for part in found.parts if part.name == "flat"]
    assert [(part.device_s, part.algorithm.name) for part in views] == [(0.0, "none")] * 2


def test_without_an_optimizer_there_is_no_update(measured):
    found = Estimator(measured, DEVICE.slug).estimate(NETWORK, step="none")
    assert found.update_s == 0
    assert UPDATE not in {part.name for part in found.parts}


def test_an_epoch_counts_the_last_batch_as_whole(measured):
    found = Estimator(measured, DEVICE.slug).estimate(NETWORK)
    assert found.epoch_s(17) == 3 * found.step_s


def test_neighbouring_batches_are_interpolated_and_the_batch_is_no_multiplier(store):
    profile(store, [*step_layers(network(4)), *step_layers(network(16))])
    found = Estimator(store, DEVICE.slug, strategy="pytorch").estimate(NETWORK)
    priced = [part for part in found.parts if not part.layer.free and part.name != UPDATE]
    assert {part.source for part in priced} == {Source.INTERPOLATED}
    right = sum(law(part.layer, part.phase) for part in priced)
    assert sum(part.device_s for part in priced) == pytest.approx(right, rel=0.1)


def test_what_has_no_neighbours_is_predicted_and_the_estimate_says_so(measured):
    found = Estimator(measured, DEVICE.slug).estimate(network(batch=32))
    assert Source.PREDICTED in {part.source for part in found.parts}
    assert {"predicted_share", "no_selector"} <= codes(found)
    assert found.step_low_s < found.step_s < found.step_high_s
    assert all(part.low_s <= part.device_s <= part.high_s for part in found.parts)


def test_a_kind_that_was_never_measured_is_an_error_that_names_it(store):
    profile(store, [layer for layer in step_layers(NETWORK) if layer.kind != "norm"])
    with pytest.raises(LatteError, match=r"norm forward \(norm\)") as caught:
        Estimator(store, DEVICE.slug).estimate(NETWORK)
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert "--allow-unknown" in (caught.value.hint or "")


def test_what_is_let_pass_is_named_and_never_zero(store):
    profile(store, [layer for layer in step_layers(NETWORK) if layer.kind != "norm"])
    found = Estimator(store, DEVICE.slug).estimate(replace(NETWORK, unknown=("Foo",)), allow_unknown=True)
    assert found.missing == ("norm forward (norm)", "norm backward (norm)", "operator Foo")
    assert "norm" not in {part.name for part in found.parts}
    assert "missing" in codes(found)


def test_the_interval_widens_with_the_drift_of_the_device(store):
    layers = step_layers(NETWORK)
    write(store, [measurement(task) for task in tasks(layers)])
    calm = Estimator(store, DEVICE.slug).estimate(NETWORK)
    drifts = {task: 0.7 + 0.6 * (index % 2) for index, task in enumerate(tasks(layers))}
    write(store, [measurement(task, drift=drift, measured_at=2.0) for task, drift in drifts.items()])
    wild = Estimator(store, DEVICE.slug).estimate(NETWORK)
    assert wild.step_s == pytest.approx(calm.step_s)
    assert wild.step_high_s - wild.step_low_s > 2 * (calm.step_high_s - calm.step_low_s)


def test_an_interval_is_never_narrower_than_a_step_against_itself(measured):
    found = Estimator(measured, DEVICE.slug).estimate(NETWORK)
    assert found.step_high_s - found.step_s >= 1.96 * 0.05 * found.step_s


def test_noisy_rows_are_said(store):
    write(store, [measurement(task, flags=(QualityFlag.NOISY,)) for task in tasks(step_layers(NETWORK))])
    warnings = Estimator(store, DEVICE.slug).estimate(NETWORK).warnings
    assert {(warning.code, warning.urgent) for warning in warnings} == {("noisy", True)}


@pytest.mark.parametrize(("apart", "said"), [(1.1, set()), (2.0, {"noisy"})])
def test_passes_that_lie_far_apart_are_noise_even_if_no_row_is_marked(store, apart, said):
    for number, factor in enumerate((1.0, apart)):
        rows = [measurement(task, sweep_pass=number) for task in tasks(step_layers(NETWORK))]
        times = (tuple(factor * time_s for time_s in row.device_times_s) for row in rows)
        write(store, [replace(row, device_times_s=each) for row, each in zip(rows, times, strict=True)])
    found = Estimator(store, DEVICE.slug).estimate(NETWORK)
    assert codes(found) == said
    assert ("noise, 80 % of repeats within a factor of" in " ".join(each.message for each in found.warnings)) == (
        apart > 1.3
    )


def test_rows_of_other_library_versions_are_said(measured):
    newer = replace(SETTINGS, library_versions=(("torch", "2.14.0"),))
    write(measured, [measurement(task, measured_at=2.0) for task in tasks(step_layers(NETWORK), newer)])
    found = Estimator(measured, DEVICE.slug).estimate(NETWORK)
    assert found.settings == newer
    assert codes(found) == {"other_versions"}


def test_each_warning_ends_in_an_action(store):
    layers = [layer for layer in step_layers(NETWORK) if layer.kind != "norm"]
    write(store, [measurement(task, flags=(QualityFlag.NOISY,)) for task in tasks(layers)])
    estimator = Estimator(store, DEVICE.slug, strategy="fixed:IM2COL_GEMM", limits=Limits(workspace_bytes=1))
    found = estimator.estimate(network(batch=64), allow_unknown=True)
    assert {"missing", "predicted_share", "extrapolated"} <= codes(found)
    for warning in found.warnings:
        action = warning.message.rpartition("; ")[2]
        assert action.startswith(("`latte ", "profile again", "compare with", "raise "))
        assert not warning.message.endswith(".")


def test_a_workspace_limit_is_kept_where_an_algorithm_fits(measured):
    found = Estimator(measured, DEVICE.slug, limits=Limits(workspace_bytes=2**12)).estimate(NETWORK)
    assert {part.algorithm.name for part in found.parts} == {"DEFAULT", "none"}
    assert "workspace_limit" not in codes(found)
    assert "workspace_limit" in codes(
        Estimator(measured, DEVICE.slug, limits=Limits(workspace_bytes=1)).estimate(NETWORK)
    )


# Memory: each call's workspace must fit what is free at that point of the step

KIB = 2**10


def peak(store, **more):
    return Estimator(store, DEVICE.slug, **more).estimate(NETWORK).memory


def test_a_memory_limit_leaves_each_call_what_is_free_at_its_point(measured):
    free = peak(measured, strategy="pytorch")
    whole = Estimator(measured, DEVICE.slug).estimate(NETWORK)
    assert GEMM in {part.algorithm for part in whole.parts}
    assert whole.memory_bytes > free.peak.live_bytes
    tight = Estimator(measured, DEVICE.slug, limits=Limits(memory_bytes=free.peak.live_bytes)).estimate(NETWORK)
    assert tight.memory_bytes <= free.peak.live_bytes
    assert tight.limits.memory_bytes == free.peak.live_bytes
    live = free.live_bytes()
    for part in tight.parts:
        if part.layer.kind == "convolution":
            place = (part.name, Phase.FORWARD if part.phase is Phase.FORWARD else Phase.BACKWARD)
            roomy = free.peak.live_bytes - live[place] + KIB >= 2**20
            quicker = part.layer.in_channels >= 16
            assert (part.algorithm == GEMM) == (roomy and quicker), part.name


def test_both_limits_hold_at_once(measured):
    roomy = 2 * peak(measured).peak.live_bytes
    found = Estimator(measured, DEVICE.slug, limits=Limits(memory_bytes=roomy, workspace_bytes=2 * KIB)).estimate(
        NETWORK
    )
    assert GEMM not in {part.algorithm for part in found.parts}


def test_a_step_that_cannot_fit_ends_with_the_least_it_needs(measured):
    least = peak(measured, strategy="pytorch").peak.live_bytes
    with pytest.raises(
        DoesNotFit, match=r"needs at least [\d.,]+ KiB of memory, more than the limit of [\d.]+ KiB"
    ) as caught:
        Estimator(measured, DEVICE.slug, limits=Limits(memory_bytes=KIB)).estimate(NETWORK)
    assert caught.value.least_bytes == least
    assert caught.value.exit_code is ExitCode.EXCEEDED
    assert "--batch-size" in (caught.value.hint or "")
    Estimator(measured, DEVICE.slug, limits=Limits(memory_bytes=least)).estimate(NETWORK)
    with pytest.raises(DoesNotFit):
        Estimator(measured, DEVICE.slug, limits=Limits(memory_bytes=least - 1)).estimate(NETWORK)


def test_the_least_counts_learned_workspaces_where_nothing_was_measured(tmp_path):
    store = open_store(str(tmp_path), shipped=False)
    convolutions = [
        made_rows.convolution(batch, 16 * wide, 32, size)
        for batch in (1, 4, 8)
        for wide in (1, 2, 4)
        for size in (8, 16, 32)
    ]
    roomy = [
        measurement(task, workspace_bytes=2**26)
        for task in tasks([*convolutions, *step_layers(NETWORK)])
        if task.layer.kind != "convolution" or task.layer in convolutions
    ]
    write(store, [replace(row, workspace_bytes=KIB) if row.task.layer.kind != "convolution" else row for row in roomy])
    selectors.save_selector(
        selectors.fit_selector(selectors.decisions(store.measurements(DEVICE.slug, kinds={"convolution"}))),
        store.models_dir / f"selector-{DEVICE.slug}",
    )
    with pytest.raises(DoesNotFit) as caught:
        Estimator(store, DEVICE.slug, limits=Limits(memory_bytes=2**25)).estimate(NETWORK)
    assert caught.value.least_bytes > 2**26
    found = Estimator(store, DEVICE.slug, limits=Limits(memory_bytes=caught.value.least_bytes)).estimate(NETWORK)
    assert found.memory_bytes <= caught.value.least_bytes


def test_a_framework_that_knows_no_limit_is_said_to_exceed_it(store):
    rows = [
        measurement(task, workspace_bytes=2**24 if task == replace(task, algorithm=FRAMEWORK_DEFAULT) else KIB)
        for task in tasks(step_layers(NETWORK))
    ]
    rows = [
        replace(row, workspace_bytes=row.workspace_bytes if row.task.layer.kind == "convolution" else KIB)
        for row in rows
    ]
    write(store, rows)
    least = Estimator(store, DEVICE.slug, strategy="fixed:IM2COL_GEMM").estimate(NETWORK).memory_bytes
    found = Estimator(store, DEVICE.slug, strategy="pytorch", limits=Limits(memory_bytes=least)).estimate(NETWORK)
    assert "memory_limit" in codes(found)
    assert "memory_limit" not in codes(
        Estimator(store, DEVICE.slug, limits=Limits(memory_bytes=least)).estimate(NETWORK)
    )


# Several strategies and limits


def test_strategies_are_compared_on_the_same_timings(measured):
    names = ("latte", "pytorch", "tensorflow", "mindspore")
    found = estimate_each(measured, DEVICE.slug, NETWORK, strategies=names)
    assert [each.strategy for each in found] == list(names)
    latte, pytorch, tensorflow, mindspore = found
    assert latte.step_s == tensorflow.step_s < pytorch.step_s == mindspore.step_s
    assert codes(tensorflow) == codes(mindspore) == {"stand_in"}
    assert not codes(latte)
    for each in found:
        assert each == Estimator(measured, DEVICE.slug, strategy=each.strategy).estimate(NETWORK)


def test_limits_that_the_step_does_not_fit_are_left_out(measured):
    least = peak(measured, strategy="pytorch").peak.live_bytes
    limits = [Limits(memory_bytes=most) for most in (KIB, least, 2 * least, None)]
    found = estimate_each(measured, DEVICE.slug, NETWORK, limits=limits)
    assert [each.limits for each in found] == limits[1:]
    assert [each.step_s for each in found] == sorted((each.step_s for each in found), reverse=True)
    for each in found:
        assert each == Estimator(measured, DEVICE.slug, limits=each.limits).estimate(NETWORK)
    with pytest.raises(DoesNotFit):
        estimate_each(measured, DEVICE.slug, NETWORK, limits=limits[:1] * 2)


def test_rules_choose_by_predicted_times_where_nothing_was_measured(measured):
    found = estimate_each(
        measured, DEVICE.slug, network(batch=32), strategies=("exhaustive", "pytorch", "fixed:IM2COL_GEMM")
    )
    exhaustive, *others = found
    assert exhaustive.step_s <= min(each.step_s for each in others)
    assert Source.PREDICTED in {part.source for part in exhaustive.parts}


def test_a_fixed_algorithm_says_where_it_could_not_run(store):
    rows = [measurement(task) for task in tasks(step_layers(NETWORK))]
    first = NETWORK.nodes[0].layer
    write(store, [row for row in rows if (row.task.layer, row.task.algorithm) != (first, GEMM)])
    found = Estimator(store, DEVICE.slug, strategy="fixed:IM2COL_GEMM").estimate(NETWORK)
    [warning] = found.warnings
    assert warning.code == "not_supported"
    assert warning.message.startswith("2 of 5 convolution phases")


def test_a_fixed_algorithm_that_the_device_never_ran_gets_a_near_match(measured):
    with pytest.raises(LatteError, match="unknown algorithm `IM2COL_GEM`") as caught:
        Estimator(measured, DEVICE.slug, strategy="fixed:IM2COL_GEM").estimate(NETWORK)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "IM2COL_GEMM" in (caught.value.hint or "")


def test_auto_takes_the_layout_that_is_faster_in_total(measured):
    profile(measured, step_layers(NETWORK), replace(SETTINGS, layout=Layout.CHANNELS_LAST))
    found = estimate_one(measured, DEVICE.slug, NETWORK, layout="auto")
    assert found.settings.layout is Layout.CHANNELS_LAST
    assert {part.layout for part in found.parts} == {Layout.CHANNELS_LAST}


def test_auto_takes_the_layout_that_has_rows(measured):
    assert estimate_one(measured, DEVICE.slug, NETWORK, layout="auto").settings.layout is Layout.NCHW


@pytest.mark.parametrize("wish", [{"precision": "bf16"}, {"layout": "channels_last"}, {"threads": 7}])
def test_settings_that_were_not_profiled_are_an_error(measured, wish):
    with pytest.raises(LatteError, match="has no rows in") as caught:
        estimate_one(measured, DEVICE.slug, NETWORK, **wish)
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize(
    ("wish", "near"),
    [
        ({"precision": "fp31"}, "fp32"),
        ({"layout": "channels_first"}, "channels_last"),
        ({"layout": "x"}, "auto"),
        ({"optimizer": "adamx"}, "adam"),
        ({"strategy": "late"}, "latte"),
    ],
)
def test_an_unknown_name_is_a_usage_error_with_a_near_match(measured, wish, near):
    with pytest.raises(LatteError, match="unknown") as caught:
        estimate_one(measured, DEVICE.slug, NETWORK, **wish)
    assert caught.value.exit_code is ExitCode.USAGE
    assert near in (caught.value.hint or "")


def test_a_step_that_does_not_fit_the_memory_is_said(store):
    small = replace(DEVICE, memory_bytes=10**6)
    write(store, [replace(measurement(task), device=small) for task in tasks(step_layers(NETWORK))])
    assert codes(Estimator(store, small.slug).estimate(NETWORK)) == {"memory"}


LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))


@pytest.fixture(scope="module")
def some_of_each_kind(tmp_path_factory):
    """A store with rows of the layers of three models, every kind among them, at batch 2."""
    store = open_store(str(tmp_path_factory.mktemp("some")), shipped=False)
    own = [parsed(export(name), batch_size=2) for name in ("alexnet", "mobilenet_v2")]
    light = [load(path, batch_size=2) for path in LIGHT if "shufflenet" in path.name or "inception_v1" in path.name]
    profile(store, [layer for network in (*own, *light) for layer in step_layers(network)])
    return store


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_the_light_models_are_priced_whole(some_of_each_kind, path):
    found = Estimator(some_of_each_kind, DEVICE.slug).estimate(load(path, batch_size=8))
    assert not found.missing
    assert {part.name for part in found.parts} >= {node.name for node in found.network.nodes}


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_is_priced_whole(some_of_each_kind, name):
    found = Estimator(some_of_each_kind, DEVICE.slug).estimate(parsed(export(name), batch_size=8))
    assert not found.missing
    right = sum(law(part.layer, part.phase, part.algorithm) for part in found.parts if not part.layer.free)
    assert found.step_s == pytest.approx(right, rel=0.3)


def test_an_estimator_answers_for_many_networks(measured):
    profile(measured, step_layers(network(width=32)))
    estimator = Estimator(measured, DEVICE.slug)
    small, large = (estimator.estimate(network(width=width)) for width in (16, 32))
    assert small.step_s < large.step_s
    assert large == Estimator(measured, DEVICE.slug).estimate(network(width=32))


def test_python_callers_need_one_function(measured):
    found = latte_cli.estimate(NETWORK, store=measured.uri, device=DEVICE.slug, strategy="pytorch")
    assert found == Estimator(measured, DEVICE.slug, strategy="pytorch").estimate(NETWORK)


def test_a_layout_that_nobody_asked_for_gives_way_to_one_that_was_measured(store):
    gpu = replace(DEVICE, slug="some-gpu", kind=CUDA)
    layers = [*step_layers(NETWORK), NETWORK.transfer()]
    settings = replace(SETTINGS, precision=Precision.TF32)
    write(store, [measurement(task, device=gpu) for task in tasks(layers, settings)])
    own, other = estimate_each(store, gpu.slug, NETWORK, strategies=("pytorch", "tensorflow"), precision="tf32")
    assert (own.settings.layout, other.settings.layout) == (Layout.NCHW, Layout.NCHW)
    assert "other_layout" not in codes(own)
    [said] = [warning.message for warning in other.warnings if warning.code == "other_layout"]
    assert said.startswith("`tensorflow` takes channels_last at tf32, which was not measured")
    with pytest.raises(NotProfiled, match="no rows in tf32 channels_last"):
        estimate_each(store, gpu.slug, NETWORK, precision="tf32", layout="channels_last")
    with pytest.raises(NotProfiled, match="no rows in fp16 channels_last"):
        estimate_each(store, gpu.slug, NETWORK, strategies=("tensorflow",), precision="fp16")


def test_gradients_that_the_heap_gives_back_are_named_with_what_keeps_them(store):
    with torch.device("meta"):
        deep = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(40)))
        found = load(deep, (torch.zeros(2, 1024),))
    profile(store, step_layers(found))
    [said] = [each for each in estimate_one(store, DEVICE.slug, found).warnings if each.code == "returned_memory"]
    assert "glibc gives 160 MiB of gradients back after each step" in said.message
    assert "MALLOC_TRIM_THRESHOLD_" in said.message
    profile(store, step_layers(NETWORK))
    assert "returned_memory" not in codes(estimate_one(store, DEVICE.slug, NETWORK))


def test_numbers_of_steps_below_one_are_refused() -> None:
    for wrong in (lambda: Step(accumulate=0), lambda: Rest(log_every=0)):
        with pytest.raises(LatteError, match="0"):
            wrong()


def test_a_network_keeps_its_batch() -> None:
    found = zoo.network("resnet8", batch_size=4)
    assert latte_cli.estimate(found, device="reference", batch_size=4).network.batch_size == 4
    with pytest.raises(LatteError, match="was read at batch 4, not 8"):
        latte_cli.estimate(found, device="reference", batch_size=8)
