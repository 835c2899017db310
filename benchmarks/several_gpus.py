"""Steps of 2 to 4 GPUs with DataParallel, predicted from the step of one, on the public table of three machines.

The model has two numbers: what Python spends on each leaf module of each GPU's replica, and the rate of the link. It
takes the measured step of one GPU, and of the network its leaf modules and bytes as LATTE reads them
(`several_gpus.json`, which `--read` makes anew; that needs torchvision). Both numbers are fitted by absolute logarithms
of the error on some machines, and judged on others: fitted on each machine alone, and with each held out. `measured
link` takes the rate of the judged machine from its own fp32 step of one network, LINK_NETWORK, at each number of GPUs,
as `--link` takes it from a measurement; that network is left out of the mean. Beside it stand two simpler ways: the
step of one GPU as it is, and that plus all bytes over a fitted rate. A file whose steps vary by more than DISTURBED,
from the 10th to the 90th percentile of the middle network, was measured beside something else: means with and without.

    python benchmarks/several_gpus.py --data ../shared/data [--read] [--output docs/several-gpus.md]
"""

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, inf, log
from pathlib import Path
from statistics import fmean, median

from latte_cli.estimator.data_parallel import leaf_modules, replicas_host_s, replicas_moved_s
from latte_cli.estimator.links import Link

FILES = ("results/2080ti(2)", "results/TITANXP", "results/TitanRTX")  # `new_results` repeats the first
ELEMENT_BYTES = {"fp16": 2, "fp32": 4, "fp64": 8}
LINK_NETWORK = "vgg11"
DISTURBED = 1.5
FACTS = Path(__file__).with_suffix(".json")
NO_LINK = Link(bandwidth_bytes_per_s=inf)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network's step on `gpus` GPUs of one machine, in seconds, and on one of them."""

    machine: str
    precision: str
    network: str
    gpus: int
    step_s: float
    alone_s: float
    modules: int
    bytes_each_way: int
    disturbed: bool


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What is fitted: seconds for a module of a replica, and bytes per second."""

    replica_s: float
    bandwidth_bytes_per_s: float

    def step_s(self, row: Row, link: Link | None = None) -> float:
        link = link or Link(bandwidth_bytes_per_s=self.bandwidth_bytes_per_s)
        moved_s = replicas_moved_s(link, row.gpus, row.bytes_each_way, row.bytes_each_way)
        return row.alone_s + replicas_host_s(row.gpus, row.modules, self.replica_s) + moved_s


def read_facts() -> dict[str, dict[str, int]]:
    """Of each network in the table: leaf modules and numbers of parameters and buffers, as LATTE reads them."""
    import torch
    from torchvision import models

    from latte_cli import load

    found = {}
    for name in sorted(json.loads(FACTS.read_text())):
        network = load(models.get_model(name, weights=None).train(), torch.zeros(2, 3, 224, 224))
        numbers = network.parameters + network.buffer_bytes // ELEMENT_BYTES["fp32"]
        found[name] = {"modules": leaf_modules(network), "numbers": numbers}
    return found


def read_rows(path: Path) -> list[Row]:
    facts = json.loads(FACTS.read_text())
    with gzip.open(path, "rt") as file:
        lines = [line for line in csv.DictReader(file) if line["folder"] in FILES and line["phase"] == "train"]
    keyed = {(line["gpu"], line["precision"], line["network"], int(line["gpus"])): line for line in lines}
    spreads: dict[tuple[str, str, int], list[float]] = {}
    for (machine, precision, _, gpus), line in keyed.items():
        spreads.setdefault((machine, precision, gpus), []).append(float(line["p90_ms"]) / float(line["p10_ms"]))
    return [
        Row(
            machine=machine,
            precision=precision,
            network=network,
            gpus=gpus,
            step_s=float(line["median_ms"]) / 1e3,
            alone_s=float(keyed[machine, precision, network, 1]["median_ms"]) / 1e3,
            modules=facts[network]["modules"],
            bytes_each_way=facts[network]["numbers"] * ELEMENT_BYTES[precision],
            disturbed=median(spreads[machine, precision, gpus]) > DISTURBED,
        )
        for (machine, precision, network, gpus), line in keyed.items()
        if gpus > 1
    ]


def fit(rows: Sequence[Row], *, host: bool = True) -> Fit:
    """The two numbers with the least mean absolute logarithm of the error; without `host` the rate alone."""
    best, span = (log(1e-4), log(1e10)), (2.0, 2.0)

    def loss(logs: tuple[float, float]) -> float:
        own = Fit(replica_s=exp(logs[0]) if host else 0.0, bandwidth_bytes_per_s=exp(logs[1]))
        return fmean(abs(log(own.step_s(row) / row.step_s)) for row in rows)

    for _ in range(12):  # a grid about the best so far, half as wide each time
        near = [(best[0] + span[0] * i / 4, best[1] + span[1] * j / 4) for i in range(-4, 5) for j in range(-4, 5)]
        best = min(near if host else [each for each in near if each[0] == best[0]], key=loss)
        span = (span[0] / 2, span[1] / 2)
    return Fit(replica_s=exp(best[0]) if host else 0.0, bandwidth_bytes_per_s=exp(best[1]))


def measured_links(fitted: Fit, rows: Iterable[Row]) -> dict[tuple[str, int], Link]:
    """The link of each machine and number of GPUs, as the step of LINK_NETWORK tells it."""
    links = {}
    for row in rows:
        if (row.network, row.precision) == (LINK_NETWORK, "fp32"):
            moved_s = max(row.step_s - fitted.step_s(row, NO_LINK), 1e-3)
            links[row.machine, row.gpus] = Link(bandwidth_bytes_per_s=2 * row.bytes_each_way / moved_s)
    return links


def errors(rows: Sequence[Row], predicted_s: Callable[[Row], float]) -> dict[Row, float]:
    return {row: abs(predicted_s(row) / row.step_s - 1) for row in rows}


def judge(training: Sequence[Row], test: Sequence[Row]) -> dict[str, dict[Row, float]]:
    """The relative error of each way on each row of `test`."""
    fitted, plain = fit(training), fit(training, host=False)
    links = measured_links(fitted, test)
    others = [row for row in test if row.network != LINK_NETWORK]
    return {
        "same as one GPU": errors(test, lambda row: row.alone_s),
        "plus bytes / rate": errors(test, plain.step_s),
        "LATTE": errors(test, fitted.step_s),
        "LATTE, measured link": errors(others, lambda row: fitted.step_s(row, links[row.machine, row.gpus])),
    }


def table(rows: Sequence[Row]) -> tuple[list[str], list[dict[str, dict[Row, float]]]]:
    """A line for each split and precision, and the errors of the splits."""
    machines = list(dict.fromkeys(row.machine for row in rows))
    splits = [(f"{one} alone", [one], [each for each in machines if each != one]) for one in machines]
    splits += [(f"all but {one}", [each for each in machines if each != one], [one]) for one in machines]
    lines, found = [], []
    for title, learned, judged in splits:
        both = judge(
            [row for row in rows if row.machine in learned and not row.disturbed],
            [row for row in rows if row.machine in judged],
        )
        found.append(both)
        for precision in (*ELEMENT_BYTES, "all"):
            cells = [mean(one, lambda row, p=precision: p in (row.precision, "all")) for one in both.values()]
            lines.append(f"| {title} | {', '.join(judged)} | {precision} | {' | '.join(cells)} |")
    return lines, found


def mean(found: dict[Row, float], wanted: Callable[[Row], bool] = lambda row: True) -> str:
    return f"{100 * fmean(error for row, error in found.items() if wanted(row)):.1f} %"


def report(rows: Sequence[Row]) -> str:
    lines, found = table(rows)
    ways = list(found[0])
    head = ["| fitted on | judged on | precision | " + " | ".join(ways) + " |", "|---|---|---|" + "--:|" * len(ways)]
    short = ["| mean of | rows | " + " | ".join(ways) + " |", "|---|---|" + "--:|" * len(ways)]
    for title, own in (("fitted on one machine", found[:3]), ("fitted on two", found[3:])):
        for which, wanted in (("all", lambda row: True), ("undisturbed", lambda row: not row.disturbed)):
            pooled = [{(at, row): e for at, each in enumerate(own) for row, e in each[way].items()} for way in ways]
            means = [fmean(e for (_, row), e in one.items() if wanted(row)) for one in pooled]
            short.append(f"| {title} | {which} | " + " | ".join(f"{100 * each:.1f} %" for each in means) + " |")
    quiet = [row for row in rows if not row.disturbed]
    whole = fit(quiet)
    links = measured_links(whole, rows)
    rates = ["| machine | 2 GPUs | 3 GPUs | 4 GPUs |", "|---|--:|--:|--:|"]
    for machine in dict.fromkeys(row.machine for row in rows):
        own = (f"{links[machine, gpus].bandwidth_bytes_per_s / 1e9:.1f} GB/s" for gpus in (2, 3, 4))
        rates.append(f"| {machine} | {' | '.join(own)} |")
    noisy = sorted({f"{row.machine}, {row.precision}, {row.gpus} GPUs" for row in rows if row.disturbed})
    return "\n".join(
        [
            *short,
            "",
            f"{len(rows)} steps; disturbed: {'; '.join(noisy)}.",
            "",
            *head,
            *lines,
            "",
            f"Fitted on all undisturbed steps: {1e6 * whole.replica_s:.1f} us a module, "
            f"{whole.bandwidth_bytes_per_s / 1e9:.2f} GB/s. The links that {LINK_NETWORK} tells with them:",
            "",
            *rates,
        ]
    )


PREFACE = """# Several GPUs: steps predicted from one GPU's

`python benchmarks/several_gpus.py --data PATH` prints these tables from the public steps of
ryujaehun/pytorch-gpu-benchmark: 32 networks of torchvision, batch 12 on each GPU, three precisions, DataParallel on 2,
3 and 4 GPUs of three machines. Means of |error| of the step of several GPUs. "same as one GPU" and "plus bytes / rate"
are the simple ways; LATTE's two numbers, seconds for a module of a replica and the link's rate, come from the machines
named under "fitted on" alone. "measured link" takes the rate of the judged machine from one network's fp32 step, which
is left out of the mean. [How to](how-to/several-gpus.md) price a step of several GPUs.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--read", action="store_true", help="read the networks anew; needs torchvision")
    parser.add_argument("--output", type=Path, help="a Markdown file")
    given = parser.parse_args()
    if given.read:
        FACTS.write_text(json.dumps(read_facts(), indent=1) + "\n")
    path = given.data / "steps" / "pytorch_gpu_benchmark.csv.gz"
    if not path.exists():
        print(f"`{path}` is absent: nothing to compare with", file=sys.stderr)
        return 0
    text = report(read_rows(path))
    print(text)
    if given.output:
        given.output.write_text(f"{PREFACE}\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
