"""Calibration: factors from networks that were run whole, with times that are set."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.devices import CPU, KINDS
from latte_cli.estimator import Estimator
from latte_cli.estimator.calibration import Calibration, calibrate, calibration_pairs
from latte_cli.estimator.steps import LOSS, UPDATE, Step, step_calls
from latte_cli.layers import Phase, Whole
from latte_cli.lookup import Timing
from latte_cli.network import zoo
from latte_cli.network.calibration import calibration_networks
from latte_cli.store import open_store
from latte_cli.strategies import usual
from latte_cli.tasks import Settings, Task


def timing(pair, seconds):
    task = Task(layer=pair[0], phase=pair[1], algorithm=FRAMEWORK_DEFAULT, settings=Settings(threads=2))
    return (Timing(task=task, device_s=seconds, host_s=seconds, low_s=seconds, high_s=seconds),)


def profile(forward_s, backward_s, count, layer_s=1.0):
    """Each layer takes `layer_s`; within the first `count` networks it takes so much less, forward and backward."""
    measured = {pair: timing(pair, layer_s) for pair in calibration_pairs(CPU) if not isinstance(pair[0], Whole)}
    for whole, network in calibration_networks(CPU)[:count]:
        works = [work for work in step_calls(network, Step()) if not work.layer.free]
        own = [work for work in works if work.name not in (LOSS, UPDATE)]
        calls = sum(work.phase is Phase.FORWARD for work in own)
        times = ((layer_s - forward_s) * calls, (layer_s - backward_s) * (len(own) - calls), 1.5 * layer_s)
        for phase, time_s in zip((Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE), times, strict=True):
            measured[whole, phase] = timing((whole, phase), time_s)
    return measured


def test_a_profile_without_whole_networks_leaves_the_sums_alone():
    assert calibrate(profile(0.2, 0.2, 0), CPU) == Calibration()


def test_what_a_call_takes_less_within_a_network_is_found():
    found = calibrate(profile(20e-6, 10e-6, 4, layer_s=100e-6), CPU)
    assert found.networks == 4
    assert found.forward_s == pytest.approx(20e-6, rel=0.01)
    assert found.backward_s == pytest.approx(10e-6, rel=0.01)
    assert calibrate(profile(20e-6, 10e-6, 1, layer_s=100e-6), CPU).forward_s == pytest.approx(20e-6, rel=0.02)
    assert found.spread < 0.01


def test_long_calls_tell_little_of_what_a_call_takes_less():
    short, long = (calibrate(profile(20e-6, 20e-6, 4, layer_s=each), CPU).forward_s for each in (100e-6, 1e-1))
    assert long < 0.01 * short


def test_a_call_may_take_longer_within_a_network():
    found = calibrate(profile(-20e-6, -10e-6, 4, layer_s=100e-6), CPU)
    assert found.forward_s == pytest.approx(-20e-6, rel=0.01)
    assert found.factor("conv1", Phase.FORWARD, 100e-6) == pytest.approx(1.2, rel=0.01)


def test_a_network_with_an_unmeasured_layer_does_not_count():
    measured = profile(0.2, 0.2, 2)
    first = next(iter(measured))
    del measured[first]
    assert calibrate(measured, CPU).networks < 2


def test_a_network_that_was_disturbed_does_not_count():
    measured = profile(0.2, 0.2, 3)
    whole, _ = calibration_networks(CPU)[1]
    (backward,) = measured[whole, Phase.BACKWARD]
    slower = replace(
        backward, device_s=3 * backward.device_s, low_80_s=backward.device_s, high_80_s=5 * backward.device_s
    )
    measured[whole, Phase.BACKWARD] = (slower,)
    found = calibrate(measured, CPU)
    assert found.networks == 2
    assert found.spread == pytest.approx(calibrate(profile(0.2, 0.2, 2), CPU).spread, rel=0.5)


def test_the_loss_keeps_its_time_and_no_call_takes_none():
    found = calibrate(profile(20e-6, 10e-6, 4, layer_s=100e-6), CPU)
    assert found.factor(LOSS, Phase.BACKWARD, 1.0) == 1
    assert found.factor(UPDATE, Phase.UPDATE, 1.0) == pytest.approx(1.5 ** (4 / 5))
    assert found.factor("conv1", Phase.BACKWARD_FILTER, 1e-4) == pytest.approx(1 - found.backward_s / 1e-4)
    assert found.factor("conv1", Phase.FORWARD, 1e-4) == pytest.approx(1 - found.forward_s / 1e-4)
    assert found.factor("conv1", Phase.FORWARD, 1e-6) == 0.25


def test_the_networks_are_none_that_accuracy_is_told_of():
    evaluated = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/estimate_accuracy.py"))["CASES"]
    assert evaluated
    assert not {name for kind in KINDS.values() for name, *_ in kind.calibration} & {
        case.architecture for case in evaluated
    }


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_kind_that_rows_can_hold_has_its_values(kind):
    assert all(isinstance(whole, Whole) for whole, _ in calibration_networks(kind))
    assert kind.sampling.least >= 1
    assert kind.rounds >= 1
    assert usual(kind)


def test_networks_are_made_only_where_one_was_run_whole(tmp_path):
    shipped = open_store(str(tmp_path / "store"))
    slug = "reference-amd-epyc-family-26-model-2-2c-2t"
    calibration_networks.cache_clear()
    estimator = Estimator(shipped, slug)
    estimator.estimate(zoo.network("lenet", batch_size=3))
    assert calibration_networks.cache_info().misses == 0
    assert estimator.calibration == Calibration()
