"""What `latte train-selector` costs on a table of about a million candidates, and `choose` for ResNet-50 after it.

The table is made of a MIOpen database: all its rows, and the same layers at three times their batch, whose times and
workspaces are three times those of the file, until there are enough. It is written once, to a separate store. Prints
CPU seconds, seconds by the clock and the peak of resident memory of the command, the sizes of what it wrote, and the
seconds to choose for the convolutions of ResNet-50 in three phases, at a new batch and again.

    python benchmarks/selector_cost.py [--data ../shared/data] [--store build/cost] [--candidates 1000000]
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from selector_quality import resnet50_s

from latte_cli.importers import ImportSource, import_file
from latte_cli.layers import Convolution
from latte_cli.measure import Measurement
from latte_cli.selector import load_selector
from latte_cli.store import Store, open_store
from latte_cli.tasks import Settings

FILE, DEVICE = "miopen/gfx90878.HIP.fdb.txt.bz2", "amd-gfx908-120cu"
TIMES = 3  # the batch of the layers that are made


def at_larger_batch(row: Measurement) -> Measurement:
    layer = row.task.layer
    assert isinstance(layer, Convolution) and row.summary_s is not None and row.workspace_bytes is not None
    return replace(
        row,
        task=replace(row.task, layer=replace(layer, batch=TIMES * layer.batch)),
        summary_s=TIMES * row.summary_s,
        workspace_bytes=TIMES * row.workspace_bytes,
    )


def fill(store: Store, data: Path, candidates: int) -> None:
    """Write the table, where it is not there yet."""
    marker = Path(store.uri) / f".made-{candidates}"
    if marker.exists():
        return
    import_file(data / FILE, ImportSource.MIOPEN_FINDDB, store)
    rows = store.measurements(DEVICE)
    there = {(row.task.layer, row.task.phase, row.task.settings) for row in rows}

    def larger() -> Iterator[Measurement]:
        for row in chain(rows, map(at_larger_batch, rows)):
            made = at_larger_batch(row)
            if (made.task.layer, made.task.phase, made.task.settings) not in there:
                yield made

    with store.writer(store.device(DEVICE)) as writer:
        writer.extend(islice(larger(), max(0, candidates - len(rows))))
    marker.touch()


def cost(command: list[str]) -> tuple[float, float, int]:
    """CPU seconds, seconds by the clock, and the peak of resident memory in bytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--store", type=Path, default=Path("build/cost"))
    parser.add_argument("--candidates", type=int, default=1_000_000)
    given = parser.parse_args()
    given.store.mkdir(parents=True, exist_ok=True)
    store = open_store(str(given.store), shipped=False)
    fill(store, given.data, given.candidates)
    models = given.store / "models"
    command = [sys.executable, "-m", "latte_cli", "--quiet", "train-selector", "--store", str(given.store)]
    cpu_s, wall_s, peak_bytes = cost([*command, "--device", DEVICE, "--output", str(models)])
    print(f"train-selector: {cpu_s:.0f} CPU seconds, {wall_s:.0f} s, at most {peak_bytes / 1e9:.2f} GB")
    folder = models / f"selector-{DEVICE}"
    print("it wrote " + ", ".join(f"{path.name}: {path.stat().st_size:,} bytes" for path in sorted(folder.iterdir())))
    first_s, again_s, different = resnet50_s(load_selector(folder), Settings(), store.device(DEVICE))
    print(f"choosing for {different} phases of ResNet-50: {1e3 * first_s:.2f} ms first, {1e3 * again_s:.2f} ms again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
