"""Real steps beside estimates, and choices tried on real steps."""

import json
from dataclasses import replace

import pytest
import torch
from made_rows import DEVICE, measurement, profile_here, step_layers, tasks, write
from running import here, latte
from schemas import valid

import latte_cli
from latte_cli.backends.host import cpu_slug
from latte_cli.backends.torch.training import RunRequest
from latte_cli.backends.torch.whole import run_here
from latte_cli.estimator import estimate_one
from latte_cli.network import load
from latte_cli.network.module import NetworkModule
from latte_cli.precisions import Layout, Precision
from latte_cli.report import Format
from latte_cli.report.verifications import Verification, write_verification
from latte_cli.runtime import Choices, read_choices, write_choices
from latte_cli.runtime.optimizing import own_key
from latte_cli.runtime.racing import Race, raced_here, winning_choices
from latte_cli.store import open_store

THREADS = 1


@pytest.fixture(scope="module")
def store(tmp_path_factory, model):
    """Made-up rows of this very machine with one thread."""
    found = open_store(str(tmp_path_factory.mktemp("own") / "store"), shipped=False)
    profile_here(found, step_layers(load(model, batch_size=4)), THREADS)
    return found.uri


@pytest.mark.alone  # it compares times
def test_every_node_of_a_step_has_a_time_of_its_own(model):
    run = RunRequest(model=str(model), batch_size=4, threads=THREADS, seconds=0.01, calls=True)
    threads = torch.get_num_threads()
    try:
        steps = run_here(run)
    finally:
        torch.set_num_threads(threads)
    nodes = load(model, batch_size=4).nodes
    assert set(steps.calls) == {node.name for node in nodes}
    for node in nodes:
        forward_s, backward_s = steps.calls[node.name]
        assert forward_s > 0
        assert backward_s > 0 or node.layer.free
    parts = sum(sum(times) for times in steps.calls.values())
    assert parts < 10 * steps.median("step_s")


def test_estimated_and_measured_times_stand_side_by_side(model, store):
    named = ("--batch-size", 4, "--threads", THREADS, "--store", store, "--seconds", "20ms")
    exceeded = latte("verify", model, *named, "--tolerance", "0.0001%", "--format", "json", code=3)
    assert "the step is off by" in exceeded.stderr
    body = json.loads(exceeded.stdout)
    assert body["error"] == pytest.approx(
        body["totals"]["step"]["estimated_s"] / body["totals"]["step"]["measured_s"] - 1
    )
    assert {layer["name"] for layer in body["layers"]} >= {"conv1", "conv2"}
    assert all(layer["measured_s"] > 0 for layer in body["layers"])


def test_the_table_of_a_verification_counts_its_processes(model, store, capsys):
    estimate = estimate_one(open_store(store), cpu_slug(THREADS), load(model, batch_size=4), strategy="pytorch")
    run = RunRequest(model=str(model), batch_size=4, threads=torch.get_num_threads(), seconds=0.01, calls=True)
    write_verification(Verification(estimate=estimate, runs=[run_here(run)] * 3), Format.TABLE)
    assert "measured in 3 processes" in capsys.readouterr().out


def test_another_machines_profile_cannot_be_verified_here(model, store):
    other = open_store(store)
    write(other, [measurement(task) for task in tasks(step_layers(load(model, batch_size=4)))])
    done = here("verify", model, "--batch-size", 4, "--device", DEVICE.slug, "--store", store, code=1)
    assert "is not this machine" in done.stderr


def test_choices_are_tried_on_real_steps_and_written(model, store, tmp_path):
    path = tmp_path / "choices.json"
    named = ("--batch-size", 4, "--threads", THREADS, "--store", store, "--seconds", "20ms")
    done = here("tune", model, "-o", path, *named)
    assert "PyTorch's own" in done.stdout
    assert "channels_last" in done.stdout
    [found] = read_choices(path)
    assert found.measured
    assert found.key.threads == THREADS
    valid(path.read_text())
    assert "already" in here("tune", model, "-o", path, *named, code=1).stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        module = NetworkModule(load(model, batch_size=4))
        latte_cli.optimize(module, choices=path)
        assert latte_cli.optimization_of(module).choices == list(read_choices(path))
    finally:
        torch.set_num_threads(threads)


def test_without_a_profile_layouts_alone_are_tried(model, tmp_path):
    path = tmp_path / "choices.json"
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        first = Choices(key=own_key(torch.device("cpu"), Precision.FP32), strategy="latte", reasons=("the first",))
    finally:
        torch.set_num_threads(threads)
    write_choices(path, first)
    named = ("--batch-size", 2, "--threads", THREADS, "--store", tmp_path / "none", "--seconds", "20ms")
    done = here("tune", model, "-o", path, *named, "--force", "--format", "json")
    assert "only layouts are tried" in done.stderr
    [found] = read_choices(path)
    assert found.bindings == ()
    assert found.reasons != first.reasons


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--device", "cuda:0"), 1, "finds no GPU"),
        (("--device", "cqu"), 2, "did you mean `cpu`?"),
        (("--precision", "fp31"), 2, "did you mean `fp32`?"),
        (("--strategy", "lattes"), 2, "did you mean `latte`?"),
    ],
)
def test_bad_input_is_one_clear_line(model, tmp_path, arguments, code, message):
    if arguments == ("--device", "cuda:0") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = here("tune", model, "-o", tmp_path / "choices.json", *arguments, code=code)
    assert message in done.stderr
    assert not (tmp_path / "choices.json").exists()


@pytest.mark.parametrize(
    ("own", "other", "winner"),
    [
        ((1.0,) * 6, (0.8, 0.82, 0.79, 0.81, 0.8, 0.8), 1),
        ((1.0,) * 6, (0.99,) * 6, 0),
        ((1.0,) * 6, (0.9, 0.9, 0.9, 0.9, 1.2, 1.3), 0),
        ((1.0, 2.0, 1.0, 2.0, 1.0, 2.0), (0.9, 1.8, 0.9, 1.8, 0.9, 1.8), 1),
    ],
)
def test_a_way_has_to_be_clearly_quicker_to_be_taken(own, other, winner):
    race = Race(times_s=(own, other), differences=(0.0, 1e-6))
    assert race.winner == winner
    assert replace(race, differences=(0.0, 1.1)).winner == 0
    ways = two_layouts()
    best = winning_choices(race, ways)
    assert best.layout == ways[winner].layout
    assert best.measured


def two_layouts() -> list[Choices]:
    first = Choices(key=own_key(torch.device("cpu"), Precision.FP32), strategy="latte")
    return [first, replace(first, layout=Layout.CHANNELS_LAST)]


def relus_run() -> RunRequest:
    """Gradients of MobileNetV2 in PyTorch's two layouts are thousandths apart, as ReLUs decide otherwise."""
    return RunRequest(model="mobilenet_v2", batch_size=2, image_size=32, threads=torch.get_num_threads(), seconds=0.01)


def test_pytorchs_other_layout_is_right_though_relus_decide_otherwise():
    assert 0 < raced_here(relus_run(), two_layouts())["differences"][1] < 1


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_a_way_that_computes_something_else_is_told(factor, monkeypatch):
    from latte_cli.runtime.optimizing import optimize

    def spoilt(module, **chosen):
        optimize(module, **chosen)
        convolution = [each for each in module.modules() if isinstance(each, torch.nn.Conv2d)][3]
        convolution.register_forward_hook(lambda _, given, found: found * factor)

    monkeypatch.setattr("latte_cli.runtime.optimizing.optimize", spoilt)
    run = replace(relus_run(), model="resnet8")
    assert raced_here(run, two_layouts())["differences"][1] > 1
