"""This machine: its processor, cores, memory and caches, and what else runs on it; imports nothing heavy."""

import ctypes
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_CPU = Path("/sys/devices/system/cpu/cpu0")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h

LARGE_BLOCK_BYTES = 32 * 2**20  # glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64 bits (mallopt(3))
"""Blocks over this size are mapped anew for each use; smaller ones stay on glibc's heap once one of nearly this size
was freed, which reading weights or data does."""

KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(10**11)}
"""The environment in which glibc keeps all memory that it was given (mallopt(3))."""


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name with what its maker leaves out to distinguish models: `AMD EPYC (family 26 model 2)`."""
    board = _read(Path("/proc/device-tree/model")).rstrip("\0")
    return processor_name(_read(Path("/proc/cpuinfo")), board=board)


def processor_name(cpuinfo: str, *, board: str = "") -> str:
    """The name of the first core in `cpuinfo`, a text like /proc/cpuinfo, or of the `board` that it is on.

    ARM servers write numbers in place of a name (Linux, arch/arm64/include/asm/cputype.h): `Neoverse-N1`, or
    `aarch64 (implementer 0x61 part 0x22)` for a core that is not known here.
    """
    facts = dict(_facts(cpuinfo))
    name = facts.get("model name") or board or facts.get("Hardware") or _arm_name(facts)
    name = name or platform.processor() or platform.machine()
    name = re.sub(r"\((R|TM|tm|r)\)|\bCPU\b|\bProcessor\b|@.*$", " ", name)
    name = " ".join(name.split())
    if re.search(r"\d", name) or "cpu family" not in facts:
        return name
    return f"{name} (family {facts['cpu family']} model {facts['model']})"


_ARM_CORES = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}
_ARM_LTD = "0x41"


def _arm_name(facts: Mapping[str, str]) -> str:
    """The name of an ARM core by the numbers of its maker and part; "" for other processors."""
    maker, part = facts.get("CPU implementer", ""), facts.get("CPU part", "")
    if not maker or not part:
        return ""
    known = _ARM_CORES.get(part.lower()) if maker.lower() == _ARM_LTD else None
    return known or f"aarch64 (implementer {maker} part {part})"


def cpu_slug(threads: int | None = None, name: str | None = None) -> str:
    """The store's name for this CPU with `threads` threads: fleet name, model, cores, threads."""
    return slug(name or "", cpu_name(), f"{cores()}c", f"{threads or cores()}t")


def slug(*words: str) -> str:
    """Words as a name in the store: lower case, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def memory_bytes() -> int:
    """The memory this process may use: the machine's, or its control group's limit where that is lower."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    return min(physical, int(limit)) if limit.isdigit() else physical


class Heap:
    """This process's heap under glibc, brought to the state of a training loop's; elsewhere it is left alone.

    Freed memory stays with the process, but for large blocks (LARGE_BLOCK_BYTES). A layer timed alone on a young heap
    returns its memory after each call and faults it in again, about a microsecond a page.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        mallopt = getattr(library, "mallopt", None)
        self._trim = getattr(library, "malloc_trim", None)
        self.warm = bool(
            mallopt
            and mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
            and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            and self._trim
        )

    def trim(self) -> None:
        """Return what is free, so that no large block finds a hole that was left by others."""
        if self.warm and self._trim:
            self._trim(0)


def last_level_cache_bytes() -> int | None:
    """The size of the last cache level, or None where the system does not say."""
    sizes = [_read(index / "size").strip() for index in sorted((_CPU / "cache").glob("index*"))]
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    known = [int(size[:-1]) * units[size[-1]] for size in sizes if size[:-1].isdigit() and size[-1] in units]
    return max(known, default=None)


def clock_hz() -> float | None:
    """The processor's clock now, or None where it cannot be read."""
    scaled = _read(_CPU / "cpufreq/scaling_cur_freq").strip()
    if scaled.isdigit():
        return float(scaled) * 1e3
    megahertz = dict(_facts(_read(Path("/proc/cpuinfo")))).get("cpu MHz")
    return float(megahertz) * 1e6 if megahertz else None


def governor() -> str | None:
    """The frequency governor, or None where there is none."""
    return _read(_CPU / "cpufreq/scaling_governor").strip() or None


@dataclass
class OtherLoad:
    """How many cores other processes keep busy, between one reading and the next."""

    busy_s: float = 0.0
    own_s: float = 0.0
    total_s: float = 0.0

    def read(self) -> float | None:
        """Cores that others used since the last reading; None on the first one and where it cannot be told."""
        fields = _read(Path("/proc/stat")).partition("\n")[0].split()[1:9]
        if not fields:
            return None
        ticks = [float(field) / os.sysconf("SC_CLK_TCK") for field in fields]
        own = sum(os.times()[:4])
        busy, total = sum(ticks) - ticks[3] - ticks[4], sum(ticks)
        passed, others = total - self.total_s, (busy - self.busy_s) - (own - self.own_s)
        first = self.total_s == 0.0
        self.busy_s, self.own_s, self.total_s = busy, own, total
        return None if first or passed <= 0 else max(0.0, others / passed * (os.cpu_count() or 1))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _facts(cpuinfo: str) -> Iterator[tuple[str, str]]:
    for line in cpuinfo.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        yield key.strip(), value.strip()
