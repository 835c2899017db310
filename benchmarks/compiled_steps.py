"""How accurately LATTE tells compiled steps: networks of several kinds, trained for real with `torch.compile`.

Each network is exported, and profiled with `latte profile model.pt2 --compile` at one batch, with one thread. Then its
own module is compiled and trained (SGD) in a new process whose heap keeps its memory (`MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=100000000000`), once before and once after the estimate is made; the second over the first is
what the machine repeats. `said` over the mean of both is the ratio. `plain` is the same with glibc as it is, which
gives memory back to the system and faults it in again. The same is done at half the batch, at which nothing was run
compiled. `--calibrated` judges networks of the zoo that were never run compiled: all is from `latte profile
--compile`, which runs four other networks.

    python benchmarks/compiled_steps.py [--only REGEX] [--budget 30s] [--seconds 4] [--calibrated]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from checkpointing import NETWORKS
from torch import Tensor, nn

from latte_cli import LatteError, load
from latte_cli.backends.host import KEEPING
from latte_cli.estimator import estimate_one
from latte_cli.network import zoo
from latte_cli.network.module import NetworkModule
from latte_cli.profiles import resolve_profile
from latte_cli.store import open_store

ONLY = "^(ResNet|VGG|MobileNet|ConvNeXt|U-Net|vision transformer|mixer|LSTM)$"
ZOO = {"resnet18": (64, 8), "mobilenet_v2": (96, 8), "vgg16": (32, 8)}
"""Networks of the zoo for `--calibrated`: pixels and batch."""
THREADS = 1
COLUMNS = (
    *("network", "batch", "eager, ms", "said / real", "compiled, ms", "to eager", "said / real", "real / real"),
    *("plain, ms", "known"),
)


def module_of(name: str, batch: int) -> tuple[nn.Module, Tensor]:
    """The network called so and a batch for it, the same in each process."""
    torch.manual_seed(0)
    if name in ZOO:
        network = zoo.network(name, batch_size=batch, image_size=ZOO[name][0])
        return NetworkModule(network).train(), torch.randn(network.inputs[0][1])
    make, shape = NETWORKS[name]
    return make().train(), torch.randn(batch, *shape[1:])


def train(name: str, batch: int, seconds: float, *, compiled: bool) -> None:
    """Print the median seconds of the steps of a network, after those in which it is compiled."""
    torch.set_num_threads(THREADS)
    module, x = module_of(name, batch)
    call: Any = torch.compile(module) if compiled else module
    target = random_target(module(x))
    update = torch.optim.SGD(module.parameters(), lr=1e-3)
    times: list[float] = []
    start = None
    while len(times) < 10 or start is None or time.perf_counter() - start < seconds:
        began = time.perf_counter()
        update.zero_grad(set_to_none=True)
        torch.autograd.backward(nn.functional.cross_entropy(call(x), target))
        update.step()
        times.append(time.perf_counter() - began)
        if len(times) == 4:
            start = time.perf_counter()
    print(json.dumps(median(times[4:])))


def random_target(scores: Tensor) -> Tensor:
    return torch.randint(0, scores.shape[1], (scores.shape[0], *scores.shape[2:]))


def real(name: str, batch: int, seconds: float, folder: Path, *, compiled: bool = True, keeps: bool = True) -> float:
    """Seconds of a step in a new process, whose heap `keeps` its memory or is glibc's own."""
    words = ["--train", name, "--batch", str(batch), "--seconds", str(seconds), *([] if compiled else ["--eager"])]
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"), "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(
        [sys.executable, __file__, *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **cache, **(KEEPING if keeps else {})},
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def profile(words: list[str], store: Path, budget: str) -> None:
    command = [sys.executable, "-m", "latte_cli", "--quiet", "profile", *words, "--threads", str(THREADS)]
    subprocess.run([*command, "--store", str(store), "--budget", budget], check=True, stdout=subprocess.DEVNULL)


def said(path: Path, batch: int, folder: Path) -> tuple[float, float, str]:
    """The eager and the compiled step that LATTE says, in seconds, and where the latter comes from."""
    store = open_store(str(folder), shipped=False)
    slug = resolve_profile(store, None, THREADS)
    network = load(path, batch_size=batch)
    found = estimate_one(store, slug, network, strategy="pytorch", compiled=True)
    assert found.compiled
    return found.compiled.eager_s, found.step_s, found.compiled.source


def line(name: str, batch: int, path: Path, folder: Path, options: argparse.Namespace) -> str:
    """One row: what is real before and after, and what is said."""
    eager = real(name, batch, options.seconds, folder, compiled=False)
    first = real(name, batch, options.seconds, folder)
    try:
        eager_said, step_s, source = said(path, batch, folder / "store")
    except LatteError as error:
        return f"| {name} | {batch} | {1e3 * eager:.1f} | | {1e3 * first:.1f} | | | | | {error.message} |"
    second = real(name, batch, options.seconds, folder)
    plain = real(name, batch, options.seconds, folder, keeps=False)
    both = fmean((first, second))
    cells = (f"{1e3 * eager:.1f}", f"{eager_said / eager:.3f}", f"{1e3 * both:.1f}", f"{both / eager:.2f}")
    ends = (f"{step_s / both:.3f}", f"{second / first:.3f}", f"{1e3 * plain:.1f}", source)
    return f"| {name} | {batch} | {' | '.join((*cells, *ends))} |"


def rows(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The rows of each network at its own batch and at half of it."""
    for name in filter(re.compile(options.only).search, NETWORKS):
        own = folder / re.sub(r"\W", "_", name)
        own.mkdir()
        batch = NETWORKS[name][1][0]
        module, x = module_of(name, batch)
        path = own / "model.pt2"
        dynamic = ({0: torch.export.Dim("batch", min=2)},)
        torch.export.save(torch.export.export(module, (x,), dynamic_shapes=dynamic), path)
        profile([str(path), "--compile", "--batch-size", str(batch)], own / "store", options.budget)
        yield line(name, batch, path, own, options)
        profile([str(path), "--batch-size", str(batch // 2)], own / "store", options.budget)
        yield line(name, batch // 2, path, own, options)


def calibrated_rows(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The rows of networks that were never run compiled."""
    profile(["--compile"], folder / "store", options.budget)
    for name, (size, batch) in ZOO.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(zoo.export(name, image_size=size))
        profile([str(path), "--batch-size", str(batch)], folder / "store", options.budget)
        yield line(name, batch, path, folder, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=ONLY)
    parser.add_argument("--budget", default="30s")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--calibrated", action="store_true")
    parser.add_argument("--train")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--eager", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.train:
        train(options.train, options.batch, options.seconds, compiled=not options.eager)
        return
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS), flush=True)
    with TemporaryDirectory() as folder:
        for row in (calibrated_rows if options.calibrated else rows)(options, Path(folder)):
            print(row, flush=True)


if __name__ == "__main__":
    main()
