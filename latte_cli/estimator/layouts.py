"""Layouts: how torch's operators take inputs that do not lie end to end, and how their results and gradients lie."""

from collections.abc import Sequence
from math import prod

from latte_cli.estimator.strides import (
    Strides,
    channels_last_strides,
    contiguous_strides,
    dense_strides,
    is_channels_last,
    lies_as,
    view_strides,
)
from latte_cli.layers import INDEX_BYTES, Concat, Layer, Pool, Shape, StrideOrder


def runs_channels_last(layer: Layer, shape: Shape, strides: Strides) -> bool:
    """Whether the layer computes on an input whose channels lie next to each other as it lies."""
    if isinstance(layer, Pool) and len(shape) == 3:  # torch pools lines as images
        shape, strides = (*shape[:2], 1, shape[2]), (*strides[:2], shape[2] * strides[2], strides[2])
    return layer.layout_needs.channels_last and is_channels_last(shape, strides)


def is_ready(layer: Layer, shape: Shape, strides: Strides) -> bool:
    """Whether the layer computes on its first input without a copy in another layout."""
    needs = layer.layout_needs
    if not needs.copies:
        return True
    if needs.rows:
        return view_strides(shape, strides, (shape[0] * shape[1], *shape[2:])) is not None
    return _lies(shape, strides, runs_channels_last(layer, shape, strides))


def output_strides(layer: Layer, shapes: Sequence[Shape], strides: Sequence[Strides]) -> Strides:
    """How a new tensor lies that the layer makes of inputs of these shapes and strides."""
    new = layer.output_shape
    if layer.layout_needs.order is StrideOrder.AS_READ:
        alike = (own for shape, own in zip(shapes, strides, strict=True) if shape == new and 0 not in own)
        return next((dense_strides(new, own) for own in alike), contiguous_strides(new))
    read = list(zip(shapes, strides, strict=True))
    if layer.layout_needs.order is StrideOrder.AS_ALL_READ:
        last = all(is_channels_last(*each) for each in read)
    else:
        last = bool(read) and runs_channels_last(layer, *read[0])
    return channels_last_strides(new) if last else contiguous_strides(new)


def gradient_strides(layer: Layer, shape: Shape, strides: Strides, arriving: Strides) -> Strides:
    """How the gradient of an input of that shape and strides lies, by the strides of the gradient that arrives."""
    new = layer.output_shape
    if isinstance(layer, Concat):
        return arriving  # a part of it
    order = layer.layout_needs.order
    if order is StrideOrder.AS_ALL_READ or (order is StrideOrder.AS_READ and shape == new):
        return dense_strides(shape, arriving)
    return channels_last_strides(shape) if runs_channels_last(layer, shape, strides) else contiguous_strides(shape)


def gradient_copies(layer: Layer, shape: Shape, strides: Strides, arriving: Strides) -> tuple[int, int]:
    """What a layer copies because the gradient that arrives lies otherwise than it needs: numbers, and bytes beside.

    A pool computes in the layout of that gradient, and copies its result, and the places of maxima, into the other.
    """
    new, last = layer.output_shape, runs_channels_last(layer, shape, strides)
    if not layer.layout_needs.gradient:
        return 0, 0
    if not isinstance(layer, Pool):
        return prod(new) * (not _lies(new, arriving, last)), 0
    other = is_channels_last(new, arriving) != last
    copied = prod(new) * (not _lies(new, arriving, last != other)) + prod(shape) * other
    return copied, INDEX_BYTES * prod(new) if other and layer.function == "max" else 0


def _lies(shape: Shape, strides: Strides, channels_last: bool) -> bool:
    return lies_as(shape, strides, (channels_last_strides if channels_last else contiguous_strides)(shape))
