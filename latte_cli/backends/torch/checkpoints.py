"""The call of `torch.utils.checkpoint` as a task: a region with it against the same region without it."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from latte_cli.backends.contract import Facts, Sample
from latte_cli.backends.torch.layers import synchronizer
from latte_cli.layers import Checkpoint, Phase

_NUMBERS = 8  # chosen: the layers of the region should take as little as they can
_LEAST_S = 1e-9  # times are positive

TimeCall = Callable[[Callable[[], object]], Sample]


class CheckpointCall:
    """The call for a region of layers on few numbers, each of which saves one tensor.

    A sample is a difference: of forward passes with and without the call, or of backward passes less the forward pass
    that the call runs again. `time_call` times each of them in the caches' `cache_state`.
    """

    def __init__(self, layer: Checkpoint, phase: Phase, time_call: TimeCall, cache_state: str, device: str) -> None:
        self._count, self._phase, self._time_call = layer.tensors, phase, time_call
        self.cache_state = cache_state
        self._x = torch.ones(_NUMBERS, device=device, requires_grad=True)

    def samples(self, count: int) -> list[Sample]:
        return [self._sample() for _ in range(count)]

    def facts(self) -> Facts:
        return Facts()

    def _sample(self) -> Sample:
        if self._phase is Phase.FORWARD:
            return _difference(self._time_call(self._with_call), [self._time_call(self._without_call)])
        backward = _backward_of(self._without_call())
        return _difference(
            self._time_call(_backward_of(self._with_call())),
            [self._time_call(backward), self._time_call(self._without_call)],
        )

    def _without_call(self) -> Tensor:
        return _run(self._count, self._x)

    def _with_call(self) -> Tensor:
        result: Tensor = checkpoint(partial(_run, self._count), self._x, use_reentrant=False)
        return result


def time_on_host(device: str) -> TimeCall:
    """What times a call on the host of a device that queues its work, whose own time is left out."""
    wait = synchronizer(device)

    def time_call(call: Callable[[], object]) -> Sample:
        wait()
        start = time.perf_counter()
        call()
        return Sample(device_s=_LEAST_S, host_s=time.perf_counter() - start)

    return time_call


def _run(count: int, x: Tensor) -> Tensor:
    for _ in range(count):
        x = x.sigmoid()
    return x


def _backward_of(out: Tensor) -> Callable[[], object]:
    return partial(torch.autograd.backward, (out,), (torch.ones_like(out),))


def _difference(whole: Sample, parts: Sequence[Sample]) -> Sample:
    return Sample(
        device_s=max(_LEAST_S, whole.device_s - sum(part.device_s for part in parts)),
        host_s=max(_LEAST_S, whole.host_s - sum(part.host_s for part in parts)),
        disturbed=any(sample.disturbed for sample in (whole, *parts)),
    )
