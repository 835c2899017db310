"""The worker on a real GPU: memory that does not suffice, and an error that the device does not forget."""

import torch
from breaking_gpu import BREAKS, open_breaking
from gpu_convolutions import PLAIN, convolution

from latte_cli.algorithms import FRAMEWORK_BENCHMARK, FRAMEWORK_DEFAULT, HEURISTIC, Algorithm
from latte_cli.devices import CUDA
from latte_cli.layers import Convolution, Phase
from latte_cli.measure import Evidence, Measurement, Outcome
from latte_cli.sweep import Budget, Depth, Sweep, Wanted
from latte_cli.tasks import Question, Task
from latte_cli.worker import Opening, Order, Worker

SHARE = 0.05
PRECOMPUTED = Algorithm(library="cudnn", name="IMPLICIT_PRECOMP_GEMM", vendor_id=1)


class Rows(list[Measurement]):
    """Where a sweep's rows go in these tests."""


def order(worker: Worker, layer: Convolution, algorithm: Algorithm) -> Order:
    task = Task(layer=layer, phase=Phase.FORWARD, algorithm=algorithm, settings=worker.settings[0])
    return Order(task=task, plan=CUDA.sampling)


def larger_than(share: float) -> Convolution:
    """A 1x1 layer whose input and output take half as much again as a share of the GPU's memory."""
    elements = int(1.5 * share * torch.cuda.get_device_properties(0).total_memory) // (2 * 4)
    channels, size = 64, 256
    return convolution(elements // (channels * size * size) + 1, (channels, channels), (size, size), (1, 1))


def test_a_layer_beyond_the_share_of_memory_is_a_row_and_the_next_one_is_timed() -> None:
    large = larger_than(SHARE)
    with Worker(Opening(device="cuda", memory_share=SHARE)) as worker:
        wanted = [(PLAIN, FRAMEWORK_DEFAULT), (large, FRAMEWORK_DEFAULT), (large, PRECOMPUTED), (PLAIN, PRECOMPUTED)]
        rows = [worker.measure(order(worker, layer, algorithm)) for layer, algorithm in wanted]
    found = [(row.outcome, row.detail) for row in rows]
    assert [outcome for outcome, _ in found] == [
        Outcome.OK,
        Outcome.OUT_OF_MEMORY,
        Outcome.OUT_OF_MEMORY,
        Outcome.OK,
    ], found
    assert "out of memory" in rows[1].detail.lower()


def test_an_error_that_stays_with_the_device_costs_one_row_and_a_new_process() -> None:
    rows = Rows()
    with Worker(Opening(device="cuda", open=open_breaking)) as worker:
        wanted = [Wanted(layer=PLAIN, depth=Depth.ALL)]
        summary = Sweep(worker, wanted, phases=(Phase.FORWARD,)).run(rows, Budget())
    assert summary.left == 0
    first = [row for row in rows if row.sweep_pass == 0 and isinstance(row.task, Task)]
    outcomes = {row.task.algorithm.name: (row.outcome, row.detail) for row in first}
    assert [name for name, (outcome, _) in outcomes.items() if outcome is Outcome.FAILED] == [BREAKS], outcomes
    assert "CUDA error" in outcomes[BREAKS][1]
    for algorithm in (FRAMEWORK_DEFAULT, FRAMEWORK_BENCHMARK, PRECOMPUTED):
        assert outcomes[algorithm.name][0] is Outcome.OK, outcomes
    names = list(outcomes)
    assert names.index(PRECOMPUTED.name) > names.index(BREAKS)
    (asked,) = [row for row in rows if isinstance(row.task, Question) and row.task.ranker == HEURISTIC]
    assert asked.evidence is Evidence.LABEL
    assert asked.ranking
