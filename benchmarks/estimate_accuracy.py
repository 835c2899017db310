"""Estimated against real training steps, from the standard suite alone.

The real step of every case is measured before the profile and again after it, each in a process of its own; nothing of
the evaluated networks is profiled. Prints one line a case, and the precision (1 - |error|) beside the machine's own
repeatability. Takes about 20 minutes on two cores; leave the machine alone meanwhile.

    python benchmarks/estimate_accuracy.py --store /tmp/accuracy [--output docs/estimate-accuracy.md]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = [
    ("alexnet", 224, 8),
    ("alexnet", 224, 32),
    ("custom_cnn", 32, 32),
    ("custom_cnn", 32, 128),
    ("lenet", None, 64),
    ("mobilenet_v2", 224, 8),
    ("mobilenet_v2", 96, 32),
    ("resnet18", 224, 4),
    ("resnet18", 224, 16),
    ("resnet18", 64, 32),
    ("resnet34", 224, 8),
    ("resnet50", 224, 4),
    ("resnet50", 224, 8),
    ("vgg11", 224, 4),
    ("vgg11", 64, 16),
    ("vgg16", 224, 2),
]
"""(network, image size, batch size)"""

TIMES = 2


def exported(folder: Path, name: str, size: int | None) -> Path:
    path = folder / f"{name}-{size or 'own'}.onnx"
    if not path.exists():
        image = [] if size is None else ["--image-size", str(size)]
        subprocess.run([sys.executable, "-m", "latte_cli", "-q", "zoo", "export", name, path, *image], check=True)
    return path


def real_steps(path: str, batch: int, seconds: float) -> dict[str, float]:
    """Median times of real steps, as a user's training loop runs them; called in a fresh process."""
    import torch

    from latte_cli.network import load
    from latte_cli.network.module import NetworkModule, optimizer, random_inputs, training_step

    network = load(path, batch_size=batch)
    module = NetworkModule(network)
    update = optimizer("sgd", module.parameters())
    inputs = random_inputs(network)
    targets = torch.randint(network.loss().classes, (network.loss().rows,))
    for _ in range(3):
        training_step(module, inputs, targets, update)
    steps: list[float] = []
    start = time.perf_counter()
    while len(steps) < 5 or (time.perf_counter() - start < seconds and len(steps) < 200):
        before = time.perf_counter()
        training_step(module, inputs, targets, update)
        steps.append(time.perf_counter() - before)
    return {"step_s": statistics.median(steps)}


def measured(folder: Path, *, seconds: float) -> list[list[float]]:
    """For each case the medians of `TIMES` processes, the cases interleaved."""
    found: list[list[float]] = [[] for _ in CASES]
    for _ in range(TIMES):
        for index, (name, size, batch) in enumerate(CASES):
            command = [sys.executable, __file__, "--real", exported(folder, name, size), str(batch), str(seconds)]
            output = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
            found[index].append(json.loads(output)["step_s"])
    return found


def estimated(store: str, path: Path, batch: int) -> dict[str, float]:
    command = [sys.executable, "-m", "latte_cli", "-q", "estimate", path, "--device", "cpu", "--batch-size", batch]
    command += ["--strategy", "pytorch", "--store", store, "--format", "json"]
    output = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    estimate = json.loads(output)["estimates"][0]
    assert not estimate["missing"], estimate["missing"]
    return estimate["totals"]  # type: ignore[no-any-return]


def table(before: list[list[float]], after: list[list[float]], totals: list[dict[str, float]]) -> list[str]:
    lines = [
        "| network | pixels | batch | before (ms) | after (ms) | repeat | estimate (ms) | 95 % interval | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    errors, repeats, inside = [], [], 0
    for (name, size, batch), first, second, total in zip(CASES, before, after, totals, strict=True):
        a, b, step = statistics.median(first), statistics.median(second), total["step_s"]
        real = statistics.median(first + second)
        errors.append(step / real - 1)
        repeats.append(1 - abs(b / a - 1))
        inside += total["step_low_s"] <= real <= total["step_high_s"]
        interval = f"{total['step_low_s'] * 1e3:.1f} to {total['step_high_s'] * 1e3:.1f}"
        lines.append(
            f"| {name} | {size or 'own'} | {batch} | {a * 1e3:.1f} | {b * 1e3:.1f} | {repeats[-1]:.1%} "
            f"| {step * 1e3:.1f} | {interval} | {errors[-1]:+.1%} |"
        )
    precision = [1 - abs(error) for error in errors]
    good = [case for case, error in zip(CASES, errors, strict=True) if abs(error) <= 0.1]
    lines += [
        "",
        f"Precision of the step: mean {statistics.mean(precision):.1%}, worst {min(precision):.1%}; "
        f"real against itself: mean {statistics.mean(repeats):.1%}, worst {min(repeats):.1%}.",
        f"Within 10 %: {len(good)} of {len(CASES)} cases of {len({name for name, *_ in good})} architectures. "
        f"Inside the 95 % interval: {inside} of {len(CASES)}.",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="accuracy-store")
    parser.add_argument("--budget", default="15m")
    parser.add_argument("--seconds", type=float, default=2.0, help="of real steps for each case and time")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--real", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.real:
        path, batch, seconds = arguments.real
        print(json.dumps(real_steps(path, int(batch), float(seconds))))
        return
    folder = Path(arguments.store) / ".evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "real.json"
    if not kept.exists():
        kept.write_text(json.dumps(measured(folder, seconds=arguments.seconds)))
    profile = [sys.executable, "-m", "latte_cli", "profile", "--suite", "standard", "--budget", arguments.budget]
    subprocess.run([*profile, "--store", arguments.store], check=False, stdout=sys.stderr)
    after = measured(folder, seconds=arguments.seconds)
    (folder / "after.json").write_text(json.dumps(after))
    totals = [estimated(arguments.store, exported(folder, name, size), batch) for name, size, batch in CASES]
    text = "\n".join(table(json.loads(kept.read_text()), after, totals))
    print(text)
    if arguments.output:
        arguments.output.write_text(f"# Estimate accuracy, standard suite only\n\n{text}\n")


if __name__ == "__main__":
    main()
