"""First estimates on a machine that was never profiled, against real training steps: eight networks, six kinds.

For each network, from an empty store each time: `latte estimate --measure 10s`, which a terminal gets by itself, then
15 s and 60 s. It runs the network itself, too, in processes apart from those that this benchmark times. Real steps run
in separate processes before and after each estimate, so that it is compared with the mean of those right around it; how
far these two are apart tells how well the machine repeats itself. The real steps are those of the torch modules
themselves (of the zoo's networks, LATTE's), with SGD and cross-entropy, on a heap that keeps its memory, as the one on
which layers are measured. Takes a quarter of an hour in which nothing else should run; what was measured is kept in the
folder, and a second run goes on where the first stopped.

    python benchmarks/first_estimate.py [--folder build/first-estimate] [--budgets 10s,15s,60s] [--networks NAME,...]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from latte_cli.backends.host import KEEPING

STEPS, WARM_UPS, SECONDS = 40, 3, 4.0
ZOO = {"resnet18": (16, 64), "mobilenet_v2": (8, 96), "vgg11": (8, 64)}
"""Batch sizes and pixels of the zoo's networks."""


def transformer() -> tuple[Any, Any, int]:
    """A text classifier with four encoder layers."""
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(8000, 256)
            self.places = nn.Embedding(64, 256)
            layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
            self.head = nn.Linear(256, 10)

        def forward(self, tokens: Any) -> Any:
            places = torch.arange(64, device=tokens.device)
            return self.head(self.layers(self.words(tokens) + self.places(places)).mean(1))

    return Classifier(), torch.randint(0, 8000, (8, 64)), 10


def lstm() -> tuple[Any, Any, int]:
    """A language model of two LSTM layers."""
    import torch
    from torch import nn

    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5000, 128)
            self.layers = nn.LSTM(128, 256, 2, batch_first=True)
            self.head = nn.Linear(256, 5000)

        def forward(self, tokens: Any) -> Any:
            return self.head(self.layers(self.words(tokens))[0])

    return Language(), torch.randint(0, 5000, (8, 48)), 5000


def unet() -> tuple[Any, Any, int]:
    """A U-Net of three levels that labels the pixels of small images."""
    import torch
    from torch import nn

    def double(wide: int, out: int) -> Any:
        parts: list[Any] = []
        for size in (wide, out):
            parts += [nn.Conv2d(size, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        return nn.Sequential(*parts)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList([double(3, 24), double(24, 48), double(48, 96)])
            self.pool = nn.MaxPool2d(2)
            self.bottom = double(96, 192)
            self.rise = nn.ModuleList([nn.ConvTranspose2d(2 * n, n, 2, 2) for n in (96, 48, 24)])
            self.up = nn.ModuleList([double(2 * n, n) for n in (96, 48, 24)])
            self.head = nn.Conv2d(24, 5, 1)

        def forward(self, x: Any) -> Any:
            kept = []
            for block in self.down:
                x = block(x)
                kept.append(x)
                x = self.pool(x)
            x = self.bottom(x)
            for rise, block, before in zip(self.rise, self.up, reversed(kept), strict=True):
                x = block(torch.cat([before, rise(x)], 1))
            return self.head(x)

    return UNet(), torch.randn(4, 3, 96, 96), 5


def mixer() -> tuple[Any, Any, int]:
    """An MLP-Mixer of four blocks."""
    import torch
    from torch import nn

    def mlp(wide: int, hidden: int) -> Any:
        return nn.Sequential(nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, wide))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(192), nn.LayerNorm(192)
            self.tokens, self.channels = mlp(64, 128), mlp(192, 768)

        def forward(self, x: Any) -> Any:
            x = x + self.tokens(self.first(x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.second(x))

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 192, 8, 8)
            self.blocks = nn.Sequential(*(Block() for _ in range(4)))
            self.head = nn.Linear(192, 100)

        def forward(self, x: Any) -> Any:
            return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

    return Mixer(), torch.randn(16, 3, 64, 64), 100


def gpt() -> tuple[Any, Any, int]:
    """A small GPT: two causal blocks and a head over the vocabulary."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(256), nn.LayerNorm(256)
            self.three, self.out = nn.Linear(256, 768), nn.Linear(256, 256)
            self.mlp = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))

        def forward(self, x: Any) -> Any:
            batch, steps, wide = x.shape
            q, k, v = self.three(self.first(x)).split(wide, dim=2)
            q, k, v = (t.view(batch, steps, 4, wide // 4).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(batch, steps, wide))
            return x + self.mlp(self.second(x))

    class Gpt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(4000, 256), nn.Embedding(128, 256)
            self.blocks = nn.Sequential(Block(), Block())
            self.norm, self.head = nn.LayerNorm(256), nn.Linear(256, 4000, bias=False)

        def forward(self, tokens: Any) -> Any:
            places = torch.arange(128, device=tokens.device)
            return self.head(self.norm(self.blocks(self.words(tokens) + self.places(places))))

    return Gpt(), torch.randint(0, 4000, (4, 128)), 4000


MODULES: dict[str, Callable[[], tuple[Any, Any, int]]] = {
    "transformer": transformer,
    "lstm": lstm,
    "unet": unet,
    "mixer": mixer,
    "gpt": gpt,
}
NETWORKS = (*ZOO, *MODULES)


def model_file(name: str, folder: Path) -> Path:
    """The network as a file: ONNX of the zoo's, else a program that torch exports in training mode."""
    path = folder / (f"{name}.onnx" if name in ZOO else f"{name}.pt2")
    if path.exists():
        return path
    if name in ZOO:
        from latte_cli.network import zoo

        batch, size = ZOO[name]
        path.write_bytes(zoo.export(name, batch_size=batch, image_size=size))
    else:
        import torch

        module, example, _ = MODULES[name]()
        torch.export.save(torch.export.export(module.train(), (example,)), path)
    return path


def real_steps(name: str) -> float:
    """The median seconds of a step of a module in this process."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses

    module, example, classes = MODULES[name]()
    module.train()
    shape = module(example).shape
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    targets = torch.randint(0, classes, (shape[0], *shape[2:]) if len(shape) == 4 else tuple(shape[:-1]))

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        scores = module(example)
        scores = scores if scores.dim() == 4 else scores.reshape(-1, classes)
        loss = F.cross_entropy(scores, targets if scores.dim() == 4 else targets.reshape(-1))
        loss.backward()
        optimizer.step()
        return time.perf_counter() - start

    found: list[float] = [step() for _ in range(WARM_UPS)]
    found.clear()
    while len(found) < 5 or (len(found) < STEPS and sum(found) < SECONDS):
        found.append(step())
    return statistics.median(found)


def real(name: str, path: Path) -> float:
    """The median seconds of real steps in a separate process."""
    if name in MODULES:
        words = [sys.executable, __file__, "--real", name]
        run = subprocess.run(words, env=os.environ | KEEPING, stdout=subprocess.PIPE, text=True, check=True)
        return float(run.stdout)
    from latte_cli.backends.torch.training import RunRequest
    from latte_cli.backends.torch.whole import run_apart

    return run_apart(RunRequest(model=str(path), seconds=SECONDS, most=STEPS)).median("step_s")


def estimated(path: Path, store: Path, budget: str) -> dict[str, Any]:
    """What `latte estimate --measure` says, from an empty store, and the seconds that the command took."""
    shutil.rmtree(store, ignore_errors=True)
    words = [sys.executable, "-m", "latte_cli", "estimate", str(path), "--measure", budget, "--store", str(store)]
    start = time.perf_counter()
    run = subprocess.run([*words, "--format", "json"], stdout=subprocess.PIPE, text=True, check=True)
    answer = json.loads(run.stdout)
    totals = answer["estimates"][0]["totals"]
    return {"took_s": time.perf_counter() - start, "measured": answer["measured"]} | {
        key: totals[key] for key in ("step_s", "step_low_80_s", "step_high_80_s")
    }


def case(name: str, folder: Path, budgets: list[str]) -> dict[str, Any]:
    """Real steps, and after each budget's estimate again; kept in a file."""
    kept = folder / f"{name}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    path = model_file(name, folder)
    reals, estimates = [real(name, path)], []
    for budget in budgets:
        estimates.append(estimated(path, folder / f"store-{name}-{budget}", budget))
        reals.append(real(name, path))
    found = {"reals": reals, "estimates": estimates}
    kept.write_text(json.dumps(found))
    return found


def table(cases: dict[str, dict[str, Any]], budgets: list[str]) -> list[str]:
    """A line for each network, and the mean precision, 1 - |error|, of each column."""
    heads = ["network", "real steps (ms)", "the machine's own", *(f"{each}: error" for each in budgets)]
    heads += [*(f"{each}: calls" for each in budgets), *(f"{each}: took (s)" for each in budgets)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    close: dict[str, list[float]] = {each: [] for each in budgets}
    repeats: dict[str, list[float]] = {each: [] for each in budgets}
    inside = dict.fromkeys(budgets, 0)
    for name, found in cases.items():
        reals, cells = found["reals"], []
        for at, budget in enumerate(budgets):
            each, before, after = found["estimates"][at], reals[at], reals[at + 1]
            mean = (before + after) / 2
            close[budget].append(1 - abs(each["step_s"] / mean - 1))
            repeats[budget].append(1 - abs(after / before - 1))
            inside[budget] += each["step_low_80_s"] <= mean <= each["step_high_80_s"]
            cells.append(f"{each['step_s'] / mean - 1:+.1%}")
        steps = ", ".join(f"{each * 1e3:.1f}" for each in reals)
        spread = ", ".join(f"{after / before - 1:+.1%}" for before, after in pairwise(reals))
        cells += [str(sum(one["calls"] for one in each["measured"])) for each in found["estimates"]]
        cells += [f"{each['took_s']:.1f}" for each in found["estimates"]]
        lines.append(f"| {name} | {steps} | {spread} | {' | '.join(cells)} |")
    blanks = " | " * (2 * len(budgets))
    own = ", ".join(f"{statistics.mean(each):.1%}" for each in repeats.values())
    lines.append(
        f"| mean precision | | {own} | {' | '.join(f'{statistics.mean(c):.1%}' for c in close.values())}{blanks} |"
    )
    counts = " | ".join(f"{inside[budget]} of {len(cases)}" for budget in budgets)
    return [*lines, f"| in the 80 % interval | | | {counts}{blanks} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/first-estimate"))
    parser.add_argument("--budgets", default="10s,15s,60s")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--real", choices=MODULES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.real:
        print(real_steps(chosen.real))
        return
    chosen.folder.mkdir(parents=True, exist_ok=True)
    budgets = chosen.budgets.split(",")
    cases = {name: case(name, chosen.folder, budgets) for name in chosen.networks.split(",")}
    print("\n".join(table(cases, budgets)))


if __name__ == "__main__":
    main()
