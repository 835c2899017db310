"""Estimates of networks that no suite and no calibration holds, against real steps of the very modules.

The networks are those of pytorchcv and timm, each at three batch sizes. A real step is what a training script runs in
eager mode: forward, cross-entropy, backward, SGD, `zero_grad`; in its own process, on glibc's heap as it is (`plain`)
and, once, on a heap that keeps its memory (`kept`), with the page faults of each. Real steps run before the layers are
profiled, after it, and after the standard suite. Each estimate is compared with the median of the runs right before and
right after what it is made from. `repeats` holds the runs after against those before: no estimate can be closer.

It needs `pip install -c constraints.txt torch pytorchcv timm`, and an hour and a half in which nothing else runs. What
was measured stays in the folder: a second run goes on where the first stopped, `--report` measures nothing.

    python benchmarks/held_out.py [--folder build/held-out] [--suite 15m] [--only REGEX] [--report]
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import fmean, median
from typing import Any

from estimate_accuracy import precision, progress, without

from latte_cli import load, suites
from latte_cli.backends.host import KEEPING, LARGE_BLOCK_BYTES
from latte_cli.estimator import Estimate, Estimator
from latte_cli.estimator.calibration import Calibration
from latte_cli.estimator.steps import Step, step_calls
from latte_cli.estimator.turned import with_turned
from latte_cli.layers import Layer, Phase
from latte_cli.network import Network
from latte_cli.precisions import Layout, Precision
from latte_cli.store import Store, open_store
from latte_cli.sweep import Budget, Depth, Sweep, Wanted
from latte_cli.worker import Opening, Worker

NETWORKS = (
    "pytorchcv/shufflenetv2_w1",
    "pytorchcv/seresnet18",
    "pytorchcv/darknet_tiny",
    "pytorchcv/densenet121",
    "pytorchcv/squeezenet_v1_1",
    "pytorchcv/regnetx002",
    "pytorchcv/ghostnet",
    "pytorchcv/mnasnet_b1",
    "pytorchcv/efficientnet_b0",
    "pytorchcv/bninception",
    "timm/convnext_atto",
    "timm/mixer_s32_224",
    "timm/vit_tiny_patch16_224",
)
PIXELS = 224
BATCHES = (2, 4, 8)
PASSES, SECONDS, WARM_UPS, LEAST = 3, 1200.0, 4, 6
PARTS = ("step", "forward", "backward")
SUITE_SECONDS = (240.0, 900.0)
PROFILED = "layers profiled"
ROUNDS = ("before", "between", "after")


@dataclass(frozen=True)
class Case:
    """A network at a batch size."""

    name: str
    batch: int

    @property
    def key(self) -> str:
        return f"{self.name} {self.batch}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, 3, PIXELS, PIXELS


def module_of(name: str) -> Any:
    """The module called so, in training mode."""
    library, _, own = name.partition("/")
    if library == "timm":
        import timm

        return timm.create_model(own).train()
    from pytorchcv.model_provider import get_model

    return get_model(own).train()


# Real steps


def print_real_steps(cases: Iterable[Case], seconds: float) -> None:
    """Print, a case a line, the medians of a step, of its parts and of its page faults.

    Each case runs in a separate process, forked before torch has done anything, so that imports are paid once.
    """
    import pytorchcv.model_provider  # noqa: F401 - what the forked processes use
    import timm  # noqa: F401
    import torch  # noqa: F401

    for case in cases:
        sys.stdout.flush()
        process = os.fork()
        if not process:
            print(json.dumps(medians_of_steps(case, seconds)), flush=True)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if status:
            sys.exit(f"the process of {case.key} ended with status {status}")


def medians_of_steps(case: Case, seconds: float) -> dict[str, float]:
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses

    torch.manual_seed(0)
    torch.empty(LARGE_BLOCK_BYTES - 2**16, dtype=torch.uint8)  # freed at once, as by a script that reads weights
    module, x = module_of(case.name), torch.randn(case.shape)
    targets, update = torch.randint(0, 10, (case.batch,)), torch.optim.SGD(module.parameters(), lr=1e-3)
    rows: list[tuple[float, ...]] = []
    start = inf
    while len(rows) < WARM_UPS + LEAST or time.perf_counter() - start < seconds:
        faults, marks = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, [time.perf_counter()]
        loss = F.cross_entropy(module(x), targets)
        marks.append(time.perf_counter())
        torch.autograd.backward(loss)
        del loss
        marks.append(time.perf_counter())
        update.step()
        update.zero_grad()
        marks.append(time.perf_counter())
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        rows.append((marks[3] - marks[0], marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2], faults))
        if len(rows) == WARM_UPS:
            start = time.perf_counter()
    keys = ("step_s", "forward_s", "backward_s", "update_s", "faults")
    return dict(zip(keys, map(median, zip(*rows[WARM_UPS:], strict=True)), strict=True))


def kept(folder: Path, name: str) -> dict[str, list[dict[str, float]]]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def run_real(
    folder: Path, name: str, cases: Sequence[Case], times: int, seconds: float, environment: Mapping[str, str]
) -> None:
    """Real steps of the cases, which take turns; kept in `name`.json after each."""
    found = kept(folder, name)
    for number in range(times):
        left = [case for case in cases if len(found.setdefault(case.key, [])) <= number]
        if not left:
            continue
        words = [sys.executable, __file__, "--seconds", str(seconds), "--real", *(case.key for case in left)]
        with subprocess.Popen(words, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for case, line in zip(left, process.stdout, strict=True):
                found[case.key].append(json.loads(line))
                (folder / f"{name}.json").write_text(json.dumps(found))
                step_s, faults = (found[case.key][-1][key] for key in ("step_s", "faults"))
                say(f"{name} {case.key}: {step_s * 1e3:.1f} ms, {faults:.0f} faults")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# What is profiled


def export(folder: Path, name: str) -> Path:
    """The network as a program of `torch.export` with an open batch."""
    path = folder / f"{name.replace('/', '-')}.pt2"
    if not path.exists():
        import torch

        dynamic = ({0: torch.export.Dim("batch", min=1, max=4096)},)
        x = torch.randn(Case(name, 3).shape)
        program = torch.export.export(module_of(name), (x,), dynamic_shapes=dynamic)
        torch.export.save(program, path)
    return path


def network_of(folder: Path, case: Case) -> Network:
    return load(export(folder, case.name), batch_size=case.batch)


def layers_of(networks: Iterable[Network]) -> list[Layer]:
    works = (work for network in networks for work in step_calls(network, Step()))
    return [layer for layer in dict.fromkeys(work.layer for work in works) if not layer.free]


def profile_layers(folder: Path, networks: Sequence[Network], passes: int) -> None:
    """The framework's own choice for each layer, and the calibration, in passes over all of them."""
    wanted = tuple(Wanted(layer=layer, depth=Depth.DEFAULT) for layer in layers_of(networks))
    store = open_store(str(folder / "networks"), shipped=False)
    with Worker(Opening(device="cpu")) as worker, store.writer(worker.device) as writer:
        known = any(device.slug == worker.device.slug for device in store.devices())
        earlier = store.measurements(worker.device.slug) if known else []
        drawn = with_turned(suites.Drawn(wanted=wanted), networks)
        both = suites.with_calibration(drawn, worker.device.kind, first=False)
        sweep = Sweep(worker, both.wanted, phases=tuple(Phase), earlier=earlier, origin="held_out")
        sweep.run(writer, Budget(seconds=SECONDS, passes=passes, together=True), progress=progress(sweep.size))


def profile_suite(folder: Path, budget: str) -> None:
    words = [sys.executable, "-m", "latte_cli", "--quiet", "profile", "--suite", "standard", "--budget", budget]
    subprocess.run([*words, "--store", str(folder / "standard")], check=True, stdout=subprocess.DEVNULL)


# The report


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case's estimate and the real parts of its step, in seconds."""

    case: Case
    estimate: Estimate
    real: Mapping[str, float]

    def ratio(self, part: str) -> float:
        said = {"step": "step_s", "forward": "forward_s", "backward": "backward_s"}[part]
        return float(getattr(self.estimate, said)) / self.real[part]

    @property
    def half_width_80(self) -> float:
        return (self.estimate.step_high_80_s - self.estimate.step_low_80_s) / 2 / self.estimate.step_s


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {part: median(row[f"{part}_s"] for row in rows) for part in PARTS}


def estimator(store: Store, name: str = "lookup", calibration: Calibration | None = None) -> Estimator:
    return Estimator(
        store,
        store.devices(own=True)[0].slug,
        precision=Precision.FP32,
        layout=Layout.NCHW,
        strategy="pytorch",
        estimator=name,
        calibration=calibration,
    )


def rows_of(folder: Path, cases: Sequence[Case], found: Estimator, *rounds: str) -> list[Row]:
    runs = [kept(folder, name) for name in rounds]
    return [
        Row(
            case=case,
            estimate=found.estimate(network_of(folder, case)),
            real=medians([row for run in runs for row in run[case.key]]),
        )
        for case in cases
    ]


def layer_errors(profiled: Sequence[Row], found: Sequence[Row]) -> list[float]:
    """|estimated / measured - 1| of every layer and phase of the cases, each once."""

    def times(rows: Sequence[Row]) -> dict[tuple[Layer, Phase], float]:
        parts = (part for row in rows for part in row.estimate.parts if not part.layer.free)
        return {(part.layer, part.phase): part.device_s for part in parts}

    measured = times(profiled)
    return [abs(time_s / measured[pair] - 1) for pair, time_s in times(found).items() if measured.get(pair)]


def summary_line(title: str, rows: Sequence[Row], errors: Sequence[float] = ()) -> str:
    close = {part: [precision(row.ratio(part)) for row in rows] for part in PARTS}
    inside = [
        fmean(getattr(row.estimate, low) <= row.real["step"] <= getattr(row.estimate, high) for row in rows)
        for low, high in (("step_low_s", "step_high_s"), ("step_low_80_s", "step_high_80_s"))
    ]
    width = median(row.half_width_80 for row in rows)
    cells = [f"{fmean(close['step']):.1%}", f"{min(close['step']):.1%}"]
    cells += [f"{fmean(close[part]):.1%}" for part in PARTS[1:]]
    cells += [f"{median(errors):.1%}" if errors else "", f"{inside[0]:.0%}", f"{inside[1]:.0%}", f"{width:.1%}"]
    return f"| {title} | {' | '.join(cells)} |"


def repeat_line(folder: Path, title: str, cases: Sequence[Case], first: str, second: str) -> str:
    a, b = kept(folder, first), kept(folder, second)
    pairs = [(medians(b[case.key]), medians(a[case.key])) for case in cases]
    close = {part: [precision(after[part] / before[part]) for after, before in pairs] for part in PARTS}
    cells = [f"{fmean(close['step']):.1%}", f"{min(close['step']):.1%}"]
    cells += [f"{fmean(close[part]):.1%}" for part in PARTS[1:]]
    return f"| {title} | {' | '.join(cells)} |  |  |  |  |"


def report(folder: Path, cases: Sequence[Case]) -> Iterator[str]:
    heads = ("times from", "step, mean", "worst", "forward, mean", "backward, mean", "layers, median error")
    yield f"| {' | '.join(heads)} | in 95 % | in 80 % | 80 %: median half-width |"
    yield "|---" * (len(heads) + 3) + "|"
    found: dict[str, list[Row]] = {}
    if kept(folder, "between"):
        store = open_store(str(folder / "networks"), shipped=False)
        found[PROFILED] = rows_of(folder, cases, estimator(store), "before", "between")
        yield summary_line(PROFILED, found[PROFILED])
        yield repeat_line(folder, "real, before and after the layers", cases, "before", "between")
    if kept(folder, "after"):
        standard = open_store(str(folder / "standard"), shipped=False)
        own = frozenset(layers_of(network_of(folder, case) for case in cases))
        for seconds in SUITE_SECONDS:
            title = f"nothing profiled, {seconds / 60:.0f} min"
            everything = without(folder, frozenset(), f"all-{seconds:.0f}", [standard], seconds)
            blind = without(folder, own, f"first-{seconds:.0f}", [standard], seconds)
            one = estimator(blind, calibration=estimator(everything).calibration)
            found[title] = rows_of(folder, cases, one, "between", "after")
            errors = layer_errors(found[PROFILED], found[title])
            yield summary_line(title, found[title], errors)
        yield repeat_line(folder, "real, before and after the suite", cases, "between", "after")
    yield ""
    yield from by_case(folder, cases, found)


def by_case(folder: Path, cases: Sequence[Case], found: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Each case: its real steps in ms, the page faults, and the errors of the estimates."""
    runs = {name: kept(folder, name) for name in ("kept", *ROUNDS)}
    runs = {name: run for name, run in runs.items() if run}
    yield f"| network | batch | {' | '.join(f'{name} (ms)' for name in runs)} | faults | {' | '.join(found)} |"
    yield "|---" * (3 + len(runs) + len(found)) + "|"
    for at, case in enumerate(cases):
        cells = [case.name, str(case.batch)]
        cells += [f"{1e3 * median(row['step_s'] for row in run[case.key]):.1f}" for run in runs.values()]
        cells += [f"{median(row['faults'] for row in runs['before'][case.key]):,.0f}"]
        cells += [f"{rows[at].ratio('step') - 1:+.1%}" for rows in found.values()]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/held-out"))
    parser.add_argument("--suite", default="15m", help="the budget of the standard suite")
    parser.add_argument("--only", default="", help="networks whose name this regular expression matches")
    parser.add_argument("--seconds", type=float, default=1.2, help="of real steps for each case and time")
    parser.add_argument("--times", type=int, default=2, help="how often real steps run in each round")
    parser.add_argument("--passes", type=int, default=PASSES, help="over the layers")
    parser.add_argument("--stop-after", choices=("before", "between", "after"), default="after")
    parser.add_argument("--report", action="store_true", help="measure nothing more")
    parser.add_argument("--real", nargs="+", metavar="CASE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.real:
        print_real_steps([Case(name, int(batch)) for name, batch in map(str.split, given.real)], given.seconds)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    cases = [Case(name, batch) for name in NETWORKS if re.search(given.only, name) for batch in BATCHES]
    if not given.report:
        measure(given, cases)
    for line in report(given.folder, cases):
        print(line)


def measure(given: argparse.Namespace, cases: Sequence[Case]) -> None:
    """Measure what is missing, up to the round of `--stop-after`."""
    folder, seconds = given.folder, given.seconds
    networks = [network_of(folder, case) for case in cases]
    run_real(folder, "before", cases, given.times, seconds, {})
    run_real(folder, "kept", cases, 1, seconds, KEEPING)
    if given.stop_after == "before":
        return
    if not kept(folder, "between"):
        profile_layers(folder, networks, given.passes)
    run_real(folder, "between", cases, given.times, seconds, {})
    if given.stop_after == "between":
        return
    if not kept(folder, "after"):
        profile_suite(folder, given.suite)
    run_real(folder, "after", cases, given.times, seconds, {})


if __name__ == "__main__":
    main()
