"""Features: complete, finite, the same in every process."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import PACKAGE, made_up_package, printed

from latte_cli.devices import CPU, Device
from latte_cli.features import FEATURES, informative, matrix
from latte_cli.layers import Activation, Convolution, Layer, Linear, MatMul, Norm, Optimizer, Phase, Pool
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Settings

DEVICE = Device(slug="cpu", kind=CPU, name="a CPU", peak_flop_per_s=2e11, bandwidth_bytes_per_s=4e10)
LARGE = 2**39


def column(rows: np.ndarray, name: str) -> list[float]:
    return [float(value) for value in rows[:, FEATURES.index(name)]]


def convolution(**changes: object) -> Convolution:
    sizes = {
        "batch": 8,
        "in_channels": 16,
        "out_channels": 40,
        "input": (14, 14),
        "kernel": (3, 3),
        "pad_before": (1, 1),
    }
    return Convolution(**{**sizes, "pad_after": (1, 1), **changes})


def test_names_are_unique() -> None:
    assert len(set(FEATURES)) == len(FEATURES)


def test_the_peak_is_that_of_the_precision() -> None:
    device = replace(DEVICE, peaks_flop_per_s=(("bf16", 8e14), ("fp32", 5e13)), multiprocessors=132)
    pair = (convolution(), Phase.FORWARD)
    asked = [Settings(precision=precision) for precision in (Precision.FP32, Precision.BF16, Precision.FP16)]
    rows = matrix([pair] * 3, asked, device)
    assert np.exp2(column(rows, "log_peak")) == pytest.approx([5e13, 8e14, 2e11], rel=1e-5)
    assert np.exp2(column(rows, "log_multiprocessors")) == pytest.approx([132] * 3)
    assert np.isnan(column(rows, "log_rated_bandwidth")).all()


def test_columns_that_tell_nothing_apart_are_not_drawn() -> None:
    rows = matrix([(convolution(), Phase.FORWARD), (convolution(batch=9), Phase.FORWARD)], Settings(), DEVICE)
    drawn = {name for name, weight in zip(FEATURES, informative(rows), strict=True) if weight}
    assert "log_batch" in drawn
    assert drawn.isdisjoint({"log_peak", "log_rated_bandwidth", "kind"})
    assert informative(rows[:1]).all()


def test_no_layers_make_no_rows() -> None:
    assert matrix([], Settings(), DEVICE).shape == (0, len(FEATURES))


def test_a_convolution_is_described_by_the_matrix_product_of_its_phase() -> None:
    rows = matrix([(convolution(), phase) for phase in Convolution.phases], Settings(), DEVICE)
    m, n, k = (np.exp2(column(rows, f"log_gemm_{axis}")).round().astype(int).tolist() for axis in "mnk")
    assert list(zip(m, n, k, strict=True)) == [(1568, 40, 144), (1568, 144, 40), (40, 144, 1568)]


def test_forward_of_a_transposed_convolution_is_backward_data_of_the_other() -> None:
    straight = convolution(stride=(2, 2), kernel=(4, 4))
    back = convolution(
        in_channels=40, out_channels=16, input=straight.output, stride=(2, 2), kernel=(4, 4), transposed=True
    )
    assert back.output == straight.input
    rows = matrix([(straight, Phase.BACKWARD_DATA), (back, Phase.FORWARD)], Settings(), DEVICE)
    for name in ("log_gemm_m", "log_gemm_n", "log_gemm_k", "log_im2col", "log_flops"):
        first, second = column(rows, name)
        assert first == second, name


def test_settings_and_device_have_their_columns() -> None:
    pair = (convolution(), Phase.FORWARD)
    one = Settings(threads=2)
    other = Settings(threads=1, precision=Precision.BF16, layout=Layout.CHANNELS_LAST)
    rows = matrix([pair, pair], [one, other], DEVICE)
    assert column(rows, "threads") == [2, 1]
    assert len(set(column(rows, "layout"))) == len(set(column(rows, "precision"))) == 2
    wide, narrow = column(rows, "log_bytes")
    assert wide - narrow == pytest.approx(1)
    unknown = Device(slug="x", kind=CPU, name="x")
    assert np.isnan(column(matrix([pair], one, unknown), "log_compute_s")).all()


def test_only_convolutions_have_kernels() -> None:
    layers = [
        Norm(shape=(8, 16, 4, 4), function="batch"),
        Pool(function="max", batch=8, channels=16, input=(8, 8), kernel=(2, 2)),
        Linear(rows=8, in_features=10, out_features=20),
        Activation(shape=(8,), function="of another library"),
    ]
    rows = matrix([(layer, Phase.FORWARD) for layer in layers], Settings(), DEVICE)
    assert np.isnan(column(rows, "kernel_1")).all()
    assert np.isfinite(rows[:, : FEATURES.index("log_gemm_m")][:2, [0, 2, 3, 6, 7, 9]]).all()
    assert column(rows, "log_reduction")[:3] == pytest.approx([np.log2(128), 2, np.log2(10)])


@pytest.mark.parametrize(
    "layer",
    [
        Convolution(batch=LARGE, in_channels=LARGE, out_channels=LARGE, input=(LARGE,) * 3, kernel=(2**20,) * 3),
        Linear(rows=LARGE, in_features=LARGE, out_features=LARGE),
        MatMul(batch=LARGE, m=LARGE, k=LARGE, n=LARGE),
        Optimizer(function="adam", tensors=LARGE, elements=LARGE),
    ],
    ids=lambda layer: layer.kind,
)
def test_the_largest_layers_stay_finite(layer: Layer) -> None:
    assert not np.isinf(matrix([(layer, phase) for phase in layer.phases], Settings(), DEVICE)).any()


@given(
    batch=st.integers(1, 512),
    channels=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    groups=st.integers(1, 8),
    spatial=st.lists(st.tuples(st.integers(7, 64), st.integers(1, 7)), min_size=1, max_size=3),
    transposed=st.booleans(),
)
def test_every_convolution_has_the_features_of_its_rank(
    batch: int, channels: tuple[int, int], groups: int, spatial: list[tuple[int, int]], transposed: bool
) -> None:
    layer = Convolution(
        batch=batch,
        in_channels=channels[0] * groups,
        out_channels=channels[1] * groups,
        groups=groups,
        input=tuple(size for size, _ in spatial),
        kernel=tuple(size for _, size in spatial),
        transposed=transposed,
    )
    rows = matrix([(layer, phase) for phase in layer.phases], Settings(threads=1), DEVICE)
    stated = {"log_memory", "log_multiprocessors", "log_cache", "log_clock", "log_memory_clock", "log_rated_bandwidth"}
    absent = {name for name in FEATURES if np.isnan(column(rows, name)).any()} - {"function", *stated}
    assert absent == {name for name in FEATURES if name[-2:] in ("_1", "_2", "_3") and int(name[-1]) > len(spatial)}


def test_another_process_makes_the_same_numbers() -> None:
    code = (
        "from latte_cli.features import matrix; from latte_cli.devices import CPU, Device;"
        "from latte_cli.tasks import Settings; from latte_cli.layers import Norm, Phase;"
        "norm = Norm(shape=(8, 16, 4, 4), function='batch');"
        "print(matrix([(norm, Phase.BACKWARD)], Settings(), Device(slug='x', kind='cpu', name='x')).tobytes().hex())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    norm = Norm(shape=(8, 16, 4, 4), function="batch")
    here = matrix([(norm, Phase.BACKWARD)], Settings(), Device(slug="x", kind=CPU, name="x"))
    assert ran.stdout.strip() == here.tobytes().hex()


FEATURES_OF_ALL = """
from every_layer import every_layer
from latte_cli.devices import CPU, Device
from latte_cli.features import matrix
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Settings

pairs = [(layer, phase) for layer in every_layer() for phase in layer.phases]
device = Device(slug="x", kind=CPU, name="x", peak_flop_per_s=2e11, bandwidth_bytes_per_s=4e10)
for precision in sorted(set(Precision) - {"made_up"}):
    for layout in Layout:
        print(precision, layout, matrix(pairs, Settings(precision=precision, layout=layout), device).tobytes().hex())
"""


def test_a_kind_and_a_precision_in_the_middle_move_no_features_of_the_others(tmp_path: Path) -> None:
    assert printed(made_up_package(tmp_path), FEATURES_OF_ALL) == printed(PACKAGE.parent, FEATURES_OF_ALL)
