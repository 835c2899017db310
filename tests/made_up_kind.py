"""A kind of device that only tests know, whole in this file; who imports it knows it too."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends import add
from latte_cli.backends.contract import (
    Backend,
    Computation,
    Conditions,
    Facts,
    Finding,
    Looks,
    OutOfMemory,
    Prepared,
    Sample,
    State,
    Unsupported,
)
from latte_cli.backends.probes import Module
from latte_cli.devices import Device, Kind, Sampling
from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Settings, Task

ABACUS = Kind(
    name="abacus",
    title="abacus",
    torch_type="abacus",
    queued=True,
    own_memory=True,
    captures_graphs=True,
    offers_choice=True,
    threaded=False,
    indexed=True,
    sampling=Sampling(),
    rounds=2,
    preparing_s=0.01,
    call_limit_s=0.1,
)
BEADS = tuple(
    Algorithm(library="beads", name=name, vendor_id=at) for at, name in enumerate(("ROWS", "COLUMNS", "TILES"))
)
MEMORY_BYTES = 2**32
FLOP_PER_S = 1e12


@dataclass(frozen=True)
class Pushed:
    """A task whose time follows from its work, and for an algorithm from the shape."""

    task: Task
    cache_state = "none"

    def samples(self, count: int) -> Sequence[Sample]:
        layer, algorithm = self.task.layer, self.task.algorithm
        seconds = 1e-6 + layer.flops(self.task.phase) / FLOP_PER_S
        if algorithm in BEADS:
            seconds *= 0.5 + crc32(f"{algorithm.name} {layer.output_shape}".encode()) % 100 / 100
        return [Sample(device_s=seconds * (1 + 0.01 * at), host_s=2e-6) for at in range(count)]

    def facts(self) -> Facts:
        return Facts(workspace_bytes=1024 * (self.task.algorithm.vendor_id or 0), deterministic=True)


class AbacusBackend:
    """An abacus of this machine."""

    sound = True

    def __init__(self, index: int, name: str | None) -> None:
        self.device = Device(
            slug=f"{name}-{slug(index)}" if name else slug(index),
            kind=ABACUS,
            name="An abacus",
            memory_bytes=MEMORY_BYTES,
            peak_flop_per_s=FLOP_PER_S,
            bandwidth_bytes_per_s=1e11,
            libraries=(("beads", "1.0"),),
        )

    def settings(self, precision: Precision, layout: Layout) -> Settings:
        return Settings(precision=precision, layout=layout, library_versions=self.device.libraries)

    def candidates(self, layer: Layer, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
        if phase not in layer.phases or layer.free:
            return ()
        return (FRAMEWORK_DEFAULT, *BEADS) if isinstance(layer, Convolution) else (FRAMEWORK_DEFAULT,)

    def ranking(self, question: Question) -> tuple[str, ...]:
        raise Unsupported(f"no {question.ranker} on an abacus")

    def prepare(self, task: Task) -> Prepared:
        if isinstance(task.layer, Convolution) and task.algorithm == BEADS[2] and task.layer.groups > 1:
            raise Unsupported("no tiles for groups")
        if task.layer.output_shape and max(task.layer.output_shape) > 2**30:
            raise OutOfMemory("too many beads")
        return Pushed(task)

    def reference(self) -> Sample:
        return Sample(device_s=1e-3, host_s=1e-3)

    def conditions(self) -> Conditions:
        return Conditions()

    def settle(self, limit_s: float) -> bool:
        return True


def slug(index: int) -> str:
    return f"abacus-{index}"


class AbacusOpener:
    """This machine's abaci; it has two."""

    kind = ABACUS

    def usable(self) -> bool:
        return False  # no torch computes on one

    def slug(self, index: int = 0, threads: int | None = None) -> str | None:
        return slug(index) if index < 2 else None

    def libraries(self) -> tuple[tuple[str, str], ...]:
        return (("beads", "1.0"),)

    def open(self, *, index: int, threads: int | None, name: str | None, memory_share: float) -> Backend:
        return AbacusBackend(index, name)

    def computation(
        self, algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings, device: str
    ) -> Computation:
        raise Unsupported(f"no {algorithm.name} in torch")

    def context(self, threads: int | None) -> Mapping[str, int] | None:
        return {"bytes": 3 * 2**20, "call_bytes": 0}

    def looks(self) -> Looks:
        return (__name__,)

    def findings(self, answers: Mapping[str, object], root: Path, limit_s: float) -> Iterator[Finding]:
        yield Finding(
            subject="beads",
            state=State.OK,
            text="wooden" if isinstance(answers[__name__], Module) else "",
            device=ABACUS.name,
        )


add(AbacusOpener())
