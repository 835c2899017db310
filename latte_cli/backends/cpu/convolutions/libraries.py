"""oneDNN and NNPACK, as torch brings them: told what to do."""

import torch
from torch import Tensor

from latte_cli.algorithms import corrupts_heap
from latte_cli.backends.cpu.convolutions.shared import (
    CpuAlgorithm,
    PhaseFunction,
    is_plane,
    plain_fp32,
    rotatable,
    rotate,
    rotated_pad,
)
from latte_cli.backends.torch.layers import FRAMEWORK_CONVOLUTIONS, Operands, aten
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Settings


def _onednn_forward(layer: Convolution, o: Operands) -> Tensor:
    return aten.mkldnn_convolution(o.x, o.w, o.b, layer.pad_before, layer.stride, layer.dilation, layer.groups)


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _through_channels_last(phase: Phase) -> PhaseFunction:
    def call(layer: Convolution, o: Operands) -> Tensor:
        there = Operands(x=_last(o.x), w=_last(o.w), b=o.b, gy=_last(o.gy) if phase is not Phase.FORWARD else o.gy)
        inner = _onednn_forward if phase is Phase.FORWARD else FRAMEWORK_CONVOLUTIONS[phase]
        return inner(layer, there).contiguous()

    return call


def _heap_safe(layer: Convolution, phase: Phase) -> bool:
    """Whether oneDNN's channels_last kernels may run it."""
    return not (phase is Phase.BACKWARD_FILTER and corrupts_heap(layer))


def _onednn_rotated(layer: Convolution, o: Operands) -> Tensor:
    w = rotate(layer, o.w).contiguous(
        memory_format=torch.channels_last
        if o.gy.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    return aten.mkldnn_convolution(o.gy, w, None, rotated_pad(layer), layer.stride, layer.dilation, layer.groups)


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
    plane = is_plane(layer, groups=True, stride=True, dilation=True)
    return settings.layout is Layout.NCHW and plane and _heap_safe(layer, phase) and _onednn_computes(settings)


def _rotated_onednn_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    return rotatable(layer) and _onednn_computes(settings)


def _nnpack_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    within = all(pad < size for pad, size in zip(layer.pad_before, layer.kernel, strict=True))
    # NNPACK takes kernels of up to 16x16 (aten/src/ATen/native/Convolution.cpp, `use_nnpack`).
    fits = plain_fp32(settings) and is_plane(layer, stride=True) and max(layer.kernel) <= 16 and within
    usable = fits and torch._nnpack_available() is True
    return usable and (phase is Phase.FORWARD or rotatable(layer))


def _nnpack_forward(layer: Convolution, o: Operands) -> Tensor:
    return aten._nnpack_spatial_convolution(o.x, o.w, o.b, layer.pad_before, layer.stride)


def _nnpack_backward_data(layer: Convolution, o: Operands) -> Tensor:
    w = rotate(layer, o.w).contiguous()
    return aten._nnpack_spatial_convolution(o.gy, w, None, rotated_pad(layer), layer.stride)


ONEDNN_NCHW = CpuAlgorithm(applies=_onednn_nchw_applies, calls={Phase.FORWARD: _onednn_forward})
ONEDNN_NHWC = CpuAlgorithm(applies=_onednn_nhwc_applies, calls={Phase.FORWARD: _onednn_forward})
ONEDNN_NHWC_CVT = CpuAlgorithm(
    applies=_convert_applies, calls={phase: _through_channels_last(phase) for phase in Convolution.phases}
)
ONEDNN_ROT = CpuAlgorithm(applies=_rotated_onednn_applies, calls={Phase.BACKWARD_DATA: _onednn_rotated})
NNPACK = CpuAlgorithm(
    applies=_nnpack_applies, calls={Phase.FORWARD: _nnpack_forward, Phase.BACKWARD_DATA: _nnpack_backward_data}
)
