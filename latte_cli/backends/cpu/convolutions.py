"""Convolution algorithms on the CPU: each a rule for when it applies and a function for each phase.

In the shapes below N, C, H, W are the input's, K the output channels, R, S the kernel, P, Q the output.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from latte_cli.algorithms import corrupts_heap
from latte_cli.backends.torch.layers import (
    FRAMEWORK_CONVOLUTIONS,
    ConvolutionCall,
    Operands,
    aten,
    bias_gradient,
    pads,
)
from latte_cli.layers import Convolution, Phase
from latte_cli.tasks import Layout, Precision, Settings

Call: TypeAlias = ConvolutionCall
Rule: TypeAlias = Callable[[Convolution, Phase, Settings], bool]


@dataclass(frozen=True, kw_only=True)
class CpuAlgorithm:
    """One algorithm: `applies` says for which layer, phase and settings, `calls` computes a phase's result."""

    applies: Rule
    calls: dict[Phase, Call]


def _plane(layer: Convolution, **without: bool) -> bool:
    """Whether it is an ordinary 2-D convolution, in the respects that are not waived."""
    return (
        len(layer.input) == 2
        and not layer.transposed
        and layer.symmetric
        and (layer.groups == 1 or "groups" in without)
        and (layer.dilation == (1, 1) or "dilation" in without)
        and (layer.stride == (1, 1) or "stride" in without)
    )


def _plain_fp32(settings: Settings) -> bool:
    return settings.precision is Precision.FP32 and settings.layout is Layout.NCHW


# oneDNN, told what to do.


def _onednn_forward(layer: Convolution, o: Operands) -> Tensor:
    return aten.mkldnn_convolution(o.x, o.w, o.b, layer.pad_before, layer.stride, layer.dilation, layer.groups)


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _through_channels_last(phase: Phase) -> Call:
    def call(layer: Convolution, o: Operands) -> Tensor:
        there = Operands(x=_last(o.x), w=_last(o.w), b=o.b, gy=_last(o.gy) if phase is not Phase.FORWARD else o.gy)
        inner = _onednn_forward if phase is Phase.FORWARD else FRAMEWORK_CONVOLUTIONS[phase]
        return inner(layer, there).contiguous()

    return call


def _heap_safe(layer: Convolution, phase: Phase) -> bool:
    """Whether oneDNN's channels_last kernels may run it."""
    return not (phase is Phase.BACKWARD_FILTER and corrupts_heap(layer))


def _rotated(layer: Convolution, w: Tensor) -> Tensor:
    """The filter turned by 180 degrees with input and output channels exchanged: (C, K/g, R, S)."""
    g = layer.groups
    split = w.view(g, layer.out_channels // g, layer.in_channels // g, *layer.kernel)
    return split.transpose(1, 2).reshape(layer.in_channels, layer.out_channels // g, *layer.kernel).flip(2, 3)


def _rotated_pad(layer: Convolution) -> list[int]:
    return [d * (k - 1) - p for k, p, d in zip(layer.kernel, layer.pad_before, layer.dilation, strict=True)]


def _rotated_applies(layer: Convolution) -> bool:
    return _plane(layer, groups=True, dilation=True) and min(_rotated_pad(layer)) >= 0


def _onednn_rotated(layer: Convolution, o: Operands) -> Tensor:
    w = _rotated(layer, o.w).contiguous(
        memory_format=torch.channels_last
        if o.gy.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    return aten.mkldnn_convolution(o.gy, w, None, _rotated_pad(layer), layer.stride, layer.dilation, layer.groups)


# Matrix products.


def _im2col_forward(layer: Convolution, o: Operands) -> Tensor:
    return aten._slow_conv2d_forward(o.x, o.w, layer.kernel, o.b, layer.stride, layer.pad_before)


def _im2col_backward(layer: Convolution, o: Operands, mask: list[bool]) -> Tensor:
    grads = aten._slow_conv2d_backward.output_mask(o.gy, o.x, o.w, layer.kernel, layer.stride, layer.pad_before, mask)
    return grads[1] if mask[1] else grads[0]


def _without_onednn(phase: Phase) -> Call:
    ungrouped: dict[Phase, Call] = {
        Phase.FORWARD: _im2col_forward,
        Phase.BACKWARD_DATA: lambda layer, o: _im2col_backward(layer, o, [True, False, False]),
        Phase.BACKWARD_FILTER: lambda layer, o: _im2col_backward(layer, o, [False, True, layer.bias]),
    }

    def call(layer: Convolution, o: Operands) -> Tensor:
        if layer.groups == 1:
            return ungrouped[phase](layer, o)
        enabled = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)
        try:
            return FRAMEWORK_CONVOLUTIONS[phase](layer, o)
        finally:
            torch._C._set_mkldnn_enabled(enabled)

    return call


def _pointwise_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    return _plane(layer, stride=True, dilation=True) and layer.kernel == (1, 1) and not any(layer.pad_before)


def _strided(layer: Convolution, x: Tensor) -> Tensor:
    return x if layer.stride == (1, 1) else x[:, :, :: layer.stride[0], :: layer.stride[1]]


def _is_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _rows(tensor: Tensor) -> Tensor:
    """(N, C, P, Q) in channels_last order seen as (N P Q, C)."""
    return tensor.permute(0, 2, 3, 1).reshape(-1, tensor.shape[1])


def _pointwise_forward(layer: Convolution, o: Operands) -> Tensor:
    x, w = _strided(layer, o.x), o.w.reshape(layer.out_channels, -1)
    n, p, q = x.shape[0], *layer.output
    if _is_last(o.x):
        y = torch.mm(_rows(x), w.t()) if o.b is None else torch.addmm(o.b, _rows(x), w.t())
        return y.view(n, p, q, -1).permute(0, 3, 1, 2)
    y = torch.matmul(w, x.reshape(n, layer.in_channels, -1))
    if o.b is not None:
        y += o.b[:, None]
    return y.view(n, -1, p, q)


def _pointwise_backward_data(layer: Convolution, o: Operands) -> Tensor:
    w, n, (p, q) = o.w.reshape(layer.out_channels, -1), layer.batch, layer.output
    if _is_last(o.gy):
        gx = torch.mm(_rows(o.gy), w).view(n, p, q, -1).permute(0, 3, 1, 2)
    else:
        gx = torch.matmul(w.t(), o.gy.view(n, layer.out_channels, -1)).view(n, -1, p, q)
    if layer.stride == (1, 1):
        return gx
    whole = torch.zeros_like(o.x)
    _strided(layer, whole).copy_(gx)
    return whole


def _pointwise_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    x = _strided(layer, o.x)
    bias_gradient(layer, o)
    if _is_last(o.gy):
        return torch.mm(_rows(o.gy).t(), _rows(x)).view_as(o.w)
    n = layer.batch
    columns = x.reshape(n, layer.in_channels, -1).transpose(1, 2)
    return torch.bmm(o.gy.view(n, layer.out_channels, -1), columns).sum(0).view_as(o.w)


def _unfold(layer: Convolution, x: Tensor) -> Tensor:
    return F.unfold(x, layer.kernel, layer.dilation, layer.pad_before, layer.stride)


def _explicit_forward(layer: Convolution, o: Operands) -> Tensor:
    y = torch.matmul(o.w.view(layer.out_channels, -1), _unfold(layer, o.x))
    if o.b is not None:
        y += o.b[:, None]
    return y.view(layer.output_shape)


def _explicit_backward_data(layer: Convolution, o: Operands) -> Tensor:
    columns = torch.matmul(o.w.view(layer.out_channels, -1).t(), o.gy.flatten(2))
    return F.fold(columns, layer.input, layer.kernel, layer.dilation, layer.pad_before, layer.stride)


def _explicit_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    bias_gradient(layer, o)
    return torch.bmm(o.gy.flatten(2), _unfold(layer, o.x).transpose(1, 2)).sum(0).view_as(o.w)


# One shifted view of the input for each position of the kernel.


def _shifts(layer: Convolution, padded: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    (sh, sw), (dh, dw), (p, q) = layer.stride, layer.dilation, layer.output
    for r, s in product(range(layer.kernel[0]), range(layer.kernel[1])):
        rows = slice(r * dh, r * dh + (p - 1) * sh + 1, sh)
        yield r, s, padded[:, :, rows, s * dw : s * dw + (q - 1) * sw + 1 : sw]


def _crop(layer: Convolution, padded: Tensor) -> Tensor:
    (top, left), (h, w) = layer.pad_before, layer.input
    return padded[:, :, top : top + h, left : left + w].contiguous()


def _zeros_padded(layer: Convolution, like: Tensor) -> Tensor:
    h, w = (i + b + a for i, b, a in zip(layer.input, layer.pad_before, layer.pad_after, strict=True))
    return like.new_zeros(layer.batch, layer.in_channels, h, w)


def _kn2row_forward(layer: Convolution, o: Operands) -> Tensor:
    y = o.x.new_zeros(layer.batch, layer.out_channels, layer.output[0] * layer.output[1])
    for r, s, view in _shifts(layer, F.pad(o.x, pads(layer))):
        y += torch.matmul(o.w[:, :, r, s], view.reshape(layer.batch, layer.in_channels, -1))
    if o.b is not None:
        y += o.b[:, None]
    return y.view(layer.output_shape)


def _kn2row_backward_data(layer: Convolution, o: Operands) -> Tensor:
    padded, gy = _zeros_padded(layer, o.gy), o.gy.flatten(2)
    for r, s, view in _shifts(layer, padded):
        view += torch.matmul(o.w[:, :, r, s].t(), gy).view_as(view)
    return _crop(layer, padded)


def _kn2row_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    bias_gradient(layer, o)
    gw, gy = torch.empty_like(o.w), o.gy.flatten(2)
    for r, s, view in _shifts(layer, F.pad(o.x, pads(layer))):
        columns = view.reshape(layer.batch, layer.in_channels, -1).transpose(1, 2)
        gw[:, :, r, s] = torch.bmm(gy, columns).sum(0)
    return gw


def _depthwise_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    fp32 = settings.precision is Precision.FP32
    return fp32 and _plane(layer, groups=True, stride=True, dilation=True) and layer.depthwise


def _depthwise_forward(layer: Convolution, o: Operands) -> Tensor:
    form = torch.channels_last if _is_last(o.x) else torch.contiguous_format
    y = torch.empty(layer.output_shape, dtype=o.x.dtype, memory_format=form).zero_()
    for r, s, view in _shifts(layer, F.pad(o.x, pads(layer))):
        y.addcmul_(view, o.w[:, 0, r, s][:, None, None])
    return y if o.b is None else y.add_(o.b[:, None, None])


def _depthwise_backward_data(layer: Convolution, o: Operands) -> Tensor:
    padded = _zeros_padded(layer, o.gy)
    for r, s, view in _shifts(layer, padded):
        view.addcmul_(o.gy, o.w[:, 0, r, s][:, None, None])
    return _crop(layer, padded)


def _depthwise_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    bias_gradient(layer, o)
    gw = torch.empty_like(o.w)
    for r, s, view in _shifts(layer, F.pad(o.x, pads(layer))):
        gw[:, 0, r, s] = (o.gy * view).sum((0, 2, 3))
    return gw


# Winograd's minimal filtering F(m x m, 3 x 3) (Lavin and Gray, 2016), and its transpose for the filter's gradient.

_WINOGRAD: dict[int, tuple[list[list[float]], ...]] = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}
"""For each m the matrices B^T (input), G (filter) and A^T (output)."""


@lru_cache(maxsize=8)
def _winograd_matrices(m: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(matrix, dtype=dtype) for matrix in _WINOGRAD[m])


def _winograd_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    return _plain_fp32(settings) and _plane(layer) and layer.kernel == (3, 3) and max(layer.pad_before) <= 2


def _tiles(x: Tensor, m: int, output: tuple[int, int], pad: tuple[int, int]) -> Tensor:
    """Overlapping tiles of the padded input: (N, C, rows, columns, m + 2, m + 2)."""
    (p, q), (h, w) = (-(-output[0] // m), -(-output[1] // m)), x.shape[2:]
    below, right = p * m + 2 - h - pad[0], q * m + 2 - w - pad[1]
    padded = F.pad(x, [pad[1], right, pad[0], below])
    return padded.unfold(2, m + 2, m).unfold(3, m + 2, m)


def _winograd_input(x: Tensor, m: int, output: tuple[int, int], pad: tuple[int, int]) -> Tensor:
    """B^T d B of each tile: ((m + 2)^2, C, tiles)."""
    bt, _, _ = _winograd_matrices(m, x.dtype)
    moved = bt @ _tiles(x, m, output, pad) @ bt.t()
    return moved.permute(4, 5, 1, 0, 2, 3).reshape((m + 2) ** 2, x.shape[1], -1)


def _winograd_convolution(x: Tensor, w: Tensor, m: int, output: tuple[int, int], pad: tuple[int, int]) -> Tensor:
    _, g, at = _winograd_matrices(m, x.dtype)
    n, k = x.shape[0], w.shape[0]
    rows, columns = -(-output[0] // m), -(-output[1] // m)
    filters = (g @ w @ g.t()).permute(2, 3, 0, 1).reshape((m + 2) ** 2, k, -1)
    product_ = torch.bmm(filters, _winograd_input(x, m, output, pad))
    blocks = product_.view(m + 2, m + 2, k, n, rows, columns).permute(3, 2, 4, 5, 0, 1)
    y = (at @ blocks @ at.t()).permute(0, 1, 2, 4, 3, 5).reshape(n, k, rows * m, columns * m)
    return y[:, :, : output[0], : output[1]].contiguous()


def _winograd_filter_gradient(layer: Convolution, o: Operands, m: int) -> Tensor:
    _, g, at = _winograd_matrices(m, o.x.dtype)
    (p, q), pad = _pair(layer.output), _pair(layer.pad_before)
    rows, columns = -(-p // m), -(-q // m)
    gy = F.pad(o.gy, [0, columns * m - q, 0, rows * m - p]).unfold(2, m, m).unfold(3, m, m)
    moved = (at.t() @ gy @ at).permute(4, 5, 1, 0, 2, 3).reshape((m + 2) ** 2, layer.out_channels, -1)
    product_ = torch.bmm(moved, _winograd_input(o.x, m, (p, q), pad).transpose(1, 2))
    spread = product_.view(m + 2, m + 2, layer.out_channels, layer.in_channels).permute(2, 3, 0, 1)
    bias_gradient(layer, o)
    return g.t() @ spread @ g


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    return sizes[0], sizes[1]


def _with_bias(y: Tensor, b: Tensor | None) -> Tensor:
    return y if b is None else y.add_(b[:, None, None])


def _winograd(m: int) -> dict[Phase, Call]:
    def forward(layer: Convolution, o: Operands) -> Tensor:
        y = _winograd_convolution(o.x, o.w, m, _pair(layer.output), _pair(layer.pad_before))
        return _with_bias(y, o.b)

    def backward_data(layer: Convolution, o: Operands) -> Tensor:
        pad = _rotated_pad(layer)
        return _winograd_convolution(o.gy, _rotated(layer, o.w), m, _pair(layer.input), (pad[0], pad[1]))

    return {
        Phase.FORWARD: forward,
        Phase.BACKWARD_DATA: backward_data,
        Phase.BACKWARD_FILTER: lambda layer, o: _winograd_filter_gradient(layer, o, m),
    }


# Products of spectra. A correlation is a product with the conjugate of the filter's spectrum.

_TILE = 32


def _fft_tiling_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    small = max(layer.kernel) <= _TILE // 2 and max(layer.output) > _TILE
    return _plain_fp32(settings) and _rotated_applies(layer) and _plane(layer) and small


def _spectrum(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """(frequencies, first, second) of a (first, second, height, width) tensor."""
    return torch.fft.rfft2(tensor, s=size).flatten(2).permute(2, 0, 1)


def _correlate(x: Tensor, w: Tensor, output: tuple[int, int]) -> Tensor:
    """Valid correlation of (N, C, H, W) with (K, C, R, S): (N, K, *output)."""
    size = _pair(tuple(x.shape[2:]))
    spectrum = torch.bmm(_spectrum(x, size), _spectrum(w, size).conj().transpose(1, 2))
    wide = spectrum.permute(1, 2, 0).reshape(x.shape[0], w.shape[0], size[0], size[1] // 2 + 1)
    return torch.fft.irfft2(wide, s=size)[:, :, : output[0], : output[1]].contiguous()


def _filter_gradient(x: Tensor, gy: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Valid correlation of x with gy, summed over the batch: (K, C, *kernel)."""
    size = _pair(tuple(x.shape[2:]))
    spectrum = torch.bmm(_spectrum(gy, size).conj().transpose(1, 2), _spectrum(x, size))
    wide = spectrum.permute(1, 2, 0).reshape(gy.shape[1], x.shape[1], size[0], size[1] // 2 + 1)
    return torch.fft.irfft2(wide, s=size)[:, :, : kernel[0], : kernel[1]].contiguous()


def _spread_gradient(layer: Convolution, gy: Tensor) -> Tensor:
    """The output's gradient with zeros where the stride skipped."""
    if layer.stride == (1, 1):
        return gy
    (sh, sw), (p, q) = layer.stride, layer.output
    wide = gy.new_zeros(*gy.shape[:2], (p - 1) * sh + 1, (q - 1) * sw + 1)
    wide[:, :, ::sh, ::sw] = gy
    return wide


def _fft_forward(layer: Convolution, o: Operands) -> Tensor:
    x = F.pad(o.x, pads(layer))
    whole = _pair(tuple(size - k + 1 for size, k in zip(x.shape[2:], layer.kernel, strict=True)))
    y = _correlate(x, o.w, whole)
    (sh, sw), (p, q) = layer.stride, layer.output
    return _with_bias(y[:, :, ::sh, ::sw][:, :, :p, :q].contiguous(), o.b)


def _fft_backward_data(layer: Convolution, o: Operands) -> Tensor:
    gy, (top, left) = _spread_gradient(layer, o.gy), layer.pad_before
    h, w = layer.input
    size = (h + 2 * top, w + 2 * left)
    spectrum = torch.bmm(_spectrum(gy, size), _spectrum(o.w, size))
    wide = spectrum.permute(1, 2, 0).reshape(layer.batch, layer.in_channels, size[0], size[1] // 2 + 1)
    return _crop(layer, torch.fft.irfft2(wide, s=size))


def _fft_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    bias_gradient(layer, o)
    return _filter_gradient(F.pad(o.x, pads(layer)), _spread_gradient(layer, o.gy), _pair(layer.kernel))


def _overlapping(x: Tensor, before: list[int], step: tuple[int, int], output: tuple[int, int]) -> Tensor:
    """Tiles of side 32 that advance by `step`: (N, rows, columns, C, 32, 32)."""
    grid = [-(-size // by) for size, by in zip(output, step, strict=True)]
    ends = [g * by + _TILE - by for g, by in zip(grid, step, strict=True)]
    after = [end - size - pad for end, size, pad in zip(ends, x.shape[2:], before, strict=True)]
    padded = F.pad(x, [before[1], after[1], before[0], after[0]])
    return padded.unfold(2, _TILE, step[0]).unfold(3, _TILE, step[1]).permute(0, 2, 3, 1, 4, 5)


def _tiled_correlation(x: Tensor, w: Tensor, before: list[int], output: tuple[int, int]) -> Tensor:
    step = (_TILE - w.shape[2] + 1, _TILE - w.shape[3] + 1)
    tiles = _overlapping(x, before, step, output)
    n, rows, columns = tiles.shape[:3]
    y = _correlate(tiles.flatten(0, 2), w, step).view(n, rows, columns, w.shape[0], *step)
    whole = y.permute(0, 3, 1, 4, 2, 5).reshape(n, w.shape[0], rows * step[0], columns * step[1])
    return whole[:, :, : output[0], : output[1]].contiguous()


def _tiled_forward(layer: Convolution, o: Operands) -> Tensor:
    return _with_bias(_tiled_correlation(o.x, o.w, list(layer.pad_before), _pair(layer.output)), o.b)


def _tiled_backward_data(layer: Convolution, o: Operands) -> Tensor:
    return _tiled_correlation(o.gy, _rotated(layer, o.w), _rotated_pad(layer), _pair(layer.input))


def _tiled_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    step = (_TILE - layer.kernel[0] + 1, _TILE - layer.kernel[1] + 1)
    tiles = _overlapping(o.x, list(layer.pad_before), step, _pair(layer.output))
    rows, columns = tiles.shape[1:3]
    padding = [0, columns * step[1] - layer.output[1], 0, rows * step[0] - layer.output[0]]
    gy = F.pad(o.gy, padding).unfold(2, step[0], step[0]).unfold(3, step[1], step[1])
    bias_gradient(layer, o)
    return _filter_gradient(tiles.flatten(0, 2), gy.permute(0, 2, 3, 1, 4, 5).flatten(0, 2), _pair(layer.kernel))


# Which applies where.


def _always(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    return True


def _onednn_computes(settings: Settings) -> bool:
    """Whether oneDNN has this precision on this CPU: bfloat16 needs AVX-512 or AVX-NE-CONVERT."""
    return settings.precision is Precision.FP32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _onednn_nchw_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    plain = settings.layout is Layout.NCHW and not layer.transposed and layer.symmetric
    return plain and _onednn_computes(settings)


def _onednn_nhwc_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    plain = settings.layout is Layout.CHANNELS_LAST and not layer.transposed and layer.symmetric
    return plain and len(layer.input) == 2 and _onednn_computes(settings)


def _convert_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    plane = _plane(layer, groups=True, stride=True, dilation=True)
    return settings.layout is Layout.NCHW and plane and _heap_safe(layer, phase) and _onednn_computes(settings)


def _rotated_onednn_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    return _rotated_applies(layer) and _onednn_computes(settings)


def _im2col_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    return _plain_fp32(settings) and _plane(layer, groups=True, stride=True)


def _fp32_plane_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    return _plain_fp32(settings) and _plane(layer, stride=True, dilation=True)


def _nnpack_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    within = all(pad < size for pad, size in zip(layer.pad_before, layer.kernel, strict=True))
    fits = _plain_fp32(settings) and _plane(layer, stride=True) and max(layer.kernel) <= 16 and within
    usable = fits and torch._nnpack_available() is True
    return usable and (phase is Phase.FORWARD or _rotated_applies(layer))


def _nnpack_forward(layer: Convolution, o: Operands) -> Tensor:
    return aten._nnpack_spatial_convolution(o.x, o.w, o.b, layer.pad_before, layer.stride)


def _nnpack_backward_data(layer: Convolution, o: Operands) -> Tensor:
    w = _rotated(layer, o.w).contiguous()
    return aten._nnpack_spatial_convolution(o.gy, w, None, _rotated_pad(layer), layer.stride)


def _three(forward: Call, backward_data: Call, backward_filter: Call) -> dict[Phase, Call]:
    return {Phase.FORWARD: forward, Phase.BACKWARD_DATA: backward_data, Phase.BACKWARD_FILTER: backward_filter}


CONVOLUTIONS: dict[str, CpuAlgorithm] = {
    "DEFAULT": CpuAlgorithm(applies=_always, calls=FRAMEWORK_CONVOLUTIONS),
    "ONEDNN_NCHW": CpuAlgorithm(applies=_onednn_nchw_applies, calls={Phase.FORWARD: _onednn_forward}),
    "ONEDNN_NHWC": CpuAlgorithm(applies=_onednn_nhwc_applies, calls={Phase.FORWARD: _onednn_forward}),
    "ONEDNN_NHWC_CVT": CpuAlgorithm(
        applies=_convert_applies, calls={phase: _through_channels_last(phase) for phase in Convolution.phases}
    ),
    "ONEDNN_ROT": CpuAlgorithm(applies=_rotated_onednn_applies, calls={Phase.BACKWARD_DATA: _onednn_rotated}),
    "GEMM_1X1": CpuAlgorithm(
        applies=_pointwise_applies,
        calls=_three(_pointwise_forward, _pointwise_backward_data, _pointwise_backward_filter),
    ),
    "IM2COL_GEMM": CpuAlgorithm(
        applies=_im2col_applies, calls={phase: _without_onednn(phase) for phase in Convolution.phases}
    ),
    "NNPACK": CpuAlgorithm(
        applies=_nnpack_applies,
        calls={Phase.FORWARD: _nnpack_forward, Phase.BACKWARD_DATA: _nnpack_backward_data},
    ),
    "DW_SHIFT": CpuAlgorithm(
        applies=_depthwise_applies,
        calls=_three(_depthwise_forward, _depthwise_backward_data, _depthwise_backward_filter),
    ),
    "EXPLICIT_GEMM": CpuAlgorithm(
        applies=_fp32_plane_applies,
        calls=_three(_explicit_forward, _explicit_backward_data, _explicit_backward_filter),
    ),
    "KN2ROW": CpuAlgorithm(
        applies=_fp32_plane_applies, calls=_three(_kn2row_forward, _kn2row_backward_data, _kn2row_backward_filter)
    ),
    "WINOGRAD_2X2": CpuAlgorithm(applies=_winograd_applies, calls=_winograd(2)),
    "WINOGRAD_4X4": CpuAlgorithm(applies=_winograd_applies, calls=_winograd(4)),
    "FFT": CpuAlgorithm(
        applies=lambda layer, phase, settings: _plain_fp32(settings) and _plane(layer, stride=True),
        calls=_three(_fft_forward, _fft_backward_data, _fft_backward_filter),
    ),
    "FFT_TILING": CpuAlgorithm(
        applies=_fft_tiling_applies, calls=_three(_tiled_forward, _tiled_backward_data, _tiled_backward_filter)
    ),
}
"""Every convolution algorithm of this backend, in the order in which they are worth trying."""
