"""Descriptors of the real cuDNN hold what they were given, and are destroyed whatever happens; no GPU is needed."""

import ctypes
from collections.abc import Callable
from ctypes import Array, byref, c_int, c_size_t
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.backends.contract import Unsupported
from latte_cli.backends.native.cudnn import Library
from latte_cli.backends.native.cudnn.descriptors import (
    DATA_TYPES,
    FORMATS,
    MATH_TYPES,
    convolution,
    filter_,
    tensor_descriptor,
)
from latte_cli.backends.native.cudnn.signatures import DataType, Math, Mode
from latte_cli.precisions import Layout, Precision

pytest_plugins = ["cudnn_libraries"]

SIZES = st.lists(st.integers(1, 40), min_size=4, max_size=5)


def numbers(count: int) -> list[c_int]:
    return [c_int() for _ in range(count)]


def strides(shape: list[int], layout: Layout) -> list[int]:
    """What an element's step along each dimension is in a dense tensor."""
    order = list(range(len(shape)))
    if layout is Layout.CHANNELS_LAST:
        order = [0, *order[2:], 1]
    return [prod(shape[later] for later in order[order.index(axis) + 1 :]) for axis in range(len(shape))]


@given(shape=SIZES, precision=st.sampled_from(Precision), layout=st.sampled_from(Layout))
def test_a_tensor_has_the_type_shape_and_strides_it_was_given(
    cudnn: Library, shape: list[int], precision: Precision, layout: Layout
) -> None:
    data_type, rank, bytes_ = c_int(), c_int(), c_size_t()
    dims, steps = (c_int * 5)(), (c_int * 5)()
    with tensor_descriptor(cudnn, shape, precision, layout) as made:
        cudnn.call("cudnnGetTensorNdDescriptor", made, 5, byref(data_type), byref(rank), dims, steps)
        cudnn.call("cudnnGetTensorSizeInBytes", made, byref(bytes_))
    assert (data_type.value, rank.value) == (DATA_TYPES[precision], len(shape))
    assert dims[: len(shape)] == shape
    assert steps[: len(shape)] == strides(shape, layout)
    assert bytes_.value == prod(shape) * precision.element_bytes


@pytest.mark.parametrize("layout", Layout)
def test_a_flat_tensor_reads_back_by_the_4d_call(cudnn: Library, layout: Layout) -> None:
    shape, parts = [2, 3, 5, 7], numbers(9)
    with tensor_descriptor(cudnn, shape, Precision.FP16, layout) as made:
        cudnn.call("cudnnGetTensor4dDescriptor", made, *map(byref, parts))
    assert [part.value for part in parts] == [DataType.HALF, *shape, *strides(shape, layout)]


@given(shape=SIZES, precision=st.sampled_from(Precision), layout=st.sampled_from(Layout))
def test_a_filter_has_the_type_layout_and_shape_it_was_given(
    cudnn: Library, shape: list[int], precision: Precision, layout: Layout
) -> None:
    data_type, form, rank = numbers(3)
    dims = (c_int * 5)()
    with filter_(cudnn, shape, precision, layout) as made:
        cudnn.call("cudnnGetFilterNdDescriptor", made, 5, byref(data_type), byref(form), byref(rank), dims)
    assert (data_type.value, form.value, rank.value) == (DATA_TYPES[precision], FORMATS[layout], len(shape))
    assert dims[: len(shape)] == shape


@given(
    rank=st.integers(2, 3),
    data=st.data(),
    groups=st.integers(1, 64),
    precision=st.sampled_from(Precision),
)
def test_a_convolution_has_the_numbers_it_was_given(
    cudnn: Library, rank: int, data: st.DataObject, groups: int, precision: Precision
) -> None:
    padding, stride, dilation = (
        data.draw(st.lists(st.integers(least, 9), min_size=rank, max_size=rank)) for least in (0, 1, 1)
    )
    found, mode, compute, math, count = numbers(5)
    arrays: list[Array[c_int]] = [(c_int * 3)() for _ in range(3)]
    with convolution(cudnn, precision, padding=padding, stride=stride, dilation=dilation, groups=groups) as made:
        outs = (byref(found), *arrays, byref(mode), byref(compute))
        cudnn.call("cudnnGetConvolutionNdDescriptor", made, 3 if rank == 3 else 2, *outs)
        cudnn.call("cudnnGetConvolutionMathType", made, byref(math))
        cudnn.call("cudnnGetConvolutionGroupCount", made, byref(count))
    assert found.value == rank
    assert [array[:rank] for array in arrays] == [padding, stride, dilation]
    assert (mode.value, compute.value) == (Mode.CROSS_CORRELATION, DataType.FLOAT)
    assert (math.value, count.value) == (MATH_TYPES[precision], groups)


def test_only_what_was_asked_for_may_compute_in_less() -> None:
    assert MATH_TYPES[Precision.FP32] is Math.FMA
    assert MATH_TYPES[Precision.TF32] is Math.DEFAULT
    assert {MATH_TYPES[precision] for precision in Precision if precision.element_bytes == 2} == {Math.TENSOR_OP}
    assert set(MATH_TYPES) == set(DATA_TYPES) == set(Precision)


@pytest.mark.parametrize("shape", [(2, 1, 2**15, 2**15), (1, 2, 2**10, 2**10, 2**10)])
def test_cudnn_itself_refuses_a_tensor_of_2_to_31_elements(cudnn: Library, shape: tuple[int, ...]) -> None:
    with (
        pytest.raises(Unsupported, match=r"^cudnnSetTensor.*: CUDNN_STATUS_"),
        tensor_descriptor(cudnn, shape, Precision.FP32, Layout.NCHW),
    ):
        pass
    with tensor_descriptor(cudnn, (*shape[:-1], shape[-1] - 1), Precision.FP32, Layout.NCHW):
        pass


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc 2.33 and later tells its heap")
def test_descriptors_are_destroyed_also_after_an_error(cudnn: Library) -> None:
    def refused() -> None:
        with pytest.raises(Unsupported), tensor_descriptor(cudnn, (0, 1, 1, 1), Precision.FP32, Layout.NCHW):
            pass

    def broken() -> None:
        with (
            pytest.raises(KeyError),
            tensor_descriptor(cudnn, (1, 1, 1, 1), Precision.FP32, Layout.NCHW),
            filter_(cudnn, (1, 1, 1, 1), Precision.FP32, Layout.NCHW),
            convolution(cudnn, Precision.FP32, padding=(0, 0), stride=(1, 1), dilation=(1, 1)),
        ):
            raise KeyError

    made = ctypes.c_void_p()
    kept = heap_bytes_of(lambda: cudnn.call("cudnnCreateTensorDescriptor", byref(made)), times=500)
    assert kept > 500 * 64  # what a descriptor takes shows, so that a leak would
    for used in (refused, broken):
        assert heap_bytes_of(used, times=500) < kept / 5


class _Heap(ctypes.Structure):
    _fields_ = (("others", c_size_t * 7), ("used", c_size_t), ("rest", c_size_t * 2))


def heap_bytes_of(call: Callable[[], None], times: int) -> int:
    """How much more of the C heap is in use after `call` was made `times` times."""
    information = ctypes.CDLL(None).mallinfo2
    information.restype = _Heap
    for _ in range(50):
        call()
    before = information().used
    for _ in range(times):
        call()
    return int(information().used - before)
