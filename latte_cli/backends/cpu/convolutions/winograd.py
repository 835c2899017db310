"""Winograd's minimal filtering F(m x m, 3 x 3) (Lavin and Gray, 2016), and its transpose for the filter's gradient."""

from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from latte_cli.backends.cpu.convolutions.shared import (
    CpuAlgorithm,
    PhaseFunction,
    is_plane,
    pair,
    plain_fp32,
    rotate,
    rotated_pad,
    with_bias,
)
from latte_cli.backends.torch.layers import Operands, bias_gradient
from latte_cli.layers import Convolution, Phase
from latte_cli.tasks import Settings

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
    return plain_fp32(settings) and is_plane(layer) and layer.kernel == (3, 3) and max(layer.pad_before) <= 2


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
    (p, q), pad = pair(layer.output), pair(layer.pad_before)
    rows, columns = -(-p // m), -(-q // m)
    gy = F.pad(o.gy, [0, columns * m - q, 0, rows * m - p]).unfold(2, m, m).unfold(3, m, m)
    moved = (at.t() @ gy @ at).permute(4, 5, 1, 0, 2, 3).reshape((m + 2) ** 2, layer.out_channels, -1)
    product_ = torch.bmm(moved, _winograd_input(o.x, m, (p, q), pad).transpose(1, 2))
    spread = product_.view(m + 2, m + 2, layer.out_channels, layer.in_channels).permute(2, 3, 0, 1)
    bias_gradient(layer, o)
    return g.t() @ spread @ g


def _winograd(m: int) -> dict[Phase, PhaseFunction]:
    def forward(layer: Convolution, o: Operands) -> Tensor:
        y = _winograd_convolution(o.x, o.w, m, pair(layer.output), pair(layer.pad_before))
        return with_bias(y, o.b)

    def backward_data(layer: Convolution, o: Operands) -> Tensor:
        pad = rotated_pad(layer)
        return _winograd_convolution(o.gy, rotate(layer, o.w), m, pair(layer.input), (pad[0], pad[1]))

    return {
        Phase.FORWARD: forward,
        Phase.BACKWARD_DATA: backward_data,
        Phase.BACKWARD_FILTER: lambda layer, o: _winograd_filter_gradient(layer, o, m),
    }


WINOGRAD_2X2 = CpuAlgorithm(applies=_winograd_applies, calls=_winograd(2))
WINOGRAD_4X4 = CpuAlgorithm(applies=_winograd_applies, calls=_winograd(4))
