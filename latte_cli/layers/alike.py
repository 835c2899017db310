"""Which layers are alike: what decides their algorithms, and what neighbours share that differ in one size."""

from collections.abc import Hashable
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypeAlias

from latte_cli.layers import Convolution, Layer

LayerSizes: TypeAlias = tuple[int, ...]

_SCALING = frozenset(
    (
        *("batch", "in_channels", "out_channels", "channels", "rows", "in_features", "out_features", "classes"),
        *("m", "k", "n", "shape", "shapes", "output", "elements"),
    )
)


def has_layout(layer: Layer) -> bool:
    """Whether the memory layout means anything to the layer: it has a tensor with spatial dimensions."""
    return any(len(shape) >= 3 for shape in (*layer.input_shapes, layer.output_shape))


@lru_cache(maxsize=65536)
def sort(layer: Layer) -> Hashable:
    """What decides which algorithms can run a layer, whatever its sizes."""
    if not isinstance(layer, Convolution):
        return layer.kind
    groups = "depthwise" if layer.depthwise else "grouped" if layer.groups > 1 else "dense"
    unit = (set(layer.kernel) == {1}, set(layer.stride) == {1}, set(layer.dilation) == {1})
    return (layer.kind, len(layer.input), layer.transposed, layer.symmetric, groups, *unit)


@lru_cache(maxsize=65536)
def frame_of(layer: Layer) -> tuple[Hashable, LayerSizes]:
    """A layer as what must be equal between neighbours, and the sizes of which one may differ."""
    frame: list[Hashable] = [layer.kind]
    sizes: list[int] = []
    depthwise = isinstance(layer, Convolution) and layer.depthwise
    for field in fields(layer):
        value = getattr(layer, field.name)
        if field.name in _SCALING or (field.name == "groups" and depthwise):
            before = len(sizes)
            sizes += _flat(value)
            frame.append(len(sizes) - before)
        else:
            frame.append(value)
    return (*frame, depthwise), tuple(sizes)


def _flat(value: Any) -> list[int]:
    return [number for item in value for number in _flat(item)] if isinstance(value, tuple) else [value]
