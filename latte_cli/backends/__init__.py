"""Backends: where a task becomes something that can be timed on a device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from latte_cli.algorithms import Algorithm
from latte_cli.backends.host import cpu_slug as cpu_slug
from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Layer, Phase
from latte_cli.tasks import Layout, Precision, Settings, Task


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device as a profile names it; `slug` is its name in the store, and None stands for what is not known."""

    slug: str
    kind: str
    name: str
    memory_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    peak_flop_per_s: float | None = None
    driver: str = ""
    libraries: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What was observed around a measurement; never part of a key, None where it cannot be read."""

    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttled: bool | None = None
    load: float | None = None
    governor: str | None = None


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


class Prepared(Protocol):
    """A task with its tensors allocated, ready to be timed."""

    def sample(self) -> Sample:
        """Bring the caches to the state that a model leaves them in, call once, return the times."""

    def workspace_bytes(self) -> int | None:
        """Peak bytes one call takes beyond its inputs and outputs; None where it cannot be told."""


class Backend(Protocol):
    """A device that tasks can be timed on."""

    @property
    def device(self) -> Device:
        """The device this backend measures."""

    @property
    def cache_state(self) -> str:
        """How caches are brought to the state of a model before each sample, in a word or two."""

    def settings(self, precision: Precision, layout: Layout) -> Settings:
        """Complete settings for this device; raises LatteError where it has no such precision."""

    def candidates(self, layer: Layer, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
        """The algorithms worth trying, the framework's own choice first."""

    def prepare(self, task: Task) -> Prepared:
        """Allocate what `task` needs; raises Unsupported or OutOfMemory."""

    def reference(self) -> Sample:
        """Time a fixed kernel, to see the device's speed drift."""

    def conditions(self) -> Conditions:
        """What can be observed of the device now."""

    def settle(self, limit_s: float) -> bool:
        """Wait, at most `limit_s`, for the device to be left alone by others; whether it is."""


def _open_cpu(index: str, threads: int | None, name: str | None) -> Backend:
    from latte_cli.backends.cpu import CpuBackend

    if index:
        raise LatteError(f"unknown device `cpu:{index}`", hint="the CPU is one device: `cpu`")
    return CpuBackend(threads=threads, name=name)


OPENERS: dict[str, Callable[[str, int | None, str | None], Backend]] = {"cpu": _open_cpu}
"""Backend kinds of this machine, each with its opener: (index, threads, fleet name) -> backend."""


def open_backend(spec: str, *, threads: int | None = None, name: str | None = None) -> Backend:
    """The backend for `spec`: `auto` (the best device of this machine), `cpu`, or a kind with an index.

    `threads` bounds a CPU's threads (default: all cores); `name` tells equal machines of a fleet apart.
    Raises LatteError for an unknown kind.
    """
    kind, _, index = ("cpu" if spec == "auto" else spec).partition(":")
    opener = OPENERS.get(kind)
    if opener is None:
        raise unknown("device", spec, ["auto", *OPENERS])
    return opener(index, threads, name)
