"""How well one network learns each data set that needs no download, trained in one place.

A fifth of each class is held out. The learning rate is a fifth of it in the last third of the epochs. For a source that
says whose its examples are, a second row holds out all of a fifth of the clients instead.

    python benchmarks/data_sources.py [--only watch,mnist1d] [--model resnet8] [--image-size 14] [--epochs 6]
"""

import argparse
import time

import numpy as np

from latte_cli.federated import data, models
from latte_cli.federated.data import Examples
from latte_cli.federated.recipe import Recipe
from latte_cli.federated.sources import SOURCES
from latte_cli.federated.training import evaluate_network, initial, train_network


def without_clients(whole: Examples) -> tuple[Examples, Examples]:
    assert whole.clients is not None
    clients = np.random.default_rng(0).permutation(np.unique(whole.clients))
    unseen = np.isin(whole.clients, clients[: len(clients) // 5])
    return whole.take(np.flatnonzero(~unseen)), whole.take(np.flatnonzero(unseen))


def row(name: str, held_out: str, parts: tuple[Examples, Examples], given: argparse.Namespace) -> str:
    training, test = parts
    classes = int(training.labels.max()) + 1
    content = models.content(given.model, image_size=given.image_size, classes=classes)
    network = models.network_from(content, batch=32)
    arrays, began_s = initial(network, seed=0), time.perf_counter()
    last = max(1, given.epochs // 3)
    for epochs, rate in ((given.epochs - last, given.learning_rate), (last, given.learning_rate / 5)):
        if epochs:
            recipe = Recipe(epochs=epochs, learning_rate=rate)
            arrays = train_network(network, arrays, training, recipe, seed=epochs).arrays
    took_s = time.perf_counter() - began_s
    accuracy = evaluate_network(network, arrays, test, statistics=training).accuracy
    return f"| {name} | {held_out} | {len(training):,} | {len(test):,} | {100 * accuracy:.1f} % | {took_s:.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SOURCES))
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--image-size", type=int, default=14)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    given = parser.parse_args()
    print("| data | held out | trained on | tested on | accuracy | took |\n|---|---|--:|--:|--:|--:|")
    for name in given.only.split(","):
        whole = data.load_examples(name, channels=3, image_size=given.image_size)
        print(row(name, "examples", data.split_examples(whole, held_out=0.2, seed=0), given), flush=True)
        if whole.clients is not None:
            print(row(name, "clients", without_clients(whole), given), flush=True)


if __name__ == "__main__":
    main()
