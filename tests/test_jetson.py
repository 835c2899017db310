"""Jetson boards, laid out as an Orin Nano (JetPack 6), a Xavier NX (JetPack 5) and a TX2 (JetPack 4) do."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from latte_cli.backends import host
from latte_cli.backends.contract import Conditions
from latte_cli.backends.telemetry import gpu_count, jetson, open_telemetry
from latte_cli.backends.telemetry.jetson import JetsonTelemetry

_ORIN_INA = "sys/bus/i2c/devices/1-0040"
_NX_INA = "sys/bus/i2c/devices/7-0040"
_TX2_INA = "sys/bus/i2c/devices"

ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "sys/kernel/debug/bpmp/debug/clk/emc/rate": "3199000000\n",
    "sys/kernel/debug/bpmp/debug/clk/emc/max_rate": "3199000000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51000\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "49437\n",
    f"{_ORIN_INA}/name": "ina3221\n",
    f"{_ORIN_INA}/hwmon/hwmon1/in1_label": "VDD_IN\n",
    f"{_ORIN_INA}/hwmon/hwmon1/in1_input": "5000\n",
    f"{_ORIN_INA}/hwmon/hwmon1/curr1_input": "1200\n",
    f"{_ORIN_INA}/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    f"{_ORIN_INA}/hwmon/hwmon1/in2_input": "5000\n",
    f"{_ORIN_INA}/hwmon/hwmon1/curr2_input": "400\n",
    f"{_ORIN_INA}/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    f"{_ORIN_INA}/hwmon/hwmon1/in7_input": "9\n",
}
XAVIER_NX = {
    "proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
    "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MODE_15W_2CORE >\n< POWER_MODEL ID=8 NAME=MODE_20W_6CORE >\n",
    "var/lib/nvpmodel/status": "pmode:0008 fmode:quiet",
    "sys/class/devfreq/17000000.gv11b/cur_freq": "1109250000\n",
    "sys/class/devfreq/17000000.gv11b/max_freq": "1109250000\n",
    "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "36500\n",
    "sys/class/thermal/thermal_zone1/type": "GPU-therm\n",
    "sys/class/thermal/thermal_zone1/temp": "35000\n",
    f"{_NX_INA}/name": "ina3221\n",
    f"{_NX_INA}/hwmon/hwmon4/in1_label": "VDD_IN\n",
    f"{_NX_INA}/hwmon/hwmon4/in1_input": "4944\n",
    f"{_NX_INA}/hwmon/hwmon4/curr1_input": "1000\n",
}
TX2 = {
    "proc/device-tree/model": "quill\0",
    "etc/nv_tegra_release": "# R32 (release), REVISION: 7.3, GCID: 31982016, BOARD: t186ref, EABI: aarch64\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=3 NAME=MAXP_CORE_ARM >\n",
    "var/lib/nvpmodel/status": "pmode:0003",
    "sys/class/devfreq/17000000.gp10b/cur_freq": "1134750000\n",
    "sys/class/devfreq/17000000.gp10b/max_freq": "1300500000\n",
    "sys/class/thermal/thermal_zone1/type": "MCPU-therm\n",
    "sys/class/thermal/thermal_zone1/temp": "40000\n",
    "sys/class/thermal/thermal_zone2/type": "GPU-therm\n",
    "sys/class/thermal/thermal_zone2/temp": "38500\n",
    f"{_TX2_INA}/0-0040/name": "ina3221x\n",
    f"{_TX2_INA}/0-0040/iio:device0/rail_name_0": "VDD_SYS_GPU\n",
    f"{_TX2_INA}/0-0040/iio:device0/in_power0_input": "152\n",
    f"{_TX2_INA}/0-0041/name": "ina3221x\n",
    f"{_TX2_INA}/0-0041/iio:device1/rail_name_0": "VDD_IN\n",
    f"{_TX2_INA}/0-0041/iio:device1/in_power0_input": "3365\n",
}
AGX_XAVIER_RAILS = {
    f"{_TX2_INA}/1-0040/name": "ina3221\n",
    f"{_TX2_INA}/1-0040/hwmon/hwmon3/in1_label": "GPU\n",
    f"{_TX2_INA}/1-0040/hwmon/hwmon3/in1_input": "19000\n",
    f"{_TX2_INA}/1-0040/hwmon/hwmon3/curr1_input": "100\n",
    f"{_TX2_INA}/1-0041/name": "ina3221\n",
    f"{_TX2_INA}/1-0041/hwmon/hwmon4/in1_label": "SYS5V\n",
    f"{_TX2_INA}/1-0041/hwmon/hwmon4/in1_input": "19000\n",
    f"{_TX2_INA}/1-0041/hwmon/hwmon4/curr1_input": "200\n",
    f"{_TX2_INA}/1-0041/hwmon/hwmon4/in2_label": "NC\n",
}


def board(root: Path, files: Mapping[str, str]) -> Path:
    """`root` with these files, each with its content."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "mode", "release", "clock_hz", "highest_hz", "temperature_c", "power_w"),
    [
        (ORIN_NANO, "MAXN_SUPER", "L4T 36.4.3", 612e6, 1020e6, 49.437, 6.0),
        (XAVIER_NX, "MODE_20W_6CORE", "L4T 35.4.1", 1109.25e6, 1109.25e6, 35.0, 4.944),
        (TX2, "MAXP_CORE_ARM", "L4T 32.7.3", 1134.75e6, 1300.5e6, 38.5, 3.365),
    ],
    ids=["orin nano", "xavier nx", "tx2"],
)
def test_a_board_tells_its_mode_clock_temperature_and_power(
    tmp_path: Path,
    files: Mapping[str, str],
    mode: str,
    release: str,
    clock_hz: float,
    highest_hz: float,
    temperature_c: float,
    power_w: float,
) -> None:
    root = board(tmp_path, files)
    assert jetson.is_jetson(root)
    telemetry = JetsonTelemetry(root)
    assert (telemetry.power_mode, telemetry.reason) == (mode, "")
    now = telemetry.conditions()
    assert (now.sm_clock_hz, now.temperature_c) == (clock_hz, temperature_c)
    assert now.power_w == pytest.approx(power_w)
    assert (now.throttled, now.throttle_reasons) == (None, None)
    assert (telemetry.facts.driver, telemetry.facts.sm_clock_hz) == (release, highest_hz)


def test_the_memory_is_that_of_the_host_and_its_clock_is_read_where_it_may_be(tmp_path: Path) -> None:
    telemetry = JetsonTelemetry(board(tmp_path, ORIN_NANO))
    assert telemetry.facts.shared_memory
    assert telemetry.facts.memory_bytes == host.memory_bytes()
    assert telemetry.conditions().memory_clock_hz == telemetry.facts.memory_clock_hz == 3.199e9
    assert JetsonTelemetry(board(tmp_path / "nx", XAVIER_NX)).conditions().memory_clock_hz is None


@pytest.mark.skipif(gpu_count() > 0, reason="this machine's NVML has a GPU")
def test_where_nvml_gives_nothing_a_jetson_speaks_for_itself(tmp_path: Path) -> None:
    telemetry = open_telemetry(uuid="GPU-0", index=0, root=board(tmp_path, ORIN_NANO))
    assert telemetry.facts.name == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"
    assert telemetry.conditions().sm_clock_hz == 612e6


def test_a_board_without_an_input_rail_draws_what_its_rails_draw(tmp_path: Path) -> None:
    files = {name: text for name, text in XAVIER_NX.items() if "i2c" not in name} | AGX_XAVIER_RAILS
    assert JetsonTelemetry(board(tmp_path, files)).conditions().power_w == pytest.approx(5.7)


def test_a_mode_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    root = board(tmp_path, XAVIER_NX | {"etc/nvpmodel.conf": ""})
    assert jetson.power_mode(root) == "8"


def test_the_power_mode_is_read_anew(tmp_path: Path) -> None:
    telemetry = JetsonTelemetry(board(tmp_path, XAVIER_NX))
    board(tmp_path, {"var/lib/nvpmodel/status": "pmode:0000"})
    assert telemetry.power_mode == "MODE_15W_2CORE"


@pytest.mark.parametrize("temperature", ["-256000", "", "asleep"])
def test_a_sensor_that_sleeps_has_no_temperature(tmp_path: Path, temperature: str) -> None:
    root = board(tmp_path, XAVIER_NX | {"sys/class/thermal/thermal_zone1/temp": temperature})
    assert JetsonTelemetry(root).conditions().temperature_c is None


def test_a_board_whose_sensors_are_hidden_tells_nothing_and_why(tmp_path: Path) -> None:
    root = board(tmp_path, {"proc/device-tree/model": "NVIDIA Jetson Orin NX\0"})
    telemetry = JetsonTelemetry(root)
    assert telemetry.conditions() == Conditions()
    assert telemetry.power_mode == ""
    assert telemetry.reason == "no sensors of this board can be read"


def test_another_machine_is_no_jetson(tmp_path: Path) -> None:
    assert not jetson.is_jetson(tmp_path)
    assert not jetson.is_jetson(board(tmp_path, {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}))
    assert (jetson.power_mode(tmp_path), jetson.release(tmp_path)) == ("", "")
