"""Sweeps with a real worker on this machine's CPU: order, resuming, budgets, and layers that bring the worker down."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.contract import Prepared
from latte_cli.backends.cpu.backend import CpuBackend
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Activation, Convolution, Layer, Linear, Phase
from latte_cli.measure import Evidence, Measurement, Outcome, QualityFlag
from latte_cli.sweep import Budget, Depth, Summary, Sweep, Wanted
from latte_cli.tasks import Task
from latte_cli.worker import Opening, Order, Worker

SMALL = [
    Convolution(batch=2, in_channels=8, out_channels=8, input=(9, 9), kernel=(1, 1)),
    Linear(rows=4, in_features=8, out_features=8),
    Activation(function="relu", shape=(4, 8)),
]
HUGE = Convolution(
    batch=64, in_channels=64, out_channels=64, input=(224, 224), kernel=(3, 3), pad_before=(1, 1), pad_after=(1, 1)
)


DEADLY = Activation(function="relu", shape=(6, 6, 6))


class Rows(list[Measurement]):
    """Where a sweep's rows go in these tests."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(Opening(device="cpu", threads=1)) as opened:
        yield opened


def sweep(worker: Worker, layers: list[Layer], **more: object) -> Sweep:
    wanted = [Wanted(layer=layer) for layer in layers]
    return Sweep(worker, wanted, phases=tuple(Phase), **more)  # type: ignore[arg-type]


def order(worker: Worker, layer: Layer) -> Order:
    task = Task(layer=layer, phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT, settings=worker.settings[0])
    return Order(task=task)


@pytest.fixture(scope="module")
def swept(worker: Worker) -> tuple[Sweep, Summary, Rows]:
    """A whole sweep, which tests read and go on from: it waits until other processes leave the cores alone."""
    rows, run = Rows(), sweep(worker, SMALL)
    return run, run.run(rows, Budget(together=True)), rows


@pytest.mark.alone
def test_a_sweep_measures_every_task_once_and_keeps_its_samples(swept: tuple[Sweep, Summary, Rows]) -> None:
    run, summary, rows = swept
    first = [row for row in rows if row.sweep_pass == 0]
    assert len({row.task.id for row in first}) == len(first) == run.size
    assert summary.left == 0
    for row in rows:
        timed = row.outcome is Outcome.OK and row.evidence is not Evidence.LABEL
        assert timed == bool(row.device_times_s)
        assert row.task.settings.threads == 1
        assert dict(row.task.settings.library_versions)["torch"]
        assert row.outcome is not Outcome.OK or row.after.load is None or row.after.load >= 0
    assert {row.task.phase for row in first if row.task.layer == SMALL[2]} == {Phase.FORWARD, Phase.BACKWARD}
    timed = [(row.task, row.outcome) for row in first if isinstance(row.task, Task)]
    pointwise = {task.algorithm.name for task, outcome in timed if outcome is Outcome.OK and task.layer == SMALL[0]}
    assert {"DEFAULT", "GEMM_1X1"} <= pointwise
    assert {outcome for task, outcome in timed if task.algorithm.name == "DW_SHIFT"} == {Outcome.UNSUPPORTED}


@pytest.mark.alone
def test_the_framework_s_choice_of_all_layers_comes_before_any_alternative(
    swept: tuple[Sweep, Summary, Rows],
) -> None:
    first = [row.task for row in swept[-1] if row.sweep_pass == 0]
    own = [isinstance(task, Task) and task.algorithm == FRAMEWORK_DEFAULT for task in first]
    assert own == sorted(own, reverse=True)


@pytest.mark.alone
def test_a_sweep_goes_on_where_it_stopped(worker: Worker, swept: tuple[Sweep, Summary, Rows]) -> None:
    run, _, rows = swept
    before, rest = rows[: run.size - 5], Rows()
    again = sweep(worker, SMALL, earlier=before)
    summary = again.run(rest, Budget())
    assert summary.resumed == len(before)
    assert summary.left == 0
    first = [row.task.id for row in [*before, *rest] if row.sweep_pass == 0]
    assert len(first) == len(set(first)) == again.size


def test_a_spent_budget_leaves_the_rest_for_later(worker: Worker) -> None:
    rows = Rows()
    ticks = iter(range(1000))
    summary = sweep(worker, SMALL).run(rows, Budget(seconds=10), clock=lambda: float(next(ticks)))
    assert 0 < len(rows) < 10
    assert summary.left > 0


@pytest.mark.alone
def test_passes_repeat_what_can_change_a_choice(worker: Worker, swept: tuple[Sweep, Summary, Rows]) -> None:
    run, _, rows = swept
    repeated = Rows()
    sweep(worker, SMALL[:1], earlier=rows[: run.size]).run(repeated, Budget(passes=3))
    assert {row.sweep_pass for row in repeated} == {1, 2}
    before = {(row.task.id, row.sweep_pass): row for row in [*rows, *repeated]}
    for row in repeated:
        last = before[row.task.id, row.sweep_pass - 1]
        assert last.outcome is Outcome.OK and QualityFlag.CUT not in last.flags
    assert {row.task.phase for row in repeated} == set(Convolution.phases)


@pytest.mark.alone
def test_noisy_rows_are_measured_once_more_and_then_only_by_more_passes(
    worker: Worker, swept: tuple[Sweep, Summary, Rows]
) -> None:
    run, _, rows = swept
    noisy = [replace(row, flags=(QualityFlag.NOISY,)) for row in rows[: run.size] if row.task.layer == SMALL[0]]
    budget, once, never, more = Budget(), Rows(), Rows(), Rows()
    sweep(worker, SMALL[:1], earlier=noisy).run(once, budget)
    assert {row.sweep_pass for row in once} == {1}
    sweep(worker, SMALL[:1], earlier=[*noisy, *once]).run(never, budget)
    assert never == []
    sweep(worker, SMALL[:1], earlier=[*noisy, *once]).run(more, Budget(passes=budget.all_passes + 1))
    assert {row.sweep_pass for row in more} == {2}


def test_depth_bounds_the_algorithms(worker: Worker) -> None:
    sizes = [
        Sweep(worker, [Wanted(layer=SMALL[0], depth=depth)], phases=tuple(Phase)).size
        for depth in (Depth.DEFAULT, Depth.USUAL, Depth.ALL)
    ]
    assert sizes[0] == 3
    assert sizes == sorted(set(sizes))


class FaultyCpu(CpuBackend):
    """This machine's CPU, on which one layer ends the process, as a fault in a library does."""

    def prepare(self, task: Task) -> Prepared:
        if task.layer == DEADLY:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().prepare(task)


def open_faulty(device: str, *, threads: int | None, **_: object) -> FaultyCpu:
    return FaultyCpu(threads=threads)


def test_a_layer_that_kills_the_worker_or_eats_the_memory_costs_its_row() -> None:
    with Worker(Opening(device="cpu", threads=1, memory_share=0.05, open=open_faulty)) as worker:
        row = worker.measure(order(worker, DEADLY))
        assert row.outcome is Outcome.FAILED
        assert "SIGSEGV" in row.detail
        assert worker.measure(order(worker, SMALL[1])).outcome is Outcome.OK
        assert worker.measure(order(worker, HUGE)).outcome is Outcome.OUT_OF_MEMORY
        assert worker.measure(order(worker, SMALL[1])).outcome is Outcome.OK


def test_a_layer_that_hangs_is_a_timeout() -> None:
    with Worker(Opening(device="cpu", threads=1), limit_s=0.2) as worker:
        assert worker.measure(order(worker, HUGE)).outcome is Outcome.TIMEOUT


def test_a_device_that_cannot_be_opened_is_one_clear_error() -> None:
    with (
        pytest.raises(LatteError, match="precision fp16 is not offered on a CPU") as refused,
        Worker(
            Opening(device="cpu", precisions=("fp16",))  # type: ignore[arg-type]
        ),
    ):
        pass
    assert refused.value.exit_code is ExitCode.USAGE
    with pytest.raises(LatteError, match="unknown device `cpux`"), Worker(Opening(device="cpux")):
        pass


def test_a_sweep_counts_the_convolutions_that_teach_a_choice(worker: Worker) -> None:
    one = replace(SMALL[0], batch=1)
    rows, settings = Rows(), worker.settings[0]
    layers = [SMALL[0], one, replace(one, bias=True), replace(one, in_channels=16), SMALL[2]]
    timed = [(layers[0], 2), (layers[1], 2), (layers[2], 2), (layers[3], 1), (layers[4], 1)]
    for layer, count in timed:
        found = worker.candidates([(layer, Phase.FORWARD, settings)])[0][:count]
        tasks = [Task(layer=layer, phase=Phase.FORWARD, algorithm=each, settings=settings) for each in found]
        rows += [worker.measure(Order(task=task)) for task in tasks]
    run = sweep(worker, layers, earlier=rows)
    assert run.run(Rows(), Budget(seconds=0.0)).choices == 1  # equal but for their batch and bias
