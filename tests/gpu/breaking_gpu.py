"""A real GPU that breaks for good when one algorithm is called: a kernel reads where nothing is."""

from collections.abc import Sequence

import torch

from latte_cli.backends.contract import Facts, Prepared, Sample
from latte_cli.backends.cuda.backend import CudaBackend
from latte_cli.backends.cuda.clock import Pace
from latte_cli.backends.torch.layers import LayerCall
from latte_cli.tasks import Task

BREAKS = "IMPLICIT_GEMM"
"""The algorithm whose call breaks the device."""


class BreakingGpu(CudaBackend):
    """The first GPU, timed as ever but for that algorithm."""

    def prepare(self, task: Task) -> Prepared:
        return _Breaking(self) if task.algorithm.name == BREAKS else super().prepare(task)


class _Breaking:
    cache_state = "l2_input"

    def __init__(self, backend: BreakingGpu) -> None:
        self._backend = backend
        self._values = torch.zeros(4, device="cuda")
        self._outside = torch.tensor([9], device="cuda")

    def samples(self, count: int) -> Sequence[Sample]:
        call = LayerCall(call=lambda: self._values[self._outside])
        return self._backend.guard(lambda: self._backend.clock.samples(call, count, Pace()))

    def facts(self) -> Facts:
        return Facts()


def open_breaking(
    spec: str, *, threads: int | None = None, name: str | None = None, memory_share: float = 0.5
) -> BreakingGpu:
    """Opens as `open_backend` does."""
    return BreakingGpu(name=name, memory_share=memory_share)
