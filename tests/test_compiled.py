"""Compiled steps: what is measured of them, and what is said of those that were not."""

import json
import shutil
from dataclasses import replace
from math import log

import made_rows
import pytest
import torch
from made_rows import DEVICE, SETTINGS, measurement, profile, step_layers, write
from running import ended, latte

from latte_cli.algorithms import COMPILED, FRAMEWORK_DEFAULT
from latte_cli.backends.contract import Unsupported
from latte_cli.backends.torch.compiled import compile_apart, compiler_cache
from latte_cli.backends.torch.training import RunRequest
from latte_cli.cli.profile import ProfileRequest
from latte_cli.cli.whole_runs import subjects_of
from latte_cli.compiling import PASSES, Subject, measure_compiled
from latte_cli.devices import CPU, CUDA
from latte_cli.errors import LatteError
from latte_cli.estimator import Estimator, Source, estimate_one
from latte_cli.estimator.compiled import FOLLOWER, HEAD, LIBRARY, Savings, chain_places, paired_passes
from latte_cli.layers import Activation, Phase, Softmax
from latte_cli.lookup import combine_passes
from latte_cli.measure import Outcome
from latte_cli.network import Node, load, zoo
from latte_cli.network.calibration import calibration_networks
from latte_cli.network.structure import structure, whole_of
from latte_cli.network.training import freeze_parameters
from latte_cli.precisions import Layout, Precision
from latte_cli.store import open_store
from latte_cli.tasks import Task

NETWORK = made_rows.network()
RATIOS = {Phase.FORWARD: 0.5, Phase.BACKWARD: 1.25}


@pytest.fixture
def store(tmp_path):
    found = open_store(str(tmp_path / "store"), shipped=False)
    profile(found, step_layers(NETWORK))
    return found


def whole_rows(network, eager_s=1.0, ratios=RATIOS, **settings):
    """Rows of `network` that was run whole, eager for `eager_s` a pass and compiled."""
    for algorithm, factors in ((FRAMEWORK_DEFAULT, dict.fromkeys(ratios, 1.0)), (COMPILED, ratios)):
        for phase, factor in factors.items():
            task = Task(
                layer=whole_of(network), phase=phase, algorithm=algorithm, settings=replace(SETTINGS, **settings)
            )
            for number in range(PASSES):
                yield measurement(task, time_s=eager_s * factor, sweep_pass=number)


def eager(store, network=NETWORK):
    return estimate_one(store, DEVICE.slug, network, strategy="pytorch")


def compiled(store, network=NETWORK, **options):
    return estimate_one(store, DEVICE.slug, network, strategy="pytorch", compiled=True, **options)


@pytest.mark.parametrize("name", ["lenet", "resnet8", "mobilenet_v1"])
def test_the_structure_of_a_network_is_that_at_any_batch(name):
    one, other = (zoo.network(name, batch_size=batch) for batch in (3, 8))
    assert structure(one) == structure(other)


def test_networks_that_compute_other_things_have_another_structure():
    found = [structure(zoo.network(name, batch_size=8, image_size=32)) for name in ("resnet8", "resnet20", "resnet18")]
    small = zoo.network("resnet8", batch_size=8, image_size=32)
    found += [
        structure(zoo.network("resnet8", batch_size=8, image_size=64)),
        structure(freeze_parameters(small, ["layer1*"])),
    ]
    for at, node in enumerate(small.nodes):
        if isinstance(node.layer, Activation):
            other = replace(node, layer=replace(node.layer, function="gelu"))
            found.append(structure(replace(small, nodes=(*small.nodes[:at], other, *small.nodes[at + 1 :]))))
    assert len(set(found)) == len(found)


def test_a_network_that_was_run_compiled_takes_what_it_took(store):
    write(store, whole_rows(NETWORK, eager_s=0.2))
    found = compiled(store)
    assert found.forward_s == pytest.approx(0.1, rel=1e-5)
    assert found.backward_s == pytest.approx(0.25, rel=1e-5)
    before = eager(store)
    assert (found.other_s, found.update_s) == (before.other_s, before.update_s)
    assert found.compiled.source is Source.MEASURED
    assert found.compiled.eager_s == pytest.approx(0.4 + before.other_s + before.update_s, rel=1e-5)  # run in turn
    assert found.step_low_s < found.step_low_80_s < found.step_s < found.step_high_80_s < found.step_high_s
    factor = found.backward_s / before.backward_s
    for part, old in zip(found.parts, before.parts, strict=True):
        if part.name == "conv2" and part.phase is not Phase.FORWARD:
            assert part.device_s == pytest.approx(factor * old.device_s)


def test_several_passes_an_update_each_take_as_long(store):
    write(store, whole_rows(NETWORK, eager_s=0.2))
    profile(store, [made_rows.network().optimizer("sgd")])
    found = compiled(store, accumulate=3, allow_unknown=True)
    assert found.forward_s == pytest.approx(0.3, rel=1e-5)


def test_at_another_batch_it_takes_the_ratios_of_those_that_were_run(store):
    wide = made_rows.network(batch=32)
    profile(store, step_layers(made_rows.network(batch=16)))
    write(store, [*whole_rows(NETWORK, ratios=RATIOS), *whole_rows(wide, ratios=dict.fromkeys(RATIOS, 2.0))])
    before = eager(store, made_rows.network(batch=16))
    found = compiled(store, made_rows.network(batch=16))  # half way between 8 and 32
    assert found.forward_s == pytest.approx(before.forward_s * (0.5 * 2.0) ** 0.5, rel=1e-5)
    assert found.backward_s == pytest.approx(before.backward_s * (1.25 * 2.0) ** 0.5, rel=1e-5)
    assert (found.compiled.source, found.compiled.batches) == (Source.INTERPOLATED, (8, 32))


def test_the_nearest_ratio_holds_outside_and_none_far_away(store):
    write(store, whole_rows(NETWORK))
    near, far = made_rows.network(batch=64), made_rows.network(batch=128)
    profile(store, [*step_layers(near), *step_layers(far)])
    assert compiled(store, near).forward_s == pytest.approx(0.5 * eager(store, near).forward_s, rel=1e-5)
    with pytest.raises(LatteError, match="no compiled steps of `small` near batch 128, only at batch 8") as caught:
        compiled(store, far)
    assert "latte profile MODEL --compile --batch-size 128" in caught.value.hint


@pytest.mark.parametrize("settings", [{"precision": Precision.BF16}, {"layout": Layout.CHANNELS_LAST}, {"threads": 1}])
def test_runs_under_other_settings_tell_nothing(store, settings):
    write(store, whole_rows(NETWORK, **settings))
    with pytest.raises(LatteError, match="no compiled steps"):
        compiled(store)


def test_one_way_alone_tells_nothing(store):
    write(store, [row for row in whole_rows(NETWORK) if row.task.algorithm == COMPILED])
    with pytest.raises(LatteError, match="no compiled steps"):
        compiled(store)


def test_chains_begin_at_what_reads_a_library_call():
    places = chain_places(NETWORK)
    assert places == {
        **dict.fromkeys(("conv1", "conv2", "fc"), LIBRARY),
        "norm": HEAD,
        **dict.fromkeys(("relu", "pool"), FOLLOWER),
        "flat": HEAD,
    }


FACTORS = {Phase.FORWARD: (0.9, 0.6, 0.2), Phase.BACKWARD: (1.3, 0.7, 0.1)}
"""What compiling makes of library calls, heads and followers on the made-up device."""


def true_passes(found):
    """The seconds of the compiled passes of an eager estimate, by FACTORS."""
    places, passes = chain_places(found.network), dict.fromkeys(FACTORS, 0.0)
    for part in found.parts:
        if part.name in places:
            phase = Phase.FORWARD if part.phase is Phase.FORWARD else Phase.BACKWARD
            passes[phase] += FACTORS[phase][places[part.name]] * part.device_s
    return passes


@pytest.fixture
def calibrated(store):
    """The calibration networks, layer by layer and whole, eager and compiled."""
    networks = [network for _, network in calibration_networks(CPU)]
    profile(store, [layer for network in networks for layer in step_layers(network)])
    estimator = Estimator(store, DEVICE.slug, strategy="pytorch")
    for network in networks:
        found = estimator.estimate(network)
        before = {Phase.FORWARD: found.forward_s, Phase.BACKWARD: found.backward_s}
        ratios = {phase: passed_s / before[phase] for phase, passed_s in true_passes(found).items()}
        write(store, whole_rows(network, ratios=ratios))
    return store


def test_savings_are_learned_from_networks_that_were_run_whole(calibrated):
    network = zoo.network("resnet20", batch_size=8, image_size=64)
    profile(calibrated, step_layers(network))
    before, found = eager(calibrated, network), compiled(calibrated, network)
    true = true_passes(before)
    assert (found.compiled.source, found.compiled.networks) == (Source.PREDICTED, len(calibration_networks(CPU)))
    assert found.forward_s == pytest.approx(true[Phase.FORWARD], rel=0.1)
    assert found.backward_s == pytest.approx(true[Phase.BACKWARD], rel=0.1)
    assert abs(log(before.forward_s / true[Phase.FORWARD])) > 0.2  # what was learned matters


def test_kinds_of_layers_that_no_example_has_are_not_predicted(calibrated):
    layer = Softmax(shape=(8, 10), axis=1)
    last = Node(name="softmax", layer=layer, inputs=("fc",), output="softmax")
    network = replace(NETWORK, nodes=(*NETWORK.nodes, last), outputs=("softmax",))
    profile(calibrated, [layer])
    with pytest.raises(LatteError, match="none of other networks with softmax"):
        compiled(calibrated, network)


def test_without_examples_nothing_is_predicted():
    assert Savings.learn([]).unlike(NETWORK) == ["activation", "convolution", "linear", "norm", "pool"]


def test_the_newest_of_two_measurements_counts():
    rows = [*whole_rows(NETWORK, eager_s=1.0), *(replace(row, measured_at=2.0) for row in whole_rows(NETWORK))]
    (found,) = paired_passes(combine_passes(rows))
    assert found.ratios == {phase: pytest.approx(ratio) for phase, ratio in RATIOS.items()}


@pytest.mark.parametrize(
    "words",
    [
        *(("--memory-limit", "1GiB"), ("--workspace-limit", "1GiB"), ("--checkpoint", "auto"), ("--memory",)),
        *(("--fits", "8GiB"), ("--batch-size", "max:8GiB"), ("--batch-size", "4,8"), ("--effective-batch", "8")),
        *(("--strategy", "latte"), ("--strategy", "pytorch,latte"), ("--cuda-graph",), ("--gpus", "2")),
        *(("--measure-below", "0.5"), ("--fail-above", "memory=1GiB")),
    ],
)
def test_what_is_not_known_of_compiled_steps_is_refused(store, model, words):
    code, out, err = ended("estimate", model, "--device", DEVICE.slug, "--store", store.uri, "--compile", *words)
    assert (code, out) == (2, "")
    assert "hint:" in err


def test_other_devices_and_checkpoints_are_refused(store):
    gpu = replace(DEVICE, slug="made-up-gpu", kind=CUDA)
    write(store, [replace(measurement(task), device=gpu) for task in made_rows.tasks(step_layers(NETWORK))])
    with pytest.raises(LatteError, match="CPUs only"):
        estimate_one(store, gpu.slug, NETWORK, strategy="pytorch", compiled=True)


def test_the_document_says_where_a_compiled_step_comes_from(store, tmp_path):
    path = tmp_path / "resnet8.onnx"
    path.write_bytes(zoo.export("resnet8"))
    network = load(path, batch_size=8)
    profile(store, step_layers(network))
    write(store, whole_rows(network))
    words = ("estimate", path, "--batch-size", 8, "--device", DEVICE.slug, "--store", store.uri, "--compile")
    (body,) = json.loads(latte(*words, "--format", "json").stdout)["estimates"]
    before = eager(store, network)
    eager_s = 2.0 + before.other_s + before.update_s
    said = {"eager_step_s": pytest.approx(eager_s, rel=1e-5), "source": "measured", "batches": [8], "networks": 0}
    assert body["compiled"] == said
    assert (body["memory"], body["totals"]["memory_bytes"], body["strategy"]) == (None, None, "pytorch")
    table = latte(*words).stdout
    assert "memory not known" in table
    assert "both were run whole at this batch" in table


def test_what_is_not_known_says_how_it_is_measured_as_it_was_asked(store, model):
    profile(store, step_layers(load(model, batch_size=8)))
    words = ("estimate", model, "--batch-size", 8, "--device", DEVICE.slug, "--store", store.uri, "--compile")
    code, _, err = ended(*words, "--precision", "fp32")
    assert code == 1
    assert f"hint: `latte profile {model} --compile --batch-size 8 --precision fp32` measures it" in err
    name = next(node.name for node in load(model).nodes if node.parameters)
    assert "leave out `--freeze`" in ended(*words, "--freeze", name)[2]


class Rows(list):
    """Where rows go."""


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_model_is_run_eager_and_compiled(model):
    subject = Subject(network=load(model, batch_size=2), run=RunRequest(model=str(model), batch_size=2))
    rows, settings = Rows(), replace(SETTINGS, threads=1)
    found = measure_compiled([subject], [settings], DEVICE, rows, seconds=0.1)
    assert (found.measured, found.resumed, found.reasons) == (PASSES, 0, ())
    (passes,) = paired_passes(combine_passes(rows))
    assert passes.batch == 2
    assert {row.task.layer for row in rows} == {whole_of(subject.network)}
    again = measure_compiled([subject], [settings], DEVICE, [], earlier=rows)
    assert (again.measured, again.resumed) == (0, PASSES)


def test_a_model_that_does_not_run_is_a_row(tmp_path):
    subject = Subject(network=NETWORK, run=RunRequest(model=str(tmp_path / "none.onnx"), batch_size=2))
    rows = Rows()
    found = measure_compiled([subject], [SETTINGS], DEVICE, rows)
    assert [row.outcome for row in rows] == [Outcome.UNSUPPORTED] * PASSES * 2
    assert len(found.reasons) == PASSES
    assert found.reasons[0].startswith("small: ")
    assert not paired_passes(combine_passes(rows))


def test_without_a_compiler_nothing_is_measured(model, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = latte("profile", model, "--compile", "--threads", 1, "--store", tmp_path / "own", code=1)
    assert "torch.compile needs a C++ compiler, and there is no `no-such-compiler` here" in done.stderr
    assert "hint: install g++" in done.stderr


def test_a_profile_in_which_nothing_ran_compiled_ends_with_1(model, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "/bin/false")
    words = ("--batch-size", 2, "--threads", 1, "--budget", "1s", "--store", tmp_path / "own")
    done = latte("profile", model, "--compile", *words, code=1)
    assert f"0 of {PASSES} compiled passes measured" in done.stdout
    assert "warning: not run compiled: " in done.stderr
    assert "error: nothing was run compiled: every pass failed" in done.stderr
    assert "--compile`" not in done.stderr


def test_a_compiler_that_fails_is_named(model):
    run = RunRequest(model=str(model), batch_size=2, threads=1, seconds=0.1)
    with (
        compiler_cache() as variables,
        pytest.raises(Unsupported, match=r"No working C.. compiler found .*/bin/false.{0,3}$"),
    ):
        compile_apart(run, {**variables, "CXX": "/bin/false"})


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_compiler_that_refuses_is_quoted(model, tmp_path):
    script = tmp_path / "compiler"
    refusing = 'case "$*" in *.cpp*) echo "x.cpp:1: fatal error: out of ink" >&2; exit 1;; esac'
    script.write_text(f'#!/bin/sh\n{refusing}\nexec g++ "$@"\n')
    script.chmod(0o755)
    run = RunRequest(model=str(model), batch_size=2, threads=1, seconds=0.1)
    with compiler_cache() as variables, pytest.raises(Unsupported, match=r"C.. compile error .*out of ink"):
        compile_apart(run, {**variables, "CXX": str(script)})


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_folder_for_scratch_files_that_takes_none_does_not_matter(model, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/proc/self")
    run = RunRequest(model=str(model), batch_size=2, threads=1, seconds=0.1)
    with compiler_cache() as variables:
        eager_steps, _ = compile_apart(run, variables)
    assert eager_steps.forward_s


def test_a_profile_runs_every_shape_compiled(tmp_path):
    path = tmp_path / "open.pt2"
    dims = ({2: torch.export.Dim("length", min=8)},)
    torch.export.save(
        torch.export.export(torch.nn.Conv1d(3, 4, 3), (torch.randn(2, 3, 20),), dynamic_shapes=dims), path
    )
    request = ProfileRequest(models=[path], shape=["input[2]=12,24"], compiled=True)
    networks = [load(path, sizes={"input[2]": size}) for size in (12, 24)]
    found = subjects_of(request, networks, CPU)
    assert [(each.network, dict(each.run.sizes)) for each in found] == [
        (network, {"input[2]": size}) for network, size in zip(networks, (12, 24), strict=True)
    ]
