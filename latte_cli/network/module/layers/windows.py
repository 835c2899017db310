"""Layers that slide a window: convolutions and pools."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from torch import Tensor, nn

from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Pool
from latte_cli.network.module.layers.function import Attributes, Builders, Compute, Function, named, pads

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
        return nn.Sequential(module, Function(partial(F.pad, pad=[-size for size in pads(before, after)])))
    return nn.Sequential(Function(partial(F.pad, pad=pads(before, after))), module)


_POOLS: dict[str, tuple[Compute, ...]] = {
    "max": (F.max_pool1d, F.max_pool2d, F.max_pool3d),
    "average": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    "lp": tuple(partial(pool, norm_type=2.0) for pool in (F.lp_pool1d, F.lp_pool2d, F.lp_pool3d)),
}
_ADAPTIVE_POOLS: dict[str, tuple[Compute, ...]] = {
    "max": (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    "average": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}
"""Pooling over windows and, as models write it, to sizes or over the whole input; for 1 to 3 dimensions."""


def _lp_pool(x: Tensor, *, windows: Any, power: float, kernel_size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """ONNX takes the powers of absolute values; torch's pool over one dimension takes plain numbers."""
    sizes: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride}
    if len(kernel_size) == 1:
        sizes = {name: size[0] for name, size in sizes.items()}
    pooled: Tensor = windows.func(x.abs() if power % 2 else x, norm_type=power, **sizes)
    return pooled


def _pool(layer: Pool, attributes: Attributes) -> nn.Module:
    rank = len(layer.input) - 1
    windows = named("pooling", layer.function, _POOLS)[rank]
    if layer.function == "lp":
        windows = partial(_lp_pool, windows=windows, power=float(attributes.get("p", 2)))
    if layer.adaptive or (layer.whole and layer.function in _ADAPTIVE_POOLS):
        return Function(partial(_ADAPTIVE_POOLS[layer.function][rank], output_size=layer.adaptive or 1))
    sizes: dict[str, Any] = {"kernel_size": layer.kernel, "stride": layer.stride}
    if layer.function == "max":
        sizes["dilation"] = layer.dilation
    elif max(layer.dilation) > 1:
        raise LatteError(f"a dilated {layer.function} pool cannot be run", hint="only max pools have a dilation")
    if not layer.torch_pads:
        return _PaddedPool(layer, partial(windows, **sizes))
    if layer.function != "lp":
        sizes |= {"padding": layer.pad_before, "ceil_mode": layer.ceil}
    if layer.function == "average":
        sizes["count_include_pad"] = layer.count_padding
    return Function(partial(windows, **sizes))


class _PaddedPool(nn.Module):
    """A pool with separate padding, where torch's cannot express it.

    The input is padded (or cropped) to just what the windows read; an average is then corrected for the positions
    that do not count.
    """

    def __init__(self, layer: Pool, windows: Compute) -> None:
        super().__init__()
        after = [r - i - before for r, i, before in zip(layer.reach, layer.input, layer.pad_before, strict=True)]
        self.pad = pads(layer.pad_before, after)
        self.windows = windows
        self.value = float("-inf") if layer.function == "max" else 0.0
        self.scale: Tensor | None
        self.register_buffer("scale", self._correction(layer) if layer.function == "average" else None)

    def _correction(self, layer: Pool) -> Tensor:
        counted = torch.ones(1, 1, *layer.input)
        if layer.count_padding:
            counted = F.pad(counted, pads(layer.pad_before, layer.pad_after), value=1.0)
            after = [p - q for p, q in zip(self.pad[1::2], reversed(layer.pad_after), strict=True)]
            counted = F.pad(counted, [size for extra in after for size in (0, extra)])
        else:
            counted = F.pad(counted, self.pad)
        # a window that lies in the padding alone averages nothing: 0, as in ONNX Runtime
        return 1 / self.windows(counted).clamp(min=1 / (2 * prod(layer.kernel)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.windows(F.pad(x, self.pad, value=self.value))
        return y if self.scale is None else y * self.scale


BUILDERS: Builders = {Convolution: _convolution, Pool: _pool}
