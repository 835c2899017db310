"""Losses that a module computes by itself."""

from functools import partial

import numpy as np

from latte_cli.network.torch_program.program import WHOLE, Aten, Lowering, Rules

_REDUCTIONS = {0: "", 1: "ReduceMean", 2: "ReduceSum"}
"""torch's numbers for what a loss does with the values it has for each element."""


def _ended(low: Lowering, op: Aten, x: str) -> object:
    kind = _REDUCTIONS.get(op.integer("reduction", 1), "")
    return low.emit(kind, [x], op.outputs[0], keepdims=0) if kind else low.emit("Identity", [x], op.outputs[0])


def _cross_entropy(low: Lowering, op: Aten) -> object:
    """The logarithm of a softmax, then those of the right classes, or all of them by their probabilities."""
    x, target = op.tensor("self", "input"), op.tensor("target")
    logs = low.emit("LogSoftmax", [x], axis=1 if low.rank(x) > 1 else 0)
    if low.rank(target) == low.rank(x) and low.meta(target).element not in WHOLE:
        return _ended(low, op, low.emit("Neg", [low.emit("Mul", [logs, target])]))
    return _ended(low, op, _of_classes(low, logs, low.rank(x)))


def _likelihood(low: Lowering, op: Aten) -> object:
    x = op.tensor("self", "input")
    _ended(low, op, _of_classes(low, x, low.rank(x)))
    if len(op.outputs) > 1:
        low.emit("Constant", [], op.outputs[1], value_float=1.0)
    return None


def _of_classes(low: Lowering, x: str, rank: int) -> str:
    """The negative score of one class of each row: which one it is does not change what that takes."""
    axis = low.constant([1 if rank > 1 else 0])
    taken = low.emit("Slice", [x, low.constant([0]), low.constant([1]), axis])
    return low.emit("Neg", [low.emit("Squeeze", [taken, axis])])


def _differences(low: Lowering, op: Aten, kinds: tuple[str, ...]) -> object:
    x = low.emit("Sub", [op.tensor("self", "input"), op.tensor("target")])
    for kind in kinds:
        x = low.emit(kind, [x, x] if kind == "Mul" else [x])
    return _ended(low, op, x)


def _smooth(low: Lowering, op: Aten) -> object:
    """A square near zero, a line beyond."""
    x = low.emit("Sub", [op.tensor("self", "input"), op.tensor("target")])
    size, half = low.emit("Abs", [x]), low.constant(0.5, np.float32)
    small = low.emit("Mul", [low.emit("Mul", [size, size]), half])
    near = low.emit("Less", [size, low.constant(op.number("beta", op.number("delta", 1.0)), np.float32)])
    return _ended(low, op, low.emit("Where", [near, small, low.emit("Sub", [size, half])]))


def _binary(low: Lowering, op: Aten, *, scores: bool) -> object:
    x, target = op.tensor("self", "input"), op.tensor("target")
    if scores:
        soft = low.emit("Softplus", [low.emit("Neg", [x])])
        value = low.emit("Add", [soft, low.emit("Mul", [x, low.emit("Sub", [low.constant(1.0, np.float32), target])])])
    else:
        logs = [low.emit("Log", [x]), low.emit("Log", [low.emit("Sub", [low.constant(1.0, np.float32), x])])]
        difference = low.emit("Mul", [target, low.emit("Sub", logs)])
        value = low.emit("Neg", [low.emit("Add", [logs[1], difference])])
    weight = op.optional("weight")
    return _ended(low, op, low.emit("Mul", [value, weight]) if weight else value)


RULES: Rules = {
    "cross_entropy_loss": _cross_entropy,
    **dict.fromkeys(("nll_loss", "nll_loss_nd", "nll_loss2d", "nll_loss_forward", "nll_loss2d_forward"), _likelihood),
    "mse_loss": partial(_differences, kinds=("Mul",)),
    "l1_loss": partial(_differences, kinds=("Abs",)),
    **dict.fromkeys(("smooth_l1_loss", "huber_loss"), _smooth),
    "binary_cross_entropy": partial(_binary, scores=False),
    "binary_cross_entropy_with_logits": partial(_binary, scores=True),
}
