"""Every convolution algorithm of the CPU agrees with a float64 reference wherever it says that it applies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli.backends.cpu.convolutions import CONVOLUTIONS
from latte_cli.backends.torch.layers import Operands
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Settings

TOLERANCE = 1e-5  # of the magnitudes that are added up: about a hundred roundings of float32


def tensors(layer: Convolution, layout: Layout, dtype: torch.dtype = torch.float32) -> Operands:
    generator = torch.Generator().manual_seed(1)

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        tensor = torch.randn(shape, generator=generator).to(dtype)
        last = layout is Layout.CHANNELS_LAST and tensor.dim() == 4
        return tensor.contiguous(memory_format=torch.channels_last) if last else tensor

    bias = draw((layer.out_channels,)) if layer.bias else None
    return Operands(x=draw(layer.input_shapes[0]), w=draw(layer.weight_shape), b=bias, gy=draw(layer.output_shape))


def reference(layer: Convolution, operands: Operands, magnitudes: bool = False) -> dict[Phase, torch.Tensor]:
    """The three results in float64 by the framework's own convolution and autograd.

    With `magnitudes` every operand's absolute values are taken: each result is then the sum of the magnitudes
    that were added for it, which bounds what float32 may lose there however much of the sum itself cancels
    (N. Higham, Accuracy and Stability of Numerical Algorithms, chapter 3).
    """
    wide = [
        tensor.double().abs() if magnitudes else tensor.double() for tensor in (operands.x, operands.w, operands.gy)
    ]
    x, w = (tensor.contiguous().requires_grad_() for tensor in wide[:2])
    bias = None if operands.b is None else operands.b.double()
    b = bias.abs() if magnitudes and bias is not None else bias
    y = CONVOLUTIONS["DEFAULT"].calls[Phase.FORWARD](layer, Operands(x=x, w=w, b=b, gy=wide[2]))
    gx, gw = torch.autograd.grad(y, [x, w], wide[2])
    return {Phase.FORWARD: y.detach(), Phase.BACKWARD_DATA: gx, Phase.BACKWARD_FILTER: gw}


def check(layer: Convolution, layout: Layout) -> set[tuple[str, Phase]]:
    operands = tensors(layer, layout)
    expected, checked = reference(layer, operands), set()
    sizes = reference(layer, operands, magnitudes=True)
    for name, algorithm in CONVOLUTIONS.items():
        for phase, call in algorithm.calls.items():
            if not algorithm.applies(layer, phase, Settings(layout=layout)):
                continue
            try:
                result = call(layer, operands)
            except RuntimeError as error:  # NNPACK may say no in its own way, which becomes a row
                assert "NNPACK" in str(error), (name, phase, layer)
                continue
            assert result.shape == expected[phase].shape, (name, phase, layer)
            error = (result.double() - expected[phase]).norm() / sizes[phase].norm().clamp_min(1e-30)
            assert error < TOLERANCE, (name, phase, layer, float(error))
            checked.add((name, phase))
    return checked


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (7, 1)]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    stride, dilation = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2]))
    pads = tuple(draw(st.integers(0, size)) for size in kernel)
    try:
        return Convolution(
            batch=draw(st.integers(1, 3)),
            in_channels=groups * draw(st.integers(1, 8)),
            out_channels=groups * draw(st.integers(1, 8)),
            groups=groups,
            input=(draw(st.integers(5, 40)), draw(st.integers(5, 40))),
            kernel=kernel,
            stride=(stride, stride),
            dilation=(dilation, dilation),
            pad_before=pads,
            pad_after=pads if draw(st.booleans()) else tuple(pad + 1 for pad in pads),
            bias=draw(st.booleans()),
        )
    except LatteError:  # the kernel does not fit the input
        return Convolution(batch=1, in_channels=4, out_channels=4, input=(9, 9), kernel=(1, 1))


@settings(max_examples=60, deadline=None)
@given(layer=convolutions(), layout=st.sampled_from(Layout))
def test_algorithms_agree_with_float64_wherever_they_apply(layer: Convolution, layout: Layout) -> None:
    assert ("DEFAULT", Phase.BACKWARD_FILTER) in check(layer, layout)


ORDINARY = {"batch": 2, "in_channels": 8, "out_channels": 12, "input": (40, 37)}
NAMED = [
    Convolution(**ORDINARY, kernel=(3, 3), pad_before=(1, 1), pad_after=(1, 1), bias=True),
    Convolution(**ORDINARY, kernel=(1, 1), stride=(2, 2)),
    Convolution(
        batch=2, in_channels=8, out_channels=8, groups=8, input=(15, 14), kernel=(3, 3), stride=(2, 2),
        pad_before=(1, 1), pad_after=(1, 1), bias=True,
    ),
]  # fmt: skip


def test_each_algorithm_and_phase_is_checked_by_some_layer() -> None:
    checked = {found for layer in NAMED for layout in Layout for found in check(layer, layout)}
    assert checked == {(name, phase) for name, algorithm in CONVOLUTIONS.items() for phase in algorithm.calls}


@pytest.mark.parametrize(
    "layer",
    [
        Convolution(batch=2, in_channels=4, out_channels=6, input=(9,), kernel=(3,), pad_before=(2,), pad_after=(0,)),
        Convolution(batch=2, in_channels=4, out_channels=6, input=(5, 6, 7), kernel=(3, 3, 3)),
        Convolution(
            batch=2, in_channels=4, out_channels=6, input=(9, 9), kernel=(3, 3), stride=(2, 2), transposed=True,
            output_padding=(1, 1), bias=True,
        ),
    ],
    ids=["1d", "3d", "transposed"],
)  # fmt: skip
def test_what_only_the_framework_does_is_left_to_it(layer: Convolution) -> None:
    names = {name for name, _ in check(layer, Layout.NCHW)}
    assert "DEFAULT" in names
    assert names <= {"DEFAULT", "ONEDNN_NCHW"}


def test_bfloat16_runs_what_it_offers_close_to_float64() -> None:
    settings_ = Settings(precision=Precision.BF16)
    for layer in NAMED:
        operands = tensors(layer, Layout.NCHW, torch.bfloat16)
        expected = reference(layer, operands)
        for name, algorithm in CONVOLUTIONS.items():
            for phase, call in algorithm.calls.items():
                if algorithm.applies(layer, phase, settings_):
                    error = (call(layer, operands).double() - expected[phase]).norm() / expected[phase].norm()
                    assert error < 0.02, (name, phase, layer)


def test_the_kernel_that_corrupts_the_heap_is_never_offered() -> None:
    layer = Convolution(batch=2, in_channels=8, out_channels=16, input=(112, 112), kernel=(1, 1), stride=(2, 2))
    rule = CONVOLUTIONS["ONEDNN_NHWC_CVT"]
    assert rule.applies(layer, Phase.FORWARD, Settings())
    assert not rule.applies(layer, Phase.BACKWARD_FILTER, Settings())
