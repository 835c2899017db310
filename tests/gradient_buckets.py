"""A process of a group that trains with DistributedDataParallel, and the modules that it trains.

    python tests/gradient_buckets.py RANK PROCESSES FILE NAME...

prints, in the first process, the buckets that torch makes of each module: names of parameters, as a JSON object.
"""

import itertools
import json
import sys
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


class Branches(nn.Module):
    """Two branches of convolutions that are added, a tied weight, and a layer that runs last in spite of its place."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1024, 300)
        self.left = nn.Conv2d(3, 128, 3, padding=1)
        self.right = nn.Conv2d(3, 128, 5, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(128)
        self.wide = nn.Conv2d(128, 1024, 3, padding=1)
        self.tied = nn.Linear(1024, 1024)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm(self.left(x) + self.right(x)))
        y = self.wide(y).mean((2, 3))
        y = functional.relu(self.tied(y))
        y = functional.relu(functional.linear(y, self.tied.weight))
        return self.head(y)


class Words(nn.Module):
    """An embedding, a recurrent layer, attention and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3000, 128)
        self.recurrent = nn.LSTM(128, 256, batch_first=True)
        self.norm = nn.LayerNorm(256)
        self.block = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True, norm_first=True)
        self.scores = nn.Linear(256, 3000, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.recurrent(self.embedding(x))
        return self.scores(self.block(self.norm(y)).mean(1))


def plain() -> nn.Module:
    """A few layers under one bucket in all."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))


def wide() -> nn.Module:
    """Layers larger than a bucket, and small ones between them."""
    sizes = (192, 3000, 7, 2048, 4096, 100, 10)
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers)


def deep() -> nn.Module:
    """Many small layers, which fill several buckets."""
    widths = (3, *(32 * 2 ** (index // 8) for index in range(28)))
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def frozen() -> nn.Module:
    """The deep one whose first half is not trained."""
    module = deep()
    for name, parameter in module.named_parameters():
        parameter.requires_grad = int(name.split(".")[0]) >= 24
    return module


IMAGES, TEXTS = "images", "texts"
MODULES: Mapping[str, tuple[Callable[[], nn.Module], str, int | None]] = {
    "plain": (plain, IMAGES, None),
    "wide": (wide, IMAGES, None),
    "deep": (deep, IMAGES, 2),
    "frozen": (frozen, IMAGES, 1),
    "branches": (Branches, IMAGES, 1),
    "words": (Words, TEXTS, 1),
}
"""By name: what makes the module, what it is called with, and DDP's `bucket_cap_mb`; None for its default."""

STEPS = 3  # torch sorts the buckets anew after the first, and says how in the one after that


def example(kind: str) -> Tensor:
    """A batch of two."""
    return torch.randint(3000, (2, 6)) if kind == TEXTS else torch.randn(2, 3, 8, 8)


def real_buckets(name: str) -> list[list[str]]:
    """The names of the parameters in each bucket that torch makes of a module, in its order."""
    make, kind, cap_mb = MODULES[name]
    torch.manual_seed(0)
    module = make()
    parallel = nn.parallel.DistributedDataParallel(module, bucket_cap_mb=cap_mb)
    for _ in range(STEPS):
        parallel(example(kind)).sum().backward()
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    told = parallel._get_ddp_logging_data()["rebuilt_per_bucket_param_indices"]
    return [[names[int(index)] for index in bucket.split()] for bucket in told.split(",")]


def main() -> None:
    rank, processes, meeting, *names = sys.argv[1:]
    torch.set_num_threads(1)
    group = torch.distributed
    group.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(processes))
    found = {name: real_buckets(name) for name in names}
    if rank == "0":
        json.dump(found, sys.stdout)
    group.destroy_process_group()


if __name__ == "__main__":
    main()
