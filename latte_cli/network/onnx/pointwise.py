"""ONNX operators that go over a tensor position by position: norms, activations, element-wise ones, reductions."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from math import prod

from onnx import TensorProto

from latte_cli.errors import LatteError
from latte_cli.layers import Activation, Copy, Dropout, Elementwise, Norm, Other, Reduce, Softmax, View, broadcast
from latte_cli.network.graph import Value
from latte_cli.network.onnx.computed import is_uniform
from latte_cli.network.onnx.operation import Operation, Reader, Tensor, shortest

ABSENT = "/no_bias"
"""How the name of a layer norm's bias ends that the file does not have; it counts nothing."""


def _batch_norm(op: Operation) -> object:
    x = op.input()
    if len(x.shape) < 2:
        raise LatteError(f"`{x.name}` of shape {x.shape} has no channels")
    parameters = (op.weight(1, x.shape[1]), op.weight(2, x.shape[1]))
    attributes = (("epsilon", op.real("epsilon", 1e-5)), ("momentum", op.real("momentum", 0.9)))
    layer = Norm(function="batch", shape=x.shape, fixed=bool(op.integer("fixed")))
    return op.result(layer, x, parameters=parameters, attributes=attributes)


def _row_norm(op: Operation, function: str) -> object:
    x = op.input()
    axis = op.axis(op.integer("axis", -1), len(x.shape))
    own = x.shape[axis:]
    parameters: tuple[Tensor, ...] = (op.weight(1, *own),)
    if op.optional(2) is not None:
        parameters += (op.weight(2, *own),)
    affine = _is_affine(parameters)
    if function == "layer" and len(parameters) == 1:
        parameters += (Tensor(name=f"{op.name}{ABSENT}", shape=own, constant=True),)
    parameters = parameters if affine else ()
    layer = Norm(function=function, shape=x.shape, span=len(own), affine=affine)
    return op.result(layer, x, parameters=parameters, attributes=(("epsilon", op.real("epsilon", 1e-5)),))


def _group_norm(op: Operation) -> object:
    x, groups = op.input(), op.integer("num_groups", 1)
    if len(x.shape) < 2 or groups < 1 or x.shape[1] % groups:
        raise LatteError(f"{x.shape} does not split into {groups} groups of channels")
    per_group = op.opset < _SCALES_BY_CHANNEL and op.input(1).shape == (groups,)
    layer = Norm(function="group", shape=x.shape, span=groups, per_group=per_group and groups != x.shape[1])
    parameters = (op.weight(1, groups if per_group else x.shape[1]), op.weight(2, groups if per_group else x.shape[1]))
    return op.result(layer, x, parameters=parameters, attributes=(("epsilon", op.real("epsilon", 1e-5)),))


_SCALES_BY_CHANNEL = 21  # the opset since which a GroupNormalization has a scale for each channel, not each group


def _instance_norm(op: Operation) -> object:
    x = op.input()
    parameters: tuple[Tensor, ...] = (op.weight(1, x.shape[1]), op.weight(2, x.shape[1]))
    affine = _is_affine(parameters)
    parameters = parameters if affine else ()
    layer = Norm(function="instance", shape=x.shape, affine=affine)
    return op.result(layer, x, parameters=parameters, attributes=(("epsilon", op.real("epsilon", 1e-5)),))


def _is_affine(parameters: tuple[Tensor, ...]) -> bool:
    """Whether a norm's scale or bias are more than the ones and zeros that ONNX wants all the same."""
    return any(tensor.trained or not tensor.constant or tensor.values is None for tensor in parameters)


def _local_response_norm(op: Operation) -> object:
    x, defaults = op.input(), {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    attributes = tuple((name, op.real(name, value)) for name, value in defaults.items())
    layer = Norm(function="lrn", shape=x.shape, span=max(1, op.integer("size", 1)), affine=False)
    return op.result(layer, x, attributes=attributes)


def _mean_variance(op: Operation) -> object:
    """(x - mean) / deviation over `axes`: an instance norm without weights, where they are all but the channels."""
    x = op.input()
    return op.result(Other(operation="mean_variance_normalization", shapes=(x.shape,), output=x.shape), x)


def _lp_norm(op: Operation) -> object:
    x = op.input()
    axis = op.axis(op.integer("axis", -1), len(x.shape))
    layer = Reduce(shape=x.shape, operation=f"l{op.integer('p', 2)}", axes=(axis,))
    return combined(op, "divide", (x, op.step("norm", layer, x)))


_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "Relu": ("relu", {}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "PRelu": ("prelu", {}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
    "Elu": ("elu", {"alpha": 1.0}),
    "Selu": ("selu", {}),
    "Celu": ("celu", {"alpha": 1.0}),
    "Gelu": ("gelu", {}),
    "Sigmoid": ("sigmoid", {}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "HardSwish": ("hard_swish", {}),
    "Swish": ("silu", {}),
    "Mish": ("mish", {}),
    "Shrink": ("shrink", {"lambd": 0.5, "bias": 0.0}),
    **{
        name: (name.lower(), {})
        for name in (
            *("Tanh", "Softplus", "Softsign", "Erf", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal"),
            *("Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Asin", "Acos", "Atan"),
            *("Asinh", "Acosh", "Atanh", "Not", "IsNaN", "IsInf"),
        )
    },
    "BitwiseNot": ("bitwise_not", {}),
}
"""Operators with one activation for input: the activation's name, and the attributes that change what it computes."""


def _activation(op: Operation) -> object:
    x = op.input()
    if len(op.given) > 1 and (op.input(1).trained or not op.input(1).constant):  # the slope of a PRelu
        return combined(op, "prelu", (x, _slope(op, x)))
    function, known = _ACTIVATIONS[op.kind]
    attributes: tuple[tuple[str, Value], ...] = tuple((name, op.real(name, value)) for name, value in known.items())
    attributes += tuple((name, value) for name, value in op.numbers if name not in known)
    return op.result(Activation(function=function, shape=x.shape), x, attributes=attributes)


def _slope(op: Operation, x: Tensor) -> Tensor:
    """The slopes of a PRelu, which before version 7 are one for each channel without saying so."""
    slope = op.input(1)
    if op.opset >= _BROADCASTING or len(slope.shape) != 1 or len(x.shape) < 3 or op.folds:
        return slope
    shape = (*slope.shape, *(1,) * (len(x.shape) - 2))
    return op.step("slopes", View(shape=slope.shape, output=shape), op.activation(slope))


_BROADCASTING = 7  # the opset since which operators broadcast by numpy's rules


def _quantized(op: Operation, function: str) -> object:
    """Both directions of a QDQ pair go over the tensor once; scales and zero points are constants next to it."""
    x = op.input()
    if any(not tensor.constant for tensor in op.given[1:]) and not x.constant:
        layer = Other(operation=function, shapes=tuple(t.shape for t in op.given if not t.constant), output=x.shape)
        y = op.result(layer, *(tensor for tensor in op.given if not tensor.constant))
    else:
        y = op.result(Activation(function=function, shape=x.shape), x)
    zero = op.optional(2)
    own = zero.element if zero is not None else op.integer("output_dtype") or TensorProto.UINT8
    element = own if function == "quantize_linear" else op.integer("output_dtype") or op.input(1).element
    op.results[y.name] = replace(y, element=element)
    return y


def _hardmax(op: Operation) -> object:
    x = op.input()
    return op.result(Activation(function="hardmax", shape=x.shape), x)


def _clip(op: Operation) -> object:
    x = op.input()
    if any(not tensor.constant for tensor in op.given[1:]):
        return _clip_between(op, x, op.optional(1), op.optional(2))
    bounds = (("min", op.scalar(1, "min")), ("max", op.scalar(2, "max")))
    attributes = tuple((name, value) for name, value in bounds if value is not None)
    function = {(("min", 0.0), ("max", 6.0)): "relu6", (("min", 0.0),): "relu"}.get(attributes, "clip")
    return op.result(
        Activation(function=function, shape=x.shape), x, attributes=attributes if function == "clip" else ()
    )


def _clip_between(op: Operation, x: Tensor, low: Tensor | None, high: Tensor | None) -> object:
    """A clip whose bounds are computed, which it reads."""
    if low is None or high is None:
        operation, bound = ("maximum", low) if low is not None else ("minimum", high)
        return combined(op, operation, (x, *((bound,) if bound else ())))
    least = op.activation(low)
    x = op.step("least", Elementwise(operation="maximum", shapes=(x.shape, least.shape)), x, least)
    return combined(op, "minimum", (x, op.activation(high)))


def _dropout(op: Operation) -> object:
    x, ratio = op.input(), op.scalar(1, "ratio")
    layer = Dropout(shape=x.shape, features=bool(op.integer("features")))
    return op.result(layer, x, attributes=(("ratio", 0.5 if ratio is None else ratio),))


def _softmax(op: Operation, *, log: bool) -> object:
    x = op.input()
    axis = op.axis(op.integer("axis", -1 if op.opset >= 13 else 1), len(x.shape))
    if op.opset >= 13 or prod(x.shape[axis + 1 :]) == 1:
        return op.result(Softmax(shape=x.shape, axis=axis, log=log), x)
    # before version 13 all dimensions from the axis on are one
    rows = (prod(x.shape[:axis]), prod(x.shape[axis:]))
    flat = op.step("rows", View(shape=x.shape, output=rows), x)
    return op.view(op.step("softmax", Softmax(shape=rows, log=log), flat), x.shape)


def _elementwise(op: Operation, operation: str) -> object:
    y = combined(op, operation, _aligned(op))
    if op.kind in _COMPARING:
        op.results[y.name] = replace(y, element=TensorProto.BOOL)
    elif op.kind == "Where":
        op.results[y.name] = replace(y, element=op.input(1).element)
    return y


def combined(op: Operation, operation: str, inputs: tuple[Tensor, ...]) -> Tensor:
    """The element-wise `operation`, broadcast; with one activation among numbers it is an activation of that one.

    Constants that hold several real numbers are taken to be trained, which a file does not say of them.
    """
    if not inputs:
        raise LatteError("it has no inputs")
    _check_samples(op, inputs)
    inputs = tuple(op.activation(tensor) if tensor.trained else tensor for tensor in inputs)
    output = broadcast(*(tensor.shape for tensor in inputs))
    varying = [tensor for tensor in inputs if not tensor.constant] or list(inputs)
    beside = tuple((place, tensor.name) for place, tensor in enumerate(inputs) if tensor.constant)
    if broadcast(*(tensor.shape for tensor in varying)) != output:
        first = varying[0]
        expand = Copy(operation="expand", shape=first.shape, output=output)
        varying[0] = op.step("expand", expand, first, constants=beside, attributes=(("beside", 1.0),))
    if len(varying) > 1:
        whole = Elementwise(operation=operation, shapes=tuple(tensor.shape for tensor in varying))
        return op.result(whole, *varying, constants=beside)
    if len(inputs) == 1:
        return op.view(varying[0], output)
    values = [shortest(t.values.flat[0]) for t in inputs if t.values is not None and is_uniform(t)]
    attributes: tuple[tuple[str, Value], ...] = (("value", values[0]),) if len(values) == 1 == len(inputs) - 1 else ()
    if inputs[0].constant:
        attributes += (("reversed", 1.0),)
    layer = Activation(function=f"{operation}_constant", shape=output)
    return op.result(layer, varying[0], attributes=attributes, constants=beside)


def _check_samples(op: Operation, inputs: Sequence[Tensor]) -> None:
    """Raise LatteError where one sample would be broadcast to those of the export, which a constant holds."""
    if not op.scaled or op.batch != 1 or op.outputs[0] in op.wanted:
        return
    columns = [*zip_longest(*(tensor.shape[::-1] for tensor in inputs), fillvalue=0)]
    for tensor, own in ((tensor, at) for at, tensor in enumerate(inputs) if tensor.constant and not op.folds):
        if any(column[own] == op.own_batch > 1 and 1 in column for column in columns):
            raise LatteError(f"`{tensor.name}` of shape {tensor.shape} holds the batch of the export")


def _reduce(op: Operation, operation: str) -> object:
    x = op.input()
    axes = op.sizes(1, "axes")
    if not axes:
        if op.integer("noop_with_empty_axes"):
            return op.view(x, x.shape)
        axes = tuple(range(len(x.shape)))
    axes = op.axes(axes, len(x.shape))
    return op.result(Reduce(shape=x.shape, operation=operation, axes=axes, keep=bool(op.integer("keepdims", 1))), x)


def _arg(op: Operation, operation: str) -> object:
    x = op.input()
    axis = op.axis(op.integer("axis"), len(x.shape))
    keep = bool(op.integer("keepdims", 1))
    y = op.result(Reduce(shape=x.shape, operation=operation, axes=(axis,), keep=keep), x)
    op.results[y.name] = replace(y, element=TensorProto.INT64)
    return y


def _aligned(op: Operation) -> tuple[Tensor, ...]:
    """The operands; before version 7 `axis` says where the second one's dimensions begin among the first one's."""
    if op.opset >= _BROADCASTING or not op.integer("broadcast") or "axis" not in op.attributes or op.folds:
        return op.given
    x, other = op.input(), op.activation(op.input(1))
    behind = len(x.shape) - op.axis(op.integer("axis"), len(x.shape)) - len(other.shape)
    shape = (*other.shape, *(1,) * max(0, behind))
    return x, op.step("aligned", View(shape=other.shape, output=shape), other)


_COMPARING = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_ELEMENTWISE = {
    "Add": "add",
    "Sum": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
    "Mod": "modulo",
    "Pow": "power",
    "Max": "maximum",
    "Min": "minimum",
    "Mean": "mean",
    "Where": "where",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_or_equal",
    "Less": "less",
    "LessOrEqual": "less_or_equal",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
    "BitShift": "bit_shift",
}
"""Operators that combine tensors element by element."""

_REDUCING = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceLogSum": "log_sum",
    "ReduceLogSumExp": "log_sum_exp",
    "ReduceSumSquare": "sum_square",
}
"""Operators that reduce dimensions."""

READERS: dict[str, Reader] = {
    "QuantizeLinear": partial(_quantized, function="quantize_linear"),
    "DequantizeLinear": partial(_quantized, function="dequantize_linear"),
    "Hardmax": _hardmax,
    "MeanVarianceNormalization": _mean_variance,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": partial(_row_norm, function="layer"),
    "RMSNormalization": partial(_row_norm, function="rms"),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LpNormalization": _lp_norm,
    "Clip": _clip,
    "Dropout": _dropout,
    "Softmax": partial(_softmax, log=False),
    "LogSoftmax": partial(_softmax, log=True),
    "ArgMax": partial(_arg, operation="argmax"),
    "ArgMin": partial(_arg, operation="argmin"),
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **{name: partial(_elementwise, operation=operation) for name, operation in _ELEMENTWISE.items()},
    **{name: partial(_reduce, operation=operation) for name, operation in _REDUCING.items()},
}
"""Operators by name, each with what turns it into layers."""
