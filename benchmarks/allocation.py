"""Allocation on this machine: what fine widths keep against one width for all, and whether real rounds end in time.

Profiles this machine into a separate store (the standard suite, then the networks at uniform widths), allocates a
sub-model of ResNet-18 and of MobileNetV2 for rounds of 30, 50 and 70 % of the whole model's, with both objectives and
with the best uniform width on a grid of 1/64, measures the layers of what was planned and plans again; then really
trains every sub-model, round by round in turn, on handwritten digits. What was measured is kept in the store: a second
run goes on where the first stopped. Takes about 50 minutes on two cores; leave the machine alone meanwhile.

    python benchmarks/allocation.py --store build/allocation [--output docs/allocation.md]
    python benchmarks/allocation.py --speed      # a large fleet, and how long fine widths take: no profile needed
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np

from latte_cli import child
from latte_cli.allocator import (
    SHARES,
    Devices,
    Method,
    Objective,
    Plan,
    Pricer,
    Round,
    Search,
    SubModel,
    assign,
    catalogue,
    largest,
    plan_device,
    plan_document,
    shared_out,
)
from latte_cli.errors import ExitCode
from latte_cli.estimator import Estimator
from latte_cli.fleet import FleetClass
from latte_cli.network import Network, load, zoo
from latte_cli.network.parts import Cutter
from latte_cli.store import open_store
from latte_cli.store.columns import write_columns

NETWORKS = ("resnet18", "mobilenet_v2")
SIZE, BATCH, CLASSES = 224, 8, 10
SAMPLES, TESTED, ROUNDS, RATE = 480, 800, 4, 0.02
FRACTIONS = (0.3, 0.5, 0.7)
GRID = tuple(at / 64 for at in range(4, 65))
MEASURED_WIDTHS = "1,0.75,0.5,0.25"
KINDS = ("uniform", Objective.BALANCED, Objective.PARAMETERS)
STRATEGY = "pytorch"  # what a module of torch runs by itself
NAME = "alloc"
PASSES = 2


def latte(*arguments: str) -> None:
    """Run a command of this checkout; a budget that ran out is no failure."""
    print("$ latte", *arguments, file=sys.stderr, flush=True)
    code = child.call("latte_cli.cli:main", "--quiet", *arguments, stdout=subprocess.DEVNULL)
    if code != ExitCode.DONE:
        sys.exit(f"latte {arguments[0]} ended with code {code}")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A network, and the share of the whole model's round that its rounds may take."""

    network: str
    fraction: float


class Machine:
    """This machine's profile in a store, and the networks as files beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store_uri = folder, str(folder / "store")
        folder.mkdir(parents=True, exist_ok=True)
        for name in NETWORKS:
            self.path(name).write_bytes(zoo.export(name, image_size=SIZE, classes=CLASSES))
        self.slug = ""

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.onnx"

    def profile(self, budget: str) -> None:
        done = self.folder / "profiled"
        if not done.exists():
            latte("profile", "--suite", "standard", "--budget", budget, "--name", NAME, "--store", self.store_uri)
            for name in NETWORKS:
                self.measure(name, "--batch-size", str(BATCH), "--widths", MEASURED_WIDTHS)
            done.touch()
        self.slug = next(each.slug for each in open_store(self.store_uri).devices() if each.slug.startswith(NAME))

    def measure(self, name: str, *more: str) -> None:
        passes = ("--passes", str(PASSES), "--name", NAME, "--store", self.store_uri)
        latte("profile", str(self.path(name)), *more, *passes)

    def fleet_class(self, name: str) -> FleetClass:
        return FleetClass(
            name=name, device=self.slug, samples=SAMPLES, batch=BATCH, up_bit_per_s=1e11, down_bit_per_s=1e11
        )

    def pricer(self, name: str) -> Pricer:
        estimator = Estimator(open_store(self.store_uri), self.slug, strategy=STRATEGY)
        return Pricer(lambda batch: load(self.path(name), batch_size=batch), lambda _: estimator)


def plans(machine: Machine, whole_s: dict[str, float]) -> dict[tuple[Goal, str], Round]:
    """The best of each kind for every goal, by what the store holds now."""
    found: dict[tuple[Goal, str], Round] = {}
    for name in NETWORKS:
        price, own = machine.pricer(name), machine.fleet_class(name)
        network = price.whole(BATCH)
        uniform = [price(each, own) for each in catalogue(network, GRID)]
        whole_s.setdefault(name, uniform[0].round_s or 0.0)
        searches = {objective: Search(price, own, objective, SHARES) for objective in Objective}
        for fraction in FRACTIONS:
            goal, duration_s = Goal(network=name, fraction=fraction), fraction * whole_s[name]
            for kind in KINDS:
                best = searches[kind].best(duration_s) if kind in searches else largest(uniform, duration_s)
                if best is None:
                    print(f"nothing of {name} ({kind}) meets {fraction:.0%} of the whole model's", file=sys.stderr)
                else:
                    found[goal, kind] = best
    return found


def measure_plans(machine: Machine, found: dict[tuple[Goal, str], Round]) -> None:
    """Measure the layers of the sub-models that were planned."""
    for name in NETWORKS:
        network = load(machine.path(name), batch_size=BATCH)
        rounds = [each for (goal, _), each in found.items() if goal.network == name]
        classes = [replace(machine.fleet_class(name), name=str(at)) for at in range(len(rounds))]
        subs = [replace(each.sub_model, id=str(at)) for at, each in enumerate(rounds)]
        devices = [
            plan_device(own, [each], replace(each, sub_model=sub))
            for own, each, sub in zip(classes, rounds, subs, strict=True)
        ]
        plan = Plan(round_duration_s=1.0, sub_models=tuple(subs), devices=tuple(devices))
        file = shared_out(plan, network, objective="catalogue", method=Method.NESTED)
        path = machine.folder / f"{name}.json"
        path.write_text(json.dumps(plan_document(file)), "utf-8")
        machine.measure(name, "--plan", str(path))


def logarithms(network: Network, sub_model: SubModel) -> float:
    """Σ log(width / channels) over the groups."""
    whole = dict(catalogue(network, (1.0, 0.5))[0].widths)
    return sum(math.log(width / whole[name]) for name, width in sub_model.widths)


# Real rounds, each sub-model in a separate process, whose heap is that of a training script


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How long the rounds of a sub-model took, and how good it was after them."""

    times_s: Sequence[float]
    accuracy: float


def trained(machine: Machine, found: dict[tuple[Goal, str], Round]) -> dict[tuple[str, SubModel], Trained]:
    """Every distinct sub-model, and the whole models."""
    wanted: dict[tuple[str, SubModel], Path] = {}
    for name in NETWORKS:
        network = load(machine.path(name), batch_size=BATCH)
        cutter = Cutter(machine.path(name), network)
        whole = catalogue(network, (1.0,))[0]
        for sub_model in (whole, *(each.sub_model for (goal, _), each in found.items() if goal.network == name)):
            if (name, sub_model) not in wanted:
                wanted[name, sub_model] = machine.folder / f"{name}-{len(wanted)}.onnx"
                kept = {group: range(width) for group, width in sub_model.widths}
                wanted[name, sub_model].write_bytes(cutter.part(kept).onnx)
    trained = {}
    for key, path in wanted.items():
        trained[key] = Trained(**child.ask(f"{Path(__file__).stem}:train", str(path)))
        times = ", ".join(f"{time_s:.2f}" for time_s in trained[key].times_s)
        print(f"{len(trained)} of {len(wanted)}: {times} s, {trained[key].accuracy:.1%}", file=sys.stderr, flush=True)
    return trained


def train(path: str) -> dict[str, Any]:
    """The rounds of one sub-model in this process."""
    import torch

    from latte_cli.federated import data
    from latte_cli.network.module import NetworkModule, training_step

    every = data.load_examples("mnist", channels=3, image_size=SIZE)
    order = np.random.default_rng(0).permutation(len(every.labels))
    images, labels = torch.from_numpy(every.images[order]), torch.from_numpy(every.labels[order])
    module = NetworkModule(load(path, batch_size=BATCH), seed=0)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    times_s = []
    for number in range(ROUNDS):
        batches = np.random.default_rng(number).permutation(SAMPLES).reshape(-1, BATCH)
        started = time.perf_counter()
        for batch in batches:
            training_step(module, (images[batch],), labels[batch], optimizer)
        times_s.append(time.perf_counter() - started)
    module.eval()
    tested = np.arange(SAMPLES, SAMPLES + TESTED).reshape(-1, BATCH)
    with torch.no_grad():
        right = sum(int((module(images[batch]).argmax(1) == labels[batch]).sum()) for batch in tested)
    return {"times_s": times_s, "accuracy": right / tested.size}


def report(
    machine: Machine,
    found: dict[tuple[Goal, str], Round],
    trainees: dict[tuple[str, SubModel], Trained],
    whole_s: dict[str, float],
) -> Iterable[str]:
    networks = {name: load(machine.path(name), batch_size=BATCH) for name in NETWORKS}
    yield "# Allocation: fine widths against one for all, and real rounds"
    yield ""
    yield "`python benchmarks/allocation.py` prints this."
    yield ""
    yield f"Device `{machine.slug}`; images of {SIZE} pixels, batch {BATCH}, {ROUNDS} rounds of {SAMPLES} examples,"
    yield f"strategy `{STRATEGY}`. U is a share of the whole model's estimated round, which upper ends have to meet."
    yield ""
    yield (
        "| network | U | widths | parameters | Σ log width | accuracy | round estimated | upper end | measured | "
        "measured / estimated | measured / U |"
    )
    yield "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    gains: defaultdict[str, list[float]] = defaultdict(list)
    late, errors, repeats = [], [], []
    for (goal, kind), each in found.items():
        trainee, duration_s = trainees[goal.network, each.sub_model], goal.fraction * whole_s[goal.network]
        own_s = median(trainee.times_s)
        ratio = own_s / (each.round_s or math.nan)
        uniform = found.get((goal, "uniform"))
        if kind != "uniform":
            gains[kind] += [each.sub_model.parameters / uniform.sub_model.parameters] if uniform else []
            late += [time_s > 1.05 * duration_s for time_s in trainee.times_s]
            errors += [abs(time_s / (each.round_s or math.nan) - 1) for time_s in trainee.times_s]
            repeats += [abs(time_s / own_s - 1) for time_s in trainee.times_s]
        name = f"{each.sub_model.width:.4g} for all" if kind == "uniform" else f"fine, {kind}"
        logs = logarithms(networks[goal.network], each.sub_model)
        yield (
            f"| {goal.network} | {goal.fraction:.0%} = {duration_s:.2f} s | {name} | {each.sub_model.parameters:,} | "
            f"{logs:.1f} | {trainee.accuracy:.1%} | {each.round_s:.2f} s | {each.high_s:.2f} s | {own_s:.2f} s | "
            f"{ratio:.3f} | {own_s / duration_s:.3f} |"
        )
    yield ""
    for name in NETWORKS:
        whole = next(each for (network, sub), each in trainees.items() if network == name and sub.width == 1)
        yield (
            f"- the whole {name}: {networks[name].parameters:,} parameters, estimated {whole_s[name]:.2f} s, measured "
            f"{median(whole.times_s):.2f} s, accuracy {whole.accuracy:.1%}"
        )
    for kind, ratios in gains.items():
        yield (
            f"- parameters of `{kind}` against the best uniform width: geometric mean {geometric_mean(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    yield f"- {1 - np.mean(late):.0%} of {len(late)} real rounds ended by 1.05 U"
    yield (
        f"- median |measured / estimated - 1| {median(errors):.1%}, 90 % of rounds {np.quantile(errors, 0.9):.1%}; a "
        f"round against the median of its repeats: median {median(repeats):.1%}, 90 % {np.quantile(repeats, 0.9):.1%}"
    )


# Speed


def speed() -> Iterable[str]:
    """A million devices in 200 classes by 512 sub-models; fine widths of ResNet-50 on a shipped profile."""
    store, slug = open_store(None), "reference-amd-epyc-family-26-model-2-2c-2t"
    estimator = Estimator(store, slug)
    own = FleetClass(name="one", device=slug, samples=320, batch=16, up_bit_per_s=1e8, down_bit_per_s=1e8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generator = np.random.default_rng(0)
    count, classes, subs = 1_000_000, 200, 512
    fleet = [replace(own, name=f"c{at}") for at in range(classes)]
    rounds = [list(_rounds(each, generator.uniform(0.5, 1.5, subs), slug)) for each in fleet]
    devices = Devices(
        classes=generator.integers(0, classes, count),
        own={
            "samples": generator.integers(50, 500, count).astype(float),
            "up_bit_per_s": generator.uniform(1e6, 1e8, count),
            "memory_bytes": generator.uniform(1e8, 3e9, count),
        },
    )
    started = time.process_time()
    found = assign(fleet, rounds, devices, 60.0)
    taken_s = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield "# Allocation: how long it takes"
    yield ""
    yield (
        f"{count:,} devices in {classes} classes choose among {subs} sub-models. Each device has its own samples, rate "
        f"and memory. This takes {taken_s:.1f} s of one core and {(peak - before) / 1024:.0f} MiB, "
        f"{peak / 1024:.0f} MiB with what was there before. "
        f"{np.mean(found.chosen >= 0):.0%} of the devices get a sub-model."
    )
    yield ""
    yield from command(slug)
    yield ""
    price = Pricer(lambda batch: zoo.network("resnet50", batch_size=batch), lambda _: estimator)
    whole_s = price(catalogue(price.whole(16), (1.0,))[0], own).high_s or 0.0
    yield "| fine widths of ResNet-50, 37 groups, U | objective | parameters kept | Σ log width | CPU seconds |"
    yield "|--:|---|--:|--:|--:|"
    for objective in Objective:
        for fraction in FRACTIONS:
            started = time.process_time()
            best = Search(price, own, objective).best(fraction * whole_s)
            taken_s = time.process_time() - started
            kept = best.sub_model.parameters / price.whole(16).parameters if best else 0.0
            logs = logarithms(price.whole(16), best.sub_model) if best else -math.inf
            yield f"| {fraction:.0%} | {objective} | {kept:.1%} | {logs:.2f} | {taken_s:.2f} |"


def command(slug: str, count: int = 1_000_000) -> Iterable[str]:
    """The process `latte allocate --devices`: ResNet-18, eight classes, four widths; its time and its peak memory."""
    generator, batches = np.random.default_rng(0), range(8, 72, 8)
    bandwidth = {"up": "100Mbit", "down": "100Mbit"}
    classes = [
        {"class": f"b{batch}", "device": slug, "samples": 320, "batch": batch, "bandwidth": bandwidth}
        for batch in batches
    ]
    columns = {
        "device": [f"phone-{at:07d}" for at in range(count)],
        "class": generator.choice([each["class"] for each in classes], count),
        "samples": generator.integers(50, 500, count),
        "up_bit_per_s": generator.uniform(1e6, 1e8, count),
        "memory_bytes": generator.integers(10**8, 3 * 10**9, count),
    }
    yield "| the whole command, with the devices from | to | seconds | CPU seconds | peak, MB |"
    yield "|---|---|--:|--:|--:|"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "fleet.yaml").write_text(json.dumps({"round_duration": "60s", "classes": classes}))
        (root / "resnet18.onnx").write_bytes(zoo.export("resnet18"))
        for suffix in (".parquet", ".csv"):
            write_columns(root / f"devices{suffix}", columns)
            options = ["--fleet", "fleet.yaml", "--devices", f"devices{suffix}", "-o", f"out{suffix}"]
            started = time.perf_counter()
            run = subprocess.Popen(
                ["latte", "allocate", "resnet18.onnx", *options], cwd=root, stdout=subprocess.DEVNULL
            )
            _, status, used = os.wait4(run.pid, 0)
            assert os.waitstatus_to_exitcode(status) in (ExitCode.DONE, ExitCode.EXCEEDED)
            wall_s, cpu_s = time.perf_counter() - started, used.ru_utime + used.ru_stime
            yield f"| {suffix} | {suffix} | {wall_s:.1f} | {cpu_s:.1f} | {used.ru_maxrss * 1024 / 1e6:.0f} |"


def _rounds(own: FleetClass, factors: Sequence[float], slug: str) -> Iterable[Round]:
    for at, factor in enumerate(factors, start=1):
        parameters, step_s = 20_000 * at, 0.002 * at * factor
        yield Round(
            sub_model=SubModel(id=f"s{at}", widths=(), parameters=parameters),
            device=slug,
            memory_bytes=4_000_000 * at,
            round_s=own.round_s(step_s, parameters),
            low_s=own.round_s(0.9 * step_s, parameters),
            high_s=own.round_s(1.1 * step_s, parameters),
            step_high_s=1.1 * step_s,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("build/allocation"))
    parser.add_argument("--budget", default="15m", help="for the standard suite")
    parser.add_argument(
        "--plans", type=int, default=3, help="how often to plan, with the plan's layers measured between"
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    if arguments.speed:
        lines = list(speed())
    else:
        machine = Machine(arguments.store)
        machine.profile(arguments.budget)
        whole_s: dict[str, float] = {}
        found = plans(machine, whole_s)
        for _ in range(arguments.plans - 1):
            measure_plans(machine, found)
            whole_s.clear()
            found = plans(machine, whole_s)
        lines = list(report(machine, found, trained(machine, found), whole_s))
    text = "\n".join(lines) + "\n"
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
