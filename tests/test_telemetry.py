"""Telemetry by NVML: what is read where there is one, and what is told where there is none."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from latte_cli.backends.contract import Conditions
from latte_cli.backends.telemetry import GpuFacts, gpu_count, open_telemetry
from latte_cli.backends.telemetry.nvml import NvmlTelemetry, is_throttled, rated_bandwidth

H200 = {
    "nvmlInit": lambda: None,
    "nvmlDeviceGetCount": lambda: 1,
    "nvmlDeviceGetHandleByUUID": lambda uuid: {"GPU-1e2d": "h200"}[uuid],
    "nvmlDeviceGetHandleByPciBusId": lambda bus: {"00000000:19:00.0": "h200"}[bus],
    "nvmlDeviceGetHandleByIndex": lambda index: ["h200"][index],
    "nvmlDeviceGetName": lambda gpu: "NVIDIA H200",
    "nvmlDeviceGetUUID": lambda gpu: "GPU-1e2d",
    "nvmlSystemGetDriverVersion": lambda: "570.86.15",
    "nvmlDeviceGetCudaComputeCapability": lambda gpu: (9, 0),
    "nvmlDeviceGetMaxClockInfo": lambda gpu, kind: {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 3201}[kind],
    "nvmlDeviceGetMemoryBusWidth": lambda gpu: 6144,
    "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(total=150_754_820_096),
    "nvmlDeviceGetClockInfo": lambda gpu, kind: {pynvml.NVML_CLOCK_SM: 1755, pynvml.NVML_CLOCK_MEM: 3201}[kind],
    "nvmlDeviceGetTemperature": lambda gpu, sensor: 41,
    "nvmlDeviceGetPowerUsage": lambda gpu: 698_500,
    "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: 0x4,
}
"""What NVML answers on an H200 under load."""


def refuse(error: int) -> Callable[..., Any]:
    def call(*_: object) -> Any:
        raise pynvml.NVMLError(error)

    return call


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """NVML's library with these answers in place of those of an H200."""

    def answer(**answers: Callable[..., Any] | None) -> None:
        for name, call in (H200 | answers).items():
            monkeypatch.setattr(pynvml, name, call)

    return answer


def has_nvml() -> bool:
    return gpu_count() > 0


@pytest.mark.skipif(has_nvml(), reason="this machine has NVML and a GPU")
def test_without_nvml_all_readings_are_none_and_the_reason_is_told(tmp_path: Path) -> None:
    telemetry = open_telemetry(index=0, root=tmp_path)
    assert telemetry.conditions() == Conditions()
    assert (telemetry.facts, telemetry.power_mode) == (GpuFacts(), "")
    assert telemetry.reason.startswith("NVML: ")


def test_what_nvml_says_is_told_in_hertz_watts_and_bytes(nvml: Callable[..., None]) -> None:
    nvml()
    telemetry = NvmlTelemetry(uuid="GPU-1e2d")
    assert telemetry.reason == ""
    assert telemetry.conditions() == Conditions(
        sm_clock_hz=1.755e9,
        memory_clock_hz=3.201e9,
        temperature_c=41.0,
        power_w=pytest.approx(698.5),
        throttled=False,
        throttle_reasons=4,
    )
    assert telemetry.facts == GpuFacts(
        name="NVIDIA H200",
        uuid="GPU-1e2d",
        driver="570.86.15",
        compute_capability="9.0",
        sm_clock_hz=1.98e9,
        memory_clock_hz=3.201e9,
        memory_bus_bits=6144,
        bandwidth_bytes_per_s=2 * 3.201e9 * 768,
        memory_bytes=150_754_820_096,
    )


@pytest.mark.parametrize(
    "name", [{"uuid": "GPU-1e2d"}, {"uuid": "1e2d", "index": 7}, {"pci_bus_id": "00000000:19:00.0"}, {"index": 0}, {}]
)
def test_a_gpu_is_found_by_each_of_its_names(nvml: Callable[..., None], name: dict[str, Any]) -> None:
    nvml()
    assert open_telemetry(**name).facts.name == "NVIDIA H200"


def test_a_gpu_that_nvml_does_not_know_has_no_readings(nvml: Callable[..., None], tmp_path: Path) -> None:
    nvml(nvmlDeviceGetHandleByUUID=refuse(pynvml.NVML_ERROR_NOT_FOUND))
    telemetry = open_telemetry(uuid="GPU-0000", root=tmp_path)
    assert telemetry.conditions() == Conditions()
    assert "not found" in telemetry.reason


def test_no_permission_is_no_error_but_a_reason(nvml: Callable[..., None], tmp_path: Path) -> None:
    nvml(nvmlInit=refuse(pynvml.NVML_ERROR_NO_PERMISSION))
    assert "insufficient permissions" in open_telemetry(index=0, root=tmp_path).reason
    assert gpu_count() == 0


@pytest.mark.parametrize(
    ("call", "field"),
    [("nvmlDeviceGetPowerUsage", "power_w"), ("nvmlDeviceGetTemperature", "temperature_c")],
)
def test_a_reading_that_is_not_supported_is_none_and_the_others_are_there(
    nvml: Callable[..., None], call: str, field: str
) -> None:
    nvml(**{call: refuse(pynvml.NVML_ERROR_NOT_SUPPORTED)})
    now = NvmlTelemetry(index=0).conditions()
    assert getattr(now, field) is None
    assert now.sm_clock_hz == 1.755e9


def test_a_reading_that_is_not_supported_is_asked_for_no_more(nvml: Callable[..., None]) -> None:
    asked = []

    def power(gpu: object) -> int:
        asked.append(gpu)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    nvml(nvmlDeviceGetPowerUsage=power)
    telemetry = NvmlTelemetry(index=0)
    once = len(asked)
    telemetry.conditions()
    assert len(asked) == once


def test_an_old_driver_is_asked_for_the_reasons_by_their_old_name(nvml: Callable[..., None]) -> None:
    nvml(
        nvmlDeviceGetCurrentClocksEventReasons=refuse(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 0x40,
    )
    now = NvmlTelemetry(index=0).conditions()
    assert (now.throttled, now.throttle_reasons) == (True, 0x40)


@pytest.mark.parametrize("reasons", [0x8, 0x20, 0x40, 0x80, 0x4 | 0x20])
def test_heat_and_slowdown_spoil_a_sample(reasons: int) -> None:
    assert is_throttled(reasons) is True


@pytest.mark.parametrize("reasons", [0x0, 0x1, 0x2, 0x4, 0x10, 0x100, 0x7])
def test_idleness_the_power_cap_and_set_clocks_do_not(reasons: int) -> None:
    assert is_throttled(reasons) is False


def test_what_is_not_known_to_throttle_is_not_known() -> None:
    assert is_throttled(None) is None


@pytest.mark.parametrize(
    ("clock_hz", "bits", "stated"), [(1.215e9, 5120, 1.555e12), (10.501e9, 384, 1.008e12), (0.877e9, 4096, 0.9e12)]
)
def test_the_rated_bandwidth_is_what_the_data_sheets_of_a100_4090_and_v100_say(
    clock_hz: float, bits: int, stated: float
) -> None:
    assert rated_bandwidth(clock_hz, bits) == pytest.approx(stated, rel=0.01)


def test_importing_it_imports_neither_pynvml_nor_torch() -> None:
    code = "import sys, latte_cli.backends.telemetry; sys.exit(str({'pynvml', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"
