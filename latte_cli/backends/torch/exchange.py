"""Exchanges: how long processes of this machine take to add up what each holds, by NCCL on GPUs and by gloo on CPUs."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from latte_cli import child
from latte_cli.devices import Kind

SIZES_BYTES = tuple(2**power for power in range(12, 27, 2))
"""The sizes of the messages: 4 KiB to 64 MiB, beyond a bucket of gradients in both directions."""

_AMONG_GPUS, _AMONG_CPUS = "nccl", "gloo"
_WARM_UPS, _ROUNDS = 3, 7  # chosen: NCCL connects in the first; a median of a few
_AT_ONCE_BYTES = 2**20  # chosen: so many bytes follow on each other before the clock is read
_MOST_AT_ONCE = 20  # chosen: as deep as a queue of small buckets gets
_LIMIT_S = 180.0  # chosen: for all processes to import torch, to meet and to exchange some hundred messages


def gpus_here() -> int:
    """How many GPUs this machine has, which a separate process finds out. Raises child.Ended or child.TimedOut."""
    return int(child.ask(f"{__name__}:count_gpus", {}, limit_s=_LIMIT_S))


def count_gpus(request: Mapping[str, Any]) -> int:
    """A child's part of `gpus_here`."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def measure_exchanges(kind: Kind, processes: int) -> list[tuple[int, float]]:
    """The bytes and seconds of an all-reduce among `processes`, each on a separate device, for each of SIZES_BYTES.

    On a CPU the processes share its cores, with a thread each. Raises child.Ended or child.TimedOut where one fails.
    """
    with TemporaryDirectory() as folder, ThreadPoolExecutor(processes) as pool:
        meeting = str(Path(folder, "meeting"))
        requests = [
            {
                "type": kind.torch_type,
                "library": _AMONG_GPUS if kind.indexed else _AMONG_CPUS,
                "index": rank if kind.indexed else None,
                "rank": rank,
                "processes": processes,
                "meeting": meeting,
            }
            for rank in range(processes)
        ]
        asked = [pool.submit(child.ask, f"{__name__}:exchange", one, limit_s=_LIMIT_S) for one in requests]
        try:
            answers = [one.result() for one in asked]
        except (child.Ended, child.TimedOut):
            child.end_all()  # the others wait for the one that is gone
            raise
    return [(size_bytes, time_s) for size_bytes, time_s in answers[0]]


def exchange(request: Mapping[str, Any]) -> Sequence[tuple[int, float]]:
    """A child's part of `measure_exchanges`: the slowest process's median for each size."""
    import torch
    from torch import distributed

    rank, processes, type_ = request["rank"], request["processes"], request["type"]
    torch.set_num_threads(1)
    if request["index"] is not None:
        torch.cuda.set_device(request["index"])
    distributed.init_process_group(
        request["library"], init_method=f"file://{request['meeting']}", rank=rank, world_size=processes
    )
    found = []
    for size_bytes in SIZES_BYTES:
        data = torch.zeros(size_bytes // 4, device=type_)
        count = max(1, min(_MOST_AT_ONCE, _AT_ONCE_BYTES // size_bytes))
        times = torch.tensor([_time_round(data, count) for _ in range(_WARM_UPS + _ROUNDS)][_WARM_UPS:], device=type_)
        distributed.all_reduce(times, op=distributed.ReduceOp.MAX)
        found.append((size_bytes, median(times.tolist())))
    distributed.destroy_process_group()
    return found


def _time_round(data: Any, count: int) -> float:
    """Seconds of one of `count` all-reduces that follow on each other."""
    import torch
    from torch import distributed

    distributed.barrier()
    start_s = time.perf_counter()
    for _ in range(count):
        distributed.all_reduce(data)
    if data.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start_s) / count
