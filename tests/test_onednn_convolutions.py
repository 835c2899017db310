"""Layers described to the real oneDNN: its implementations, their names, their results against float64."""

import random
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from latte_cli.backends.contract import Unsupported
from latte_cli.backends.native.onednn import Library, problem
from latte_cli.backends.native.onednn.geometry import dense_tensor, geometry
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision

pytest_plugins = ["onednn_libraries"]

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/onednn_correctness.py"))
ORDINARY: dict[str, Any] = {"batch": 2, "in_channels": 16, "out_channels": 24, "input": (20, 17), "kernel": (3, 3)}
PLAIN = Convolution(**ORDINARY, pad_before=(1, 1), pad_after=(1, 1))
SPLIT = (Phase.FORWARD, Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 7), (1, 1, 5, 7), (2, 3, 5, 7, 4), (3, 1, 1, 1), (4, 4)])
def test_elements_lie_where_torch_puts_them(shape: tuple[int, ...], layout: Layout) -> None:
    last = layout is Layout.CHANNELS_LAST
    form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape)) if last else None
    tensor = torch.empty(shape, memory_format=form or torch.contiguous_format)
    assert dense_tensor(shape, layout).strides == tensor.stride()


def test_weights_of_groups_have_them_as_a_dimension() -> None:
    layer = Convolution(**{**ORDINARY, "groups": 8}, dilation=(2, 1))
    found = geometry(layer, Phase.FORWARD, Layout.NCHW)
    assert (found.weights.sizes, found.weights.strides) == ((8, 3, 2, 3, 3), (54, 18, 9, 3, 1))
    assert found.dilations == (1, 0)


def test_a_transposed_layer_runs_forward_as_onednns_backward_data() -> None:
    layer = Convolution(**ORDINARY, transposed=True, bias=True)
    assert [PLAIN.computed_as(phase) for phase in SPLIT] == list(SPLIT)
    assert [layer.computed_as(phase) for phase in SPLIT] == [Phase.BACKWARD_DATA, Phase.FORWARD, Phase.BACKWARD_FILTER]
    found = geometry(layer, Phase.FORWARD, Layout.NCHW)
    assert (found.src.sizes, found.dst.sizes, found.bias) == ((2, 24, 22, 19), (2, 16, 20, 17), None)


def needs(library: Library, precision: Precision) -> None:
    """Skip where a version has no bf16, or the processor has nothing to compute it with."""
    if precision is Precision.BF16 and library.major == 2:
        pytest.skip("bf16 needs version 3")
    if precision is Precision.BF16 and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2"):
        pytest.skip("oneDNN computes bf16 with AVX-512")


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("phase", SPLIT)
def test_names_are_unique_and_the_same_each_time(
    onednn: Library, phase: Phase, layout: Layout, precision: Precision
) -> None:
    needs(onednn, precision)
    for seed in range(20):
        layer = BENCHMARK["random_layer"](random.Random(seed))
        with problem(onednn, layer, phase, precision, layout) as described:
            found = described.implementations()
            made = [described.execution(name) for name in found[:3]]
        with problem(onednn, layer, phase, precision, layout) as described:
            assert described.implementations() == found
            assert sorted(described.ranking()) == sorted(found)
        del made
        assert len(set(found)) == len(found)
        assert all(name.isprintable() and " " not in name for name in found)


def test_the_reference_code_is_for_what_nothing_else_computes(onednn: Library) -> None:
    for phase in SPLIT:
        with problem(onednn, PLAIN, phase, Precision.FP32, Layout.NCHW) as described:
            assert not any(name.startswith("ref") for name in described.implementations())


def test_what_writes_where_it_must_not_is_left_out(onednn: Library) -> None:
    strided = Convolution(batch=3, in_channels=1, out_channels=1, input=(6, 2), kernel=(1, 1), stride=(1, 2))
    with problem(onednn, strided, Phase.BACKWARD_FILTER, Precision.FP32, Layout.CHANNELS_LAST) as described:
        names = described.implementations()
    assert names
    assert not any(name.startswith("jit_1x1") and "+reorder" not in name for name in names)
    off = [off for _, _, off in BENCHMARK["errors"](onednn, strided, Precision.FP32, 212)]
    assert max(off) <= 1e-5


def test_an_ordinary_layer_has_a_choice_in_every_phase(onednn: Library) -> None:
    for phase in SPLIT:
        with problem(onednn, PLAIN, phase, Precision.FP32, Layout.NCHW) as described:
            names = described.implementations()
        assert len(names) > 1  # with AVX2 alone there are two
        assert any(name.endswith("+reorder") for name in names) or onednn.major == 2


@pytest.mark.parametrize(("threads", "layers"), [(1, 15), (2, 4)])  # threads wait for each other on a busy machine
@pytest.mark.parametrize(("precision", "most"), [(Precision.FP32, 1e-5), (Precision.BF16, 1e-2)])
def test_every_implementation_that_runs_is_right(
    onednn: Library, precision: Precision, most: float, threads: int, layers: int
) -> None:
    needs(onednn, precision)
    before, seen = torch.get_num_threads(), 0
    torch.set_num_threads(threads)
    try:
        for seed in range(15 * threads, 15 * threads + layers):
            layer = BENCHMARK["random_layer"](random.Random(seed))
            for phase, name, off in BENCHMARK["errors"](onednn, layer, precision, seed):
                assert off <= most, (layer, phase, name)
                seen += off >= 0
    finally:
        torch.set_num_threads(before)
    assert seen > 7 * layers


def test_weights_that_are_reordered_once_take_their_own_memory(onednn: Library) -> None:
    with problem(onednn, PLAIN, Phase.FORWARD, Precision.FP32, Layout.NCHW) as described:
        executions = [described.execution(name) for name in described.implementations()]
    assert any(each.packed_bytes for each in executions)
    assert all(each.workspace_bytes >= each.packed_bytes for each in executions)


def test_a_workspace_that_is_not_given_is_a_fault_of_the_caller(onednn: Library) -> None:
    with problem(onednn, PLAIN, Phase.FORWARD, Precision.FP32, Layout.NCHW) as described:
        executions = [described.execution(name) for name in described.implementations()]
    hungry = next(each for each in executions if each.workspace_bytes)
    x, w, y = (torch.zeros(shape) for shape in (PLAIN.input_shapes[0], PLAIN.weight_shape, PLAIN.output_shape))
    with pytest.raises(ValueError, match=f"a workspace of {hungry.workspace_bytes} bytes is needed"):
        hungry(x.data_ptr(), w.data_ptr(), y.data_ptr())
    with pytest.raises(ValueError, match="no address"):
        hungry(0, w.data_ptr(), y.data_ptr(), 0, x.data_ptr())


def test_an_unknown_name_is_told_with_the_nearest_one(onednn: Library) -> None:
    with problem(onednn, PLAIN, Phase.FORWARD, Precision.FP32, Layout.NCHW) as described:
        name = described.implementations()[0]
        with pytest.raises(LatteError, match=f"unknown implementation of oneDNN's `{name}x`") as raised:
            described.execution(f"{name}x")
    assert raised.value.hint == f"did you mean `{name}`?"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch": 2**15, "in_channels": 2**6, "input": (2**5, 2**5)}, "2\\*\\*31 or more elements"),
        ({"batch": 2**33, "input": (3, 3)}, "2\\*\\*31 or more elements"),
        ({"stride": (2**32 + 1, 1)}, "no number as large as 4294967297"),
        ({"transposed": True, "dilation": (3, 3), "output_padding": (2, 2)}, "dnnl_invalid_arguments"),
    ],
    ids=["2**31 elements", "2**33 images", "stride", "output padding"],
)
def test_what_onednn_cannot_describe_is_unsupported(onednn: Library, values: dict[str, Any], words: str) -> None:
    layer = Convolution(**{**ORDINARY, **values})
    with pytest.raises(Unsupported, match=words):
        problem(onednn, layer, Phase.FORWARD, Precision.FP32, Layout.NCHW).implementations()


def test_other_precisions_and_phases_are_unsupported(onednn: Library) -> None:
    with pytest.raises(Unsupported, match="no fp16 with oneDNN on a CPU"):
        problem(onednn, PLAIN, Phase.FORWARD, Precision.FP16, Layout.NCHW)
    if onednn.major == 2:
        with pytest.raises(Unsupported, match=r"no bf16 with oneDNN 2\.\d+\.\d+; it needs version 3"):
            problem(onednn, PLAIN, Phase.FORWARD, Precision.BF16, Layout.NCHW)
    with pytest.raises(Unsupported, match="no phase update"):
        problem(onednn, PLAIN, Phase.UPDATE, Precision.FP32, Layout.NCHW)
