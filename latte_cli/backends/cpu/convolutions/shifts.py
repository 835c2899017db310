"""Shifts: one shifted view of the input for each position of the kernel."""

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from latte_cli.backends.cpu.convolutions.shared import (
    CpuAlgorithm,
    crop,
    fp32_plane_applies,
    is_last,
    is_plane,
    three,
    zeros_padded,
)
from latte_cli.backends.torch.layers import Operands, bias_gradient, pads
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Precision
from latte_cli.tasks import Settings


def _shifts(layer: Convolution, padded: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    (sh, sw), (dh, dw), (p, q) = layer.stride, layer.dilation, layer.output
    for r, s in product(range(layer.kernel[0]), range(layer.kernel[1])):
        rows = slice(r * dh, r * dh + (p - 1) * sh + 1, sh)
        yield r, s, padded[:, :, rows, s * dw : s * dw + (q - 1) * sw + 1 : sw]


def _kn2row_forward(layer: Convolution, o: Operands) -> Tensor:
    y = o.x.new_zeros(layer.batch, layer.out_channels, layer.output[0] * layer.output[1])
    for r, s, view in _shifts(layer, F.pad(o.x, pads(layer))):
        y += torch.matmul(o.w[:, :, r, s], view.reshape(layer.batch, layer.in_channels, -1))
    if o.b is not None:
        y += o.b[:, None]
    return y.view(layer.output_shape)


def _kn2row_backward_data(layer: Convolution, o: Operands) -> Tensor:
    padded, gy = zeros_padded(layer, o.gy), o.gy.flatten(2)
    for r, s, view in _shifts(layer, padded):
        view += torch.matmul(o.w[:, :, r, s].t(), gy).view_as(view)
    return crop(layer, padded)


def _kn2row_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    bias_gradient(layer, o)
    gw, gy = torch.empty_like(o.w), o.gy.flatten(2)
    for r, s, view in _shifts(layer, F.pad(o.x, pads(layer))):
        columns = view.reshape(layer.batch, layer.in_channels, -1).transpose(1, 2)
        gw[:, :, r, s] = torch.bmm(gy, columns).sum(0)
    return gw


def _depthwise_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    fp32 = settings.precision is Precision.FP32
    return fp32 and is_plane(layer, groups=True, stride=True, dilation=True) and layer.depthwise


def _depthwise_forward(layer: Convolution, o: Operands) -> Tensor:
    form = torch.channels_last if is_last(o.x) else torch.contiguous_format
    y = torch.empty(layer.output_shape, dtype=o.x.dtype, memory_format=form).zero_()
    for r, s, view in _shifts(layer, F.pad(o.x, pads(layer))):
        y.addcmul_(view, o.w[:, 0, r, s][:, None, None])
    return y if o.b is None else y.add_(o.b[:, None, None])


def _depthwise_backward_data(layer: Convolution, o: Operands) -> Tensor:
    padded = zeros_padded(layer, o.gy)
    for r, s, view in _shifts(layer, padded):
        view.addcmul_(o.gy, o.w[:, 0, r, s][:, None, None])
    return crop(layer, padded)


def _depthwise_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    bias_gradient(layer, o)
    gw = torch.empty_like(o.w)
    for r, s, view in _shifts(layer, F.pad(o.x, pads(layer))):
        gw[:, 0, r, s] = (o.gy * view).sum((0, 2, 3))
    return gw


DW_SHIFT = CpuAlgorithm(
    applies=_depthwise_applies,
    calls=three(_depthwise_forward, _depthwise_backward_data, _depthwise_backward_filter),
)
KN2ROW = CpuAlgorithm(
    applies=fp32_plane_applies, calls=three(_kn2row_forward, _kn2row_backward_data, _kn2row_backward_filter)
)
