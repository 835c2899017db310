"""Real rounds of the Flower app on this machine: do they end in time, and do prices come closer to measured steps?

Each network is profiled (`--budget`). Then two devices on that profile train in turn, each with half of MNIST's images,
and learn from their rounds. U is `--round-duration`; 60 ms are some three steps on two cores. A training's time is from
the server's message to the reply, as this process sees it; the link is thought to be quick, so U is all for the device.
Nothing else may run.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from math import log
from pathlib import Path
from statistics import median
from typing import Any

from flwr.app import Context, Message

from latte_cli.federated import client, server
from latte_cli.federated.grid import run_federation

NETWORKS = {"custom_cnn": 28, "resnet8": 28, "lenet": 28}
PARTS = 2


class Timed:
    """The client app, with the seconds of each training that it answered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, message: Message, context: Context) -> Message:
        began_s = time.perf_counter()
        reply = client.app(message, context)
        if message.metadata.message_type.startswith("train"):
            self.seconds.append(time.perf_counter() - began_s)
        return reply


def run(
    network: str, pixels: int, store: Path, budget: str, rounds: int, duration: str
) -> tuple[dict[str, Any], list[float]]:
    """`rounds.json` of a federation, and the seconds of its trainings in their order."""
    app, output = Timed(), Path(tempfile.mkdtemp())
    nodes: list[Mapping[str, object]] = [
        {"partition-id": at, "num-partitions": PARTS, "name": f"part {at}", "store": str(store)}
        | {"profile-budget": budget, "up": "10Gbit", "down": "10Gbit"}
        for at in range(PARTS)
    ]
    config = {"model": network, "image-size": pixels, "data": "mnist", "alpha": 1.0, "rounds": rounds}
    config["round-duration"] = duration
    run_federation(server.app, app, nodes, {**config, "output": str(output)})  # type: ignore[arg-type]
    return json.loads((output / "rounds.json").read_text("utf-8")), app.seconds


def trainings(document: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each training with the number of its device's trainings before it."""
    before: dict[str, int] = {}
    for entry in document["rounds"]:
        for trained in entry["trained"]:
            yield before.get(trained["name"], 0), trained
            before[trained["name"]] = before.get(trained["name"], 0) + 1


def row(network: str, document: Mapping[str, Any], seconds: list[float]) -> list[str]:
    """A row of the table: of all trainings those in time, then how far and how wide prices were, first and later."""
    limit_s, all_of_them = document["round_duration_s"], list(trainings(document))
    in_time = [sum(each <= limit * limit_s for each in seconds) / len(seconds) for limit in (1.0, 1.05)]
    cells = [network, f"{limit_s * 1e3:.0f} ms", str(len(seconds)), *(f"{100 * each:.0f}%" for each in in_time)]
    cells.append(f"{max(seconds) / limit_s:.3f}")
    for chosen in ([each for at, each in all_of_them if at == 0], [each for at, each in all_of_them if at >= 3]):
        priced = [each for each in chosen if each.get("in_use") and each.get("step_s")]
        off = [abs(log(each["step_s"] / each["in_use"]["step_s"])) for each in priced]
        inside = sum(each["in_use"]["low_s"] <= each["step_s"] <= each["in_use"]["high_s"] for each in priced)
        wide = median(each["in_use"]["high_s"] / each["in_use"]["step_s"] for each in priced)
        cells += [f"{100 * median(off):.1f}%", f"{inside} of {len(priced)}", f"{wide:.2f}"]
    return cells


COLUMNS = (
    *("network", "U", "trainings", "in U", "in 1.05 U", "longest / U"),
    *("price off, first", "inside", "upper / mean", "off, from the 4th", "inside", "upper / mean"),
)


def write(rows: list[list[str]], out: Callable[[str], object]) -> None:
    """The rows as a table of Markdown."""
    out("| " + " | ".join(COLUMNS) + " |\n|---|" + "--:|" * (len(COLUMNS) - 1) + "\n")
    for each in rows:
        out("| " + " | ".join(each) + " |\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("build/federated-rounds"))
    parser.add_argument("--budget", default="1m", help="for each network's profile")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--round-duration", default="60ms", help="U, with its unit")
    parser.add_argument("--only", help="these networks, as in `lenet,resnet8`")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else list(NETWORKS)
    rows = []
    for network in wanted:
        found = run(
            network, NETWORKS[network], arguments.store, arguments.budget, arguments.rounds, arguments.round_duration
        )
        rows.append(row(network, *found))
        print(rows[-1], file=sys.stderr)
    write(rows, sys.stdout.write)


if __name__ == "__main__":
    main()
