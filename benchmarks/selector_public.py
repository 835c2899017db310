"""How good the selector is on measurements that others have published, on layers it has not seen.

Imports the files of a folder (`latte/`, `miopen/`, `neusight/`, as published) into a separate store, learns from the
layers whose stable hash is not 0 modulo 5, and is judged on the others: the share of rows that agree with the choice
and, where times are known, the time of the choice over the best. MIOpen's solvers are judged by family, each with its
fastest solver. Where there are several devices, `all_devices` is one selector for them together, and `other_devices`
one that has not seen the device. A folder that is not there is skipped.

    python benchmarks/selector_public.py [--data ../shared/data] [--store build/public] [--tuning]
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from latte_cli.algorithms import Algorithm
from latte_cli.importers import ImportSource, import_file
from latte_cli.layers import layer_text
from latte_cli.precisions import Precision
from latte_cli.report import Format
from latte_cli.report.selectors import write_evaluation
from latte_cli.selector import Decision, Evaluation, SelectionScore, decisions, fit_selector
from latte_cli.selector.evaluation import across_devices, majority, score_groups, selected_algorithms
from latte_cli.store import Store, open_store

FAMILIES = {0: "gemm", 1: "direct", 2: "fft", 3: "winograd", 5: "implicit_gemm"}


def held_out(decision: Decision) -> bool:
    return int(sha256(layer_text(decision.layer).encode()).hexdigest(), 16) % 5 == 0


def fold(decision: Decision) -> int:
    """Another split, of what is learned from, to tune on."""
    return int(sha256(layer_text(decision.layer).encode()).hexdigest(), 16) // 5 % 5


def imported(data: Path, store: Store) -> Iterator[tuple[str, str]]:
    """Read what is there once; the titles and devices of the data."""
    wanted = [(ImportSource.LATTE_CSV, data / "latte/ground_truth.csv.gz", "latte-dataset", False)]
    wanted += [(ImportSource.LATTE_CSV, data / "latte/dataset_heuristic.csv.gz", "latte-dataset", True)]
    wanted += [(ImportSource.MIOPEN_FINDDB, path, None, False) for path in sorted((data / "miopen").glob("*.bz2"))]
    wanted += [(ImportSource.NEUSIGHT_CSV, path, None, False) for path in sorted((data / "neusight").glob("*.csv.gz"))]
    found: dict[str, str] = {}
    for source, path, name, heuristic in wanted:
        if not path.exists():
            print(f"{path}: not there, skipped", file=sys.stderr)
            continue
        marker = Path(store.uri) / f".imported-{path.name}"
        if marker.exists():
            slug = marker.read_text()
        else:
            slug = import_file(path, source, store, name=name, heuristic=heuristic)[0].slug
            marker.write_text(slug)
        found[slug] = path.parent.name
    yield from ((f"{title} {slug}", slug) for slug, title in found.items())


def chosen_from(store: Store, slug: str) -> list[Decision]:
    rows = store.measurements(slug, kinds={"convolution"})
    known = decisions(rows)
    if not any(decision.times_s for decision in known):
        return known
    plain = [d for d in known if d.settings.precision is Precision.FP32 and len(d.layer.input) == 2]
    return [collapsed for decision in plain if len((collapsed := by_family(decision)).timings) > 1]


def by_family(decision: Decision) -> Decision:
    """The families in place of the solvers, each as fast as its fastest."""
    best = {}
    for timing in sorted(decision.timings, key=lambda timing: timing.device_s, reverse=True):
        family = FAMILIES.get(timing.task.algorithm.vendor_id or 0, "other")
        algorithm = Algorithm(library="miopen", name=family)
        best[family] = replace(timing, task=replace(timing.task, algorithm=algorithm))
    return replace(decision, timings=tuple(best.values()), refused=())


def judged(train: Sequence[Decision], test: Sequence[Decision], *, perceptron: bool) -> list[SelectionScore]:
    own = dict(enumerate(test))
    picks = {
        "selector": selected_algorithms(fit_selector(train), own),
        "majority_class": majority(train, own),
        "heuristic": {index: d.heuristic for index, d in own.items() if d.heuristic is not None},
        "oracle": {index: d.best for index, d in own.items()},
    }
    if perceptron:
        picks["perceptron_as_published"] = selected_algorithms(fit_selector(train, kind="mlp"), own)
    return [score for method, each in picks.items() for score in score_groups(test, method, each)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--store", type=Path, default=Path("build/public"))
    parser.add_argument("--only", help="part of a title")
    parser.add_argument("--tuning", action="store_true", help="judge on a fifth of what is learned from instead")
    given = parser.parse_args()
    given.store.mkdir(parents=True, exist_ok=True)
    store = open_store(str(given.store), shipped=False)
    scores: list[SelectionScore] = []
    groups: defaultdict[str, list[tuple[list[Decision], list[Decision]]]] = defaultdict(list)
    for title, slug in imported(given.data, store):
        if given.only and given.only not in title:
            continue
        known = chosen_from(store, slug)
        train = [decision for decision in known if not held_out(decision)]
        test = [decision for decision in known if held_out(decision)]
        if given.tuning:
            train, test = [d for d in train if fold(d)], [d for d in train if not fold(d)]
        start = time.perf_counter()
        scores += judged(train, test, perceptron=title.startswith("latte"))
        groups[title.split()[0]].append((train, test))
        print(f"{title}: {len(train)} learned from, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    for parts in groups.values():
        if len(parts) > 1:
            scores += across_devices(*([d for part in parts for d in part[side]] for side in (0, 1)))
    write_evaluation(Evaluation(scores=tuple(scores)), Format.TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
