"""How well times on a device are told by its data sheet: each device left out of the fit with all its rows.

Precision is 1 - |error|, the mean over networks. The data are third parties' (docs/datasheets.md names them); what is
absent is skipped, saying so. `datasheets_networks.py` makes the file of networks, once. `--fit` writes the parameters
that ship.

    python benchmarks/datasheets.py --data ../shared/data --networks build/networks.json [--fit] [--only TABLE]
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasheets_fit import Fit, Row, clocks, compose, expected, fit, in_order, problem
from datasheets_rows import (
    Block,
    deepbench_blocks,
    networks,
    neusight_blocks,
    pass_blocks,
    profile_blocks,
    step_blocks,
    thinned,
)

from latte_cli.datasheets import sheet_named
from latte_cli.layers import Phase
from latte_cli.lookup import Z95
from latte_cli.precisions import Precision
from latte_cli.sheet_model import Machine, fit_machine
from latte_cli.store import open_store

SIZES = {"neusight": 250, "deepbench": 300, "profile": 400}
"""Rows of a block that a fit reads at most; all are read where they are judged."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """How a fit is built: without the rows of a source, and with narrower priors of parameters with a word."""

    without: str = ""
    narrow: str = ""
    width: float = 1.0


MEMBERS: Mapping[str, Member] = {
    "all": Member(),
    "without DeepBench": Member(without="deepbench"),
    "without NeuSight": Member(without="neusight"),
    "without cnn-benchmarks": Member(without="passes"),
    "half the priors' spreads": Member(width=0.5),
    "families alike": Member(narrow=" on ", width=0.25),
}
"""The fits whose logarithms' mean is taken. The last two differ in what they let parameters learn."""

FAMILY = {"resnext": "resnet", "wide": "resnet", "mnasnet": "mobile", "mobilenet": "mobile"}
PROBES = ("vgg16", "densenet121")
"""Two networks measured on the target: one bound by the device, one of many calls."""

LAYER_SPREAD, ALIKE = 0.35, 0.1
CARD = Path(__file__).parents[1] / "latte_cli/sheet_model/fitted.json"

SOURCES = (
    ("pytorch-gpu-benchmark", "https://github.com/ryujaehun/pytorch-gpu-benchmark", "MIT"),
    ("cnn-benchmarks", "https://github.com/jcjohnson/cnn-benchmarks", "MIT"),
    ("DeepBench", "https://github.com/baidu-research/DeepBench", "Apache-2.0"),
    ("NeuSight", "https://github.com/sitar-lab/NeuSight", "MIT"),
    ("LATTE's shipped profiles", "https://github.com/lattecore/LATTE", "Apache-2.0"),
)


def precision_of(mine: np.ndarray, rows: Sequence[Row]) -> np.ndarray:
    return 1 - np.abs(np.exp(mine - np.array([row.log_seconds for row in rows])) - 1)


def family(network: str) -> str:
    word = re.match("[a-z]+", network)
    return FAMILY.get(word[0], word[0]) if word else network


class Judge:
    """Fits that leave rows out, and what they expect of those rows."""

    def __init__(self, blocks: Sequence[Block], names: Sequence[str]) -> None:
        self.names = names
        self.known: dict[tuple[str, str, str], Fit] = {}
        self.whole = problem(blocks)
        self.thin = problem([thinned(block, SIZES.get(block.source, 300)) for block in blocks])

    def member(self, name: str, device: str = "", left_out: str = "") -> Fit:
        """The fit called `name` without the rows of a device and, of whole networks, those of a family."""
        key = (name, device, left_out)
        if key not in self.known:
            member = MEMBERS[name]
            rows = [
                row
                for row in self.thin.rows
                if row.block.source != member.without
                and row.block.device != device
                and (row.block.what == "layer" or not left_out or family(row.label) != left_out)
            ]
            start = None if (name, left_out) == ("all", "") else self.member("all", device)
            self.known[key] = fit(self.thin.kept(rows), start, narrow=member.narrow, width=member.width)
        return self.known[key]

    def members(self, device: str = "") -> list[Fit]:
        """The fits whose mean is taken, without the rows of a device."""
        return [self.member(name, device) for name in self.names]

    def expected(self, rows: Sequence[Row], fits: Sequence[Fit]) -> np.ndarray:
        return expected(self.whole.kept(rows), fits)

    def rows(self, what: str, device: str, precision: Precision = Precision.FP32) -> list[Row]:
        found = (row for row in self.whole.rows if row.block.what == what and row.block.device == device)
        return [row for row in found if row.block.precision is precision]

    def devices(self, what: str) -> list[str]:
        return list(dict.fromkeys(row.block.device for row in self.whole.rows if row.block.what == what))

    def two_measured(self, device: str, fits: Sequence[Fit]) -> np.ndarray:
        """Precision on each machine of a device after two networks were measured on it, of the others."""
        found = []
        device_s, host_s = clocks(self.whole, fits)
        extra = np.mean([member.extra for member in fits], axis=0)
        own = self.rows("step", device)
        for name in dict.fromkeys(row.block.machine for row in own):
            rows = [row for row in own if row.block.machine == name]
            probes = [row for row in rows if row.label in PROBES]
            others = [row for row in rows if row.label not in PROBES]

            def logs(rows: Sequence[Row], machine: Machine, name: str = name) -> np.ndarray:
                factors = {name: (float(np.log(machine.device_factor)), float(np.log(machine.host_factor)))}
                return compose(rows, device_s, host_s, extra, factors)[0]

            def step(row: Row, logs: Callable[..., np.ndarray] = logs) -> Callable[[Machine], float]:
                return lambda tried: float(np.exp(logs([row], tried)[0]))

            machine = fit_machine([(step(row), float(np.exp(row.log_seconds))) for row in probes])
            found.append(precision_of(logs(others, machine), others))
        return np.concatenate(found)

    def simple(self, device: str, *, roofline: bool) -> np.ndarray:
        """A step as FLOPs over the peak, or as a roofline over its calls, times one factor of the other devices."""

        def raw(row: Row) -> float:
            sheet = sheet_named(row.block.device)
            assert sheet
            peak, bandwidth = sheet.peak("fp32") or 1.0, sheet.bandwidth_bytes_per_s
            calls = next(o.calls for o in row.block.observations if o.label == row.label)
            flops = [(count * layer.flops(phase) / peak) for (layer, phase), count in calls]
            moved = [(4 * count * layer.elements_moved(phase) / bandwidth) for (layer, phase), count in calls]
            return float(np.log(sum(map(max, flops, moved)) if roofline else sum(flops)))

        others = [row for other in self.devices("step") if other != device for row in self.rows("step", other)]
        factor = np.median([row.log_seconds - raw(row) for row in others])
        own = self.rows("step", device)
        return precision_of(np.array([raw(row) for row in own]) + factor, own)

    def half_of_layers(self, rows: Sequence[Row], fits: Sequence[Fit]) -> np.ndarray:
        """Half the interval that the layers alone make of each step, by its length: see `estimator.intervals`."""
        device_s, _ = clocks(self.whole, fits)
        total, halves, width = np.exp(self.expected(rows, fits)), [], np.exp(Z95 * LAYER_SPREAD) - 1
        for row in rows:
            calls = next(o.calls for o in row.block.observations if o.label == row.label)
            groups: dict[tuple[str, Phase], list[float]] = {}
            for ((layer, phase), _), seconds in zip(
                in_order(calls), device_s[row.sequence] * row.counts * width, strict=True
            ):
                groups.setdefault((layer.kind, phase), []).append(seconds)
            square = sum(ALIKE * sum(g) ** 2 + (1 - ALIKE) * sum(h * h for h in g) for g in groups.values())
            halves.append(square**0.5)
        return np.array(halves) / total


def percent(values: np.ndarray) -> str:
    return f"{100 * float(np.mean(values)):.1f}"


Errors = Mapping[str, Sequence[tuple[float, float]]]
"""By device: the logarithm of measured / expected of each step, and half of the interval that its layers make."""


def step_table(judge: Judge, *, families: bool) -> Errors:
    """Print the table of whole steps."""
    errors: dict[str, list[tuple[float, float]]] = {}
    columns = ("FLOPs", "roofline", "LATTE", "family left out", "two measured", "fp16")
    print(f"| device left out | steps | {' | '.join(columns)} | worst network |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|---|", flush=True)
    totals: list[list[float]] = []
    for device in judge.devices("step"):
        fits, own = judge.members(device), judge.rows("step", device)
        mine = judge.expected(own, fits)
        found = precision_of(mine, own)
        errors[device] = list(
            zip([row.log_seconds for row in own] - mine, judge.half_of_layers(own, fits), strict=True)
        )
        half = judge.rows("step", device, Precision.FP16)
        unknown = [np.array([np.nan])]
        if families:
            unknown = []
            for name in sorted({family(row.label) for row in own}):
                part = [row for row in own if family(row.label) == name]
                mine = judge.expected(part, [judge.member("all", device, name)])
                unknown.append(precision_of(mine, part))
        cells = [
            percent(values)
            for values in (
                judge.simple(device, roofline=False),
                judge.simple(device, roofline=True),
                found,
                np.concatenate(unknown),
                judge.two_measured(device, fits),
                precision_of(judge.expected(half, fits), half),
            )
        ]
        totals.append([float(cell) for cell in cells])
        low = int(np.argmin(found))
        print(f"| {device} | {len(own)} | {' | '.join(cells)} | {own[low].label} {100 * found[low]:.0f} |", flush=True)
    mean = " | ".join(f"{value:.1f}" for value in np.mean(totals, axis=0))
    print(f"| **mean** | | {mean} | |\n")
    return errors


def inside(errors: Sequence[tuple[float, float]], step_spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Which steps the 95 % intervals hold, and half of each interval by its step."""
    logs, layers = np.array(errors).T
    half = np.hypot(layers, Z95 * step_spread)
    return (np.exp(logs) >= np.maximum(0, 1 - half)) & (np.exp(logs) <= 1 + half), half


def least_spread(errors: Errors) -> float:
    """The least spread of steps with which 95 % of those of each device are held: steps of a device err together."""
    spreads = np.arange(0.01, 1.0, 0.005)
    return max(next(each for each in spreads if inside(own, each)[0].mean() >= 0.95) for own in errors.values())


def interval_lines(errors: Errors) -> None:
    """How often intervals hold steps that did not choose their width: that was chosen on the other devices."""
    held, halves = [], []
    for device, own in errors.items():
        spread = least_spread({other: errors[other] for other in errors if other != device})
        kept, half = inside(own, spread)
        held.append(kept)
        halves.append(half)
        print(f"{device}: a spread of {spread:.3f}, chosen on the others, holds {percent(kept)} % of {len(own)} steps")
    count = sum(map(len, errors.values()))
    print(f"all: {percent(np.concatenate(held))} % of {count} steps; half of an interval is", end=" ")
    print(f"{100 * np.median(np.concatenate(halves)):.0f} % of the step in the median")
    print(f"the least step spread that holds 95 % of each device's, to ship: {least_spread(errors):.3f}\n", flush=True)


def layer_table(judge: Judge) -> None:
    print("| convolutions of NeuSight, left out | layers | median precision | bias |\n|---|--:|--:|--:|")
    for device in dict.fromkeys(row.block.device for row in judge.whole.rows if row.block.source == "neusight"):
        fits = judge.members(device)
        rows = [row for row in judge.rows("layer", device) if row.block.source == "neusight"]
        mine = judge.expected(rows, fits)
        bias = 100 * np.median(mine - np.array([row.log_seconds for row in rows]))
        print(
            f"| {device} | {len(rows)} | {100 * np.median(precision_of(mine, rows)):.1f} | {bias:+.0f} % |", flush=True
        )
    print()


def pass_table(judge: Judge) -> None:
    print("| cnn-benchmarks, left out | library | forward | backward |\n|---|---|--:|--:|")
    for device in judge.devices("pass"):
        fits, own = judge.members(device), judge.rows("pass", device)
        for library in dict.fromkeys(row.block.library for row in own):
            rows = [row for row in own if row.block.library == library]
            found, forward = precision_of(judge.expected(rows, fits), rows), [r.label.endswith("forward") for r in rows]
            there = np.array(forward)
            print(f"| {device} | {library} | {percent(found[there])} | {percent(found[~there])} |", flush=True)
    print()


def write_card(judge: Judge, blocks: Sequence[Block], step_spread: float) -> None:
    """Write the parameters that ship: fits of all devices, without any row."""
    fits = judge.members()
    card = {
        "schema": "latte.sheet-model/1",
        "made_by": "python benchmarks/datasheets.py --fit",
        "members": [{name: round(value, 4) for name, value in sorted(each.values.items())} for each in fits],
        "fits": list(judge.names),
        "layer_spread": LAYER_SPREAD,
        "alike": ALIKE,
        "step_spread": step_spread,
        "sources": [{"name": name, "url": url, "licence": licence} for name, url, licence in SOURCES],
        "devices": sorted({block.device for block in blocks}),
        "rows": {
            source: sum(len(b.observations) for b in blocks if b.source == source)
            for source in dict.fromkeys(b.source for b in blocks)
        },
    }
    CARD.write_text(json.dumps(card, indent=1) + "\n")
    print(f"wrote {CARD}")


def read_blocks(data: Path, kept: Path) -> list[Block]:
    if not data.is_dir():
        sys.exit(f"skipped: `{data}` is not there")
    blocks = [*deepbench_blocks(data), *neusight_blocks(data), *profile_blocks(open_store("build/no-store"))]
    if kept.is_file():
        known = networks(kept)
        blocks += [*step_blocks(data, known), *pass_blocks(data, known)]
    else:
        print(f"left out: whole steps, as `{kept}` is not there; `python benchmarks/datasheets_networks.py` makes it")
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--networks", type=Path, default=Path("build/networks.json"))
    parser.add_argument("--fit", action="store_true", help="write the parameters that ship, and nothing else")
    parser.add_argument("--step-spread", type=float, default=0.19, help="for `--fit`: what the table says to ship")
    parser.add_argument("--no-families", action="store_true", help="leave out the fits without a network's family")
    parser.add_argument("--members", default=",".join(MEMBERS), help="the fits whose mean is taken")
    parser.add_argument("--only", choices=("steps", "layers", "passes"))
    given = parser.parse_args()
    judge = Judge(blocks := read_blocks(given.data, given.networks), given.members.split(","))
    if given.fit:
        write_card(judge, blocks, given.step_spread)
        return
    if given.only in (None, "layers"):
        layer_table(judge)
    if given.only in (None, "passes"):
        pass_table(judge)
    if given.only in (None, "steps"):
        interval_lines(step_table(judge, families=not given.no_families))


if __name__ == "__main__":
    main()
