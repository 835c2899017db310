"""Normalisations."""

from typing import Any

import numpy as np
from onnx import numpy_helper

from latte_cli.errors import LatteError
from latte_cli.network.graph import ABSENT
from latte_cli.network.torch_program.program import Aten, Lowering, Rules


def _ones(low: Lowering, op: Aten, what: str, shape: list[int]) -> str:
    """A norm's tensor; where it has none, ones or zeros that change nothing."""
    if found := op.optional(what):
        return found
    name = f"{low.label}.{what}{ABSENT}"
    values = np.full(shape, 0.0 if what in ("bias", "running_mean") else 1.0, np.float32)
    low.constants.setdefault(name, numpy_helper.from_array(values, name))
    return name


def _channels(low: Lowering, x: str) -> int:
    size = low.meta(x).sizes[1] if low.rank(x) > 1 else None
    if size is None:
        raise LatteError(f"the channels of `{x}` are not known", hint="export it with a fixed number of channels")
    return size


def _batch_norm(low: Lowering, op: Aten) -> object:
    x = op.tensor("input", "self")
    shape = [_channels(low, x)]
    given = [_ones(low, op, name, shape) for name in ("weight", "bias", "running_mean", "running_var")]
    values: dict[str, Any] = {"epsilon": op.number("eps", 1e-5), "momentum": 1.0 - op.number("momentum", 0.1)}
    if not op.flag("training", default=op.flag("train", default="no_training" not in op.kind)):
        values["fixed"] = 1
        low.idle["norm"] += 1
    return low.emit("BatchNormalization", [x, *given], op.outputs[0], **values)


def _layer_norm(low: Lowering, op: Aten) -> object:
    x, own = op.tensor("input", "self"), op.integers("normalized_shape")
    given = [x, _ones(low, op, "weight", own), op.optional("bias")]
    axis, epsilon = -len(own), op.number("eps", 1e-5)
    return low.emit("LayerNormalization", given, *op.outputs, axis=axis, epsilon=epsilon)


def _rms_norm(low: Lowering, op: Aten) -> object:
    x, own = op.tensor("input", "self"), op.integers("normalized_shape")
    given = [x, _ones(low, op, "weight", own)]
    return low.emit("RMSNormalization", given, op.outputs[0], axis=-len(own), epsilon=op.number("eps", 1e-5))


def _group_norm(low: Lowering, op: Aten) -> object:
    x = op.tensor("input", "self")
    given = [x, *(_ones(low, op, name, [_channels(low, x)]) for name in ("weight", "bias"))]
    groups = op.integer("num_groups", op.integer("group", 1))
    return low.emit("GroupNormalization", given, op.outputs[0], num_groups=groups, epsilon=op.number("eps", 1e-5))


def _instance_norm(low: Lowering, op: Aten) -> object:
    x = op.tensor("input", "self")
    given = [x, *(_ones(low, op, name, [_channels(low, x)]) for name in ("weight", "bias"))]
    return low.emit("InstanceNormalization", given, op.outputs[0], epsilon=op.number("eps", 1e-5))


def _weight_norm(low: Lowering, op: Aten) -> object:
    """A weight whose length along each place of one dimension is a separate parameter."""
    weight = op.tensor("v")
    own = low.axis(op.integer("dim", 0), low.rank(weight))
    others = low.constant([axis for axis in range(low.rank(weight)) if axis != own])
    length = low.emit("ReduceL2", [weight, others], keepdims=1)
    return low.emit("Mul", [low.emit("Div", [weight, length]), op.tensor("g")], *op.outputs[:1])


RULES: Rules = {
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface"), _weight_norm),
    **dict.fromkeys(
        ("batch_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
        _batch_norm,
    ),
    **dict.fromkeys(("_native_batch_norm_legit_functional", "_batch_norm_with_update"), _batch_norm),
    **dict.fromkeys(("_batch_norm_no_update", "cudnn_batch_norm"), _batch_norm),
    "layer_norm": _layer_norm,
    "native_layer_norm": _layer_norm,
    **dict.fromkeys(("rms_norm", "_fused_rms_norm"), _rms_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
    "instance_norm": _instance_norm,
}
