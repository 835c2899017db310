"""What a call of `torch.utils.checkpoint` takes on this CPU by the tensors that its region saves, against LATTE's line.

Each number is the median of `--rows` rows as `latte profile` measures them. The line goes through the two numbers of
tensors that `latte profile` times.

    python benchmarks/checkpoint_calls.py [--rows 9]
"""

import argparse
from statistics import median

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.cpu.backend import CpuBackend
from latte_cli.devices import CPU
from latte_cli.layers import CHECKPOINTS, Checkpoint, Phase
from latte_cli.measure import DriftMonitor, measure
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Task

TENSORS = (1, 5, 9, 17, 33, 65, 129)


def seconds(backend: CpuBackend, tensors: int, phase: Phase, rows: int) -> float:
    settings = backend.settings(Precision.FP32, Layout.NCHW)
    task = Task(layer=Checkpoint(tensors=tensors), phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=settings)
    monitor = DriftMonitor()
    return median(measure(backend, task, plan=CPU.sampling, monitor=monitor).seconds or 0.0 for _ in range(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=9, help="how many rows each median is of")
    options = parser.parse_args()
    backend, (least, most) = CpuBackend(threads=1), (layer.tensors for layer in CHECKPOINTS)
    found = {(n, phase): seconds(backend, n, phase, options.rows) for n in TENSORS for phase in Checkpoint.phases}
    titles = ["saved tensors", "forward, µs", "line", "backward, µs", "line"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for count in TENSORS:
        cells = [str(count)]
        for phase in Checkpoint.phases:
            first, last = found[least, phase], found[most, phase]
            line = first + (count - least) / (most - least) * (last - first)
            cells += [f"{1e6 * found[count, phase]:.0f}", f"{1e6 * line:.0f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
