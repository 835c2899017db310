"""Real steps: a network that was run whole, to whose steps the times of its layers are scaled."""

import time
from dataclasses import replace

import pytest
from recorded_gpu import DEVICE as GPU

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.allocator.sub_models import catalogue
from latte_cli.backends.torch.training import RunRequest
from latte_cli.backends.torch.whole import run_apart
from latte_cli.devices import CPU, Device
from latte_cli.estimator import BESIDE, LOSS, UPDATE, Estimator, Step, estimate_each
from latte_cli.estimator.spending import Spending
from latte_cli.estimator.steps import step_calls
from latte_cli.layers import Convolution, Phase, Whole
from latte_cli.measure import Measurement
from latte_cli.network import zoo
from latte_cli.network.structure import whole_of
from latte_cli.network.training import freeze_parameters
from latte_cli.real_steps import Subject
from latte_cli.report.estimate_tables import estimate_table
from latte_cli.schedule import Schedule
from latte_cli.store import open_store
from latte_cli.suites import limits_of, yardstick
from latte_cli.tasks import Settings, Task
from latte_cli.thresholds import baseline_doubts
from latte_cli.worker import Opening, Worker

MACHINE = Device(slug="machine", name="a machine", kind=CPU)
NETWORK = zoo.network("lenet", batch_size=8)
OTHER = Algorithm(library="ours", name="OTHER")
FORWARD_S, BACKWARD_S, UPDATE_S = 20e-3, 50e-3, 4e-3
PLAIN = (Step(),)


def row(layer, phase, seconds, *, device=MACHINE, algorithm=FRAMEWORK_DEFAULT, spread=0.02):
    task = Task(layer=layer, phase=phase, algorithm=algorithm, settings=Settings(threads=2))
    times = tuple(seconds * (1 + spread * (at - 2)) for at in range(5))
    return Measurement(task=task, device=device, device_times_s=times, host_times_s=times)


def store_of(path, networks=(NETWORK,), *, ran=(NETWORK,), device=MACHINE, steps=PLAIN, faster=1.0, varied=0.02):
    """Rows of every layer, a millisecond each, and of the networks that were `ran` whole."""
    store = open_store(str(path), shipped=False)
    pairs = {
        work.pair: None
        for network in networks
        for step in steps
        for work in step_calls(network, step, fused=device.kind.queued)
        if not work.layer.free
    }
    with store.writer(device) as writer:
        for layer, phase in pairs:
            writer.append(row(layer, phase, 1e-3, device=device, spread=0.2))
            if isinstance(layer, Convolution):
                writer.append(row(layer, phase, faster * 1e-3, device=device, algorithm=OTHER, spread=0.2))
        for network in ran:
            times = (FORWARD_S, BACKWARD_S, UPDATE_S)
            for phase, seconds in zip(Whole.phases, times, strict=True):
                writer.append(row(whole_of(network), phase, seconds, device=device, spread=varied))
    return store


def of_nodes(estimate, *phases):
    return sum(
        part.count * part.device_s for part in estimate.parts if part.name not in BESIDE and part.phase in phases
    )


def passes(estimate):
    """Forward and backward as a run whole has them: the loss's gradient is in the backward pass."""
    loss_s = sum(part.device_s for part in estimate.parts if part.name == LOSS and part.phase is not Phase.FORWARD)
    phases = {part.phase for part in estimate.parts} - {Phase.FORWARD, Phase.UPDATE}
    return of_nodes(estimate, Phase.FORWARD), of_nodes(estimate, *phases) + loss_s


def test_layers_add_up_to_the_steps_of_the_network(tmp_path):
    found = Estimator(store_of(tmp_path), "machine", strategy="pytorch").estimate(NETWORK)
    assert passes(found) == pytest.approx((FORWARD_S, BACKWARD_S))
    assert next(part.device_s for part in found.parts if part.name == UPDATE) == pytest.approx(UPDATE_S)
    assert next(part.device_s for part in found.parts if part.name == LOSS) == pytest.approx(1e-3)
    assert found.real_steps is not None
    assert found.real_steps.own


def test_another_step_is_scaled_by_the_same_factors(tmp_path):
    store = store_of(tmp_path, steps=(Step(accumulate=2), Step(), Step(optimizer="adam")), faster=0.5)
    estimator = Estimator(store, "machine", strategy="pytorch")
    plain = estimator.estimate(NETWORK)
    twice = estimator.estimate(NETWORK, Step(accumulate=2))
    assert of_nodes(twice, Phase.FORWARD) == pytest.approx(2 * of_nodes(plain, Phase.FORWARD))
    assert estimator.estimate(NETWORK, "adam").real_steps == plain.real_steps
    fast = Estimator(store, "machine", strategy=f"fixed:{OTHER.name}").estimate(NETWORK)
    assert fast.real_steps == plain.real_steps
    assert of_nodes(fast, Phase.FORWARD) < of_nodes(plain, Phase.FORWARD)


def test_the_interval_is_that_of_the_steps_and_of_the_algorithms_that_they_did_not_take(tmp_path):
    def width(store, strategy="pytorch"):
        found = Estimator(store, "machine", strategy=strategy).estimate(NETWORK)
        return (found.step_high_s - found.step_low_s) / found.step_s

    run, alone = store_of(tmp_path / "run"), store_of(tmp_path / "alone", ran=())
    assert width(run) < width(alone)
    assert width(run, f"fixed:{OTHER.name}") > width(run)


@pytest.mark.parametrize(
    ("ran", "varied", "strategy", "said"),
    [
        ((), 0.02, "pytorch", "of the step is from times that vary much"),
        ((NETWORK,), 0.02, "pytorch", None),
        ((NETWORK,), 0.02, f"fixed:{OTHER.name}", "of the step is from times that vary much"),
        ((NETWORK,), 0.2, "pytorch", "the network's own steps vary much"),
    ],
)
def test_noise_is_that_of_the_steps_and_of_the_algorithms_that_they_did_not_take(tmp_path, ran, varied, strategy, said):
    store = store_of(tmp_path, ran=ran, varied=varied)
    warnings = Estimator(store, "machine", strategy=strategy).estimate(NETWORK).warnings
    messages = [each.message for each in warnings if each.code == "noisy"]
    assert len(messages) == (said is not None)
    assert all(said in message for message in messages)


@pytest.mark.parametrize("estimator", ["flops", "roofline"])
def test_estimators_that_ignore_rows_ignore_steps(tmp_path, estimator):
    store = store_of(tmp_path)
    assert Estimator(store, "machine", strategy="pytorch", estimator=estimator).estimate(NETWORK).real_steps is None


def test_steps_of_another_batch_or_of_other_parameters_tell_nothing(tmp_path):
    frozen, larger = freeze_parameters(NETWORK, ["conv1*"]), zoo.network("lenet", batch_size=16)
    store = store_of(tmp_path, (NETWORK, frozen, larger))
    estimator = Estimator(store, "machine", strategy="pytorch")
    assert estimator.estimate(frozen).real_steps is None
    assert estimator.estimate(larger).real_steps is None
    assert estimator.estimate(NETWORK).real_steps is not None


def test_part_of_a_step_is_not_enough(tmp_path):
    store = store_of(tmp_path, ran=())
    with store.writer(MACHINE) as writer:
        writer.append(row(whole_of(NETWORK), Phase.FORWARD, FORWARD_S))
    assert Estimator(store, "machine", strategy="pytorch").estimate(NETWORK).real_steps is None


def test_a_gpu_has_two_clocks_and_is_left_alone(tmp_path):
    store = store_of(tmp_path, device=replace(GPU, slug="gpu"))
    assert Estimator(store, "gpu", strategy="pytorch").estimate(NETWORK).real_steps is None


def test_sub_models_are_scaled_as_what_they_were_cut_from(tmp_path):
    parts = [each.of(NETWORK) for each in catalogue(NETWORK, (1.0, 0.5))]
    store, bare = (store_of(tmp_path / str(n), (NETWORK, *parts), ran=(NETWORK,) * n) for n in (1, 0))
    for part in parts:
        scaled = Estimator(store, "machine", strategy="pytorch").estimate(part, cut_from=NETWORK)
        plain = Estimator(bare, "machine", strategy="pytorch").estimate(part, cut_from=NETWORK)
        whole = Estimator(store, "machine", strategy="pytorch").estimate(NETWORK)
        assert scaled.real_steps is not None
        assert scaled.real_steps.own == (whole_of(part) == whole_of(NETWORK))
        ratio = of_nodes(scaled, Phase.FORWARD) / of_nodes(plain, Phase.FORWARD)
        assert ratio == pytest.approx(whole.real_steps.forward)


def test_a_run_ends_at_its_deadline_with_what_it_has():
    late = RunRequest(model="lenet", batch_size=2, image_size=28, seconds=60.0, deadline=time.time())
    assert len(run_apart(late).step_s) == 1


def test_a_baseline_of_another_kind_is_named():
    def document(**more):
        return {"model": {"name": "m", "sha256": "0"}, "estimates": [{"totals": {"step_s": 1.0}, **more}]}

    plain, scaled = document(), document(real_steps={"forward": 0.9})
    assert baseline_doubts(plain, plain) == baseline_doubts(scaled, scaled) == []
    (one,), (other,) = baseline_doubts(plain, scaled), baseline_doubts(scaled, plain)
    assert "this is scaled to real steps" in one
    assert "the baseline is scaled to real steps" in other


@pytest.mark.parametrize(("share", "seconds", "runs"), [(0.5, 20.0, True), (1e-9, 5.0, False)])
def test_a_network_is_run_if_it_fits_the_memory_that_it_may_take(tmp_path, share, seconds, runs):
    store = open_store(str(tmp_path), shipped=False)
    with Worker(Opening(device="cpu", threads=1)) as worker, store.writer(worker.device) as writer:
        spending = Spending(
            worker=worker,
            writer=writer,
            start=time.monotonic(),
            seconds=seconds,
            subject=Subject(network=NETWORK, run=RunRequest(model="lenet", batch_size=8)),
            memory_share=share,
        )
        spending.on_yardstick(yardstick(0, limits_of(worker.device, 0.5)))
        spending.on_step(estimate_each(store, worker.device.slug, NETWORK, allow_unknown=True, rough=True))
    rows = [row for row in store.measurements(worker.device.slug) if row.task.layer == whole_of(NETWORK)]
    assert bool(rows) is bool(spending.steps) is runs
    assert spending.steps == sum(len(row.device_times_s) for row in rows if row.task.phase is Phase.FORWARD)
    assert len({(row.task.id, row.sweep_pass) for row in rows}) == len(rows)
    (found,) = estimate_each(store, worker.device.slug, NETWORK, strategies=("pytorch",), rough=True)
    assert (found.real_steps is not None) is runs


def test_what_is_said_of_several_estimates_alike_is_said_once(tmp_path):
    store = store_of(tmp_path, faster=0.5)
    both = [Estimator(store, "machine", strategy=name).estimate(NETWORK) for name in ("pytorch", "exhaustive")]
    told = [line for line in estimate_table(both, Schedule(), None).footer if "run whole" in line]
    assert [line.split(":")[0] for line in told] == ["A, B"]
    apart = [both[0], Estimator(store_of(tmp_path / "s", ran=()), "machine").estimate(NETWORK)]
    told = [line for line in estimate_table(apart, Schedule(), None).footer if "run whole" in line]
    assert [line.split(":")[0] for line in told] == ["A"]
