"""Checkpoints that LATTE chooses for ten networks under 80, 60 and 40 % of their full peak, run for real on this CPU.

Each network runs a step of SGD with one thread; its peak is that of the events of torch's allocator. Where a limit is
out of reach, the regions for the least peak that LATTE says are run: their real peak has to be above the limit. The
last rows of a network are torch's `checkpoint_sequential` with √n segments of its blocks, where it has blocks in a row,
and what LATTE takes under the peak that this has. `more` is what the checkpoints add, calls that run again and the
calls of `torch.utils.checkpoint`, as a share of the step.

With `--no-times` calls have the times of a made-up device (a latency, FLOPs and bytes at fixed rates, a time for each
region and each tensor that it saves) and their real workspaces. Otherwise `latte profile` measures each network first,
in one pass, for `--budget` at most. Then real steps of all rows are timed in turn, for `--seconds` at most: a round is
one step of each. `ratio` is that of the estimate to the median step, `repeats` half the interquartile range of the
steps over their median. LATTE's choice is slower (or faster) than √n segments where the 95 % interval of the median of
the differences within rounds lies above (or below) zero. The rows of a network are printed as soon as they are known.

    python benchmarks/checkpointing.py [--only REGEX] [--no-times] [--budget 60s] [--steps 15] [--seconds 60]
"""

import argparse
import copy
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import floor, isqrt, sqrt
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from latte_cli import load
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.backends.cpu.backend import CpuBackend, libraries
from latte_cli.backends.host import cpu_slug
from latte_cli.devices import CPU, Device
from latte_cli.estimator import DoesNotFit, Estimate, Step, estimate_one, savings, step_calls
from latte_cli.estimator.checkpoint_costs import CHECKPOINT_PAIRS
from latte_cli.estimator.storages import Storages
from latte_cli.layers import Other
from latte_cli.measure import Measurement, spread
from latte_cli.network import Network
from latte_cli.network.module import random_targets, training_step
from latte_cli.precisions import Layout, Precision
from latte_cli.runtime.checkpointing import set_checkpoints
from latte_cli.store import Store, open_store
from latte_cli.tasks import Settings, Task

SHARES = (0.8, 0.6, 0.4)
STEP = Step(optimizer="sgd")
LATENCY_S, FLOP_PER_S, BYTES_PER_S = 1e-5, 1e11, 2e10
CALL_S, TENSOR_S = 2.5e-4, 5e-6
"""The made-up device of `--no-times`; the last two are for a call of `torch.utils.checkpoint`, in each pass."""
WARM_UPS = 2
LEAST_ROUNDS = 5


class Skip(nn.Module):
    """Layers whose result is added to what they read."""

    def __init__(self, *layers: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.layers, self.after = nn.Sequential(*layers), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.layers(x))


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Classifier(nn.Module):
    """Blocks in a row, and a classifier of their mean."""

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], width: int, over: Sequence[int] = (2, 3)) -> None:
        super().__init__()
        self.stem, self.blocks, self.out, self.over = stem, nn.Sequential(*blocks), nn.Linear(width, 10), tuple(over)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.stem(x)).mean(self.over))


def resnet() -> nn.Module:
    def block(width: int) -> nn.Module:
        last = nn.Sequential(nn.Conv2d(width // 4, width, 1, bias=False), nn.BatchNorm2d(width))
        return Skip(conv(width, width // 4, 1), conv(width // 4, width // 4), last, after=nn.ReLU())

    blocks = [block(64) for _ in range(4)] + [conv(64, 128, stride=2)] + [block(128) for _ in range(6)]
    return Classifier(conv(3, 64), blocks, 128)


def plain() -> nn.Module:
    blocks = [conv(32, 32), conv(32, 32), nn.MaxPool2d(2), conv(32, 64), conv(64, 64), nn.MaxPool2d(2), conv(64, 64)]
    return Classifier(conv(3, 32), [*blocks, conv(64, 64), conv(64, 64)], 64)


def inverted() -> nn.Module:
    def block(width: int) -> nn.Module:
        last = nn.Sequential(nn.Conv2d(4 * width, width, 1, bias=False), nn.BatchNorm2d(width))
        return Skip(conv(width, 4 * width, 1), conv(4 * width, 4 * width, groups=4 * width), last)

    return Classifier(conv(3, 16, stride=2), [block(16) for _ in range(9)], 16)


def convnext() -> nn.Module:
    def block(width: int) -> nn.Module:
        mix = [nn.Conv2d(width, width, 7, padding=3, groups=width), nn.GroupNorm(1, width)]
        return Skip(*mix, nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1))

    return Classifier(nn.Conv2d(3, 32, 2, 2), [block(32) for _ in range(9)], 32)


class Dense(nn.Module):
    """Layers that read all that those before them wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = conv(3, 24), nn.Linear(24 + 12 * 12, 10)
        sizes = [24 + 12 * at for at in range(12)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(size), nn.ReLU(), nn.Conv2d(size, 12, 3, padding=1)) for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.out(x.mean((2, 3)))


class UNet(nn.Module):
    """An encoder and a decoder that reads what each of its levels wrote."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64)
        sizes = zip((3, 16, 32), widths, strict=True)
        self.down = nn.ModuleList(nn.Sequential(conv(a, b), conv(b, b)) for a, b in sizes)
        self.pool, self.middle = nn.MaxPool2d(2), nn.Sequential(conv(64, 64), conv(64, 64))
        self.up = nn.ModuleList(nn.Sequential(conv(a, b), conv(b, b)) for a, b in ((128, 32), (64, 16), (32, 16)))
        self.wide, self.out = nn.Upsample(scale_factor=2), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.down:
            x = layer(x)
            kept.append(x)
            x = self.pool(x)
        x = self.middle(x)
        for layer in self.up:
            x = layer(torch.cat([self.wide(x), kept.pop()], 1))
        return self.out(x)


def encoder(first: bool, rate: float) -> nn.Module:
    blocks = [
        nn.TransformerEncoderLayer(96, 4, 384, rate, "gelu", batch_first=True, norm_first=first) for _ in range(8)
    ]
    return Classifier(nn.Linear(48, 96), blocks, 96, (1,))


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 96, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x).flatten(2).transpose(1, 2)


def vision() -> nn.Module:
    blocks = [nn.TransformerEncoderLayer(96, 4, 384, 0.1, batch_first=True, norm_first=True) for _ in range(8)]
    return Classifier(Patches(), blocks, 96, (1,))


class Mixing(nn.Module):
    """Layers along the positions."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(positions, 2 * positions), nn.Linear(2 * positions, positions)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.gelu(self.first(x.transpose(1, 2)))).transpose(1, 2)


def mixer() -> nn.Module:
    blocks = []
    for _ in range(8):
        channels = [nn.LayerNorm(96), nn.Linear(96, 384), nn.GELU(), nn.Linear(384, 96)]
        blocks.append(nn.Sequential(Skip(nn.LayerNorm(96), Mixing(64)), Skip(*channels)))
    return Classifier(Patches(), blocks, 96, (1,))


class States(nn.Module):
    """A recurrent layer of which all states go on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cells, self.norm = nn.LSTM(width, width, batch_first=True), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.cells(x)[0])


def recurrent() -> nn.Module:
    return Classifier(nn.Linear(48, 64), [States(64) for _ in range(6)], 64, (1,))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet": (resnet, (16, 3, 40, 40)),
    "VGG": (plain, (16, 3, 64, 64)),
    "MobileNet": (inverted, (16, 3, 64, 64)),
    "ConvNeXt": (convnext, (16, 3, 64, 64)),
    "DenseNet": (Dense, (16, 3, 32, 32)),
    "U-Net": (UNet, (8, 3, 64, 64)),
    "encoder, norm last": (lambda: encoder(first=False, rate=0.1), (16, 128, 48)),
    "vision transformer": (vision, (16, 3, 96, 96)),
    "mixer": (mixer, (16, 3, 64, 64)),
    "LSTM": (recurrent, (32, 50, 48)),
}


@dataclass(kw_only=True)
class Subject:
    """A network on this machine, with a store that knows it."""

    name: str
    module: nn.Module
    x: Tensor
    network: Network
    store: Store
    steps: int

    def estimate(self, checkpoint: str = "none", limit: int | None = None) -> Estimate:
        return estimate_one(
            self.store,
            cpu_slug(1),
            self.network,
            strategy="pytorch",
            threads=1,
            memory_limit_bytes=limit,
            checkpoint=checkpoint,
        )

    def with_checkpoints(self, names: Sequence[str]) -> nn.Module:
        module = copy.deepcopy(self.module)
        set_checkpoints(module, names)
        return module

    def peak(self, names: Sequence[str] = ()) -> int:
        """The real peak of a step."""
        module, targets = self.with_checkpoints(names), random_targets(self.network)
        update = torch.optim.SGD(module.parameters(), lr=1e-6)
        with torch.autograd.profiler.profile(profile_memory=True) as seen:
            training_step(module, (self.x,), targets, update)
        events = [event for event in seen.kineto_results.events() if event.name() == "[memory]"]
        grown = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
        return sum(t.nbytes for t in (*module.parameters(), *module.buffers(), self.x, targets)) + max(grown)

    def rounds(self, ways: Sequence[Sequence[str]], most_s: float) -> list[list[float]]:
        """The seconds of real steps with the checkpoints of each of `ways`, in rounds of one step of each."""
        modules = [self.with_checkpoints(names) for names in ways]
        updates = [torch.optim.SGD(module.parameters(), lr=1e-6) for module in modules]
        targets, times = random_targets(self.network), [list[float]() for _ in ways]
        end = time.monotonic() + most_s
        for at in range(WARM_UPS + self.steps):
            if at >= WARM_UPS + LEAST_ROUNDS and time.monotonic() > end:
                break
            for module, update, own in zip(modules, updates, times, strict=True):
                start = time.perf_counter()
                training_step(module, (self.x,), targets, update)
                if at >= WARM_UPS:
                    own.append(time.perf_counter() - start)
        return times


@dataclass(kw_only=True)
class Line:
    """A line of a network's table, but for what real steps say."""

    limit: str
    what: str
    found: Estimate
    said: float
    real: float

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(region.name for region in self.found.step.checkpoints)


def made_row(task: Task, device: Device, time_s: float, workspace_bytes: int = 0) -> Measurement:
    times = (time_s,) * 3
    return Measurement(
        task=task,
        device=device,
        device_times_s=times,
        host_times_s=times,
        workspace_bytes=workspace_bytes,
        measured_at=1.0,
    )


def made_store(network: Network, folder: Path) -> Store:
    """A store with made-up times and this machine's workspaces for each call of a network."""
    store, backend = open_store(str(folder), shipped=False), CpuBackend(threads=1)
    device = Device(slug=cpu_slug(1), kind=CPU, name="made up", libraries=libraries())
    last = Storages(network).channels_last
    settings = Settings(threads=1, library_versions=libraries())
    rows = {}
    for layer, phase in CHECKPOINT_PAIRS:
        task = Task(layer=layer, phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=settings)
        rows[task] = made_row(task, device, CALL_S + layer.input_shapes[0][0] * TENSOR_S)
    for work in step_calls(network, STEP):
        if work.layer.free:
            continue
        task = Task(layer=work.layer, phase=work.phase, algorithm=FRAMEWORK_DEFAULT, settings=settings)
        flops = work.layer.flops(work.phase) / FLOP_PER_S
        time_s = LATENCY_S + flops + work.layer.bytes_moved(work.phase, 4) / BYTES_PER_S
        needed = 0
        if not isinstance(work.layer, Other) and not work.name.startswith("("):
            layout = Layout.CHANNELS_LAST if work.name in last else Layout.NCHW
            real = Task(
                layer=work.layer,
                phase=work.phase,
                algorithm=FRAMEWORK_DEFAULT,
                settings=backend.settings(Precision.FP32, layout),
            )
            needed = backend.prepare(real).facts().workspace_bytes or 0
        rows[task] = made_row(task, device, time_s, needed)
    with store.writer(device) as writer:
        for row in rows.values():
            writer.append(row)
    return store


def measured_store(module: nn.Module, x: Tensor, folder: Path, budget: str) -> Store:
    """A store that `latte profile` has filled within a budget, as in 60s, in one pass."""
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(module, (x,)), path)
    words = ["--quiet", "profile", str(path), "--threads", "1", "--store", str(folder / "store"), "--budget", budget]
    words += ["--passes", "1", "--optimizer", "sgd"]
    subprocess.run([sys.executable, "-m", "latte_cli", *words], check=True, stdout=subprocess.DEVNULL)
    return open_store(str(folder / "store"), shipped=False)


def subject(name: str, folder: Path, *, budget: str | None, steps: int) -> Subject:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    module, x = make().train(), torch.randn(shape)
    network = load(module, x)
    store = measured_store(module, x, folder, budget) if budget else made_store(network, folder / "store")
    return Subject(name=name, module=module, x=x, network=network, store=store, steps=steps)


def lines_of(one: Subject) -> Iterator[Line]:
    """The lines of one network: none, each limit, √n segments, and what LATTE takes under their peak."""
    full, said = one.peak(), one.estimate()
    yield Line(limit="", what="none", found=said, said=said.memory_bytes / full, real=1.0)
    for share in SHARES:
        limit, title = int(share * full), f"{share:.0%}"
        try:
            found, needed = one.estimate("auto", limit), None
        except DoesNotFit as exc:
            found, needed = one.estimate("auto", exc.least_bytes), exc.least_bytes
        line = Line(limit=title, what="", found=found, said=(needed or found.memory_bytes) / full, real=0.0)
        line.real = (real := one.peak(line.names)) / full
        holds = real > limit if needed else real <= limit
        line.what = f"{'out of reach' if needed else 'fits'}: {'yes' if holds else '**no**'}"
        yield line
    blocks = getattr(one.module, "blocks", None)
    if not isinstance(blocks, nn.Sequential):
        return
    size = len(blocks) // (count := isqrt(len(blocks)))
    spans = [(at * size, (at + 1) * size) for at in range(count - 1)]
    names = [f"blocks[{start}:{stop}]" if stop - start > 1 else f"blocks.{start}" for start, stop in spans]
    theirs = one.estimate(",".join(names))
    yield Line(limit="", what="√n segments", found=theirs, said=theirs.memory_bytes / full, real=one.peak(names) / full)
    found = one.estimate("auto", theirs.memory_bytes)
    line = Line(limit="", what="", found=found, said=found.memory_bytes / full, real=0.0)
    line.real = one.peak(line.names) / full
    slower = more(found) > more(theirs) * (1 + 1e-9)
    line.what = f"under that peak: {'**slower**' if slower else 'not slower'}"
    yield line


def more(estimate: Estimate) -> float:
    return sum(each.extra_s for each in savings(estimate))


def table(one: Subject, *, times: bool, most_s: float) -> Iterator[str]:
    """The rows of one network."""
    lines = list(lines_of(one))
    seconds = one.rounds([line.names for line in lines], most_s) if times else [[] for _ in lines]
    for line, own in zip(lines, seconds, strict=True):
        cells = [one.name, line.limit, line.what, str(len(line.names)), f"{line.said:.1%}", f"{line.real:.1%}"]
        cells.append(f"{more(line.found) / line.found.step_s:.1%}")
        if times:
            real_s = median(own)
            cells += [f"{1e3 * line.found.step_s:.1f}", f"{1e3 * real_s:.1f}", f"{line.found.step_s / real_s:.2f}"]
            cells += [f"±{spread(tuple(own)):.1%}", f"{real_s / median(seconds[0]):.2f}"]
            segments = line.what.startswith("under that peak")
            cells.append(against(own, seconds[-2]) if segments else "")
        yield f"| {' | '.join(cells)} |"


def against(own: Sequence[float], others: Sequence[float]) -> str:
    """Whether the steps are slower than those of the same rounds in another way, beyond what steps repeat."""
    differences = sorted(mine - theirs for mine, theirs in zip(own, others, strict=True))
    rank = max(0, floor(len(differences) / 2 - 1.96 * sqrt(len(differences)) / 2))  # of the median's 95 % interval
    low, high = differences[rank], differences[-1 - rank]
    verdict = "**slower**" if low > 0 else "faster" if high < 0 else "alike"
    share = median(differences) / median(others)
    return f"{verdict} ({share:+.1%}, {low / median(others):+.1%} to {high / median(others):+.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression for names")
    parser.add_argument("--no-times", action="store_true", help="measure no times, only memory")
    parser.add_argument("--budget", default="60s", help="how long `latte profile` measures each network")
    parser.add_argument("--steps", type=int, default=15, help="how many real steps the medians are of")
    parser.add_argument("--seconds", type=float, default=60.0, help="the most that a network's real steps may last")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    times = not options.no_times
    titles = ["network", "limit", "", "regions", "peak, said", "peak, real", "more"]
    if times:
        titles += ["step said, ms", "step real, ms", "ratio", "repeats", "to the step without", "to √n segments"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
    for name in filter(re.compile(options.only).search, NETWORKS):
        with TemporaryDirectory() as folder:
            one = subject(name, Path(folder), budget=options.budget if times else None, steps=options.steps)
            for row in table(one, times=times, most_s=options.seconds):
                print(row, flush=True)


if __name__ == "__main__":
    main()
