"""ONNX operators that compute: convolutions, products, norms, activations, pools and the like become layers."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import TypeAlias

from latte_cli.errors import LatteError
from latte_cli.layers import (
    Activation,
    Convolution,
    Copy,
    Dropout,
    Elementwise,
    Linear,
    MatMul,
    Norm,
    Pool,
    Reduce,
    Shape,
    Softmax,
    View,
    broadcast,
)
from latte_cli.network.onnx_operation import Operation, Tensor, Unreadable

Reader: TypeAlias = Callable[[Operation], object]


def _spatial(op: Operation, x: Tensor) -> Shape:
    if len(x.shape) < 3:
        raise LatteError(f"`{x.name}` of shape {x.shape} has no spatial dimensions")
    return x.shape[2:]


def _window(op: Operation, name: str, rank: int, default: int) -> Shape:
    sizes = op.integers(name) or (default,) * rank
    if len(sizes) != rank:
        raise LatteError(f"attribute `{name}` has {len(sizes)} numbers for {rank} spatial dimensions")
    return sizes


def _pads(op: Operation, spatial: Shape, kernel: Shape, stride: Shape, dilation: Shape) -> tuple[Shape, Shape]:
    """Padding before and after, from `pads` or by the rule of `auto_pad`: with SAME the output is ceil(in / stride)."""
    rank, rule = len(spatial), op.text("auto_pad", "NOTSET")
    if rule in ("NOTSET", ""):
        pads = op.integers("pads") or (0,) * (2 * rank)
        if len(pads) != 2 * rank:
            raise LatteError(f"attribute `pads` has {len(pads)} numbers for {rank} spatial dimensions")
        return pads[:rank], pads[rank:]
    if rule == "VALID":
        return (0,) * rank, (0,) * rank
    if rule not in ("SAME_UPPER", "SAME_LOWER"):
        raise LatteError(f"attribute `auto_pad` is `{rule}`", hint="NOTSET, VALID, SAME_UPPER and SAME_LOWER are known")
    sizes = zip(spatial, kernel, stride, dilation, strict=True)
    if min(stride) < 1:
        raise LatteError(f"strides {stride} must be at least 1")
    totals = [max((-(-i // s) - 1) * s + d * (k - 1) + 1 - i, 0) for i, k, s, d in sizes]
    return _split_pads(totals, upper=rule == "SAME_UPPER")


def _split_pads(totals: list[int], *, upper: bool) -> tuple[Shape, Shape]:
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (small, large) if upper else (large, small)


def _bias(op: Operation, index: int, size: int) -> tuple[Tensor, ...]:
    return () if op.optional(index) is None else (op.weight(index, size),)


def _convolution(op: Operation) -> object:
    x, weight = op.input(), op.weight(1)
    spatial, groups = _spatial(op, x), op.integer("group", 1)
    if len(weight.shape) != len(x.shape) or weight.shape[1] * groups != x.shape[1]:
        raise LatteError(f"weights of {weight.shape} in {groups} groups do not fit an input of {x.shape}")
    kernel, rank = weight.shape[2:], len(spatial)
    stride, dilation = _window(op, "strides", rank, 1), _window(op, "dilations", rank, 1)
    before, after = _pads(op, spatial, kernel, stride, dilation)
    bias = _bias(op, 2, weight.shape[0])
    layer = Convolution(
        batch=x.shape[0],
        in_channels=x.shape[1],
        out_channels=weight.shape[0],
        groups=groups,
        input=spatial,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pad_before=before,
        pad_after=after,
        bias=bool(bias),
    )
    return op.result(layer, x, parameters=(weight, *bias))


def _transposed_convolution(op: Operation) -> object:
    x, weight = op.input(), op.weight(1)
    spatial, groups = _spatial(op, x), op.integer("group", 1)
    if len(weight.shape) != len(x.shape) or weight.shape[0] != x.shape[1]:
        raise LatteError(f"weights of {weight.shape} do not fit an input of {x.shape}")
    kernel, rank, channels = weight.shape[2:], len(spatial), weight.shape[1] * groups
    stride, dilation = _window(op, "strides", rank, 1), _window(op, "dilations", rank, 1)
    extra = _window(op, "output_padding", rank, 0)
    before, after = _transposed_pads(op, spatial, kernel, stride, dilation, extra)
    bias = _bias(op, 2, channels)
    layer = Convolution(
        batch=x.shape[0],
        in_channels=x.shape[1],
        out_channels=channels,
        groups=groups,
        input=spatial,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pad_before=before,
        pad_after=after,
        transposed=True,
        output_padding=extra,
        bias=bool(bias),
    )
    return op.result(layer, x, parameters=(weight, *bias))


def _transposed_pads(
    op: Operation, spatial: Shape, kernel: Shape, stride: Shape, dilation: Shape, extra: Shape
) -> tuple[Shape, Shape]:
    """Padding of a transposed convolution, which `output_shape` or a SAME rule (output = in · stride) may decide."""
    rule, wanted = op.text("auto_pad", "NOTSET"), op.integers("output_shape")
    if wanted is None and rule.startswith("SAME"):
        wanted = tuple(i * s for i, s in zip(spatial, stride, strict=True))
    if wanted is None:
        return _pads(op, spatial, kernel, stride, dilation)
    sizes = zip(spatial, kernel, stride, dilation, extra, wanted[-len(spatial) :], strict=True)
    totals = [max(0, s * (i - 1) + o + d * (k - 1) + 1 - out) for i, k, s, d, o, out in sizes]
    return _split_pads(totals, upper=rule == "SAME_UPPER")


def _rows(op: Operation, x: Tensor) -> Tensor:
    """`x` with all but its last dimension made one."""
    rows = (prod(x.shape[:-1]), x.shape[-1])
    return op.step("rows", View(shape=x.shape, output=rows), x)


def _flip(op: Operation, x: Tensor, label: str, *, result: bool = False) -> Tensor:
    """`x` with its last two dimensions exchanged."""
    order = (*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2)
    layer = Copy(operation="transpose", shape=x.shape, output=tuple(x.shape[axis] for axis in order), order=order)
    return op.result(layer, x) if result else op.step(label, layer, x)


def _linear(op: Operation, x: Tensor, weight: Tensor, bias: tuple[Tensor, ...], out_features: int) -> Tensor:
    rows = _rows(op, x)
    layer = Linear(rows=rows.shape[0], in_features=rows.shape[1], out_features=out_features, bias=bool(bias))
    shape = (*x.shape[:-1], out_features)
    if shape == layer.output_shape:
        return op.result(layer, rows, parameters=(weight, *bias))
    y = op.step("linear", layer, rows, parameters=(weight, *bias))
    return op.view(y, shape)


def _gemm(op: Operation) -> object:
    x, weight = op.input(), op.input(1)
    if len(x.shape) != 2 or len(weight.shape) != 2:
        raise LatteError(f"the product of {x.shape} and {weight.shape} is not one of matrices")
    if op.integer("transA"):
        x = _flip(op, x, "transposed")
    if not weight.constant:
        return _gemm_of_activations(op, x, weight)
    inner, out = weight.shape[::-1] if op.integer("transB") else weight.shape
    _check_inner(x.shape, inner, weight.shape)
    added = op.optional(2)
    if added is None or (added.constant and prod(added.shape) == out == added.shape[-1]):
        return _linear(op, x, weight, () if added is None else (added,), out)
    layer = Linear(rows=x.shape[0], in_features=inner, out_features=out, bias=False)
    return _add(op, op.step("linear", layer, x, parameters=(weight,)), added)


def _gemm_of_activations(op: Operation, x: Tensor, other: Tensor) -> object:
    if op.integer("transB"):
        other = _flip(op, other, "transposed_b")
    _check_inner(x.shape, other.shape[0], other.shape)
    added = op.optional(2)
    if added is None:
        return _product(op, x, other, result=True)
    return _add(op, _product(op, x, other, result=False), added)


def _add(op: Operation, x: Tensor, other: Tensor) -> Tensor:
    return _combined(op, "add", (x, other))


def _check_inner(shape: Shape, inner: int, other: Shape) -> None:
    if shape[-1] != inner:
        raise LatteError(f"matrices of {shape} and {other} cannot be multiplied")


def _product(op: Operation, a: Tensor, b: Tensor, *, result: bool) -> Tensor:
    """The product of two activations: batches broadcast, flattened to one dimension and back."""
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    flat = [_flat_batch(op, x, lead, label) for x, label in ((a, "a"), (b, "b"))]
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    y = op.step("product", MatMul(batch=prod(lead), m=m, k=k, n=n), *flat)
    view = View(shape=y.shape, output=(*lead, m, n))
    return op.result(view, y) if result else op.step("unflattened", view, y)


def _flat_batch(op: Operation, x: Tensor, lead: Shape, label: str) -> Tensor:
    full = (*lead, *x.shape[-2:])
    if prod(full) != prod(x.shape):
        x = op.step(f"expand_{label}", Copy(operation="expand", shape=x.shape, output=full), x)
    return op.step(f"flat_{label}", View(shape=x.shape, output=(prod(lead), *full[-2:])), x)


def _matmul(op: Operation) -> object:
    a, b = op.input(), op.input(1)
    if not a.shape or not b.shape:
        raise LatteError(f"the product of {a.shape} and {b.shape} is not one of matrices")
    if b.constant and len(b.shape) > 1 and prod(b.shape) == prod(b.shape[-2:]):
        _check_inner(a.shape, b.shape[-2], b.shape)
        return _linear(op, a, b, (), b.shape[-1])
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise Unreadable("a product with a vector is not known")
    _check_inner(a.shape, b.shape[-2], b.shape)
    if a.constant and prod(a.shape) == prod(a.shape[-2:]):  # W x = (xᵀ Wᵀ)ᵀ
        rows = _rows(op, _flip(op, b, "transposed"))
        layer = Linear(rows=rows.shape[0], in_features=rows.shape[1], out_features=a.shape[-2], bias=False)
        y = op.step("linear", layer, rows, parameters=(a,))
        folded = (*b.shape[:-2], b.shape[-1], a.shape[-2])
        return _flip(op, op.step("unflattened", View(shape=y.shape, output=folded), y), "", result=True)
    if (a.constant or b.constant) and not op.folds:
        raise Unreadable("a product with a batch of weights is not known")
    return _product(op, a, b, result=True)


def _batch_norm(op: Operation) -> object:
    x = op.input()
    if len(x.shape) < 2:
        raise LatteError(f"`{x.name}` of shape {x.shape} has no channels")
    parameters = (op.weight(1, x.shape[1]), op.weight(2, x.shape[1]))
    attributes = (("epsilon", op.real("epsilon", 1e-5)), ("momentum", op.real("momentum", 0.9)))
    return op.result(Norm(function="batch", shape=x.shape), x, parameters=parameters, attributes=attributes)


def _row_norm(op: Operation, function: str) -> object:
    x = op.input()
    axis = op.axis(op.integer("axis", -1), len(x.shape))
    own = x.shape[axis:]
    parameters: tuple[Tensor, ...] = (op.weight(1, *own),)
    if op.optional(2) is not None:
        parameters += (op.weight(2, *own),)
    layer = Norm(function=function, shape=x.shape, span=len(own))
    return op.result(layer, x, parameters=parameters, attributes=(("epsilon", op.real("epsilon", 1e-5)),))


def _group_norm(op: Operation) -> object:
    x, groups = op.input(), op.integer("num_groups", 1)
    if len(x.shape) < 2 or groups < 1 or x.shape[1] % groups:
        raise LatteError(f"{x.shape} does not split into {groups} groups of channels")
    layer = Norm(function="group", shape=x.shape, span=groups)
    parameters = (op.weight(1), op.weight(2))
    return op.result(layer, x, parameters=parameters, attributes=(("epsilon", op.real("epsilon", 1e-5)),))


def _instance_norm(op: Operation) -> object:
    x = op.input()
    _spatial(op, x)
    parameters = (op.weight(1, x.shape[1]), op.weight(2, x.shape[1]))
    layer = Norm(function="instance", shape=x.shape)
    return op.result(layer, x, parameters=parameters, attributes=(("epsilon", op.real("epsilon", 1e-5)),))


def _local_response_norm(op: Operation) -> object:
    x, defaults = op.input(), {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    attributes = tuple((name, op.real(name, value)) for name, value in defaults.items())
    layer = Norm(function="lrn", shape=x.shape, span=max(1, op.integer("size", 1)), affine=False)
    return op.result(layer, x, attributes=attributes)


def _lp_norm(op: Operation) -> object:
    x = op.input()
    axis = op.axis(op.integer("axis", -1), len(x.shape))
    layer = Reduce(shape=x.shape, operation=f"l{op.integer('p', 2)}", axes=(axis,))
    return _combined(op, "divide", (x, op.step("norm", layer, x)))


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
    "HardSigmoid": ("hard_sigmoid", {}),
    "HardSwish": ("hard_swish", {}),
    "Swish": ("silu", {}),
    "Mish": ("mish", {}),
    "Shrink": ("shrink", {}),
    **{
        name: (name.lower(), {})
        for name in (
            *("Tanh", "Softplus", "Softsign", "Erf", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal"),
            *("Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Asin", "Acos", "Atan"),
            *("Asinh", "Acosh", "Atanh", "Not", "IsNaN", "IsInf"),
        )
    },
}
"""Operators with one activation for input: the activation's name, and the attributes that change what it computes."""


def _activation(op: Operation) -> object:
    x = op.input()
    function, known = _ACTIVATIONS[op.kind]
    attributes = tuple((name, op.real(name, value)) for name, value in known.items())
    return op.result(Activation(function=function, shape=x.shape), x, attributes=attributes)


def _clip(op: Operation) -> object:
    x = op.input()
    bounds = (("min", op.scalar(1, "min")), ("max", op.scalar(2, "max")))
    attributes = tuple((name, value) for name, value in bounds if value is not None)
    function = {(("min", 0.0), ("max", 6.0)): "relu6", (("min", 0.0),): "relu"}.get(attributes, "clip")
    return op.result(
        Activation(function=function, shape=x.shape), x, attributes=attributes if function == "clip" else ()
    )


def _dropout(op: Operation) -> object:
    x, ratio = op.input(), op.scalar(1, "ratio")
    return op.result(Dropout(shape=x.shape), x, attributes=(("ratio", 0.5 if ratio is None else ratio),))


def _softmax(op: Operation, *, log: bool) -> object:
    x = op.input()
    axis = op.axis(op.integer("axis", -1 if op.opset >= 13 else 1), len(x.shape))
    if op.opset >= 13 or prod(x.shape[axis + 1 :]) == 1:
        return op.result(Softmax(shape=x.shape, axis=axis, log=log), x)
    # before version 13 all dimensions from the axis on are one
    rows = (prod(x.shape[:axis]), prod(x.shape[axis:]))
    flat = op.step("rows", View(shape=x.shape, output=rows), x)
    return op.view(op.step("softmax", Softmax(shape=rows, log=log), flat), x.shape)


def _pool(op: Operation, function: str) -> object:
    x = op.input()
    spatial = _spatial(op, x)
    rank = len(spatial)
    kernel = _window(op, "kernel_shape", rank, 0)
    stride, dilation = _window(op, "strides", rank, 1), _window(op, "dilations", rank, 1)
    before, after = _pads(op, spatial, kernel, stride, dilation)
    layer = Pool(
        function=function,
        batch=x.shape[0],
        channels=x.shape[1],
        input=spatial,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pad_before=before,
        pad_after=after,
        ceil=bool(op.integer("ceil_mode")),
        count_padding=bool(op.integer("count_include_pad")),
    )
    return op.result(layer, x)


def _global_pool(op: Operation, function: str) -> object:
    x = op.input()
    spatial = _spatial(op, x)
    layer = Pool(function=function, batch=x.shape[0], channels=x.shape[1], input=spatial, kernel=spatial)
    return op.result(layer, x)


def _elementwise(op: Operation, operation: str) -> object:
    return _combined(op, operation, op.given)


def _combined(op: Operation, operation: str, inputs: tuple[Tensor, ...]) -> Tensor:
    """The element-wise `operation`, broadcast; with one activation among constants it is an activation of that one."""
    if not inputs:
        raise LatteError("it has no inputs")
    output = broadcast(*(tensor.shape for tensor in inputs))
    varying = [tensor for tensor in inputs if not tensor.constant] or list(inputs)
    if broadcast(*(tensor.shape for tensor in varying)) != output:
        first = varying[0]
        varying[0] = op.step("expand", Copy(operation="expand", shape=first.shape, output=output), first)
    if len(varying) > 1:
        return op.result(Elementwise(operation=operation, shapes=tuple(tensor.shape for tensor in varying)), *varying)
    if len(inputs) == 1:
        return op.view(varying[0], output)
    values = [float(t.values.ravel()[0]) for t in inputs if t.values is not None and t.values.size == 1]
    attributes: tuple[tuple[str, float], ...] = (("value", values[0]),) if len(values) == 1 == len(inputs) - 1 else ()
    if inputs[0].constant:
        attributes += (("reversed", 1.0),)
    layer = Activation(function=f"{operation}_constant", shape=output)
    return op.result(layer, varying[0], attributes=attributes)


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
    return op.result(Reduce(shape=x.shape, operation=operation, axes=(axis,), keep=keep), x)


COMPUTING: dict[str, Reader] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": partial(_row_norm, function="layer"),
    "RMSNormalization": partial(_row_norm, function="rms"),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LpNormalization": _lp_norm,
    **dict.fromkeys(_ACTIVATIONS, _activation),
    "Clip": _clip,
    "Dropout": _dropout,
    "Softmax": partial(_softmax, log=False),
    "LogSoftmax": partial(_softmax, log=True),
    "MaxPool": partial(_pool, function="max"),
    "AveragePool": partial(_pool, function="average"),
    "LpPool": partial(_pool, function="lp"),
    "GlobalMaxPool": partial(_global_pool, function="max"),
    "GlobalAveragePool": partial(_global_pool, function="average"),
    "GlobalLpPool": partial(_global_pool, function="lp"),
    "ArgMax": partial(_arg, operation="argmax"),
    "ArgMin": partial(_arg, operation="argmin"),
}
"""Operators by name, each with what turns it into layers."""

ELEMENTWISE = {
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
}
"""Operators that combine tensors element by element."""

REDUCING = {
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

COMPUTING |= {name: partial(_elementwise, operation=operation) for name, operation in ELEMENTWISE.items()}
COMPUTING |= {name: partial(_reduce, operation=operation) for name, operation in REDUCING.items()}
