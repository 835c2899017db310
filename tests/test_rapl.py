"""RAPL: the power of a CPU from the counters of its packages, in a folder as Linux lays it out."""

from pathlib import Path

import pytest

from latte_cli.backends.telemetry import EnergyMeter

RANGE_UJ = 65_532_610_987


class Machine:
    """A file system with the counters of zones, all of which move together, and a clock."""

    def __init__(self, root: Path, zones: dict[str, str]) -> None:
        self.root, self.now = root, 100.0
        self._folders = []
        for folder, name in zones.items():
            path = root / "sys/class/powercap" / folder
            path.mkdir(parents=True)
            (path / "name").write_text(f"{name}\n")
            (path / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
            self._folders.append(path)
        self.energy_uj = 5_000_000
        self.run(0.0, 0.0)

    def run(self, seconds: float, watts_each: float) -> None:
        self.now += seconds
        self.energy_uj = (self.energy_uj + round(seconds * watts_each * 1e6)) % RANGE_UJ
        for path in self._folders:
            (path / "energy_uj").write_text(f"{self.energy_uj}\n")

    def meter(self) -> EnergyMeter:
        return EnergyMeter(self.root, clock=lambda: self.now)


INTEL = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "uncore",
    "intel-rapl:0:2": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:1:0": "dram",
    "intel-rapl:2": "psys",
    "intel-rapl-mmio:0": "package-0",
}
"""Two packages, each with its memory: four counters; what these contain or repeat is left out."""


@pytest.mark.parametrize(
    ("zones", "counters"),
    [(INTEL, 4), ({"intel-rapl:0": "package-0", "intel-rapl:0:0": "core"}, 1), ({"intel-rapl:0": "psys"}, 0)],
)
def test_the_power_is_that_of_packages_and_their_memory(tmp_path, zones, counters):
    machine = Machine(tmp_path, zones)
    meter = machine.meter()
    with meter.count_energy():
        machine.run(2.0, 30.0)
    expected = None if counters == 0 else pytest.approx(counters * 30.0)
    assert meter.take_power_w() == expected


def test_only_what_runs_within_it_counts_and_each_asking_begins_anew(tmp_path):
    machine = Machine(tmp_path, {"intel-rapl:0": "package-0"})
    meter = machine.meter()
    machine.run(10.0, 500.0)
    assert meter.take_power_w() is None
    for watts in (20.0, 40.0):
        with meter.count_energy():
            machine.run(1.0, watts)
        machine.run(5.0, 500.0)
    assert meter.take_power_w() == pytest.approx(30.0)
    assert meter.take_power_w() is None


def test_a_counter_that_begins_anew_is_followed(tmp_path):
    machine = Machine(tmp_path, {"intel-rapl:0": "package-0"})
    machine.energy_uj = RANGE_UJ - 1_000_000
    machine.run(0.0, 0.0)
    meter = machine.meter()
    with meter.count_energy():
        machine.run(1.0, 25.0)
    assert meter.take_power_w() == pytest.approx(25.0)


@pytest.mark.parametrize("text", ["", "no number", "-5"])
def test_what_cannot_be_read_is_not_known(tmp_path, text):
    machine = Machine(tmp_path, {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1"})
    meter = machine.meter()
    with meter.count_energy():
        machine.run(1.0, 25.0)
        (tmp_path / "sys/class/powercap/intel-rapl:1/energy_uj").write_text(text)
    assert meter.take_power_w() is None
    (tmp_path / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    with meter.count_energy():
        machine.run(1.0, 25.0)
        (tmp_path / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    assert meter.take_power_w() is None


def test_a_moment_is_too_short_to_tell(tmp_path):
    machine = Machine(tmp_path, {"intel-rapl:0": "package-0"})
    meter = machine.meter()
    with meter.count_energy():
        machine.run(0.01, 25.0)
    assert meter.take_power_w() is None


def test_a_machine_without_counters_is_no_error(tmp_path):
    meter = EnergyMeter(tmp_path)
    with meter.count_energy():
        pass
    assert meter.take_power_w() is None


def test_rows_of_a_cpu_have_the_power_of_their_samples(tmp_path):
    from latte_cli.algorithms import FRAMEWORK_DEFAULT
    from latte_cli.backends.cpu.backend import CpuBackend
    from latte_cli.layers import Linear, Phase
    from latte_cli.precisions import Layout, Precision
    from latte_cli.tasks import Task

    backend, machine = CpuBackend(threads=1), Machine(tmp_path, {"intel-rapl:0": "package-0"})
    backend.energy = machine.meter()
    layer = Linear(rows=4, in_features=8, out_features=8)
    settings = backend.settings(Precision.FP32, Layout.NCHW)
    task = Task(layer=layer, phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT, settings=settings)
    prepared = backend.prepare(task)
    assert backend.conditions().power_w is None
    with backend.energy.count_energy():
        prepared.samples(2)
        machine.run(1.0, 42.0)
    assert backend.conditions().power_w == pytest.approx(42.0)
    assert backend.conditions().power_w is None
