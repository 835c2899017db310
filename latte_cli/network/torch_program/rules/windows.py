"""Operators that slide a window, and those that resize or pad an image."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from latte_cli.errors import LatteError
from latte_cli.network.torch_program.program import Aten, Lowering, Rules


def _convolution(low: Lowering, op: Aten) -> object:
    x, weight = op.tensor("input", "self"), op.tensor("weight")
    rank = low.rank(weight) - 2
    attributes: dict[str, Any] = {
        "strides": op.integers("stride", rank, 1),
        "dilations": op.integers("dilation", rank, 1),
        "group": op.integer("groups", 1),
    }
    if isinstance(op.arguments.get("padding"), str):
        attributes["auto_pad"] = "VALID" if op.text("padding") == "valid" else "SAME_UPPER"
    else:
        attributes["pads"] = op.integers("padding", rank) * 2
    kind = "Conv"
    if op.kind.startswith("conv_transpose") or op.flag("transposed"):
        kind, attributes["output_padding"] = "ConvTranspose", op.integers("output_padding", rank)
    rest = [weight, op.optional("bias")]
    return _of_batch(low, op, x, rank, lambda x, *outputs: low.emit(kind, [x, *rest], *outputs, **attributes))


def _of_batch(low: Lowering, op: Aten, x: str, rank: int, compute: Callable[..., str]) -> str:
    """What `compute` makes of a batch of images with `rank` dimensions each; torch takes a single one as well."""
    if low.rank(x) != rank + 1:
        return compute(x, op.outputs[0])
    y = compute(low.emit("Unsqueeze", [x, low.constant([0])]))
    return low.emit("Squeeze", [y, low.constant([0])], op.outputs[0])


def _pool(low: Lowering, op: Aten, kind: str, rank: int) -> object:
    kernel = op.integers("kernel_size", rank)
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": op.integers("stride", rank) if op.arguments.get("stride") else kernel,
        "pads": op.integers("padding", rank) * 2,
        "ceil_mode": int(op.flag("ceil_mode")),
    }
    if kind == "MaxPool":
        attributes["dilations"] = op.integers("dilation", rank, 1)
    else:
        attributes["count_include_pad"] = int(op.flag("count_include_pad", default=True))
    return low.emit(kind, [op.tensor("self", "input")], *op.outputs, **attributes)


def _adaptive_pool(low: Lowering, op: Aten, function: str, rank: int) -> object:
    x, wanted = op.tensor("self", "input"), op.integers("output_size", rank)
    given = {"domain": "latte", "function": function, "output_size": wanted}
    return _of_batch(low, op, x, rank, lambda x, *outputs: low.emit("AdaptivePool", [x], *outputs, **given))


def _resized(low: Lowering, op: Aten, mode: str) -> object:
    x = op.tensor("self", "input")
    sizes = low.meta(op.outputs[0]).sizes
    if None in sizes[2:]:
        raise LatteError(f"`{op.target}` to a symbolic size is not known", hint="export it at a fixed image size")
    spatial = [size for size in sizes[2:] if size is not None]
    if 0 in spatial:
        raise LatteError(f"`{op.target}` makes an image of {spatial}", hint="larger inputs leave something of it")
    axes = list(range(2, len(sizes)))
    corners = op.flag("align_corners")
    rule = "align_corners" if corners else "asymmetric" if mode == "nearest" else "half_pixel"
    given = [x, "", "", low.constant(spatial)]
    return low.emit("Resize", given, op.outputs[0], mode=mode, axes=axes, coordinate_transformation_mode=rule)


def _padded(low: Lowering, op: Aten, mode: str = "constant") -> object:
    x = op.tensor("self", "input")
    mode = {"replicate": "edge", "circular": "wrap"}.get(op.text("mode", mode), op.text("mode", mode))
    pads, rank = op.integers("pad") or op.integers("padding"), low.rank(x)
    before, after = [0] * rank, [0] * rank
    for at in range(len(pads) // 2):
        before[rank - 1 - at], after[rank - 1 - at] = pads[2 * at], pads[2 * at + 1]
    value = op.number("value", 0.0)
    given = [x, low.constant([*before, *after])]
    if mode == "constant" and value:
        given.append(low.constant(value, np.float32))
    return low.emit("Pad", given, op.outputs[0], mode=mode)


RULES: Rules = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    **{f"max_pool{n}d": partial(_pool, kind="MaxPool", rank=n) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": partial(_pool, kind="MaxPool", rank=n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": partial(_pool, kind="AveragePool", rank=n) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": partial(_adaptive_pool, function="average", rank=n) for n in (1, 2, 3)},
    **{f"_adaptive_avg_pool{n}d": partial(_adaptive_pool, function="average", rank=n) for n in (2, 3)},
    **{f"adaptive_max_pool{n}d": partial(_adaptive_pool, function="max", rank=n) for n in (1, 2, 3)},
    **{f"upsample_nearest{n}d": partial(_resized, mode="nearest") for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": partial(_resized, mode="nearest") for n in (1, 2, 3)},
    **{name: partial(_resized, mode="linear") for name in ("upsample_linear1d", "upsample_bilinear2d")},
    **{name: partial(_resized, mode="linear") for name in ("upsample_trilinear3d", "_upsample_bilinear2d_aa")},
    **{name: partial(_resized, mode="cubic") for name in ("upsample_bicubic2d", "_upsample_bicubic2d_aa")},
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **{f"reflection_pad{n}d": partial(_padded, mode="reflect") for n in (1, 2, 3)},
    **{f"replication_pad{n}d": partial(_padded, mode="edge") for n in (1, 2, 3)},
}
