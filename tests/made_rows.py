"""A device whose times follow a formula, and a small network: rows for the tests of what reads them."""

from collections.abc import Iterable
from typing import Any

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import CPU, Device
from latte_cli.layers import Activation, Convolution, Layer, Linear, Norm, Pool, View
from latte_cli.measure import Measurement
from latte_cli.network import Network, Node
from latte_cli.precisions import Layout
from latte_cli.store import Store
from latte_cli.tasks import Settings, Task

DEVICE = Device(slug="made-up-cpu-2c-2t", kind=CPU, name="made up", peak_flop_per_s=1e11, bandwidth_bytes_per_s=2e10)
SETTINGS = Settings(threads=2, library_versions=(("torch", "2.13.0"),))
GEMM = Algorithm(library="torch", name="IM2COL_GEMM")


def seconds(task: Task) -> float:
    """The device's law: im2col is quicker where many channels come in and slower elsewhere."""
    layer, phase = task.layer, task.phase
    time_s = 1e-5 + layer.flops(phase) / 1e11 + layer.bytes_moved(phase, 4) / 2e10
    if task.algorithm == GEMM and isinstance(layer, Convolution):
        time_s *= 0.5 if layer.in_channels >= 16 else 2.0
    return time_s * (0.8 if task.settings.layout is Layout.CHANNELS_LAST else 1.0)


def tasks(layers: Iterable[Layer], settings: Settings = SETTINGS) -> list[Task]:
    """Every phase of every layer that is not free, with every algorithm."""
    found = []
    for layer in dict.fromkeys(layers):
        algorithms = (FRAMEWORK_DEFAULT, GEMM) if isinstance(layer, Convolution) else (FRAMEWORK_DEFAULT,)
        for phase in () if layer.free else layer.phases:
            found += [Task(layer=layer, phase=phase, algorithm=one, settings=settings) for one in algorithms]
    return found


def measurement(task: Task, *, time_s: float | None = None, **values: Any) -> Measurement:
    """Three samples, 2 % apart, around `time_s` or the law's time."""
    middle = seconds(task) if time_s is None else time_s
    times = (0.98 * middle, middle, 1.02 * middle)
    given = {
        "workspace_bytes": 2**20 if task.algorithm == GEMM else 2**10,
        "measured_at": 1.0,
        "device": DEVICE,
    } | values
    return Measurement(task=task, device_times_s=times, host_times_s=times, **given)


def write(store: Store, rows: Iterable[Measurement]) -> None:
    rows = list(rows)
    with store.writer(rows[0].device) as writer:
        for row in rows:
            writer.append(row)


def profile(store: Store, layers: Iterable[Layer], settings: Settings = SETTINGS) -> None:
    """Write a row of every task of `layers`."""
    write(store, [measurement(task) for task in tasks(layers, settings)])


def profile_here(store: Store, layers: Iterable[Layer], threads: int = 1) -> None:
    """Write a row of every task of `layers`, as if this very machine had been measured."""
    from latte_cli.backends.cpu.backend import libraries
    from latte_cli.backends.host import cpu_slug

    settings = Settings(threads=threads, library_versions=libraries())
    device = Device(slug=cpu_slug(threads), kind=CPU, name="this", libraries=libraries(), memory_bytes=2**33)
    write(store, [measurement(task, device=device) for task in tasks(layers, settings)])


def step_layers(network: Network) -> list[Layer]:
    """The layers of a training step with SGD."""
    return [*network.layers, network.loss(), network.optimizer("sgd")]


def network(batch: int = 8, width: int = 16) -> Network:
    """Two convolutions with norm, activation and pool, and a classifier."""
    size = (batch, width, 32, 32)
    layers: dict[str, Layer] = {
        "conv1": convolution(batch, 3, width, 32),
        "norm": Norm(shape=size, function="batch"),
        "relu": Activation(shape=size, function="relu"),
        "pool": Pool(function="max", batch=batch, channels=width, input=(32, 32), kernel=(2, 2), stride=(2, 2)),
        "conv2": convolution(batch, width, 2 * width, 16),
        "flat": View(shape=(batch, 2 * width, 16, 16), output=(batch, 512 * width)),
        "fc": Linear(rows=batch, in_features=512 * width, out_features=10),
    }
    inputs = ["image", *layers]
    nodes = tuple(
        Node(name=name, layer=layer, inputs=(inputs[index],), output=name)
        for index, (name, layer) in enumerate(layers.items())
    )
    return Network(name="small", inputs=(("image", (batch, 3, 32, 32)),), nodes=nodes, outputs=("fc",))


def convolution(batch: int, in_channels: int, out_channels: int, size: int, kernel: int = 3) -> Convolution:
    """A padded convolution that keeps its size."""
    pad = (kernel // 2,) * 2
    return Convolution(
        batch=batch,
        in_channels=in_channels,
        out_channels=out_channels,
        input=(size, size),
        kernel=(kernel, kernel),
        pad_before=pad,
        pad_after=pad,
    )
