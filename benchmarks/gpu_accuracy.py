"""Estimates against real training steps on an NVIDIA GPU; what `make gpu-accuracy` runs.

Measures real steps of every case, launched call by call and, at some batches, as one CUDA graph; the layers
of the cases and of the calibration networks, into the store; the real steps again. Then prints each case's step beside
its estimate, and which of the two clocks, the host's or the device's, sets its pace. Goes on where it stopped.

    python benchmarks/gpu_accuracy.py --store build/gpu-store --output build/gpu [--budget 8m] [--report-only]
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from estimate_accuracy import Case, precision

from latte_cli import child, suites
from latte_cli.backends.torch.training import RunRequest
from latte_cli.backends.torch.whole import PARTS, run_here
from latte_cli.errors import ExitCode
from latte_cli.estimator import Estimator
from latte_cli.estimator.steps import Step, step_calls
from latte_cli.layers import Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.quantities import duration_s
from latte_cli.store import Store, open_store
from latte_cli.sweep import Budget, Depth, Sweep, Wanted
from latte_cli.worker import Opening, Worker

NETWORKS = {"resnet18": 224, "resnet50": 224, "mobilenet_v2": 224, "vgg16": 224, "custom_cnn": 32}
BATCHES = (32, 1, 8, 128, 256)
PRECISIONS = (Precision.FP32, Precision.TF32, Precision.BF16_AUTOCAST)
CAPTURED = (1, 32)
"""The batches that are run as CUDA graphs, too."""
LAYERS_SHARE = 0.6
NOTES = """\
`make gpu-accuracy` printed this. All layers were measured by torch's own choice; `real` is the mean of the medians of
two series of steps, before the layers were measured and after, and `again` the second over the first. The host sets the
pace where launching a step takes it more than 60 % of the step. A step begins with an empty queue."""
HOST_BOUND = 0.6
"""The share of a step that the host takes to ask for it, from which on the host may set its pace."""


def key(case: Case, kind: Precision) -> str:
    return f"{case.key} {kind}"


def real_steps(path: Path, device: str, cases: Sequence[Case], kinds: Sequence[Precision], seconds: float) -> None:
    """Run each case that `path` does not have yet; in a separate process."""
    child.die_with_parent()
    import torch

    found = json.loads(path.read_text()) if path.exists() else {}
    for case, kind in product(cases, kinds):
        if key(case, kind) in found:
            continue
        run = RunRequest(
            model=case.model,
            batch_size=case.batch,
            image_size=case.size,
            device=device,
            precision=kind,
            seconds=seconds,
            most=40,
        )
        try:
            steps = run_here(run)
            row = {part: steps.median(part) for part in PARTS}
            row |= {f"host_{part}": steps.host_median(part) for part in PARTS}
            torch.cuda.empty_cache()
            if case.batch in CAPTURED and "before" in path.stem:
                row["graph_s"] = run_here(replace(run, cuda_graph=True)).median("step_s")
        except RuntimeError as exc:
            row = {"error": str(exc).partition("\n")[0]}
        torch.cuda.empty_cache()
        found[key(case, kind)] = row
        path.write_text(json.dumps(found))
        print(f"{key(case, kind)}: {row}", file=sys.stderr)


def run_real(path: Path, *given: object) -> None:
    process = multiprocessing.get_context("spawn").Process(target=real_steps, args=(path, *given))
    process.start()
    process.join()


def profile(store: Store, device: str, cases: Sequence[Case], kinds: Sequence[Precision], seconds: float) -> int:
    """The framework's own choice for all layers; how many tasks are left."""
    layers = (work.layer for case in cases for work in step_calls(case.network(), Step()))
    wanted = [Wanted(layer=layer, depth=Depth.DEFAULT) for layer in dict.fromkeys(layers) if not layer.free]
    with Worker(Opening(device=device, precisions=tuple(kinds))) as worker, store.writer(worker.device) as writer:
        known = any(found.slug == worker.device.slug for found in store.devices(own=True))
        earlier = store.measurements(worker.device.slug) if known else []
        both = suites.with_calibration(suites.Drawn(wanted=tuple(wanted)), worker.device.kind)
        sweep = Sweep(worker, both.wanted, phases=tuple(Phase), earlier=earlier, origin="gpu_accuracy")
        start = time.monotonic()
        done = sweep.run(writer, Budget(seconds=seconds, passes=2, together=True))
        rows = sum(done.rows.values())
        print(f"{rows} rows in {time.monotonic() - start:.0f} s; {done.left} of {sweep.size} left", file=sys.stderr)
        return done.left


def report(store: Store, output: Path, cases: Sequence[Case], kinds: Sequence[Precision]) -> list[str]:
    slug = store.devices(own=True)[0].slug
    before, again = (json.loads((output / f"real-{name}.json").read_text()) for name in ("before", "after"))
    lines = [
        "| network | batch | precision | real (ms) | again | estimate (ms) | error | pace "
        "| CUDA graph, real (ms) | estimate | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    close: defaultdict[str, list[float]] = defaultdict(list)
    inside: defaultdict[str, list[bool]] = defaultdict(list)
    for kind in kinds:
        one = Estimator(store, slug, precision=kind, layout=Layout.NCHW, strategy="pytorch", estimator="lookup")
        for case in cases:
            first, second = (found.get(key(case, kind), {}) for found in (before, again))
            if "step_s" not in first or "step_s" not in second:
                continue
            network = case.network()
            estimate, graph = one.estimate(network), one.estimate(network, Step(cuda_graph=True))
            real = statistics.mean((first["step_s"], second["step_s"]))
            ratio, repeat = estimate.step_s / real, second["step_s"] / first["step_s"]
            share = max(found["host_step_s"] / found["step_s"] for found in (first, second))
            pace = "host" if share > HOST_BOUND else "device"
            for group in ("all", kind, f"paced by the {pace}"):
                close[group].append(precision(ratio))
                inside[group].append(estimate.step_low_s <= real <= estimate.step_high_s)
            close[f"real, again, paced by the {pace}"].append(precision(repeat))
            cells = [case.architecture, case.batch, kind, f"{real * 1e3:.2f}", f"{repeat - 1:+.1%}"]
            cells += [f"{estimate.step_s * 1e3:.2f}", f"{ratio - 1:+.1%}", pace]
            if captured := first.get("graph_s"):
                close["CUDA graph"].append(precision(graph.step_s / captured))
                cells += [f"{captured * 1e3:.2f}", f"{graph.step_s * 1e3:.2f}", f"{graph.step_s / captured - 1:+.1%}"]
            else:
                cells += ["", "", ""]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    summary = ["| | cases | precision of the step, mean | worst | in the 95 % interval |", "|---|---|---|---|---|"]
    for name, found in close.items():
        share = f"{statistics.mean(inside[name]):.0%}" if inside[name] else ""
        summary.append(f"| {name} | {len(found)} | {statistics.mean(found):.1%} | {min(found):.1%} | {share} |")
    return [*summary, "", *lines]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", default="8m")
    parser.add_argument("--precision", type=Precision, nargs="+", default=list(PRECISIONS))
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--batch-size", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--seconds", type=float, default=0.25, help="of real steps of each case, before and after")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--measure-only", action="store_true")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    store, left = open_store(str(given.store), shipped=False), 0
    cases = [Case(name, NETWORKS[name], batch) for batch in given.batch_size for name in given.network]
    what = (given.device, cases, given.precision)
    if not given.report_only:
        run_real(given.output / "real-before.json", *what, given.seconds)
        left = profile(store, *what, LAYERS_SHARE * duration_s(given.budget))
        run_real(given.output / "real-after.json", *what, given.seconds)
    if not given.measure_only:
        lines = report(store, given.output, cases, given.precision)
        name = store.devices(own=True)[0].name
        text = [f"# {name}: estimates against real training steps", "", NOTES, ""]
        (given.output / "accuracy.md").write_text("\n".join([*text, *lines, ""]))
        print("\n".join(lines))
    if left:
        print("the budget ended first; run the same command again to go on", file=sys.stderr)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
