"""How good the selector's choices are on layers it has not seen, beside simpler methods and the noise of the rows.

Judges on grouped folds, split anew for each seed: no layer is judged by a selector that has learned from one of the
same shape, whatever its batch. Where most rows were measured again in later passes, choices learned from the first one
are judged by those; `another pass` takes the first pass's own winners, and no method can be told to be better than
that. Prints the mean over the seeds and, after ±, half the distance between the least and the largest; then quality
under limits of workspace, the learning curve, what the trees look at, and what a choice costs beside measuring.
Ends with code 1 if the selector's regret is not below the framework default's.

    python benchmarks/selector_quality.py [--store URI] [--device NAME ...] [--seeds 3] [--folds 5] [--kind xgboost]
        [--among both|named|engines]
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import exp, log, nan
from statistics import fmean, median

from latte_cli.devices import Device
from latte_cli.engines import is_engine
from latte_cli.errors import LatteError
from latte_cli.measure import Measurement
from latte_cli.network import zoo
from latte_cli.quantities import size_bytes
from latte_cli.report import Table, duration, percent, size, write_table
from latte_cli.selector import KINDS, SelectionScore, Selector, by_pass_and_part, evaluate, fit_selector
from latte_cli.selector.evaluation import cold_prediction_s
from latte_cli.store import open_store
from latte_cli.tasks import Settings, Task

COLUMNS = (
    *("device", "precision", "phase", "method", "limit"),
    *(">regret", ">p95", ">p99", ">total", ">top-1", ">within 5 %", ">layers"),
)
BREAK_S = 30.0

AMONG: dict[str, Callable[[Measurement], bool]] = {
    "both": lambda row: True,
    "named": lambda row: not (isinstance(row.task, Task) and is_engine(row.task.algorithm)),
    "engines": lambda row: (
        isinstance(row.task, Task) and (is_engine(row.task.algorithm) or row.task.algorithm.library == "torch")
    ),
}
"""Which rows are judged: torch's own op always is."""


def spread(values: Iterable[float]) -> str:
    values = list(values)
    half = (max(values) - min(values)) / 2
    return f"{fmean(values):.3f}" + (f" ±{half:.3f}" if len(values) > 1 else "")


def lines(scores: Sequence[SelectionScore]) -> Iterator[tuple[str, ...]]:
    groups: defaultdict[tuple[str, str, str, str, int | None], list[SelectionScore]] = defaultdict(list)
    for score in scores:
        groups[score.device, score.precision, score.phase, score.method, score.limit_bytes].append(score)
    for (device, precision, phase, method, limit), own in sorted(groups.items(), key=lambda item: item[0][:3]):
        yield (
            *(device, precision, phase, method.replace("_", " "), "" if limit is None else size(limit)),
            *(spread(getattr(each, name) for each in own) for name in ("regret_geomean", "regret_p95", "regret_p99")),
            spread(each.regret_total_time for each in own),
            *(percent(fmean(getattr(each, name) for each in own)) for name in ("top1", "within_5pct")),
            str(own[0].layers),
        )


def regret(scores: Sequence[SelectionScore], method: str, device: str) -> float:
    """The geometric mean over seeds, precisions and phases."""
    own = [
        each
        for each in scores
        if (each.method, each.device, each.phase, each.limit_bytes) == (method, device, "all", None)
    ]
    return exp(fmean(log(each.regret_geomean) for each in own)) if own else nan


def measuring_s(rows: Sequence[Measurement]) -> float:
    """Seconds that a sweep took for all algorithms of one layer's phase, by the clock: breaks are left out."""
    first = sorted(row.measured_at for row in rows if row.sweep_pass == 0)
    spent_s = sum(step for step in (after - before for before, after in pairwise(first)) if 0 < step < BREAK_S)
    return spent_s / max(1, len({(row.device.slug, row.task.settings, row.task.layer, row.task.phase) for row in rows}))


def resnet50_s(selector: Selector, settings: Settings, device: Device) -> tuple[float, float, int]:
    """Seconds to choose for the convolutions of ResNet-50 in three phases, first and again; how many differ."""
    first, again, different = [], [], 0
    for batch in range(2, 13):
        layers = zoo.network("resnet50", batch_size=batch).layers
        pairs = [(layer, phase) for layer in layers if layer.kind == "convolution" for phase in layer.phases]
        different = len(set(pairs))
        for times in (first, again):
            start = time.perf_counter()
            selector.choose(pairs, settings, device)
            times.append(time.perf_counter() - start)
    return median(first), median(again), different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", metavar="URI")
    parser.add_argument("--device", metavar="NAME", action="append")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--kind", choices=KINDS, default="xgboost")
    parser.add_argument("--among", choices=AMONG, default="both", help="cuDNN's named algorithms, its engines, or both")
    parser.add_argument("--limits", default="64MiB,16MiB,4MiB,1MiB", help="of each call's workspace")
    arguments = parser.parse_args()
    store = open_store(arguments.store)
    slugs = arguments.device or [device.slug for device in store.devices()]
    wanted = AMONG[arguments.among]
    rows = [row for slug in slugs for row in store.measurements(slug, kinds={"convolution"}) if wanted(row)]
    known, first, later = by_pass_and_part([rows])
    judged = [
        evaluate(
            first,
            later=later or None,
            kind=arguments.kind,
            seed=seed,
            folds=arguments.folds,
            limits=[size_bytes(text) for text in arguments.limits.split(",") if text],
            curve=not seed,
        )
        for seed in range(arguments.seeds)
    ]
    scores = [score for each in judged for score in each.scores]
    write_table(Table(columns=COLUMNS, rows=list(lines(scores))))
    print(f"{len(rows)} rows of {len(known)} choices; {len(later)} judged by later passes")
    for point in judged[0].curve:
        print(f"after {point.layers} layers: regret {point.regret_geomean:.3f}, top-1 {percent(point.top1)}")
    print(f"confidences are off by {percent(fmean(each.calibration_error for each in judged))} in the mean")
    selector = fit_selector(known, kind=arguments.kind)
    told = [f"{name} {percent(share)}" for name, share in list(selector.card.importance.items())[:10]]
    print(f"what tells most: {', '.join(told) or 'not known'}")
    cold_s, warm_s, different = resnet50_s(selector, known[0].settings, known[0].device)
    measured_s = different * measuring_s(rows)
    print(
        f"choosing for ResNet-50, {different} different phases of 53 convolutions: {duration(cold_s)} the first time,"
    )
    print(f"then {duration(warm_s)}; for 159 that all differ {duration(cold_prediction_s(selector, known))}")
    print(
        f"measuring ResNet-50's with every algorithm: {duration(measured_s)}, {measured_s / cold_s:,.0f} times as long"
    )
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
