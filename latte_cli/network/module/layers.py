"""One layer as a torch module, computed as an ordinary PyTorch model would."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from math import prod
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from torch import Tensor, nn

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import (
    Activation,
    Attention,
    Concat,
    Convolution,
    Copy,
    Dropout,
    Elementwise,
    Embedding,
    Layer,
    Linear,
    MatMul,
    Norm,
    Pool,
    Recurrent,
    Reduce,
    Softmax,
    SoftmaxCrossEntropy,
    Stored,
    View,
)

Attributes: TypeAlias = Mapping[str, Any]
Compute: TypeAlias = Callable[..., Tensor]


class Function(nn.Module):
    """A layer that trains nothing: `compute` applied to its inputs."""

    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.compute(*inputs)


def layer_module(
    layer: Layer,
    attributes: Attributes | None = None,
    constants: Mapping[int, Tensor] | None = None,
    *,
    inputs: int = 1,
) -> nn.Module:
    """A module in training mode that computes `layer`: from its `input_shapes` to its `output_shape`.

    `attributes` are those of a network's node (a norm's `epsilon`, an activation's `alpha`), `constants` what it reads
    besides its `inputs`, by place; torch's defaults stand in for what is not given. Raises LatteError for a layer or a
    function that cannot be run.
    """
    builder = _BUILDERS.get(type(layer))
    if builder is None:
        raise unknown("layer kind to run", layer.kind, (kind.kind for kind in _BUILDERS))
    if constants and (found := _with_constants(layer, attributes or {}, constants, inputs)):
        return found
    return builder(layer, attributes or {})


class _Beside(nn.Module):
    """A layer with constants among what it combines: those that are floating-point numbers are trained."""

    def __init__(self, compute: Compute, constants: Mapping[int, Tensor], inputs: int) -> None:
        super().__init__()
        self.compute, self.order = compute, []
        given = iter(range(inputs))
        for place in range(inputs + len(constants)):
            self.order.append(next(given) if place not in constants else -1 - place)
        for place, constant in constants.items():
            if constant.is_floating_point() and constant.dim():
                self.register_parameter(f"constant{place}", nn.Parameter(constant))
            else:
                self.register_buffer(f"constant{place}", constant)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.compute(*[inputs[at] if at >= 0 else getattr(self, f"constant{-1 - at}") for at in self.order])


def _with_constants(
    layer: Layer, attributes: Attributes, constants: Mapping[int, Tensor], inputs: int
) -> nn.Module | None:
    """The layer's module where it combines its inputs with constants; None where they matter in another way."""
    match layer:
        case Activation(function=function) if function.endswith(_CONSTANT) and "value" not in attributes:
            compute = _named("element-wise operation", function.removesuffix(_CONSTANT), _ELEMENTWISE)
            return _Beside(_folded(compute, inputs + len(constants)), constants, inputs)
        case Elementwise(operation=operation):
            compute = torch.where if operation == "where" else _named("operation", operation, _ELEMENTWISE)
            return _Beside(_folded(compute, inputs + len(constants)), constants, inputs)
        case Activation(function="clip") if any(
            place in constants and name not in attributes for place, name in ((1, "min"), (2, "max"))
        ):
            least, most = constants.get(1), constants.get(2)
            return Function(lambda x: torch.clamp(x, least, most))
        case Activation(function="prelu"):
            return _Beside(lambda x, slope: torch.where(x > 0, x, x * slope), constants, inputs)
        case Stored():
            return _Stored(layer, constants.get(0))
        case Attention():
            plain = _attention(layer, attributes).compute
            return _Beside(lambda q, k, v, mask: plain(q, k, v, mask), {3: constants[3]}, 3) if 3 in constants else None
        case Copy(operation="concat_constants"):
            fixed = [constants[place] for place in sorted(constants)]
            return _Beside(_joined(attributes), dict(enumerate(fixed, start=1)), 1)
        case Copy(operation="gather") if 1 in constants:
            axis, rows = attributes["axis"], constants[1].reshape(-1)
            rows = torch.where(rows < 0, rows + layer.shape[axis], rows)
            return Function(lambda x: x.index_select(axis, rows.to(x.device)))
    return None


def _folded(compute: Compute, operands: int) -> Compute:
    return compute if (operands <= 3 and compute is torch.where) or operands == 2 else lambda *all: reduce(compute, all)


def _joined(attributes: Attributes) -> Compute:
    """Constants laid end to end with the parts of the input that go between them."""
    axis, sizes, varying = attributes["axis"], attributes["sizes"], attributes["varying"]
    own = [sizes[place] for place in varying]

    def compute(*operands: Tensor) -> Tensor:
        varied = iter(torch.split(operands[0], own, axis) if len(own) > 1 else operands[:1])
        fixed = iter(operands[1:])
        return torch.cat([next(varied) if at in varying else next(fixed) for at in range(len(sizes))], axis)

    return compute


def _named(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise unknown(what, name, known)
    return known[name]


def _pads(before: Iterable[int], after: Iterable[int]) -> list[int]:
    """The argument of F.pad, which counts from the last dimension."""
    pairs = list(zip(before, after, strict=True))
    return [size for pair in reversed(pairs) for size in pair]


_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _convolution(layer: Convolution, attributes: Attributes) -> nn.Module:
    both = tuple(map(min, layer.pad_before, layer.pad_after))
    sizes: dict[str, Any] = {
        "kernel_size": layer.kernel,
        "stride": layer.stride,
        "padding": both,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "bias": layer.bias,
    }
    kinds = _CONVOLUTIONS
    if layer.transposed:
        kinds, sizes["output_padding"] = _TRANSPOSED, layer.output_padding
    module = kinds[len(layer.input) - 1](layer.in_channels, layer.out_channels, **sizes)
    if layer.symmetric:
        return module
    before, after = ([a - b for a, b in zip(pad, both, strict=True)] for pad in (layer.pad_before, layer.pad_after))
    if layer.transposed:  # padding a transposed convolution crops its output
        return nn.Sequential(module, Function(partial(F.pad, pad=[-size for size in _pads(before, after)])))
    return nn.Sequential(Function(partial(F.pad, pad=_pads(before, after))), module)


def _linear(layer: Linear, attributes: Attributes) -> nn.Module:
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise LatteError("a Gemm that scales its product cannot be run", hint="`alpha` and `beta` of 1 can")
    return nn.Linear(layer.in_features, layer.out_features, bias=layer.bias)


def _matmul(layer: MatMul, attributes: Attributes) -> nn.Module:
    return Function(torch.matmul)


def _of_rank(layer: Norm, *kinds: type[nn.Module]) -> type[nn.Module]:
    rank = max(1, len(layer.shape) - 2)
    if len(layer.shape) < 2 or rank > len(kinds):
        raise LatteError(f"a {layer.function} norm of {layer.shape} cannot be run")
    return kinds[rank - 1]


def _batch_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    kind = _of_rank(layer, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    # ONNX's momentum weighs the running mean, torch's the new one
    return kind(layer.shape[1], affine=layer.affine, momentum=1 - attributes.get("momentum", 0.9), **common)


def _instance_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    kind = _of_rank(layer, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    return kind(layer.shape[1], affine=layer.affine, **common)


def _layer_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    return nn.LayerNorm(layer.shape[-layer.span :], elementwise_affine=layer.affine, **common)


def _rms_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    return nn.RMSNorm(layer.shape[-layer.span :], elementwise_affine=layer.affine, **common)


def _group_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    return nn.GroupNorm(layer.span, layer.shape[1], affine=layer.affine, **common)


def _local_response_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    values = {"alpha": "alpha", "beta": "beta", "bias": "k"}
    return nn.LocalResponseNorm(
        layer.span, **{to: attributes[name] for name, to in values.items() if name in attributes}
    )


_NORMS: dict[str, Callable[[Norm, dict[str, Any], Attributes], nn.Module]] = {
    "batch": _batch_norm,
    "layer": _layer_norm,
    "group": _group_norm,
    "instance": _instance_norm,
    "rms": _rms_norm,
    "lrn": _local_response_norm,
}


def _norm(layer: Norm, attributes: Attributes) -> nn.Module:
    common = {"eps": attributes["epsilon"]} if "epsilon" in attributes else {}
    module: nn.Module = _named("norm", layer.function, _NORMS)(layer, common, attributes)
    return module


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

_CONSTANT = "_constant"


def _activation(layer: Activation, attributes: Attributes) -> nn.Module:
    if layer.function.endswith(_CONSTANT):
        return _with_constant(layer.function.removesuffix(_CONSTANT), attributes)
    compute, names = _named("activation", layer.function, _ACTIVATIONS)
    values = {to: attributes[name] for name, to in names.items() if name in attributes}
    return Function(partial(compute, **values) if values else compute)


def _with_constant(operation: str, attributes: Attributes) -> nn.Module:
    """An element-wise operation whose other operand is a constant: `value`, which comes first if `reversed`."""
    compute = _named("element-wise operation", operation, _ELEMENTWISE)
    value = attributes.get("value", 1.0)

    def other(x: Tensor) -> Any:
        return value if operation in _ARITHMETIC else x.new_full((), value)

    if attributes.get("reversed"):
        return Function(lambda x: compute(other(x), x))
    return Function(lambda x: compute(x, other(x)))


def _dropout(layer: Dropout, attributes: Attributes) -> nn.Module:
    return nn.Dropout(attributes.get("ratio", 0.5))


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


_POOLS: dict[str, tuple[Compute, ...]] = {
    "max": (F.max_pool1d, F.max_pool2d, F.max_pool3d),
    "average": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    "lp": tuple(partial(pool, norm_type=2.0) for pool in (F.lp_pool1d, F.lp_pool2d, F.lp_pool3d)),
}
_WHOLE_POOLS: dict[str, tuple[Compute, ...]] = {
    "max": (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    "average": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}
"""Pooling over windows and, as models write it, over the whole input; for 1 to 3 dimensions."""


def _lp_pool(x: Tensor, *, windows: Any, power: float, kernel_size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """ONNX takes the powers of absolute values; torch's pool over one dimension takes plain numbers."""
    sizes: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride}
    if len(kernel_size) == 1:
        sizes = {name: size[0] for name, size in sizes.items()}
    pooled: Tensor = windows.func(x.abs() if power % 2 else x, norm_type=power, **sizes)
    return pooled


def _pool(layer: Pool, attributes: Attributes) -> nn.Module:
    rank = len(layer.input) - 1
    windows = _named("pooling", layer.function, _POOLS)[rank]
    if layer.function == "lp":
        windows = partial(_lp_pool, windows=windows, power=float(attributes.get("p", 2)))
    if layer.whole and layer.function in _WHOLE_POOLS:
        return Function(partial(_WHOLE_POOLS[layer.function][rank], output_size=1))
    sizes: dict[str, Any] = {"kernel_size": layer.kernel, "stride": layer.stride}
    if layer.function == "max":
        sizes["dilation"] = layer.dilation
    elif max(layer.dilation) > 1:
        raise LatteError(f"a dilated {layer.function} pool cannot be run", hint="only max pools have a dilation")
    if not _torch_pads(layer):
        return _PaddedPool(layer, partial(windows, **sizes))
    if layer.function != "lp":
        sizes |= {"padding": layer.pad_before, "ceil_mode": layer.ceil}
    if layer.function == "average":
        sizes["count_include_pad"] = layer.count_padding
    return Function(partial(windows, **sizes))


def _torch_pads(layer: Pool) -> bool:
    """Whether torch's own pool has this padding: as much on both sides, at most half a window; none for lp."""
    if layer.function == "lp":
        return not (layer.ceil or any((*layer.pad_before, *layer.pad_after)))
    if layer.function == "average" and len(layer.input) == 3 and any(map(operator.gt, layer.kernel, layer.input)):
        return False  # avg_pool3d alone refuses windows larger than the input without its padding
    narrow = all(2 * pad <= kernel for pad, kernel in zip(layer.pad_before, layer.kernel, strict=True))
    return layer.pad_before == layer.pad_after and narrow


class _PaddedPool(nn.Module):
    """A pool with padding of its own, where torch's cannot express it.

    The input is padded (or cropped) to just what the windows read; an average is then corrected for the positions
    that do not count.
    """

    def __init__(self, layer: Pool, windows: Compute) -> None:
        super().__init__()
        numbers = zip(layer.output, layer.kernel, layer.stride, layer.dilation, strict=True)
        reach = [(o - 1) * s + d * (k - 1) + 1 for o, k, s, d in numbers]
        after = [r - i - before for r, i, before in zip(reach, layer.input, layer.pad_before, strict=True)]
        self.pad = _pads(layer.pad_before, after)
        self.windows = windows
        self.value = float("-inf") if layer.function == "max" else 0.0
        self.scale: Tensor | None
        self.register_buffer("scale", self._correction(layer) if layer.function == "average" else None)

    def _correction(self, layer: Pool) -> Tensor:
        counted = torch.ones(1, 1, *layer.input)
        if layer.count_padding:
            counted = F.pad(counted, _pads(layer.pad_before, layer.pad_after), value=1.0)
            after = [p - q for p, q in zip(self.pad[1::2], reversed(layer.pad_after), strict=True)]
            counted = F.pad(counted, [size for extra in after for size in (0, extra)])
        else:
            counted = F.pad(counted, self.pad)
        # a window that lies in the padding alone averages nothing: 0, as in ONNX Runtime
        return 1 / self.windows(counted).clamp(min=1 / (2 * prod(layer.kernel)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.windows(F.pad(x, self.pad, value=self.value))
        return y if self.scale is None else y * self.scale


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
_ELEMENTWISE = _ARITHMETIC | {
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mean": _mean,
    "prelu": lambda x, slope: torch.where(x > 0, x, x * slope),
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
    compute: Compute = _named("element-wise operation", layer.operation, _ELEMENTWISE)
    if len(layer.shapes) == 2 or layer.operation in _OF_ANY_NUMBER:
        return Function(compute)
    return Function(lambda *inputs: reduce(compute, inputs))


def _concat(layer: Concat, attributes: Attributes) -> nn.Module:
    axis = layer.axis
    return Function(lambda *inputs: torch.cat(inputs, axis))


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
    compute = _named("reduction", layer.operation, _REDUCTIONS)
    if not layer.axes:  # torch would take no axes for all of them
        return Function(torch.clone)
    return Function(partial(compute, dim=layer.axes, keepdim=layer.keep))


def _transpose(layer: Copy, attributes: Attributes) -> Compute:
    return lambda x: x.permute(layer.order).contiguous()


def _pad_or_crop(layer: Copy, attributes: Attributes) -> Compute:
    before = attributes.get("before", [0] * len(layer.shape))
    after = [out - size - first for size, out, first in zip(layer.shape, layer.output, before, strict=True)]
    mode: str = attributes.get("mode", "constant")
    mode = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    if mode == "constant":
        return partial(F.pad, pad=_pads(before, after), value=attributes.get("value", 0.0))
    outer = next((axis for axis, pair in enumerate(zip(before, after, strict=True)) if any(pair)), 0)
    if outer < 2 or len(layer.shape) - outer > 3 or min(*before, *after) < 0:
        raise LatteError(f"a pad of {layer.shape} by {mode} cannot be run")
    return partial(F.pad, pad=_pads(before[outer:], after[outer:]), mode=mode)


def _slice(layer: Copy, attributes: Attributes) -> Compute:
    starts, steps = attributes.get("starts", [0] * len(layer.output)), attributes.get("steps", [1] * len(layer.output))
    if len(starts) < len(layer.output):  # of a part of the dimensions, as a recurrent layer's last step
        given = dict(zip(attributes["axes"], starts, strict=True))
        starts = [given.get(axis, 0) % size for axis, size in enumerate(layer.shape)]
        steps = [1] * len(layer.output)
    turned = [axis for axis, step in enumerate(steps) if step < 0]
    if turned:
        picks = [torch.arange(s, s + n * by, by) for s, n, by in zip(starts, layer.output, steps, strict=True)]

        def picked(x: Tensor) -> Tensor:
            for axis, pick in enumerate(picks):
                x = x.index_select(axis, pick.to(x.device))
            return x

        return picked
    window = tuple(slice(s, s + (n - 1) * by + 1, by) for s, n, by in zip(starts, layer.output, steps, strict=True))
    return lambda x: x[window].contiguous()


def _split(layer: Copy, attributes: Attributes) -> Compute:
    axis, start = attributes.get("axis", 0), attributes.get("start", 0)
    starts = [start if at == axis else 0 for at in range(len(layer.output))]
    return _slice(layer, {"starts": starts})


def _gather(layer: Copy, attributes: Attributes) -> Compute:
    axis = attributes.get("axis")
    if axis is None:
        pairs = enumerate(zip(layer.shape, layer.output, strict=True))
        axis = next((at for at, (a, b) in pairs if a != b), 0)
    size = layer.shape[axis]
    rows = attributes.get("indices") or [index % size for index in range(layer.output[axis])]
    picked = torch.tensor([row % size for row in rows])
    return lambda x: x.index_select(axis, picked.to(x.device))


def _tile(layer: Copy, attributes: Attributes) -> Compute:
    repeats = [out // size for size, out in zip(layer.shape, layer.output, strict=True)]
    return lambda x: x.repeat(repeats)


def _expand(layer: Copy, attributes: Attributes) -> Compute:
    return lambda x: x.expand(layer.output).contiguous()


_MODES = {1: {"linear": "linear"}, 2: {"linear": "bilinear", "cubic": "bicubic"}, 3: {"linear": "trilinear"}}


def _resize(layer: Copy, attributes: Attributes) -> Compute:
    mode = _MODES.get(len(layer.output) - 2, {}).get(attributes.get("mode", "nearest"), "nearest")
    if mode == "nearest":
        return partial(F.interpolate, size=layer.output[2:], mode=mode)
    corners = attributes.get("coordinate_transformation_mode") == "align_corners"
    return partial(F.interpolate, size=layer.output[2:], mode=mode, align_corners=corners)


def _depth_to_space(layer: Copy, attributes: Attributes) -> Compute:
    block = layer.output[-1] // layer.shape[-1]
    if attributes.get("mode", "CRD" if "blocksize" not in attributes else "DCR") == "CRD":
        return partial(F.pixel_shuffle, upscale_factor=block)
    batch, channels, height, width = layer.shape

    def shuffled(x: Tensor) -> Tensor:
        x = x.reshape(batch, block, block, channels // block**2, height, width)
        return x.permute(0, 3, 4, 1, 5, 2).reshape(layer.output)

    return shuffled


def _space_to_depth(layer: Copy, attributes: Attributes) -> Compute:
    block = layer.shape[-1] // layer.output[-1]
    if "blocksize" not in attributes or attributes.get("mode") == "CRD":
        return partial(F.pixel_unshuffle, downscale_factor=block)
    batch, channels, height, width = layer.shape

    def gathered(x: Tensor) -> Tensor:
        x = x.reshape(batch, channels, height // block, block, width // block, block)
        return x.permute(0, 3, 5, 1, 2, 4).reshape(layer.output)

    return gathered


def _triangle(layer: Copy, attributes: Attributes) -> Compute:
    cut = torch.triu if attributes.get("upper", 1) else torch.tril
    return partial(cut, diagonal=int(attributes.get("k", 0)))


_COPIES: dict[str, Callable[[Copy, Attributes], Compute]] = {
    "transpose": _transpose,
    "pad": _pad_or_crop,
    "concat_constants": _pad_or_crop,
    "slice": _slice,
    "split": _split,
    "gather": _gather,
    "expand": _expand,
    "tile": _tile,
    "resize": _resize,
    "depth_to_space": _depth_to_space,
    "space_to_depth": _space_to_depth,
    "trilu": _triangle,
    "cast": lambda layer, attributes: torch.clone,
}


def _copy(layer: Copy, attributes: Attributes) -> nn.Module:
    return Function(_named("copy", layer.operation, _COPIES)(layer, attributes))


class _Embedding(nn.Embedding):
    """A look-up; indices may come as any integers, and as the numbers that stand for them while it is timed."""

    def forward(self, indices: Tensor) -> Tensor:
        return super().forward(indices if not indices.is_floating_point() else indices.long())


def _embedding(layer: Embedding, attributes: Attributes) -> nn.Module:
    return _Embedding(layer.entries, layer.width)


_CELLS: dict[str, type[nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class _Recurrent(nn.Module):
    """A recurrent layer whose hidden states come out as ONNX has them: (steps, directions, batch, hidden)."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        cells = _CELLS[layer.function]
        self.cells = cells(layer.inputs, layer.hidden, bias=layer.bias, bidirectional=layer.directions == 2)
        self.shape = (layer.steps, layer.batch, layer.directions, layer.hidden)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.cells(x)[0]
        return states.view(self.shape).transpose(1, 2)


def _recurrent(layer: Recurrent, attributes: Attributes) -> nn.Module:
    ways = {1: "forward", 2: "bidirectional"}
    odd = attributes.get("direction", ways[layer.directions]) != ways[layer.directions]
    if odd or "activations" in attributes or "clip" in attributes:
        raise LatteError(f"a `{layer.function}` of this form cannot be run", hint="torch's own forms can")
    if layer.function == "gru" and not attributes.get("linear_before_reset", 1):
        raise LatteError("a GRU that resets before its product cannot be run", hint="`linear_before_reset` is torch's")
    return _Recurrent(layer)


_UNKNOWN_ATTENTION = ("softcap", "left_window_size", "right_window_size", "window_size", "qk_matmul_output_mode")


def _attention(layer: Attention, attributes: Attributes) -> Function:
    odd = [name for name in _UNKNOWN_ATTENTION if attributes.get(name)]
    if odd:
        raise LatteError(f"attention with `{odd[0]}` cannot be run", hint="leave the attribute out")
    given: dict[str, Any] = {"is_causal": layer.causal, "enable_gqa": layer.key_heads < layer.heads}
    if layer.causal and layer.queries != layer.keys:
        raise LatteError("causal attention with a past cannot be run", hint="export it with a mask")
    if "scale" in attributes:
        given["scale"] = attributes["scale"]
    return Function(partial(F.scaled_dot_product_attention, **given))


def _view(layer: View, attributes: Attributes) -> nn.Module:
    return Function(partial(torch.reshape, shape=layer.output))


class _Stored(nn.Module):
    """A stored tensor as an activation."""

    def __init__(self, layer: Stored, values: Tensor | None) -> None:
        super().__init__()
        start = torch.zeros(layer.shape) if values is None else values.reshape(layer.shape)
        if layer.trained:
            self.value = nn.Parameter(start)
        else:
            self.register_buffer("value", start)

    def forward(self) -> Tensor:
        value: Tensor = self.value
        return value


def _stored(layer: Stored, attributes: Attributes) -> nn.Module:
    return _Stored(layer, None)


_BUILDERS: dict[type[Layer], Callable[[Any, Attributes], nn.Module]] = {
    Convolution: _convolution,
    Linear: _linear,
    MatMul: _matmul,
    Norm: _norm,
    Activation: _activation,
    Dropout: _dropout,
    Softmax: _softmax,
    SoftmaxCrossEntropy: _cross_entropy,
    Pool: _pool,
    Elementwise: _elementwise,
    Concat: _concat,
    Reduce: _reduce,
    Copy: _copy,
    View: _view,
    Embedding: _embedding,
    Recurrent: _recurrent,
    Attention: _attention,
    Stored: _stored,
}
