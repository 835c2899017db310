"""RAPL: the energy that a CPU's packages and their memory have used, as Linux counts it in `/sys/class/powercap`."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = re.compile(r"intel-rapl:\d+")  # the driver's name, on AMD too
_MEMORY = "dram"  # a package's energy is without it (Intel's Software Developer's Manual, volume 3B, 16.10)
_LEAST_S = 0.02  # chosen: twenty of the counters' steps of about 1 ms


@dataclass(frozen=True, kw_only=True)
class _Counter:
    """A counter in microjoules, which begins anew at 0 once it exceeds `range_uj`."""

    file: Path
    range_uj: int

    def read_uj(self) -> int | None:
        return _number(self.file)

    def between_uj(self, before: int, after: int) -> int:
        return after - before if after >= before else after - before + self.range_uj


class EnergyMeter:
    """Measures the mean power of the machine's packages and their memory while something runs.

    Without counters, or where they are root's alone, as on most systems, nothing is known. Others that run at the same
    time are in it. `root` is the file system.
    """

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counters = tuple(_counters(root / "sys/class/powercap"))
        self._joules = self._seconds = 0.0

    @contextmanager
    def count_energy(self) -> Iterator[None]:
        """What runs within it counts."""
        before, begun = self._read(), self._clock()
        yield
        after, seconds = self._read(), self._clock() - begun
        if before is None or after is None or seconds <= 0:
            return
        changes = zip(self._counters, before, after, strict=True)
        self._joules += sum(counter.between_uj(*readings) for counter, *readings in changes) * 1e-6
        self._seconds += seconds

    def take_power_w(self) -> float | None:
        """The mean power of what has counted since this was asked last; None where too little has, or is known."""
        joules, seconds = self._joules, self._seconds
        self._joules = self._seconds = 0.0
        return joules / seconds if seconds >= _LEAST_S else None

    def _read(self) -> list[int] | None:
        """The counters, all of them or none."""
        if not self._counters:
            return None
        readings = [counter.read_uj() for counter in self._counters]
        known = [reading for reading in readings if reading is not None]
        return known if len(known) == len(readings) else None


def _counters(folder: Path) -> Iterator[_Counter]:
    """Those of each package and of the memory of each; a platform's (`psys`) has both in it, and is left out."""
    for zone in sorted(folder.glob("intel-rapl:*")):
        name = _text(zone / "name")
        package = _PACKAGE.fullmatch(zone.name) and name.startswith("package")
        range_uj = _number(zone / "max_energy_range_uj")
        if (package or name == _MEMORY) and range_uj:
            yield _Counter(file=zone / "energy_uj", range_uj=range_uj)


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdecimal() else None


def _text(file: Path) -> str:
    """What the file says, "" where it is not there or not ours to read."""
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
