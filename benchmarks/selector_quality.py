"""How good the selector's choices are on layers it has not seen, beside simpler methods and the noise of the rows.

Judges on grouped folds, split anew for each seed: no layer is judged by a selector that has learned from one of the
same shape, whatever its batch. Prints the mean over the seeds and, after ±, half the distance between the least and the
largest. `another pass` chooses by one pass of the rows and is judged by another one: no method can be told to be
better than that. Ends with code 1 if the selector's regret is not below the framework default's.

    python benchmarks/selector_quality.py [--store URI] [--device NAME ...] [--seeds 3] [--folds 5]
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from math import exp, log
from statistics import fmean

from latte_cli.errors import LatteError
from latte_cli.measure import Measurement
from latte_cli.report import Table, duration, percent, write_table
from latte_cli.selector import Decision, Score, decisions, evaluate, fit, prediction_s
from latte_cli.selector.evaluation import score_groups
from latte_cli.store import open_store

COLUMNS = ("device", "precision", "phase", "method", ">regret", ">p95", ">total", ">top-1", ">within 5 %", ">layers")


def between_passes(rows: Sequence[Measurement]) -> list[Score]:
    """Scores of choosing by one pass when judged by another."""
    passes: defaultdict[int, list[Measurement]] = defaultdict(list)
    for row in rows:
        passes[row.sweep_pass].append(row)
    by_pass = [{key(each): each for each in decisions(own)} for own in passes.values()]
    pairs = [(one[k], other[k]) for one, other in permutations(by_pass, 2) for k in one.keys() & other.keys()]
    able = [(one, other) for one, other in pairs if one.best in other.times_s]
    return score_groups([other for _, other in able], "another pass", {i: one.best for i, (one, _) in enumerate(able)})


def key(decision: Decision) -> tuple[object, ...]:
    return decision.device.slug, decision.settings, decision.layer, decision.phase


def spread(values: Iterable[float]) -> str:
    values = list(values)
    half = (max(values) - min(values)) / 2
    return f"{fmean(values):.3f}" + (f" ±{half:.3f}" if len(values) > 1 else "")


def lines(scores: Sequence[Score]) -> Iterator[tuple[str, ...]]:
    groups: defaultdict[tuple[str, str, str, str], list[Score]] = defaultdict(list)
    for score in scores:
        groups[score.device, score.precision, score.phase, score.method].append(score)
    for (device, precision, phase, method), own in sorted(groups.items(), key=lambda item: item[0][:3]):
        yield (
            *(device, precision, phase, method.replace("_", " ")),
            *(spread(getattr(each, name) for each in own) for name in ("regret_geomean", "regret_p95")),
            spread(each.regret_total_time for each in own),
            *(percent(fmean(getattr(each, name) for each in own)) for name in ("top1", "within_5pct")),
            str(own[0].layers),
        )


def regret(scores: Sequence[Score], method: str, device: str) -> float:
    """The geometric mean over seeds, precisions and phases."""
    own = [each for each in scores if (each.method, each.device, each.phase) == (method, device, "all")]
    return exp(fmean(log(each.regret_geomean) for each in own)) if own else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", metavar="URI")
    parser.add_argument("--device", metavar="NAME", action="append")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    arguments = parser.parse_args()
    store = open_store(arguments.store)
    slugs = arguments.device or [device.slug for device in store.devices()]
    rows = [row for slug in slugs for row in store.measurements(slug, kinds={"convolution"})]
    known = decisions(rows)
    judged = [evaluate(known, seed=seed, folds=arguments.folds) for seed in range(arguments.seeds)]
    scores = [score for each in judged for score in each]
    write_table(Table(columns=COLUMNS, rows=list(lines([*scores, *between_passes(rows)]))))
    print(f"a prediction for 53 convolutions in 3 phases takes {duration(prediction_s(fit(known), known))}")
    worse = 0
    for slug in sorted({score.device for score in scores}):
        own, default = (regret(scores, method, slug) for method in ("selector", "framework_default"))
        print(f"{slug}: regret on unseen layers {own:.3f}, of the framework default {default:.3f}")
        worse += own >= default
    return int(worse > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LatteError as error:
        sys.exit(f"{error.message}\n{error.hint or ''}".strip())
