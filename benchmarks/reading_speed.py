"""How long it takes to read model files: a network of over 200 layers, and a gigabyte of weights.

Each is read in a separate process, without torch; beside it the time that only reading the file's bytes takes, and
the process's peak of memory.

    python benchmarks/reading_speed.py
"""

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from latte_cli import child

TIMES = 5


def read(path: str) -> dict[str, Any]:
    """The time and memory that a child process takes to read a model file."""
    import latte_cli.network.onnx  # noqa: F401 - its import is no part of reading
    from latte_cli import load

    start = time.perf_counter()
    network = load(path, batch_size=8)
    seconds = time.perf_counter() - start
    assert "torch" not in sys.modules
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "layers": len(network.layers), "peak_bytes": peak}


def gigabyte(path: str) -> None:
    """Eight matrices of 128 MiB one after the other, written piece by piece."""
    from onnx import TensorProto, helper

    rows, columns = 4096, 8192
    shapes = [(rows, columns) if at % 2 == 0 else (columns, rows) for at in range(8)]
    nodes = [helper.make_node("MatMul", [f"x{at}", f"w{at}"], [f"x{at + 1}"]) for at in range(8)]
    weights = [
        TensorProto(name=f"w{at}", dims=shape, data_type=TensorProto.FLOAT, raw_data=bytes(4 * rows * columns))
        for at, shape in enumerate(shapes)
    ]
    first = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ("N", rows))
    last = helper.make_tensor_value_info("x8", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "gigabyte", [first], [last], initializer=weights))
    Path(path).write_bytes(model.SerializeToString())


def plain_s(path: Path) -> float:
    start = time.perf_counter()
    path.read_bytes()
    return time.perf_counter() - start


def main() -> None:
    from latte_cli.network import zoo

    print("| file | size | layers | read | the bytes alone | peak memory |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = {"mobilenet_v2": Path(folder, "a.onnx"), "resnet50": Path(folder, "b.onnx")}
        for name, path in files.items():
            path.write_bytes(zoo.export(name))
        files["1 GiB of weights"] = Path(folder, "c.onnx")
        # A child process writes it: the readers would inherit the peak memory of this process.
        child.ask("reading_speed:gigabyte", str(files["1 GiB of weights"]))
        for name, path in files.items():
            runs = [child.ask("reading_speed:read", str(path)) for _ in range(TIMES)]
            best = min(runs, key=lambda run: run["seconds"])
            spread = f"{best['seconds']:.3f} s (to {max(run['seconds'] for run in runs):.3f} s)"
            print(
                f"| {name} | {path.stat().st_size / 2**20:.2f} MiB | {best['layers']} | {spread} "
                f"| {min(plain_s(path) for _ in range(3)):.3f} s | {best['peak_bytes'] / 2**20:.0f} MiB |"
            )


if __name__ == "__main__":
    main()
