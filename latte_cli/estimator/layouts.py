"""Layouts: how torch's operators take inputs that do not lie end to end, and how their results and gradients lie."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from latte_cli.layers import (
    INDEX_BYTES,
    Activation,
    Attention,
    Concat,
    Convolution,
    Copy,
    Dropout,
    Elementwise,
    Layer,
    Norm,
    Pool,
    Recurrent,
    Reduce,
    Shape,
    Softmax,
)


@dataclass(frozen=True, kw_only=True)
class LayoutNeeds:
    """What a layer needs of how its first input lies.

    With `channels_last` it also takes images, and volumes, whose channels lie next to each other, and writes such ones.
    It makes copies of others that lie end to end: one for its `forward` call and one for its `backward` call, or one
    that is `kept` between them instead of the input. With `gradient` it copies a gradient that lies otherwise than its
    output.
    """

    channels_last: bool = False
    forward: bool = False
    backward: bool = False
    kept: bool = False
    gradient: bool = False


_ANYHOW = LayoutNeeds()
_NORMS = {
    "layer": LayoutNeeds(forward=True, backward=True, gradient=True),
    "batch": LayoutNeeds(channels_last=True),
    "group": LayoutNeeds(channels_last=True, kept=True, gradient=True),
    "instance": LayoutNeeds(kept=True, gradient=True),
    "rms": LayoutNeeds(channels_last=True, forward=True),
}


def layout_needs(layer: Layer) -> LayoutNeeds:
    """How torch's operators on a CPU handle the inputs of a layer (torch 2.13; tests/test_layouts.py)."""
    match layer:
        case Convolution(input=input, transposed=transposed):
            copies = layer.symmetric or transposed  # what is padded on one side is a copy already
            return LayoutNeeds(channels_last=len(input) > 1, forward=copies, backward=copies, gradient=True)
        case Norm(function=function):
            return _NORMS.get(function, _ANYHOW)
        case Pool(input=input) if layer.adaptive:
            images = len(input) < 3
            return LayoutNeeds(channels_last=images, forward=images, gradient=True)
        case Pool(function=function, input=input) if not layer.whole or (function == "max" and len(input) < 3):
            images = function == "max" or len(input) < 3
            return LayoutNeeds(channels_last=images, forward=layer.torch_pads, gradient=True)
        case Softmax():
            return LayoutNeeds(forward=True, gradient=True)
        case Recurrent():
            return LayoutNeeds(kept=True)
        case Attention() if not layer.one_call((True,) * 3 + (layer.trained_mask,)):
            return LayoutNeeds(forward=True, kept=True)
        case Copy(operation="resize"):
            return LayoutNeeds(channels_last=True)
    return _ANYHOW


def runs_channels_last(layer: Layer, shape: Shape, strides: Strides) -> bool:
    """Whether the layer computes on an input whose channels lie next to each other as it lies."""
    if isinstance(layer, Pool) and len(shape) == 3:  # torch pools lines as images
        shape, strides = (*shape[:2], 1, shape[2]), (*strides[:2], shape[2] * strides[2], strides[2])
    return layout_needs(layer).channels_last and is_channels_last(shape, strides)


def is_ready(layer: Layer, shape: Shape, strides: Strides) -> bool:
    """Whether the layer computes on its first input without a copy in another layout."""
    if layout_needs(layer) == _ANYHOW:
        return True
    if isinstance(layer, Attention):  # its products take any layout whose batch and heads are one dimension
        return view_strides(shape, strides, (shape[0] * shape[1], *shape[2:])) is not None
    return _lies(shape, strides, runs_channels_last(layer, shape, strides))


def output_strides(layer: Layer, shapes: Sequence[Shape], strides: Sequence[Strides]) -> Strides:
    """How a new tensor lies that the layer makes of inputs of these shapes and strides."""
    new = layer.output_shape
    if _follows(layer):
        alike = (own for shape, own in zip(shapes, strides, strict=True) if shape == new and 0 not in own)
        return next((dense_strides(new, own) for own in alike), contiguous_strides(new))
    read = list(zip(shapes, strides, strict=True))
    if isinstance(layer, Concat) or _is_padding(layer):
        last = all(is_channels_last(*each) for each in read)
    else:
        last = bool(read) and runs_channels_last(layer, *read[0])
    return channels_last_strides(new) if last else contiguous_strides(new)


def gradient_strides(layer: Layer, shape: Shape, strides: Strides, arriving: Strides) -> Strides:
    """How the gradient of an input of that shape and strides lies, by the strides of the gradient that arrives."""
    new = layer.output_shape
    if isinstance(layer, Concat):
        return arriving  # a part of it
    if (_follows(layer) and shape == new) or _is_padding(layer):
        return dense_strides(shape, arriving)
    return channels_last_strides(shape) if runs_channels_last(layer, shape, strides) else contiguous_strides(shape)


def gradient_copies(layer: Layer, shape: Shape, strides: Strides, arriving: Strides) -> tuple[int, int]:
    """What a layer copies because the gradient that arrives lies otherwise than it needs: numbers, and bytes beside.

    A pool computes in the layout of that gradient, and copies its result, and the places of maxima, into the other.
    """
    new, last = layer.output_shape, runs_channels_last(layer, shape, strides)
    if not layout_needs(layer).gradient:
        return 0, 0
    if not isinstance(layer, Pool):
        return prod(new) * (not _lies(new, arriving, last)), 0
    other = is_channels_last(new, arriving) != last
    copied = prod(new) * (not _lies(new, arriving, last != other)) + prod(shape) * other
    return copied, INDEX_BYTES * prod(new) if other and layer.function == "max" else 0


def _lies(shape: Shape, strides: Strides, channels_last: bool) -> bool:
    return lies_as(shape, strides, (channels_last_strides if channels_last else contiguous_strides)(shape))


def _follows(layer: Layer) -> bool:
    """Whether it goes over its inputs number by number, in whichever order they lie."""
    match layer:
        case Activation() | Dropout() | Elementwise() | Copy(operation="cast") | Norm(function="lrn"):
            return True
        case Reduce(axes=axes):
            return not axes
    return False


def _is_padding(layer: Layer) -> bool:
    return isinstance(layer, Copy) and layer.operation == "pad"
