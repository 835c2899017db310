"""Profile this machine's GPU: the standard networks' layers, then the suite `paper`; what `make gpu-profile` runs.

Goes on where it stopped when it is called again with the same store. Into the output folder: `doctor.json` (what the
machine has), `part-*.parquet` (the device's rows, one file, ready for `profiles/device=<slug>/`) and `algorithms.md`
(how often each algorithm ran, was refused and won, and its time relative to torch's own choice). Ends with code 1
where there is no GPU to measure; a budget that ends first is a normal end.

    python benchmarks/gpu_profile.py --store build/gpu-store --output build/gpu [--budget 8m]
        [--precision fp32 tf32] [--layout nchw] [--batch-size 32] [--configs 1000]
"""

import argparse
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import exp, log
from pathlib import Path
from statistics import fmean

from latte_cli import child
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.errors import ExitCode
from latte_cli.layers import Convolution, Phase
from latte_cli.lookup import combine_passes
from latte_cli.measure import Evidence, Measurement, Outcome
from latte_cli.network.zoo import ZOO
from latte_cli.precisions import Layout, Precision
from latte_cli.quantities import duration_s
from latte_cli.store import open_store
from latte_cli.tasks import Task

NETWORKS_SHARE = 0.45
"""The networks' part of the budget; the suite `paper` has the rest."""

COLUMNS = ("precision", "layout", "phase", "algorithm", "ran", "refused", "no memory", "failed", "fastest", "x torch")


def latte(*arguments: object) -> int:
    return child.call("latte_cli.cli:main", *map(str, arguments))


def examined(output: Path, device: str) -> bool:
    """Write the doctor's report; whether the GPU can be measured."""
    kind = device.partition(":")[0]
    found = child.run_child("latte_cli.cli:main", "-q", "doctor", "--device", kind, "--format", "json")
    (output / "doctor.json").write_bytes(found.output)
    return found.code == ExitCode.DONE


def exported(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ZOO:
        if not (folder / f"{name}.onnx").exists():
            latte("-q", "zoo", "export", name, folder / f"{name}.onnx")
    return [folder / f"{name}.onnx" for name in ZOO]


def profiled(given: argparse.Namespace) -> bool:
    """Measure within the budget; whether everything was."""
    start, budget_s = time.monotonic(), duration_s(given.budget)
    settings = ["--device", given.device, "--store", given.store, "--require-complete"]
    settings += [word for one in given.precision for word in ("--precision", one)]
    settings += [word for one in given.layout for word in ("--layout", one)]
    models = exported(given.store / "models")
    batches = [word for one in given.batch_size for word in ("--batch-size", one)]
    codes = [latte("profile", *models, *batches, *settings, "--budget", f"{NETWORKS_SHARE * budget_s:.0f}s")]
    left_s = max(1.0, budget_s - (time.monotonic() - start))
    paper = ["--suite", "paper", "--configs", given.configs]
    codes.append(latte("profile", *paper, *settings, "--budget", f"{left_s:.0f}s"))
    failed = [code for code in codes if code not in (ExitCode.DONE, ExitCode.INCOMPLETE)]
    if failed:
        sys.exit(failed[0])
    return codes == [ExitCode.DONE, ExitCode.DONE]


def table(rows: Iterable[Measurement]) -> list[str]:
    """What became of each algorithm, over convolutions."""
    outcomes: defaultdict[tuple[str, ...], Counter[Outcome]] = defaultdict(Counter)
    timed: defaultdict[tuple[str, str, Phase, Convolution], list[Measurement]] = defaultdict(list)
    for row in rows:
        task, settings = row.task, row.task.settings
        if isinstance(task, Task) and isinstance(task.layer, Convolution) and row.evidence is not Evidence.LABEL:
            timed[settings.precision, settings.layout, task.phase, task.layer].append(row)
            if row.sweep_pass == 0:
                outcomes[settings.precision, settings.layout, task.phase, task.algorithm.name][row.outcome] += 1
    won: Counter[tuple[str, ...]] = Counter()
    ratios: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for (precision, layout, phase, _), group in timed.items():
        times = {timing.task.algorithm: timing.device_s for timing in combine_passes(group)}
        own = times.get(FRAMEWORK_DEFAULT)
        for algorithm, seconds in times.items():
            won[precision, layout, phase, algorithm.name] += seconds == min(times.values())
            if own:
                ratios[precision, layout, phase, algorithm.name].append(log(seconds / own))
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for key, seen in sorted(outcomes.items()):
        counts = [seen[o] for o in (Outcome.OK, Outcome.UNSUPPORTED, Outcome.OUT_OF_MEMORY)]
        counts += [seen[Outcome.FAILED] + seen[Outcome.TIMEOUT], won[key]]
        ratio = f"{exp(fmean(ratios[key])):.2f}" if ratios[key] else "-"
        lines.append("| " + " | ".join([*map(str, key), *map(str, counts), ratio]) + " |")
    return lines


def written(store: Path, output: Path) -> None:
    """One part with all rows, and the table of algorithms."""
    opened = open_store(store)
    for device in opened.devices(own=True):
        latte("-q", "store", "compact", device.slug, "--store", store)
        for old in output.glob("part-*.parquet"):
            old.unlink()
        for part in (store / f"device={device.slug}").glob("part-*.parquet"):
            shutil.copy(part, output)
        lines = table(open_store(store).measurements(device.slug))
        text = [f"# {device.name}: cuDNN's algorithms", "", "`make gpu-profile` printed this.", "", *lines, ""]
        (output / "algorithms.md").write_text("\n".join(text))
        print("\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", default="8m")
    parser.add_argument("--precision", type=Precision, nargs="+", default=[Precision.FP32, Precision.TF32])
    parser.add_argument("--layout", type=Layout, nargs="+", default=[Layout.NCHW])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32])
    parser.add_argument("--configs", type=int, default=1000)
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    if not examined(given.output, given.device):
        return ExitCode.BAD_INPUT
    if not profiled(given):
        print("the budget ended first; run the same command again to go on", file=sys.stderr)
    written(given.store, given.output)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
