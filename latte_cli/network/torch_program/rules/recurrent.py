"""Recurrent layers."""

from functools import partial

import numpy as np

from latte_cli.errors import LatteError
from latte_cli.network.torch_program.program import Aten, Lowering, Rules


def _recurrent(low: Lowering, op: Aten, kind: str) -> object:
    """A stack of layers, each with its directions, as one ONNX operator each."""
    x, weights = op.tensor("input"), list(op.tensors("params"))
    directions, each = 1 + op.flag("bidirectional"), 4 if op.flag("has_biases", default=True) else 2
    layers, batch_first = op.integer("num_layers", 1), op.flag("batch_first")
    if len(weights) != layers * directions * each:
        raise LatteError(f"`{op.target}` node `{op.name}` has {len(weights)} weights", hint="export it again")
    x = low.emit("Transpose", [x], perm=[1, 0, 2]) if batch_first else x
    last: list[list[str]] = [[] for _ in op.outputs[1:]]
    for layer in range(layers):
        own = weights[layer * directions * each : (layer + 1) * directions * each]
        x, states = _one_layer(low, op, kind, x, own, directions)
        for found, state in zip(last, states, strict=False):
            found.append(state)
        if layer < layers - 1 and op.flag("train") and op.number("dropout", 0.0):
            x = low.emit("Dropout", [x, low.constant(op.number("dropout", 0.0), np.float32)])
    if batch_first:
        low.emit("Transpose", [x], op.outputs[0], perm=[1, 0, 2])
    else:
        low.emit("Identity", [x], op.outputs[0])
    for found, output in zip(last, op.outputs[1:], strict=False):
        low.emit("Concat", found, output, axis=0)
    return None


def _one_layer(
    low: Lowering, op: Aten, kind: str, x: str, weights: list[str], directions: int
) -> tuple[str, list[str]]:
    each = len(weights) // directions
    stacked = [_stacked(low, weights[place::each]) for place in range(each)]
    bias = low.emit("Concat", stacked[2:], axis=1) if each == 4 else ""
    hidden = low.meta(weights[1]).sizes[-1] or 1
    outputs = [low.fresh(part) for part in ("states", "hidden", "cell")[: len(op.outputs)]]
    way = "bidirectional" if directions == 2 else "forward"
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    low.emit(kind, [x, *stacked[:2], bias], *outputs, hidden_size=hidden, direction=way, torch_order=1, **more)
    turned = low.emit("Transpose", [outputs[0]], perm=[0, 2, 1, 3])
    return low.emit("Reshape", [turned, low.constant([0, 0, -1])]), outputs[1:]


def _stacked(low: Lowering, names: list[str]) -> str:
    parts = [low.emit("Unsqueeze", [name, low.constant([0])]) for name in names]
    return parts[0] if len(parts) == 1 else low.emit("Concat", parts, axis=0)


RULES: Rules = {
    "lstm": partial(_recurrent, kind="LSTM"),
    "gru": partial(_recurrent, kind="GRU"),
    "rnn_tanh": partial(_recurrent, kind="RNN"),
    "rnn_relu": partial(_recurrent, kind="RNN"),
}
