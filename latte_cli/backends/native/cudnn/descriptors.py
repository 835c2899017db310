"""Descriptors: tensors, filters and convolutions as cuDNN knows them, destroyed when their `with` block ends."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import Array, byref, c_int, c_void_p
from typing import TypeAlias

from latte_cli.backends.native.cudnn.library import Library
from latte_cli.backends.native.cudnn.signatures import DataType, Math, Mode, TensorFormat
from latte_cli.precisions import Layout, Precision

Descriptor: TypeAlias = c_void_p

_DATA_TYPES = {"float32": DataType.FLOAT, "float16": DataType.HALF, "bfloat16": DataType.BFLOAT16}
DATA_TYPES: dict[Precision, DataType] = {
    one: _DATA_TYPES[one.arithmetic.activations] for one in Precision if one.arithmetic.activations in _DATA_TYPES
}
"""What an element of a convolution's tensors is."""

MATH_TYPES: dict[Precision, Math] = {
    one: Math.TENSOR_OP if kind is not DataType.FLOAT else Math.DEFAULT if one.arithmetic.tf32 else Math.FMA
    for one, kind in DATA_TYPES.items()
}
"""The math type that lets a convolution compute in the requested precision: FMA forbids TF32, DEFAULT allows it."""

FORMATS: dict[Layout, TensorFormat] = {Layout.NCHW: TensorFormat.NCHW, Layout.CHANNELS_LAST: TensorFormat.NHWC}
"""How cuDNN names a layout."""


@contextmanager
def tensor_descriptor(
    library: Library, shape: Sequence[int], precision: Precision, layout: Layout
) -> Iterator[Descriptor]:
    """A tensor of `shape`, (batch, channels, *spatial) with two or more spatial dimensions, whatever its layout.

    Raises Unsupported for sizes that cuDNN refuses, as do the others.
    """
    data_type, form = DATA_TYPES[precision], FORMATS[layout]
    with _create(library, "Tensor") as made:
        if len(shape) == 4:
            library.call("cudnnSetTensor4dDescriptor", made, form, data_type, *shape)
        else:
            library.call("cudnnSetTensorNdDescriptorEx", made, form, data_type, len(shape), integers(shape))
        yield made


@contextmanager
def filter_(library: Library, shape: Sequence[int], precision: Precision, layout: Layout) -> Iterator[Descriptor]:
    """A filter of `shape`, (out channels, in channels of a group, *kernel), whatever its layout."""
    data_type, form = DATA_TYPES[precision], FORMATS[layout]
    with _create(library, "Filter") as made:
        if len(shape) == 4:
            library.call("cudnnSetFilter4dDescriptor", made, data_type, form, *shape)
        else:
            library.call("cudnnSetFilterNdDescriptor", made, data_type, form, len(shape), integers(shape))
        yield made


@contextmanager
def convolution(
    library: Library,
    precision: Precision,
    *,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Iterator[Descriptor]:
    """A cross-correlation that accumulates in 32-bit floats, `padding` elements on each side."""
    how = (Mode.CROSS_CORRELATION, DataType.FLOAT)
    with _create(library, "Convolution") as made:
        if len(padding) == 2:
            library.call("cudnnSetConvolution2dDescriptor", made, *padding, *stride, *dilation, *how)
        else:
            sizes = (integers(padding), integers(stride), integers(dilation))
            library.call("cudnnSetConvolutionNdDescriptor", made, len(padding), *sizes, *how)
        library.call("cudnnSetConvolutionGroupCount", made, groups)
        library.call("cudnnSetConvolutionMathType", made, MATH_TYPES[precision])
        yield made


def integers(values: Sequence[int]) -> Array[c_int]:
    """A C array of `values`."""
    return (c_int * len(values))(*values)


@contextmanager
def _create(library: Library, kind: str) -> Iterator[Descriptor]:
    made = c_void_p()
    library.call(f"cudnnCreate{kind}Descriptor", byref(made))
    try:
        yield made
    finally:
        library.call(f"cudnnDestroy{kind}Descriptor", made)
