"""The batch that `--batch-size max` names under a hard limit: whether it trains, and 1.1 times it does not.

Each of ten networks trains two real steps in a child process whose private memory is limited (RLIMIT_DATA, as
`ulimit -d` does), at the batch that LATTE names and at 1.1 times that, rounded up. RLIMIT_DATA counts what a process
asks for: its heap, private mappings, compiled kernels, stacks. A control group (`docker run --memory`, Kubernetes,
Slurm) counts the pages that it touches, and its page cache, which is given back when memory runs short: `resident` is
what it would count. RLIMIT_AS counts code, files and reserved addresses as well, which nobody means. The child imports
torch and what builds the network, on one thread. `real` and `resident` are of a run without a limit.

`--mmap-threshold 64KiB` runs and reckons with MALLOC_MMAP_THRESHOLD_ set: glibc then gives each larger block back to
the system when it is free, and keeps no holes. `--measure` leaves out the runs under limits.

    python benchmarks/max_batch.py [--limit 2GiB] [--only REGEX] [--measure] [--steps 2]
        [--mmap-threshold 64KiB] [--store URI] [--device NAME]
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Any

MIB = 2**20
TIMES = 1.1
LIMIT_S = 500
HEADS = (
    "network",
    "optimizer",
    "limit",
    "max",
    "trains",
    "1.1 times",
    "trains",
    "expected",
    "at most",
    "real",
    "resident",
)


@dataclass(frozen=True)
class OfZoo:
    """A network of LATTE's zoo, with images of so many pixels."""

    name: str
    pixels: int

    def network(self, batch: int) -> Any:
        from latte_cli.network import zoo

        return zoo.network(self.name, batch_size=batch, image_size=self.pixels)

    def __call__(self, batch: int) -> tuple[Any, Any]:
        from latte_cli.network.module import NetworkModule, random_inputs

        network = self.network(batch)
        return NetworkModule(network), random_inputs(network)[0]


def transformer(batch: int) -> tuple[Any, Any]:
    import torch
    from torch import nn

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5000, 256)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.1, batch_first=True) for _ in range(4)
            )
            self.out = nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            x = self.embedding(x)
            for layer in self.layers:
                x = layer(x)
            return self.out(x.mean(1))

    return Transformer(), torch.randint(5000, (batch, 128))


def recurrent(kind: str, batch: int) -> tuple[Any, Any]:
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5000, 128)
            self.cells = getattr(nn, kind)(128, 256, 2, batch_first=True)
            self.out = nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            return self.out(self.cells(self.embedding(x))[0][:, -1])

    return Recurrent(), torch.randint(5000, (batch, 100))


def unet(batch: int) -> tuple[Any, Any]:
    import torch
    from torch import nn

    def two(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()),
        )

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = two(3, 32), two(32, 64), two(64, 128)
            self.up, self.last_up = nn.ConvTranspose2d(128, 64, 2, 2), nn.ConvTranspose2d(64, 32, 2, 2)
            self.fourth, self.fifth, self.out = two(128, 64), two(64, 32), nn.Conv2d(32, 4, 1)
            self.pool = nn.MaxPool2d(2)

        def forward(self, x: Any) -> Any:
            first = self.first(x)
            second = self.second(self.pool(first))
            x = self.up(self.third(self.pool(second)))
            x = self.last_up(self.fourth(torch.cat([x, second], 1)))
            return self.out(self.fifth(torch.cat([x, first], 1)))

    return UNet(), torch.randn(batch, 3, 64, 64)


def mixer(batch: int) -> tuple[Any, Any]:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, tokens: int, width: int) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
            self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
            self.channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.norms[1](x))

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 128, 8, 8)
            self.blocks = nn.Sequential(*(Block(64, 128) for _ in range(6)))
            self.out = nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            return self.out(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

    return Mixer(), torch.randn(batch, 3, 64, 64)


NETWORKS: Mapping[str, tuple[Callable[[int], tuple[Any, Any]], str]] = {
    "resnet18": (OfZoo("resnet18", 96), "sgd"),
    "resnet20": (OfZoo("resnet20", 32), "momentum"),
    "resnet50": (OfZoo("resnet50", 64), "sgd"),
    "mobilenet_v2": (OfZoo("mobilenet_v2", 96), "adam"),
    "vgg11": (OfZoo("vgg11", 64), "sgd"),
    "unet": (unet, "adam"),
    "transformer": (transformer, "adamw"),
    "mixer": (mixer, "adamw"),
    "lstm": (partial(recurrent, "LSTM"), "adam"),
    "gru": (partial(recurrent, "GRU"), "sgd"),
}


def train(name: str, batch: int, steps: int) -> None:
    """Train in this process; print what it took."""
    import torch

    torch.set_num_threads(1)
    build, function = NETWORKS[name]
    module, x = build(batch)
    from latte_cli.optimizers import OPTIMIZERS

    rule = OPTIMIZERS[function]
    update = getattr(torch.optim, rule.torch_class)(module.parameters(), **rule.arguments)
    targets = None
    for _ in range(steps):
        update.zero_grad()
        scores = module(x)
        if targets is None:
            targets = torch.zeros(scores[:, 0].shape, dtype=torch.long)
        loss = torch.nn.functional.cross_entropy(scores, targets)
        loss.backward()
        update.step()
    rows = map(str.split, Path("/proc/self/status").read_text().splitlines())
    status = {row[0]: 1024 * int(row[1]) for row in rows if len(row) > 2 and row[2] == "kB"}
    real = status["VmPeak:"] - status["VmSize:"] + status["VmData:"]
    print(json.dumps({"real": real, "resident": status["VmHWM:"] - status["RssFile:"]}))


def trained(name: str, batch: int, limit: int | None, steps: int, map_from: int | None) -> dict[str, int] | str:
    """What training took in a child with a limit, or why it ended."""
    words = [sys.executable, __file__, "--train", name, "--batch", str(batch), "--steps", str(steps)]
    bound = (lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))) if limit else None
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment |= {"MALLOC_MMAP_THRESHOLD_": str(map_from)} if map_from else {}
    done = subprocess.run(words, preexec_fn=bound, capture_output=True, text=True, timeout=LIMIT_S, env=environment)
    if done.returncode == 0:
        found: dict[str, int] = json.loads(done.stdout)
        return found
    last = done.stderr.strip().rpartition("\n")[2]
    memory = "allocate memory" in done.stderr or "MemoryError" in done.stderr or "bad_alloc" in done.stderr
    return "out of memory" if memory else f"ended with {done.returncode}: {last[:120]}"


class Asked:
    """What LATTE says of the networks on a device."""

    def __init__(self, store: str | None, device: str, map_from: int | None) -> None:
        from latte_cli.backends import OPENERS
        from latte_cli.store import open_store

        self.store, self.device, self.map_from = open_store(store), device, map_from
        found = OPENERS["cpu"].context(1)
        assert found
        self.context = {"context_bytes": found["bytes"], "call_context_bytes": found["call_bytes"]}

    @cache  # noqa: B019 - it lives as long as the process
    def occupancy(self, name: str, batch: int) -> Any:
        from latte_cli import load
        from latte_cli.estimator import estimate_one, occupancy_of
        from latte_cli.profiles import resolve_profile

        build, function = NETWORKS[name]
        network = build.network(batch) if isinstance(build, OfZoo) else load(*build(2), batch_size=batch)
        found = estimate_one(
            self.store,
            resolve_profile(self.store, self.device),
            network,
            strategy="pytorch",
            optimizer=function,
            allow_unknown=True,
        )
        return occupancy_of(replace(found, device=replace(found.device, **self.context)), map_from=self.map_from)

    def high_bytes(self, name: str, batch: int) -> int:
        return int(self.occupancy(name, batch).high_bytes)


def main() -> int:
    from latte_cli.estimator.batches import largest_batch
    from latte_cli.quantities import size_bytes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", action="append", type=size_bytes)
    parser.add_argument("--only", default="")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--mmap-threshold", type=size_bytes)
    parser.add_argument("--store")
    parser.add_argument("--device", default="reference")
    parser.add_argument("--train")
    parser.add_argument("--batch", type=int)
    asked = parser.parse_args()
    if asked.train:
        train(asked.train, asked.batch, asked.steps)
        return 0
    said = Asked(asked.store, asked.device, asked.mmap_threshold)
    run = partial(trained, steps=asked.steps, map_from=asked.mmap_threshold)
    wrong, off = 0, list[float]()
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
    for name in (each for each in NETWORKS if re.search(asked.only, each)):
        for limit in asked.limit or [2 * 2**30]:
            batch = largest_batch(partial(said.high_bytes, name), limit)
            more = max(batch + 1, ceil(round(TIMES * batch, 6)))
            found = said.occupancy(name, batch)
            results = [None if asked.measure else run(name, each, limit) for each in (batch, more)]
            wrong += not (isinstance(results[0], dict) and results[1] == "out of memory")
            free = run(name, batch, None)
            assert isinstance(free, dict), free
            off.append(free["real"] / found.expected_bytes - 1)
            sizes = (found.expected_bytes, found.high_bytes, free["real"], free["resident"])
            cells = (name, NETWORKS[name][1], f"{limit / MIB:.0f}", batch, told(results[0]), more, told(results[1]))
            print(f"| {' | '.join(map(str, (*cells, *(f'{each / MIB:.0f}' for each in sizes))))} |", flush=True)
    print(f"\nreal beyond expected: from {min(off):+.1%} to {max(off):+.1%}, mean {sum(off) / len(off):+.1%}")
    return int(bool(wrong) and not asked.measure)


def told(result: dict[str, int] | str | None) -> str:
    return "" if result is None else result if isinstance(result, str) else "yes"


if __name__ == "__main__":
    sys.exit(main())
