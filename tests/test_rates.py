from math import isclose

import pytest
from made_rows import DEVICE, GEMM, SETTINGS, convolution, measurement, tasks

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.layers import Activation, Copy, Linear, Phase
from latte_cli.lookup import Source, combine_passes
from latte_cli.rates import AMOUNTS, fit_rates
from latte_cli.tasks import Task

LAYERS = [
    *(convolution(n, c, 32, 16) for n in (1, 4) for c in (8, 32)),
    Activation(shape=(4, 32, 16, 16), function="relu"),
    Linear(rows=4, in_features=512, out_features=10),
]
TIMINGS = combine_passes([measurement(task) for task in tasks(LAYERS)])


def task(layer, phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT):
    return Task(layer=layer, phase=phase, algorithm=algorithm, settings=SETTINGS)


@pytest.mark.parametrize("name", list(AMOUNTS))
def test_times_that_are_proportional_to_the_amount_come_back(name):
    proportional = combine_passes(
        [
            measurement(timing.task, time_s=1e-9 * count)
            for timing in TIMINGS
            if (count := AMOUNTS[name](timing.task)[1])
        ]
    )
    found = fit_rates(AMOUNTS[name], proportional).predict([timing.task for timing in proportional], DEVICE)
    for timing in proportional:
        assert isclose(found[timing.task].device_s, timing.device_s, rel_tol=1e-4)
        assert found[timing.task].low_s < found[timing.task].device_s < found[timing.task].high_s
        assert found[timing.task].source is Source.PREDICTED


@pytest.mark.parametrize("name", list(AMOUNTS))
def test_no_other_coefficient_has_smaller_relative_errors(name):
    def loss(scale):
        return sum((scale * found[timing.task].device_s / timing.device_s - 1) ** 2 for timing in TIMINGS)

    found = fit_rates(AMOUNTS[name], TIMINGS).predict([timing.task for timing in TIMINGS], DEVICE)
    assert loss(1.0) < min(loss(0.98), loss(1.02))


def test_flops_tell_no_algorithms_apart_and_the_papers_rule_does():
    layer = convolution(2, 32, 32, 16)
    pair = [task(layer), task(layer, algorithm=GEMM)]
    plain, paper = (fit_rates(AMOUNTS[name], TIMINGS).predict(pair, DEVICE) for name in ("flops", "beta"))
    assert plain[pair[0]].device_s == plain[pair[1]].device_s
    assert paper[pair[0]].device_s > paper[pair[1]].device_s


@pytest.mark.parametrize("name", list(AMOUNTS))
def test_twice_the_work_takes_twice_as_long(name):
    one, two = (task(convolution(n, 16, 32, 16)) for n in (2, 4))
    found = fit_rates(AMOUNTS[name], TIMINGS).predict([one, two], DEVICE)
    assert isclose(found[two].device_s, 2 * found[one].device_s)


def test_an_algorithm_that_was_not_measured_is_not_predicted():
    unknown = task(convolution(2, 16, 32, 16), algorithm=GEMM)
    rates = fit_rates(AMOUNTS["beta"], [timing for timing in TIMINGS if timing.task.algorithm != GEMM])
    assert rates.predict([unknown], DEVICE) == {}


def test_what_has_no_flops_takes_no_time_by_flops_alone():
    copy = task(Copy(operation="pad", shape=(1, 2), output=(1, 4)))
    assert fit_rates(AMOUNTS["flops"], TIMINGS).predict([copy], DEVICE)[copy].device_s == 0.0
