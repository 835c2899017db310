"""The contract of a backend: what makes a task something that can be timed on a device, and how it answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from latte_cli.algorithms import Algorithm
from latte_cli.devices import Device, Kind
from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Settings, Task

if TYPE_CHECKING:
    from torch import Tensor


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
    """What is known of one call besides its time; None and nothing mean that it is not known.

    `workspace_bytes` is the peak that one call takes beyond its inputs and outputs, `deterministic` whether results
    repeat bit by bit, `kernels` the names of what it ran on the device, `notes` what its library says of the algorithm.
    """

    workspace_bytes: int | None = None
    deterministic: bool | None = None
    kernels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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

    def prepare(self, task: Task) -> Prepared:
        """Allocate what `task` needs; raises Unsupported, OutOfMemory or Failed."""

    def ranking(self, question: Question) -> tuple[str, ...]:
        """The names of the algorithms that a ranker would take, best first; raises what `prepare` does."""

    def reference(self) -> Sample:
        """Time a fixed kernel, to see the device's speed drift."""

    def conditions(self) -> Conditions:
        """What can be observed of the device now."""

    def settle(self, limit_s: float) -> bool:
        """Wait, at most `limit_s`, for the device to be left alone by others; whether it is."""


Computation: TypeAlias = Callable[[Any], "Tensor"]
"""What computes a convolution's phase from its tensors, `backends.torch.layers.Operands`, as torch tensors."""

Looks: TypeAlias = tuple[str, ...]
"""Questions to this machine: names of probes (see `backends.probes`) and of Python packages to import."""


class State(StrEnum):
    """Whether something works, is not there, or is there and does not work."""

    OK = "ok"
    ABSENT = "absent"
    BROKEN = "broken"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one thing.

    `text` says what there is or why there is nothing, `path` where it lies, `hint` what to type or install ("" where
    all is well), `device` which device cannot be measured without it ("" if none needs it; a GPU needs what the CPU
    needs).
    """

    subject: str
    state: State
    text: str
    path: str = ""
    hint: str = ""
    device: str = ""


class Opener(Protocol):
    """A kind of device on this machine: what it is called there and how it is opened; imports nothing heavy."""

    @property
    def kind(self) -> Kind:
        """The kind that this opens."""

    def usable(self) -> bool:
        """Whether torch can compute on such a device here; imports torch."""

    def slug(self, index: int = 0, threads: int | None = None) -> str | None:
        """The store's name for the device of that index, but for a fleet name; None where there is none."""

    def libraries(self) -> tuple[tuple[str, str], ...]:
        """The libraries that compute on it, with their versions, in the order of their names; imports torch."""

    def open(self, *, index: int, threads: int | None, name: str | None, memory_share: float) -> Backend:
        """The backend of the device of that index (see `open_backend`); raises LatteError where it does not work."""

    def context(self, threads: int | None) -> Mapping[str, int] | None:
        """What a process that trains takes: `bytes` after a small step, `call_bytes` for each phase of a convolution.

        None where it cannot be told.
        """

    def computation(
        self, algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings, device: str
    ) -> Computation:
        """The function with which `algorithm` of a library of this kind computes; raises Unsupported."""

    def looks(self) -> Looks:
        """What `latte doctor` asks of this machine in child processes."""

    def findings(self, answers: Mapping[str, object], root: Path, limit_s: float) -> Iterator[Finding]:
        """What the answers say; `root` is the file system that drivers and boards are looked for in."""
