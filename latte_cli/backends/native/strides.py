"""Strides: where torch puts the elements of a dense tensor."""

from collections.abc import Sequence
from itertools import accumulate

from latte_cli.layers import Shape
from latte_cli.precisions import Layout


def strides(shape: Shape, layout: Layout) -> Shape:
    """How many elements lie between neighbours in each dimension of a dense tensor as torch lays it out.

    Channels come last in two and three spatial dimensions where requested.
    """
    if layout is Layout.CHANNELS_LAST and len(shape) in (4, 5):
        batch, *spatial, channel = _dense((shape[0], *shape[2:], shape[1]))
        return (batch, channel, *spatial)
    return _dense(shape)


def _dense(shape: Sequence[int]) -> Shape:
    return tuple(accumulate(reversed(shape[1:]), lambda product, size: product * size, initial=1))[::-1]
