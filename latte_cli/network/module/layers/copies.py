"""Layers that lay data elsewhere, or see it in another shape."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch model uses
from torch import Tensor, nn

from latte_cli.errors import LatteError
from latte_cli.layers import Concat, Copy, View
from latte_cli.network.module.layers.function import DTYPES, Attributes, Builders, Compute, Function, named, pads


def _concat(layer: Concat, attributes: Attributes) -> nn.Module:
    axis = layer.axis
    return Function(lambda *inputs: torch.cat(inputs, axis))


def _transpose(layer: Copy, attributes: Attributes) -> Compute:
    return lambda x: x.permute(layer.order).contiguous()


def _pad_or_crop(layer: Copy, attributes: Attributes) -> Compute:
    before = attributes.get("before", [0] * len(layer.shape))
    after = [out - size - first for size, out, first in zip(layer.shape, layer.output, before, strict=True)]
    mode: str = attributes.get("mode", "constant")
    mode = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    if mode == "constant":
        return partial(F.pad, pad=pads(before, after), value=attributes.get("value", 0.0))
    outer = next((axis for axis, pair in enumerate(zip(before, after, strict=True)) if any(pair)), 0)
    if outer < 2 or len(layer.shape) - outer > 3 or min(*before, *after) < 0:
        raise LatteError(f"a pad of {layer.shape} by {mode} cannot be run")
    return partial(F.pad, pad=pads(before[outer:], after[outer:]), mode=mode)


def _between_constants(layer: Copy, attributes: Attributes) -> Compute:
    """Parts with constants between them that hold one number each: those that are known, else zeros."""
    if "sizes" not in attributes:
        return _pad_or_crop(layer, attributes)
    axis, sizes, varying = attributes["axis"], attributes["sizes"], attributes["varying"]
    values = attributes.get("filled", (0.0,) * len(sizes))
    fixed = [at for at in range(len(sizes)) if at not in varying]
    joined = joining(attributes)

    def compute(x: Tensor) -> Tensor:
        shapes = [(*x.shape[:axis], sizes[at], *x.shape[axis + 1 :]) for at in fixed]
        return joined(x, *(x.new_full(shape, value) for shape, value in zip(shapes, values, strict=False)))

    return compute


def joining(attributes: Attributes) -> Compute:
    """Constants laid end to end with the parts of the input that go between them."""
    axis, sizes, varying = attributes["axis"], attributes["sizes"], attributes["varying"]
    own = [sizes[place] for place in varying]

    def compute(*operands: Tensor) -> Tensor:
        varied = iter(torch.split(operands[0], own, axis) if len(own) > 1 else operands[:1])
        fixed = iter(operands[1:])
        return torch.cat([next(varied) if at in varying else next(fixed) for at in range(len(sizes))], axis)

    return compute


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


def _cast(layer: Copy, attributes: Attributes) -> Compute:
    """Numbers as whole ones or truths, or as floating-point ones of the precision that the module has."""
    dtype = DTYPES.get(int(attributes.get("to", 1)), torch.float32)
    if dtype.is_floating_point:
        return lambda x: x.clone() if x.is_floating_point() else x.to(torch.get_default_dtype())
    return lambda x: x.to(dtype)


_COPIES: dict[str, Callable[[Copy, Attributes], Compute]] = {
    "transpose": _transpose,
    "pad": _pad_or_crop,
    "concat_constants": _between_constants,
    "slice": _slice,
    "split": _split,
    "gather": _gather,
    "expand": _expand,
    "tile": _tile,
    "resize": _resize,
    "depth_to_space": _depth_to_space,
    "space_to_depth": _space_to_depth,
    "trilu": _triangle,
    "cast": _cast,
}


def _copy(layer: Copy, attributes: Attributes) -> nn.Module:
    return Function(named("copy", layer.operation, _COPIES)(layer, attributes))


def _view(layer: View, attributes: Attributes) -> nn.Module:
    return Function(partial(torch.reshape, shape=layer.output))


BUILDERS: Builders = {Concat: _concat, Copy: _copy, View: _view}
