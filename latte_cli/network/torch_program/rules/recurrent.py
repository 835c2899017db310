"""Recurrent layers."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from latte_cli.errors import LatteError
from latte_cli.network.graph import JOINED
from latte_cli.network.torch_program.program import Aten, Lowering, Rules


def _recurrent(low: Lowering, op: Aten, kind: str) -> object:
    """A stack of layers, each with its directions, as one ONNX operator each."""
    x, weights = op.tensor("input"), list(op.tensors("params"))
    directions, each = 1 + op.flag("bidirectional"), 4 if op.flag("has_biases", default=True) else 2
    layers, batch_first = op.integer("num_layers", 1), op.flag("batch_first")
    if kind == "LSTM" and low.rank(x) == 3 and len(weights) == layers * directions * (each + 1):
        raise LatteError(f"`{op.target}` node `{op.name}` projects its states (`proj_size`), which no layer describes",
                         hint="write it as a layer without a projection, and a linear layer")  # fmt: skip
    if len(weights) != layers * directions * each:
        raise LatteError(f"`{op.target}` node `{op.name}` has {len(weights)} weights", hint="export it again")
    x = low.emit("Transpose", [x], perm=[1, 0, 2]) if batch_first else x
    last: list[list[str]] = [[] for _ in op.outputs[1:]]
    for layer in range(layers):
        own = weights[layer * directions * each : (layer + 1) * directions * each]
        first = [_of_layer(low, state, layer, layers, directions) for state in _first_states(op)]
        x, states = _one_layer(low, op, kind, x, own, directions, first)
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


def _first_states(op: Aten) -> tuple[str, ...]:
    """The states before the first step, of all layers: hidden, and of an LSTM the cells too."""
    return op.tensors("hx") if isinstance(op.arguments.get("hx"), tuple) else (op.tensor("hx"),)


def _of_layer(low: Lowering, state: str, layer: int, layers: int, directions: int) -> str:
    if layers == 1:
        return state
    first, end, axis = (low.constant([number]) for number in (layer * directions, (layer + 1) * directions, 0))
    return low.emit("Slice", [state, first, end, axis])


def _one_layer(
    low: Lowering, op: Aten, kind: str, x: str, weights: list[str], directions: int, first: Sequence[str]
) -> tuple[str, list[str]]:
    each = len(weights) // directions
    stacked = [_stacked(low, weights[place::each]) for place in range(each)]
    biases = [name for place in (2, 3) for name in weights[place::each]]
    bias = _joined(low, biases, stacked[2:], 1) if each == 4 else ""
    hidden = low.meta(weights[1]).sizes[-1] or 1
    outputs = [low.fresh(part) for part in ("states", "hidden", "cell")[: len(op.outputs)]]
    way = "bidirectional" if directions == 2 else "forward"
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    low.emit(
        kind, [x, *stacked[:2], bias, "", *first], *outputs, hidden_size=hidden, direction=way, torch_order=1, **more
    )
    turned = low.emit("Transpose", [outputs[0]], perm=[0, 2, 1, 3])
    return low.emit("Reshape", [turned, low.constant([0, 0, -1])]), outputs[1:]


def _stacked(low: Lowering, names: list[str]) -> str:
    parts = [low.emit("Unsqueeze", [name, low.constant([0])]) for name in names]
    return parts[0] if len(parts) == 1 else _joined(low, names, parts, 0)


def _joined(low: Lowering, names: list[str], parts: list[str], axis: int) -> str:
    """Parameters end to end, under all their names."""
    name = JOINED.join(names)
    count = low.names[f"joined {name}"]
    low.names[f"joined {name}"] += 1
    return low.emit("Concat", parts, name if not count else f"{name}[#{count}]", axis=axis)


def _cell(low: Lowering, op: Aten, kind: str) -> object:
    """One step of a recurrent layer, as torch computes it: two products, then gates element by element."""
    hidden = op.tensors("hx") if kind == "lstm" else (op.tensor("hx"),)
    pairs = ((op.tensor("input"), "ih"), (hidden[0], "hh"))
    inner, outer = (
        low.emit("Gemm", [x, op.tensor(f"w_{name}"), op.optional(f"b_{name}")], transB=1) for x, name in pairs
    )
    if kind == "gru":
        return _gru_gates(low, op, inner, outer, hidden[0])
    gates = low.emit("Add", [inner, outer])
    if kind != "lstm":
        return low.emit(kind, [gates], op.outputs[0])
    return _lstm_gates(low, op, gates, hidden[1])


def _parts(low: Lowering, x: str, count: int) -> list[str]:
    parts = [low.fresh("gate") for _ in range(count)]
    low.emit("Split", [x], *parts, axis=1, num_outputs=count)
    return parts


def _gru_gates(low: Lowering, op: Aten, inner: str, outer: str, hidden: str) -> object:
    """h' = n + z (h - n), where n = tanh(i + r o)."""
    ins, outs = _parts(low, inner, 3), _parts(low, outer, 3)
    reset, update = (low.emit("Sigmoid", [low.emit("Add", [ins[at], outs[at]])]) for at in (0, 1))
    new = low.emit("Tanh", [low.emit("Add", [ins[2], low.emit("Mul", [reset, outs[2]])])])
    kept = low.emit("Mul", [low.emit("Sub", [hidden, new]), update])
    return low.emit("Add", [kept, new], op.outputs[0])


def _lstm_gates(low: Lowering, op: Aten, gates: str, cell: str) -> object:
    """c' = f c + i g and h' = o tanh(c')."""
    enter, forget, new, out = _parts(low, gates, 4)
    kept = low.emit("Mul", [low.emit("Sigmoid", [forget]), cell])
    added = low.emit("Mul", [low.emit("Sigmoid", [enter]), low.emit("Tanh", [new])])
    low.emit("Add", [kept, added], op.outputs[1])
    return low.emit("Mul", [low.emit("Sigmoid", [out]), low.emit("Tanh", [op.outputs[1]])], op.outputs[0])


RULES: Rules = {
    "lstm": partial(_recurrent, kind="LSTM"),
    "gru": partial(_recurrent, kind="GRU"),
    "rnn_tanh": partial(_recurrent, kind="RNN"),
    "rnn_relu": partial(_recurrent, kind="RNN"),
    "lstm_cell": partial(_cell, kind="lstm"),
    "gru_cell": partial(_cell, kind="gru"),
    "rnn_tanh_cell": partial(_cell, kind="Tanh"),
    "rnn_relu_cell": partial(_cell, kind="Relu"),
}
