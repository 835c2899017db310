"""Every branch of every rule, on timings of a made-up cuDNN whose numbers are easy to tell apart."""

from dataclasses import replace

import pytest
from made_rows import GEMM, SETTINGS, convolution

from latte_cli.algorithms import FRAMEWORK_BENCHMARK, FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import CPU, CUDA
from latte_cli.engines import Engine
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Activation, Phase
from latte_cli.lookup import Timing
from latte_cli.precisions import Layout, Precision
from latte_cli.strategies import NAMES, Candidates, Need, Selection, by_name, fastest, rank_timings
from latte_cli.tasks import Task

CONVOLUTION = (convolution(1, 16, 16, 8), Phase.FORWARD)
OTHER = (convolution(2, 16, 16, 8), Phase.FORWARD)
RELU = (Activation(shape=(1, 16, 8, 8), function="relu"), Phase.FORWARD)
MIB = 2**20

IMPLICIT = Algorithm(library="cudnn", name="IMPLICIT_GEMM", vendor_id=0)
PRECOMP = Algorithm(library="cudnn", name="IMPLICIT_PRECOMP_GEMM", vendor_id=1)
FFT = Algorithm(library="cudnn", name="FFT", vendor_id=4)
WINOGRAD = Algorithm(library="cudnn", name="WINOGRAD_NONFUSED", vendor_id=7)
ALGO_0 = Algorithm(library="cudnn", name="ALGO_0", vendor_id=0)


def timing(pair, algorithm, time_us, workspace_bytes=None, **more):
    task = Task(layer=pair[0], phase=pair[1], algorithm=algorithm, settings=SETTINGS)
    time_s = time_us * 1e-6
    return Timing(
        task=task, device_s=time_s, host_s=time_s, low_s=time_s, high_s=time_s, workspace_bytes=workspace_bytes, **more
    )


# On the GPU: the fastest needs 8 GiB, the next 100 MiB, the one after it 1 MiB, the slowest nothing.
TIMES = {
    FRAMEWORK_DEFAULT: (25.0, 10 * MIB),
    FRAMEWORK_BENCHMARK: (16.0, 100 * MIB),
    FFT: (10.0, 8 * 1024 * MIB),
    WINOGRAD: (15.0, 100 * MIB),
    PRECOMP: (18.0, MIB),
    IMPLICIT: (60.0, 0),
}
RANKING = ("WINOGRAD_NONFUSED", "IMPLICIT_GEMM", "IMPLICIT_PRECOMP_GEMM", "FFT")


def candidates(pair, timings=(), **more):
    return Candidates(layer=pair[0], phase=pair[1], timings=timings, **more)


def chosen(
    strategy,
    *,
    times=TIMES,
    ranking=RANKING,
    limit=None,
    pair=CONVOLUTION,
    precision=Precision.FP32,
    lists=None,
):
    """What `strategy` takes for `pair`."""
    timings = rank_timings([timing(pair, algorithm, *values) for algorithm, values in times.items()], ranking)
    known = candidates(pair, timings, limit_bytes=limit, precision=precision, lists=lists or {})
    selection = by_name(strategy).choose(known)
    assert selection.timing in (*timings, None)
    assert selection.timing is None or selection.timing.task.algorithm == selection.algorithm
    return selection.algorithm


def without(*algorithms):
    return {algorithm: values for algorithm, values in TIMES.items() if algorithm not in algorithms}


CASES = [
    ("latte", {}, FFT),
    ("latte", {"limit": 200 * MIB}, WINOGRAD),
    ("exhaustive", {}, FFT),
    ("exhaustive", {"limit": 50 * MIB}, PRECOMP),
    ("pytorch", {}, FRAMEWORK_DEFAULT),
    ("pytorch", {"limit": 10 * MIB}, FRAMEWORK_DEFAULT),
    ("pytorch", {"limit": 5 * MIB}, IMPLICIT),  # the next that can be allocated, as ranked
    ("pytorch", {"times": without(FRAMEWORK_DEFAULT)}, WINOGRAD),
    ("pytorch", {"limit": 0, "times": {FRAMEWORK_DEFAULT: (1.0, 10)}}, FRAMEWORK_DEFAULT),  # and runs out of memory
    ("pytorch-benchmark", {}, FRAMEWORK_BENCHMARK),
    ("pytorch-benchmark", {"limit": 50 * MIB}, PRECOMP),
    ("pytorch-benchmark", {"times": without(FRAMEWORK_BENCHMARK)}, FFT),
    ("pytorch-benchmark:benchmark-limit=3", {}, WINOGRAD),
    ("pytorch-benchmark:benchmark-limit=1", {"limit": 50 * MIB}, IMPLICIT),  # the first that fits is the only one tried
    ("pytorch-benchmark:benchmark-limit=0", {}, FFT),
    ("pytorch-benchmark", {"limit": 0, "times": without(IMPLICIT, FRAMEWORK_BENCHMARK)}, PRECOMP),
    ("pytorch-legacy", {}, WINOGRAD),
    ("pytorch-legacy", {"limit": 50 * MIB}, IMPLICIT),
    ("pytorch-legacy", {"limit": 0, "times": without(IMPLICIT)}, PRECOMP),  # nothing fits: the least that is needed
    ("pytorch-legacy", {"ranking": ()}, IMPLICIT),  # no ranking: in the order of the library's numbers
    ("pytorch-legacy:benchmark=on", {}, FFT),
    ("pytorch-legacy:benchmark=on", {"limit": 200 * MIB}, WINOGRAD),
    ("pytorch-legacy:deterministic=on", {}, PRECOMP),
    ("pytorch-legacy:deterministic=on", {"times": without(PRECOMP)}, FFT),
    ("pytorch-legacy:benchmark=on:deterministic=on", {"limit": 200 * MIB}, WINOGRAD),
    ("tensorflow", {}, WINOGRAD),  # 8 GiB are over its limit of 4096 MiB
    ("tensorflow:workspace-limit=16GiB", {}, FFT),
    ("tensorflow", {"limit": 50 * MIB}, IMPLICIT),  # what it chose cannot be allocated: the fastest without scratch
    ("tensorflow", {"limit": 0, "times": without(IMPLICIT)}, PRECOMP),
    ("tensorflow:workspace-limit=1KiB", {"times": without(IMPLICIT)}, PRECOMP),
    ("tensorflow:autotune=off", {}, WINOGRAD),
    ("tensorflow:autotune=off", {"ranking": ("FFT", *RANKING)}, WINOGRAD),
    ("tensorflow:autotune=off", {"limit": 50 * MIB}, IMPLICIT),
    ("xla", {}, FFT),
    ("xla", {"limit": 200 * MIB}, PRECOMP),  # 3 µs slower, with less scratch
    ("xla:tolerance=0.002ms", {"limit": 200 * MIB}, WINOGRAD),
    ("xla:tolerance=1ms", {}, IMPLICIT),
    ("xla", {"limit": 0, "times": without(IMPLICIT)}, PRECOMP),
    ("onednn-default", {}, FRAMEWORK_DEFAULT),  # a GPU has none of its implementations
    ("onnxruntime", {}, FFT),
    ("onnxruntime", {"limit": 200 * MIB}, WINOGRAD),
    ("onnxruntime:max-workspace=off", {}, PRECOMP),  # within 32 MiB
    ("onnxruntime:max-workspace=off", {"limit": 100}, IMPLICIT),
    ("onnxruntime:search=heuristic", {}, WINOGRAD),
    ("onnxruntime:search=heuristic", {"limit": 0}, WINOGRAD),  # it asks for one answer, and runs out of memory
    ("onnxruntime:search=default", {}, PRECOMP),
    ("onnxruntime:search=DEFAULT", {"times": without(PRECOMP)}, WINOGRAD),
    ("mindspore", {}, WINOGRAD),
    ("mindspore", {"limit": 0}, WINOGRAD),  # no cap: it runs out of memory
    ("mindspore", {"precision": Precision.FP16}, PRECOMP),
    ("mindspore", {"precision": Precision.FP16, "times": without(PRECOMP)}, WINOGRAD),
    ("mindspore-performance", {}, FFT),
    ("mindspore-performance", {"limit": 200 * MIB}, WINOGRAD),
    ("mindspore-performance", {"precision": Precision.FP16}, PRECOMP),
    ("deterministic", {}, FFT),
    ("fixed:winograd_nonfused", {}, WINOGRAD),
    ("fixed:DIRECT", {}, FRAMEWORK_DEFAULT),
]


@pytest.mark.parametrize(("strategy", "given", "algorithm"), CASES)
def test_a_rule_takes_what_its_framework_takes(strategy, given, algorithm):
    assert chosen(strategy, **given) == algorithm


def test_every_strategy_has_a_case():
    assert {strategy.partition(":")[0] for strategy, _, _ in CASES} == {*NAMES, "fixed"}


@pytest.mark.parametrize("strategy", ["pytorch-benchmark", "pytorch-legacy", "pytorch-legacy:benchmark=on"])
def test_pytorch_runs_depthwise_convolutions_with_a_kernel_of_its_own(strategy):
    layer = CONVOLUTION[0]
    depthwise = (replace(layer, groups=layer.in_channels), Phase.FORWARD)
    assert chosen(strategy, pair=depthwise) == FRAMEWORK_DEFAULT
    assert chosen("tensorflow", pair=depthwise) == WINOGRAD


def test_what_does_not_repeat_bit_by_bit_is_not_deterministic():
    backward = (CONVOLUTION[0], Phase.BACKWARD_DATA)
    winograd = replace(WINOGRAD, vendor_id=5)
    times = {ALGO_0: (1.0, 0), winograd: (2.0, 0)}
    assert chosen("exhaustive", times=times, pair=backward) == ALGO_0
    assert chosen("deterministic", times=times, pair=backward) == winograd
    seen = (timing(CONVOLUTION, FFT, 1.0, deterministic=False), timing(CONVOLUTION, PRECOMP, 9.0))
    choose = by_name("deterministic").choose
    assert choose(candidates(CONVOLUTION, seen)).timing is seen[1]
    assert choose(candidates(CONVOLUTION, seen[:1])).timing is seen[0]


def test_on_a_cpu_the_rules_see_all_that_was_timed_the_framework_s_own_first():
    times = {GEMM: (1.0, 1000), FRAMEWORK_DEFAULT: (2.0, 10)}
    assert chosen("pytorch-legacy", times=times, ranking=()) == FRAMEWORK_DEFAULT
    assert chosen("pytorch", times=times, ranking=(), limit=0) == FRAMEWORK_DEFAULT  # there is no other way
    assert chosen("tensorflow", times=times, ranking=()) == GEMM
    assert chosen("tensorflow", times=times, ranking=(), limit=500) == FRAMEWORK_DEFAULT


BRGCONV = Algorithm(library="onednn", name="brgconv:avx512_core")
REORDERED = Algorithm(library="onednn", name="jit:avx512_core+reorder")
CPU_TIMES = {FRAMEWORK_DEFAULT: (2.0, 10), GEMM: (1.0, 1000), REORDERED: (3.0, 500), BRGCONV: (1.5, 0)}


def test_onednn_by_itself_takes_the_first_of_its_list_that_fits():
    ranking = (REORDERED.name, BRGCONV.name)
    assert chosen("onednn-default", times=CPU_TIMES, ranking=ranking) == REORDERED
    assert chosen("onednn-default", times=CPU_TIMES, ranking=ranking, limit=100) == BRGCONV
    assert chosen("pytorch", times=CPU_TIMES, ranking=ranking, limit=5) == FRAMEWORK_DEFAULT  # it has not that choice
    torchs = {FRAMEWORK_DEFAULT: (2.0, 10), GEMM: (1.0, 0)}
    assert chosen("onednn-default", times=torchs, ranking=()) == FRAMEWORK_DEFAULT
    assert not by_name("onednn-default").rule_of_gpu


ENGINES = {
    FRAMEWORK_DEFAULT: (25.0, 10 * MIB),
    PRECOMP: (18.0, MIB),
    Engine(index=38).algorithm: (12.0, 100 * MIB),
    Engine(index=67).algorithm: (11.0, 50 * MIB),
    Engine(index=28).algorithm: (13.0, 0),
    Engine(index=70).algorithm: (9.0, 0),
}
LISTS = {
    "INSTANT": ("ENGINE_38", "ENGINE_67", "ENGINE_99"),
    "A": ("ENGINE_38", "ENGINE_67"),
    "B": ("ENGINE_67", "ENGINE_28"),
    "FALLBACK": ("ENGINE_0",),
}


@pytest.mark.parametrize(
    ("strategy", "more", "index"),
    [
        ("pytorch", {"times": None}, 38),
        ("pytorch", {"times": None, "limit": 60 * MIB}, 67),
        ("pytorch", {"times": None, "limit": 0}, 28),  # its own fallback
        ("pytorch:deterministic=on", {}, 38),
        ("pytorch:deterministic=on", {"limit": 60 * MIB}, 67),
        ("pytorch-benchmark", {}, 67),
        ("pytorch-benchmark:benchmark-limit=1", {}, 38),
        ("pytorch-benchmark", {"limit": 0}, 28),
        ("xla", {}, 28),  # 2 µs slower, without scratch
        ("xla:tolerance=0.001ms", {}, 67),
        ("xla", {"limit": 0}, 28),
        ("onnxruntime", {}, 67),  # the first that mode B lists
        ("onnxruntime", {"limit": 0}, 67),  # no cap
        ("onnxruntime:search=heuristic", {}, 38),
        ("tensorflow", {}, 67),
        ("tensorflow:workspace-limit=1MiB", {}, 28),
        ("exhaustive", {}, 70),
        ("latte", {}, 70),
    ],
)
def test_rules_that_know_engines_take_them_from_the_lists(strategy, more, index):
    times = {a: v for a, v in ENGINES.items() if a != FRAMEWORK_DEFAULT} if "times" in more else ENGINES
    assert chosen(strategy, **{**more, "times": times}, lists=LISTS) == Engine(index=index).algorithm


def test_engines_whose_results_do_not_repeat_are_left_out_on_demand():
    first, second = (Engine(index=index).algorithm for index in (38, 67))
    rows = (timing(CONVOLUTION, first, 1.0, 0, deterministic=False), timing(CONVOLUTION, second, 2.0, 0))
    known = candidates(CONVOLUTION, rows, lists=LISTS)
    assert by_name("pytorch").choose(known).algorithm == first
    assert by_name("pytorch:deterministic=on").choose(known).algorithm == second


def test_onnxruntime_before_its_frontend_and_backward_sees_named_algorithms_alone():
    for more in ("frontend=off", "frontend=off:search=heuristic", "search=default"):  # the fallback was not timed
        assert chosen(f"onnxruntime:{more}", times=ENGINES, ranking=(), lists=LISTS) == PRECOMP
    backward = (CONVOLUTION[0], Phase.BACKWARD_DATA)
    times = {Engine(index=67).algorithm: (1.0, 0), ALGO_0: (3.0, 0), replace(WINOGRAD, vendor_id=5): (2.0, 10)}
    ranking = ("WINOGRAD_NONFUSED", "ALGO_0")
    given = {"times": times, "pair": backward, "ranking": ranking, "lists": LISTS}
    assert chosen("onnxruntime", **given) == replace(WINOGRAD, vendor_id=5)
    assert chosen("onnxruntime:search=heuristic", **given, limit=5) == ALGO_0  # it goes on to what can be allocated


@pytest.mark.parametrize("strategy", ["pytorch-legacy", "mindspore"])
def test_rules_from_before_engines_see_named_algorithms_alone(strategy):
    assert chosen(strategy, times=ENGINES, ranking=(), lists=LISTS) == PRECOMP
    assert chosen("pytorch", times=ENGINES, lists=LISTS) == FRAMEWORK_DEFAULT  # as measured


@pytest.mark.parametrize("strategy", [*NAMES, "fixed:FFT"])
def test_layers_with_one_way_take_it_whether_or_not_it_was_timed(strategy):
    choose = by_name(strategy).choose
    assert choose(candidates(RELU)) == Selection(algorithm=FRAMEWORK_DEFAULT)
    only = timing(RELU, FRAMEWORK_DEFAULT, 1.0, 10)
    assert choose(candidates(RELU, (only,), limit_bytes=0)) == Selection(algorithm=FRAMEWORK_DEFAULT, timing=only)


def test_a_workspace_that_is_not_known_counts_as_fitting():
    small, unknown = timing(CONVOLUTION, FRAMEWORK_DEFAULT, 2.0, 1), timing(CONVOLUTION, GEMM, 1.0)
    assert fastest((small, unknown), 5) is unknown


SELECTED = Selection(algorithm=GEMM, timing=timing(OTHER, GEMM, 3.0), confidence=0.7)


def test_latte_takes_what_the_selector_selects_only_where_nothing_was_timed():
    latte = by_name("latte")
    assert latte.need is Need.SELECTION
    assert latte.choose(candidates(OTHER, selected=SELECTED)) is SELECTED
    default = timing(OTHER, FRAMEWORK_DEFAULT, 9.0)
    assert latte.choose(candidates(OTHER, (default,), selected=SELECTED)).timing is default
    assert latte.choose(candidates(OTHER)) == Selection(algorithm=FRAMEWORK_DEFAULT)  # there is no selector


@pytest.mark.parametrize("strategy", [name for name in NAMES if name != "latte"])
def test_rules_need_timings_and_take_the_default_without_any(strategy):
    assert by_name(strategy).need is Need.TIMINGS
    assert by_name(strategy).choose(candidates(OTHER)) == Selection(algorithm=FRAMEWORK_DEFAULT)


def test_a_fixed_algorithm_is_taken_where_it_ran_layers_of_the_sort():
    fixed = by_name("fixed:im2col_gemm")
    assert fixed.need is Need.ALGORITHMS
    ran = frozenset((GEMM, FRAMEWORK_DEFAULT))
    assert fixed.choose(candidates(OTHER, untimed=ran)) == Selection(algorithm=GEMM)
    assert fixed.choose(candidates(OTHER, untimed=ran - {GEMM})) == Selection(algorithm=FRAMEWORK_DEFAULT)


@pytest.mark.parametrize(
    ("strategy", "precision", "layout"),
    [
        ("tensorflow", Precision.FP16, Layout.CHANNELS_LAST),
        ("tensorflow", Precision.TF32, Layout.CHANNELS_LAST),
        ("tensorflow", Precision.FP32, Layout.NCHW),
        ("xla", Precision.FP16, Layout.CHANNELS_LAST),
        ("xla", Precision.TF32, Layout.NCHW),
        ("pytorch", Precision.FP16, Layout.NCHW),
        ("mindspore", Precision.FP16, Layout.NCHW),
        ("latte", Precision.FP16, Layout.NCHW),
    ],
)
def test_the_layout_is_one_for_the_whole_model(strategy, precision, layout):
    assert by_name(strategy).layout(precision, CUDA) is layout
    assert by_name(strategy).layout(precision, CPU) is Layout.NCHW


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("lattte", "latte"),
        ("fixed:", "fixed:NAME"),
        ("tensorflw", "tensorflow"),
        ("tensorflow:workspace=1GiB", "workspace-limit"),
        ("latte:x=1", "latte"),
        ("mindspore:x=1", "none"),
        ("tensorflow:autotune=perhaps", "autotune=off"),
        ("pytorch-benchmark:benchmark-limit=-1", "benchmark-limit=20"),
        ("tensorflow:workspace-limit=much", "512MiB"),
        ("xla:tolerance", "500ms"),
        ("onnxruntime:search=exhausting", "exhaustive"),
        ("onnxruntime:frontend=1.20", "frontend=off"),
    ],
)
def test_an_unknown_strategy_or_knob_is_a_usage_error_that_names_what_there_is(name, near):
    with pytest.raises(LatteError) as caught:
        by_name(name)
    assert caught.value.exit_code is ExitCode.USAGE
    assert near in (caught.value.hint or "")
