"""NVIDIA Jetson boards, whose power mode, clocks, temperature and power stand in the file system and not in NVML."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from latte_cli.backends import host
from latte_cli.backends.contract import Conditions
from latte_cli.backends.telemetry.contract import GpuFacts

# Devfreq nodes by generation: Nano and TX1, TX2, Xavier, Orin with JetPack 5, Orin with JetPack 6, Thor.
_GPU_NODE = re.compile(r".*\.(gpu|gm20b|gp10b|gv11b|ga10b)|gpu-gpc-0")
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "5V_IN")
_UNUSED_RAILS = ("", "NC", "sum of shunt voltages")
_EMC = Path("sys/kernel/debug/bpmp/debug/clk/emc")
_OFFLINE_BELOW_C = -100  # a Tegra reads -256 where a zone is switched off


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether the machine whose file system is at `root` is a Jetson board."""
    return "jetson" in board_model(root).lower() or (root / "etc/nv_tegra_release").exists()


def board_model(root: Path = Path("/")) -> str:
    """The board's name as its device tree has it, "" where there is none."""
    return _text(root / "proc/device-tree/model").rstrip("\0").strip()


def release(root: Path = Path("/")) -> str:
    """The release of Jetson Linux, which brings the GPU's driver: `L4T 36.4.3`, or "" where it is not told."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return f"L4T {found[1]}.{found[2]}" if found else ""


def power_mode(root: Path = Path("/")) -> str:
    """The name of nvpmodel's mode, as in `MODE_15W`; its number where it has no name, "" where there is no mode."""
    mode = re.search(r"pmode:\s*(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if not mode:
        return ""
    names = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)", _text(root / "etc/nvpmodel.conf"))
    return {int(number): str(name) for number, name in names}.get(int(mode[1]), str(int(mode[1])))


class JetsonTelemetry:
    """The board whose file system is at `root`; see telemetry.Telemetry.

    Where the files lie is found out once, so that a reading opens five small files and no more.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._clock = _gpu_clock(root)
        self._temperature = _gpu_temperature(root)
        self._power = _total_power(root)

    @property
    def power_mode(self) -> str:
        """Nvpmodel's mode, read anew: it can be changed at any time."""
        return power_mode(self._root)

    @property
    def reason(self) -> str:
        """Why nothing can be read, "" where something can."""
        return "" if self._clock or self._temperature or self._power else "no sensors of this board can be read"

    @cached_property
    def facts(self) -> GpuFacts:
        """What the board states of its GPU; the clock is the power mode's highest, the memory the host's."""
        return GpuFacts(
            name=board_model(self._root),
            driver=release(self._root),
            sm_clock_hz=_number(self._clock / "max_freq") if self._clock else None,
            memory_clock_hz=_number(self._root / _EMC / "max_rate"),
            memory_bytes=host.memory_bytes(),
            shared_memory=True,
        )

    def conditions(self) -> Conditions:
        """What can be read now; a Jetson does not say whether it throttles."""
        return Conditions(
            sm_clock_hz=_number(self._clock / "cur_freq") if self._clock else None,
            memory_clock_hz=_number(self._root / _EMC / "rate"),
            temperature_c=_celsius(self._temperature) if self._temperature else None,
            power_w=_watts(self._power),
        )


@dataclass(frozen=True, kw_only=True)
class _Rail:
    """A channel of the power monitor: the files of its power (mW), or of its voltage (mV) and current (mA)."""

    label: str
    factors: tuple[Path, ...]

    def watts(self) -> float | None:
        values = [_number(path) for path in self.factors]
        if any(value is None for value in values):
            return None
        product = 1.0
        for value in values:
            product *= (value or 0.0) * 1e-3
        return product


def _gpu_clock(root: Path) -> Path | None:
    """The folder of the GPU's devfreq node."""
    nodes = sorted((root / "sys/class/devfreq").glob("*"))
    return next((node for node in nodes if _GPU_NODE.fullmatch(node.name) and (node / "cur_freq").exists()), None)


def _gpu_temperature(root: Path) -> Path | None:
    """The file of the thermal zone named `GPU-therm` (to JetPack 5) or `gpu-thermal` (since JetPack 6)."""
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        if re.match(r"gpu[-_]?therm", _text(zone / "type").strip(), re.IGNORECASE):
            return zone / "temp"
    return None


def _total_power(root: Path) -> tuple[_Rail, ...]:
    """The rail that feeds the module; where there is none (AGX Xavier), all rails, which feed a part of it each."""
    chips = sorted((root / "sys/bus/i2c/devices").glob("*-00*"))
    rails = [rail for chip in chips if "ina3221" in _text(chip / "name") for rail in _rails(chip)]
    total = [rail for name in _TOTAL_RAILS for rail in rails if rail.label == name]
    return tuple(total[:1] or rails)


def _rails(chip: Path) -> Iterator[_Rail]:
    """The labelled channels of an INA3221: `hwmon` files since JetPack 5, `iio` files before."""
    for label in sorted(chip.glob("hwmon/hwmon*/in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        yield _rail(label, label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))
    for label in sorted(chip.glob("iio*device*/rail_name_*")):
        number = label.name.removeprefix("rail_name_")
        yield _rail(label, label.with_name(f"in_power{number}_input"))


def _rail(label: Path, *factors: Path) -> _Rail:
    return _Rail(label=_text(label).strip(), factors=factors)


def _watts(rails: tuple[_Rail, ...]) -> float | None:
    watts = [rail.watts() for rail in rails if rail.label not in _UNUSED_RAILS]
    known = [value for value in watts if value is not None]
    return sum(known) if known and len(known) == len(watts) else None


def _celsius(file: Path) -> float | None:
    """Degrees; a sensor that sleeps says -256."""
    millidegrees = _number(file)
    return None if millidegrees is None or millidegrees < _OFFLINE_BELOW_C * 1e3 else millidegrees / 1e3


def _number(file: Path) -> float | None:
    words = _text(file).split()
    try:
        return float(words[0]) if words else None
    except ValueError:
        return None


def _text(file: Path) -> str:
    """What the file says, "" where it is not there, not ours to read, or asleep."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
