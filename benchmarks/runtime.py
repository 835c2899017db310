"""Training steps as PyTorch runs them and as LATTE does, in turn: what layout alone wins, and what algorithms add.

For each network: profiles its layers in both layouts into a separate store, decides as `latte_cli.optimize` does by
the estimates alone, and tunes as `latte tune` does; then races PyTorch's default, the same once more (how far the
machine repeats itself), the layout alone, what the estimates decide and what tuning takes, round by round in one
process. Also how long it takes from a module to a tuned one. A network takes about three minutes on two cores; what was
measured is kept in the store. Leave the machine alone meanwhile.

    python benchmarks/runtime.py --store build/runtime [--output docs/runtime.md] [--networks resnet18 …]
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from latte_cli import child
from latte_cli.backends.torch.training import RunRequest
from latte_cli.errors import ExitCode
from latte_cli.estimator import Limits
from latte_cli.network import load, zoo
from latte_cli.precisions import Layout, Precision
from latte_cli.profiles import resolve_profile
from latte_cli.runtime import Choices, read_choices
from latte_cli.runtime.deciding import Wish, decide
from latte_cli.runtime.racing import Race, run_race
from latte_cli.store import open_store

CASES = {
    "resnet18": (8, 224),
    "resnet50": (4, 224),
    "vgg11": (4, 224),
    "mobilenet_v2": (8, 224),
    "custom_cnn": (32, None),
    "alexnet": (16, 224),
    "mobilenet_v1": (8, 224),
    "resnet20": (32, None),
    "resnet8": (32, None),
    "lenet": (64, None),
}
"""Batch and image size of each network."""

WAYS = ("the same again", "channels_last alone", "by the estimates", "tuned", "torch's search")
"""What is raced against PyTorch's default; the last, `cudnn.benchmark`, changes nothing on a CPU."""


def latte(*arguments: str) -> None:
    print("$ latte", *arguments, file=sys.stderr, flush=True)
    code = child.call("latte_cli.cli:main", "--quiet", *arguments, stdout=subprocess.DEVNULL)
    if code != ExitCode.DONE:
        sys.exit(f"latte {arguments[0]} ended with code {code}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A network's race, what ran in it after PyTorch's own way twice, and how long it took to get there."""

    name: str
    batch: int
    race: Race
    by_estimates: Choices
    tuned: Choices
    tune_s: float
    seconds: dict[str, float]


def outcome(folder: Path, name: str, device: str, budget: str, seconds: float) -> Outcome:
    batch, size = CASES[name]
    model, store = folder / f"{name}.onnx", str(folder / "store")
    model.write_bytes(zoo.export(name, image_size=size))
    done, file = folder / f"profiled-{name}", folder / f"choices-{name}.json"
    named = (str(model), "--batch-size", str(batch), "--device", device, "--store", store)
    if not done.exists():
        latte("profile", *named, "--layout", "nchw", "--layout", "channels_last", "--passes", "2", "--budget", budget)
        done.touch()
    started = time.perf_counter()
    latte("tune", *named, "-o", str(file), "--force")
    tune_s = time.perf_counter() - started
    [tuned] = read_choices(file)
    opened = open_store(store, shipped=False)
    start = replace(tuned, layout=None, bindings=(), reasons=())
    threads = tuned.key.threads or None
    slug = resolve_profile(opened, device, threads)
    timed = _apart(model, batch, device, store, file)
    wish = Wish(precision=Precision.FP32, threads=threads, limits=Limits(), wrapper_s=timed["wrapper_s"])
    by_estimates = replace(decide(opened, slug, load(model, batch_size=batch), wish), key=tuned.key)
    search = replace(start, strategy="pytorch-benchmark")
    ways = [start, start, replace(start, layout=Layout.CHANNELS_LAST), by_estimates, tuned]
    ways += [search] if device.startswith("cuda") else []
    run = RunRequest(model=str(model), batch_size=batch, device=device, threads=tuned.key.threads, seconds=seconds)
    return Outcome(
        name=name,
        batch=batch,
        race=run_race(run, ways),
        by_estimates=by_estimates,
        tuned=tuned,
        tune_s=tune_s,
        seconds=timed,
    )


def _apart(model: Path, batch: int, device: str, store: str, file: Path) -> dict[str, float]:
    """How long it takes, in a separate process, from a module to one that runs at its steady speed."""
    request = [str(model), batch, device, store, str(file)]
    found: dict[str, float] = child.ask(f"{Path(__file__).stem}:times", request)
    return found


def times(request: tuple[str, int, str, str, str]) -> dict[str, float]:
    """Seconds of deciding by the profile, of applying a file, of the first step after each and of steady ones."""
    model, batch, device, store, file = request
    import torch

    import latte_cli
    from latte_cli.backends.torch.training import NetworkTraining
    from latte_cli.runtime.convolution import wrapper_s

    def sync() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    def timed(call: Any) -> float:
        sync()
        started = time.perf_counter()
        call()
        sync()
        return time.perf_counter() - started

    found = {"wrapper_s": wrapper_s(device)}
    run = RunRequest(model=model, batch_size=int(batch), device=device)
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "profile": {"store": store},
        "file": {"choices": file},
    }
    for name, given in options.items():
        training = NetworkTraining(run)
        example = tuple(training.inputs)
        if given:
            more = {**given, "example": example} if "store" in given else given
            found[f"{name}_apply_s"] = timed(lambda t=training, m=more: latte_cli.optimize(t.module, **m))
        steps = [timed(lambda t=training: t.step(lambda: None)) for _ in range(8)]
        found[f"{name}_first_s"], found[f"{name}_steady_s"] = sum(steps[:3]), median(steps[3:])
    return found


def report(outcomes: Iterable[Outcome], device: str) -> Iterable[str]:
    kept = list(outcomes)
    ways = WAYS[: len(kept[0].race.times_s) - 1]
    columns = " | ".join(ways)
    yield "# Training steps with what was selected"
    yield ""
    yield "`python benchmarks/runtime.py` prints this."
    yield ""
    yield f"Steps of SGD in fp32 on `{device}`; each way's step over PyTorch's default in the same round: median"
    yield "(quartiles) over rounds. Under 1 is faster."
    yield ""
    yield f"| network | batch | default | {columns} | tuned takes |"
    yield "|---|--:|--:|" + "--:|" * len(ways) + "---|"
    for each in kept:
        cells = []
        for at in range(1, len(ways) + 1):
            low, high = each.race.spread(at)
            cells.append(f"{each.race.ratio(at):.3f} ({low:.3f} - {high:.3f})")
        yield (
            f"| {each.name} | {each.batch} | {1e3 * each.race.step_s(0):.1f} ms | {' | '.join(cells)} | "
            f"{_named(each.tuned)} |"
        )
    yield ""
    yield "| network | by the estimates | expected | in the race | applied by profile | by file | `latte tune` |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for each in kept:
        choices = each.by_estimates
        expected = (choices.chosen_s or 0.0) / (choices.default_s or 1.0)
        yield (
            f"| {each.name} | {_named(choices)} | {expected:.3f} | {each.race.ratio(3):.3f} | "
            f"{each.seconds['profile_apply_s']:.1f} s | {each.seconds['file_apply_s']:.3f} s | {each.tune_s:.0f} s |"
        )
    yield ""
    wrappers = median(each.seconds["wrapper_s"] for each in kept)
    yield f"A convolution called through the wrapper takes {1e6 * wrappers:.0f} us longer, forward and backward."
    for at, name in enumerate(ways, start=1):
        ratios = [each.race.ratio(at) for each in kept]
        faster = sum(each.race.spread(at)[1] < 1 and each.race.ratio(at) < 0.98 for each in kept)
        yield (
            f"- {name}: {faster} of {len(kept)} measurably faster, the slowest {max(ratios):.3f}, "
            f"the fastest {min(ratios):.3f}"
        )


def warm_up(folder: Path, names: Iterable[str], device: str) -> Iterable[str]:
    """How long it takes from a module to one that trains at its steady speed, for networks that were tuned before."""
    yield "Seconds from a module to the end of its first three steps, with what comes before them; steady steps after:"
    yield ""
    yield "| network | default | decided by profile | by file | steady step: default | by profile | by file |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name in names:
        batch, _ = CASES[name]
        file, store = folder / f"choices-{name}.json", str(folder / "store")
        found = _apart(folder / f"{name}.onnx", batch, device, store, file)
        ways = ("default", "profile", "file")
        starts = " | ".join(f"{found.get(f'{way}_apply_s', 0.0) + found[f'{way}_first_s']:.2f} s" for way in ways)
        steady = " | ".join(f"{1e3 * found[f'{way}_steady_s']:.1f} ms" for way in ways)
        yield f"| {name} | {starts} | {steady} |"


def _named(choices: Choices) -> str:
    layout = [str(choices.layout)] if choices.layout else []
    return " + ".join([*layout, *([f"{len(choices.bindings)} algorithms"] if choices.bindings else [])]) or "PyTorch's"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("build/runtime"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--budget", default="60s", help="for the profile of each network")
    parser.add_argument("--seconds", type=float, default=12.0, help="for each way in a race")
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--warm-up", action="store_true", help="only how long it takes to run at full speed, after that"
    )
    arguments = parser.parse_args()
    arguments.store.mkdir(parents=True, exist_ok=True)
    if arguments.warm_up:
        print("\n".join(warm_up(arguments.store, arguments.networks, arguments.device)))
        return
    found = []
    for name in arguments.networks:
        found.append(outcome(arguments.store, name, arguments.device, arguments.budget, arguments.seconds))
        print("\n".join(report(found[-1:], arguments.device)), file=sys.stderr, flush=True)
    text = "\n".join(report(found, arguments.device)) + "\n"
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
