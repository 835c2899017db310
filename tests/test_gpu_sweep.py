"""A sweep on a GPU, from recorded answers: rounds, settings, resuming, budgets, failures and restarts."""

import signal
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from recorded_gpu import DEVICE, RANKING, TIMES_S, opener
from sweep_recorded import LAYERS as MANY
from sweep_recorded import ROUNDS, convolution

from latte_cli.algorithms import HEURISTIC
from latte_cli.devices import CUDA
from latte_cli.layers import Activation, Layer, Phase
from latte_cli.measure import Evidence, Measurement, Outcome, QualityFlag
from latte_cli.precisions import Layout, Precision
from latte_cli.store import open_store
from latte_cli.sweep import Budget, Sweep, Wanted
from latte_cli.tasks import Question, Task
from latte_cli.worker import Opening, Worker

LAYERS: list[Layer] = [convolution(128), Activation(function="relu", shape=(32, 64, 56, 56)), convolution(64)]
TASKS_OF_A_CONVOLUTION = 3 * 3 + 8 + 6 + 7


class Rows(list[Measurement]):
    """Where a sweep's rows go in these tests."""


def opening(**more: object) -> Opening:
    settings = {name: more.pop(name) for name in ("precisions", "layouts") if name in more}
    return Opening(device="cuda", open=opener(**more), **settings)  # type: ignore[arg-type]


def sweep(worker: Worker, layers: list[Layer] = LAYERS, **more: object) -> Sweep:
    wanted = [Wanted(layer=layer) for layer in layers]
    return Sweep(worker, wanted, phases=tuple(Phase), **more)  # type: ignore[arg-type]


def swept(budget: Budget = ROUNDS, layers: list[Layer] = LAYERS, **more: object) -> Rows:
    rows = Rows()
    with Worker(opening(**more)) as worker:
        sweep(worker, layers).run(rows, budget)
    return rows


@cache
def usual_rows() -> Rows:
    """A whole sweep of LAYERS, which no test changes."""
    return swept()


def test_every_algorithm_of_every_phase_is_asked_and_each_answer_is_a_row() -> None:
    rows = [row for row in swept(layers=[convolution(128)]) if row.sweep_pass == 0]
    assert len(rows) == TASKS_OF_A_CONVOLUTION
    outcomes = Counter((row.task.phase, row.outcome) for row in rows)
    assert outcomes[Phase.FORWARD, Outcome.OK] == 8
    assert outcomes[Phase.FORWARD, Outcome.UNSUPPORTED] == 3
    assert outcomes[Phase.BACKWARD_FILTER, Outcome.OUT_OF_MEMORY] == 1
    by_name = {(row.task.phase, row.task.algorithm.name): row for row in rows if isinstance(row.task, Task)}
    assert by_name[Phase.FORWARD, "GEMM"].workspace_bytes == 231_211_008
    assert by_name[Phase.FORWARD, "GEMM"].task.algorithm.vendor_id == 2
    assert by_name[Phase.BACKWARD_FILTER, "ALGO_3"].deterministic is False
    assert by_name[Phase.BACKWARD_DATA, "WINOGRAD"].detail.endswith("NOT_SUPPORTED")


def test_the_heuristic_s_answer_is_a_row_of_its_own_without_a_time() -> None:
    rows = [row for row in usual_rows() if isinstance(row.task, Question) and row.task.ranker == HEURISTIC]
    assert len(rows) == 2 * 3
    assert {(row.evidence, row.ranking, row.seconds) for row in rows} == {(Evidence.LABEL, RANKING, None)}


def test_a_layer_s_rounds_follow_each_other_in_different_orders() -> None:
    rows = usual_rows()
    layers = [row.task.layer for row in rows]
    assert layers == sorted(layers, key=LAYERS.index)
    first = [row for row in rows if row.task.layer == LAYERS[0]]
    assert [row.sweep_pass for row in first] == sorted(row.sweep_pass for row in first)
    orders = [[row.task.id for row in first if row.sweep_pass == number] for number in range(3)]
    assert first[0].task.algorithm.name == "DEFAULT"
    assert sorted(orders[1]) == sorted(orders[2]) != orders[1] != orders[2]


def test_what_did_not_run_or_was_given_up_is_not_repeated() -> None:
    rows = usual_rows()
    repeated = {row.task.algorithm.name for row in rows if row.sweep_pass}
    assert repeated == set(TIMES_S) - {"FFT"}
    cut = [row for row in rows if QualityFlag.CUT in row.flags]
    assert {row.task.algorithm.name for row in cut} == {"FFT"}
    assert all(row.seconds or CUDA.sampling.cut * TIMES_S["WINOGRAD_NONFUSED"] < 0 for row in cut)
    assert all(len(row.device_times_s) == CUDA.sampling.least for row in rows if row.sweep_pass)


def test_every_precision_is_measured_in_every_layout() -> None:
    precisions, layouts = (Precision.FP32, Precision.TF32, Precision.BF16), tuple(Layout)
    rows = swept(layers=LAYERS[:2], precisions=precisions, layouts=layouts)
    seen = Counter((row.task.settings.precision, row.task.settings.layout) for row in rows if row.sweep_pass == 0)
    assert seen == {(p, layout): TASKS_OF_A_CONVOLUTION + 2 for p in precisions for layout in layouts}
    in_order = [(row.task.layer, row.task.settings) for row in rows]
    assert len([1 for a, b in pairwise(in_order) if a != b]) == 2 * 6 - 1


@pytest.mark.parametrize("stopped_after", [1, 20, 31, 60])
def test_a_sweep_goes_on_where_it_stopped(stopped_after: int) -> None:
    whole, rest = usual_rows(), Rows()
    with Worker(opening()) as worker:
        summary = sweep(worker, earlier=whole[:stopped_after]).run(rest, ROUNDS)
    done = [(row.task.id, row.sweep_pass) for row in [*whole[:stopped_after], *rest]]
    assert done == [(row.task.id, row.sweep_pass) for row in whole]
    assert summary.left == 0


def test_a_spent_budget_leaves_whole_layers_for_later() -> None:
    first_two = sum(row.task.layer != LAYERS[2] for row in usual_rows())
    ticks, rows = iter(range(10_000)), Rows()
    with Worker(opening()) as worker:  # the clock is read twice for each task
        budget = Budget(rounds=3, seconds=2 * first_two + 1)
        summary = sweep(worker).run(rows, budget, clock=lambda: float(next(ticks)))
    assert {row.task.layer for row in rows} == {LAYERS[0], LAYERS[1]}
    assert summary.left == TASKS_OF_A_CONVOLUTION


def test_networks_get_the_framework_s_choice_of_all_layers_first() -> None:
    rows = swept(Budget(rounds=3, together=True))
    own = [isinstance(row.task, Task) and row.task.algorithm.name == "DEFAULT" for row in rows]
    assert own == sorted(own, reverse=True)
    assert {row.sweep_pass for row, default in zip(rows, own, strict=True) if default} == {0, 1, 2}


def pids(log: Path) -> list[str]:
    return list(dict.fromkeys(line.split()[0] for line in log.read_text().splitlines()))


def test_a_failed_call_is_a_row_and_its_process_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = swept(fails=frozenset({"GEMM"}), log=log)
    failed = [row for row in rows if row.outcome is Outcome.FAILED]
    assert [(row.task.algorithm.name, row.sweep_pass) for row in failed] == [("GEMM", 0)] * 2
    assert failed[0].detail == "cudnnConvolutionForward: EXECUTION_FAILED"
    assert len(pids(log)) == 1


def test_a_device_that_breaks_costs_one_row_and_a_new_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = swept(breaks_the_device=frozenset({"GEMM"}), log=log)
    failed = [row for row in rows if row.outcome is Outcome.FAILED]
    assert [row.task.algorithm.name for row in failed] == ["GEMM"] * 2
    assert "illegal memory access" in failed[0].detail
    assert len(pids(log)) == 1 + len(failed)
    assert len(rows) == len(swept(fails=frozenset({"GEMM"})))


def test_a_library_that_aborts_costs_one_row_and_a_new_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = swept(layers=LAYERS[:1], aborts=frozenset({"FFT_TILING"}), log=log)
    failed = [row for row in rows if row.outcome is Outcome.FAILED]
    assert [row.task.algorithm.name for row in failed] == ["FFT_TILING"] * 3
    assert all("SIGABRT" in row.detail for row in failed)
    assert len(pids(log)) == 1 + len(failed)


def test_a_kernel_that_does_not_end_is_a_timeout_and_the_sweep_goes_on() -> None:
    rows = Rows()
    with Worker(opening(hangs=frozenset({"ALGO_3"})), limit_s=1.0) as worker:
        sweep(worker, LAYERS[:1]).run(rows, ROUNDS)
    hung = [row for row in rows if row.outcome is Outcome.TIMEOUT]
    assert [row.task.algorithm.name for row in hung] == ["ALGO_3"]
    assert rows[-1].outcome is Outcome.OK


def test_rows_of_a_gpu_survive_the_store(tmp_path: Path) -> None:
    store, rows = open_store(tmp_path / "store"), Rows()
    with Worker(opening(fails=frozenset({"GEMM"}))) as worker, store.writer(worker.device) as writer:
        sweep(worker, LAYERS[:1]).run(writer, Budget())
        sweep(worker, LAYERS[:1]).run(rows, Budget())
    read = {row.task.id: row for row in store.measurements(DEVICE.slug)}
    assert len(read) == len(rows)
    for row in rows:
        kept = read[row.task.id]
        assert kept.task == row.task
        for name in ("outcome", "evidence", "deterministic", "kernels", "ranking", "workspace_bytes", "detail"):
            assert getattr(kept, name) == getattr(row, name), name
        assert kept.after == row.after


def test_a_sweep_killed_at_four_moments_ends_with_each_task_exactly_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), shipped=False)
    command = [sys.executable, str(Path(__file__).with_name("sweep_recorded.py")), store.uri]
    moments, killed = Random(7), 0
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(moments.randint(0, 9)):
                process.stdout.readline()
            process.kill()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 2
    before = len(store.table())
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    rows = store.measurements(DEVICE.slug)
    assert len(rows) > before > 0
    assert set(Counter((row.task.id, row.sweep_pass) for row in rows).values()) == {1}
    with Worker(opening()) as worker:
        assert sum(row.sweep_pass == 0 for row in rows) == sweep(worker, MANY).size
    findings = store.check()
    assert findings.damaged == ()
    assert findings.rows - findings.duplicates == len(rows)
