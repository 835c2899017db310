"""NVIDIA GPUs as a kind of device: their names in the store, how they are opened, what a machine needs for them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from latte_cli.algorithms import Algorithm
from latte_cli.backends import host
from latte_cli.backends.contract import Backend, Computation, Finding, Looks
from latte_cli.devices import CUDA
from latte_cli.layers import Convolution, Phase
from latte_cli.tasks import Settings


class CudaOpener:
    """This machine's NVIDIA GPUs; see `contract.Opener`."""

    kind = CUDA

    def usable(self) -> bool:
        from latte_cli.backends.cuda.backend import gpu_usable

        return gpu_usable()

    def slug(self, index: int = 0, threads: int | None = None) -> str | None:
        from latte_cli.backends.telemetry import open_telemetry

        name = open_telemetry(index=index).facts.name
        return host.slug(name) if name else None

    def libraries(self) -> tuple[tuple[str, str], ...]:
        from latte_cli.backends.cuda.backend import libraries

        return libraries()

    def open(self, *, index: int, threads: int | None, name: str | None, memory_share: float) -> Backend:
        from latte_cli.backends.cuda.backend import CudaBackend

        return CudaBackend(index=index, name=name, memory_share=memory_share)

    def context(self, threads: int | None) -> Mapping[str, int] | None:
        return None  # nobody has measured it on a GPU yet; see estimator.occupancy

    def computation(
        self, algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings, device: str
    ) -> Computation:
        from latte_cli.backends.cuda.calls import cudnn_computation

        return cudnn_computation(algorithm, layer, phase, settings, device)

    def looks(self) -> Looks:
        from latte_cli.backends.cuda.findings import LOOKS

        return LOOKS

    def findings(self, answers: Mapping[str, object], root: Path, limit_s: float) -> Iterator[Finding]:
        from latte_cli.backends.cuda.findings import findings

        return findings(answers, root, limit_s)
