"""What several algorithms share: which layers are ordinary ones, the filter turned round, padding, bias."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from latte_cli.backends.torch.layers import ConvolutionCall
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Settings

PhaseFunction: TypeAlias = ConvolutionCall
Applicability: TypeAlias = Callable[[Convolution, Phase, Settings], bool]


@dataclass(frozen=True, kw_only=True)
class CpuAlgorithm:
    """One algorithm: `applies` says for which layer, phase and settings, `calls` computes a phase's result."""

    applies: Applicability
    calls: dict[Phase, PhaseFunction]


def is_plane(layer: Convolution, **without: bool) -> bool:
    """Whether it is an ordinary 2-D convolution, in the respects that are not waived."""
    return (
        len(layer.input) == 2
        and not layer.transposed
        and layer.symmetric
        and (layer.groups == 1 or "groups" in without)
        and (layer.dilation == (1, 1) or "dilation" in without)
        and (layer.stride == (1, 1) or "stride" in without)
    )


def plain_fp32(settings: Settings) -> bool:
    """Whether it is 32-bit arithmetic on tensors that lie channels first."""
    return settings.precision is Precision.FP32 and settings.layout is Layout.NCHW


def three(
    forward: PhaseFunction, backward_data: PhaseFunction, backward_filter: PhaseFunction
) -> dict[Phase, PhaseFunction]:
    """The calls by their phases."""
    return {Phase.FORWARD: forward, Phase.BACKWARD_DATA: backward_data, Phase.BACKWARD_FILTER: backward_filter}


def rotate(layer: Convolution, w: Tensor) -> Tensor:
    """The filter turned by 180 degrees with input and output channels exchanged: (C, K/g, R, S)."""
    g = layer.groups
    split = w.view(g, layer.out_channels // g, layer.in_channels // g, *layer.kernel)
    return split.transpose(1, 2).reshape(layer.in_channels, layer.out_channels // g, *layer.kernel).flip(2, 3)


def rotated_pad(layer: Convolution) -> list[int]:
    """The padding with which the rotated filter makes the input's gradient of the output's."""
    return [d * (k - 1) - p for k, p, d in zip(layer.kernel, layer.pad_before, layer.dilation, strict=True)]


def rotatable(layer: Convolution) -> bool:
    """Whether the input's gradient is a convolution by the rotated filter."""
    return is_plane(layer, groups=True, dilation=True) and min(rotated_pad(layer)) >= 0


def is_last(tensor: Tensor) -> bool:
    """Whether it lies channels last, and not channels first as well."""
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def crop(layer: Convolution, padded: Tensor) -> Tensor:
    """The input's part of its padded form."""
    (top, left), (h, w) = layer.pad_before, layer.input
    return padded[:, :, top : top + h, left : left + w].contiguous()


def zeros_padded(layer: Convolution, like: Tensor) -> Tensor:
    """Zeros in the shape of the padded input, of the type of `like`."""
    h, w = (i + b + a for i, b, a in zip(layer.input, layer.pad_before, layer.pad_after, strict=True))
    return like.new_zeros(layer.batch, layer.in_channels, h, w)


def pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    """The two sizes of a plane."""
    return sizes[0], sizes[1]


def with_bias(y: Tensor, b: Tensor | None) -> Tensor:
    """`y` with the bias added in place."""
    return y if b is None else y.add_(b[:, None, None])


def fp32_plane_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    """The rule of what computes ordinary 2-D convolutions, strided and dilated ones too, in plain fp32."""
    return plain_fp32(settings) and is_plane(layer, stride=True, dilation=True)
