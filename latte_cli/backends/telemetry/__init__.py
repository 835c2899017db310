"""Telemetry: clocks, temperature, power and throttling of a GPU (NVML, Jetson boards), and the power of a CPU."""

from pathlib import Path

from latte_cli.backends.telemetry import jetson
from latte_cli.backends.telemetry.contract import GpuFacts as GpuFacts
from latte_cli.backends.telemetry.contract import Telemetry as Telemetry
from latte_cli.backends.telemetry.nvml import NvmlTelemetry
from latte_cli.backends.telemetry.nvml import gpu_count as gpu_count
from latte_cli.backends.telemetry.rapl import EnergyMeter as EnergyMeter


def open_telemetry(
    *,
    uuid: str | None = None,
    pci_bus_id: str | None = None,
    index: int | None = None,
    root: Path = Path("/"),
) -> Telemetry:
    """The telemetry of one GPU: NVML's, or that of a Jetson board where NVML has none; `root` is its file system.

    The GPU is named by the first that is given: its UUID (with or without `GPU-`), its PCI bus id, its index (default
    0). The index is NVML's, which sees all GPUs of the machine and not only those of CUDA_VISIBLE_DEVICES.
    """
    nvml = NvmlTelemetry(uuid=uuid, pci_bus_id=pci_bus_id, index=index)
    # On a Jetson NVML opens, names the GPU, and then knows nothing or zeros.
    if jetson.is_jetson(root) and not nvml.conditions().sm_clock_hz:
        return jetson.JetsonTelemetry(root)
    return nvml
