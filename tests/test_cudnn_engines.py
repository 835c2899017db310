"""cuDNN's backend API on the real library of versions 8 and 9: descriptors hold what was set; what needs a GPU says so.

Version 9 fixes no descriptor without NVIDIA's driver library: tests/test_engines.py asks it in separate processes.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.backends.native.cudnn import EngineTarget, graph
from latte_cli.backends.native.cudnn.attributes import Attribute, DescriptorKind, Type
from latte_cli.backends.native.cudnn.engines import BackendDescriptor
from latte_cli.backends.native.cudnn.library import Library
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision

pytest_plugins = ["cudnn_libraries"]

PLAIN = Convolution(
    batch=32, in_channels=64, out_channels=128, input=(56, 56), kernel=(3, 3), pad_before=(1, 1), pad_after=(1, 1)
)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def tensor(
    cudnn: Library, stack: ExitStack, uid: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> BackendDescriptor:
    if cudnn.version >= (9, 0, 0):
        pytest.skip("version 9 looks for the driver")
    made = stack.enter_context(BackendDescriptor(cudnn, DescriptorKind.TENSOR))
    made.set(Attribute.TENSOR_UNIQUE_ID, Type.INT64, uid)
    made.set(Attribute.TENSOR_DATA_TYPE, Type.DATA_TYPE, 0)
    made.set(Attribute.TENSOR_BYTE_ALIGNMENT, Type.INT64, 16)
    made.set(Attribute.TENSOR_DIMENSIONS, Type.INT64, *shape)
    return made.set(Attribute.TENSOR_STRIDES, Type.INT64, *strides).finalize()


def test_a_tensor_holds_what_was_set(cudnn: Library, stack: ExitStack) -> None:
    made = tensor(cudnn, stack, 7, (2, 3, 4, 5), (60, 1, 15, 3))
    assert made.get(Attribute.TENSOR_UNIQUE_ID, Type.INT64) == [7]
    assert made.get(Attribute.TENSOR_DIMENSIONS, Type.INT64, 8) == [2, 3, 4, 5]
    assert made.get(Attribute.TENSOR_STRIDES, Type.INT64, 8) == [60, 1, 15, 3]


def test_what_is_fixed_cannot_be_set_and_what_is_missing_cannot_be_fixed(cudnn: Library, stack: ExitStack) -> None:
    made = tensor(cudnn, stack, 7, (2, 3, 4), (12, 4, 1))
    with pytest.raises(Failed, match="cudnnBackendSetAttribute: CUDNN_STATUS_"):
        made.set(Attribute.TENSOR_UNIQUE_ID, Type.INT64, 8)
    with pytest.raises(Failed, match="cudnnBackendFinalize: CUDNN_STATUS_"):
        stack.enter_context(BackendDescriptor(cudnn, DescriptorKind.TENSOR)).finalize()
    with pytest.raises((Failed, OutOfMemory), match="cudnnBackendCreateDescriptor: CUDNN_STATUS_"):
        BackendDescriptor(cudnn, 9999)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", Convolution.phases)
def test_each_operation_takes_its_tensors(cudnn: Library, stack: ExitStack, phase: Phase) -> None:
    x = tensor(cudnn, stack, 1, (2, 8, 9, 9), (648, 81, 9, 1))
    w = tensor(cudnn, stack, 2, (4, 8, 3, 3), (72, 9, 3, 1))
    y = tensor(cudnn, stack, 3, (2, 4, 5, 4), (80, 20, 4, 1))
    convolution = stack.enter_context(BackendDescriptor(cudnn, DescriptorKind.CONVOLUTION))
    convolution.set(Attribute.CONVOLUTION_COMP_TYPE, Type.DATA_TYPE, 0)
    convolution.set(Attribute.CONVOLUTION_CONV_MODE, Type.CONVOLUTION_MODE, 1)
    convolution.set(Attribute.CONVOLUTION_SPATIAL_DIMS, Type.INT64, 2)
    convolution.set(Attribute.CONVOLUTION_DILATIONS, Type.INT64, 1, 1)
    convolution.set(Attribute.CONVOLUTION_FILTER_STRIDES, Type.INT64, 2, 2)
    convolution.set(Attribute.CONVOLUTION_PRE_PADDINGS, Type.INT64, 1, 0)
    convolution.set(Attribute.CONVOLUTION_POST_PADDINGS, Type.INT64, 1, 0)
    convolution.finalize()
    assert convolution.get(Attribute.CONVOLUTION_FILTER_STRIDES, Type.INT64, 4) == [2, 2]
    described = stack.enter_context(BackendDescriptor(cudnn, DescriptorKind[phase.name]))
    for name, made in {"X": x, "W": w, "Y": y, "CONV_DESC": convolution}.items():
        described.set(Attribute[f"{phase.name}_{name}"], Type.BACKEND_DESCRIPTOR, made)
    described.set(Attribute[f"{phase.name}_ALPHA"], Type.FLOAT, 1.0)
    described.set(Attribute[f"{phase.name}_BETA"], Type.FLOAT, 0.0).finalize()
    assert described.get(Attribute[f"{phase.name}_ALPHA"], Type.FLOAT) == [1.0]


def test_without_a_handle_or_properties_there_is_no_graph(cudnn: Library) -> None:
    with pytest.raises(Failed, match="cudnnBackendFinalize: CUDNN_STATUS_"):
        graph(EngineTarget(cudnn), PLAIN, Phase.FORWARD, Precision.FP32, Layout.NCHW)


def test_what_cudnn_cannot_describe_is_unsupported(cudnn: Library) -> None:
    uneven = Convolution(batch=1, in_channels=1, out_channels=1, input=(5, 5), kernel=(3, 3), pad_before=(1, 0))
    with pytest.raises(Unsupported, match="pads both sides alike"):
        graph(EngineTarget(cudnn), uneven, Phase.FORWARD, Precision.FP32, Layout.NCHW)


def test_a_device_that_is_not_here_needs_a_newer_library(cudnn: Library) -> None:
    if cudnn.version < (9, 8, 0):
        with pytest.raises(Unsupported, match=r"knows no device that is not here; 9\.8\.0 does"):
            EngineTarget(cudnn, json="{}")
