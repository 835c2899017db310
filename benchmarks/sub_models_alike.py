"""How much sub-models of a network err alike: the share of the variance that learning from rounds takes for common.

Reads the real rounds in docs/allocation-rounds.md (`benchmarks/allocation.py`) and prints the share, of which
`latte_cli/allocator/learning.py` has the first digit as ALIKE. Each row is z = log(measured / estimated) / its price's
standard deviation, log(upper end / estimated) / 1.96. What a network has in common is its mean, whose square is freed
of what chance adds to it; what sub-models have for themselves is their variance about it.
"""

import re
from math import log
from pathlib import Path
from statistics import fmean, variance

ROUNDS = Path(__file__).parents[1] / "docs" / "allocation-rounds.md"


def deviations(text: str) -> dict[str, list[float]]:
    """z of each sub-model, once, by network."""
    found: dict[str, dict[tuple[float, float], float]] = {}
    for line in text.splitlines():
        cells = [each.strip() for each in line.split("|")]
        if len(cells) < 12 or not re.match(r"[\d.]+ s$", cells[7]):
            continue
        estimated_s, high_s, measured_s = (float(each.removesuffix(" s")) for each in cells[7:10])
        found.setdefault(cells[1], {})[estimated_s, high_s] = log(measured_s / estimated_s) / (
            log(high_s / estimated_s) / 1.96
        )
    return {network: list(each.values()) for network, each in found.items()}


def share(by_network: dict[str, list[float]]) -> float:
    """The share of E[z²] that the sub-models of a network have in common."""
    own = fmean(map(variance, by_network.values()))
    common = fmean(fmean(each) ** 2 - variance(each) / len(each) for each in by_network.values())
    return max(0.0, common) / (max(0.0, common) + own)


def main() -> None:
    by_network = deviations(ROUNDS.read_text("utf-8"))
    for network, each in by_network.items():
        print(f"{network}: {len(each)} sub-models, mean z {fmean(each):.2f}, deviation {variance(each) ** 0.5:.2f}")
    print(f"in common: {share(by_network):.2f} of the variance")


if __name__ == "__main__":
    main()
