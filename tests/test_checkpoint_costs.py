"""What the calls of `torch.utils.checkpoint` add to an estimate, and to the choice of regions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_rows import DEVICE, SETTINGS, measurement, profile, step_layers, write
from torch import nn

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.devices import CUDA
from latte_cli.estimator import Estimate, Step, estimate_one, savings, step_calls
from latte_cli.estimator.checkpoint_costs import CHECKPOINT_PAIRS, CheckpointCosts, checkpoint_costs
from latte_cli.layers import CHECKPOINTS, Checkpoint, Phase
from latte_cli.lookup import Source, combine_passes
from latte_cli.measure import Measurement
from latte_cli.network import Network, load, submodules
from latte_cli.report.checkpoints import checkpoint_lines
from latte_cli.store import Store, open_store
from latte_cli.tasks import Task

FIXED_S, TENSOR_S = {Phase.FORWARD: 2e-4, Phase.BACKWARD: 3e-4}, {Phase.FORWARD: 4e-6, Phase.BACKWARD: 6e-6}


def cost_s(tensors: int, phase: Phase) -> float:
    return FIXED_S[phase] + tensors * TENSOR_S[phase]


def rows(times: float = 1.0) -> list[Measurement]:
    """The calls that a sweep times, with a cost that is linear in the tensors."""
    found = []
    for layer, phase in CHECKPOINT_PAIRS:
        assert isinstance(layer, Checkpoint)
        task = Task(layer=layer, phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=SETTINGS)
        found.append(measurement(task, time_s=times * cost_s(layer.tensors, phase)))
    return found


def costs(given: list[Measurement]) -> CheckpointCosts | None:
    timings = combine_passes(given)
    return checkpoint_costs({(one.task.layer, one.task.phase): [one] for one in timings})


@pytest.mark.parametrize("tensors", [1, 2, 17, 33, 400])
@pytest.mark.parametrize("phase", Checkpoint.phases)
def test_the_cost_is_linear_in_the_tensors(tensors: int, phase: Phase) -> None:
    found = costs(rows())
    assert found is not None
    timing = found.timing_of(Checkpoint(tensors=tensors), phase)
    assert timing.device_s == pytest.approx(cost_s(tensors, phase))
    assert timing.low_80_s < timing.device_s < timing.high_80_s < timing.high_s
    assert timing.task.layer == Checkpoint(tensors=tensors)
    assert (timing.source is Source.MEASURED) is (Checkpoint(tensors=tensors) in CHECKPOINTS)
    both_s = sum(cost_s(tensors, each) for each in Checkpoint.phases)
    assert found.seconds(tensors, queued=False) == pytest.approx(both_s)


def test_more_tensors_cost_no_less_where_the_rows_are_noisy() -> None:
    turned = [replace(row, device_times_s=(1e-3 / row.task.layer.tensors,) * 3) for row in rows()]  # type: ignore[union-attr]
    found = costs(turned)
    assert found is not None
    assert found.seconds(400, queued=False) == found.seconds(1, queued=False)


def test_on_a_device_that_is_queued_the_cost_is_the_host_s() -> None:
    found = costs([replace(row, device_times_s=(1e-9,) * 3) for row in rows()])
    assert found is not None
    assert found.seconds(1, queued=False) < 1e-8
    assert found.seconds(1, queued=True) > 4e-4


@pytest.mark.parametrize("left_out", range(len(CHECKPOINT_PAIRS)))
def test_without_one_of_its_rows_nothing_is_known(left_out: int) -> None:
    given = rows()
    assert costs(given[:left_out] + given[left_out + 1 :]) is None


def deep() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64), nn.GELU()) for _ in range(8)]
    return nn.Sequential(*blocks, nn.Linear(64, 5)), torch.randn(512, 64)


@pytest.fixture
def network() -> Network:
    return load(*deep())


def store_of(folder: Path, network: Network, beside: list[Measurement]) -> Store:
    store = open_store(str(folder), shipped=False)
    profile(store, step_layers(network))
    if beside:
        write(store, beside)
    return store


def said(store: Store, network: Network, checkpoint: str, share: float = 1.0) -> Estimate:
    full = estimate_one(store, DEVICE.slug, network).memory_bytes
    limit = int(share * full) if checkpoint == "auto" else None
    return estimate_one(store, DEVICE.slug, network, checkpoint=checkpoint, memory_limit_bytes=limit)


def test_each_region_adds_its_call_to_both_passes(network: Network, tmp_path: Path) -> None:
    priced = said(store_of(tmp_path / "new", network, rows()), network, "1,2.1")
    plain = said(store_of(tmp_path / "old", network, []), network, "1,2.1")
    lines = {(part.name, part.phase): part for part in priced.parts if isinstance(part.layer, Checkpoint)}
    assert {name for name, _ in lines} == {"(checkpoint 1)", "(checkpoint 2.1)"}
    for (_, phase), part in lines.items():
        assert part.device_s == pytest.approx(cost_s(part.layer.tensors, phase))  # type: ignore[attr-defined]
    added = {phase: sum(part.device_s for (_, of), part in lines.items() if of is phase) for phase in Checkpoint.phases}
    assert priced.forward_s - plain.forward_s == pytest.approx(added[Phase.FORWARD])
    assert priced.backward_s - plain.backward_s == pytest.approx(added[Phase.BACKWARD])
    assert priced.memory == plain.memory
    for with_call, without in zip(savings(priced), savings(plain), strict=True):
        assert without.call_s is None
        assert with_call.call_s == pytest.approx(with_call.extra_s - without.extra_s)
    assert all("for the call itself" in line for line in checkpoint_lines(priced))
    assert not any("for the call itself" in line for line in checkpoint_lines(plain))


def test_the_tensors_of_a_region_are_those_that_autograd_saves(network: Network, tmp_path: Path) -> None:
    found = said(store_of(tmp_path, network, rows()), network, "1")
    module, x = deep()
    block, seen = module.get_submodule("1"), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor) or tensor, lambda tensor: tensor):
        block(x.requires_grad_())
    assert {part.layer.tensors for part in found.parts if isinstance(part.layer, Checkpoint)} == {len(seen)}


def test_a_profile_without_the_call_says_so_and_how_it_is_measured(network: Network, tmp_path: Path) -> None:
    def doubts(found: Estimate) -> list[str]:
        return [each.message for each in found.warnings if each.code == "checkpoint_calls"]

    old, new = store_of(tmp_path / "old", network, []), store_of(tmp_path / "new", network, rows())
    (message,) = doubts(said(old, network, "1,2"))
    assert "for 2 regions" in message
    assert "`latte profile MODEL`" in message
    assert not doubts(said(new, network, "1,2"))
    assert not doubts(said(old, network, "none"))


@pytest.mark.parametrize("share", [0.9, 0.7])
def test_costly_calls_are_made_for_few_regions(network: Network, tmp_path: Path, share: float) -> None:
    store = store_of(tmp_path / "cheap", network, rows(times=1e-6))
    dear = store_of(tmp_path / "dear", network, rows(times=1000.0))
    many, few = said(store, network, "auto", share), said(dear, network, "auto", share)
    assert 0 < len(few.step.checkpoints) < len(many.step.checkpoints)
    names = ",".join(region.name for region in many.step.checkpoints)
    assert few.step_s < said(dear, network, names).step_s


def test_accumulated_passes_each_make_the_calls(network: Network, tmp_path: Path) -> None:
    store = store_of(tmp_path, network, rows())
    one, three = (
        estimate_one(store, DEVICE.slug, network, checkpoint="1", accumulate=count, allow_unknown=True)
        for count in (1, 3)
    )
    assert savings(three)[0].call_s == pytest.approx(3 * (savings(one)[0].call_s or 0.0))


def test_a_gpu_s_host_makes_the_calls(network: Network, tmp_path: Path) -> None:
    device = replace(DEVICE, slug="gpu", kind=CUDA)
    store = store_of(tmp_path, network, [])
    measured = [*store.measurements(DEVICE.slug), *(replace(row, device_times_s=(1e-9,) * 3) for row in rows())]
    gpu = open_store(str(tmp_path / "gpu"), shipped=False)
    write(gpu, [replace(row, device=device) for row in measured])
    found = estimate_one(gpu, "gpu", network, checkpoint="1")
    (saving,) = savings(found)
    part = next(part for part in found.parts if isinstance(part.layer, Checkpoint))
    assert saving.call_s == pytest.approx(sum(cost_s(part.layer.tensors, each) for each in Checkpoint.phases), rel=0.05)


def test_a_step_without_a_backward_pass_makes_no_such_call(network: Network) -> None:
    step = Step(optimizer="none", checkpoints=submodules.regions(network)[1:2])
    unscored = replace(network, outputs=())
    with_calls, without = ([work.layer for work in step_calls(one, step)] for one in (network, unscored))
    assert any(isinstance(layer, Checkpoint) for layer in with_calls)
    assert not any(isinstance(layer, Checkpoint) for layer in without)
