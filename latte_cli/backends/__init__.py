"""Backends: where a task becomes something that can be timed on a device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from latte_cli.algorithms import Algorithm
from latte_cli.backends import host
from latte_cli.backends.host import cpu_slug as cpu_slug
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.layers import Layer, Phase
from latte_cli.tasks import Layout, Precision, Settings, Task


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device as a profile names it; `slug` is its name in the store, and None stands for what is not known.

    `bandwidth_bytes_per_s` (a copy, bytes read and written) and `peaks_flop_per_s` (a large matrix product in each
    precision; `peak_flop_per_s` is that of fp32) are measured; clocks, `rated_bandwidth_bytes_per_s` and sizes are what
    the driver states. `shared_memory` says that the device uses the host's memory, as a Jetson's GPU does.
    """

    slug: str
    kind: str
    name: str
    memory_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    peak_flop_per_s: float | None = None
    driver: str = ""
    libraries: tuple[tuple[str, str], ...] = ()
    compute_capability: str = ""
    multiprocessors: int | None = None
    cache_bytes: int | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    rated_bandwidth_bytes_per_s: float | None = None
    peaks_flop_per_s: tuple[tuple[str, float], ...] = ()
    shared_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What was observed around a measurement; never part of a key, None where it cannot be read.

    `throttle_reasons` are NVML's bits, all of them; `throttled` says whether one of them spoils a sample.
    """

    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttled: bool | None = None
    load: float | None = None
    governor: str | None = None
    throttle_reasons: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One timed call: time on the device and on the host (seconds); `disturbed` if something else got in between."""

    device_s: float
    host_s: float
    disturbed: bool = False


class Unsupported(Exception):
    """The algorithm cannot run this layer and phase: an ordinary answer, kept as a row."""


class OutOfMemory(Exception):
    """The device's memory does not hold the task."""


class Failed(Exception):
    """The library or the device broke on the task, whose results could not be trusted."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one call besides its time; None and nothing stand for what cannot be told.

    `workspace_bytes` is the peak that one call takes beyond its inputs and outputs, `deterministic` whether results
    repeat bit by bit, `kernels` the names of what it ran on the device, `notes` what its library says of the algorithm.
    """

    workspace_bytes: int | None = None
    deterministic: bool | None = None
    kernels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A library's own ordered answer, in place of times: the names of the algorithms it would take, best first."""

    names: tuple[str, ...]


class Prepared(Protocol):
    """A task with its tensors allocated, ready to be timed."""

    @property
    def cache_state(self) -> str:
        """How caches are brought to the state of a model before each sample, in a word or two."""

    def samples(self, count: int) -> Sequence[Sample]:
        """`count` times: bring the caches to the state that a model leaves them in, call once; the times."""

    def facts(self) -> Facts:
        """What is known of one call besides its time."""


class Backend(Protocol):
    """A device that tasks can be timed on."""

    @property
    def device(self) -> Device:
        """The device this backend measures."""

    @property
    def sound(self) -> bool:
        """Whether this process can go on measuring: some errors of a device stay with the process that met them."""

    def settings(self, precision: Precision, layout: Layout) -> Settings:
        """Complete settings for this device; raises LatteError where it has no such precision."""

    def candidates(self, layer: Layer, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
        """The algorithms worth trying, the framework's own choice first."""

    def prepare(self, task: Task) -> Prepared | Ranking:
        """Allocate what `task` needs, or the answer of a task that asks a library; raises Unsupported, OutOfMemory or
        Failed."""

    def reference(self) -> Sample:
        """Time a fixed kernel, to see the device's speed drift."""

    def conditions(self) -> Conditions:
        """What can be observed of the device now."""

    def settle(self, limit_s: float) -> bool:
        """Wait, at most `limit_s`, for the device to be left alone by others; whether it is."""


def gpu_slug(index: int = 0) -> str | None:
    """The store's name for a GPU of this machine, but for a fleet name; None where there is no such GPU."""
    from latte_cli.backends.telemetry import open_telemetry

    name = open_telemetry(index=index).facts.name
    return host.slug(name) if name else None


def _open_cpu(index: str, threads: int | None, name: str | None, memory_share: float) -> Backend:
    from latte_cli.backends.cpu import CpuBackend

    if index:
        raise LatteError(f"unknown device `cpu:{index}`", hint="the CPU is one device: `cpu`")
    return CpuBackend(threads=threads, name=name)


def _open_cuda(index: str, threads: int | None, name: str | None, memory_share: float) -> Backend:
    from latte_cli.backends.cuda import CudaBackend

    if threads is not None:
        raise LatteError("a GPU has no threads to set", hint="leave out `--threads`", exit_code=ExitCode.USAGE)
    if not (index or "0").isdecimal():
        raise LatteError(f"unknown device `cuda:{index}`", hint="the first GPU is `cuda:0`")
    return CudaBackend(index=int(index or 0), name=name, memory_share=memory_share)


OPENERS: dict[str, Callable[[str, int | None, str | None, float], Backend]] = {"cpu": _open_cpu, "cuda": _open_cuda}
"""Backend kinds of this machine, each with its opener: (index, threads, fleet name, memory share) -> backend."""


def open_backend(
    spec: str, *, threads: int | None = None, name: str | None = None, memory_share: float = 0.5
) -> Backend:
    """The backend for `spec`: `auto` (a GPU that works, else the CPU), `cpu`, or a kind with an index, as in `cuda:0`.

    `threads` bounds a CPU's threads (default: all cores); `name` tells equal machines of a fleet apart; a GPU's tensors
    take at most `memory_share` of its memory. Raises LatteError for an unknown kind and a device that does not work.
    """
    kind, _, index = (_best(threads) if spec == "auto" else spec).partition(":")
    opener = OPENERS.get(kind)
    if opener is None:
        raise unknown("device", spec, ["auto", *OPENERS])
    return opener(index, threads, name, memory_share)


def _best(threads: int | None) -> str:
    """The kind of the best device that works here; who sets threads means the CPU."""
    from latte_cli.backends.cuda import usable

    return "cuda" if threads is None and usable() else "cpu"
