"""ONNX operators that slide a window over an image: convolutions and pools."""

from functools import partial
from operator import floordiv, mod

from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Pool, Shape
from latte_cli.network.onnx.operation import Operation, Reader, Tensor


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


def _convolution(op: Operation, at: int = 1, bias_at: int | None = 2) -> object:
    x, weight = op.input(), op.weight(at)
    spatial, groups = _spatial(op, x), op.integer("group", 1)
    if len(weight.shape) != len(x.shape) or weight.shape[1] * groups != x.shape[1]:
        raise LatteError(f"weights of {weight.shape} in {groups} groups do not fit an input of {x.shape}")
    kernel, rank = weight.shape[2:], len(spatial)
    stride, dilation = _window(op, "strides", rank, 1), _window(op, "dilations", rank, 1)
    before, after = _pads(op, spatial, kernel, stride, dilation)
    bias = () if bias_at is None else _bias(op, bias_at, weight.shape[0])
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
    before, after, extra = _transposed_pads(op, spatial, kernel, stride, dilation, extra)
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
) -> tuple[Shape, Shape, Shape]:
    """Padding before, after, of the output: `output_shape` or a SAME rule (output = in · stride) may decide it."""
    rule, wanted = op.text("auto_pad", "NOTSET"), op.integers("output_shape")
    if wanted is None and rule.startswith("SAME"):
        wanted = tuple(i * s for i, s in zip(spatial, stride, strict=True))
    if wanted is None:
        return *_pads(op, spatial, kernel, stride, dilation), extra
    sizes = zip(spatial, kernel, stride, dilation, extra, wanted[-len(spatial) :], strict=True)
    totals = [s * (i - 1) + o + d * (k - 1) + 1 - out for i, k, s, d, o, out in sizes]
    extra = tuple(o + max(0, -total) for o, total in zip(extra, totals, strict=True))
    return *_split_pads([max(0, total) for total in totals], upper=rule == "SAME_UPPER"), extra


def _pool(op: Operation, function: str) -> object:
    x = op.input()
    spatial = _spatial(op, x)
    rank = len(spatial)
    kernel = _window(op, "kernel_shape", rank, 0)
    stride, dilation = _window(op, "strides", rank, 1), _window(op, "dilations", rank, 1)
    before, after = _pads(op, spatial, kernel, stride, dilation)
    if kernel == spatial and not any((*before, *after)):
        stride = (1,) * rank  # there is one window, and it goes nowhere
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


def _adaptive_pool(op: Operation) -> object:
    """A pool by its output sizes, as torch has it: one over the whole input, of equal windows or of different ones."""
    wanted = op.integers("output_size") or ()
    x = op.input()
    spatial = _spatial(op, x)
    how: dict[str, Shape] = {"adaptive": wanted}
    if set(wanted) == {1}:
        how = {"kernel": spatial}
    elif len(spatial) == len(wanted) and min(wanted) > 0 and not any(map(mod, spatial, wanted)):
        how = dict.fromkeys(("kernel", "stride"), tuple(map(floordiv, spatial, wanted)))
    layer = Pool(function=op.text("function"), batch=x.shape[0], channels=x.shape[1], input=spatial, **how)  # type: ignore[arg-type]
    return op.result(layer, x)


READERS: dict[str, Reader] = {
    "latte.AdaptivePool": _adaptive_pool,
    "Conv": _convolution,
    "ConvInteger": partial(_convolution, bias_at=None),
    "QLinearConv": partial(_convolution, at=3, bias_at=8),
    "ConvTranspose": _transposed_convolution,
    "MaxPool": partial(_pool, function="max"),
    "AveragePool": partial(_pool, function="average"),
    "LpPool": partial(_pool, function="lp"),
    "GlobalMaxPool": partial(_global_pool, function="max"),
    "GlobalAveragePool": partial(_global_pool, function="average"),
    "GlobalLpPool": partial(_global_pool, function="lp"),
}
"""Operators by name, each with what turns it into layers."""
