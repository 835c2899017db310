"""Geometry: a layer's tensors as oneDNN sees them, their sizes and where torch has put their elements."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod

from latte_cli.backends.contract import Unsupported
from latte_cli.backends.native.strides import strides
from latte_cli.layers import Convolution, Phase, Shape
from latte_cli.precisions import Layout

LARGEST = 2**31 - 1
"""The most elements of a tensor, and the largest number that describes a layer: kernels count in 32 bits."""


@dataclass(frozen=True, kw_only=True)
class PlacedTensor:
    """A tensor's sizes, and how many elements lie between neighbours in each dimension."""

    sizes: Shape
    strides: Shape


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A convolution from `src` to `dst`; `weights` have their groups as a separate dimension, if any.

    `dilations` count the elements that are passed over, so that 0 is an ordinary kernel.
    """

    src: PlacedTensor
    weights: PlacedTensor
    dst: PlacedTensor
    bias: PlacedTensor | None
    strides: Shape
    dilations: Shape
    pad_before: Shape
    pad_after: Shape


def geometry(layer: Convolution, phase: Phase, layout: Layout) -> Geometry:
    """`layer` as the convolution that computes `phase`; a transposed one has its input and output swapped.

    The bias belongs to the forward pass alone. Raises Unsupported for a phase that no convolution has, a tensor of
    2**31 or more elements, or a number as large.
    """
    if phase not in layer.phases:
        raise Unsupported(f"a convolution has no phase {phase}")
    src, dst = layer.input_shapes[0], layer.output_shape
    if layer.transposed:
        src, dst = dst, src
    _check(layer, (src, dst, layer.weight_shape))
    biased = layer.bias and phase is Phase.FORWARD and not layer.transposed
    return Geometry(
        src=dense_tensor(src, layout),
        weights=_group(dense_tensor(layer.weight_shape, layout), layer.groups),
        dst=dense_tensor(dst, layout),
        bias=dense_tensor((layer.out_channels,), Layout.NCHW) if biased else None,
        strides=layer.stride,
        dilations=tuple(step - 1 for step in layer.dilation),
        pad_before=layer.pad_before,
        pad_after=layer.pad_after,
    )


def dense_tensor(shape: Shape, layout: Layout) -> PlacedTensor:
    """A dense tensor as torch lays it out."""
    return PlacedTensor(sizes=shape, strides=strides(shape, layout))


def _group(weights: PlacedTensor, groups: int) -> PlacedTensor:
    if groups == 1:
        return weights
    (out, *sizes), (step, *strides) = weights.sizes, weights.strides
    each = out // groups
    return PlacedTensor(sizes=(groups, each, *sizes), strides=(each * step, step, *strides))


def _check(layer: Convolution, shapes: Sequence[Shape]) -> None:
    for shape in shapes:
        if prod(shape) > LARGEST:
            raise Unsupported(f"oneDNN is given no tensor of 2**31 or more elements, such as {shape}")
    for value in chain(layer.pad_before, layer.pad_after, layer.stride, layer.dilation, layer.kernel):
        if value > LARGEST:
            raise Unsupported(f"oneDNN is given no number as large as {value}")
