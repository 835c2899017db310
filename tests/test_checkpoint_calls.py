"""The call of `torch.utils.checkpoint` as a task: what it takes beside what its region computes."""

from collections.abc import Callable, Iterator

import pytest
import torch

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.contract import Sample
from latte_cli.backends.cpu.backend import CpuBackend
from latte_cli.backends.torch.checkpoints import CheckpointCall
from latte_cli.devices import CPU
from latte_cli.layers import CHECKPOINTS, Checkpoint, Phase
from latte_cli.measure import DriftMonitor, Outcome, measure
from latte_cli.network import load
from latte_cli.precisions import Layout, Precision
from latte_cli.suites import networks
from latte_cli.tasks import Task


def recorded(seconds: list[float], *, disturbed: int = -1) -> Callable[[Callable[[], object]], Sample]:
    """A clock that tells these times one after the other; the calls are made all the same."""
    times: Iterator[tuple[int, float]] = iter(enumerate(seconds))

    def time_call(call: Callable[[], object]) -> Sample:
        call()
        at, each = next(times)
        return Sample(device_s=each, host_s=2 * each, disturbed=at == disturbed)

    return time_call


def test_forward_is_what_the_call_adds_to_the_region() -> None:
    call = CheckpointCall(Checkpoint(tensors=3), Phase.FORWARD, recorded([5.0, 3.0, 9.0, 4.0]), "cold", "cpu")
    assert [(one.device_s, one.host_s) for one in call.samples(2)] == [(2.0, 4.0), (5.0, 10.0)]


def test_backward_is_without_the_region_that_runs_again() -> None:
    call = CheckpointCall(Checkpoint(tensors=3), Phase.BACKWARD, recorded([9.0, 3.0, 2.0]), "cold", "cpu")
    (sample,) = call.samples(1)
    assert (sample.device_s, sample.host_s) == (4.0, 8.0)


@pytest.mark.parametrize("phase", Checkpoint.phases)
def test_a_difference_is_positive_and_disturbed_where_one_of_its_times_is(phase: Phase) -> None:
    call = CheckpointCall(Checkpoint(tensors=1), phase, recorded([1.0, 3.0, 2.0], disturbed=1), "cold", "cpu")
    (sample,) = call.samples(1)
    assert sample.device_s > 0
    assert sample.disturbed


@pytest.mark.parametrize("tensors", [1, 7])
def test_the_region_saves_so_many_tensors(tensors: int) -> None:
    counts: list[int] = []

    def time_call(call: Callable[[], object]) -> Sample:
        seen: list[object] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor) or tensor, lambda one: one):
            call()
        counts.append(len(seen))
        return Sample(device_s=1.0, host_s=1.0)

    call = CheckpointCall(Checkpoint(tensors=tensors), Phase.FORWARD, time_call, "cold", "cpu")
    call.samples(1)
    assert counts == [1, tensors]  # with the call, its argument; without it, what the region saves


@pytest.mark.parametrize("layer", CHECKPOINTS)
@pytest.mark.parametrize("phase", Checkpoint.phases)
def test_the_cpu_measures_it(layer: Checkpoint, phase: Phase) -> None:
    backend = CpuBackend(threads=1)
    settings = backend.settings(Precision.FP32, Layout.NCHW)
    assert backend.candidates(layer, phase, settings) == (FRAMEWORK_DEFAULT,)
    task = Task(layer=layer, phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=settings)
    row = measure(backend, task, plan=CPU.sampling, monitor=DriftMonitor())
    assert row.outcome is Outcome.OK
    assert (row.seconds or 0) > 0


def test_a_network_is_profiled_with_the_calls_of_checkpoints_first() -> None:
    network = load(torch.nn.Linear(4, 3), torch.ones(2, 4))
    assert tuple(item.layer for item in networks([network]).wanted)[:2] == CHECKPOINTS
