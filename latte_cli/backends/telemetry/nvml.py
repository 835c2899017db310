"""NVML: clocks, temperature, power and throttling of a GPU, and what it states of the board."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from latte_cli.backends.contract import Conditions
from latte_cli.backends.telemetry.contract import GpuFacts

SPOILING_REASONS = 0x8 | 0x20 | 0x40 | 0x80
"""NVML's clock event reasons that spoil a sample: hardware and software slowdown by heat, power brake, slowdown."""

_MHZ = 1e6


def gpu_count() -> int:
    """How many GPUs NVML sees; 0 where there is no NVML."""
    return _open(lambda nvml: int(nvml.nvmlDeviceGetCount()))[0] or 0


def is_throttled(reasons: int | None) -> bool | None:
    """Whether NVML's clock event `reasons` (bits) spoil a sample; None where they are not known.

    The power cap (0x4), idleness (0x1) and application clocks (0x2) do not: the device works as it always does.
    """
    return None if reasons is None else bool(reasons & SPOILING_REASONS)


class NvmlTelemetry:
    """One GPU as NVML sees it (see open_telemetry); never raises."""

    power_mode = ""

    def __init__(self, *, uuid: str | None = None, pci_bus_id: str | None = None, index: int | None = None) -> None:
        opened, self.reason = _open(lambda nvml: (nvml, _handle(nvml, uuid, pci_bus_id, index or 0)))
        self._readings = _readings(*opened) if opened else {}
        self.facts = _facts(*opened) if opened else GpuFacts()

    def conditions(self) -> Conditions:
        reasons = self._read("throttle_reasons")
        return Conditions(
            sm_clock_hz=self._read("sm_clock_mhz", _MHZ),
            memory_clock_hz=self._read("memory_clock_mhz", _MHZ),
            temperature_c=self._read("temperature_c", 1.0),
            power_w=self._read("power_mw", 1e-3),
            throttled=is_throttled(reasons),
            throttle_reasons=reasons,
        )

    def _read(self, name: str, unit: float | None = None) -> Any:
        call = self._readings.get(name)
        value = call() if call else None
        return value if value is None or unit is None else value * unit


def _open(use: Callable[[Any], Any]) -> tuple[Any, str]:
    """What `use` makes of an open NVML, or None and the reason why there is none.

    NVML stays open: closing it would end the readings of others in this process, and opening it takes its time.
    """
    try:
        import pynvml
    except ImportError as exc:
        return None, f"NVML cannot be loaded: {exc}"
    try:
        pynvml.nvmlInit()
        return use(pynvml), ""
    except pynvml.NVMLError as exc:
        return None, f"NVML: {str(exc).removeprefix('NVML ').lower()}"


def _handle(nvml: Any, uuid: str | None, pci_bus_id: str | None, index: int) -> Any:
    if uuid:
        return nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    if pci_bus_id:
        return nvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)
    return nvml.nvmlDeviceGetHandleByIndex(index)


def _readings(nvml: Any, handle: Any) -> dict[str, Callable[[], int | None]]:
    """The readings that this GPU supports, so that the others cost nothing later."""
    reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    old_reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons
    calls: dict[str, tuple[Callable[..., int] | None, tuple[int, ...]]] = {
        "sm_clock_mhz": (nvml.nvmlDeviceGetClockInfo, (nvml.NVML_CLOCK_SM,)),
        "memory_clock_mhz": (nvml.nvmlDeviceGetClockInfo, (nvml.NVML_CLOCK_MEM,)),
        "temperature_c": (nvml.nvmlDeviceGetTemperature, (nvml.NVML_TEMPERATURE_GPU,)),
        "power_mw": (nvml.nvmlDeviceGetPowerUsage, ()),
        # Drivers before 535 know the reasons by their old name only.
        "throttle_reasons": (reasons if _ask(nvml, reasons, handle) is not None else old_reasons, ()),
    }
    bound = {name: _bind(nvml, call, handle, *more) for name, (call, more) in calls.items()}
    return {name: reading for name, reading in bound.items() if reading() is not None}


def _bind(nvml: Any, call: Callable[..., Any] | None, *arguments: Any) -> Callable[[], Any]:
    return lambda: _ask(nvml, call, *arguments)


def _ask(nvml: Any, call: Callable[..., Any] | None, *arguments: Any) -> Any:
    """What NVML answers; None where it has no answer, or this pynvml no such question."""
    if call is None:
        return None
    with suppress(nvml.NVMLError, nvml.NVMLLibraryMismatchError):
        return call(*arguments)
    return None


def _facts(nvml: Any, handle: Any) -> GpuFacts:
    def ask(name: str, *arguments: Any) -> Any:
        return _ask(nvml, getattr(nvml, name, None), *arguments)

    sm_clock, memory_clock = (
        ask("nvmlDeviceGetMaxClockInfo", handle, kind) for kind in (nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM)
    )
    bits = ask("nvmlDeviceGetMemoryBusWidth", handle) or None
    memory, capability = ask("nvmlDeviceGetMemoryInfo", handle), ask("nvmlDeviceGetCudaComputeCapability", handle)
    return GpuFacts(
        name=ask("nvmlDeviceGetName", handle) or "",
        uuid=ask("nvmlDeviceGetUUID", handle) or "",
        driver=ask("nvmlSystemGetDriverVersion") or "",
        compute_capability=".".join(map(str, capability)) if capability else "",
        sm_clock_hz=sm_clock * _MHZ if sm_clock else None,
        memory_clock_hz=memory_clock * _MHZ if memory_clock else None,
        memory_bus_bits=bits,
        bandwidth_bytes_per_s=rated_bandwidth(memory_clock * _MHZ, bits) if memory_clock and bits else None,
        memory_bytes=memory.total if memory else None,
    )


def rated_bandwidth(memory_clock_hz: float, bus_bits: int) -> float:
    """Bytes per second of a memory that moves data on both edges of its clock over a bus of `bus_bits`."""
    return 2 * memory_clock_hz * bus_bits / 8
