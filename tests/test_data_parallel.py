"""Steps of several GPUs: when buckets are sent, and what a step waits for."""

import csv
import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_rows import DEVICE, SETTINGS, measurement, network, profile, step_layers, tasks, write
from running import ended
from schemas import valid

from latte_cli.devices import CUDA
from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator import Estimate, Estimator, Limits, Step, estimate_each
from latte_cli.estimator.buckets import CAP_BYTES
from latte_cli.estimator.data_parallel import DDP, DP, MODES, REPLICA_S, leaf_modules, scale
from latte_cli.estimator.links import Link, parse_link
from latte_cli.layers import Elementwise, Phase
from latte_cli.network import load, zoo
from latte_cli.store import open_store

GPU = replace(DEVICE, slug="made-up-gpu", kind=CUDA)
FAST, SLOW = Link(bandwidth_bytes_per_s=1e18), Link(bandwidth_bytes_per_s=1e6)


@pytest.fixture(scope="module")
def estimate(tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    """A step of ResNet-18, as one call after the other takes it."""
    read = zoo.network("resnet18", batch_size=2, image_size=64)
    store = open_store(str(tmp_path_factory.mktemp("store")), shipped=False)
    profile(store, step_layers(read))
    found = Estimator(store, DEVICE.slug).estimate(read)
    return replace(found, device=GPU, parts=tuple(replace(part, host_s=0.0) for part in found.parts))


def backward_s(estimate: Estimate) -> float:
    """From the end of forward, the loss included, to the end of backward."""
    return sum(p.device_s for p in estimate.parts if p.phase not in (Phase.FORWARD, Phase.UPDATE))


def test_a_ring_sends_each_part_twice_round() -> None:
    link = Link(bandwidth_bytes_per_s=1e9, latency_s=1e-5)
    assert link.all_reduce_s(4_000_000, 4) == pytest.approx(6 * (1e-3 + 1e-5))
    assert link.broadcast_s(4_000_000, 4) == pytest.approx(4e-3 + 3e-5)
    assert link.all_reduce_s(4_000_000, 1) == link.broadcast_s(4_000_000, 1) == 0


@pytest.mark.parametrize(
    ("text", "bandwidth", "latency"),
    [("25GB/s", 25e9, 0), ("100 Gbit/s, 20us", 12.5e9, 2e-5), ("1.5GiB/s,1ms", 1.5 * 2**30, 1e-3)],
)
def test_a_link_is_a_rate_and_a_latency(text: str, bandwidth: float, latency: float) -> None:
    link = parse_link(text)
    assert (link.bandwidth_bytes_per_s, link.latency_s) == (pytest.approx(bandwidth), pytest.approx(latency))


@pytest.mark.parametrize("text", ["", "25", "25GB", "25GB/s,", "25GB/s,3", "0GB/s", ",1us", "-1GB/s", "1us,25GB/s"])
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(LatteError) as caught:
        parse_link(text)
    assert caught.value.exit_code == ExitCode.USAGE


def test_buckets_are_sent_one_after_the_other_once_they_are_ready(estimate: Estimate) -> None:
    [step] = scale(estimate, [4], Link(bandwidth_bytes_per_s=5e9, latency_s=1e-5))
    assert len(step.messages) == 3
    free_s = 0.0
    for message in step.messages:
        assert message.start_s == max(message.ready_s, free_s)
        free_s = message.end_s
        assert message.end_s - message.start_s == pytest.approx(6 * (message.bucket.size_bytes / 4 / 5e9 + 1e-5))
    assert [m.bucket.size_bytes >= CAP_BYTES for m in step.messages[1:-1]] == [True] * (len(step.messages) - 2)
    assert step.messages[0].ready_s < 0.5 * step.messages[-1].ready_s


def test_the_last_bucket_waits_for_all_of_backward(estimate: Estimate) -> None:
    bare = replace(estimate, device=replace(GPU, bandwidth_bytes_per_s=None))
    [step] = scale(bare, [2], FAST)
    assert step.messages[-1].ready_s == pytest.approx(backward_s(estimate))
    assert step.copies_s == 0
    assert step.step_s == pytest.approx(estimate.step_s)


def test_a_worked_step(estimate: Estimate) -> None:
    """With a link as slow as this, the messages follow on each other from the first bucket on."""
    estimate = replace(estimate, device=replace(GPU, bandwidth_bytes_per_s=2e10))
    [step] = scale(estimate, [2], SLOW)
    grads = 4 * estimate.network.trained_parameters
    sent_s = step.messages[0].ready_s + grads / 1e6
    buffers_s = estimate.network.buffer_bytes / 1e6
    copy_s = 2 * grads / 2e10
    assert step.messages[-1].end_s == pytest.approx(sent_s)
    assert step.exposed_s == pytest.approx(sent_s - backward_s(estimate) - copy_s + buffers_s)
    assert step.communication_s == pytest.approx(grads / 1e6 + buffers_s)
    assert step.step_s == pytest.approx(estimate.step_s + step.exposed_s + 2 * copy_s)
    assert step.memory_bytes == estimate.memory_bytes + grads


@given(st.sampled_from(MODES), st.floats(1e6, 1e12), st.floats(1.0, 100.0), st.floats(0.0, 1e-3), st.integers(1, 64))
def test_a_slower_link_and_more_gpus_never_make_a_step_shorter(
    estimate: Estimate, mode: str, rate: float, slower: float, latency_s: float, gpus: int
) -> None:
    few, many = scale(estimate, [gpus, gpus + 1], Link(bandwidth_bytes_per_s=rate, latency_s=latency_s), mode)
    [slow] = scale(estimate, [gpus], Link(bandwidth_bytes_per_s=rate / slower, latency_s=slower * latency_s), mode)
    for step in (few, many, slow):
        assert 0 <= step.exposed_s <= step.communication_s * (1 + 1e-9)
        assert 0 < step.efficiency <= 1
    assert few.step_s <= many.step_s * (1 + 1e-9)
    assert few.step_s <= slow.step_s * (1 + 1e-9)


def test_one_gpu_alone_sends_nothing(estimate: Estimate) -> None:
    for mode in MODES:
        [step] = scale(estimate, [1], SLOW, mode)
        assert (step.step_s, step.communication_s, step.efficiency) == (estimate.step_s, 0, 1)


def test_the_last_of_several_passes_sends_alone(tmp_path) -> None:
    read = network()
    store = open_store(str(tmp_path), shipped=False)
    flat = (read.trained_parameters,)
    profile(store, [*step_layers(read), Elementwise(operation="add", shapes=(flat, flat))])
    estimates = [
        replace(Estimator(store, DEVICE.slug).estimate(read, Step(accumulate=passes)), device=GPU) for passes in (1, 4)
    ]
    (once,), (four,) = (scale(each, [2], SLOW) for each in estimates)
    assert four.communication_s == pytest.approx(once.communication_s)
    assert four.exposed_s == pytest.approx(once.exposed_s)
    assert four.efficiency > once.efficiency
    (once,), (four,) = (scale(each, [2], SLOW, DP) for each in estimates)
    assert four.communication_s == pytest.approx(4 * once.communication_s)


def test_replicas_cost_python_a_time_for_each_module(estimate: Estimate) -> None:
    two, four = scale(estimate, [2, 4], FAST, DP)
    modules = leaf_modules(estimate.network)
    assert two.host_s == pytest.approx(2 * modules * REPLICA_S)
    assert four.host_s == pytest.approx(2 * two.host_s)
    assert two.step_s == pytest.approx(estimate.step_s + two.host_s)


def test_a_cpu_is_refused(estimate: Estimate) -> None:
    with pytest.raises(LatteError, match="is no GPU") as caught:
        scale(replace(estimate, device=DEVICE), [2], FAST)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.fixture
def latte(tmp_path, model):
    store = open_store(str(tmp_path / "store"), shipped=False)
    read = load(model, batch_size=8)
    settings = replace(SETTINGS, threads=0)
    rows = [replace(measurement(task), device=GPU) for task in tasks(step_layers(read), settings)]
    write(store, rows)

    def run(*words: str):
        return ended("estimate", model, "--batch-size", 8, "--store", store.uri, "--device", GPU.slug, *words)

    return run


def test_the_command_prints_a_line_for_each_count(latte) -> None:
    code, out, _ = latte("--gpus", "2,4", "--link", "1GB/s,10us")
    lines = out.splitlines()
    at = next(index for index, line in enumerate(lines) if "DistributedDataParallel, batch 8 on each" in line)
    assert code == 0
    assert [line.split()[0] for line in lines[at + 1 : at + 5]] == ["GPUs", "1", "2", "4"]


def test_json_and_csv_hold_the_same(latte) -> None:
    code, out, _ = latte("--gpus", "2,4", "--link", "1GB/s", "--format", "json")
    body = valid(out)
    assert code == 0
    steps = body["estimates"][0]["scaling"]
    assert [(step["mode"], step["gpus"]) for step in steps] == [(DDP, 2), (DDP, 4)]
    assert steps[0]["buckets"][0]["parameters"]
    _, out, _ = latte("--gpus", "2,4", "--link", "1GB/s", "--format", "csv", "--data-parallel", "dp")
    *_, third, last = csv.reader(io.StringIO(out))
    assert [third[2:4], last[2:4]] == [[DP, "2"], [DP, "4"]]


def test_without_the_option_nothing_is_said_of_several(latte) -> None:
    _, out, _ = latte("--format", "json")
    assert "scaling" not in json.loads(out)["estimates"][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "2"), "needs the rate"),
        (("--gpus", "two", "--link", "1GB/s"), "not a list of numbers of GPUs"),
        (("--gpus", "0", "--link", "1GB/s"), "not a list of numbers of GPUs"),
        (("--gpus", "2,", "--link", "1GB/s"), "not a list of numbers of GPUs"),
        (("--gpus", "99999", "--link", "1GB/s"), "not a list of numbers of GPUs"),
        (("--gpus", "2", "--link", "1GB"), "not a transfer rate"),
        (("--gpus", "2", "--link", "1GB/s", "--data-parallel", "fsdp"), "unknown mode"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(latte, words, said) -> None:
    code, out, err = latte(*words)
    assert (code, out) == (2, "")
    assert said in err


def bucket_bytes(body) -> int:
    return sum(bucket["size_bytes"] for bucket in body["estimates"][0]["scaling"][0]["buckets"])


def test_the_buckets_count_in_the_peak_and_in_what_is_held_to_a_limit(latte) -> None:
    several = ("--gpus", "2,4", "--link", "1GB/s")
    alone = valid(latte("--format", "json")[1])["estimates"][0]["totals"]["memory_bytes"]
    body = valid(latte(*several, "--format", "json")[1])
    [entry] = body["estimates"]
    peak = entry["totals"]["memory_bytes"]
    assert peak == alone + bucket_bytes(body)
    assert [step["memory_bytes"] for step in entry["scaling"]] == [peak, peak]
    assert entry["memory"]["peak_bytes"] == peak
    assert latte(*several, "--fail-above", f"memory={alone}B")[0] == 3
    assert latte(*several, "--fail-above", f"memory={peak}B")[0] == 0
    assert "with gradient buckets" in latte(*several)[1]


def test_the_buckets_take_memory_under_a_limit(latte) -> None:
    several = ("--gpus", "2", "--link", "1GB/s")
    body = valid(latte(*several, "--format", "json")[1])
    peak, least = body["estimates"][0]["totals"]["memory_bytes"], bucket_bytes(body)
    assert latte("--memory-limit", f"{peak - least}B")[0] == 0
    code, out, err = latte(*several, "--memory-limit", f"{peak - least}B")
    assert (code, out, "needs at least" in err) == (3, "", True)
    assert latte(*several, "--memory-limit", f"{peak}B")[0] == 0


def test_a_checkpointed_step_leaves_room_for_the_buckets(tmp_path) -> None:
    read = zoo.network("resnet8", batch_size=8)
    store = open_store(str(tmp_path / "store"), shipped=False)
    profile(store, step_layers(read))
    full = Estimator(store, DEVICE.slug).estimate(read, Step(replicated=True))
    limit = int(0.9 * full.memory_bytes)
    limits = [Limits(memory_bytes=limit)]
    [found] = estimate_each(store, DEVICE.slug, read, limits=limits, checkpoint="auto", replicated=True)
    assert found.memory_bytes <= limit
    assert found.step.checkpoints


@pytest.mark.parametrize("words", [("--memory-limit", "1GiB"), ("--fail-above", "memory=1GiB")])
def test_a_limit_of_memory_beside_replicas_of_one_process_is_refused(latte, words) -> None:
    code, out, err = latte("--gpus", "2", "--link", "1GB/s", "--data-parallel", "dp", *words)
    assert (code, out) == (2, "")
    assert "memory of DataParallel is not known" in err
