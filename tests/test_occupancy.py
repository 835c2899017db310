"""The memory of a process that trains: its blocks, its allocator, its context."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from test_memory import workspaces
from torch import nn

from latte_cli import load
from latte_cli.backends import OPENERS, with_context
from latte_cli.devices import CPU, CUDA, Device
from latte_cli.estimator import Estimator, Step, occupancy_of
from latte_cli.estimator.blocks import step_blocks
from latte_cli.estimator.memory import memory
from latte_cli.estimator.occupancy import Occupancy, Verdict
from latte_cli.layers import Phase, Recurrent
from latte_cli.network import Network, zoo
from latte_cli.precisions import Precision
from latte_cli.store import open_store

MIB = 2**20
WITHIN = 0.05


def network(name: str, batch: int) -> Network:
    return zoo.network(name, batch_size=batch, image_size=64 if name in ("resnet18", "mobilenet_v2") else None)


@pytest.fixture(scope="module")
def estimators() -> dict[str, Estimator]:
    store = open_store("no-such-store")
    slugs = {device.kind.name: device.slug for device in store.devices()}
    return {kind: Estimator(store, slugs[kind], strategy="pytorch") for kind in ("cpu", "cuda")}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("name", "batch"), [("resnet8", 16), ("mobilenet_v2", 4), ("alexnet", 2)])
@pytest.mark.parametrize("fused", [False, True])
def test_the_blocks_of_a_step_add_up_to_what_is_live(name: str, batch: int, optimizer: str, fused: bool) -> None:
    found, step = network(name, batch), Step(optimizer=optimizer)
    held = memory(found, step, Precision.FP32, fused=fused)
    blocks = step_blocks(found, step, Precision.FP32, held, fused=fused)
    there = dict(blocks.lasting)
    for at, turn in enumerate(blocks.turns(3)):
        for each in turn.freed:
            del there[each]
        assert not there.keys() & dict(turn.made).keys()
        there |= dict(turn.made)
        moment = held.timeline[at % len(held.timeline)]
        assert (turn.name, turn.phase) == (moment.name, moment.phase)
        if at >= len(held.timeline):
            assert sum(there.values()) + turn.temporary_bytes == moment.live_bytes


_ALL_BLOCKS = """
from latte_cli.estimator import Step
from latte_cli.estimator.blocks import step_blocks
from latte_cli.estimator.memory import memory
from latte_cli.network import submodules, zoo
from latte_cli.precisions import Precision

for name in ("resnet8", "mobilenet_v1"):
    network = zoo.network(name, batch_size=2)
    regions = max(submodules.regions(network), key=lambda region: len(region.nodes))
    for checkpoints in ((), (regions,)):
        step = Step(optimizer="adam", checkpoints=checkpoints)
        print(step_blocks(network, step, Precision.FP32, memory(network, step, Precision.FP32), fused=False))
"""


def test_blocks_come_in_the_same_order_under_other_hash_seeds() -> None:
    """Where a heap has holes depends on the order."""
    first, second = (
        subprocess.run(
            [sys.executable, "-c", _ALL_BLOCKS], env=os.environ | {"PYTHONHASHSEED": seed}, check=True, stdout=-1
        ).stdout
        for seed in ("1", "2")
    )
    assert first == second


def test_the_states_of_an_optimizer_come_with_the_first_update() -> None:
    found, step = network("resnet8", 2), Step(optimizer="adam")
    blocks = step_blocks(found, step, Precision.FP32, memory(found, step, Precision.FP32), fused=False)
    made = [sum(size for name, size in turn.made if name.startswith("state")) for turn in blocks.first]
    assert made[-1] == 8 * found.parameters
    assert not any(made[:-1])
    assert not any(name.startswith("state") for turn in blocks.later for name, _ in turn.made)


@pytest.mark.parametrize(("name", "batch"), [("resnet8", 4), ("alexnet", 1)])
def test_accumulated_passes_hold_the_gradients_of_those_before(name: str, batch: int) -> None:
    found, step = network(name, batch), Step(accumulate=2)
    module, inputs, targets = accumulated(found)
    estimated = memory(found, step, Precision.FP32).with_workspaces(workspaces(found, step)).peak.live_bytes
    assert estimated == pytest.approx(peak_of_second_pass(module, inputs, targets), rel=WITHIN)
    assert estimated > memory(found, Step(), Precision.FP32).peak.live_bytes


def accumulated(found: Network) -> tuple[nn.Module, Sequence[torch.Tensor], torch.Tensor]:
    from latte_cli.network.module import NetworkModule, random_inputs, random_targets

    return NetworkModule(found), random_inputs(found), random_targets(found)


def peak_of_second_pass(module: nn.Module, inputs: Sequence[torch.Tensor], targets: torch.Tensor) -> int:
    from itertools import accumulate

    from latte_cli.network.module import scored

    scored(module, module(*inputs), targets).backward()
    with torch.autograd.profiler.profile(profile_memory=True) as seen:
        result = module(*inputs)
        scored(module, result, targets).backward()
    events = [event for event in seen.kineto_results.events() if event.name() == "[memory]"]
    grown = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    gradients = [each.grad for each in module.parameters() if each.grad is not None]
    lasting = [*module.parameters(), *module.buffers(), *inputs, targets, *gradients]
    return sum(tensor.nbytes for tensor in lasting) + max(grown)


def found(low: int, high: int) -> Occupancy:
    return Occupancy(
        live_bytes=low,
        reserved_low_bytes=low,
        reserved_bytes=(low + high) // 2,
        reserved_high_bytes=high,
        context_low_bytes=10,
        context_high_bytes=20,
    )


@pytest.mark.parametrize(("limit", "answer"), [(219, "close"), (220, "yes"), (110, "close"), (109, "no")])
def test_a_limit_within_the_interval_is_close(limit: int, answer: str) -> None:
    assert found(100, 200).fits(limit) is Verdict(answer)
    assert (found(100, 200).low_bytes, found(100, 200).high_bytes) == (110, 220)


def test_a_larger_batch_takes_more(estimators: dict[str, Estimator]) -> None:
    for kind, estimator in estimators.items():
        taken = [occupancy_of(estimator.estimate(network("resnet18", batch), allow_unknown=True)) for batch in (8, 512)]
        assert taken[0].live_bytes < taken[1].live_bytes, kind
        assert taken[0].high_bytes < taken[1].low_bytes, kind
        for each in taken:
            assert each.low_bytes <= each.expected_bytes <= each.high_bytes


def test_on_a_gpu_what_is_reserved_is_whole_segments(estimators: dict[str, Estimator]) -> None:
    each = occupancy_of(estimators["cuda"].estimate(network("resnet18", 16), allow_unknown=True))
    assert each.reserved_bytes % (2 * MIB) == 0
    assert each.live_bytes <= each.reserved_bytes
    assert each.context_low_bytes < each.context_high_bytes


def test_a_fixed_threshold_leaves_no_holes(estimators: dict[str, Estimator]) -> None:
    each = estimators["cpu"].estimate(network("resnet18", 16), allow_unknown=True)
    kept, fixed = occupancy_of(each), occupancy_of(each, map_from=2**16)
    assert fixed.allocator_bytes < 0.03 * fixed.live_bytes < kept.allocator_bytes


def test_a_context_that_was_measured_has_no_interval(estimators: dict[str, Estimator]) -> None:
    each = estimators["cpu"].estimate(network("resnet8", 4), allow_unknown=True)
    assert each.device.context_bytes is None
    known = replace(each, device=replace(each.device, context_bytes=200 * MIB, call_context_bytes=MIB))
    measured = occupancy_of(known)
    assert measured.context_low_bytes == measured.context_high_bytes > 200 * MIB


def test_the_context_is_measured_once_for_the_same_libraries() -> None:
    device = Device(slug="here", kind=CPU, name="here", libraries=(("torch", "1"),))
    measured = with_context(device, 1, None)
    assert measured.context_bytes is not None and measured.call_context_bytes is not None
    assert 50 * MIB < measured.context_bytes < 2000 * MIB
    assert measured.call_context_bytes < 20 * MIB
    again = replace(measured, context_bytes=7)
    assert with_context(device, 1, again).context_bytes == 7
    gpu = Device(slug="gpu", kind=CUDA, name="gpu")
    assert OPENERS["cuda"].context(None) is None
    assert with_context(gpu, None, None).context_bytes is None


class Cells(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cells, self.out = getattr(nn, kind)(64, 96, 2, batch_first=True), nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.cells(x)[0][:, -1])


@pytest.mark.parametrize("kind", ["GRU", "RNN", "LSTM"])
def test_recurrent_layers_know_their_workspace_where_it_was_not_measured(kind: str) -> None:
    found, step = load(Cells(kind), torch.randn(16, 40, 64)), Step()
    measured = workspaces(found, step)
    for node in found.nodes:
        if isinstance(node.layer, Recurrent):
            for phase in (Phase.FORWARD, Phase.BACKWARD):
                if node.layer.backward_growth(trains=True, flows=(True,)) is not None and phase is Phase.BACKWARD:
                    continue  # its moment has all that it holds
                own = 4 * node.layer.workspace_numbers(phase)
                assert own == pytest.approx(measured[node.name, phase], rel=0.1, abs=MIB), (kind, phase)
