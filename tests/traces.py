"""Traces: made here by torch.profiler, and the same as if other devices had made them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, schedule

Document = dict[str, Any]


def encoder(width: int = 32, layers: int = 1, steps: int = 8) -> nn.Module:
    """A small transformer that classifies sequences of `steps` words."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True)
            self.words = nn.Embedding(100, width)
            self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
            self.scores = nn.Linear(width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.scores(self.layers(self.words(x)).mean(1))
            return scores

    return Encoder()


def training_step_of(
    model: nn.Module, x: torch.Tensor, classes: int, optimizer: str = "SGD", **arguments: Any
) -> Callable[[], None]:
    """A function that makes a training step."""
    y = torch.randint(0, classes, (len(x),))
    update = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3, **arguments)

    def step() -> None:
        update.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        update.step()

    return step


def write_trace(path: Path, step: Callable[[], None], *, steps: int = 3, shapes: bool = True) -> Path:
    """A trace of so many steps."""
    plan = schedule(wait=1, warmup=1, active=steps)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=shapes, schedule=plan) as prof:
        for _ in range(steps + 2):
            step()
            prof.step()
    prof.export_chrome_trace(str(path))
    return path


def document_of(path: Path) -> Document:
    """What a trace says."""
    content = path.read_bytes()
    found: Document = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    return found


def first_step(document: Document) -> Document:
    """The trace with its first step alone, whose samples cannot differ."""
    marks = [event for event in document["traceEvents"] if str(event["name"]).startswith("ProfilerStep")]
    first = min(marks, key=lambda event: float(event["ts"]))
    kept = [each for each in document["traceEvents"] if first["ts"] <= each.get("ts", 0) < first["ts"] + first["dur"]]
    return {**document, "traceEvents": kept}


def on_gpu(document: Document, name: str, *, launch: str, runtime: str) -> Document:
    """The trace as a GPU's: every innermost operator launches a kernel, which takes twice as long, one after the other.

    `launch` is the name of the calls that launch, in the category `runtime`.
    """
    operators = [event for event in document["traceEvents"] if event.get("cat") == "cpu_op"]
    operators.sort(key=lambda event: (event["ts"], -event["dur"]))
    made: list[Document] = []
    ends = 0.0
    for number, (event, following) in enumerate(zip(operators, [*operators[1:], {"ts": float("inf")}], strict=True)):
        if following["ts"] < event["ts"] + event["dur"]:
            continue
        args = {"correlation": number, "External id": number}
        own = {"pid": event["pid"], "tid": event["tid"], "ts": event["ts"], "dur": 0.1}
        made.append({"ph": "X", "cat": runtime, "name": launch, "args": args, **own})
        starts = max(ends, event["ts"] + 5)
        ends = starts + 2 * event["dur"]
        kernel = {"pid": 0, "tid": 7, "ts": starts, "dur": 2 * event["dur"]}
        made.append({"ph": "X", "cat": "kernel", "name": f"kernel_of_{event['name']}", "args": args, **kernel})
    device = {"id": 0, "name": name, "totalGlobalMem": 80 << 30, "computeMajor": 9, "computeMinor": 0, "numSms": 132}
    return {**document, "deviceProperties": [device], "traceEvents": [*document["traceEvents"], *made]}
