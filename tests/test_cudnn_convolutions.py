"""Layers described to the real cuDNN: shapes, algorithms, refusals, the reading of its results; no GPU is needed."""

import random
import struct
from collections import Counter
from typing import Any

import pytest

from latte_cli.algorithms import Algorithm
from latte_cli.backends.contract import Unsupported
from latte_cli.backends.native.cudnn import ALGORITHMS, Library, algorithms, problem
from latte_cli.backends.native.cudnn.convolutions import operand_shapes, performance_rows, sane_workspace
from latte_cli.backends.native.cudnn.signatures import BackwardData, BackwardFilter, Forward, Math
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision

pytest_plugins = ["cudnn_libraries"]

ORDINARY: dict[str, Any] = {"batch": 2, "in_channels": 8, "out_channels": 12, "input": (40, 37), "kernel": (3, 3)}
PLAIN = Convolution(**ORDINARY, stride=(2, 2))
TRANSPOSED = Convolution(**ORDINARY, stride=(2, 2), transposed=True, output_padding=(1, 1))
SPLIT = (Phase.FORWARD, Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER)
ALGO_1 = Algorithm(library="cudnn", name="ALGO_1", vendor_id=1)


def random_layer(dice: random.Random, rank: int, *, transposed: bool = False) -> Convolution:
    """A layer whose sizes are all drawn, but that has an output."""
    largest = 60 if rank < 3 else 16
    while True:
        groups = dice.choice([1, 1, 1, 2, 3, 8])
        kernel, stride, dilation, pad = (
            tuple(dice.randint(least, most) for _ in range(rank)) for least, most in ((1, 7), (1, 4), (1, 3), (0, 4))
        )
        try:
            return Convolution(
                batch=dice.randint(1, 16),
                in_channels=groups * dice.randint(1, 20),
                out_channels=groups * dice.randint(1, 20),
                groups=groups,
                input=tuple(dice.randint(1, largest) for _ in range(rank)),
                kernel=kernel,
                stride=stride,
                dilation=dilation,
                pad_before=pad,
                pad_after=pad,
                transposed=transposed,
                output_padding=tuple(dice.randrange(step) for step in stride) if transposed else (),
            )
        except LatteError:  # the kernel does not fit the input
            continue


@pytest.mark.parametrize(("rank", "count"), [(2, 3000), (1, 400), (3, 400)])
def test_cudnn_computes_the_output_shape_of_the_closed_form(cudnn: Library, rank: int, count: int) -> None:
    dice = random.Random(rank)
    for _ in range(count):
        layer = random_layer(dice, rank)
        with problem(cudnn, layer, dice.choice(list(Precision)), dice.choice(list(Layout))) as described:
            height = (1,) if rank == 1 else ()
            expected = (layer.batch, layer.out_channels, *height, *layer.output)
            assert described.output_dim == expected, layer


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_cudnn_computes_the_input_shape_of_a_transposed_layer(cudnn: Library, rank: int) -> None:
    dice = random.Random(rank)
    for _ in range(300):
        layer = random_layer(dice, rank, transposed=True)
        with problem(cudnn, layer, Precision.FP32, Layout.NCHW) as described:
            assert described.output_dim[:2] == (layer.batch, layer.in_channels)
            assert described.output_dim[-rank:] == layer.input, layer


def test_a_transposed_layer_has_its_tensors_swapped() -> None:
    assert operand_shapes(TRANSPOSED) == {"x": (2, 12, 82, 76), "w": (8, 12, 3, 3), "y": (2, 8, 40, 37)}
    assert operand_shapes(PLAIN) == {"x": (2, 8, 40, 37), "w": (12, 8, 3, 3), "y": (2, 12, 19, 18)}


def test_a_transposed_layer_runs_forward_as_cudnns_backward_data() -> None:
    assert [PLAIN.computed_as(phase) for phase in SPLIT] == list(SPLIT)
    swapped = [Phase.BACKWARD_DATA, Phase.FORWARD, Phase.BACKWARD_FILTER]
    assert [TRANSPOSED.computed_as(phase) for phase in SPLIT] == swapped
    assert [algorithms(TRANSPOSED, phase) for phase in SPLIT] == [ALGORITHMS[phase] for phase in swapped]


@pytest.mark.parametrize(
    ("phase", "numbers"),
    [(Phase.FORWARD, Forward), (Phase.BACKWARD_DATA, BackwardData), (Phase.BACKWARD_FILTER, BackwardFilter)],
)
def test_algorithms_are_those_of_the_enum(phase: Phase, numbers: type[Forward]) -> None:
    assert [(found.name, found.vendor_id) for found in ALGORITHMS[phase]] == [
        (each.name, each.value) for each in numbers
    ]
    assert {found.library for found in ALGORITHMS[phase]} == {"cudnn"}
    assert [found.vendor_id for found in ALGORITHMS[phase]] == list(range(len(numbers)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pad_before": (1, 1), "pad_after": (1, 2)}, "pads both sides alike"),
        ({"batch": 2**15, "in_channels": 2**6, "input": (2**5, 2**5)}, "2\\*\\*31 or more elements"),
        ({"batch": 2**33, "input": (3, 3)}, "2\\*\\*31 or more elements"),
        ({"stride": (2**32 + 1, 1)}, "no number as large as 4294967297"),
        ({"transposed": True, "dilation": (3, 3), "output_padding": (2, 2)}, "cuDNN computes an output of"),
    ],
    ids=["padding", "2**31 elements", "2**33 images", "stride", "output padding"],
)
def test_what_cudnn_cannot_describe_is_unsupported(cudnn: Library, values: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        problem(cudnn, Convolution(**{**ORDINARY, **values}), Precision.FP32, Layout.NCHW)


def test_the_largest_tensor_is_described(cudnn: Library) -> None:
    layer = Convolution(batch=1, in_channels=1, out_channels=1, input=(1, 2**31 - 1), kernel=(1, 1))
    with problem(cudnn, layer, Precision.FP32, Layout.NCHW) as described:
        assert described.output_dim == layer.output_shape


@pytest.mark.parametrize("phase", SPLIT)
def test_an_unknown_algorithm_is_told_by_name(cudnn: Library, phase: Phase) -> None:
    wrong = Algorithm(library="cudnn", name="WINOGRAD_NONFUZED")
    with (
        problem(cudnn, PLAIN, Precision.FP32, Layout.NCHW) as described,
        pytest.raises(LatteError, match=r"`WINOGRAD_NONFUZED`") as raised,
    ):
        described.workspace_bytes(0, phase, wrong)
    assert raised.value.hint == "did you mean `WINOGRAD_NONFUSED`?"


@pytest.mark.parametrize("layer", [PLAIN, TRANSPOSED], ids=["plain", "transposed"])
@pytest.mark.parametrize("phase", SPLIT)
def test_without_a_handle_every_call_is_refused_by_its_name(cudnn: Library, layer: Convolution, phase: Phase) -> None:
    word = {"forward": "Forward", "backward_data": "BackwardData", "backward_filter": "BackwardFilter"}
    name = f"Convolution{word[layer.computed_as(phase)]}"
    algorithm = algorithms(layer, phase)[1]
    with problem(cudnn, layer, Precision.FP16, Layout.CHANNELS_LAST) as described:
        with pytest.raises(Unsupported, match=f"^cudnnGet{name}WorkspaceSize: CUDNN_STATUS_BAD_PARAM"):
            described.workspace_bytes(0, phase, algorithm)
        with pytest.raises(Unsupported, match=f"^cudnn{name}: CUDNN_STATUS_BAD_PARAM"):
            described.bind(0, phase, algorithm, x=256, w=512, y=768, workspace=1024, workspace_bytes=8)()


def test_a_bound_call_can_be_repeated(cudnn: Library) -> None:
    with problem(cudnn, PLAIN, Precision.FP32, Layout.NCHW) as described:
        call = described.bind(0, Phase.BACKWARD_FILTER, ALGO_1, x=256, w=512, y=768)
        for _ in range(3):
            with pytest.raises(Unsupported, match=r"^cudnnConvolutionBackwardFilter: CUDNN_STATUS_BAD_PARAM"):
                call()


def test_workspaces_of_a_tebibyte_are_a_no() -> None:
    assert sane_workspace(2**40 - 1, ALGO_1) == 2**40 - 1
    with pytest.raises(Unsupported, match="ALGO_1 wants a workspace of 1099511627776 bytes"):
        sane_workspace(2**40, ALGO_1)


def row(number: int, status: int, time_ms: float, memory: int, determinism: int, math: int) -> bytes:
    return struct.pack("<iifxxxxQii16x", number, status, time_ms, memory, determinism, math)


# Written by a C program, compiled with cudnn.h of 9.28.1, from an array of three cudnnConvolutionFwdAlgoPerf_t.
ROWS = bytes.fromhex(
    "01000000000000000000003f000000000009000000000000010000000300000000000000000000000000000000000000"
    "0700000000000000000080bf000000000000c80d00000000010000000100000000000000000000000000000000000000"
    "06000000b80b0000000080bf000000000000000000000000000000000000000000000000000000000000000000000000"
)


def test_the_rows_of_a_result_are_read_in_their_order() -> None:
    assert row(1, 0, 0.5, 2304, 1, 3) + row(7, 0, -1.0, 231211008, 1, 1) + row(6, 3000, -1.0, 0, 0, 0) == ROWS
    first, second, third = performance_rows(Phase.FORWARD, ROWS)
    assert [str(each.algorithm) for each in (first, second, third)] == [
        "IMPLICIT_PRECOMP_GEMM",
        "WINOGRAD_NONFUSED",
        "WINOGRAD",
    ]
    assert (first.time_s, second.time_s, third.time_s) == (0.0005, None, None)
    assert (first.workspace_bytes, second.workspace_bytes) == (2304, 231211008)
    assert (first.math, second.math, third.math) == ("FMA", "TENSOR_OP", "DEFAULT")
    assert (first.status_ok, third.status_ok) == (True, False)
    assert (first.status, third.status) == ("CUDNN_STATUS_SUCCESS", "CUDNN_STATUS_NOT_SUPPORTED")
    assert (first.deterministic, third.deterministic) == (True, False)


def test_the_numbers_of_a_result_are_those_of_its_operation() -> None:
    data = row(3, 0, 1.0, 0, 1, 0)
    assert [str(performance_rows(phase, data)[0].algorithm) for phase in SPLIT] == ["DIRECT", "FFT_TILING", "ALGO_3"]


def test_a_number_that_nobody_knows_yet_is_kept() -> None:
    (found,) = performance_rows(Phase.BACKWARD_DATA, row(42, 0, 1.0, 2**40, 1, max(Math) + 1))
    assert found.algorithm == Algorithm(library="cudnn", name="ALGORITHM_42", vendor_id=42)
    assert (found.workspace_bytes, found.math) == (2**40, "4")
    assert performance_rows(Phase.FORWARD, b"") == ()


def test_random_layers_are_of_every_kind() -> None:
    dice = random.Random(2)
    layers = [random_layer(dice, 2) for _ in range(500)]
    kinds = Counter((layer.groups > 1, max(layer.stride) > 1, max(layer.dilation) > 1) for layer in layers)
    assert len(kinds) == 8
