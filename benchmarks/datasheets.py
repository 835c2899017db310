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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasheets_fit import Fit, clocks, composed, expected, fit, in_order, problem
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

MEMBERS: Mapping[str, Callable[[Block], bool]] = {
    "all": lambda block: True,
    "without DeepBench": lambda block: block.source != "deepbench",
    "without NeuSight": lambda block: block.source != "neusight",
    "without cnn-benchmarks": lambda block: block.source != "passes",
}
"""The fits whose logarithms' mean is taken, by the blocks that they read."""

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


def logs_of(block: Block) -> np.ndarray:
    return np.log([each.seconds for each in block.observations])


def precision_of(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return 1 - np.abs(np.exp(mine - theirs) - 1)


def family(network: str) -> str:
    word = re.match("[a-z]+", network.removeprefix("cnn/"))
    return FAMILY.get(word[0], word[0]) if word else network


def without_family(blocks: Iterable[Block], name: str) -> list[Block]:
    """The blocks without whole networks of a family."""
    kept = []
    for block in blocks:
        own = [o for o in block.observations if block.what == "layer" or family(o.label) != name]
        if own:
            kept.append(replace(block, observations=own))
    return kept


def members(blocks: Sequence[Block], names: Sequence[str] = tuple(MEMBERS)) -> list[Fit]:
    thin = [thinned(block, SIZES.get(block.source, 300)) for block in blocks]
    return [fit([block for block in thin if MEMBERS[name](block)]) for name in names]


def machine_logs(block: Block, fits: Sequence[Fit]) -> tuple[Machine, np.ndarray]:
    """The machine that the two probes tell of, and the steps that are then expected of the others."""
    found = problem([block])
    device_s, host_s = clocks(found, fits)
    extra = np.mean([member.extra for member in fits], axis=0)

    def steps(machine: Machine) -> np.ndarray:
        factors = {block.machine: (float(np.log(machine.device_factor)), float(np.log(machine.host_factor)))}
        (logs,) = composed(found, device_s, host_s, extra, factors)
        return logs

    def expected_of(at: int) -> Callable[[Machine], float]:
        return lambda machine: float(np.exp(steps(machine)[at]))

    probes = [at for at, each in enumerate(block.observations) if each.label in PROBES]
    machine = fit_machine([(expected_of(at), block.observations[at].seconds) for at in probes])
    return machine, steps(machine)


def simple_logs(block: Block, train: Sequence[Block], roofline: bool) -> np.ndarray:
    """A step as FLOPs over the peak, or as a roofline over its layers, times one factor learned on the others."""

    def raw(one: Block) -> np.ndarray:
        sheet = sheet_named(one.device)
        assert sheet
        peak, bandwidth = sheet.peak("fp32") or 1.0, sheet.bandwidth_bytes_per_s
        found = []
        for each in one.observations:
            pairs = [
                (layer.flops(phase) / peak, 4 * layer.elements_moved(phase) / bandwidth, count)
                for (layer, phase), count in each.calls
            ]
            found.append(sum(count * (max(flops, moved) if roofline else flops) for flops, moved, count in pairs))
        return np.log(found)

    others = [one for one in train if one.what == "step" and one.precision is Precision.FP32]
    factor = np.median(np.concatenate([logs_of(one) - raw(one) for one in others]))
    return raw(block) + factor


def spread_in_sums(block: Block, fits: Sequence[Fit]) -> np.ndarray:
    """Half the interval of each step that its layers alone make, as `estimator.intervals` has it, by its length."""
    found = problem([block])
    device_s, _ = clocks(found, fits)
    halves, width = [], np.exp(Z95 * LAYER_SPREAD) - 1
    for sequence, count, each in zip(found.sequences[0], found.counts[0], block.observations, strict=True):
        seconds = device_s[found.starts[0] + sequence] * count * width
        groups: dict[tuple[str, Phase], list[float]] = {}
        ordered = [call for call, _ in in_order(each.calls)]
        for (layer, phase), half in zip(ordered, seconds, strict=True):
            groups.setdefault((layer.kind, phase), []).append(half)
        square = sum(ALIKE * sum(g) ** 2 + (1 - ALIKE) * sum(h * h for h in g) for g in groups.values())
        halves.append(square**0.5)
    total = np.exp(expected([block], fits)[0])
    return np.array(halves) / total


def steps_of(blocks: Sequence[Block], device: str, precision: Precision = Precision.FP32) -> list[Block]:
    return [b for b in blocks if b.what == "step" and b.device == device and b.precision is precision]


def share(values: Iterable[np.ndarray]) -> str:
    return f"{100 * float(np.mean(np.concatenate(list(values)))):.1f}"


def left_out_tables(blocks: Sequence[Block], *, families: bool) -> list[tuple[float, float]]:
    """Print the tables of whole steps; return (error of the logarithm, half of the layers' interval) of each."""
    devices = list(dict.fromkeys(b.device for b in blocks if b.what == "step"))
    errors: list[tuple[float, float]] = []
    print(
        "| device left out | runs | FLOPs | roofline | LATTE | worst network | family left out | two measured | fp16 |"
    )
    print("|---|--:|--:|--:|--:|---|--:|--:|--:|", flush=True)
    totals: list[list[float]] = []
    for device in devices:
        train = [b for b in blocks if b.device != device]
        fits, test = members(train), steps_of(blocks, device)
        own = expected(test, fits)
        each = [precision_of(mine, logs_of(b)) for mine, b in zip(own, test, strict=True)]
        for block, mine in zip(test, own, strict=True):
            errors += zip(logs_of(block) - mine, spread_in_sums(block, fits), strict=True)
        worst = min(
            (float(p), o.label)
            for b, ps in zip(test, each, strict=True)
            for p, o in zip(ps, b.observations, strict=True)
        )
        flops, roof = ([precision_of(simple_logs(b, train, kind), logs_of(b)) for b in test] for kind in (False, True))
        measured = []
        for block in test:
            _, logs = machine_logs(block, fits)
            rest = np.array([o.label not in PROBES for o in block.observations])
            measured.append(precision_of(logs, logs_of(block))[rest])
        half = steps_of(blocks, device, Precision.FP16)
        halves = [precision_of(m, logs_of(b)) for m, b in zip(expected(half, fits), half, strict=True)]
        unknown = [np.array([np.nan])]
        if families:
            unknown = []
            for name in sorted({family(o.label) for b in test for o in b.observations}):
                (some,) = members(without_family(train, name), ("all",))
                for block in test:
                    kept = [o for o in block.observations if family(o.label) == name]
                    if kept:
                        part = replace(block, observations=kept)
                        unknown.append(precision_of(expected([part], some)[0], logs_of(part)))
        cells = [share(values) for values in (flops, roof, each, unknown, measured, halves)]
        totals.append([float(cell) for cell in cells])
        print(
            f"| {device} | {len(test)} | {cells[0]} | {cells[1]} | {cells[2]} | {worst[1]} {100 * worst[0]:.0f} "
            f"| {cells[3]} | {cells[4]} | {cells[5]} |",
            flush=True,
        )
    mean = [f"{value:.1f}" for value in np.mean(totals, axis=0)]
    print(f"| **mean** | | {mean[0]} | {mean[1]} | {mean[2]} | | {mean[3]} | {mean[4]} | {mean[5]} |\n")
    return errors


def interval_table(errors: Sequence[tuple[float, float]], step_spread: float) -> None:
    """How often the intervals hold what was left out."""
    logs, layers = np.array(errors).T
    half = np.hypot(layers, Z95 * step_spread)
    ratio = np.exp(logs)
    inside = (ratio >= np.maximum(0, 1 - half)) & (ratio <= 1 + half)
    print(
        f"95 % intervals (step spread {step_spread}): hold {100 * inside.mean():.1f} % of {len(logs)} steps left out, "
    )
    print(f"half of them {100 * np.median(half):.0f} % of the step\n", flush=True)


def layer_table(blocks: Sequence[Block]) -> None:
    print("| convolutions of NeuSight, left out | layers | median precision | bias |\n|---|--:|--:|--:|")
    for block in (b for b in blocks if b.source == "neusight"):
        fits = members([b for b in blocks if b.device != block.device])
        mine, theirs = expected([block], fits)[0], logs_of(block)
        found, bias = 100 * np.median(precision_of(mine, theirs)), 100 * np.median(mine - theirs)
        print(f"| {block.device} | {len(theirs)} | {found:.1f} | {bias:+.0f} % |", flush=True)
    print()


def pass_table(blocks: Sequence[Block]) -> None:
    print("| cnn-benchmarks, left out | library | forward | backward |\n|---|---|--:|--:|")
    for device in dict.fromkeys(b.device for b in blocks if b.what == "pass"):
        fits = members([b for b in blocks if b.device != device])
        for block in (b for b in blocks if b.device == device and b.what == "pass"):
            found = precision_of(expected([block], fits)[0], logs_of(block))
            print(
                f"| {device} | {block.library} | {100 * found[::2].mean():.1f} | {100 * found[1::2].mean():.1f} |",
                flush=True,
            )
    print()


def write_card(blocks: Sequence[Block], step_spread: float) -> None:
    """Write the parameters that ship: fits of all devices, without any row."""
    fits = members(blocks)
    card = {
        "schema": "latte.sheet-model/1",
        "made_by": "python benchmarks/datasheets.py --fit",
        "members": [{name: round(value, 4) for name, value in sorted(each.values.items())} for each in fits],
        "fits": list(MEMBERS),
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
    parser.add_argument("--step-spread", type=float, default=0.13)
    parser.add_argument("--no-families", action="store_true", help="leave out the fits without a network's family")
    parser.add_argument("--only", choices=("steps", "layers", "passes"))
    given = parser.parse_args()
    blocks = read_blocks(given.data, given.networks)
    if given.fit:
        write_card(blocks, given.step_spread)
        return
    if given.only in (None, "layers"):
        layer_table(blocks)
    if given.only in (None, "passes"):
        pass_table(blocks)
    if given.only in (None, "steps"):
        errors = left_out_tables(blocks, families=not given.no_families)
        interval_table(errors, given.step_spread)


if __name__ == "__main__":
    main()
