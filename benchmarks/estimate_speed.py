"""How much time of the CPU `latte estimate` takes as it is typed, and where: ResNet-50 and a Transformer of BERT-base's
size, both all predicted from the shipped profile of a CPU; beside them `--help` and a plan.

Each command runs in a separate process. Its time is user and system time together (`getrusage`): the least and the
median of several runs. No cache is kept between runs but Python's own of its bytecode, which the first run may
have to write. The phases are taken in one more process, after its imports. `--imports` shows which packages take
longest to import (`python -X importtime`).

    python benchmarks/estimate_speed.py [--runs 7] [--imports] [--folder build/estimate-speed]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROFILE = "reference-amd-epyc-family-26-model-2-2c-2t"
ROOT = Path(__file__).parents[1]
WIDTH, HEADS, DEPTH, INNER, WORDS, TOKENS = 768, 12, 12, 3072, 30522, 128  # BERT-base (Devlin et al., 2019)
MOST_SHOWN = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--imports", action="store_true", help="what is imported, by package")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "estimate-speed")
    parser.add_argument("--phases", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.phases:
        print(json.dumps(phases(asked.phases)))
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    models = {"ResNet-50": resnet50(asked.folder), "BERT-base": bert_base(asked.folder)}
    # The shipped profile has no rows of embeddings, so that one is left out of BERT-base.
    options = ("--device", PROFILE, "--allow-unknown")
    estimates = {name: ["estimate", str(path), *options] for name, path in models.items()}
    commands = {
        **{f"estimate {name}": arguments for name, arguments in estimates.items()},
        **{"--help": ["--help"], "profile --help": ["profile", "--help"]},
        "allocate ResNet-50": [
            "allocate",
            str(models["ResNet-50"]),
            "--fleet",
            str(fleet(asked.folder)),
            "--round-duration",
            "60s",
        ],
    }
    print("| command | CPU time, least (s) | median (s) |\n|---|---|---|")
    for name, arguments in commands.items():
        times_s = [cpu_s([sys.executable, "-m", "latte_cli", *arguments], asked.folder) for _ in range(asked.runs)]
        print(f"| `latte {name}` | {min(times_s):.2f} | {statistics.median(times_s):.2f} |", flush=True)
    for name, path in models.items():
        show_phases(name, path, asked)
    if asked.imports:
        show_imports(estimates["ResNet-50"], asked.folder)


def environment(folder: Path) -> dict[str, str]:
    """That of a user whose store is empty: bytecode is kept, and OpenMP takes all cores."""
    dropped = {"PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS", "LATTE_STORE"}
    own = {name: value for name, value in os.environ.items() if name not in dropped}
    return own | {"LATTE_STORE": str(folder / "store"), "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *sys.path[1:])))}


def cpu_s(command: list[str], folder: Path) -> float:
    """The seconds of user and system that a process takes, with those that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True)
    if done.returncode not in (0, 3):  # 3: a device of the fleet has no sub-model in time
        sys.exit(f"{command} ended with {done.returncode}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# The models


def resnet50(folder: Path) -> Path:
    """ResNet-50 as `latte zoo export` writes it: without weights, at an open batch."""
    from latte_cli.network import zoo

    path = folder / "resnet50.onnx"
    path.write_bytes(zoo.export("resnet50"))
    return path


def bert_base(folder: Path) -> Path:
    """An encoder of BERT-base's size by torch's own layers, with embeddings and a pooled output, exported to ONNX.

    Its weights lie in a file beside it, which LATTE does not read. It is made once, in half a minute.
    """
    path = folder / "bert_base.onnx"
    if not path.exists():
        subprocess.run(
            [sys.executable, "-c", "import estimate_speed, sys; estimate_speed.export(sys.argv[1])", path],
            cwd=Path(__file__).parent,
            check=True,
            capture_output=True,
        )
    return path


def export(path: str) -> None:
    """Write the encoder."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(TOKENS, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, activation="gelu", batch_first=True)
            self.layers = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
            self.pooler, self.classes = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

        def forward(self, tokens: Any) -> Any:
            places = torch.arange(tokens.shape[1])
            hidden = self.layers(self.norm(self.words(tokens) + self.places(places)))
            return self.classes(torch.tanh(self.pooler(hidden[:, 0])))

    tokens = torch.zeros(1, TOKENS, dtype=torch.int64)
    torch.onnx.export(
        Encoder().train(),
        (tokens,),
        path,
        dynamo=True,
        external_data=True,
        optimize=False,
        verbose=False,
        training=torch.onnx.TrainingMode.TRAINING,
    )


def fleet(folder: Path) -> Path:
    """The fleet of docs/fleet.yaml with the shipped profile in place of this machine's, in the form that it has."""
    path = folder / "fleet.yaml"
    lines = (ROOT / "docs" / "fleet.yaml").read_text("utf-8").splitlines()
    kept = [line for line in lines if line.split(":")[0].strip() not in ("threads", "precision", "layout")]
    path.write_text("\n".join(kept).replace("device: cpu", f"device: {PROFILE}"), "utf-8")
    return path


# Where the time goes


def show_phases(name: str, path: Path, asked: argparse.Namespace) -> None:
    command = [sys.executable, __file__, "--phases", str(path)]
    runs = [
        json.loads(subprocess.run(command, env=environment(asked.folder), check=True, capture_output=True).stdout)
        for _ in range(asked.runs)
    ]
    print(f"\n| {name}, by phase | CPU time, least (ms) | median (ms) |\n|---|---|---|")
    for phase in runs[0]:
        times = [1000 * run[phase] for run in runs]
        print(f"| {phase} | {min(times):.1f} | {statistics.median(times):.1f} |")


def phases(path: Path) -> dict[str, float]:
    """The seconds of the CPU that each phase of an estimate takes in this process, one after the other."""
    found: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = call()
        found[name] = time.process_time() - start
        return result

    timed("import the command line", _import_command_line)
    timed("import the estimator", _import_estimator)
    from latte_cli.estimator import Estimator
    from latte_cli.estimator.calibration import calibration_pairs
    from latte_cli.lookup import Lookup
    from latte_cli.network import load
    from latte_cli.precisions import Layout, Precision
    from latte_cli.selector import find
    from latte_cli.store import open_store
    from latte_cli.time_model import time_model

    network = timed("read the network", lambda: load(str(path)))
    store = timed("open the store", open_store)
    device = store.device(PROFILE)
    pairs = [(layer, phase) for layer in network.layers for phase in layer.phases]
    convolutions = tuple(dict.fromkeys(pair for pair in pairs if pair[0].kind == "convolution"))
    lookup = Lookup(store, PROFILE, precision=Precision.FP32, layout=Layout.NCHW)
    timed("read the rows", lookup.everything)
    timed("read the calibration networks", lambda: calibration_pairs(device.kind))
    selector = timed("load the selector", lambda: find(store, PROFILE))
    timed("load the time model", lambda: time_model(store, PROFILE, lookup.everything))
    if convolutions:
        timed("choose algorithms", lambda: _choose(selector, convolutions, lookup, device))
        timed("choose algorithms again", lambda: _choose(selector, convolutions, lookup, device))
    timed("estimate with all that", lambda: Estimator(store, PROFILE).estimate(network, allow_unknown=True))
    return found


def _choose(selector: Any, pairs: Any, lookup: Any, device: Any) -> list[Any]:
    return [preferences.best(None) for preferences in selector.rank(pairs, lookup.settings(), device)]


def _import_command_line() -> None:
    import latte_cli.cli  # noqa: F401


def _import_estimator() -> None:
    import latte_cli.estimator  # noqa: F401


def show_imports(arguments: list[str], folder: Path) -> None:
    """The packages whose modules take longest to import, each module's own time alone."""
    command = [sys.executable, "-X", "importtime", "-m", "latte_cli", *arguments]
    done = subprocess.run(command, env=environment(folder), check=True, capture_output=True, text=True)
    times: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for line in done.stderr.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own.strip().isdigit():
            package = rest.partition("|")[2].strip().partition(".")[0]
            times[package] += int(own)
            count[package] += 1
    print("\n| package | modules | import (ms) |\n|---|---|---|")
    for package, microseconds in times.most_common(MOST_SHOWN):
        print(f"| {package} | {count[package]} | {microseconds / 1000:.0f} |")
    print(f"| all | {count.total()} | {times.total() / 1000:.0f} |")


if __name__ == "__main__":
    main()
