"""How many layers a minute a GPU sweep measures, and what share of its wall time the GPU works for it.

Sweeps the suite `paper` into a separate store for a while, as `latte profile` does, and prints layers a minute and
the shares of wall time in measured calls and in flushes of the L2 cache (a buffer of exactly twice its size, zeroed);
warm-ups, samples that were dropped, and the process's start count as neither. Needs an NVIDIA GPU; ends with code 1
without one.

    python benchmarks/sweep_throughput.py [--device cuda:0] [--minutes 2] [--precision fp32] [--layout nchw]
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from latte_cli import suites
from latte_cli.backends import open_backend
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Phase
from latte_cli.measure import Measurement, Outcome
from latte_cli.precisions import Layout, Precision
from latte_cli.store import open_store
from latte_cli.sweep import Budget, Sweep
from latte_cli.worker import Opening, Worker

CALL_S = 0.002
"""Calls that would take longer at the device's peak are not drawn, as in `latte profile`."""


def launches(row: Measurement) -> int:
    """Launches behind one sample: short calls are launched several times between two flushes."""
    digits = row.cache_state.rpartition("_")[2]
    return int(digits) if digits.isdigit() else 1


def swept(opening: Opening, folder: Path, *, minutes: float) -> tuple[list[Measurement], float, int]:
    """The rows of a sweep, its wall time in seconds, and the layers it went through."""
    store = open_store(folder)
    with Worker(opening) as worker:
        device = worker.device
        limits = suites.LayerLimits(
            flops=CALL_S * (device.peak_flop_per_s or 1e12), tensor_bytes=0.3 * (device.memory_bytes or 2**30)
        )
        wanted = suites.paper(0, limits, configs=5000).wanted
        sweep = Sweep(worker, wanted, phases=tuple(Phase))
        with store.writer(device) as writer:
            start = time.monotonic()
            sweep.run(writer, Budget(seconds=60 * minutes, rounds=3))
            wall_s = time.monotonic() - start
    rows = list(store.measurements(device.slug))
    layers = len({(row.task.layer, row.task.settings) for row in rows}) - 1  # the last one was cut short
    return rows, wall_s, max(layers, 0)


def flush_s(opening: Opening) -> float:
    """One flush of the GPU's L2 cache, measured in this process after the sweep."""
    from latte_cli.backends.cuda.backend import CudaBackend

    backend = open_backend(opening.device, memory_share=opening.memory_share)
    assert isinstance(backend, CudaBackend)
    return backend.clock.flush_s()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--precision", type=Precision, default=Precision.FP32)
    parser.add_argument("--layout", type=Layout, default=Layout.NCHW)
    given = parser.parse_args()
    opening = Opening(device=given.device, precisions=(given.precision,), layouts=(given.layout,), memory_share=0.3)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows, wall_s, layers = swept(opening, Path(folder), minutes=given.minutes)
        one_flush_s = flush_s(opening)
    except LatteError as error:
        print(f"{error.message}; {error.hint}", file=sys.stderr)
        return error.exit_code
    calls_s = sum(sum(row.device_times_s) * launches(row) for row in rows)
    flushes_s = one_flush_s * sum(len(row.device_times_s) for row in rows)
    outcomes = Counter(row.outcome for row in rows)
    print(f"{rows[0].device.name}, {given.precision}, {given.layout}: {len(rows)} rows in {wall_s:.1f} s")
    print(", ".join(f"{outcomes[outcome]} {outcome}" for outcome in Outcome if outcomes[outcome]))
    print(f"layers a minute           {60 * layers / wall_s:8.1f}")
    print(f"wall time in calls        {calls_s / wall_s:8.1%}")
    print(f"wall time in flushes      {flushes_s / wall_s:8.1%}   ({one_flush_s * 1e6:.1f} us each)")
    print(f"both                      {(calls_s + flushes_s) / wall_s:8.1%}")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
