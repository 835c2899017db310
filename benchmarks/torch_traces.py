"""Real training steps against estimates from traces of torch.profiler alone, on this machine's CPU.

For each model it times steps without the profiler, traces steps at two batches, imports one trace or both into a new
store, and prints the estimates of the traced batch and of one between. It times the steps again at the end, which
says how well the machine repeats itself. `--overhead` prints what the profiler takes for each event instead, over what
the trace itself tells: the constants of `latte_cli/torch_trace/overhead.py`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, schedule

from latte_cli.errors import LatteError
from latte_cli.estimator import estimate_one
from latte_cli.network import Network, load
from latte_cli.network.module import NetworkModule, random_inputs
from latte_cli.network.zoo import network
from latte_cli.store import open_store
from latte_cli.torch_trace import TraceRequest, import_trace

CLASSES = 10
SAMPLES, ROUNDS = 10, 3  # steps a block, and blocks on either side of the traces


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model by name: how it is built at a batch, how it is read at one, and the batches to trace and to estimate."""

    name: str
    build: Callable[[int], tuple[nn.Module, Tensor]]
    read: Callable[[int | None], Network]
    traced: tuple[int, int]
    between: int


class Encoder(nn.Module):
    """A transformer that classifies sequences of `steps` words."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.words = nn.Embedding(1000, width)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.scores = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.layers(self.words(x)).mean(1))
        return scores


def zoo_case(name: str, size: int, traced: tuple[int, int], between: int) -> Case:
    """A convolutional network of the zoo."""

    def read(batch: int | None) -> Network:
        return network(name, batch_size=batch, image_size=size)

    def build(batch: int) -> tuple[nn.Module, Tensor]:
        (x,) = random_inputs(read(batch))
        return NetworkModule(read(batch)), x

    return Case(name=f"{name} {size} px", build=build, read=read, traced=traced, between=between)


def encoder_case(folder: Path, width: int, layers: int, steps: int, traced: tuple[int, int], between: int) -> Case:
    """An encoder, read from its exported program."""
    path = folder / f"encoder-{width}.pt2"
    batch = torch.export.Dim("batch", min=2, max=4096)
    words = partial(torch.randint, 0, 1000)
    torch.export.save(
        torch.export.export(Encoder(width, layers), (words((4, steps)),), dynamic_shapes=({0: batch},)), path
    )
    return Case(
        name=f"encoder {layers} x {width}, {steps} words",
        build=lambda size: (Encoder(width, layers), words((size, steps))),
        read=lambda size: load(path, batch_size=size),
        traced=traced,
        between=between,
    )


def training(case: Case, batch: int) -> Callable[[], None]:
    """A training step with SGD."""
    model, x = case.build(batch)
    classes = model(x).shape[-1]
    y = torch.randint(0, classes, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()
    return step


def times(step: Callable[[], None], count: int = SAMPLES) -> list[float]:
    """What so many steps took, each."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        found.append(time.perf_counter() - began)
    return found


def write_trace(step: Callable[[], None], path: Path, steps: int = 5) -> Path:
    """A trace as the how-to makes it."""
    plan = schedule(wait=1, warmup=1, active=steps)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, schedule=plan) as prof:
        for _ in range(steps + 2):
            step()
            prof.step()
    prof.export_chrome_trace(str(path))
    return path


def compare(case: Case, folder: Path) -> None:
    """Print a row for each estimate of a case."""
    low, high = case.traced
    steps = {batch: training(case, batch) for batch in (low, case.between, high)}
    before: dict[int, list[float]] = {batch: [] for batch in steps}
    after: dict[int, list[float]] = {batch: [] for batch in steps}
    for _ in range(ROUNDS):
        for batch, step in steps.items():
            before[batch] += times(step)
    traces = {batch: write_trace(steps[batch], folder / f"{case.traced}-{batch}.json.gz") for batch in case.traced}
    for _ in range(ROUNDS):
        for batch, step in steps.items():
            after[batch] += times(step)
    real = {batch: median(before[batch] + after[batch]) for batch in steps}
    repeats = {batch: median(after[batch]) / median(before[batch]) - 1 for batch in steps}
    told = {batch: real[batch] for batch in case.traced}
    for title, batches, target, step_s in (
        ("same batch", (low,), low, {}),
        ("same batch", (high,), high, {}),
        ("same batch, --step-time", (low,), low, told),
        ("between two traces", (low, high), case.between, {}),
        ("between two, --step-time", (low, high), case.between, told),
        ("from the smaller alone", (low,), case.between, {}),
        ("from the larger alone", (high,), case.between, {}),
    ):
        store = str(folder / f"{case.name} {title} {batches} {target}".replace(" ", "_").replace(",", ""))
        for batch in batches:
            request = TraceRequest(device="here", threads=torch.get_num_threads(), step_s=step_s.get(batch))
            found = import_trace(traces[batch], case.read, open_store(store), request)
            if found.missing or found.strangers:
                print("not found:", found.missing, found.strangers)
        try:
            estimate = estimate_one(open_store(store), "here", case.read(target))
        except LatteError as exc:
            print(f"{case.name:32} {title:26} {batches!s:9} {target:4}  refused: {exc.message[:60]}")
            continue
        off = estimate.step_s / real[target] - 1
        print(
            f"{case.name:32} {title:26} {batches!s:9} {target:4} {1e3 * real[target]:9.2f} ms "
            f"{1e3 * estimate.step_s:9.2f} ms {off:+7.1%}   repeats {repeats[target]:+6.1%}",
            flush=True,
        )


def overhead(case: Case, folder: Path) -> Iterator[tuple[float, float]]:
    """Seconds for each event, in processor time, and between the beginnings of backward's two events, by block."""
    step = training(case, case.traced[0])
    for block in range(8):
        plain, traced = [], []

        def timed(into: list[float]) -> None:
            began = time.thread_time()
            step()
            into.append(time.thread_time() - began)

        for _ in range(12):
            timed(plain)
        plan = schedule(wait=1, warmup=1, active=6)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True, schedule=plan) as prof:
            for _ in range(8):
                timed(traced)
                prof.step()
        for _ in range(12):
            timed(plain)
        path = folder / f"overhead-{block}.json"
        prof.export_chrome_trace(str(path))
        events = [
            e for e in json.loads(path.read_text())["traceEvents"] if e.get("cat") in ("cpu_op", "user_annotation")
        ]
        events.sort(key=lambda event: (event["ts"], -event["dur"]))
        pairs = pairwise(events)
        begins = [b["ts"] - a["ts"] for a, b in pairs if a["name"].startswith("autograd::engine::evaluate_function")]
        yield 6 * (median(traced[2:]) - median(plain)) / len(events), 1e-6 * median(begins)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--overhead", action="store_true", help="what the profiler takes for each event")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.overhead:
            for case in (
                encoder_case(folder, 64, 2, 32, (4, 8), 6),
                zoo_case("resnet8", 32, (2, 8), 4),
                zoo_case("mobilenet_v2", 32, (2, 8), 4),
            ):
                found = list(overhead(case, folder))
                event_s, begin_s = (median(each) for each in zip(*found, strict=True))
                ratio = median(one / other for one, other in found)
                print(f"{case.name:32} {1e6 * event_s:6.2f} us an event, {1e6 * begin_s:6.2f} us begin: {ratio:5.2f}")
            return
        cases = (
            [zoo_case("resnet8", 32, (2, 8), 4), encoder_case(folder, 32, 1, 16, (2, 8), 4)]
            if options.quick
            else [zoo_case("resnet18", 64, (4, 16), 8), encoder_case(folder, 256, 4, 64, (4, 16), 8)]
        )
        for case in cases:
            compare(case, folder)


if __name__ == "__main__":
    main()
