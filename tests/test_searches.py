"""What searching algorithms costs the first step, and what it costs that results repeat."""

from dataclasses import replace

import pytest
from made_rows import DEVICE, SETTINGS, convolution, measurement, network, step_layers, tasks, write
from running import ended
from schemas import valid

from latte_cli.algorithms import FRAMEWORK_BENCHMARK, FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import CUDA
from latte_cli.estimator import Estimator
from latte_cli.estimator.searches import search_cost
from latte_cli.layers import Convolution, Phase
from latte_cli.lookup import Timing
from latte_cli.network import load
from latte_cli.store import Store, open_store
from latte_cli.strategies import Candidates, by_name
from latte_cli.tasks import Task

GPU = replace(DEVICE, slug="made-up-gpu", kind=CUDA)
MIB = 2**20
FAST = Algorithm(library="cudnn", name="ALGO_0", vendor_id=0)
STEADY = Algorithm(library="cudnn", name="ALGO_1", vendor_id=1)
TIMES = {FRAMEWORK_DEFAULT: (4.0, 0), FRAMEWORK_BENCHMARK: (2.0, 8 * MIB), FAST: (2.0, 8 * MIB), STEADY: (3.0, MIB)}


def rows(layers, times=TIMES):
    """Two algorithms for each phase of a convolution, the faster one of which does not repeat; in 100 us."""
    found = []
    for task in tasks(layers, replace(SETTINGS, threads=0)):
        if not isinstance(task.layer, Convolution):
            found.append(measurement(task, device=GPU))
        elif task.algorithm == FRAMEWORK_DEFAULT:
            for algorithm, (time, workspace_bytes) in times.items():
                one = replace(task, algorithm=algorithm)
                steady = algorithm not in (FAST, FRAMEWORK_BENCHMARK)
                more = {"device": GPU, "workspace_bytes": workspace_bytes, "deterministic": steady}
                found.append(measurement(one, time_s=time * 1e-4, **more))
    return found


def store_of(path, layers, **more) -> Store:
    store = open_store(str(path), shipped=False)
    write(store, rows(layers, **more))
    return store


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path / "store", step_layers(network()))


def estimate(store, strategy, read=None):
    return Estimator(store, GPU.slug, strategy=strategy).estimate(read or network())


def test_a_search_runs_each_candidate_of_each_shape_twice(store):
    found = estimate(store, "pytorch-benchmark").search
    assert found is not None
    phases = 5  # of two convolutions, the first of which passes no gradient on
    assert (found.shapes, found.runs, found.unknown) == (phases, 2 * 2 * phases, 0)
    assert found.time_s == pytest.approx(2 * phases * (2.0 + 3.0) * 1e-4)
    assert found.workspace_bytes == 8 * MIB


def test_shapes_that_come_again_are_searched_once(tmp_path):
    once = convolution(4, 16, 16, 8)
    timing = [
        Timing(task=Task(layer=once, phase=Phase.FORWARD, algorithm=one, settings=SETTINGS), device_s=1.0, host_s=1.0,
               low_s=1.0, high_s=1.0, workspace_bytes=size)
        for one, size in ((FAST, 8), (STEADY, 4))
    ]  # fmt: skip
    call = Candidates(layer=once, phase=Phase.FORWARD, timings=timing)
    strategy = by_name("pytorch-benchmark")
    twice, other = search_cost(strategy, [call, call]), replace(call, phase=Phase.BACKWARD_DATA, timings=())
    assert twice == search_cost(strategy, [call])
    cost = search_cost(strategy, [call, other])
    assert cost is not None
    assert (cost.shapes, cost.unknown, cost.time_s) == (1, 1, 4.0)
    tight = search_cost(strategy, [replace(call, limit_bytes=5)])
    assert tight is not None
    assert (tight.runs, tight.workspace_bytes) == (2, 4)
    unknown = [*timing, replace(timing[0], workspace_bytes=None)]
    partly = search_cost(strategy, [replace(call, timings=unknown)])
    assert partly is not None
    assert partly.workspace_bytes is None
    short = search_cost(by_name("pytorch-benchmark:benchmark-limit=1"), [call])
    assert short is not None
    assert short.runs == 2
    assert search_cost(strategy, [other]) is None
    assert search_cost(by_name("xla"), [call]) is None


def test_a_framework_s_own_rows_tell_nothing_of_its_search(tmp_path):
    own = {algorithm: times for algorithm, times in TIMES.items() if algorithm.library == "torch"}
    store = store_of(tmp_path / "own", step_layers(network()), times=own)
    assert estimate(store, "pytorch-benchmark").search is None
    assert estimate(store, "pytorch").search is None


def test_determinism_costs_the_difference_to_the_next_that_repeats(store):
    found = estimate(store, "exhaustive")
    again = estimate(store, "deterministic")
    assert found.determinism is not None
    assert found.determinism.step_s == pytest.approx(again.step_s)
    assert found.determinism.step_s > found.step_s
    assert found.determinism.calls == 5
    assert again.determinism is None
    assert estimate(store, "pytorch").determinism is None  # torch's own repeated


def test_where_nothing_repeats_no_cost_is_named(tmp_path):
    store = store_of(tmp_path / "one", step_layers(network()), times={FAST: (2.0, 0)})
    assert estimate(store, "exhaustive").determinism is None


def test_the_command_says_both(tmp_path, model):
    read = load(model, batch_size=8)
    store = store_of(tmp_path / "store", step_layers(read))
    words = ("estimate", model, "--batch-size", 8, "--store", store.uri, "--device", GPU.slug)
    code, out, _ = ended(*words, "--strategy", "pytorch-benchmark")
    assert code == 0
    assert "first step: " in out
    assert "determinism costs " in out
    _, out, _ = ended(*words, "--strategy", "pytorch-benchmark,pytorch", "--format", "json")
    first, second = valid(out)["estimates"]
    assert first["search"]["workspace_bytes"] == 8 * MIB
    assert first["determinism"]["cost_s"] == pytest.approx(first["determinism"]["step_s"] - first["totals"]["step_s"])
    assert not {"search", "determinism"} & second.keys()
