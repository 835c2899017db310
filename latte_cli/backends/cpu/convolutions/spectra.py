"""Products of spectra: a correlation is a product with the conjugate of the filter's spectrum."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from latte_cli.backends.cpu.convolutions.shared import (
    CpuAlgorithm,
    crop,
    is_plane,
    pair,
    plain_fp32,
    rotatable,
    rotate,
    rotated_pad,
    three,
    with_bias,
)
from latte_cli.backends.torch.layers import Operands, bias_gradient, pads
from latte_cli.layers import Convolution, Phase
from latte_cli.tasks import Settings

_TILE = 32
"""The side of a tile, as in cuDNN's FFT_TILING (its documentation of `cudnnConvolutionFwdAlgo_t`)."""


def _fft_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    return plain_fp32(settings) and is_plane(layer, stride=True)


def _fft_tiling_applies(layer: Convolution, phase: Phase, settings: Settings) -> bool:
    small = max(layer.kernel) <= _TILE // 2 and max(layer.output) > _TILE
    return plain_fp32(settings) and rotatable(layer) and is_plane(layer) and small


def _spectrum(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """(frequencies, first, second) of a (first, second, height, width) tensor."""
    return torch.fft.rfft2(tensor, s=size).flatten(2).permute(2, 0, 1)


def _correlate(x: Tensor, w: Tensor, output: tuple[int, int]) -> Tensor:
    """Valid correlation of (N, C, H, W) with (K, C, R, S): (N, K, *output)."""
    size = pair(tuple(x.shape[2:]))
    spectrum = torch.bmm(_spectrum(x, size), _spectrum(w, size).conj().transpose(1, 2))
    wide = spectrum.permute(1, 2, 0).reshape(x.shape[0], w.shape[0], size[0], size[1] // 2 + 1)
    return torch.fft.irfft2(wide, s=size)[:, :, : output[0], : output[1]].contiguous()


def _filter_gradient(x: Tensor, gy: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Valid correlation of x with gy, summed over the batch: (K, C, *kernel)."""
    size = pair(tuple(x.shape[2:]))
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
    whole = pair(tuple(size - k + 1 for size, k in zip(x.shape[2:], layer.kernel, strict=True)))
    y = _correlate(x, o.w, whole)
    (sh, sw), (p, q) = layer.stride, layer.output
    return with_bias(y[:, :, ::sh, ::sw][:, :, :p, :q].contiguous(), o.b)


def _fft_backward_data(layer: Convolution, o: Operands) -> Tensor:
    gy, (top, left) = _spread_gradient(layer, o.gy), layer.pad_before
    h, w = layer.input
    size = (h + 2 * top, w + 2 * left)
    spectrum = torch.bmm(_spectrum(gy, size), _spectrum(o.w, size))
    wide = spectrum.permute(1, 2, 0).reshape(layer.batch, layer.in_channels, size[0], size[1] // 2 + 1)
    return crop(layer, torch.fft.irfft2(wide, s=size))


def _fft_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    bias_gradient(layer, o)
    return _filter_gradient(F.pad(o.x, pads(layer)), _spread_gradient(layer, o.gy), pair(layer.kernel))


def _overlapping_tiles(x: Tensor, before: list[int], step: tuple[int, int], output: tuple[int, int]) -> Tensor:
    """Tiles of side 32 that advance by `step`: (N, rows, columns, C, 32, 32)."""
    grid = [-(-size // by) for size, by in zip(output, step, strict=True)]
    ends = [g * by + _TILE - by for g, by in zip(grid, step, strict=True)]
    after = [end - size - pad for end, size, pad in zip(ends, x.shape[2:], before, strict=True)]
    padded = F.pad(x, [before[1], after[1], before[0], after[0]])
    return padded.unfold(2, _TILE, step[0]).unfold(3, _TILE, step[1]).permute(0, 2, 3, 1, 4, 5)


def _tiled_correlation(x: Tensor, w: Tensor, before: list[int], output: tuple[int, int]) -> Tensor:
    step = (_TILE - w.shape[2] + 1, _TILE - w.shape[3] + 1)
    tiles = _overlapping_tiles(x, before, step, output)
    n, rows, columns = tiles.shape[:3]
    y = _correlate(tiles.flatten(0, 2), w, step).view(n, rows, columns, w.shape[0], *step)
    whole = y.permute(0, 3, 1, 4, 2, 5).reshape(n, w.shape[0], rows * step[0], columns * step[1])
    return whole[:, :, : output[0], : output[1]].contiguous()


def _tiled_forward(layer: Convolution, o: Operands) -> Tensor:
    return with_bias(_tiled_correlation(o.x, o.w, list(layer.pad_before), pair(layer.output)), o.b)


def _tiled_backward_data(layer: Convolution, o: Operands) -> Tensor:
    return _tiled_correlation(o.gy, rotate(layer, o.w), rotated_pad(layer), pair(layer.input))


def _tiled_backward_filter(layer: Convolution, o: Operands) -> Tensor:
    step = (_TILE - layer.kernel[0] + 1, _TILE - layer.kernel[1] + 1)
    tiles = _overlapping_tiles(o.x, list(layer.pad_before), step, pair(layer.output))
    rows, columns = tiles.shape[1:3]
    padding = [0, columns * step[1] - layer.output[1], 0, rows * step[0] - layer.output[0]]
    gy = F.pad(o.gy, padding).unfold(2, step[0], step[0]).unfold(3, step[1], step[1])
    bias_gradient(layer, o)
    return _filter_gradient(tiles.flatten(0, 2), gy.permute(0, 2, 3, 1, 4, 5).flatten(0, 2), pair(layer.kernel))


FFT = CpuAlgorithm(applies=_fft_applies, calls=three(_fft_forward, _fft_backward_data, _fft_backward_filter))
FFT_TILING = CpuAlgorithm(
    applies=_fft_tiling_applies, calls=three(_tiled_forward, _tiled_backward_data, _tiled_backward_filter)
)
