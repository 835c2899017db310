"""Pairs of options of `latte estimate`: the second one changes what comes out, or the pair is refused."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from made_rows import DEVICE, GEMM, SETTINGS, measurement, tasks, write
from onnx import TensorProto, helper, numpy_helper
from running import Ended, ended

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.cli.advice import long_options
from latte_cli.cli.commands import COMMANDS
from latte_cli.devices import CUDA
from latte_cli.estimator import Rest, Step, step_calls
from latte_cli.layers import Convolution, Optimizer
from latte_cli.network import load
from latte_cli.optimizers import measured_name
from latte_cli.precisions import Layout, Precision
from latte_cli.store import open_store

GPU = replace(DEVICE, slug="made-up-gpu", kind=CUDA, memory_bytes=2**34)
CPU = replace(DEVICE, slug="made-up-cpu-2c-2t", memory_bytes=2**34)
ALGORITHMS = {"ALGO_0": (2.0, 2**23), "ALGO_1": (3.0, 2**10)}


@dataclass(frozen=True)
class Option:
    """What is typed for an option, and the others that it needs."""

    words: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


SILENT = {
    "--threads": "those that were profiled are the default",
    "--measure-below": "there is no selector",
    "--no-measure": "there are profiles",
    "--batch-axis": "the first dimension is the batch anyway",
    "--compare-weights": "no weight is stored twice",
    "--allow-unknown": "everything was measured",
}
"""Options that change nothing of this model and these devices, and why."""

LINK = ("--link", "1GB/s")
OPTIONS = {
    "--device": Option((CPU.slug,)),
    "--strategy": Option(("pytorch-benchmark",)),
    "--estimator": Option(("flops",)),
    "--precision": Option(("tf32",)),
    "--layout": Option(("channels_last",)),
    "--threads": Option(("2",), ("--device", CPU.slug)),
    "--workspace-limit": Option(("4KiB",)),
    "--memory-limit": Option(("8MiB",)),
    "--checkpoint": Option(("block.first..block.relu",)),
    "--compile": Option((), ("--device", CPU.slug)),
    "--measure-below": Option(("0",)),
    "--measure": Option(("1s",)),
    "--no-measure": Option(),
    "--batch-size": Option(("4",)),
    "--effective-batch": Option(("16",), ("--batch-size", "8")),
    "--fits": Option(("8GiB",)),
    "--batch-axis": Option(("0",)),
    "--compare-weights": Option(),
    "--shape": Option(("seq=32",)),
    "--optimizer": Option(("adam",)),
    "--loss": Option(("none",)),
    "--accumulate": Option(("2",)),
    "--clip-norm": Option(),
    "--ema": Option(),
    "--grad-scaler": Option((), ("--precision", "fp16_autocast")),
    "--zero-grad": Option(("keep",)),
    "--log-every": Option(("100",)),
    "--freeze": Option(("block.first",)),
    "--restore-norms": Option(),
    "--memory": Option(),
    "--all": Option(),
    "--samples": Option(("1000",)),
    "--epochs": Option(("3",), ("--samples", "1000")),
    "--local-steps": Option(("7",)),
    "--upload": Option(("1Mbit",), ("--local-steps", "7")),
    "--download": Option(("1Mbit",), ("--local-steps", "7")),
    "--loading-rate": Option(("10",)),
    "--cuda-graph": Option(),
    "--gpus": Option(("2",), LINK),
    "--link": Option(("2GB/s",), ("--gpus", "2")),
    "--data-parallel": Option(("dp",), ("--gpus", "2", *LINK)),
    "--allow-unknown": Option(),
    "--mmap-threshold": Option(("1KiB",), ("--fits", "8GiB", "--device", CPU.slug)),
    "--prices": Option(("prices.yaml",), ("--samples", "1000")),
    "--picture": Option(("x.svg",), ("--batch-size", "2,4")),
    "--force": Option((), ("--picture", "there.svg", "--batch-size", "2,4")),
    "--fail-above": Option(("0.001ms",)),
    "--baseline": Option(("base.json",)),
    "--max-regression": Option(("1%",), ("--baseline", "fast.json")),
    "--annotate": Option(("github",), ("--fail-above", "1h")),
    "--format": Option(("csv",)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("pairs")
    arrays = {"k": (32, 16, 3), "b": (32,), "w": (32, 4)}
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["h"], name="block.first", kernel_shape=[3], pads=[1, 1]),
        helper.make_node("Relu", ["h"], ["r"], name="block.relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes, "pairs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16, "seq"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in arrays.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), found / "m.onnx")
    return found


def layers_of(path: Path, on_gpu: bool) -> list:
    """The layers of every step that these options make, by the names that they are measured by."""
    found = {}
    rest = Rest(clip_norm=True, ema=True, grad_scaler=on_gpu, zero_grad="keep")
    for batch in (1, 2, 4, 8):
        for seq in (8, 32):
            network = load(path, batch_size=batch, sizes={"seq": seq})
            for optimizer in ("sgd", "adam"):
                for work in step_calls(network, Step(optimizer=optimizer, accumulate=2, rest=rest)):
                    layer = work.layer
                    if isinstance(layer, Optimizer):
                        layer = replace(layer, function=measured_name(layer.function, on_gpu=on_gpu))
                    found[layer] = None
    return [*found]


def rows(device, path: Path) -> Iterator:
    on_gpu = device is GPU
    for precision in (Precision.FP32, Precision.TF32, Precision.FP16_AUTOCAST) if on_gpu else (Precision.FP32,):
        for layout in (Layout.NCHW, Layout.CHANNELS_LAST):
            settings = replace(SETTINGS, threads=0 if on_gpu else 2, precision=precision, layout=layout)
            for task in tasks(layers_of(path, on_gpu), settings):
                if isinstance(task.layer, Convolution) and task.algorithm == FRAMEWORK_DEFAULT:
                    for at, (name, (time, workspace_bytes)) in enumerate(ALGORITHMS.items()):
                        algorithm = Algorithm(library="cudnn", name=name, vendor_id=at)
                        time_s = time * 1e-4 * (1 + task.layer.batch) * (1 + (precision is Precision.FP32)) / 10
                        one = replace(task, algorithm=algorithm)
                        yield measurement(one, device=device, time_s=time_s, workspace_bytes=workspace_bytes)
                if task.algorithm != GEMM:
                    time_s = 1e-3 if isinstance(task.layer, Convolution) else None
                    yield measurement(task, device=device, workspace_bytes=0, time_s=time_s)


@pytest.fixture(scope="module")
def output(folder):
    """What `latte estimate` with more words writes, and its code; each asked once."""
    store = open_store(str(folder / "store"), shipped=False)
    for device in (GPU, CPU):
        write(store, rows(device, folder / "m.onnx"))

    @cache
    def run(*words: str) -> Ended:
        base = ("--shape", "seq=8") if "--shape" not in words else ()
        device = ("--device", GPU.slug) if "--device" not in words else ()
        return ended("estimate", "m.onnx", "--store", store.uri, *device, *base, *words)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        base = run("--format", "json").stdout
        Path("base.json").write_text(base)
        document = json.loads(base)
        document["estimates"][0]["totals"]["step_s"] /= 2
        Path("fast.json").write_text(json.dumps(document))
        Path("there.svg").write_text("")
        Path("prices.yaml").write_text(f"devices: {{{GPU.slug}: {{per_hour: 1}}, {CPU.slug}: {{per_hour: 2}}}}")
        yield run


MODES = (
    ("--format", "csv"),
    ("--format", "trace"),
    ("--format", "markdown"),
    ("--annotate", "junit", "--fail-above", "1h"),
    ("--device", CPU.slug),
    ("--gpus", "2", "--link", "1GB/s"),
    ("--batch-size", "2,4"),
    ("--device", f"{GPU.slug},{CPU.slug}", "--samples", "500"),
    ("--shape", "seq=8:0.5,32:0.5"),
)
"""What the other options are typed beside."""


def groups(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Each option among `words` with its value."""
    starts = [at for at, word in enumerate(words) if word.startswith("--")]
    for start, end in zip(starts, [*starts[1:], len(words)], strict=False):
        yield words[start:end]


def beside(mode: tuple[str, ...], option: str) -> tuple[str, ...]:
    """The mode with what an option needs, but for what the mode has."""
    needed = [one for one in groups(OPTIONS[option].needs) if one[0] not in mode]
    return (*mode, *(word for one in needed for word in one))


def test_every_option_is_tried() -> None:
    assert OPTIONS.keys() | {"--store"} == long_options(COMMANDS["estimate"]) - {"--help"}


@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in SILENT])
def test_an_option_alone_changes_what_comes_out(output, option: str) -> None:
    words = OPTIONS[option].needs
    assert output(*words) != output(*words, option, *OPTIONS[option].words)


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_no_option_is_ignored_beside_another(output, mode: tuple[str, ...]) -> None:
    ignored = []
    for option in OPTIONS.keys() - SILENT.keys() - {*mode}:
        words = beside(mode, option)
        before = output(*words)
        if before.returncode == 0 and output(*words, option, *OPTIONS[option].words) == before:
            ignored.append(option)
    assert ignored == []
