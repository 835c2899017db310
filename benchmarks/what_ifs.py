"""How long a table of what-ifs takes: every strategy under twenty memory limits, for one network on one device.

The store is read, and a selector and a time model are loaded, before the clock starts; the network is new to them.
Prints the time of a few such tables, then that of one estimate, and how many of the table's estimates differ.

    python benchmarks/what_ifs.py [--store URI] [--device NAME] [--model resnet50] [--batch-size 8]
"""

import argparse
import sys
import time
from statistics import median

from latte_cli.errors import LatteError
from latte_cli.estimator import Estimator, Limits
from latte_cli.network import zoo
from latte_cli.report import duration
from latte_cli.store import open_store
from latte_cli.strategies import NAMES, by_name

STRATEGIES = [name for name in NAMES if name != "latte"][:7]
LIMITS = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", metavar="URI")
    parser.add_argument("--device", metavar="NAME")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=8)
    given = parser.parse_args()
    store = open_store(given.store)
    slug = given.device or store.devices()[0].slug
    estimator = Estimator(store, slug)
    strategies = [by_name(name) for name in ("latte", *STRATEGIES)]
    first = zoo.network(given.model, batch_size=given.batch_size + 1)
    list(estimator.variants(first, strategies=strategies))  # reads and loads
    times, distinct, nodes = [], 0, 0
    for extra in range(2, 7):
        one = zoo.network(given.model, batch_size=given.batch_size + extra)
        nodes = sum(not layer.free for layer in one.layers)
        least = estimator.estimate(one).memory.peak.live_bytes
        limits = [Limits(memory_bytes=least + step * least // LIMITS) for step in range(LIMITS)]
        start = time.perf_counter()
        found = list(estimator.variants(one, strategies=strategies, limits=limits))
        times.append(time.perf_counter() - start)
        distinct = len({(each.strategy, each.step_s) for each in found})
    start = time.perf_counter()
    list(estimator.variants(one, strategies=strategies[:1]))
    alone_s = time.perf_counter() - start
    print(f"{given.model}, {nodes} layers, on {slug}: {len(strategies)} strategies x {LIMITS} memory limits")
    print(f"  {duration(median(times))} (least {duration(min(times))}, most {duration(max(times))})")
    print(f"  {distinct} of {len(found)} estimates differ; one alone takes {duration(alone_s)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LatteError as error:
        sys.exit(f"{error.message}\n{error.hint or ''}".strip())
