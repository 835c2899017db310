"""Layers that go over a tensor element by element, and those that reduce it."""

import operator
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from torch import Tensor, nn

from latte_cli.layers import Activation, Dropout, Elementwise, Reduce, Softmax, SoftmaxCrossEntropy
from latte_cli.network.module.layers.function import Attributes, Builders, Compute, Function, named


def _clip(x: Tensor, *, low: float = -3.4e38, high: float = 3.4e38) -> Tensor:
    return F.hardtanh(x, low, high)  # what ReLU6 is in torch


def _hard_sigmoid(x: Tensor, *, alpha: float = 1 / 6, beta: float = 0.5) -> Tensor:
    usual = abs(alpha - 1 / 6) < 1e-6 and beta == 0.5
    return F.hardsigmoid(x) if usual else torch.clamp(alpha * x + beta, 0.0, 1.0)


def _selu(x: Tensor, *, alpha: float = 1.6732632, gamma: float = 1.050701) -> Tensor:
    usual = abs(alpha - 1.6732632) < 1e-5 and abs(gamma - 1.050701) < 1e-5
    return F.selu(x) if usual else gamma * F.elu(x, alpha)


def _shrink(x: Tensor, *, lambd: float = 0.5, bias: float = 0.0) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


_ACTIVATIONS: dict[str, tuple[Compute, dict[str, str]]] = {
    "relu": (F.relu, {}),
    "relu6": (F.relu6, {}),
    "clip": (_clip, {"min": "low", "max": "high"}),
    "leaky_relu": (F.leaky_relu, {"alpha": "negative_slope"}),
    "prelu": (partial(F.leaky_relu, negative_slope=0.25), {}),  # the slope it starts with
    "thresholded_relu": (partial(F.threshold, threshold=1.0, value=0.0), {"alpha": "threshold"}),
    "elu": (F.elu, {"alpha": "alpha"}),
    "celu": (F.celu, {"alpha": "alpha"}),
    "selu": (_selu, {"alpha": "alpha", "gamma": "gamma"}),
    "gelu": (F.gelu, {"approximate": "approximate"}),
    "silu": (F.silu, {}),
    "mish": (F.mish, {}),
    "sigmoid": (torch.sigmoid, {}),
    "hard_sigmoid": (_hard_sigmoid, {"alpha": "alpha", "beta": "beta"}),
    "hard_swish": (F.hardswish, {}),
    "softplus": (F.softplus, {}),
    "softsign": (F.softsign, {}),
    "shrink": (_shrink, {"lambd": "lambd", "bias": "bias"}),
    "not": (torch.logical_not, {}),
    **{
        name: (getattr(torch, name), {})
        for name in (
            *("tanh", "erf", "exp", "log", "sqrt", "abs", "neg", "reciprocal", "floor", "ceil", "round", "sign"),
            *("sin", "cos", "tan", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh"),
            *("isnan", "isinf"),
        )
    },
}
"""Each activation with the node attributes that it knows and torch's names for them."""

CONSTANT = "_constant"


def _activation(layer: Activation, attributes: Attributes) -> nn.Module:
    if layer.function.endswith(CONSTANT):
        return _with_constant(layer.function.removesuffix(CONSTANT), attributes)
    compute, names = named("activation", layer.function, _ACTIVATIONS)
    values = {to: attributes[name] for name, to in names.items() if name in attributes}
    return Function(partial(compute, **values) if values else compute)


def _with_constant(operation: str, attributes: Attributes) -> nn.Module:
    """An element-wise operation whose other operand is a constant: `value`, which comes first if `reversed`."""
    compute = named("element-wise operation", operation, ELEMENTWISE)
    value = attributes.get("value", 1.0)

    def other(x: Tensor) -> Any:
        whole = not x.is_floating_point() and value == int(value)  # whole numbers stay such
        return (int(value) if whole else value) if operation in _ARITHMETIC else x.new_full((), value)

    if attributes.get("reversed"):
        return Function(lambda x: compute(other(x), x))
    return Function(lambda x: compute(x, other(x)))


def _dropout(layer: Dropout, attributes: Attributes) -> nn.Module:
    ratio = attributes.get("ratio", 0.5)
    return Function(partial(torch.feature_dropout, p=ratio, train=True)) if layer.features else nn.Dropout(ratio)


def _softmax(layer: Softmax, attributes: Attributes) -> nn.Module:
    return Function(partial(F.log_softmax if layer.log else F.softmax, dim=layer.axis))


class _CrossEntropy(nn.Module):
    """The loss against targets that are drawn once."""

    def __init__(self, rows: int, classes: int) -> None:
        super().__init__()
        self.targets: Tensor
        self.register_buffer("targets", torch.randint(classes, (rows,)))

    def forward(self, scores: Tensor) -> Tensor:
        return F.cross_entropy(scores, self.targets)


def _cross_entropy(layer: SoftmaxCrossEntropy, attributes: Attributes) -> nn.Module:
    return _CrossEntropy(layer.rows, layer.classes)


def _mean(*inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs) / len(inputs)


def _where(*inputs: Tensor) -> Tensor:
    return torch.where(inputs[0] > 0, inputs[-2], inputs[-1])  # without its condition, the first stands in for it


_ARITHMETIC: dict[str, Compute] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "modulo": operator.mod,
    "power": operator.pow,
    "equal": operator.eq,
    "greater": operator.gt,
    "greater_or_equal": operator.ge,
    "less": operator.lt,
    "less_or_equal": operator.le,
}
ELEMENTWISE = _ARITHMETIC | {
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mean": _mean,
    "prelu": torch._prelu_kernel,  # what `F.prelu` calls, for slopes of any shape
    "where": _where,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
}
"""Element-wise operations; the arithmetic ones take plain numbers too."""

_OF_ANY_NUMBER = ("mean", "where")


def _elementwise(layer: Elementwise, attributes: Attributes) -> nn.Module:
    if layer.operation == "modulo" and attributes.get("fmod"):
        return Function(torch.fmod)
    compute: Compute = named("element-wise operation", layer.operation, ELEMENTWISE)
    if len(layer.shapes) == 2 or layer.operation in _OF_ANY_NUMBER:
        return Function(compute)
    return Function(lambda *inputs: reduce(compute, inputs))


def _product(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in dim), reverse=True):
        x = torch.prod(x, axis, keepdim)
    return x


_REDUCTIONS: dict[str, Compute] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "max": torch.amax,
    "min": torch.amin,
    "prod": _product,
    "l1": partial(torch.linalg.vector_norm, ord=1),
    "l2": torch.linalg.vector_norm,
    "log_sum": lambda x, dim, keepdim: torch.log(torch.sum(x, dim, keepdim)),
    "log_sum_exp": torch.logsumexp,
    "sum_square": lambda x, dim, keepdim: torch.sum(x * x, dim, keepdim),
    "argmax": lambda x, dim, keepdim: torch.argmax(x, dim[0], keepdim),
    "argmin": lambda x, dim, keepdim: torch.argmin(x, dim[0], keepdim),
}


def _reduce(layer: Reduce, attributes: Attributes) -> nn.Module:
    compute = named("reduction", layer.operation, _REDUCTIONS)
    if not layer.axes:  # torch would take no axes for all of them
        return Function(torch.clone)
    return Function(partial(compute, dim=layer.axes, keepdim=layer.keep))


BUILDERS: Builders = {
    Activation: _activation,
    Dropout: _dropout,
    Softmax: _softmax,
    SoftmaxCrossEntropy: _cross_entropy,
    Elementwise: _elementwise,
    Reduce: _reduce,
}
