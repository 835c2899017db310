"""The step of BERT-base and of ViT-B/16 as people write them, estimated after three minutes of profiling, against real
steps of the very modules.

A real step is what a training script runs in eager mode: forward, cross-entropy, backward, SGD, `zero_grad`. It runs in
its own process, with two heaps. glibc's default heap returns the memory of large gradients to the system after a step,
and gets it again page by page in the next. The other heap keeps its memory (KEEPING), as the one does on which layers
are profiled. The table shows the page faults of each step beside its time. Real steps run before the profile and after
it, which tells how well the machine repeats itself. It needs
`pip install -c constraints.txt torchvision timm transformers` and ten minutes in which nothing else runs.

    python benchmarks/transformer_steps.py [--budget 3m] [--folder build/transformer-steps]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latte_cli.backends.host import KEEPING

BATCH, TOKENS, STEPS, WARM_UPS = 2, 64, 12, 3
HEADS = ("network", "heap", "real before (s)", "after", "repeats", "faults", "estimated (s)", "80 % interval", "error")
HEAPS = {"as it is": {}, "kept": KEEPING}


def bert() -> tuple[Any, Any]:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(num_labels=10)), torch.randint(0, 30_000, (BATCH, TOKENS))


def vit() -> tuple[Any, Any]:
    import torch
    from torchvision.models import vit_b_16

    return vit_b_16(), torch.randn(BATCH, 3, 224, 224)


NETWORKS: dict[str, Callable[[], tuple[Any, Any]]] = {"bert-base": bert, "vit-b-16": vit}


def export(name: str, path: Path) -> None:
    """Write the network as a `.pt2` program in training mode."""
    import torch

    module, example = NETWORKS[name]()
    torch.export.save(torch.export.export(module.train(), (example,)), path)


def real_steps(name: str) -> dict[str, float]:
    """The median seconds of a step in this process, of its parts, and its page faults."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses

    module, example = NETWORKS[name]()
    module.train()
    optimizer, targets = torch.optim.SGD(module.parameters(), lr=0.01), torch.randint(0, 10, (BATCH,))

    def step() -> tuple[float, ...]:
        faults, marks = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, [time.perf_counter()]
        found = module(example)
        loss = F.cross_entropy(getattr(found, "logits", found), targets)
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return marks[3] - marks[0], marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2], faults

    rows = [step() for _ in range(WARM_UPS + STEPS)][WARM_UPS:]
    keys = ("step_s", "forward_s", "backward_s", "update_s", "faults")
    return dict(zip(keys, map(statistics.median, zip(*rows, strict=True)), strict=True))


def apart(*words: str, environment: dict[str, str] | None = None) -> str:
    run = [sys.executable, *words]
    return subprocess.run(
        run, env=os.environ | (environment or {}), stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def real(name: str) -> dict[str, dict[str, float]]:
    """Real steps in each heap."""
    return {heap: json.loads(apart(__file__, "--real", name, environment=HEAPS[heap])) for heap in HEAPS}


def estimated(path: Path, store: Path, budget: str) -> dict[str, float]:
    latte = ["-m", "latte_cli"]
    where = [str(path), "--batch-size", str(BATCH), "--store", str(store)]
    apart(*latte, "profile", *where, "--budget", budget)
    answer = json.loads(
        apart(*latte, "estimate", *where, "--optimizer", "sgd", "--strategy", "pytorch", "--format", "json")
    )
    said = answer["estimates"][0]["totals"]
    return {key: said[key] for key in ("step_s", "step_low_80_s", "step_high_80_s", "forward_s", "backward_s")}


def row(name: str, heap: str, before: dict[str, Any], after: dict[str, Any], estimate: dict[str, float]) -> str:
    first, second = before[heap]["step_s"], after[heap]["step_s"]
    mean = (first + second) / 2
    cells = [
        name,
        heap,
        f"{first:.3f}",
        f"{second:.3f}",
        f"{second / first - 1:+.1%}",
        f"{after[heap]['faults']:,.0f}",
        f"{estimate['step_s']:.3f}",
        f"{estimate['step_low_80_s']:.2f} to {estimate['step_high_80_s']:.2f}",
        f"{estimate['step_s'] / mean - 1:+.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--folder", type=Path, default=Path("build/transformer-steps"))
    parser.add_argument("--real", choices=NETWORKS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.real:
        print(json.dumps(real_steps(chosen.real)))
        return
    chosen.folder.mkdir(parents=True, exist_ok=True)
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for name in NETWORKS:
        path = chosen.folder / f"{name}.pt2"
        if not path.exists():
            export(name, path)
        before = real(name)
        estimate = estimated(path, chosen.folder / "store", chosen.budget)
        after = real(name)
        (chosen.folder / f"{name}.json").write_text(json.dumps([before, estimate, after]))
        lines += [row(name, heap, before, after, estimate) for heap in HEAPS]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
