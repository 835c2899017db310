"""The context of a process that trains on the CPU: what it takes before its own tensors; runs in a child process."""

from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

_CHANNELS, _KERNELS = (16, 32, 64, 128), (1, 3)  # chosen: eight convolutions that oneDNN compiles apart


def context_of_training(request: dict[str, Any]) -> dict[str, int] | None:
    """The private bytes of this process after a first small step, with the given number of threads.

    `call_bytes` is what each further phase of a convolution adds, for which oneDNN compiles kernels. None where the
    system does not say. These are the bytes that `ulimit -d` counts (getrlimit(2), RLIMIT_DATA).
    """
    torch.set_num_threads(request["threads"])
    _step(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4)), torch.randn(2, 3, 8, 8))
    first = _private_bytes()
    for channels, kernel in product(_CHANNELS, _KERNELS):
        _step(nn.Conv2d(channels, channels, kernel), torch.randn(2, channels, 8, 8, requires_grad=True))
    last = _private_bytes()
    if first is None or last is None:
        return None
    return {"bytes": first, "call_bytes": max(0, last - first) // (3 * len(_CHANNELS) * len(_KERNELS))}


def _step(module: nn.Module, x: torch.Tensor) -> None:
    update = torch.optim.SGD(module.parameters(), lr=0.1)
    module(x).square().mean().backward()
    update.step()


def _private_bytes() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:")), None)
