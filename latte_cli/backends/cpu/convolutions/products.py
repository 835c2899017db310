"""Matrix products: of the input's columns, made by torch or by us, and of 1x1 kernels."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from latte_cli.backends.cpu.convolutions.shared import (
    CpuAlgorithm,
    PhaseFunction,
    fp32_plane_applies,
    is_last,
    is_plane,
    plain_fp32,
    three,
)
from latte_cli.backends.torch.layers import FRAMEWORK_CONVOLUTIONS, Operands, aten, bias_gradient
from latte_cli.layers import Convolution, Phase
from latte_cli.tasks import Settings


def _im2col_forward(layer: Convolution, o: Operands) -> Tensor:
    return aten._slow_conv2d_forward(o.x, o.w, layer.kernel, o.b, layer.stride, layer.pad_before)


def _im2col_backward(layer: Convolution, o: Operands, mask: list[bool]) -> Tensor:
    grads = aten._slow_conv2d_backward.output_mask(o.gy, o.x, o.w, layer.kernel, layer.stride, layer.pad_before, mask)
    return grads[1] if mask[1] else grads[0]


def _without_onednn(phase: Phase) -> PhaseFunction:
    ungrouped: dict[Phase, PhaseFunction] = {
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
    return is_plane(layer, stride=True, dilation=True) and layer.kernel == (1, 1) and not any(layer.pad_before)


def _subsample(layer: Convolution, x: Tensor) -> Tensor:
    return x if layer.stride == (1, 1) else x[:, :, :: layer.stride[0], :: layer.stride[1]]


def _rows(tensor: Tensor) -> Tensor:
    """(N, C, P, Q) in channels_last order seen as (N P Q, C)."""
    return tensor.permute(0, 2, 3, 1).reshape(-1, tensor.shape[1])


def _pointwise_forward(layer: Convolution, o: Operands) -> Tensor:
    x, w = _subsample(layer, o.x), o.w.reshape(layer.out_channels, -1)
    n, p, q = x.shape[0], *layer.output
    if is_last(o.x):
        y = torch.mm(_rows(x), w.t()) if o.b is None else torch.addmm(o.b, _rows(x), w.t())
        return y.view(n, p, q, -1).permute(0, 3, 1, 2)
    y = torch.matmul(w, x.reshape(n, layer.in_channels, -1))
    if o.b is not None:
        y += o.b[:, None]
    return y.view(n, -1, p, q)


def _pointwise_backward_data(layer: Convolution, o: Operands) -> Tensor:
    w, n, (p, q) = o.w.reshape(layer.out_channels, -1), layer.batch, layer.output
    if is_last(o.gy):
        gx = torch.mm(_rows(o.gy), w).view(n, p, q, -1).permute(0, 3, 1, 2)
    else:
        gx = torch.matmul(w.t(), o.gy.view(n, layer.out_channels, -1)).view(n, -1, p, q)
    if layer.stride == (1, 1):
        return gx
    whole = torch.zeros_like(o.x)
    _subsample(layer, whole).copy_(gx)
    return whole


def _pointwise_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    x = _subsample(layer, o.x)
    bias_gradient(layer, o)
    if is_last(o.gy):
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


def _im2col_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    return plain_fp32(settings) and is_plane(layer, groups=True, stride=True)


GEMM_1X1 = CpuAlgorithm(
    applies=_pointwise_applies,
    calls=three(_pointwise_forward, _pointwise_backward_data, _pointwise_backward_filter),
)
IM2COL_GEMM = CpuAlgorithm(
    applies=_im2col_applies, calls={phase: _without_onednn(phase) for phase in Convolution.phases}
)
EXPLICIT_GEMM = CpuAlgorithm(
    applies=fp32_plane_applies, calls=three(_explicit_forward, _explicit_backward_data, _explicit_backward_filter)
)
