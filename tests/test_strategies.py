import pytest
from made_rows import GEMM, SETTINGS, convolution

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Activation, Phase
from latte_cli.lookup import Timing
from latte_cli.strategies import Query, by_name, fastest
from latte_cli.tasks import Task

CONVOLUTION = (convolution(1, 16, 16, 8), Phase.FORWARD)
RELU = (Activation(shape=(1, 16, 8, 8), function="relu"), Phase.FORWARD)


def timing(pair, algorithm, time_s, workspace_bytes=None):
    task = Task(layer=pair[0], phase=pair[1], algorithm=algorithm, settings=SETTINGS)
    return Timing(
        task=task, device_s=time_s, host_s=time_s, low_s=time_s, high_s=time_s, workspace_bytes=workspace_bytes
    )


BOTH = {
    CONVOLUTION: (timing(CONVOLUTION, FRAMEWORK_DEFAULT, 2.0, 10), timing(CONVOLUTION, GEMM, 1.0, 1000)),
    RELU: (timing(RELU, FRAMEWORK_DEFAULT, 1.0),),
}
PAIRS = (CONVOLUTION, RELU)


def test_latte_takes_the_fastest():
    assert by_name("latte")(Query(pairs=PAIRS, timings=BOTH)) == {CONVOLUTION: GEMM, RELU: FRAMEWORK_DEFAULT}


def test_latte_takes_the_fastest_that_fits_the_workspace_limit():
    choices = by_name("latte")(Query(pairs=PAIRS, timings=BOTH, workspace_limit_bytes=999))
    assert choices[CONVOLUTION] == FRAMEWORK_DEFAULT


def test_where_nothing_fits_the_least_workspace_is_taken():
    assert fastest(BOTH[CONVOLUTION], 5).task.algorithm == FRAMEWORK_DEFAULT


def test_a_workspace_that_is_not_known_counts_as_fitting():
    unknown = timing(CONVOLUTION, GEMM, 1.0)
    assert fastest((timing(CONVOLUTION, FRAMEWORK_DEFAULT, 2.0, 1), unknown), 5) is unknown


def test_latte_asks_the_selector_only_for_convolutions_without_timings():
    asked = []

    def select(pairs):
        asked.extend(pairs)
        return [GEMM] * len(pairs)

    other = (convolution(2, 16, 16, 8), Phase.FORWARD)
    choices = by_name("latte")(Query(pairs=(*PAIRS, other), timings={CONVOLUTION: BOTH[CONVOLUTION]}, select=select))
    assert asked == [other]
    assert choices[other] == GEMM
    assert choices[RELU] == FRAMEWORK_DEFAULT


def test_pytorch_takes_the_default_whatever_was_timed():
    assert set(by_name("pytorch")(Query(pairs=PAIRS, timings=BOTH)).values()) == {FRAMEWORK_DEFAULT}


@pytest.mark.parametrize("name", ["fixed:IM2COL_GEMM", "fixed:im2col_gemm"])
def test_a_fixed_algorithm_is_taken_where_it_ran(name):
    untimed = (convolution(2, 16, 16, 8), Phase.FORWARD)
    never = (convolution(2, 16, 16, 8, kernel=1), Phase.FORWARD)
    query = Query(
        pairs=(*PAIRS, untimed, never),
        timings=BOTH,
        run_before=lambda pair: {GEMM} if pair == untimed else set(),
    )
    assert by_name(name)(query) == {
        CONVOLUTION: GEMM,
        RELU: FRAMEWORK_DEFAULT,
        untimed: GEMM,
        never: FRAMEWORK_DEFAULT,
    }


@pytest.mark.parametrize(("name", "near"), [("lattte", "latte"), ("fixed:", "fixed:NAME"), ("tensorflow", "pytorch")])
def test_an_unknown_strategy_is_a_usage_error_that_names_the_known_ones(name, near):
    with pytest.raises(LatteError, match="unknown strategy") as caught:
        by_name(name)
    assert caught.value.exit_code is ExitCode.USAGE
    assert near in (caught.value.hint or "")
