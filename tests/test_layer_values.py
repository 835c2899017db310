"""What every kind of layer is said to take stays what it is; `make golden` writes it anew."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from every_layer import every_layer

from latte_cli.devices import CPU, Device
from latte_cli.estimator.memory import memory
from latte_cli.estimator.steps import Step
from latte_cli.features import FEATURES, matrix
from latte_cli.layers import LAYERS, Layer, Norm, Shape, View, layer_text
from latte_cli.network import Network, Node
from latte_cli.precisions import Precision
from latte_cli.tasks import Settings

GOLDEN = Path(__file__).parent / "golden" / "layers.json"
DEVICE = Device(slug="x", kind=CPU, name="x")
CODES, SIZES = ("kind", "function", "phase", "tensors"), ("log_reduction", "log_gemm_m", "log_gemm_n", "log_gemm_k")


def test_every_kind_has_a_layer_here_and_none_twice() -> None:
    assert {type(layer) for layer in every_layer()} == set(LAYERS)
    assert set(Counter(every_layer()).values()) == {1}


def test_every_layer_takes_what_it_took() -> None:
    found = {layer_text(layer): values(layer) for layer in every_layer()}
    if os.environ.get("LATTE_GOLDEN"):
        lines = (f"{json.dumps(text)}: {json.dumps(body, separators=(',', ':'))}" for text, body in found.items())
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    assert found == json.loads(GOLDEN.read_text())


def values(layer: Layer) -> dict[str, Any]:
    """Its work and elements moved in each phase, its codes and sizes as features, and the memory of steps with it.

    The steps: with all trained, with inputs that no gradient flows back to, with its own parameters frozen.
    """
    rows = matrix([(layer, phase) for phase in layer.phases], Settings(), DEVICE)
    return {
        "flops": [layer.flops(phase) for phase in layer.phases],
        "moved": [layer.elements_moved(phase) for phase in layer.phases],
        "features": [features(row) for row in rows],
        "memory": [
            live_bytes(layer, flows=True, trained=True, precision=Precision.FP32),
            live_bytes(layer, flows=False, trained=True, precision=Precision.FP32),
            live_bytes(layer, flows=True, trained=False, precision=Precision.BF16_AUTOCAST),
        ],
    }


def features(row: np.ndarray) -> list[int | None]:
    codes = [float(row[FEATURES.index(name)]) for name in CODES]
    sizes = [float(np.exp2(row[FEATURES.index(name)])) for name in SIZES]
    return [None if np.isnan(value) else round(value) for value in (*codes, *sizes)]


def live_bytes(layer: Layer, *, flows: bool, trained: bool, precision: Precision) -> list[int]:
    """What lives at each moment of a step of a network that ends in `layer`."""
    nodes, inputs, read = [], [], []
    for at, shape in enumerate(layer.input_shapes):
        inputs.append((f"in{at}", shape or (1,)))
        read.append(f"in{at}")
        if flows:
            nodes += producers(at, shape)
            read[-1] = nodes[-1].output
    node = Node(name="it", layer=layer, inputs=tuple(read), output="out")
    frozen = frozenset() if trained else frozenset(f"it.{at}" for at in range(len(layer.parameter_shapes)))
    network = Network(name="n", inputs=tuple(inputs), nodes=(*nodes, node), outputs=("out",), frozen=frozen)
    return [moment.live_bytes for moment in memory(network, Step(optimizer="adam"), precision).timeline]


def producers(at: int, shape: Shape) -> list[Node]:
    """Nodes whose output has the shape and is trained."""
    norm = Norm(function="rms", shape=shape or (1,))
    nodes = [Node(name=f"norm{at}", layer=norm, inputs=(f"in{at}",), output=f"normed{at}")]
    if shape:
        return nodes
    view = View(shape=(1,), output=())
    return [*nodes, Node(name=f"view{at}", layer=view, inputs=(f"normed{at}",), output=f"viewed{at}")]
