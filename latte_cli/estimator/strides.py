"""Strides: how many numbers apart neighbours lie in memory, dimension by dimension, as torch counts."""

from itertools import accumulate
from operator import mul
from typing import TypeAlias

from latte_cli.layers import Shape

Strides: TypeAlias = tuple[int, ...]
"""One number for each dimension; 0 where all neighbours are one number."""

_SPATIAL_RANKS = (4, 5)  # torch has a channels-last format for images and volumes


def contiguous_strides(shape: Shape) -> Strides:
    """The strides of a tensor that lies end to end."""
    return tuple(reversed(list(accumulate((1, *reversed(shape[1:])), mul)))) if shape else ()


def dense_strides(shape: Shape, like: Strides) -> Strides:
    """The strides of a new tensor whose dimensions lie in the order of those of another."""
    order = sorted(range(len(shape)), key=lambda axis: -like[axis])
    laid = dict(zip(order, contiguous_strides(tuple(shape[axis] for axis in order)), strict=True))
    return tuple(laid[axis] for axis in range(len(shape)))


def channels_last_strides(shape: Shape) -> Strides:
    """The strides of a new tensor whose channels, its second dimension, lie next to each other."""
    last = (shape[0], *shape[2:], shape[1])
    batch, *spatial, channels = contiguous_strides(last)
    return (batch, channels, *spatial)


def is_channels_last(shape: Shape, strides: Strides) -> bool:
    """Whether torch takes a tensor for one whose channels lie next to each other, though perhaps with gaps.

    From the channels over the last spatial dimension to the batch, strides reach over all that lies within. A tensor
    that lies end to end as well, such as images of one channel, is none.
    """
    if len(shape) not in _SPATIAL_RANKS or 0 in shape or not strides[1]:
        return False
    inside = 0
    for axis in (1, *range(len(shape) - 1, 1, -1)):
        if strides[axis] < inside:
            return False
        inside = strides[axis] * shape[axis]
    return strides[0] >= inside > strides[1]


def lies_as(shape: Shape, strides: Strides, wanted: Strides) -> bool:
    """Whether a tensor lies with the strides `wanted`, those of single numbers aside."""
    return all(size == 1 or own == other for size, own, other in zip(shape, strides, wanted, strict=True))


def view_strides(shape: Shape, strides: Strides, wanted: Shape) -> Strides | None:
    """The strides of the same data in the shape `wanted`; None where no view has them, so that torch copies."""
    if 0 in shape:
        return contiguous_strides(wanted)
    runs: list[tuple[int, int]] = []  # dimensions that lie end to end, as one size and one stride
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        joined = bool(runs) and runs[-1][1] == size * stride
        runs.append((size * runs.pop()[0], stride) if joined else (size, stride))
    found: list[int] = []
    next_stride = runs[-1][1] if runs else 1
    for size in reversed(wanted):
        if size == 1:
            found.append(next_stride)
        elif not runs or runs[-1][0] % size:
            return None
        else:
            count, stride = runs.pop()
            found.append(stride)
            next_stride = stride * size
            if count > size:
                runs.append((count // size, next_stride))
    return tuple(reversed(found))
