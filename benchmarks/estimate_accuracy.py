"""Estimates against real training steps, for every estimator, network by network.

Measures, into a separate store: the real steps of every case, each time in a separate process; the layers of the
cases; the real steps again; the standard suite; the real steps once more. An estimate is held against the steps right
before and after what it is made from. Then prints the precision (1 - |error|) of each estimator, from the
networks' own layers and with nothing of them profiled, beside how well the machine repeats its own steps, and how many
of many more steps lie in their intervals. What was measured is kept in the store: a second run goes on where the first
stopped. Takes about an hour on two cores; leave the machine alone meanwhile.

    python benchmarks/estimate_accuracy.py --store build/accuracy [--models DIR] [--output docs/estimate-accuracy.md]
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import inf
from pathlib import Path

from latte_cli import child, suites
from latte_cli.backends.torch.training import RunRequest
from latte_cli.backends.torch.whole import run_apart
from latte_cli.estimator import CALIBRATED, ESTIMATORS, Estimate, Estimator, Source
from latte_cli.estimator.calibration import Calibration
from latte_cli.estimator.steps import Step, step_calls
from latte_cli.layers import Layer, Phase
from latte_cli.lookup import Pair
from latte_cli.network import Network, load, zoo
from latte_cli.precisions import Layout, Precision
from latte_cli.store import Store, open_store
from latte_cli.sweep import Budget, Depth, Sweep, Wanted
from latte_cli.worker import Opening, Worker

LOOKED_UP = "look-up, layers profiled"
AGAIN = ("real, before and after the networks", "real, before and after the standard suite")
BUDGETS_S = (15, 60, 240, 900)
PARTS = ("step", "forward", "backward")
PASSES = 4
LEAST_PROFILED = 0.9


@dataclass(frozen=True)
class Case:
    """A network of the zoo, or a model file, at a size and a batch."""

    model: str
    size: int | None
    batch: int

    @property
    def key(self) -> str:
        return f"{Path(self.model).stem} {self.size or ''} {self.batch}"

    @property
    def architecture(self) -> str:
        return Path(self.model).stem

    def network(self) -> Network:
        if Path(self.model).suffix:
            return load(self.model, batch_size=self.batch)
        return zoo.network(self.model, batch_size=self.batch, image_size=self.size)


CASES = [
    Case("alexnet", 224, 4),
    Case("alexnet", 224, 16),
    Case("custom_cnn", 32, 32),
    Case("custom_cnn", 32, 128),
    Case("lenet", 28, 64),
    Case("lenet", 28, 256),
    Case("mobilenet_v2", 224, 2),
    Case("mobilenet_v2", 96, 8),
    Case("mobilenet_v2", 64, 32),
    Case("resnet18", 224, 2),
    Case("resnet18", 64, 16),
    Case("resnet34", 128, 4),
    Case("resnet50", 224, 1),
    Case("resnet50", 96, 8),
    Case("vgg16", 64, 4),
    Case("vgg16", 224, 1),
]
MANY = {
    "alexnet": ((64, 96, 128, 160, 224), (1, 2, 4, 8, 16)),
    "custom_cnn": ((24, 32, 48, 64), (8, 16, 32, 64, 128)),
    "lenet": ((28, 32, 48, 64), (16, 64, 128, 256)),
    "mobilenet_v2": ((64, 96, 128, 160, 224), (1, 2, 4, 8, 16)),
    "resnet18": ((64, 96, 128, 160, 224), (1, 2, 4, 8, 16)),
    "resnet34": ((64, 96, 128, 160, 224), (1, 2, 4, 8)),
    "resnet50": ((64, 96, 128, 160, 224), (1, 2, 4, 8)),
    "vgg16": ((32, 48, 64, 96, 128), (1, 2, 4, 8)),
}
"""Image sizes and batches of more totals, to count how many lie in their intervals."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is measured with, and where it is kept."""

    folder: Path
    device: str
    precision: Precision
    layout: Layout
    seconds: float

    @property
    def standard(self) -> Store:
        return open_store(str(self.folder / "standard"), shipped=False)

    @property
    def networks(self) -> Store:
        return open_store(str(self.folder / "networks"), shipped=False)

    def real(self, case: Case) -> dict[str, float]:
        """Medians of a run of real steps, in a separate process."""
        run = RunRequest(
            model=case.model,
            batch_size=case.batch,
            image_size=case.size,
            device=self.device,
            precision=self.precision,
            layout=self.layout,
            seconds=self.seconds,
        )
        steps = run_apart(run)
        medians = {f"{part}_s": steps.median(f"{part}_s") for part in PARTS}
        return medians | {"faults": steps.faults, "at": time.time()}

    def kept(self, name: str) -> dict[str, list[dict[str, float]]]:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def measured(self, name: str, cases: Sequence[Case], times: int) -> None:
        """Real steps of `cases`, `times` times, the cases taking turns; kept in `name`.json after each."""
        found = self.kept(name)
        for number, case in product(range(times), cases):
            if len(found.setdefault(case.key, [])) <= number:
                found[case.key].append(self.real(case))
                (self.folder / f"{name}.json").write_text(json.dumps(found))
                step_s = found[case.key][-1]["step_s"]
                print(f"{time.strftime('%H:%M:%S')} {name} {case.key}: {step_s * 1e3:.1f} ms", file=sys.stderr)


def profile_standard(setup: Setup, budget: str) -> None:
    words = ["profile", "--suite", "standard", "--budget", budget, "--device", setup.device]
    words += ["--precision", setup.precision, "--layout", setup.layout, "--store", str(setup.folder / "standard")]
    child.call("latte_cli.cli:main", *words, stdout=sys.stderr.buffer)


def profile_networks(setup: Setup, cases: Sequence[Case]) -> None:
    """The framework's own choice for every layer of the cases, and the calibration, in passes over all of them."""
    layers = (work.layer for case in cases for work in step_calls(case.network(), Step()))
    wanted = [Wanted(layer=layer, depth=Depth.DEFAULT) for layer in dict.fromkeys(layers) if not layer.free]
    opening = Opening(device=setup.device, precisions=(setup.precision,), layouts=(setup.layout,))
    store = setup.networks
    with Worker(opening) as worker, store.writer(worker.device) as writer:
        known = any(device.slug == worker.device.slug for device in store.devices())
        earlier = store.measurements(worker.device.slug) if known else []
        both = suites.with_calibration(suites.Drawn(wanted=tuple(wanted)), worker.device.kind, first=False)
        sweep = Sweep(worker, both.wanted, phases=tuple(Phase), earlier=earlier, origin="estimate_accuracy")
        sweep.run(writer, Budget(passes=PASSES, together=True), progress=progress(sweep.size))


def progress(size: int) -> Callable[[int, str], None]:
    """Says on stderr, every 20 s, how many layers are measured."""
    said = [time.monotonic()]

    def say(done: int, label: str) -> None:
        if time.monotonic() - said[0] > 20:
            print(f"{time.strftime('%H:%M:%S')} layers {done} of {size}", file=sys.stderr)
            said[0] = time.monotonic()

    return say


# The report


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case under one estimator: estimated over real, by part, and the shares of its time by source."""

    case: Case
    ratios: dict[str, float]
    shares: dict[str, float]


def estimator(setup: Setup, store: Store, name: str, calibration: Calibration | None = None) -> Estimator:
    slug = store.devices(own=True)[0].slug
    return Estimator(
        store,
        slug,
        precision=setup.precision,
        layout=setup.layout,
        strategy="pytorch",
        estimator=name,
        calibration=calibration if name in CALIBRATED else None,
        note=lambda text: print(text, file=sys.stderr),
    )


def medians(runs: Iterable[dict[str, float]]) -> dict[str, float]:
    rows = list(runs)
    return {part: statistics.median(row[f"{part}_s"] for row in rows) for part in PARTS}


def row(case: Case, estimate: Estimate, real: dict[str, float]) -> Row:
    found = {"step": estimate.step_s, "forward": estimate.forward_s, "backward": estimate.backward_s}
    spent: dict[str, float] = defaultdict(float)
    for part in estimate.parts:
        spent[part.source] += part.count * part.device_s
    total = sum(spent.values())
    ratios = {part: found[part] / real[part] for part in PARTS}
    return Row(case=case, ratios=ratios, shares={source: spent[source] / total for source in Source})


def precision(ratio: float) -> float:
    return 1 - abs(ratio - 1)


def without(folder: Path, layers: frozenset[Layer], name: str, stores: Sequence[Store], seconds: float = inf) -> Store:
    """A store of the rows of the first `seconds` of `stores`, without those of `layers`."""
    target = open_store(str(folder / name), shipped=False)
    slug = stores[0].devices()[0].slug
    if not target.devices():
        with target.writer(stores[0].device(slug)) as writer:
            for store in stores:
                rows = list(store.measurements(slug))
                start = min(row.measured_at for row in rows)
                for row in rows:
                    if row.task.layer not in layers and row.measured_at - start <= seconds:
                        writer.append(row)
    return target


def layers_of(cases: Iterable[Case]) -> frozenset[Layer]:
    return frozenset(work.layer for case in cases for work in step_calls(case.network(), Step()))


def layer_errors(profiled: Sequence[Estimate], found: Sequence[Estimate]) -> list[float]:
    """|estimated / measured - 1| of every layer and phase of the cases, each once."""

    def times(estimates: Sequence[Estimate]) -> dict[Pair, float]:
        parts = (part for estimate in estimates for part in estimate.parts if not part.layer.free)
        return {(part.layer, part.phase): part.device_s for part in parts}

    measured = times(profiled)
    return [abs(time_s / measured[pair] - 1) for pair, time_s in times(found).items()]


def summary(rows: dict[str, list[Row]], errors: dict[str, list[float]]) -> list[str]:
    lines = [
        "| times from | step, mean | worst | forward, mean | backward, mean | layers, median error "
        "| measured / interpolated / predicted |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        means = [statistics.mean(precision(one.ratios[part]) for one in found) for part in PARTS]
        worst = min(precision(one.ratios["step"]) for one in found)
        layers = f"{statistics.median(errors[name]):.1%}" if errors.get(name) else ""
        shares = [statistics.mean(one.shares.get(source, 0.0) for one in found) for source in Source]
        said = " / ".join(f"{share:.0%}" for share in shares) if any(shares) else ""
        lines.append(f"| {name} | {means[0]:.1%} | {worst:.1%} | {means[1]:.1%} | {means[2]:.1%} | {layers} | {said} |")
    return lines


def by_case(cases: Sequence[Case], real: Sequence[dict[str, list[dict[str, float]]]], rows: dict[str, list[Row]]):
    names = [name for name in rows if name not in AGAIN]
    lines = [
        "| network | pixels | batch | real (ms): before | between | after | " + " | ".join(names) + " |",
        "|---|---|---|---|---|---|" + "---|" * len(names),
    ]
    for at, case in enumerate(cases):
        steps = " | ".join(f"{medians(found[case.key])['step'] * 1e3:.1f}" for found in real)
        errors = " | ".join(f"{rows[name][at].ratios['step'] - 1:+.1%}" for name in names)
        lines.append(f"| {case.architecture} | {case.size or ''} | {case.batch} | {steps} | {errors} |")
    return lines


def coverage(one: Estimator, name: str, many: dict[Case, float]) -> tuple[list[str], dict[str, object]]:
    """How many real steps lie in their intervals, and how wide these are."""
    counts: dict[str, list[tuple[bool, bool, float, float]]] = defaultdict(list)
    for case, real in many.items():
        found = one.estimate(case.network())
        counts[case.architecture].append(
            (
                found.step_low_s <= real <= found.step_high_s,
                found.step_low_80_s <= real <= found.step_high_80_s,
                (found.step_high_80_s - found.step_low_80_s) / 2 / found.step_s,
                precision(found.step_s / real),
            )
        )
    everything = [entry for entries in counts.values() for entry in entries]
    lines = [
        f"| {name} | totals | in 95 % | in 80 % | 80 %: median half-width | precision, mean |",
        "|---|---|---|---|---|---|",
    ]
    for architecture, entries in {**counts, "all": everything}.items():
        a, b = (statistics.mean(entry[place] for entry in entries) for place in (0, 1))
        width, close = statistics.median(e[2] for e in entries), statistics.mean(e[3] for e in entries)
        lines.append(f"| {architecture} | {len(entries)} | {a:.0%} | {b:.0%} | {width:.1%} | {close:.1%} |")
    return lines, dict(counts)


def by_budget(
    setup: Setup, own: frozenset[Layer], cases: Sequence[Case], reals: dict[Case, dict[str, float]]
) -> tuple[list[str], dict[str, list[float]]]:
    """The precision that the first seconds of the standard suite give, where an estimate can be made at all.

    Without knowledge of other devices, and with what is shipped.
    """
    lines = [
        "| seconds | rows | alone: cases | step, mean | worst | with what is shipped: cases | step, mean | worst |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found: dict[str, list[float]] = {}
    for seconds in BUDGETS_S:
        everything = without(setup.folder, frozenset(), f"all-{seconds}", [setup.standard], seconds)
        calibration = estimator(setup, everything, "lookup").calibration
        alone = without(setup.folder, own, f"first-{seconds}", [setup.standard], seconds)
        cells = [str(seconds), str(sum(1 for _ in alone.measurements(alone.devices()[0].slug)))]
        for shipped in (False, True):
            store = open_store(str(setup.folder / f"first-{seconds}"), shipped=shipped)
            for kept in (setup.folder / f"first-{seconds}").glob(".models/times-*/card.json"):
                kept.unlink()
            one = estimator(setup, store, "lookup", calibration)
            estimates = [(case, one.estimate(case.network(), allow_unknown=True)) for case in cases]
            ratios = [estimate.step_s / reals[case]["step"] for case, estimate in estimates if not estimate.missing]
            found[f"{seconds} {'shipped' if shipped else 'alone'}"] = ratios
            close = [precision(ratio) for ratio in ratios]
            cells += [str(len(close)), f"{statistics.mean(close):.1%}", f"{min(close):.1%}"] if close else ["0", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines, found


def many_cases(only: int | None) -> list[Case]:
    cases = [Case(name, *pair) for name, grids in MANY.items() for pair in product(*grids)]
    return cases[:only]


def report(setup: Setup, cases: Sequence[Case], leave_out: bool) -> tuple[str, dict[str, object]]:
    real = [setup.kept(name) for name in ("before", "between", "after")]
    around = [{case: medians(first[case.key] + second[case.key]) for case in cases} for first, second in pairwise(real)]
    repeats = [
        [
            Row(
                case=case,
                ratios={part: medians(b[case.key])[part] / medians(a[case.key])[part] for part in PARTS},
                shares={},
            )
            for case in cases
        ]
        for a, b in pairwise(real)
    ]
    own = layers_of(cases)
    # The calibration networks share some layers with the cases, whose rows are left out only after they were summed.
    calibration = estimator(setup, setup.standard, "lookup").calibration
    blind = without(setup.folder, own, "without-own-layers", [setup.standard])
    rows: dict[str, list[Row]] = {}
    errors: dict[str, list[float]] = {}
    profiled: list[Estimate] = []
    plans = [(LOOKED_UP, setup.networks, "lookup")]
    plans += [(f"{name}, nothing profiled", blind, name) for name in ESTIMATORS]
    for title, store, name in plans:
        one = estimator(setup, store, name, calibration if store is blind else None)
        found = [one.estimate(case.network()) for case in cases]
        profiled = profiled or found
        steps = around[title != LOOKED_UP]
        rows[title] = [row(case, estimate, steps[case]) for case, estimate in zip(cases, found, strict=True)]
        errors[title] = layer_errors(profiled, found) if title != LOOKED_UP else []
        measured = max(one.shares[Source.MEASURED] for one in rows[title])
        assert title == LOOKED_UP or measured < LEAST_PROFILED, "an evaluated layer was looked up"
    if leave_out:
        title = "lookup, other architectures profiled"
        rows[title] = []
        for architecture in dict.fromkeys(case.architecture for case in cases):
            ours = [case for case in cases if case.architecture == architecture]
            store = without(setup.folder, layers_of(ours), f"without-{architecture}", [setup.standard, setup.networks])
            one = estimator(setup, store, "lookup", calibration)
            rows[title] += [row(case, one.estimate(case.network()), around[1][case]) for case in ours]
    rows |= dict(zip(AGAIN, repeats, strict=True))
    text = ["## Precision, 1 - |error|", "", *summary(rows, errors)]
    text += ["", "## Error of the step by case", "", *by_case(cases, real, rows)]
    body: dict[str, object] = {
        "cases": [case.key for case in cases],
        "real": {case.key: [medians(found[case.key]) for found in real] for case in cases},
        "ratios": {title: [one.ratios for one in found] for title, found in rows.items()},
        "shares": {title: [one.shares for one in found] for title, found in rows.items()},
        "layers": {title: statistics.median(found) for title, found in errors.items() if found},
    }
    lines, body["budgets"] = by_budget(setup, own, cases, around[1])
    text += ["", "## Precision against the time spent on the standard suite", "", *lines]
    if many := setup.kept("many"):
        wanted = {case: medians(many[case.key])["step"] for case in many_cases(None) if many.get(case.key)}
        blind = without(setup.folder, layers_of(wanted), "without-many", [setup.standard])
        one = estimator(setup, blind, "lookup", calibration)
        lines, body["intervals"] = coverage(one, "nothing profiled", wanted)
        text += ["", "## Real steps inside their intervals", "", *lines]
    return "\n".join(text), body


def preface(setup: Setup) -> str:
    device = setup.standard.devices()[0]
    rows = sum(1 for _ in setup.standard.measurements(device.slug))
    libraries = ", ".join(f"{name} {version}" for name, version in device.libraries)
    return f"""# Estimates against real training steps

`python benchmarks/estimate_accuracy.py` prints these tables, from a separate store; this was on {device.name}
({device.multiprocessors} cores; {libraries}), {setup.precision} {setup.layout}, SGD. Real steps run in a separate
process that has freed a block of nearly 32 MiB before, as reading weights or data does. Each estimate is compared with
the median of runs right before and right after what it is made from. The last rows compare the runs after with those
before: how well the machine repeats itself, which bounds what an estimate can reach. The standard suite had 15 minutes
and {rows} rows. In rows with nothing profiled no layer of any evaluated network was among the rows; the calibration
networks, whose layers are, are never evaluated.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", type=Precision, default=Precision.FP32)
    parser.add_argument("--layout", type=Layout, default=Layout.NCHW)
    parser.add_argument("--models", type=Path, help="a folder of ONNX files to take instead of the zoo's networks")
    parser.add_argument("--batch-size", type=int, action="append", help="for --models; repeatable [default: 1 and 8]")
    parser.add_argument("--budget", default="15m", help="of the standard suite")
    parser.add_argument("--times", type=int, default=3, help="how often the real steps are measured before and after")
    parser.add_argument("--seconds", type=float, default=1.5, help="of real steps for each case and time")
    parser.add_argument("--many", type=int, default=None, help="how many totals to hold intervals against [all]")
    parser.add_argument("--leave-out", action="store_true", help="also leave out one architecture at a time")
    parser.add_argument("--report-only", action="store_true", help="measure nothing more")
    parser.add_argument("--output", type=Path, help="a Markdown file; the figures go into a JSON file beside it")
    given = parser.parse_args()
    setup = Setup(
        folder=given.store,
        device=given.device,
        precision=given.precision,
        layout=given.layout,
        seconds=given.seconds,
    )
    given.store.mkdir(parents=True, exist_ok=True)
    cases = CASES
    if given.models:
        batches = given.batch_size or [1, 8]
        cases = [Case(str(path), None, batch) for path in sorted(given.models.glob("*.onnx")) for batch in batches]
    if not given.report_only:
        setup.measured("before", cases, given.times)
        profile_networks(setup, cases)
        setup.measured("between", cases, given.times)
        profile_standard(setup, given.budget)
        setup.measured("after", cases, given.times)
        if not given.models:
            setup.measured("many", many_cases(given.many), 1)
    text, body = report(setup, cases, given.leave_out)
    print(text)
    if given.output:
        given.output.write_text(f"{preface(setup)}\n{text}\n")
        given.output.with_suffix(".json").write_text(json.dumps(body, indent=1))


if __name__ == "__main__":
    main()
