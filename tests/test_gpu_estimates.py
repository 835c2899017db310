"""Estimates on a GPU from rows that are set: two clocks, what calibrates them, CUDA graphs and energy."""

from dataclasses import replace

import pytest
from made_rows import DEVICE, measurement, network, step_layers, tasks, write

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.contract import Conditions
from latte_cli.devices import CPU, CUDA
from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator import Estimator
from latte_cli.estimator.calibration import calibrate, calibration_pairs
from latte_cli.estimator.steps import Step, step_calls
from latte_cli.layers import Phase, Whole
from latte_cli.lookup import Timing
from latte_cli.network.calibration import calibration_networks
from latte_cli.store import open_store
from latte_cli.tasks import Settings, Task

NETWORK = network()
GPU = replace(DEVICE, slug="made-up-gpu", kind=CUDA)
SETTINGS = Settings(library_versions=(("torch", "2.13.0"),))
WATTS = 300.0


def profiled(folder, device_s, host_s, power_w=WATTS):
    """A profile in which each call takes as long as any other."""
    store = open_store(str(folder), shipped=False)
    conditions = Conditions(power_w=power_w)
    rows = [
        replace(
            measurement(task, time_s=device_s, device=GPU),
            host_times_s=(3 * host_s, host_s, 2 * host_s),
            before=conditions,
            after=conditions,
        )
        for task in tasks(step_layers(NETWORK), SETTINGS)
        if task.algorithm == FRAMEWORK_DEFAULT
    ]
    write(store, rows)
    return Estimator(store, GPU.slug, strategy="pytorch")


def calls():
    return sum(not work.layer.free for work in step_calls(NETWORK, Step()))


def codes(estimate):
    return {warning.code for warning in estimate.warnings}


def test_a_slow_device_sets_the_pace(tmp_path):
    found = profiled(tmp_path, device_s=1e-3, host_s=1e-5).estimate(NETWORK)
    assert found.step_s == pytest.approx(calls() * 1e-3 + 1e-5)
    assert "host_bound" not in codes(found)


def test_a_slow_host_sets_the_pace_and_is_said_by_the_least_time_it_took(tmp_path):
    found = profiled(tmp_path, device_s=1e-5, host_s=1e-3).estimate(NETWORK)
    assert found.step_s == pytest.approx(calls() * 1e-3 + 1e-5)
    assert "host_bound" in codes(found)


def test_a_cuda_graph_leaves_the_host_out(tmp_path):
    found = profiled(tmp_path, device_s=1e-5, host_s=1e-3).estimate(NETWORK, Step(cuda_graph=True))
    assert found.step_s == pytest.approx(calls() * 1e-5)
    assert "host_bound" not in codes(found)


def test_a_cpu_has_no_cuda_graphs(tmp_path):
    store = open_store(str(tmp_path), shipped=False)
    write(store, [measurement(task) for task in tasks(step_layers(NETWORK))])
    with pytest.raises(LatteError, match="no CUDA graphs") as raised:
        Estimator(store, DEVICE.slug).estimate(NETWORK, Step(cuda_graph=True))
    assert raised.value.exit_code == ExitCode.USAGE


def test_energy_is_the_power_for_as_long_as_a_step_takes(tmp_path):
    found = profiled(tmp_path, device_s=1e-3, host_s=1e-5).estimate(NETWORK)
    assert found.energy_j == pytest.approx(WATTS * found.step_s)


def test_energy_is_not_known_where_no_power_was_read(tmp_path):
    assert profiled(tmp_path, device_s=1e-3, host_s=1e-5, power_w=None).estimate(NETWORK).energy_j is None


def test_the_copy_of_a_batch_is_told_beside_the_step_where_it_was_measured(tmp_path):
    one = profiled(tmp_path, device_s=1e-3, host_s=1e-5)
    assert one.estimate(NETWORK).transfer_s is None
    (copy,) = tasks([NETWORK.transfer()], SETTINGS)
    write(open_store(str(tmp_path), shipped=False), [measurement(copy, time_s=0.5, device=GPU)])
    found = Estimator(open_store(str(tmp_path), shipped=False), GPU.slug, strategy="pytorch").estimate(NETWORK)
    assert found.transfer_s == pytest.approx(0.5)
    assert found.step_s < 0.5


# Calibration


def timing(pair, device_s, host_s):
    task = Task(layer=pair[0], phase=pair[1], algorithm=FRAMEWORK_DEFAULT, settings=SETTINGS)
    return (Timing(task=task, device_s=device_s, host_s=host_s, low_s=device_s, high_s=device_s),)


def parts(network):
    """The calls of each part of a step but its loss."""
    count = dict.fromkeys((Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE), 0)
    for work in step_calls(network, Step()):
        if not work.layer.free and work.name != "(loss)":
            count[work.phase if work.phase in count else Phase.BACKWARD] += 1
    return count


def measured(layer_device_s, device_factor, host_factor):
    """Each layer takes the host a second; the networks take the factors times their layers' sums."""
    found = {
        pair: timing(pair, layer_device_s, 1.0) for pair in calibration_pairs(CUDA) if not isinstance(pair[0], Whole)
    }
    for whole, one in calibration_networks(CUDA):
        for phase, count in parts(one).items():
            sums = (device_factor * layer_device_s * count, host_factor * count)
            found[whole, phase] = timing((whole, phase), *sums)
    return found


def test_networks_that_the_host_paces_tell_of_the_host_alone():
    found = calibrate(measured(0.5, 3.0, 1.5), CUDA)
    assert found.networks == 6
    assert (found.forward_s, found.backward_s, found.spread) == (0.0, 0.0, 0.0)
    for phase in (Phase.FORWARD, Phase.BACKWARD_DATA, Phase.UPDATE):
        assert found.host_factor(phase) == pytest.approx(1.5 ** (6 / 7))


def test_networks_that_the_device_paces_tell_of_both():
    found = calibrate(measured(5.0, 1.1, 0.8), CUDA)
    assert found.forward_s < 0
    assert found.backward_s < 0
    assert found.host_forward == pytest.approx(0.8 ** (6 / 7))


def test_hosts_that_differ_from_network_to_network_widen_what_is_known_of_them():
    alike, different = measured(0.5, 3.0, 1.5), measured(0.5, 3.0, 1.5)
    for whole, _ in calibration_networks(CUDA)[:3]:
        for phase in (Phase.FORWARD, Phase.BACKWARD):
            (one,) = different[whole, phase]
            different[whole, phase] = (replace(one, host_s=2 * one.host_s),)
    assert calibrate(different, CUDA).host_spread > calibrate(alike, CUDA).host_spread + 0.2


def test_a_cpu_has_one_clock():
    whole_and_layers = {pair: timing(pair, 1.0, 7.0) for pair in calibration_pairs(CPU)}
    found = calibrate(whole_and_layers, CPU)
    assert found.networks
    assert found.host_forward == found.host_backward == found.host_update == 1.0
