"""The CPU as a kind of device: its name in the store, how it is opened, what a machine needs for it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from latte_cli.algorithms import Algorithm
from latte_cli.backends import host
from latte_cli.backends.contract import Backend, Computation, Finding, Looks
from latte_cli.devices import CPU
from latte_cli.layers import Convolution, Phase
from latte_cli.tasks import Settings


class CpuOpener:
    """This machine's CPU; see `contract.Opener`."""

    kind = CPU

    def usable(self) -> bool:
        return True

    def slug(self, index: int = 0, threads: int | None = None) -> str | None:
        return host.cpu_slug(threads)

    def libraries(self) -> tuple[tuple[str, str], ...]:
        from latte_cli.backends.cpu.backend import libraries

        return libraries()

    def open(self, *, index: int, threads: int | None, name: str | None, memory_share: float) -> Backend:
        from latte_cli.backends.cpu.backend import CpuBackend

        return CpuBackend(threads=threads, name=name)

    def context(self, threads: int | None) -> Mapping[str, int] | None:
        from latte_cli import child

        request = {"threads": threads or host.cores()}
        try:
            found: Mapping[str, int] | None = child.ask(f"{__name__}.context:context_of_training", request, limit_s=60)
        except (child.Ended, child.TimedOut):
            return None
        return found

    def computation(
        self, algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings, device: str
    ) -> Computation:
        from latte_cli.backends.cpu.computations import cpu_computation

        return cpu_computation(algorithm, layer, phase, settings)

    def looks(self) -> Looks:
        from latte_cli.backends.cpu.findings import LOOKS

        return LOOKS

    def findings(self, answers: Mapping[str, object], root: Path, limit_s: float) -> Iterator[Finding]:
        from latte_cli.backends.cpu.findings import findings

        return findings(answers)
